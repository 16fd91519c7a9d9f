"""From image arrays or files to a `DataModule`: subset, split, decode, mean and std of the training rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regx.data import splits
from regx.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from regx.data.augmentation.pipeline import Step
    from regx.data.module import DataModule
    from regx.data.resident import ImageSplit
    from regx.data.streamed import StreamedSplit

VAL_SHARE = 0.1  # of the training images that validate by default
FILE_SIZE = 224  # default side of images that come as files
STREAM_BYTES = 2_000_000_000  # more than this, decoded, stays in its files
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of its training images in [0, 1]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images with their labels.

    Attributes:
        x: uint8, (N, H, W, C), or paths as bytes, (N,).
        y: class indices, int64, (N,).
    """

    x: np.ndarray
    y: np.ndarray

    def take(self, rows: np.ndarray) -> Pictures:
        """Those rows."""
        return Pictures(self.x[rows], self.y[rows])


@dataclass(frozen=True, eq=False)
class Collection:
    """A set of images in its official parts.

    Attributes:
        train: what training and, where `val` is None, validation rows are taken from.
        val: an official validation part beside an official test part.
        test: the official test part; where there is only an official validation part, that.
        classes: class names in index order.
        where: the folder or file it was read from; empty for what is made on the fly.
        size: side of its images in pixels where that is fixed.
    """

    train: Pictures
    val: Pictures | None
    test: Pictures | None
    classes: tuple[str, ...]
    where: str
    size: int | None = None


def assemble(
    name: str,
    collection: Collection,
    *,
    seed: int,
    val_size: float | None,
    test_size: float | None,
    standardize: bool,
    subset: int | None,
    image_size: int | None,
    augment: list[str],
    workers: int | str,
    corrupt: str,
    stream: str,
) -> DataModule:
    """Splits a set of images and makes it ready to train on.

    Args:
        name: what the user typed.
        collection: the images.
        val_size: share of the training images; None for the set's own part, else `VAL_SHARE`.
        test_size: share of the training images; None for the set's own part, else `splits.SHARE`.

    The other options are those of `regx.data.create`.

    Raises:
        UserError: too few images, or an option that does not fit.
        RunFailed: an image cannot be decoded.
    """
    from regx.data.augmentation.pipeline import parse, try_out
    from regx.data.module import DataModule

    steps = parse(augment)
    notes = [f"{name}: read from {collection.where}"] if collection.where else []
    train, val, test = _parts(name, collection, seed, val_size, test_size, subset, notes)
    parts = [train, val, *([test] if test else [])]
    size = image_size or collection.size
    if train.x.ndim == 1:
        size = size or FILE_SIZE
        decoded = sum(len(part.y) for part in parts) * size * size * 3
        streamed = stream == "yes" or (stream == "auto" and decoded > STREAM_BYTES)
        if workers != "auto" and not streamed:
            raise UserError(
                f"the images of {name} are decoded once, before training; leave it out, or use stream yes", "workers"
            )
    else:
        streamed = False
        changed = {"stream": stream == "yes", "workers": workers != "auto", "corrupt": corrupt == "skip"}
        for option, idle in changed.items():
            if idle:
                raise UserError(f"the images of {name} are no files; leave it out", option)
    height, width = train.x.shape[1:3] if size is None else (size, size)
    try_out(steps, 3 if train.x.ndim == 1 else train.x.shape[3], height, width)
    if streamed:
        assert size is not None
        made = _streamed(parts, size, steps, standardize, seed, workers, corrupt)
        said = "mean and std are ImageNet's" if standardize else "not standardized"
        notes.append(f"streamed from files by {made[0].workers} worker(s) for each part; {said}")
    else:
        made = _resident(parts, size, steps, standardize, seed, corrupt, notes)
    return DataModule(
        name=name,
        task="multiclass",
        train=made[0],
        val=made[1],
        test=made[2] if test else None,
        classes=collection.classes,
        features=(),
        notes=tuple(notes),
    )


def _parts(
    name: str,
    collection: Collection,
    seed: int,
    val_size: float | None,
    test_size: float | None,
    subset: int | None,
    notes: list[str],
) -> tuple[Pictures, Pictures, Pictures | None]:
    """Training, validation and test images, after `subset`."""
    for option, given, part in (("val_size", val_size, collection.val), ("test_size", test_size, collection.test)):
        if given is not None and part is not None:
            raise UserError(f"{name} has such a part of its own; leave it out", option)
    train, val, test = (
        None if part is None else _subset(part, subset, seed)
        for part in (collection.train, collection.val, collection.test)
    )
    assert train is not None
    if subset is not None and subset > len(train.y):
        notes.append(f"subset={subset}: there are only {len(train.y)} training images, all of them are used")
    if val is None:
        val_share = VAL_SHARE if val_size is None else val_size
        test_share = 0.0 if test is not None else splits.SHARE if test_size is None else test_size
        n = len(train.y)
        spare = sum(count - 1 for count in Counter(train.y.tolist()).values())
        labels = train.y
        if spare < round(val_share * n) + round(test_share * n):
            labels = None
            notes.append(f"{n} images are too few to have every class in training: split without regard to classes")
        try:
            parts = splits.split(labels, n, val_size=val_share, test_size=test_share, seed=seed)
        except UserError as error:
            raise UserError(f"{name}: {error.message}") from error
        if test is None and len(parts.test):
            test = train.take(parts.test)
        train, val = train.take(parts.train), train.take(parts.val)
    return train, val, test


