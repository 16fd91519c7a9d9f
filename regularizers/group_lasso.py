"""Group lasso, sparse group lasso and group variance."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from regx.errors import UserError
from regx.parameters import Bounds
from regx.registry import register
from regx.regularizers import REGISTRY
from regx.regularizers.elements import add_signs, sum_abs
from regx.regularizers.groups import Level, cut
from regx.regularizers.proximal import GroupNorms, proximal_step
from regx.regularizers.weights import WeightPenalty


@register(
    "group_lasso",
    kind="weights",
    zeros="groups",
    shares="weights:WeightPenalty",
    formula="sum_g ||w_g||_2, times sqrt(size of g) with scaled=true",
    example="group_lasso(groups=filters, prox=true)=1e-4",
    source="Yuan & Lin, J. R. Stat. Soc. B 2006; Wen et al., NeurIPS 2016 (SSL); IntelLabs/distiller",
)
class GroupLasso(WeightPenalty):
    """Sum of the Euclidean norms of groups of weights; with proximal steps it sets whole groups to exactly zero.

    The proximal step is the group soft threshold w_g max(0, 1 - t / ||w_g||). Rows and columns together overlap: their
    step is found by ascent on the dual (`regx.regularizers.proximal`).

        penalty = GroupLasso(model, groups="filters", prox=True)
        penalty.strength = 1e-3
        ...; optimizer.step(); penalty.step(optimizer)

    Args:
        groups: units, filters, channels, kernels, layers, rows, cols, rows_cols, blocks(R,C), heads(N) or elements; a
            weight that has no such groups is not reached.
        scaled: whether each norm is multiplied by the square root of the group's size, as Yuan & Lin do.
    """

    def __init__(self, model: nn.Module, *, groups: str = "units", scaled: bool = False, **shared: Any) -> None:
        REGISTRY["group_lasso"].check({"groups": groups, "scaled": scaled} | shared)
        super().__init__(model, **shared)
        self.weights, self.levels = cut(groups, self.weights)
        self.groups, self.scaled = groups, scaled

    @property
    def unit(self) -> str:
        """What its groups are."""
        return self.groups

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """Sum of group norms, 0-d."""
        return sum_norms(tensors, self.levels, self.scaled)

    def accumulate(self, into: Sequence[Tensor], tensors: Sequence[Tensor], scale: float) -> None:
        """Adds scale * w_g / ||w_g||, nothing at a group that is zero."""
        add_directions(into, tensors, self.levels, scale, self.scaled)

    def proximal(self, tensors: Sequence[Tensor], steps: Sequence[float | Tensor]) -> None:
        """Group soft threshold."""
        norms = [GroupNorms(level, self.strength * sizes(level, self.scaled)) for level in self.levels]
        proximal_step(tensors, steps, norms=norms, nested=len(norms) == 1)


@register(
    "sparse_group_lasso",
    kind="weights",
    zeros="groups",
    shares="weights:WeightPenalty",
    formula="l1_ratio * sum |w| + (1 - l1_ratio) * sum_g ||w_g||_2",
    example="sparse_group_lasso(groups=filters, l1_ratio=0.2, prox=true)=1e-4",
    source="Simon, Friedman, Hastie, Tibshirani, J. Comput. Graph. Stat. 2013",
)
class SparseGroupLasso(WeightPenalty):
    """Group lasso and l1: with proximal steps whole groups are zero, and single weights within those that are not.

    Args:
        groups: as for group_lasso.
        scaled: whether each norm is multiplied by the square root of the group's size.
        l1_ratio: share of the sum of absolute values; the rest is the sum of group norms.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        groups: str = "units",
        scaled: bool = False,
        l1_ratio: Annotated[float, Bounds(0, 1)] = 0.5,
        **shared: Any,
    ) -> None:
        REGISTRY["sparse_group_lasso"].check({"groups": groups, "scaled": scaled, "l1_ratio": l1_ratio} | shared)
        super().__init__(model, **shared)
        self.weights, self.levels = cut(groups, self.weights)
        self.groups, self.scaled, self.l1_ratio = groups, scaled, l1_ratio

    @property
    def unit(self) -> str:
        """What its groups are."""
        return self.groups

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """l1_ratio * sum |w| + (1 - l1_ratio) * sum of group norms, 0-d."""
        return self.l1_ratio * sum_abs(tensors) + (1 - self.l1_ratio) * sum_norms(tensors, self.levels, self.scaled)

    def accumulate(self, into: Sequence[Tensor], tensors: Sequence[Tensor], scale: float) -> None:
        """Adds the gradients of both."""
        add_signs(into, tensors, scale * self.l1_ratio)
        add_directions(into, tensors, self.levels, scale * (1 - self.l1_ratio), self.scaled)

    def proximal(self, tensors: Sequence[Tensor], steps: Sequence[float | Tensor]) -> None:
        """Soft threshold of the elements, then of the groups."""
        share = self.strength * (1 - self.l1_ratio)
        norms = [GroupNorms(level, share * sizes(level, self.scaled)) for level in self.levels]
        l1 = [self.strength * self.l1_ratio] * len(tensors)
        proximal_step(tensors, steps, l1=l1, norms=norms, nested=len(norms) == 1)


