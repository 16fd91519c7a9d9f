"""ImageNet (ILSVRC 2012) in the three layouts in which it lies on disks, and readable names of its classes.

    ROOT/{train,val}/<wnid>/*.JPEG                                  plain, with or without torchvision's meta.bin
    ROOT/ILSVRC/Data/CLS-LOC/{train/<wnid>/*.JPEG,val/*.JPEG}      Kaggle's, with LOC_val_solution.csv or
                                                                    ILSVRC2012_val_labels.json in ROOT

Classes are numbered by sorted wnid.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regx.data import folders
from regx.errors import RunFailed

if TYPE_CHECKING:
    from regx.data.pictures import Collection, Pictures

KAGGLE = Path("ILSVRC/Data/CLS-LOC")
VAL_LABELS = ("LOC_val_solution.csv", "ILSVRC2012_val_labels.json")
WANTED = (
    "{train,val}/<wnid>/*.JPEG, or Kaggle's ILSVRC/Data/CLS-LOC/{train/<wnid>,val} with LOC_val_solution.csv or "
    "ILSVRC2012_val_labels.json"
)


def is_root(folder: Path) -> bool:
    """Whether a folder is laid out as ImageNet: Kaggle's ILSVRC, or train and val."""
    return (folder / KAGGLE).is_dir() or all((folder / part).is_dir() for part in ("train", "val"))


def is_marked(folder: Path) -> bool:
    """Whether a folder says by its files that it is ImageNet."""
    return (folder / KAGGLE).is_dir() or (folder / "meta.bin").is_file()


def read(root: Path, name: str) -> Collection:
    """Finds the images of ImageNet below `root`; its validation part is the test part.

    Args:
        root: see above.
        name: for messages.

    Raises:
        RunFailed: no known layout, or parts that differ in their classes.
    """
    if (root / KAGGLE).is_dir():
        collection = _kaggle(root, name)
    elif is_root(root):
        collection = folders.read(root, name)
    else:
        held = sorted(os.listdir(root)) if root.is_dir() else []
        raise RunFailed(f"{name}: {root} holds {folders.some(held)}; wanted there: {WANTED}")
    return dataclasses.replace(collection, classes=readable(root, collection.classes))


def _kaggle(root: Path, name: str) -> Collection:
    import numpy as np

    from regx.data.pictures import Collection, Pictures

    base = root / KAGGLE
    for part in ("train", "val"):
        if not (base / part).is_dir():
            raise RunFailed(f"{name}: {base} has no folder {part}; wanted in {root}: {WANTED}")
    classes = sorted(entry.name for entry in os.scandir(base / "train") if entry.is_dir())
    train = folders.pictures(base / "train", classes, name)
    labels, source = _val_labels(root, name)
    files = folders.images_below(base / "val")
    wnids = []
    for path in files:
        stem = os.fsdecode(os.path.splitext(os.path.basename(path))[0])
        if stem not in labels:
            raise RunFailed(f"{name}: {source} has no label for {os.fsdecode(path)}")
        wnids.append(labels[stem])
    folders.agree(name, classes, sorted(set(wnids)), base / "train", base / "val")
    number = {wnid: index for index, wnid in enumerate(classes)}
    val: Pictures = Pictures(np.array(files), np.array([number[wnid] for wnid in wnids]))
    return Collection(train, None, val, tuple(classes), str(base))


def _val_labels(root: Path, name: str) -> tuple[dict[str, str], Path]:
    """Wnid of each validation image, by its file name without suffix, and the file that says so."""
    path = next((root / file for file in VAL_LABELS if (root / file).is_file()), None)
    if path is None:
        raise RunFailed(f"{name}: {root} has neither {' nor '.join(VAL_LABELS)}, which label the validation images")
    try:
        if path.suffix == ".json":
            return {Path(file).stem: str(wnid) for file, wnid in json.loads(path.read_text("utf-8")).items()}, path
        with path.open(encoding="utf-8", newline="") as lines:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(lines)}, path
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise RunFailed(f"{name}: {path} is not ImageNet's {path.name} ({type(error).__name__}: {error})") from error


def readable(root: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """Names of classes by a file of names in `root`, where there is one that knows them all; else the wnids.

    Of several synonyms the first is taken, with the wnid behind it where two classes share it.

    Raises:
        RunFailed: such a file is corrupt.
    """
    names = _names(root)
    if not set(wnids) <= set(names):
        return tuple(wnids)
    counts = Counter(names[wnid] for wnid in wnids)
    return tuple(names[wnid] if counts[names[wnid]] == 1 else f"{names[wnid]} ({wnid})" for wnid in wnids)


def _names(root: Path) -> dict[str, str]:
    mapping, index, meta = (root / file for file in ("LOC_synset_mapping.txt", "imagenet_class_index.json", "meta.bin"))
    try:
        if mapping.is_file():
            pairs = (line.partition(" ")[::2] for line in mapping.read_text("utf-8").splitlines() if line.strip())
            return {wnid: text.split(",")[0].strip() for wnid, text in pairs}
        if index.is_file():
            return {wnid: text.replace("_", " ") for wnid, text in json.loads(index.read_text("utf-8")).values()}
        if meta.is_file():
            import torch

            return {wnid: words[0] for wnid, words in torch.load(meta, weights_only=True)[0].items()}
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        broken = next(file for file in (mapping, index, meta) if file.is_file())
        raise RunFailed(f"{broken} cannot be read ({type(error).__name__}); remove it or restore it") from error
    return {}
