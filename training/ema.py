"""Exponential moving average of the weights (Polyak averaging), and of the running statistics that go with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Ema:
    """Average of parameters over the steps of training: avg = beta avg + (1 - beta) w, divided by 1 - beta^t.

    The division corrects for the start at zero, so that after one step the average is the weights themselves (as in
    AMLab-Amsterdam/L0_regularization). A weight that is exactly zero has an average of exactly zero: otherwise every
    weight that a penalty has set to zero on the way would be back.

    Args:
        parameters: what to average.
        beta: factor, at least 0 and below 1.
    """

    def __init__(self, parameters: Sequence[Tensor], beta: float) -> None:
        self.parameters = list(parameters)
        self.beta = beta
        self.steps = 0
        self.average = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the weights after a step into the average."""
        self.steps += 1
        torch._foreach_lerp_(self.average, self.parameters, 1 - self.beta)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the average into the parameters, and the parameters back at the end; nothing before the first step."""
        if not self.steps:
            yield
            return
        kept = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            averages = torch._foreach_div(self.average, 1 - self.beta**self.steps)
            for p, average in zip(self.parameters, averages, strict=True):
                p.copy_(average.masked_fill_(p == 0, 0))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, kept)

    def state_dict(self) -> dict[str, Any]:
        """Average and number of steps."""
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self.steps = state["steps"]
        with torch.no_grad():
            torch._foreach_copy_(self.average, state["average"])
