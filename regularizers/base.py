"""What every regularizer can do, whatever it regularizes."""

import math
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from regx.errors import UserError


@dataclass(frozen=True)
class Coverage:
    """What a regularizer reaches.

    Attributes:
        layers: names of the layers or parameters.
        units: number of units, over all layers; `None` where they are not known (yet) or do not matter.
        parameters: number of penalised parameters; `None` for a regularizer of activations.
    """

    layers: tuple[str, ...]
    units: int | None = None
    parameters: int | None = None

    def __str__(self) -> str:
        ends = self.layers[0] if len(self.layers) == 1 else f"{self.layers[0]} ... {self.layers[-1]}"
        parts = [f"{len(self.layers):,} layer{'s' * (len(self.layers) != 1)} ({ends})"]
        parts += [f"{self.units:,} units"] if self.units is not None else []
        parts += [f"{self.parameters:,} parameters"] if self.parameters is not None else []
        return ", ".join(parts)


class Regularizer:
    """A penalty on a model, or a rule applied to it after every step.

        with Jumpstart(model) as regularizer:
            loss = task_loss(model(x), y) + regularizer.strength * regularizer.loss
            loss.backward()
            optimizer.step()
            regularizer.step(lr)

    A subclass implements `loss` and `coverage`, and whatever of `step`, `detach` and the state it needs.
    """

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
        """Unscaled penalty of the last forward pass: 0-dimensional, differentiable."""
        raise NotImplementedError

    def step(self, lr: float) -> None:
        """What follows an optimiser step taken with learning rate `lr`: a proximal step, a mask; nothing by default."""

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
