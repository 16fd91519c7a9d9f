"""What the penalties of weights have in common: selection, closed-form gradients beside autograd, proximal steps."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from regx.regularizers.base import Coverage, Regularizer
from regx.regularizers.groups import Level
from regx.regularizers.proximal import step_sizes
from regx.regularizers.selection import Weight, select


class WeightPenalty(Regularizer):
    """A penalty on weights.

    It can be trained on in three ways, which have the same minima:

        loss = task_loss + penalty.strength * penalty.loss   # autograd
        penalty.add_gradients()                              # after backward: the same gradient, cheaper
        penalty.step(optimizer)                              # after the optimiser's step, with prox=True: exact zeros

    A subclass gives `value`, and where there is a closed form `accumulate`, and where there is one `proximal`.

    Args:
        model: the model.
        include: globs of parameter or module names, joined by `|`; all weights without it.
        exclude: globs of parameter or module names to leave out.
        layer_type: kind of the layers that are reached: `any`, `conv` or `linear`.
        tag: part of the network to reach, derived from its modules: stem, block, stage, shortcut, head, ...
        biases: whether biases and the parameters of normalisation layers are penalised too.
        prox: take a proximal step after the optimiser's instead of following the gradient of the penalty.
    """

    of_parameters = True

    def __init__(
        self,
        model: nn.Module,
        *,
        include: str | None = None,
        exclude: str | None = None,
        layer_type: Literal["any", "conv", "linear"] = "any",
        tag: str | None = None,
        biases: bool = False,
        prox: bool = False,
    ) -> None:
        self.prox = prox
        self.weights: list[Weight] = select(
            model, include=include, exclude=exclude, layer_type=layer_type, tag=tag, biases=biases
        )
        self.levels: list[Level] = []

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """The penalty of `tensors`, 0-d; differentiable by autograd, unless there is `accumulate`."""
        raise NotImplementedError

    def accumulate(self, into: Sequence[Tensor], tensors: Sequence[Tensor], scale: float) -> None:
        """Adds `scale` times the gradient at `tensors` to `into`, in place and without autograd; may be left out."""
        raise NotImplementedError

    def proximal(self, tensors: Sequence[Tensor], steps: Sequence[float | Tensor]) -> None:
        """Takes the proximal step of `strength` times the penalty, in place."""
        raise NotImplementedError

    @property
    def tensors(self) -> list[Tensor]:
        """The penalised parameters."""
        return [weight.tensor for weight in self.weights]

    @property
    def closed_form(self) -> bool:
        """Whether the gradient has a closed form."""
        return type(self).accumulate is not WeightPenalty.accumulate

    @property
    def loss(self) -> Tensor:
        """Unscaled penalty of the weights as they are, whatever autocast says: 0-dimensional, differentiable."""
        with torch.autocast(self.weights[0].tensor.device.type, enabled=False):
            if self.closed_form:
                return _ClosedForm.apply(self, *self.tensors)  # type: ignore[no-any-return]
            return self.value(self.tensors)

    def add_gradients(self) -> None:
        """Adds the gradient of `strength * loss` to the `.grad` of the weights; nothing where proximal steps do it.

        With a gradient scaler, call it after `scaler.unscale_(optimizer)`.
        """
        if self.strength == 0 or self.prox:
            return
        tensors = self.tensors
        if self.closed_form:
            with torch.no_grad():
                self.accumulate([gradient_of(x) for x in tensors], tensors, self.strength)
            return
        with torch.enable_grad():
            found = torch.autograd.grad(self.value(tensors), tensors)
        torch._foreach_add_([gradient_of(x) for x in tensors], found, alpha=self.strength)

    def step(self, optimizer: Optimizer | float) -> None:
        """Takes the proximal step that belongs to an optimiser step (`prox=True` only).

        Args:
            optimizer: SGD, Adam or AdamW, after its step; or the learning rate of plain gradient descent.

        Raises:
            UserError: an optimiser whose steps are not known.
        """
        if self.prox and self.strength > 0:
            with torch.no_grad():
                self.proximal(self.tensors, step_sizes(optimizer, self.tensors))

    @torch.no_grad()
    def zero_share(self) -> Tensor | None:
        """Share of the groups (elements where it has none) that are exactly zero; None without a proximal step."""
        if not self.prox:
            return None
        if self.levels:
            # counted, as the square of a tiny weight may be zero
            nonzero = [(x != 0).float() for x in self.tensors]
            zeros = torch.cat([level.sums(nonzero) == 0 for level in self.levels])
            return zeros.sum() / zeros.numel()
        return torch.stack([(x == 0).sum() for x in self.tensors]).sum() / sum(x.numel() for x in self.tensors)

    def coverage(self) -> Coverage:
        """The penalised weights, with the number of groups and parameters in each."""
        sizes = tuple(weight.tensor.numel() for weight in self.weights)
        counts = sizes
        if self.levels:
            counts = tuple(sum(level.counts[i] for level in self.levels) for i in range(len(sizes)))
        total = sum(level.count for level in self.levels) if self.levels else None
        return Coverage(tuple(w.name for w in self.weights), counts, sizes, self.unit, total)

    @property
    def turn(self) -> int:
        """Elements before groups."""
        return 1 if self.levels else 0

    @property
    def unit(self) -> str:
        """What its groups are, in the plural."""
        return "elements"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.coverage()}, prox={self.prox})"


def gradient_of(x: Tensor) -> Tensor:
    """The `.grad` of a parameter, made of zeros where there is none."""
    if x.grad is None:
        x.grad = torch.zeros_like(x)
    return x.grad


class _ClosedForm(torch.autograd.Function):
    """Value and gradient of a penalty, each in its closed form."""

    @staticmethod
    def forward(ctx: Any, penalty: WeightPenalty, *tensors: Tensor) -> Tensor:
        ctx.penalty = penalty
        ctx.save_for_backward(*tensors)
        return penalty.value(tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled():  # with create_graph: only autograd's gradient has a gradient of its own
            value = ctx.penalty.value(tensors)
            found = torch.autograd.grad(value, tensors, grad, create_graph=True, materialize_grads=True)
            return None, *found
        found = [torch.zeros_like(x) for x in tensors]
        ctx.penalty.accumulate(found, tensors, 1.0)
        torch._foreach_mul_(found, grad)
        return None, *found
