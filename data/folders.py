"""Folders of images: FOLDER/{train,val,test}/<class>/*, or FOLDER/<class>/*."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regx.errors import RunFailed

if TYPE_CHECKING:
    from regx.data.pictures import Collection, Pictures

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision's ImageFolder
VALIDATION = ("val", "valid", "validation")
WANTED = "FOLDER/{train,val,test}/<class>/*.jpg or FOLDER/<class>/*.jpg"


def read(root: Path, name: str) -> Collection:
    """Finds the images of a folder and their classes.

    A validation part without a test part is the test part; without either, both are taken from the training images.

    Args:
        root: the folder.
        name: for messages.

    Raises:
        RunFailed: it is not laid out as above, or its parts differ in their classes.
    """
    from regx.data.pictures import Collection

    if not root.is_dir():
        raise RunFailed(f"{name}: there is no folder {root}; wanted: {WANTED}")
    found = _folders(root)
    val_name = next((part for part in VALIDATION if part in found), None)
    test_name = "test" if "test" in found else None
    if "train" not in found:
        if val_name or test_name:
            raise RunFailed(f"{name}: {root} has {some(found)} but no train; wanted: {WANTED}")
        classes = found
        return Collection(pictures(root, classes, name), None, None, tuple(classes), str(root))
    train = root / "train"
    classes = _folders(train)
    parts = {}
    for part in (val_name, test_name):
        if part is not None:
            agree(name, classes, _folders(root / part), train, root / part)
            parts[part] = pictures(root / part, classes, name)
    test = parts.get(test_name or val_name)
    val = parts[val_name] if val_name and test_name else None
    return Collection(pictures(train, classes, name), val, test, tuple(classes), str(root))


def pictures(folder: Path, classes: Sequence[str], name: str) -> Pictures:
    """The image files below each class's folder, in sorted order.

    Raises:
        RunFailed: there is no class folder, or one without images.
    """
    import numpy as np

    from regx.data.pictures import Pictures

    files: list[bytes] = []
    counts = []
    for label in classes:
        own = images_below(folder / label)
        if not own:
            raise RunFailed(f"{name}: {folder / label} holds no image ({', '.join(SUFFIXES)}); wanted: {WANTED}")
        files += own
        counts.append(len(own))
    if len(classes) < 2:
        raise RunFailed(f"{name}: {folder} has {len(classes)} class folder(s), two are needed; wanted: {WANTED}")
    return Pictures(np.array(files), np.repeat(np.arange(len(classes)), counts))


def images_below(folder: Path) -> list[bytes]:
    """Paths of the image files in a folder and its subfolders, sorted."""
    found = []
    for place, _, names in os.walk(os.fsencode(folder), followlinks=True):
        found += [os.path.join(place, name) for name in names if os.fsdecode(name).lower().endswith(SUFFIXES)]
    return sorted(path for path in found if not os.path.basename(path).startswith(b"."))


def agree(name: str, train: Sequence[str], other: Sequence[str], train_in: object, other_in: object) -> None:
    """Refuses parts whose classes differ.

    Raises:
        RunFailed: it names the classes that one of them lacks.
    """
    missing, extra = sorted(set(train) - set(other)), sorted(set(other) - set(train))
    if missing or extra:
        said = [f"lacks {some(missing)}"] if missing else []
        said += [f"has {some(extra)} beyond them"] if extra else []
        raise RunFailed(f"{name}: {train_in} has {len(train)} classes, and {other_in} {' and '.join(said)}")


def some(names: Sequence[str]) -> str:
    """Up to five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(map(repr, names[:5])) or "nothing") + more


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
