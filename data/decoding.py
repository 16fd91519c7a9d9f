"""From an image file to an array of the wanted size."""

from __future__ import annotations

import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from regx.errors import RunFailed

RESIZE = 256 / 224  # of the shorter side over the centre crop, He et al. 2016
ATTEMPTS = 10  # boxes drawn before the centre is taken, as torchvision does
BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)  # what Pillow raises


@dataclass(frozen=True)
class Box:
    """Bounds of a random box, as in the augmentation `resized_crop`.

    Attributes:
        low: least share of the image's area.
        ratio: width / height is log-uniform in [1 / ratio, ratio].
    """

    low: float
    ratio: float


def centered(path: str, size: int, *, margin: float = 1.0) -> np.ndarray:
    """The middle of an image, uint8, (size, size, 3): its shorter side is resized to margin * size and then cropped.

    Raises:
        OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError: it cannot be decoded.
    """
    with Image.open(path) as image:
        image = image.convert("RGB")
        side = round(size * margin)
        shorter = min(image.size)
        image = image.resize([side * length // shorter for length in image.size], Image.Resampling.BILINEAR)
        left, top = (round((length - size) / 2) for length in image.size)
        return np.asarray(image.crop((left, top, left + size, top + size)))


def boxed(path: str, size: int, box: Box, rng: np.random.Generator) -> np.ndarray:
    """A random box of an image, resized to uint8 (size, size, 3).

    A JPEG is decoded at half, a quarter or an eighth of its size where the box stays at least as large as the result.

    Raises:
        As `centered`.
    """
    with Image.open(path) as image:
        width, height = image.size
        left, top, wide, high = draw_box(width, height, box, rng)
        image.draft("RGB", (math.ceil(width * size / wide), math.ceil(height * size / high)))
        x, y = image.size[0] / width, image.size[1] / height
        region = (left * x, top * y, (left + wide) * x, (top + high) * y)
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=region))


def draw_box(width: int, height: int, box: Box, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height in pixels of a random box; the largest one in the middle where none of ten fits."""
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(box.low, 1)
        aspect = math.exp(rng.uniform(-math.log(box.ratio), math.log(box.ratio)))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            return int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1)), wide, high
    aspect = min(max(width / height, 1 / box.ratio), box.ratio)
    wide, high = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (width - wide) // 2, (height - high) // 2, wide, high


def decode(files: np.ndarray, size: int, corrupt: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Decodes all files in threads.

    Args:
        files: paths as bytes, (N,).
        size: side of the result in pixels.
        corrupt: `error` or `skip`.

    Returns:
        Images, uint8, (M, size, size, 3), the numbers of their files, int64, (M,), and what the user must be told of
        those left out, if any.

    Raises:
        RunFailed: a file cannot be decoded and `corrupt` is `error`, or none can.
    """
    images = np.empty((len(files), size, size, 3), dtype=np.uint8)

    def one(row: int) -> str:
        try:
            images[row] = centered(os.fsdecode(files[row]), size)
        except BROKEN as error:
            return reason(error)
        return ""

    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on EXIF and palettes
        failures = list(pool.map(one, range(len(files))))
    broken = [row for row, failure in enumerate(failures) if failure]
    if not broken:
        return images, np.arange(len(files)), ""
    first = os.fsdecode(files[broken[0]])
    if corrupt == "error":
        raise cannot(first, failures[broken[0]])
    if len(broken) == len(files):
        raise none_can(len(files), first, failures[0])
    kept = np.setdiff1d(np.arange(len(files)), broken)
    note = f"left out {len(broken)} of {len(files)} images that cannot be decoded, the first {first}"
    return images[kept], kept, note


def cannot(file: str, why: str) -> RunFailed:
    """The error of an image that cannot be decoded."""
    return RunFailed(f"cannot decode {file}: {why}; --corrupt skip leaves such images out")


def none_can(count: int, file: str, why: str) -> RunFailed:
    """The error of a part of a set without an image that can be decoded; `file` is its first."""
    return RunFailed(f"none of {count} images can be decoded, the first {file}: {why}")


def reason(error: BaseException) -> str:
    """Pillow's words in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
