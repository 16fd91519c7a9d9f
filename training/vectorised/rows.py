"""A part of the data of R runs, batch by batch for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from regx.data.module import Split
from regx.data.resident import ImageSplit
from regx.errors import RunFailed

AnySplit = TypeVar("AnySplit", bound=Split)


class Rows:
    """Inputs that are held ready made.

    Args:
        splits: of the runs.

    Attributes:
        x: (R, N, ...), or (1, N, ...) where it is the same for all.
        y: (R, N) or (R, N, T), or with 1 in the place of R.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        kept = _distinct(splits)
        self.x, self.y = torch.stack([s.x for s in kept]), torch.stack([s.y for s in kept])
        self._offsets = torch.arange(len(kept), device=self.x.device).unsqueeze(1) * len(splits[0])

    def __len__(self) -> int:
        return self.x.shape[1]

    def batches(self, plan: Sequence[Tensor], epochs: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (R, B, ...) and labels (R, B) of training.

        Args:
            plan: rows (R, B) of every batch.
            epochs: of every run, by which augmentation is drawn.
        """
        for rows in plan:
            at = rows + self._offsets
            yield self.x.flatten(0, 1)[at], self.y.flatten(0, 1)[at]

    def cut(self, begin: int, end: int, runs: int) -> tuple[Tensor, Tensor]:
        """Inputs (R, B, ...) or (1, B, ...), and labels (R, B), of consecutive rows, as in evaluation."""
        y = self.y[:, begin:end]
        return self.x[:, begin:end], y.expand(runs, *y.shape[1:])

    def keep(self, runs: Tensor) -> None:
        """Forgets the other runs."""
        if len(self.x) > 1:
            self.x, self.y, self._offsets = self.x[runs], self.y[runs], self._offsets[: len(runs)]


class Pictures:
    """Images that are made into inputs when they are needed; the same face as that of `Rows`."""

    def __init__(self, splits: Sequence[ImageSplit]) -> None:
        self._splits = _distinct(splits)

    def __len__(self) -> int:
        return len(self._splits[0])

    def batches(self, plan: Sequence[Tensor], epochs: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Rows.batches`."""
        runs = len(epochs)
        if len(self._splits) == 1 and len(set(epochs)) == 1:
            shapes = [rows.shape for rows in plan]
            batches = self._splits[0].batches((rows.flatten() for rows in plan), epochs[0])
            for batch, shape in zip(batches, shapes, strict=True):
                yield batch.x.unflatten(0, shape).contiguous(), batch.y.unflatten(0, shape)
            return
        splits = self._splits if len(self._splits) > 1 else self._splits * runs
        feeds = [
            split.batches([rows[run] for rows in plan], epoch)
            for run, (split, epoch) in enumerate(zip(splits, epochs, strict=True))
        ]
        for batches in zip(*feeds, strict=True):
            yield torch.stack([batch.x.contiguous() for batch in batches]), torch.stack([batch.y for batch in batches])

    def cut(self, begin: int, end: int, runs: int) -> tuple[Tensor, Tensor]:
        """See `Rows.cut`."""
        batches = [next(split.batches([slice(begin, end)])) for split in self._splits]
        y = torch.stack([batch.y for batch in batches])
        return torch.stack([batch.x.contiguous() for batch in batches]), y.expand(runs, *y.shape[1:])

    def keep(self, runs: Tensor) -> None:
        """Forgets the other runs."""
        if len(self._splits) > 1:
            self._splits = [self._splits[run] for run in runs.tolist()]


def rows_of(splits: Sequence[Split]) -> Rows | Pictures:
    """A part of the data of runs.

    Raises:
        RunFailed: images are streamed from files.
    """
    if any(split.streamed for split in splits):
        raise RunFailed("images that are streamed from files cannot be trained on by this engine; use --engine single")
    images = [split for split in splits if isinstance(split, ImageSplit)]
    return Pictures(images) if images else Rows(splits)


def _distinct(splits: Sequence[AnySplit]) -> list[AnySplit]:
    """The first one where all are the same, else all."""
    first = splits[0]
    same = all(s is first or _equal(s, first) for s in splits[1:])
    return list(splits[:1] if same else splits)


def _equal(one: Split, other: Split) -> bool:
    made = [split.pipeline for split in (one, other) if isinstance(split, ImageSplit)]
    return made[:1] == made[1:] and torch.equal(one.x, other.x) and torch.equal(one.y, other.y)
