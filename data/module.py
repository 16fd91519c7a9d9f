"""What a run learns from: tensors of its parts, and what a model must know about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

Task = Literal["binary", "multiclass", "regression"]


class Batch(NamedTuple):
    """Some rows of a split, on its device.

    Attributes:
        x: inputs as the model sees them, float32, (B, F) or (B, C, H, W).
        y: their labels, (B,) or (B, T).
        skipped: rows that were asked for and left out, because their image cannot be decoded.
    """

    x: Tensor
    y: Tensor
    skipped: int = 0


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a dataset; this kind holds its inputs ready made, in memory.

    `regx.data.resident.ImageSplit` and `regx.data.streamed.StreamedSplit` are its other kinds. Whoever uses only
    `batches`, `sample`, `shape`, `y` and `len` can use all three.

    Attributes:
        x: what the inputs are made from; here the inputs themselves, float32, (N, F) or (N, C, H, W).
        y: class indices, int64, (N,), or regression targets, float32, (N, T).
        streamed: whether inputs are read from files while they are used.
    """

    x: Tensor
    y: Tensor
    streamed: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input as the model sees it, without the batch axis."""
        return tuple(self.x.shape[1:])

    def to(self, device: torch.device | str) -> Self:
        """The same part on another device."""
        return dataclasses.replace(self, x=self.x.to(device), y=self.y.to(device))

    def sample(self, count: int) -> Tensor:
        """The first `count` inputs as in evaluation, float32, (count, ...); fewer where there are fewer."""
        return next(self.batches([slice(0, count)])).x

    def batches(self, rows: Iterable[Tensor | slice], epoch: int | None = None) -> Iterator[Batch]:
        """Yields one batch per entry of `rows`.

        Args:
            rows: row numbers of each batch, int64, (B,), on the CPU or on this device; or a slice.
            epoch: None for evaluation; from 1 for training, where augmentation is drawn from the dataset's seed, the
                epoch and the row alone, whatever the batch size, the number of processes, or where a run was resumed.
        """
        for index in rows:
            yield Batch(self.x[index], self.y[index])


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

    def __repr__(self) -> str:
        sizes = "/".join(str(size) for size in self.sizes().values())
        shape = "x".join(map(str, self.input_shape))
        return f"DataModule({self.name}: {sizes} rows, {shape} inputs, {len(self.classes)} classes)"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch axis."""
        return self.train.shape

    @property
    def images(self) -> bool:
        """Whether a sample is an image, (C, H, W)."""
        return len(self.input_shape) == 3

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
