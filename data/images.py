"""The image sets that have a name: where they are looked for, and where they come from.

Each is looked for in the data folder as `NAME.npz`, as an image folder `NAME/{train,val,test}/<class>/`, and in the
layout of torchvision, which also downloads it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import pickle
import socket
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.data import folders, imagenet, npz
from regx.errors import RunFailed
from regx.registry import register

if TYPE_CHECKING:
    from regx.data.pictures import Collection

DIGITS = tuple(str(digit) for digit in range(10))
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HUNDRED = tuple(str(label) for label in range(100))  # the original files name them
IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
IDX = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
TIMEOUT_S = 30.0
# What torchvision raises when a file is missing, refused, cut short or cannot be fetched.
TROUBLE = (
    *(OSError, RuntimeError, ValueError, KeyError, EOFError, http.client.HTTPException),
    *(pickle.UnpicklingError, tarfile.TarError, zipfile.BadZipFile),
)


@register(
    "mnist",
    kind="image",
    uci_id=None,
    task="multiclass",
    rows=70000,
    features=784,
    classes=10,
    source="LeCun et al. 1998; torchvision",
)
def mnist(folder: Path) -> Collection:
    """Handwritten digits, gray, 28 x 28."""
    present = tuple(f"MNIST/raw/{file}" for file in IDX)
    return _found("mnist", folder, DIGITS) or _original("mnist", folder, "MNIST", DIGITS, present)


@register(
    "fashion_mnist",
    kind="image",
    uci_id=None,
    task="multiclass",
    rows=70000,
    features=784,
    classes=10,
    source="Xiao et al. 2017; torchvision",
)
def fashion_mnist(folder: Path) -> Collection:
    """Articles of clothing, gray, 28 x 28."""
    present = tuple(f"FashionMNIST/raw/{file}" for file in IDX)
    return _found("fashion_mnist", folder, CLOTHES) or _original(
        "fashion_mnist", folder, "FashionMNIST", CLOTHES, present
    )


@register(
    "cifar10",
    kind="image",
    uci_id=None,
    task="multiclass",
    rows=60000,
    features=3072,
    classes=10,
    source="Krizhevsky 2009; torchvision",
)
def cifar10(folder: Path) -> Collection:
    """Animals and vehicles, color, 32 x 32."""
    present = ("cifar-10-batches-py",)
    return _found("cifar10", folder, CIFAR) or _original("cifar10", folder, "CIFAR10", CIFAR, present)


@register(
    "cifar100",
    kind="image",
    uci_id=None,
    task="multiclass",
    rows=60000,
    features=3072,
    classes=100,
    source="Krizhevsky 2009; torchvision",
)
def cifar100(folder: Path) -> Collection:
    """Animals, plants, things and landscapes, color, 32 x 32."""
    present = ("cifar-100-python",)
    return _found("cifar100", folder, HUNDRED) or _original("cifar100", folder, "CIFAR100", HUNDRED, present)


@register(
    "svhn",
    kind="image",
    uci_id=None,
    task="multiclass",
    rows=99289,
    features=3072,
    classes=10,
    source="Netzer et al. 2011; torchvision",
)
def svhn(folder: Path) -> Collection:
    """House numbers in street views, color, 32 x 32, cropped to a digit."""
    return _found("svhn", folder, DIGITS) or _original("svhn", folder, "SVHN", DIGITS, ("{part}_32x32.mat",))


@register(
    "imagenette",
    kind="image",
    uci_id=None,
    task="multiclass",
    rows=13394,
    features=150528,
    classes=10,
    source="Howard 2019, fastai/imagenette; torchvision",
)
def imagenette(folder: Path) -> Collection:
    """Ten easy classes of ImageNet, color, many sizes."""
    names = ("imagenette", "imagenette2-320", "imagenette2", "imagenette2-160")
    root = next((folder / name for name in names if (folder / name / "train").is_dir()), None)
    if root is None:
        from torchvision import datasets

        root = folder / "imagenette2-320"
        wanted = f"its {{train,val}}/<wnid>/*.JPEG in {folder / 'imagenette'}"
        with _fetching("imagenette", folder, wanted):
            datasets.Imagenette(folder, size="320px", download=True)
    found = folders.read(root, "imagenette")
    return dataclasses.replace(found, classes=tuple(IMAGENETTE.get(wnid, wnid) for wnid in found.classes))


@register(
    "tiny_imagenet",
    kind="image",
    uci_id=None,
    task="multiclass",
    rows=110000,
    features=12288,
    classes=200,
    source="Stanford CS231n",
)
def tiny_imagenet(folder: Path) -> Collection:
    """Two hundred classes of ImageNet, color, 64 x 64."""
    names = ("tiny_imagenet", "tiny-imagenet-200")
    root = next((folder / name for name in names if (folder / name / "train").is_dir()), None)
    if root is None:
        from torchvision.datasets.utils import download_and_extract_archive

        root = folder / "tiny-imagenet-200"
        with _fetching("tiny_imagenet", folder, f"the unpacked {TINY_URL} as {root}"):
            download_and_extract_archive(TINY_URL, str(folder), md5=TINY_MD5)
    labels = root / "val" / "val_annotations.txt"
    found = _tiny(root, labels) if labels.is_file() else folders.read(root, "tiny_imagenet")
    return dataclasses.replace(found, size=64)


@register(
    "imagenet",
    kind="image",
    uci_id=None,
    task="multiclass",
    rows=1331167,
    features=150528,
    classes=1000,
    source="Russakovsky et al. 2015, ILSVRC 2012",
)
def imagenet_(folder: Path) -> Collection:
    """A thousand classes of photographs, color, many sizes; to be obtained by hand from image-net.org or Kaggle."""
    root = next((place for place in (folder / "imagenet", folder) if imagenet.is_root(place)), None)
    if root is None:
        if (folder / "imagenet").is_dir():
            return imagenet.read(folder / "imagenet", "imagenet")  # says what it lacks
        raise RunFailed(
            "imagenet: it must be obtained by hand, from image-net.org or Kaggle; "
            f"place in {folder / 'imagenet'}: {imagenet.WANTED}"
        )
    return imagenet.read(root, "imagenet")


def _found(name: str, folder: Path, classes: tuple[str, ...]) -> Collection | None:
    """The set as an archive or an image folder of its name, where there is one."""
    if (folder / f"{name}.npz").is_file():
        return npz.read(folder / f"{name}.npz", name, classes)
    if (folder / name / "train").is_dir():
        return folders.read(folder / name, name)
    return None


def _original(name: str, folder: Path, dataset: str, classes: tuple[str, ...], present: tuple[str, ...]) -> Collection:
    """The set by torchvision's class, downloaded where it is not there.

    Args:
        name: regx's name.
        folder: data folder.
        dataset: torchvision's name.
        classes: class names, where the files do not have them.
        present: paths in `folder` that, if all exist, are somebody's copy, which no download may overwrite.

    Raises:
        RunFailed: the copy cannot be used, or there is none and no network.
    """
    from torchvision import datasets

    from regx.data.pictures import Collection

    make: Callable[..., Any] = getattr(datasets, dataset)
    parts = []
    for part in ("train", "test"):
        which = {"split": part} if dataset == "SVHN" else {"train": part == "train"}
        paths = [folder / path.format(part=part) for path in present]
        archive = f"{name}.npz with {', '.join(key for pair in npz.KERAS.values() for key in pair)}"
        try:
            found = _quiet(make, folder, **which)
        except TROUBLE as error:
            if all(path.exists() for path in paths):
                raise RunFailed(
                    f"{name}: torchvision refuses {paths[0]} ({_one_line(error)}); it takes only the original files, "
                    f"by their md5; restore them, or save the images as {folder / archive}"
                ) from error
            with _fetching(name, folder, f"torchvision's files ({paths[0]}) there, or {archive}"):
                found = _quiet(make, folder, download=True, **which)
        images = found.data if dataset != "SVHN" else found.data.transpose(0, 2, 3, 1)
        labels = found.labels if dataset == "SVHN" else found.targets
        parts.append(_arrays(images, labels, len(classes)))
        if dataset.startswith("CIFAR"):
            classes = tuple(found.classes)
    return Collection(parts[0], None, parts[1], classes, str(folder / present[0].format(part="train").split("/")[0]))


def _arrays(images: Any, labels: Any, classes: int) -> Any:
    import numpy as np

    return npz.pictures(np.asarray(images), np.asarray(labels), classes)


def _quiet(make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Calls torchvision with its prints on stderr, as stdout is for results."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's about the pickles of 2009
        return make(*arguments, **options)


@contextlib.contextmanager
def _fetching(name: str, folder: Path, place: str) -> Iterator[None]:
    """Around a download: what goes wrong becomes one line that says what to place where."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except TROUBLE as error:
        raise RunFailed(
            f"{name}: it is not in {folder} and cannot be downloaded ({_one_line(error)}); place {place}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _tiny(root: Path, labels: Path) -> Collection:
    """The original layout: train/<wnid>/images/*, val/images/* with val_annotations.txt, and a test part unlabeled."""
    import numpy as np

    from regx.data.pictures import Collection, Pictures

    name = "tiny_imagenet"
    classes = sorted(path.name for path in (root / "train").iterdir() if path.is_dir())
    number = {wnid: index for index, wnid in enumerate(classes)}
    rows = [line.split("\t")[:2] for line in labels.read_text("utf-8").splitlines() if line.strip()]
    wnids = [row[-1] for row in rows]
    folders.agree(name, classes, sorted(set(wnids)), root / "train", labels)
    files = np.array([str(root / "val" / "images" / row[0]).encode() for row in rows])
    test = Pictures(files, np.array([number[wnid] for wnid in wnids]))
    return Collection(folders.pictures(root / "train", classes, name), None, test, tuple(classes), str(root))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
