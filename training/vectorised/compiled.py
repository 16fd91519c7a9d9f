"""A group whose epochs are one call of the native engine each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regx.training.loop import EVALUATION_ROWS
from regx.training.vectorised import native
from regx.training.vectorised.native import Constraints, Measured, Parameters
from regx.training.vectorised.network import Network
from regx.training.vectorised.rows import Rows
from regx.training.vectorised.status import Statuses

if TYPE_CHECKING:
    from regx.training.vectorised.group import Group, Sums


class Compiled:
    """Epochs and evaluations of a group by the native engine, on the same memory as the PyTorch engine.

    Args:
        group: of runs that `grouping.native_obstacle` has nothing against.

    Raises:
        RunFailed: there is no native engine on this machine.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        assert isinstance(group.network, Network)
        self.shape = group.network.shape
        self.kernel = native.load(self.shape.width, group.network.activation)
        terms = group.terms
        self._constraints = Constraints(*terms.kept, terms.margins[0], -terms.margins[1])

    def train(self, order: Tensor, record: bool) -> Sums:
        """Trains all runs for an epoch; `order` (R, rows)."""
        group, optimizer = self.group, self.group.optimizer
        rows = group.data["train"]
        assert isinstance(rows, Rows)
        order = order[:, : group.steps * group.batch_size].contiguous()  # --drop-last leaves some out
        config = group.config
        more: dict[str, Any] = {"momentum": optimizer.momentum} if config.optimizer == "sgd" else {}
        measured = self.kernel.train(
            rows.x,
            rows.y,
            order,
            group.batch_size,
            self._parameters(optimizer.weights),
            self._parameters(optimizer.first),
            self._parameters(optimizer.second) if config.optimizer != "sgd" else None,
            task=group.objectives.task,
            optimizer=config.optimizer,
            lr=optimizer.rates,
            t=optimizer.steps,
            decay=optimizer.decays[0].contiguous(),
            decay_biases=optimizer.decays[1].contiguous(),
            nesterov=config.nesterov,
            grad_clip=optimizer.clips,
            strength=group.strengths.double(),
            clip=group.clips,
            constraints=self._constraints,
            task_loss=config.task_loss,
            record=record,
            threads=torch.get_num_threads(),
            **more,
        )
        group.count_steps(group.steps)
        return self._sums(measured, order.shape[1])

    def evaluate(self, stage: str) -> Sums:
        """Measures all runs on a part of the data."""
        rows = self.group.data[stage]
        assert isinstance(rows, Rows)
        measured = self.kernel.evaluate(
            rows.x,
            rows.y,
            self._parameters(self.group.weights),
            task=self.group.objectives.task,
            piece=EVALUATION_ROWS,
            clip=self.group.clips,
            constraints=self._constraints,
            threads=torch.get_num_threads(),
        )
        return self._sums(measured, len(rows), pieces=-(-len(rows) // EVALUATION_ROWS))

    def _parameters(self, flat: Tensor) -> Parameters:
        parts = self.group.layout.views(flat)
        return Parameters(parts["first"][0], parts["hidden"], parts["bias"], parts["head"][0], parts["head_bias"][0])

    def _sums(self, measured: Measured | None, rows: int, pieces: int | None = None) -> Sums:
        """What was measured, as the PyTorch engine has it."""
        from regx.training.vectorised.group import Sums

        if measured is None:
            return Sums()
        group = self.group
        losses = measured.losses if group.measures_jumpstart else measured.losses[:, :1]
        statuses = None
        if group.layers:
            layers = (tuple(range(self.shape.depth)),)
            seen = (x.flatten(1) for x in (measured.ever_positive, measured.ever_nonpositive))
            updates = group.steps if pieces is None else pieces
            statuses = Statuses(layers, (self.shape.width,), updates, rows, measured.status, *seen)
        return Sums(losses, measured.counts, rows, statuses)
