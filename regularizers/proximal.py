"""Proximal steps: where the exact zeros come from.

A (sub)gradient step on |w| makes weights small and never zero. The proximal step that follows a gradient step instead,

    u = argmin  sum_i (u_i - w_i)^2 / (2 t_i)  +  strength * R(u),

sets to zero what the penalty R says is not worth keeping. t is the step that the optimiser takes on a gradient of one:

* SGD: the learning rate; with momentum m and dampening d that is lr (1 - d) / (1 - m), since a constant gradient ends
  in steps of that size. Nesterov's variant has the same limit.
* Adam and AdamW: lr / (sqrt(v) + eps) with the bias-corrected second moment v, one number per weight. The proximal step
  has to be taken in this metric: then, and only then, a point that no step moves any more is a stationary point of
  loss + strength * R (Yun, Lozano, Yang, "Adaptive proximal gradient methods for structured neural networks", NeurIPS
  2021). A weight without any gradient has an infinite step in this metric, and goes to zero at once.

The elements come first, in any of these metrics: what follows the soft threshold changes no sign and no zero. In a
plain metric (all t equal) the groups are in closed form too: the group soft threshold, and for nested groups one after
the other from the finest to the coarsest (Jenatton, Mairal, Obozinski, Bach, "Proximal methods for hierarchical sparse
coding", JMLR 2011). In Adam's metric the norm of a group's solution is the root of a one-dimensional equation, found by
Newton's method. Groups that overlap, and nested groups in Adam's metric, are solved by the block-coordinate ascent on
the dual of the same paper, until no weight moves by more than 1e-6 of the largest.

What this costs: a few passes over the weights in a plain metric, some thirty for groups in Adam's, and that many per
level and sweep for nested or overlapping groups in Adam's metric: seconds for ten million weights on a CPU, where SGD
is the better choice for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from regx.errors import UserError
from regx.regularizers.groups import Level
from regx.regularizers.precision import HALF

_NEWTON_STEPS = 25
_MOST_SWEEPS = 200
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class GroupNorms:
    """The term sum_g weights_g ||w_g|| of a penalty.

    Attributes:
        level: the groups.
        weights: (G,) weight of each group's norm, or one for all.
    """

    level: Level
    weights: Tensor | float = 1.0


def step_sizes(optimizer: Optimizer | float, tensors: Sequence[Tensor]) -> list[float | Tensor]:
    """The step t that `optimizer` takes on a gradient of one: a number for each tensor, or a tensor of its shape.

    Args:
        optimizer: the optimiser, after its step; or the learning rate of plain gradient descent.
        tensors: the parameters.

    Raises:
        UserError: an optimiser whose steps are not known, or a parameter that it does not train.
    """
    if not isinstance(optimizer, Optimizer):
        return [float(optimizer)] * len(tensors)
    if not isinstance(optimizer, SGD | Adam):  # AdamW is an Adam
        raise UserError(f"proximal steps know SGD, Adam and AdamW, not {type(optimizer).__name__}; use prox=false")
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    if any(id(x) not in group_of for x in tensors):
        raise UserError("the optimiser does not train a parameter that the penalty reaches")
    if any(group["maximize"] for group in optimizer.param_groups):
        raise UserError("proximal steps are for minimising optimisers, not maximize=True")
    if isinstance(optimizer, SGD):
        return [_sgd_step(group_of[id(x)]) for x in tensors]
    return [_adam_step(group_of[id(x)], optimizer.state.get(x, {}), x) for x in tensors]


def _sgd_step(group: dict) -> float:
    momentum = group["momentum"]
    if momentum >= 1:
        raise UserError(f"a proximal step needs a momentum below 1, not {momentum}", "momentum")
    return float(group["lr"]) * ((1 - group["dampening"]) / (1 - momentum) if momentum else 1.0)


def _adam_step(group: dict, state: dict, x: Tensor) -> float | Tensor:
    if "exp_avg_sq" not in state:  # the optimiser has not moved it yet, neither do we
        return 0.0
    second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    count = state["step"]
    # On the host the correction is computed in double precision, as the optimiser does: 1 - 0.999 has few digits left.
    correction = 1 - group["betas"][1] ** (count.item() if count.device.type == "cpu" else count)
    return group["lr"] / (second / correction).sqrt_().add_(group["eps"])


@torch.no_grad()
def proximal_step(
    tensors: Sequence[Tensor],
    steps: Sequence[float | Tensor],
    *,
    l1: Sequence[float] | None = None,
    norms: Sequence[GroupNorms] = (),
    ridge: Sequence[float] | None = None,
    nested: bool = True,
) -> None:
    """Replaces the tensors by argmin_u sum (u - w)^2 / (2 t) + l1 ||u||_1 + sum_g weights_g ||u_g|| + ridge ||u||^2.

    Args:
        tensors: the weights; changed in place.
        steps: step size t of each, a number or a tensor of its shape (`step_sizes`).
        l1: weight of each tensor's sum of absolute values (default 0).
        norms: terms of group norms, from the finest to the coarsest.
        ridge: weight of each tensor's sum of squares (default 0).
        nested: whether every group lies within one group of the next term; set to False for groups that overlap.
    """
    if any(x.dtype in HALF for x in tensors):
        wide = [x.float() for x in tensors]
        longer = [t.float() if isinstance(t, Tensor) else t for t in steps]
        proximal_step(wide, longer, l1=l1, norms=norms, ridge=ridge, nested=nested)
        for x, result in zip(tensors, wide, strict=True):
            x.copy_(result)
        return
    if ridge is not None and any(ridge):
        steps = [_shrunk(x, t, r) for x, t, r in zip(tensors, steps, ridge, strict=True)]
    for x, t, weight in zip(tensors, steps, l1 or (), strict=l1 is not None):
        if weight:
            _soft_threshold(x, weight * t)
    if len(norms) <= 1 or (nested and _is_plain(steps)):
        for term in norms:
            _shrink_groups(tensors, steps, term)
    else:
        _dual_ascent(tensors, steps, norms)


def _is_plain(steps: Sequence[float | Tensor]) -> bool:
    """Whether all steps are one number."""
    return all(not isinstance(t, Tensor) for t in steps) and len(set(steps)) <= 1


def _shrunk(x: Tensor, t: float | Tensor, ridge: float) -> float | Tensor:
    """Divides x by 1 + 2 ridge t, the squares' part of the step; what is left is a step of this smaller size."""
    denominator = 1 + 2 * ridge * t
    x.div_(denominator)
    return t / denominator


