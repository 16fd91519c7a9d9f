"""A plain PyTorch loop, one run: DataLoader, hooks, Adam as it comes, `.item()` after every step."""

from __future__ import annotations

import torch
from peers.task import BATCH, LR, STRENGTH, HookedJumpstart, Task, hits, task_loss
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


class PlainLoop:
    """One run in the way of PyTorch's tutorials.

    Args:
        task: what to learn.
        seed: of the weights.
    """

    runs = 1

    def __init__(self, task: Task, seed: int = 0) -> None:
        self.device = task.device
        self.model = task.model(seed)
        self.jumpstart = HookedJumpstart(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LR)
        # Rows lie on the CPU, where a DataLoader stacks them one by one.
        self.train_loader, self.val_loader = (
            DataLoader(TensorDataset(x.cpu(), y.cpu()), BATCH, shuffle=shuffle)
            for (x, y), shuffle in ((task.train(), True), (task.val(), False))
        )

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """What is minimised: cross-entropy and Jumpstart of a batch."""
        return task_loss(self.model(x), y) + STRENGTH * self.jumpstart.loss

    def step(self, x: Tensor, y: Tensor) -> float:
        """Trains on a batch; its loss before that."""
        self.optimizer.zero_grad()
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def train_epoch(self) -> float:
        """Trains on all rows in a new order; their mean loss."""
        self.model.train()
        total, rows = 0.0, 0
        for x, y in self.train_loader:
            total += self.step(x.to(self.device), y.to(self.device)) * len(y)
            rows += len(y)
        return total / rows

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Mean loss and accuracy of the validation rows."""
        self.model.eval()
        total, correct, rows = 0.0, 0.0, 0
        for x, y in self.val_loader:
            x, y = x.to(self.device), y.to(self.device)
            output = self.model(x)
            total += (task_loss(output, y) + STRENGTH * self.jumpstart.loss).item() * len(y)
            correct += hits(output, y).item()
            rows += len(y)
        return total / rows, correct / rows

    def logged_epoch(self) -> None:
        """Trains and validates."""
        self.train_epoch()
        self.validate()
