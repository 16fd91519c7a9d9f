"""What every regularizer can do, whatever it regularizes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from regx.errors import UserError


@dataclass(frozen=True)
class Coverage:
    """What a regularizer reaches: one entry per layer in each of the tuples.

    Attributes:
        layers: names of the layers or parameters.
        groups: how many things the penalty counts in each layer; empty where that is not known (yet).
        parameters: how many parameters it reaches in each layer; empty for a regularizer of activations.
        unit: what the groups are, in the plural (`units`, `filters`, `gates`).
        total: number of groups, where they span layers and so are fewer than the sum over layers.
    """

    layers: tuple[str, ...]
    groups: tuple[int, ...] = ()
    parameters: tuple[int, ...] = ()
    unit: str = "units"
    total: int | None = None

    def folded(self) -> list[tuple[str, ...]]:
        """Lines of a table: layers, and for each of them the number of groups and of parameters.

        Neighbours with the same numbers share a line: `hidden.layer1.weight ... hidden.layer49.weight (49 layers)`.
        """
        groups = self.groups or (0,) * len(self.layers)
        counts = list(zip(groups, self.parameters or (0,) * len(self.layers), strict=True))
        lines: list[tuple[str, ...]] = []
        begin = 0
        for end in range(1, len(self.layers) + 1):
            if end == len(self.layers) or counts[end] != counts[begin]:
                many = end - begin
                name = self.layers[begin] + (f" ... {self.layers[end - 1]} ({many} layers)" if many > 1 else "")
                each = " each" if many > 1 else ""
                shown = zip(counts[begin], (self.unit, "parameters"), strict=True)
                lines.append((name, *(f"{count:,} {what}{each}" for count, what in shown if count)))
                begin = end
        return lines

    def __str__(self) -> str:
        ends = self.layers[0] if len(self.layers) == 1 else f"{self.layers[0]} ... {self.layers[-1]}"
        parts = [f"{len(self.layers):,} layer{'s' * (len(self.layers) != 1)} ({ends})"]
        if self.groups:
            count = sum(self.groups) if self.total is None else self.total
            parts.append(f"{count:,} {self.unit}")
        if self.parameters:
            parts.append(f"{sum(self.parameters):,} parameters")
        return ", ".join(parts)


class Regularizer:
    """A penalty on a model, or a rule applied to it after every optimiser step.

        with Jumpstart(model) as regularizer:
            loss = task_loss(model(x), y) + regularizer.strength * regularizer.loss
            loss.backward()
            optimizer.step()
            regularizer.step(optimizer)

    A subclass implements `loss` and `coverage`, and whatever of `step`, `detach` and the state it needs.
    """

    # Whether `loss` depends on the parameters alone; `add_gradients` is then the fast way to train on it.
    of_parameters = False

    # Whether there is a `loss` to speak of; a mask has none.
    has_loss = True

    # Whether `step` takes the place of the gradient of `loss`.
    prox = False

    @property
    def turn(self) -> int:
        """Which of several acts first on the same weights: 0 for elements, 1 for groups, 2 for masks.

        The soft threshold of elements before that of groups is the proximal step of both, and what a mask holds at zero
        shall not be moved by another.
        """
        return 0

    _strength = 1.0

    @property
    def strength(self) -> float:
        """Factor of `loss` in the training loss (default 1); a trainer or a schedule may set it at any time.

        Raises:
            UserError: when set to something negative, infinite or not a number.
        """
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        if not (value >= 0 and math.isfinite(value)):
            raise UserError(f"{value!r} is not a finite number of at least 0", "strength")
        self._strength = float(value)

    @property
    def loss(self) -> Tensor:
        """Unscaled penalty, of the last forward pass or of the weights as they are: 0-dimensional, differentiable."""
        raise NotImplementedError

    def add_gradients(self) -> None:
        """Adds the gradient of `strength * loss` to the `.grad` of the parameters (`of_parameters` only).

        It replaces `strength * loss` in the training loss, where a closed form beside autograd is cheaper: call it
        between `backward` and the optimiser's step (and after `unscale_`, where a gradient scaler is used).
        """
        raise NotImplementedError(f"{type(self).__name__} depends on the forward pass: add strength * loss to the loss")

    def step(self, optimizer: Optimizer | float) -> None:
        """What follows an optimiser step: a proximal step, a mask; nothing by default.

        Args:
            optimizer: the optimiser that took the step, from which the step size of every parameter is read, or, for
                plain gradient descent, the learning rate.
        """

    def parameters(self) -> Iterable[nn.Parameter]:
        """Parameters of the regularizer's own (gates), to be given to the optimiser, without weight decay."""
        return ()

    def zero_share(self) -> Tensor | None:
        """Share of its groups that are exactly zero, 0-d; None for a regularizer that makes no zeros."""
        return None

    def fold(self) -> None:
        """Bakes into the weights what is not in them yet (gates), so that the model alone computes the same."""

    def coverage(self) -> Coverage:
        """What the regularizer reaches."""
        raise NotImplementedError

    def detach(self) -> None:
        """Removes from the model whatever the regularizer put there."""

    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs; empty where the regularizer has no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`.

        Raises:
            UserError: the state is another regularizer's.
        """
        if state:
            raise UserError(f"{type(self).__name__} has no state, but was given {', '.join(map(repr, state))}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()
