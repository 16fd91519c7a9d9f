"""A regularizer in a run: its strength from epoch to epoch, its name in the log, its state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regx.regularizers import Regularizer, Strength


class Penalty:
    """A regularizer at work.

    Args:
        regularizer: attached to the model.
        schedule: its strength over the epochs.
        name: its name in the registry.
        label: name of its loss in the log (`JR_loss`).
        epochs: epochs of the run.
    """

    def __init__(self, regularizer: Regularizer, schedule: Strength, name: str, label: str, epochs: int) -> None:
        self.regularizer = regularizer
        self.schedule = schedule
        self.name = name
        self.label = label
        self.epochs = epochs
        self.controller = schedule.controller(epochs)

    @property
    def of_forward(self) -> bool:
        """Whether its loss depends on the forward pass."""
        return self.regularizer.has_loss and not self.regularizer.of_parameters

    @property
    def strength(self) -> float:
        """Its strength in this epoch."""
        return self.regularizer.strength

    def begin(self, epoch: int) -> None:
        """Sets the strength for an epoch, counted from 1."""
        controller = self.controller
        self.regularizer.strength = controller.strength if controller else self.schedule.at(epoch, self.epochs)

    def end(self, epoch: int) -> None:
        """Tells what the epoch led to, where a wanted sparsity steers the strength."""
        if self.controller:
            share = self.regularizer.zero_share()
            assert share is not None  # asked when it was built
            with torch.no_grad():
                size = float(self.regularizer.loss) if self.regularizer.of_parameters else 0.0
            self.controller.update(epoch, float(share), size)

    def loss(self) -> Tensor:
        """The regularizer's loss as it goes into the training loss: clipped, where that is asked for."""
        loss = self.regularizer.loss
        return loss if self.schedule.clip is None else loss.clamp(max=self.schedule.clip)

    def describe(self) -> str:
        """Name and strength in words."""
        schedule = self.schedule
        if schedule.target_sparsity is not None:
            return f"{self.name}, steered from {schedule.base:g} to {schedule.target_sparsity:.1%} zeros"
        if schedule.peak == 0:
            return f"{self.name} at strength 0 (measured, not trained on)"
        side = "from" if schedule.schedule in ("linear", "agp") else "to"
        how = "" if schedule.schedule == "constant" else f" ({schedule.schedule}, {side} {schedule.other_end:g})"
        if self.regularizer.prox:
            how += " by proximal steps"
        return f"{self.name} x {schedule.base:g}{how}"

    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs."""
        controller = self.controller.state_dict() if self.controller else {}
        return {"regularizer": self.regularizer.state_dict(), "strength": self.strength, "controller": controller}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self.regularizer.strength = state["strength"]
        self.regularizer.load_state_dict(state["regularizer"])
        if self.controller:
            self.controller.load_state_dict(state["controller"])
