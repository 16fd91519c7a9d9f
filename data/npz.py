"""Sets of images in one NumPy archive: Keras' keys, or MedMNIST's."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from regx.errors import RunFailed

if TYPE_CHECKING:
    import numpy as np

    from regx.data.pictures import Collection, Pictures

# Part -> its keys; Keras has no validation part.
KERAS = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
MEDMNIST = {part: (f"{part}_images", f"{part}_labels") for part in ("train", "val", "test")}
WANTED = "x_train, y_train, x_test, y_test, or MedMNIST's train_images, train_labels, val_images, ..."


def read(path: Path, name: str, classes: tuple[str, ...]) -> Collection:
    """Reads an archive of uint8 images (N, H, W) or (N, H, W, C) and their labels (N,) or (N, 1).

    Args:
        path: the archive.
        name: for messages.
        classes: class names in index order.

    Raises:
        RunFailed: it lacks a key, or an array is not such.
    """
    import numpy as np

    from regx.data.pictures import Collection

    try:
        # np.load leaves a file that it cannot read open, if it has opened it itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            keys = next((keys for keys in (KERAS, MEDMNIST) if keys["train"][0] in archive), None)
            lacking = [key for pair in (keys or KERAS).values() for key in pair if key not in archive]
            if keys is None or lacking:
                raise ValueError(f"it lacks {lacking[0]}; wanted: {WANTED}")
            parts = {
                part: pictures(archive[images], archive[labels], len(classes), images, labels)
                for part, (images, labels) in keys.items()
            }
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise RunFailed(f"{name}: {path} cannot be used: {' '.join(str(error).split())}") from error
    return Collection(parts["train"], parts.get("val"), parts["test"], classes, str(path))


def pictures(x: np.ndarray, y: np.ndarray, classes: int, x_name: str = "x", y_name: str = "y") -> Pictures:
    """Checks arrays of images and labels, and gives gray images their channel axis.

    Raises:
        ValueError: wrong shape or type, or a label that is no class.
    """
    import numpy as np

    from regx.data.pictures import Pictures

    x = x[..., None] if x.ndim == 3 else x
    if x.ndim != 4 or x.dtype != np.uint8 or not len(x):
        raise ValueError(f"{x_name} is {x.dtype} {x.shape}; wanted: uint8 (N, H, W) or (N, H, W, C)")
    y = y.reshape(-1) if y.shape == (len(y), 1) else y
    if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{y_name} is {y.dtype} {y.shape}; wanted: whole numbers, ({len(x)},)")
    y = y.astype(np.int64)
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(f"{y_name} runs from {y.min()} to {y.max()}; there are {classes} classes, numbered from 0")
    return Pictures(x, y)
