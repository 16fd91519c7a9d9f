"""Penalties of single weights: l1, l2, elastic net and an approximation of l0."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from regx.parameters import Bounds
from regx.registry import register
from regx.regularizers import REGISTRY
from regx.regularizers.proximal import proximal_step
from regx.regularizers.weights import WeightPenalty

# Numbers handled at once, so that what is in between stays in the processor's cache.
_CHUNK = 65536


@register(
    "l1",
    kind="weights",
    zeros="elements",
    shares="weights:WeightPenalty",
    formula="sum |w|",
    example="l1(prox=true)=1e-4",
    source="Tibshirani, J. R. Stat. Soc. B 1996 (lasso)",
)
class L1(WeightPenalty):
    """Sum of absolute values; with proximal steps it sets weights to exactly zero.

    The proximal step is the soft threshold sign(w) max(|w| - t, 0).

        penalty = L1(model, prox=True)
        penalty.strength = 1e-4
        ...; optimizer.step(); penalty.step(optimizer)
    """

    def __init__(self, model: nn.Module, **shared: Any) -> None:
        REGISTRY["l1"].check(shared)
        super().__init__(model, **shared)

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """Sum of |w|, 0-d."""
        return sum_abs(tensors)

    def accumulate(self, into: Sequence[Tensor], tensors: Sequence[Tensor], scale: float) -> None:
        """Adds scale * sign(w)."""
        add_signs(into, tensors, scale)

    def proximal(self, tensors: Sequence[Tensor], steps: Sequence[float | Tensor]) -> None:
        """Soft threshold."""
        proximal_step(tensors, steps, l1=[self.strength] * len(tensors))


@register(
    "l2",
    kind="weights",
    zeros="none",
    shares="weights:WeightPenalty",
    formula="sum w^2, or half of it with half=true",
    example="l2(half=true)=1e-4",
    source="Hoerl & Kennard, Technometrics 1970 (ridge); weight decay",
)
class L2(WeightPenalty):
    """Sum of squares: shrinks every weight, makes none zero.

    An optimiser's `weight_decay` of d is `half=True` with strength d for SGD and Adam (not AdamW, which decouples it).

    Args:
        half: penalise half the sum of squares, whose gradient is w instead of 2 w.
    """

    def __init__(self, model: nn.Module, *, half: bool = False, **shared: Any) -> None:
        REGISTRY["l2"].check({"half": half} | shared)
        super().__init__(model, **shared)
        self.factor = 0.5 if half else 1.0

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """Sum of w^2 (or half of it), 0-d."""
        return self.factor * sum_squares(tensors)

    def accumulate(self, into: Sequence[Tensor], tensors: Sequence[Tensor], scale: float) -> None:
        """Adds scale * 2 w (or w)."""
        torch._foreach_add_(list(into), list(tensors), alpha=2 * self.factor * scale)

    def proximal(self, tensors: Sequence[Tensor], steps: Sequence[float | Tensor]) -> None:
        """w / (1 + 2 t strength)."""
        proximal_step(tensors, steps, ridge=[self.factor * self.strength] * len(tensors))


@register(
    "elastic_net",
    kind="weights",
    zeros="elements",
    shares="weights:WeightPenalty",
    formula="l1_ratio * sum |w| + (1 - l1_ratio) * sum w^2 / 2",
    example="elastic_net(l1_ratio=0.9, prox=true)=1e-4",
    source="Zou & Hastie, J. R. Stat. Soc. B 2005; parametrised as in scikit-learn",
)
class ElasticNet(WeightPenalty):
    """Sum of absolute values and squares; makes exact zeros with proximal steps, and keeps correlated weights.

    Args:
        l1_ratio: share of the absolute values; the rest is half the sum of squares, as in scikit-learn.
    """

    def __init__(self, model: nn.Module, *, l1_ratio: Annotated[float, Bounds(0, 1)] = 0.5, **shared: Any) -> None:
        REGISTRY["elastic_net"].check({"l1_ratio": l1_ratio} | shared)
        super().__init__(model, **shared)
        self.l1_ratio = l1_ratio

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """l1_ratio * sum |w| + (1 - l1_ratio) / 2 * sum w^2, 0-d."""
        return self.l1_ratio * sum_abs(tensors) + 0.5 * (1 - self.l1_ratio) * sum_squares(tensors)

    def accumulate(self, into: Sequence[Tensor], tensors: Sequence[Tensor], scale: float) -> None:
        """Adds scale * (l1_ratio sign(w) + (1 - l1_ratio) w)."""
        add_signs(into, tensors, scale * self.l1_ratio)
        torch._foreach_add_(list(into), list(tensors), alpha=scale * (1 - self.l1_ratio))

    def proximal(self, tensors: Sequence[Tensor], steps: Sequence[float | Tensor]) -> None:
        """Shrinks, then thresholds."""
        count = len(tensors)
        squares = 0.5 * (1 - self.l1_ratio) * self.strength
        proximal_step(tensors, steps, l1=[self.l1_ratio * self.strength] * count, ridge=[squares] * count)


@register(
    "l0_approx",
    kind="weights",
    zeros="none",
    shares="weights:WeightPenalty",
    lacks=("prox",),
    formula="sum (|w| + eps)^p, p = 0.1",
    example="l0_approx=1e-6",
    source="avdosev/group_loss (inner norm L0approx)",
)
class L0Approx(WeightPenalty):
    """Smooth stand-in for the number of weights that are not zero; it is steep near zero and has no proximal step.

    Args:
        p: power; the smaller, the nearer to a count.
        eps: added to |w|, so that the gradient at zero is finite.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        p: Annotated[float, Bounds(above=0, high=1)] = 0.1,
        eps: Annotated[float, Bounds(above=0)] = 1e-8,
        **shared: Any,
    ) -> None:
        REGISTRY["l0_approx"].check({"p": p, "eps": eps} | shared)
        super().__init__(model, **shared)
        self.p, self.eps = p, eps

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """Sum of (|w| + eps)^p, 0-d."""
        return torch.stack([(x.abs() + self.eps).pow(self.p).sum() for x in tensors]).sum()

    def accumulate(self, into: Sequence[Tensor], tensors: Sequence[Tensor], scale: float) -> None:
        """Adds scale * p (|w| + eps)^(p - 1) sign(w)."""
        for grad, x in zip(into, tensors, strict=True):
            grad.addcmul_((x.abs() + self.eps).pow_(self.p - 1), x.sign(), value=scale * self.p)


def sum_abs(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of |w| over all tensors, 0-d."""
    return torch.stack([x.abs().sum() for x in tensors]).sum()


def sum_squares(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of w^2 over all tensors, 0-d."""
    return torch.stack([torch.linalg.vector_norm(x) for x in tensors]).square().sum()


def add_signs(into: Sequence[Tensor], tensors: Sequence[Tensor], scale: float) -> None:
    """Adds scale * sign(w) to `into`."""
    if tensors[0].device.type != "cpu":
        torch._foreach_add_(list(into), torch._foreach_sign(list(tensors)), alpha=scale)
        return
    for grad, x in zip(into, tensors, strict=True):
        if grad.stride() == x.stride() and _is_dense(x):
            flat, flat_grad = (y.as_strided((y.numel(),), (1,)) for y in (x, grad))
            for piece, piece_grad in zip(flat.split(_CHUNK), flat_grad.split(_CHUNK), strict=True):
                piece_grad.add_(piece.sign(), alpha=scale)
        else:
            grad.add_(x.sign(), alpha=scale)


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))