def _subset(part: Pictures, subset: int | None, seed: int) -> Pictures:
    if subset is None or subset >= len(part.y):
        return part
    return part.take(splits.subset(part.y, len(part.y), size=subset, seed=seed))


def _resident(
    parts: list[Pictures],
    size: int | None,
    steps: tuple[Step, ...],
    standardize: bool,
    seed: int,
    corrupt: str,
    notes: list[str],
) -> list[ImageSplit]:
    """Images in memory; the first part is the training one, which gives mean and std and alone is augmented."""
    import torch

    from regx.data.augmentation.pipeline import Pipeline
    from regx.data.decoding import decode
    from regx.data.resident import ImageSplit

    loaded: list[Pictures] = []
    for part in parts:
        if part.x.ndim == 1:
            images, kept, note = decode(part.x, size or FILE_SIZE, corrupt)
            loaded.append(Pictures(images, part.y[kept]))
            notes += [note] if note else []
        else:
            loaded.append(Pictures(_resized(part.x, size), part.y))
    mean, std = scaling(loaded[0].x) if standardize else identity(loaded[0].x.shape[3])
    return [
        ImageSplit(
            torch.from_numpy(part.x),
            torch.from_numpy(part.y),
            pipeline=Pipeline(mean, std, seed, () if index else steps),
        )
        for index, part in enumerate(loaded)
    ]


def _streamed(
    parts: list[Pictures],
    size: int,
    steps: tuple[Step, ...],
    standardize: bool,
    seed: int,
    workers: int | str,
    corrupt: str,
) -> list[StreamedSplit]:
    """Images in their files; mean and std are ImageNet's, as reading every file once for them would take too long."""
    import torch

    from regx.data.augmentation.pipeline import Pipeline
    from regx.data.decoding import Box
    from regx.data.streamed import StreamedSplit, worker_count

    mean, std = IMAGENET if standardize else identity(3)
    # A box is cut from the file in its full resolution, by the workers.
    box = next((Box(**step.options) for step in steps if step.info.name == "resized_crop"), None)
    rest = tuple(step for step in steps if step.info.name != "resized_crop")
    return [
        StreamedSplit(
            torch.arange(len(part.y)),
            torch.from_numpy(part.y),
            files=part.x,
            size=size,
            pipeline=Pipeline(mean, std, seed, () if index else rest),
            box=None if index else box,
            workers=worker_count(workers),
            corrupt=corrupt,
        )
        for index, part in enumerate(parts)
    ]


def scaling(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (population; 1 where it is 0) of each channel of uint8 (N, H, W, C), over 255.

    Exact: from the counts of the 256 values.
    """
    import numpy as np

    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[3]):
        counts = np.bincount(images[..., channel].reshape(-1), minlength=256)
        center = float((counts * levels).sum() / counts.sum())
        spread = float(((counts * (levels - center) ** 2).sum() / counts.sum()) ** 0.5)
        mean.append(center)
        std.append(spread if counts.max() < counts.sum() else 1.0)
    return tuple(mean), tuple(std)


def identity(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean 0 and deviation 1: pixels stay in [0, 1]."""
    return (0.0,) * channels, (1.0,) * channels


def _resized(images: np.ndarray, size: int | None) -> np.ndarray:
    """Arrays with their shorter side resized to `size` and the middle cropped to a square; None leaves them alone."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    height, width = images.shape[1:3]
    if size is None or (height, width) == (size, size):
        return np.ascontiguousarray(images)
    scale = size / min(height, width)
    rows, columns = max(round(height * scale), size), max(round(width * scale), size)
    top, left = (rows - size) // 2, (columns - size) // 2
    made = np.empty((len(images), size, size, images.shape[3]), dtype=np.uint8)
    for begin in range(0, len(images), 1024):
        chunk = torch.from_numpy(images[begin : begin + 1024]).permute(0, 3, 1, 2).float()
        chunk = F.interpolate(chunk, (rows, columns), mode="bilinear", antialias=True).round().clamp(0, 255)
        chunk = chunk[:, :, top : top + size, left : left + size].to(torch.uint8)
        made[begin : begin + 1024] = chunk.permute(0, 2, 3, 1).numpy()
    return made
