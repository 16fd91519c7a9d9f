"""Unit and point status of R runs at once: the numbers of `regx.training.status`, each with a run axis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regx.training.vectorised.native import STATUS as SUMS

# Extremes wait, unreduced, until this many numbers lie there: many small batches cost one reduction together.
_WAITING_LIMIT = 2**22


@dataclass(frozen=True)
class Extremes:
    """Largest and smallest pre-activations of L layers of the same width, of R runs.

    Attributes:
        unit_max, unit_min: (L, R, C).
        point_max, point_min: (L, R, N).
    """

    unit_max: Tensor
    unit_min: Tensor
    point_max: Tensor
    point_min: Tensor


@dataclass
class Statuses:
    """Sums over the batches of an epoch.

    Attributes:
        positions: of the layers of every group of equal width, in the order of the forward pass.
        widths: of these groups.
        updates: batches.
        points: rows.
        sums: (R, 10) float64, in the order of `SUMS`.
        ever_positive, ever_nonpositive: (R, U) bool; whether a unit had such an extreme in some batch.
    """

    positions: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...]
    updates: int = 0
    points: int = 0
    sums: Tensor | None = None
    ever_positive: Tensor | None = None
    ever_nonpositive: Tensor | None = None
    _waiting: list[list[Extremes]] = field(default_factory=list, init=False)
    _waiting_numbers: int = field(default=0, init=False)

    def add(self, batch: list[Extremes]) -> None:
        """Takes a batch: the extremes of every group of layers."""
        self.updates += 1
        self.points += batch[0].point_max.shape[2]
        self._waiting.append(batch)
        self._waiting_numbers += sum(2 * (e.unit_max.numel() + e.point_max.numel()) for e in batch)
        if self._waiting_numbers > _WAITING_LIMIT:
            self.reduce()

    def reduce(self) -> None:
        """Folds the waiting extremes into the sums."""
        if not self._waiting:
            return
        by_run = []
        positive, nonpositive, highs, lows = [], [], [], []
        for batches in zip(*self._waiting, strict=True):
            unit_max = torch.stack([batch.unit_max for batch in batches])  # (updates, L, R, C)
            unit_min = torch.stack([batch.unit_min for batch in batches])
            by_run.append([_sum(F.relu(1 - unit_max), 2), _sum(F.relu(1 + unit_min), 2)])
            positive.append((unit_max > 0).any(0).transpose(0, 1).flatten(1))
            nonpositive.append((unit_min <= 0).any(0).transpose(0, 1).flatten(1))
            highs.append(torch.cat([batch.point_max for batch in batches], 2))  # (L, R, points)
            lows.append(torch.cat([batch.point_min for batch in batches], 2))
        self._waiting, self._waiting_numbers = [], 0
        units = [sum(parts) for parts in zip(*by_run, strict=True)]
        sums = torch.stack([*units, *self._of_points(torch.cat(highs), torch.cat(lows))], 1)  # type: ignore[list-item]
        ever = torch.cat(positive, 1), torch.cat(nonpositive, 1)
        if self.sums is None or self.ever_positive is None or self.ever_nonpositive is None:
            self.sums, (self.ever_positive, self.ever_nonpositive) = sums, ever
        else:
            self.sums = self.sums + sums
            self.ever_positive, self.ever_nonpositive = self.ever_positive | ever[0], self.ever_nonpositive | ever[1]

    def _of_points(self, point_max: Tensor, point_min: Tensor) -> list[Tensor]:
        """The sums of points (R,), of (layers, R, points) with the layers in the order of the groups."""
        # Numbers 0 and 1 in the place of truth values, which PyTorch is slow to sum up.
        dead, linear = torch.empty_like(point_max), torch.empty_like(point_min)
        torch.le(point_max, 0, out=dead)
        torch.gt(point_min, 0, out=linear)
        positions = [position for group in self.positions for position in group]
        order = torch.tensor(positions, dtype=dead.dtype, device=dead.device)
        cells = [_sum(dead, 1), _sum(linear, 1)]
        # A point is cut off up to its last dead layer; layer numbers count from 1, so 0 means nowhere dead.
        last_dead = dead.mul_((order + 1).view(-1, 1, 1)).amax(0)
        least = point_max.amin(0)
        counts = (
            (least <= 0).sum(1).double(),
            (point_min.amin(0) > 0).sum(1).double(),
            ((least > 0) & (point_min.amax(0) <= 0)).sum(1).double(),
            *cells,
            (len(positions) - last_dead).double().sum(1),
        )
        return [_sum(F.relu(1 - point_max), 1), _sum(F.relu(1 + point_min), 1), *counts]

    @classmethod
    def joined(cls, states: list[dict[str, Any]]) -> Statuses:
        """Goes on from what trackers of R runs have seen (`StatusTracker.state_dict`, with nothing waiting)."""
        first = states[0]
        return cls(
            tuple(tuple(group) for group in first["positions"]),
            tuple(part.shape[1] for part in first["ever_positive"]),
            first["updates"],
            first["points"],
            torch.stack([torch.stack([state["sums"][name].double() for name in SUMS]) for state in states]),
            *(
                torch.stack([torch.cat([part.flatten() for part in state[name]]) for state in states])
                for name in ("ever_positive", "ever_nonpositive")
            ),
        )

    def of(self, run: int, layers: tuple[str, ...]) -> dict[str, Any]:
        """The same of one run, as the state of a tracker."""
        self.reduce()
        assert self.sums is not None and self.ever_positive is not None and self.ever_nonpositive is not None
        sizes = [len(group) for group in self.positions]
        found: dict[str, Any] = {"layers": layers, "positions": self.positions}
        found |= {"updates": self.updates, "points": self.points, "waiting": [], "waiting_numbers": 0, "codes": []}
        found["sums"] = dict(zip(SUMS, self.sums[run].unbind(), strict=True))
        for name, state in (("ever_positive", self.ever_positive), ("ever_nonpositive", self.ever_nonpositive)):
            parts = state[run].split([size * width for size, width in zip(sizes, self.widths, strict=True)])
            found[name] = [part.view(size, -1) for part, size in zip(parts, sizes, strict=True)]
        return found

    def compute(self) -> Tensor:
        """(R, 16) float64: the numbers of `regx.training.log_keys.STATUS`; see `StatusTracker.compute`."""
        self.reduce()
        assert self.sums is not None and self.ever_positive is not None and self.ever_nonpositive is not None
        layers = sum(len(group) for group in self.positions)
        units, cells = self.ever_positive.shape[1], self.points * layers
        sums = dict(zip(SUMS, self.sums.unbind(1), strict=True))
        positive_unit, negative_unit = (sums[name] / self.updates / units for name in SUMS[:2])
        positive_point, negative_point = (sums[name] / cells for name in SUMS[2:4])
        # Shares in float32, as a quotient of whole numbers is where runs are trained one by one.
        counts = {name: sums[name].float() for name in SUMS[4:]}
        positive, nonpositive = self.ever_positive, self.ever_nonpositive
        values = (
            positive_unit,
            negative_unit,
            positive_point,
            negative_point,
            (positive_unit + negative_unit) / 2,
            (positive_point + negative_point) / 2,
            (~positive).sum(1) / units,
            (~nonpositive).sum(1) / units,
            (positive & nonpositive).sum(1) / units,
            counts["points_dead"] / self.points,
            counts["points_linear"] / self.points,
            counts["points_nonlinear"] / self.points,
            counts["cells_dead"] / cells,
            counts["cells_linear"] / cells,
            (cells - counts["cells_dead"] - counts["cells_linear"]) / cells,
            counts["cells_efficient"] / cells,
        )
        return torch.stack([value.double() for value in values], 1)


def _sum(x: Tensor, dim: int) -> Tensor:
    """(R,) sums over everything but the runs in `dim`: row by row of a copy, so that no run depends on their number."""
    return x.movedim(dim, 0).flatten(1).double().sum(1)