@register(
    "group_variance",
    kind="weights",
    zeros="none",
    shares="weights:WeightPenalty",
    lacks=("prox",),
    formula="sum over layers of 1 / (var_g ||w_g||_2 + eps), unbiased variance",
    example="group_variance(groups=channels)=1e-4",
    source="IntelLabs/distiller (GroupVarianceRegularizer)",
)
class GroupVariance(WeightPenalty):
    """Inverse of the variance of a layer's group norms: drives the groups of a layer apart, to large and small ones.

    Args:
        groups: as for group_lasso, of which a layer needs two or more.
        eps: added to the variance, so that equal norms have a finite penalty.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        groups: str = "units",
        eps: Annotated[float, Bounds(above=0)] = 1e-8,
        **shared: Any,
    ) -> None:
        REGISTRY["group_variance"].check({"groups": groups, "eps": eps} | shared)
        super().__init__(model, **shared)
        weights, levels = cut(groups, self.weights)
        if len(levels) > 1 or levels[0].ids is not None:
            raise UserError(f"{groups!r} overlap or span layers; group_variance needs groups within a layer", "groups")
        several = [i for i, count in enumerate(levels[0].counts) if count > 1]
        if not several:
            raise UserError(f"{groups!r} gives one group per layer, whose norm has no variance", "groups")
        self.weights = [weights[i] for i in several]
        device = self.weights[0].tensor.device
        self.levels = [Level([levels[0].parts[i] for i in several], device=device)]
        self.groups, self.eps = groups, eps

    @property
    def unit(self) -> str:
        """What its groups are."""
        return self.groups

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """Sum over layers of 1 / (variance of the group norms + eps), 0-d."""
        level = self.levels[0]
        variances = torch.stack([norms.var() for norms in level.norms(tensors).split(level.counts)])
        return (1 / (variances + self.eps)).sum()


def sizes(level: Level, scaled: bool) -> Tensor | float:
    """Factor of each group's norm: the root of its size, or one."""
    return level.sizes.sqrt() if scaled else 1.0


def sum_norms(tensors: Sequence[Tensor], levels: Sequence[Level], scaled: bool) -> Tensor:
    """Sum of group norms over all levels, 0-d."""
    return torch.stack([(level.norms(tensors) * sizes(level, scaled)).sum() for level in levels]).sum()


def add_directions(
    into: Sequence[Tensor], tensors: Sequence[Tensor], levels: Sequence[Level], scale: float, scaled: bool
) -> None:
    """Adds scale * w_g / ||w_g|| to `into`, nothing at a group that is zero."""
    for level in levels:
        norms = level.norms(tensors)
        factors = torch.where(norms > 0, sizes(level, scaled) / norms, 0)
        for part, grad, x, factor in zip(level.parts, into, tensors, level.spread(factors), strict=True):
            if part is not None and factor is not None:
                part.view(grad).addcmul_(part.view(x), factor, value=scale)
