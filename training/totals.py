"""Sums over the batches of an epoch, kept on the device, and the row of means and metrics they become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regx.training.distributed import World
from regx.training.objective import Objective
from regx.training.penalty import Penalty


class Totals:
    """Task loss, penalties of the forward pass and metrics, summed over rows.

    Args:
        objective: the task.
        penalties: all penalties of the run.
        task_loss: whether the total loss contains the task loss.
        skips: whether to tell how many images were left out, as they cannot be decoded.
    """

    def __init__(
        self, objective: Objective, penalties: Sequence[Penalty], *, task_loss: bool, skips: bool = False
    ) -> None:
        self._objective = objective
        self._penalties = penalties
        self._task_loss = task_loss
        self._skips = skips
        self._rows = 0
        self._skipped = 0
        self._losses: Tensor | float = 0.0
        self._counts: Tensor | float = 0.0

    def add(self, loss: Tensor, penalties: Sequence[Tensor], output: Tensor, y: Tensor, skipped: int = 0) -> None:
        """Adds a batch: its task loss and penalties count as often as it has rows.

        Args:
            loss: task loss, 0-d.
            penalties: losses of the penalties that depend on the forward pass, 0-d each.
            output: (N, K) of the network.
            y: (N,) or (N, T) targets.
            skipped: images of the batch that could not be decoded.
        """
        self._rows += len(y)
        self._skipped += skipped
        self._losses = self._losses + torch.stack([loss.float(), *(p.float() for p in penalties)]).double() * len(y)
        self._counts = self._counts + self._objective.counts(output, y)

    def state_dict(self, world: World) -> dict[str, Any]:
        """The sums of all processes together; `load_state_dict` of one process goes on from them."""
        assert isinstance(self._losses, Tensor) and isinstance(self._counts, Tensor)
        numbers = torch.tensor([self._rows, self._skipped], device=self._losses.device)
        rows, skipped = world.sum(numbers).tolist() if world.size > 1 else (self._rows, self._skipped)
        return {
            "rows": rows,
            "skipped": skipped,
            "losses": world.sum(self._losses),
            "counts": world.sum(self._counts),
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restores `state_dict()`."""
        self._rows, self._skipped = state["rows"], state["skipped"]
        self._losses, self._counts = state["losses"].to(device), state["counts"].to(device)

    def merge(self, world: World) -> None:
        """Takes in the sums of the other processes."""
        if world.size > 1:
            state = self.state_dict(world)
            self.load_state_dict(state, state["losses"].device)

    def metrics(self, stage: str, y: Tensor) -> dict[str, Tensor]:
        """Means and metrics of all batches under their log keys, as 0-d tensors; no host sync.

        Args:
            stage: `train`, `val` or `test`.
            y: (N,) or (N, T) targets of all batches, in any order.
        """
        assert isinstance(self._losses, Tensor) and isinstance(self._counts, Tensor)
        mean = self._losses / self._rows
        values = {f"{stage}/loss": mean[0]}
        total = mean[0] if self._task_loss else mean[0] * 0.0
        in_forward = [penalty for penalty in self._penalties if penalty.of_forward]
        of_forward = dict(zip((p.label for p in in_forward), mean[1:], strict=True))
        for penalty in self._penalties:
            if not penalty.regularizer.has_loss:
                continue
            with torch.no_grad():  # of the weights: as they are now
                value = of_forward[penalty.label] if penalty.label in of_forward else penalty.loss().double()
            values[f"{stage}/{penalty.label}"] = value
            if penalty.schedule.peak > 0:
                values[f"{stage}/scaled_{penalty.label}"] = penalty.strength * value
                total = total + penalty.strength * value
        values[f"{stage}/total_loss"] = total
        if self._skips:
            values[f"{stage}/skipped"] = total.new_tensor(self._skipped)
        found = self._objective.metrics(self._counts, y, self._rows)
        return values | {f"{stage}/{name}": value for name, value in found.items()}


def to_floats(values: dict[str, Tensor]) -> dict[str, float]:
    """Fetches 0-d tensors from the device in one transfer."""
    packed = torch.stack([value.to(torch.float64) for value in values.values()]).tolist()
    return dict(zip(values, packed, strict=True))
