"""Images out of nothing, to try things without any data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from regx.errors import UserError
from regx.parameters import Bounds
from regx.registry import register

if TYPE_CHECKING:
    from regx.data.pictures import Collection

Rows = Annotated[int, Bounds(4, 10_000_000)]
Size = Annotated[int, Bounds(1, 4096)]
Seed = Annotated[int, Bounds(0, 4294967295)]
Classes = Annotated[int, Bounds(2, 1000)]

SIZE = 32
CONTRAST = 40.0  # of a class's pattern, in gray levels; its pixels are normal with this deviation
NOISE = 50.0  # deviation of each pixel about it


@register(
    "fake", kind="image", uci_id=None, task="multiclass", rows=1000, features=3072, classes=10, source="made on the fly"
)
def fake(
    folder: Path, *, n_samples: Rows = 1000, image_size: Size | None = None, seed: Seed = 42, classes: Classes = 10
) -> Collection:
    """Noise around a coarse color pattern of each class, so that a network can learn it; made on the fly.

    All images are held in memory.

    Args:
        folder: data folder; nothing is read or written there.
        n_samples: images in all parts together.
        image_size: side in pixels; 32 by default.
        seed: seeds patterns and noise (and the split and augmentation).
        classes: number of classes.
    """
    import numpy as np

    from regx.data.pictures import STREAM_BYTES, Collection, Pictures

    size = image_size or SIZE
    if (needed := n_samples * size * size * 3) > STREAM_BYTES:
        raise UserError(
            f"{n_samples} images of {size} x {size} would take {needed / 1e9:.1f} GB; take fewer", "n_samples"
        )
    rng = np.random.default_rng(seed)
    cell = np.arange(size) * 4 // size
    patterns = rng.normal(128, CONTRAST, (classes, 4, 4, 3)).astype(np.float32)[:, cell[:, None], cell[None, :]]
    y = np.arange(n_samples) % classes
    x = np.empty((n_samples, size, size, 3), dtype=np.uint8)
    for begin in range(0, n_samples, 1024):
        part = patterns[y[begin : begin + 1024]]
        x[begin : begin + 1024] = np.clip(part + NOISE * rng.standard_normal(part.shape, dtype=np.float32), 0, 255)
    return Collection(Pictures(x, y), None, None, tuple(str(label) for label in range(classes)), "")
