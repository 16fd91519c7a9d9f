"""Extremes of the pre-activations of R runs, Jumpstart's penalty of them, and its gradient, all without autograd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regx.regularizers.jumpstart import MODES, Jumpstart
from regx.training.vectorised.status import Extremes

# Above this width torch's own reduction finds the extreme of a point faster than a loop over units.
_LOOP_WIDTH = 32


@dataclass(frozen=True)
class Terms:
    """Jumpstart's options, as far as they are numbers.

    Attributes:
        kept: weights of the constraints: unit positive, unit negative, point positive, point negative.
        margins: value that the largest must reach, and the negative of the one that the smallest must reach.
        aggr: balanced, mean, norm or sum.
        average: whether equal extremes share the gradient; else the first has it.
    """

    kept: tuple[float, float, float, float]
    margins: tuple[float, float]
    aggr: str
    average: bool

    @classmethod
    def of(cls, jumpstart: Jumpstart) -> Terms:
        """Those of a regularizer."""
        rho = (jumpstart.sign_balance, 1 - jumpstart.sign_balance) * 2
        kept = [rho[i] if keep else 0.0 for i, keep in enumerate(MODES[jumpstart.mode])]
        margins = (jumpstart.positive_margin, -jumpstart.negative_margin)
        average = jumpstart.preactivations.tie_breaking == "average"
        return cls((kept[0], kept[1], kept[2], kept[3]), margins, jumpstart.aggr, average)

    def weights(self, units: int, points: int) -> list[float]:
        """Weight of each of the four constraints in the loss.

        Args:
            units: of all layers.
            points: rows times layers.
        """
        units, points = units * any(self.kept[:2]), points * any(self.kept[2:])
        counts = {"balanced": (units, points), "mean": (units + points,) * 2}.get(self.aggr, (1, 1))
        return [kept / counts[i // 2] if kept else 0.0 for i, kept in enumerate(self.kept)]


@dataclass(frozen=True)
class Layers:
    """Pre-activations of L layers of the same width, of R runs, (L, R, C, B).

    Attributes:
        high: the largest of them are looked for here.
        low: the smallest of them; another tensor only where a unit has several values of a point (images): then they
            are the largest and the smallest of these.
    """

    high: Tensor
    low: Tensor


@dataclass(frozen=True)
class Found:
    """Extremes of a stack of layers, and where they are.

    Attributes:
        extremes: their values.
        places: for each of unit max, unit min, point max, point min what `_add` needs; empty without gradients.
    """

    extremes: Extremes
    places: tuple[Tensor, ...] = ()


def find(x: Layers, *, places: bool, average: bool = False) -> Found:
    """Extremes of a stack of layers.

    Args:
        x: pre-activations.
        places: whether the places of the extremes are needed, for a gradient.
        average: whether all of several equal extremes count; else the first does.
    """
    if not places or average:
        return Found(Extremes(x.high.amax(3), x.low.amin(3), x.high.amax(2), x.low.amin(2)))
    unit_max, unit_min = x.high.max(3), x.low.min(3)
    (point_max, at_max), (point_min, at_min) = _first(x.high, largest=True), _first(x.low, largest=False)
    extremes = Extremes(unit_max.values, unit_min.values, point_max, point_min)
    return Found(extremes, (unit_max.indices, unit_min.indices, at_max, at_min))


def _first(x: Tensor, *, largest: bool) -> tuple[Tensor, Tensor]:
    """Extreme (L, R, B) over the units and the first unit with it: a float up to `_LOOP_WIDTH` units, else int64."""
    width = x.shape[2]
    if width > _LOOP_WIDTH:
        return tuple(x.max(2) if largest else x.min(2))  # type: ignore[return-value]
    value, at = x[:, :, 0].clone(), torch.zeros_like(x[:, :, 0])
    better, beyond = torch.empty_like(value), torch.empty_like(value)
    for unit in range(1, width):
        of_unit = x[:, :, unit]
        (torch.gt if largest else torch.lt)(of_unit, value, out=better)
        # Units come in ascending order, so the last one that was better has the largest number.
        torch.maximum(at, torch.mul(better, unit, out=beyond), out=at)
        (torch.maximum if largest else torch.minimum)(value, of_unit, out=value)
    return value, at


def loss(stacks: Sequence[Found], terms: Terms) -> tuple[Tensor, list[list[Tensor]]]:
    """Jumpstart's loss (R,), and its derivative in each of the four tables of extremes of every stack.

    Args:
        stacks: the layers, by equal width.
        terms: options.
    """
    units = sum(s.extremes.unit_max.shape[0] * s.extremes.unit_max.shape[2] for s in stacks)
    points = sum(s.extremes.point_max.shape[0] * s.extremes.point_max.shape[2] for s in stacks)
    weights = terms.weights(units, points)
    violations = [
        [
            F.relu(terms.margins[0] - stack.extremes.unit_max),
            F.relu(terms.margins[1] + stack.extremes.unit_min),
            F.relu(terms.margins[0] - stack.extremes.point_max),
            F.relu(terms.margins[1] + stack.extremes.point_min),
        ]
        for stack in stacks
    ]
    signs = (-1.0, 1.0, -1.0, 1.0)
    if terms.aggr != "norm":
        value = sum(weight * _by_run(v) for four in violations for weight, v in zip(weights, four, strict=True))
        return value, [  # type: ignore[return-value]
            [torch.sign(v).mul_(sign * weight) for v, sign, weight in zip(four, signs, weights, strict=True)]
            for four in violations
        ]
    sides = [[weights[i] * four[i] + weights[i + 1] * four[i + 1] for i in (0, 2)] for four in violations]
    value = sum(_by_run(side.square()) for two in sides for side in two).sqrt()  # type: ignore[union-attr]
    inverse = torch.where(value > 0, 1 / value, 0).view(1, -1, 1)
    slopes = [
        [
            torch.sign(v) * (sign * weights[i]) * (two[i // 2] * inverse)
            for i, (v, sign) in enumerate(zip(four, signs, strict=True))
        ]
        for four, two in zip(violations, sides, strict=True)
    ]
    return value, slopes


def _by_run(x: Tensor) -> Tensor:
    """(R,) sums of (L, R, K): row by row of a copy, so that no run's sum depends on how many there are."""
    return x.transpose(0, 1).flatten(1).sum(1)


