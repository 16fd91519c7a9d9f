"""Tiny sets of images in the layouts in which real ones lie on disks."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cow")


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Random uint8 images, (count, *shape)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def labels(count: int, classes: int = 10) -> np.ndarray:
    """0, 1, ..., 0, 1, ..."""
    return np.arange(count) % classes


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """A photograph's stand-in: neighbors are alike, as JPEG expects."""
    coarse = Image.fromarray(pixels(1, 4, 5, 3, seed=seed)[0])
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def idx(folder: Path, x: np.ndarray, y: np.ndarray, part: str, *, packed: bool) -> list[tuple[str, str]]:
    """MNIST's two files of a part; returns their packed names and md5 sums."""
    folder.mkdir(parents=True, exist_ok=True)
    sums = []
    for kind, array in (("images-idx3", x), ("labels-idx1", y.astype(np.uint8))):
        body = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()
        name = f"{part}-{kind}-ubyte"
        body = gzip.compress(body, mtime=0) if packed else body
        (folder / (f"{name}.gz" if packed else name)).write_bytes(body)
        sums.append((f"{name}.gz", hashlib.md5(body).hexdigest()))
    return sums


def pickled(path: Path, content: dict) -> str:
    """One of CIFAR's files; returns its md5 sum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def folder(root: Path, counts: dict[str, int], *, suffix: str = "png", size: tuple[int, int] = (20, 16)) -> Path:
    """`counts` images in each class folder of `root`; the first pixel's red is the number of the image in all."""
    number = 0
    for label, count in counts.items():
        (root / label).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image = smooth(*size, seed=number)
            image.putpixel((size[0] // 2, size[1] // 2), (number % 256, 0, 0))
            image.save(root / label / f"{index:03}.{suffix}")
            number += 1
    return root


def parts(root: Path, counts: dict[str, int], *, suffix: str = "png") -> Path:
    """An image folder with the same count of images for each of three classes, per part."""
    for part, count in counts.items():
        folder(root / part, dict.fromkeys(CLASSES, count), suffix=suffix)
    return root
