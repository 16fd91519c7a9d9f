"""What a run learns from: tensors of its parts, and what a model must know about them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Task = Literal["binary", "multiclass", "regression"]


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a dataset.

    Attributes:
        x: inputs, float32, (N, F) or (N, C, H, W).
        y: class indices, int64, (N,), or regression targets, float32, (N, T).
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device | str) -> Split:
        """The same part on another device."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True, eq=False)
class DataModule:
    """A dataset, split and ready to train on.

    Attributes:
        name: what the user typed.
        task: `binary`, `multiclass` or `regression`.
        train: the rows to learn from; every statistic (mean, imputed value, category) comes from them alone.
        val: the rows to choose hyperparameters by.
        test: the rows to report, or None.
        classes: class names in the order of the class indices; empty for regression.
        features: input names after one-hot encoding; empty for images.
        target_mean: per target, what was subtracted from y, in the target's unit; empty unless regression.
        target_std: per target, what y was divided by, in the target's unit; empty unless regression.
        notes: one line each, what the user must be told.
    """

    name: str
    task: Task
    train: Split
    val: Split
    test: Split | None
    classes: tuple[str, ...]
    features: tuple[str, ...]
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch axis."""
        return tuple(self.train.x.shape[1:])

    @property
    def output_size(self) -> int:
        """Outputs of a model: 1 logit for binary, K for multiclass, T for regression."""
        if self.task == "binary":
            return 1
        return len(self.classes) if self.task == "multiclass" else int(self.train.y.shape[1])

    def sizes(self) -> dict[str, int]:
        """Rows of each part."""
        return {"train": len(self.train), "val": len(self.val), "test": len(self.test) if self.test else 0}

    def to(self, device: torch.device | str) -> DataModule:
        """The same data on another device."""
        test = None if self.test is None else self.test.to(device)
        return dataclasses.replace(self, train=self.train.to(device), val=self.val.to(device), test=test)
