"""Many runs at once by `torch.func`: `vmap` of the gradient over stacked parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peers.task import BATCH, LR, STRENGTH, HookedJumpstart, Task, hits, task_loss
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap


class Stacked:
    """Runs of seeds 0, 1, ..., in the way of PyTorch's tutorial on model ensembling.

    Each run has its own weights and its own order of the rows. A fused Adam steps all of them.

    Args:
        task: what to learn.
        runs: how many.
    """

    def __init__(self, task: Task, runs: int) -> None:
        self.runs = runs
        models = [task.model(seed) for seed in range(runs)]
        self.x, self.y = task.train()
        self.val = task.val()
        # Detached: their gradients come from `grad`, and autograd is to record nothing beside it.
        self.parameters = {name: value.detach() for name, value in stack_module_state(models)[0].items()}
        self.model = models[0]
        self.jumpstart = HookedJumpstart(self.model)
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=LR, fused=True)
        self._gradients = vmap(grad_and_value(self._loss))
        self._losses_and_hits = vmap(self._validate, in_dims=(0, None, None))

    def _loss(self, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        output = functional_call(self.model, dict(parameters), (x,))
        return task_loss(output, y) + STRENGTH * self.jumpstart.loss

    def _validate(self, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        output = functional_call(self.model, dict(parameters), (x,))
        return task_loss(output, y) + STRENGTH * self.jumpstart.loss, hits(output, y)

    def gradients(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of all parameters, and losses (R,), of a batch (R, B, F) with labels (R, B)."""
        gradients, losses = self._gradients(self.parameters, x, y)
        return gradients, losses

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Trains all runs on a batch (R, B, F) with labels (R, B); their losses before that, (R,)."""
        gradients, losses = self.gradients(x, y)
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name]
        self.optimizer.step()
        return losses

    def train_epoch(self) -> list[float]:
        """Trains on all rows, every run in a new order of its own; the mean losses."""
        rows = len(self.y)
        order = torch.rand(self.runs, rows, device=self.y.device).argsort(1)
        total = torch.zeros(self.runs, device=self.y.device)
        for batch in order.split(BATCH, 1):
            total += self.step(self.x[batch], self.y[batch]) * batch.shape[1]
        return (total / rows).tolist()

    @torch.no_grad()
    def validate(self) -> tuple[list[float], list[float]]:
        """Losses and accuracies of the validation rows, one per run."""
        losses, correct = self._losses_and_hits(self.parameters, *self.val)
        return losses.tolist(), (correct / len(self.val[1])).tolist()

    def logged_epoch(self) -> None:
        """Trains and validates."""
        self.train_epoch()
        self.validate()