def _soft_threshold(x: Tensor, threshold: float | Tensor) -> None:
    """x <- sign(x) max(|x| - threshold, 0)."""
    if isinstance(threshold, Tensor):
        x.sub_(torch.minimum(torch.maximum(x, -threshold), threshold))
    else:
        torch.ops.aten.softshrink.out(x, threshold, out=x)


def _shrink_groups(tensors: Sequence[Tensor], steps: Sequence[float | Tensor], term: GroupNorms) -> Tensor:
    """The step of one term, in place; returns which groups are kept."""
    if not _is_plain(steps):
        return _shrink_in_metric(tensors, steps, term)
    # w_g <- max(0, 1 - t weights_g / ||w_g||) w_g
    norms = term.level.norms(tensors)
    tiny = torch.finfo(norms.dtype).tiny
    factors = (1 - steps[0] * term.weights / norms.clamp_min(tiny)).clamp_min_(0)
    for part, x, factor in zip(term.level.parts, tensors, term.level.spread(factors), strict=True):
        if part is not None and factor is not None:
            part.view(x).mul_(factor)
    return factors > 0


def _shrink_in_metric(tensors: Sequence[Tensor], steps: Sequence[float | Tensor], term: GroupNorms) -> Tensor:
    """The group soft threshold in the metric 1/t, in place; returns which groups are kept.

    With theta = ||u_g||, u = w theta / (theta + weight t): theta solves S(theta) = sum (w / (theta + weight t))^2 = 1.
    Newton's method on S^(-1/2) - 1, which is concave, rises to the root from any start below it; the norm of w after
    the element soft threshold by weight t is one.
    """
    level = term.level
    weights = torch.as_tensor(term.weights, dtype=tensors[0].dtype, device=tensors[0].device).expand(level.count)
    views, limits, parts = [], [], []
    for part, x, t, weight in zip(level.parts, tensors, steps, level.spread(weights), strict=True):
        if part is not None and weight is not None:
            parts.append(part)
            views.append(part.view(x))
            limits.append(weight * (part.view(t) if isinstance(t, Tensor) else t))

    def sums(pieces: Sequence[Tensor]) -> Tensor:
        return level.total(torch.cat([part.sums(x).flatten() for part, x in zip(parts, pieces, strict=True)]))

    def spread(values: Tensor) -> list[Tensor]:
        return [piece for piece in level.spread(values) if piece is not None]

    kept = sums([(w / limit).square_().masked_fill_(w == 0, 0) for w, limit in zip(views, limits, strict=True)]) > 1
    theta = sums([(w.abs() - limit).clamp_min_(0).square_() for w, limit in zip(views, limits, strict=True)]).sqrt_()
    for _ in range(_NEWTON_STEPS):
        ends = [piece + limit for piece, limit in zip(spread(theta), limits, strict=True)]
        squares = [(w / end).square_() for w, end in zip(views, ends, strict=True)]
        s = sums(squares)
        slope = sums([square.div_(end) for square, end in zip(squares, ends, strict=True)])
        # where nothing is to be found out the quotient may be 0 / 0: groups that go, and those with a step of zero
        moved = torch.where(kept, s * (s.sqrt() - 1) / slope, 0).nan_to_num_(0.0, 0.0, 0.0)
        theta = theta + moved
        if not bool((moved.abs() > 4 * torch.finfo(theta.dtype).eps * theta).any()):
            break
    theta = torch.where(kept, theta, 0)
    for w, piece, limit in zip(views, spread(theta), limits, strict=True):
        end = piece + limit
        # 0 / 0 is a zero group with a threshold of zero
        w.mul_((piece / end).masked_fill_(end == 0, 1))
    return kept


def _dual_ascent(tensors: Sequence[Tensor], steps: Sequence[float | Tensor], norms: Sequence[GroupNorms]) -> None:
    """Block-coordinate ascent on the dual: u = w - sum_k shift_k, with shift_k / t a subgradient of term k at u."""
    shifts = [[torch.zeros_like(x) for x in tensors] for _ in norms]
    kept: list[Tensor] = []
    scale = max(float(x.abs().max()) for x in tensors)
    for _ in range(_MOST_SWEEPS):
        before = [x.clone() for x in tensors]
        kept = []
        for term, shift in zip(norms, shifts, strict=True):
            for x, own in zip(tensors, shift, strict=True):
                own.copy_(x.add_(own))
            kept.append(_shrink_groups(tensors, steps, term))
            for x, own in zip(tensors, shift, strict=True):
                own.sub_(x)
        if max(float((x - y).abs().max()) for x, y in zip(tensors, before, strict=True)) <= _TOLERANCE * scale:
            break
    # The ascent only nears the zeros of all terms but the last; a group whose last update said zero is zero.
    for term, keep in zip(norms, kept, strict=True):
        for part, x, factor in zip(term.level.parts, tensors, term.level.spread(keep), strict=True):
            if part is not None and factor is not None:
                part.view(x).mul_(factor)
