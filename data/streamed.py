"""Images that stay in their files: worker processes decode and crop them, the device does the rest."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from regx.data import decoding
from regx.data.augmentation.pipeline import Pipeline
from regx.data.module import Batch, Split

PREFETCH = 4  # batches that each worker holds ready
MOST_WORKERS = 16


class Decoded(NamedTuple):
    """What the workers make of a batch.

    Attributes:
        images: uint8, (B, H, W, C).
        rows: their row numbers, int64, (B,).
        failures: file and reason of those that cannot be decoded.
    """

    images: Tensor
    rows: Tensor
    failures: list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class StreamedSplit(Split):
    """One part of a set of image files.

    One iteration over `batches` at a time: what is left early cannot be taken up again once another has begun.

    Attributes:
        x: numbers of the files, int64, (N,).
        y: class indices, int64, (N,).
        files: paths as bytes, (N,).
        size: height and width of an input in pixels.
        pipeline: what is done on the device.
        box: bounds of a random box in training; None for the middle of the image.
        workers: decoding processes; 0 decodes in this one.
        corrupt: `error` or `skip`, for an image that cannot be decoded.
    """

    files: np.ndarray = dataclasses.field(kw_only=True)
    size: int = dataclasses.field(kw_only=True)
    pipeline: Pipeline = dataclasses.field(kw_only=True)
    box: decoding.Box | None = dataclasses.field(kw_only=True)
    workers: int = dataclasses.field(kw_only=True)
    corrupt: str = dataclasses.field(kw_only=True)
    streamed: ClassVar[bool] = True

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return 3, self.size, self.size

    def sample(self, count: int) -> Tensor:
        """The first `count` inputs that can be decoded, as in evaluation; starts no worker.

        Raises:
            RunFailed: an image before them cannot be decoded and `corrupt` is `error`, or none can.
        """
        images, good, failures = self._images(), [], []
        for row in range(len(self)):
            if len(good) == count:
                break
            item = images[row, 0]
            if isinstance(item[1], np.ndarray):
                good.append(item)
                continue
            failures.append(item[1])
            if self.corrupt == "error":
                raise decoding.cannot(*item[1])
        if failures and not good:
            raise decoding.none_can(len(self), *failures[0])
        return self._batch(_collate(good, self.size), None).x

    def batches(self, rows: Iterable[Tensor | slice], epoch: int | None = None) -> Iterator[Batch]:
        """Yields one batch per entry of `rows`; see `Split.batches`. A batch may lose rows, even all, to `corrupt`.

        Raises:
            RunFailed: an image cannot be decoded and `corrupt` is `error`.
        """
        uniforms = self.pipeline.uniforms(len(self), epoch)
        uniforms = None if uniforms is None else uniforms.to(self.y.device)
        self._requests.rows, self._requests.epoch = rows, epoch or 0
        for decoded in self._loader:
            yield self._batch(decoded, uniforms)

    def _batch(self, decoded: Decoded, uniforms: Tensor | None) -> Batch:
        if decoded.failures and self.corrupt == "error":
            raise decoding.cannot(*decoded.failures[0])
        images = decoded.images.to(self.y.device, non_blocking=True).permute(0, 3, 1, 2)
        rows = decoded.rows.to(self.y.device, non_blocking=True)
        x = self.pipeline(images, None if uniforms is None else uniforms[rows])
        return Batch(x, self.y[rows], len(decoded.failures))

    def _images(self) -> _Images:
        return _Images(self.files, self.size, self.box, self.pipeline.seed)

    @functools.cached_property
    def _requests(self) -> _Requests:
        return _Requests(len(self))

    @functools.cached_property
    def _loader(self) -> DataLoader[Any]:
        options = {"persistent_workers": True, "prefetch_factor": PREFETCH} if self.workers else {}
        loader = DataLoader(
            self._images(),
            batch_sampler=self._requests,
            num_workers=self.workers,
            collate_fn=functools.partial(_collate, size=self.size),
            worker_init_fn=_quiet,
            generator=torch.Generator(),  # else every epoch would take a number from the run's own generator
            pin_memory=self.y.device.type == "cuda",
            **options,
        )
        # Held until the split is gone: a loader that the garbage collector takes apart waits 5 s for its workers.
        weakref.finalize(self, _let_go, loader).atexit = False
        return loader


def worker_count(workers: int | str) -> int:
    """`auto` as a number: the cores of this process, shared with its siblings under torchrun, less one.

    A single worker is slower than none: what it saves in decoding is lost in handing batches over.
    """
    if workers != "auto":
        return int(workers)
    spare = decoding.cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1
    return min(spare, MOST_WORKERS) if spare > 1 else 0


class _Requests(Sampler[list[tuple[int, int]]]):
    """The (row, epoch) pairs of each batch; epoch 0 is evaluation. All that a worker needs to know comes with them."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0
        self.rows: Iterable[Tensor | slice] = ()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for index in self.rows:
            numbers = range(self.count)[index] if isinstance(index, slice) else index.tolist()
            yield [(row, self.epoch) for row in numbers]


class _Images(Dataset[tuple[int, np.ndarray | tuple[str, str]]]):
    """Decodes one file; a failure is a value and no exception, as exceptions of workers lose their kind."""

    def __init__(self, files: np.ndarray, size: int, box: decoding.Box | None, seed: int) -> None:
        self.files, self.size, self.box, self.seed = files, size, box, seed

    def __getitem__(self, request: tuple[int, int]) -> tuple[int, np.ndarray | tuple[str, str]]:
        row, epoch = request
        path = os.fsdecode(self.files[row])
        try:
            if epoch and self.box:
                return row, decoding.boxed(path, self.size, self.box, np.random.default_rng((self.seed, epoch, row)))
            return row, decoding.centered(path, self.size, margin=decoding.RESIZE)
        except decoding.BROKEN as error:
            return row, (path, decoding.reason(error))


def _collate(items: list[tuple[int, np.ndarray | tuple[str, str]]], size: int) -> Decoded:
    good = [(row, image) for row, image in items if isinstance(image, np.ndarray)]
    images = np.stack([image for _, image in good]) if good else np.empty((0, size, size, 3), dtype=np.uint8)
    rows = torch.tensor([row for row, _ in good], dtype=torch.int64)
    return Decoded(torch.from_numpy(images), rows, [found for _, found in items if not isinstance(found, np.ndarray)])


def _let_go(loader: DataLoader[Any]) -> None:
    """Drops what is the last reference to the loader, whose workers then end."""


def _quiet(worker: int) -> None:
    """Keeps Pillow's remarks on EXIF and palettes out of the terminal."""
    warnings.simplefilter("ignore")
