"""Masks: groups of weights set to zero after every optimiser step, by a threshold or down to a wanted share."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from regx.errors import UserError
from regx.registry import register
from regx.regularizers import REGISTRY
from regx.regularizers.base import Coverage, Regularizer
from regx.regularizers.groups import Level, cut
from regx.regularizers.precision import widened
from regx.regularizers.selection import select


class Mask(Regularizer):
    """Sets groups of weights to exactly zero after every optimiser step; a subclass says which.

    There is no penalty: `loss` is 0. `strength` is 0 until it is set, and nothing happens until then. When it goes back
    to 0, the last mask is kept (`keep_mask`) and applied again after every step, as momentum moves masked weights too,
    or dropped. `freeze()` keeps the mask for good, whatever the strength.

    Args:
        model: the model.
        groups: what is kept or zeroed as a whole: elements, units, filters, channels, kernels, layers, rows, cols,
            blocks(R,C) or heads(N); a weight that has no such groups is not reached.
        criterion: magnitude of a group: largest (`max`) or mean (`mean_abs`) absolute value, their sum (`l1`),
            Euclidean norm (`l2`), or that divided by the group's size (`mean_l2`).
        keep_mask: whether the last mask stays once the strength is back at 0; without it all groups may grow again.
        mask_gradients: zero the gradients of masked weights too, while a mask is held, so that no momentum builds up;
            needs `add_gradients` between backward and the optimiser's step.
        include: globs of parameter or module names, joined by `|`; all weights without it.
        exclude: globs of parameter or module names to leave out.
        layer_type: kind of the layers that are reached: `any`, `conv` or `linear`.
        tag: part of the network to reach, derived from its modules: stem, block, stage, shortcut, head, ...
        biases: whether biases and the parameters of normalisation layers are masked too (as elements or layers).

    Raises:
        UserError: an option is not legal, nothing is selected, or the groups overlap.
    """

    of_parameters = True
    has_loss = False

    _strength = 0.0

    def __init__(
        self,
        model: nn.Module,
        *,
        groups: str = "elements",
        criterion: Literal["max", "mean_abs", "l1", "l2", "mean_l2"] = "l2",
        keep_mask: bool = True,
        mask_gradients: bool = False,
        include: str | None = None,
        exclude: str | None = None,
        layer_type: Literal["any", "conv", "linear"] = "any",
        tag: str | None = None,
        biases: bool = False,
    ) -> None:
        selected = select(model, include=include, exclude=exclude, layer_type=layer_type, tag=tag, biases=biases)
        self.weights, levels = cut(groups, selected)
        if len(levels) > 1:
            raise UserError(
                f"{groups!r} overlap, so a mask cannot keep one and zero another; use rows or cols", "groups"
            )
        self.level = levels[0]
        self.groups, self.criterion = groups, criterion
        self.keep_mask, self.mask_gradients = keep_mask, mask_gradients
        # Whether a mask is made anew after every step, from weights that may have grown back since the last one.
        self._regrows = True
        self._kept: Tensor | None = None  # (G,) which groups the last mask keeps
        self._made_with = 0.0  # the strength that made it
        self._frozen = False

    @property
    def turn(self) -> int:
        """Masks have the last word."""
        return 2

    def keep(self, magnitudes: Tensor) -> Tensor:
        """(G,) which groups to keep, given their magnitudes."""
        raise NotImplementedError

    @property
    def tensors(self) -> list[Tensor]:
        """The parameters that are masked."""
        return [weight.tensor for weight in self.weights]

    @property
    def frozen(self) -> bool:
        """Whether the mask is fixed: by `freeze()`, or kept because the strength is back at 0."""
        return self._kept is not None and (self._frozen or (self.strength == 0 and self.keep_mask))

    @property
    def held(self) -> bool:
        """Whether the last mask is still in force, rather than applied once and made anew after the next step."""
        return self.frozen or (self._kept is not None and self.strength > 0 and not self._regrows)

    @property
    def loss(self) -> Tensor:
        """0, on the device of the weights: a mask has no penalty."""
        return self.weights[0].tensor.detach().new_zeros(())

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Zeroes the gradients of masked weights (`mask_gradients` only, and only while a mask is held)."""
        if self.mask_gradients and self.held:
            self._zero([x.grad for x in self.tensors])

    @torch.no_grad()
    def step(self, optimizer: Optimizer | float) -> None:
        """Makes a mask where it is time for one, and applies it.

        Args:
            optimizer: not used; masks need no step size.
        """
        if not self.frozen:
            if self.strength == 0:
                self._kept = None
                return
            if self._kept is None or self._regrows or self.strength != self._made_with:
                self._kept = self.keep(magnitudes(self.level, self.tensors, self.criterion))
                self._made_with = self.strength
        self._zero(self.tensors)

    def freeze(self) -> None:
        """Keeps the last mask for good: from now on it is applied after every step, whatever the strength.

        Raises:
            UserError: there is no mask yet.
        """
        if self._kept is None:
            raise UserError("there is no mask to freeze; take a step with a strength above 0 first")
        self._frozen = True

    def masks(self) -> dict[str, Tensor]:
        """Name of every weight -> boolean tensor of its shape, true where it is kept; empty where there is no mask."""
        if self._kept is None:
            return {}
        found = {}
        for weight, part, kept in zip(self.weights, self.level.parts, self.level.spread(self._kept), strict=True):
            assert part is not None and kept is not None
            found[weight.name] = kept.expand(part.shape).reshape(weight.tensor.shape)
        return found

    @torch.no_grad()
    def zero_share(self) -> Tensor:
        """Share of the groups that are exactly zero in the weights as they are, 0-d."""
        return (magnitudes(self.level, self.tensors, "max") == 0).sum() / self.level.count

    def coverage(self) -> Coverage:
        """The masked weights, with the number of groups and parameters in each."""
        sizes = tuple(weight.tensor.numel() for weight in self.weights)
        return Coverage(tuple(w.name for w in self.weights), self.level.counts, sizes, self.groups, self.level.count)

    def detach(self) -> None:
        """Drops the mask; the weights stay as they are."""
        self._kept, self._made_with, self._frozen = None, 0.0, False

    def state_dict(self) -> dict[str, Any]:
        """The mask, one boolean per group of each weight, and how it came to be; empty where there is none.

        The strength is not restored with it: that is for whoever runs the epochs.
        """
        if self._kept is None:
            return {}
        pieces = self._kept if self.level.ids is None else self._kept[self.level.ids]
        masks = {
            weight.name: piece.reshape(part.kept).clone()
            for weight, part, piece in zip(self.weights, self.level.parts, pieces.split(self.level.counts), strict=True)
            if part is not None
        }
        return {"groups": self.groups, "strength": self._made_with, "frozen": self._frozen, "masks": masks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`.

        Raises:
            UserError: the state is another regularizer's, or of other weights or groups.
        """
        if not state:
            self.detach()
            return
        name = type(self).__name__
        if set(state) != {"groups", "strength", "frozen", "masks"}:
            raise UserError(f"the state is not one of {name}; it has {', '.join(map(repr, state))}")
        if state["groups"] != self.groups:
            raise UserError(f"the state has masks of {state['groups']}, this {name} of {self.groups}", "groups")
        masks: dict[str, Tensor] = state["masks"]
        shapes = {w.name: part.kept for w, part in zip(self.weights, self.level.parts, strict=True) if part is not None}
        if different := sorted(set(masks) ^ set(shapes)):
            where = "the state" if different[0] in masks else f"this {name}"
            raise UserError(f"only {where} has a mask of {different[0]!r}; select the same weights")
        for weight, shape in shapes.items():
            if tuple(masks[weight].shape) != shape:
                raise UserError(f"the mask of {weight!r} has the shape {tuple(masks[weight].shape)}, not {shape}")
        pieces = torch.cat([masks[weight].flatten().bool() for weight in shapes]).to(self.weights[0].tensor.device)
        if self.level.ids is None:
            self._kept = pieces
        else:
            self._kept = pieces.new_ones(self.level.count).index_put_((self.level.ids,), pieces)
        self._made_with, self._frozen = float(state["strength"]), bool(state["frozen"])

    def _zero(self, tensors: Sequence[Tensor | None]) -> None:
        """Zeroes in place what the mask does not keep."""
        assert self._kept is not None
        for part, x, drop in zip(self.level.parts, tensors, self.level.spread(~self._kept), strict=True):
            if part is not None and x is not None and drop is not None:
                # Not a product, which leaves NaN and negative zeros.
                part.view(x).masked_fill_(drop, 0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.coverage()}, criterion={self.criterion!r}, frozen={self.frozen})"


@register(
    "threshold",
    kind="masks",
    zeros="groups",
    shares="masks:Mask",
    formula="w_g = 0 where the magnitude of w_g <= strength, after every step",
    example="threshold(groups=filters, criterion=mean_abs)=1e-3",
    source="IntelLabs/distiller (thresholding)",
)
class Threshold(Mask):
    """Zeroes every group whose magnitude is at most the strength, after every optimiser step (hard threshold).

    While the strength is above 0, a mask is applied once and made anew after the next step, so groups may grow back.
    The strength is an absolute magnitude: above that of all groups of a layer, it zeroes the layer.

        mask = Threshold(model, groups="filters", criterion="mean_abs")
        mask.strength = 1e-3
        ...; optimizer.step(); mask.step(optimizer)
        mask.freeze()  # or mask.strength = 0: the zeros stay
    """

    def __init__(self, model: nn.Module, **shared: Any) -> None:
        REGISTRY["threshold"].check(shared)
        super().__init__(model, **shared)

    def keep(self, magnitudes: Tensor) -> Tensor:
        """(G,) which groups are above the strength; NaN is kept, not hidden."""
        return ~(magnitudes <= self.strength)


@register(
    "prune",
    kind="masks",
    zeros="groups",
    shares="masks:Mask",
    formula="w_g = 0 for the floor(strength * G) groups of the smallest magnitude, after every step",
    example="prune(groups=filters, schedule=agp)=0.5",
    source="Zhu & Gupta, arXiv:1710.01878 (AGP); Blumensath & Davies, Appl. Comput. Harmon. Anal. 2009 (regrow)",
)
class Prune(Mask):
    """Zeroes the share of groups that the strength says, those of the smallest magnitude, after every optimiser step.

    Of G groups exactly floor(strength * G) are zeroed, the strength taken as the decimal it is written as (0.29 of 100
    is 29); of equal ones the first. Automated gradual pruning is a schedule of the strength (`schedule=agp`).

    Without `regrow` a mask is made when the strength has changed, and pruned groups stay pruned, even when the strength
    falls. With it, a mask is made anew from the updated weights after every step (iterative hard thresholding), until
    it is frozen.

    Args:
        scope: rank the groups within each weight (`layer`; of attention heads, within each attention), which leaves at
            least one in each, or over all weights (`global`), which may zero a whole layer.
        regrow: whether groups may grow back, the mask being made anew after every step.
    """

    def __init__(
        self, model: nn.Module, *, scope: Literal["layer", "global"] = "layer", regrow: bool = False, **shared: Any
    ) -> None:
        REGISTRY["prune"].check({"scope": scope, "regrow": regrow} | shared)
        super().__init__(model, **shared)
        self.scope, self._regrows = scope, regrow
        self._counts = layer_counts(self.level) if scope == "layer" else [self.level.count]
        if max(self._counts) == 1:
            raise UserError(
                f"{self.groups!r} gives one group per layer, of which no share below 1 can be pruned; use scope=global",
                "scope",
            )

    @property
    def strength(self) -> float:
        """Share of the groups to be zero: at least 0 (default) and below 1.

        Raises:
            UserError: when set to something else.
        """
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        if not 0 <= value < 1:
            raise UserError(f"{value!r} is no share of groups to prune; use 0 or more and less than 1", "strength")
        self._strength = float(value)

    def keep(self, magnitudes: Tensor) -> Tensor:
        """(G,) which groups are not among the smallest."""
        share = Fraction(str(self.strength))
        counts = [math.floor(share * count) for count in self._counts]
        if not self._regrows and self._kept is not None:
            # Pruned groups first: they stay pruned.
            magnitudes = magnitudes.masked_fill(~self._kept, -1)
            pruned = torch.stack([(~part).sum() for part in self._kept.split(self._counts)]).tolist()
            counts = [max(pair) for pair in zip(counts, pruned, strict=True)]
        parts = magnitudes.split(self._counts)
        return ~torch.cat([lowest(part, count) for part, count in zip(parts, counts, strict=True)])


def magnitudes(level: Level, tensors: Sequence[Tensor], criterion: str) -> Tensor:
    """(G,) magnitude of every group; `max`, `mean_abs`, `l1`, `l2` or `mean_l2`, half precision as float32."""
    if criterion in ("l2", "mean_l2"):
        found = level.norms(tensors)
        return found / level.sizes if criterion == "mean_l2" else found
    sizes = [widened(x.abs()) for x in tensors]
    if criterion in ("l1", "mean_abs"):
        found = level.sums(sizes)
        return found / level.sizes if criterion == "mean_abs" else found
    largest = []
    for part, x in zip(level.parts, sizes, strict=True):
        if part is not None:
            v = part.view(x)
            largest.append((v.amax(part.within) if part.within else v).flatten())
    pieces = torch.cat(largest)
    return pieces if level.ids is None else pieces.new_zeros(level.count).scatter_reduce_(0, level.ids, pieces, "amax")


def layer_counts(level: Level) -> list[int]:
    """How many groups each layer has; groups that span weights (heads) count for the first of these."""
    if level.ids is None:
        return list(level.counts)
    weight = torch.arange(len(level.counts)).repeat_interleave(torch.tensor(level.counts)).to(level.ids.device)
    first = weight.new_full((level.count,), len(level.counts)).scatter_reduce_(0, level.ids, weight, "amin")
    return torch.unique_consecutive(first, return_counts=True)[1].tolist()


def lowest(values: Tensor, count: int) -> Tensor:
    """(G,) whether each of (G,) values is among the `count` lowest, of equal ones the first; exactly `count` are."""
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    limit = values.kthvalue(count).values
    below, equal = values < limit, values == limit
    return below | (equal & (equal.cumsum(0) <= count - below.sum()))