def add_gradient(
    into: Layers, x: Layers, found: Found, slopes: Sequence[Tensor], strengths: Tensor, terms: Terms
) -> None:
    """Adds the gradient of `strength * loss` to `into`.

    Args:
        into: changed in place.
        x: the pre-activations.
        found: their extremes.
        slopes: derivatives of the loss in the four tables of extremes.
        strengths: (R,) of every run.
        terms: options.
    """
    factor = strengths.view(1, -1, 1)
    e = found.extremes
    for i in (0, 2, 1, 3):  # in pairs, so that opposite gradients on one place (a tie of all values) cancel exactly
        if not terms.kept[i]:
            continue
        gradient, dim = slopes[i] * factor, 3 if i < 2 else 2
        values, to = (x.low, into.low) if i % 2 else (x.high, into.high)
        if terms.average:
            value = (e.unit_max, e.unit_min, e.point_max, e.point_min)[i]
            same = (values == value.unsqueeze(dim)).to(values.dtype)
            to.addcmul_(same, (gradient / same.sum(dim)).unsqueeze(dim))
        elif not found.places[i].is_floating_point():
            to.scatter_add_(dim, found.places[i].unsqueeze(dim), gradient.unsqueeze(dim))
        else:
            here = torch.empty_like(gradient)
            for unit in range(values.shape[2]):
                to[:, :, unit].addcmul_(torch.eq(found.places[i], unit, out=here), gradient)


def clipped(value: Tensor, strengths: Tensor, clips: Tensor | None) -> tuple[Tensor, Tensor]:
    """The loss as it counts, and the strengths of its gradient: none where the loss is above its clip."""
    if clips is None:
        return value, strengths
    clips = clips.to(value.dtype)
    return value.clamp(max=clips), torch.where(value <= clips, strengths, 0)
