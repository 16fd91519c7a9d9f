"""What is learned: toy sets, scikit-learn's real sets, UCI's, image sets, and the user's own tables and image folders.

    module = regx.data.create("credit_approval", seed=1)
    module.train.x, module.train.y

Nothing heavy is imported until a dataset is made.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.data import uci
from regx.data.tables import SUFFIXES
from regx.errors import UserError
from regx.parameters import Bounds, Parameter, check_options
from regx.registry import Info, Registry

if TYPE_CHECKING:
    from regx.data.module import DataModule, Split
    from regx.data.pictures import Collection
    from regx.data.tables import Table

__all__ = [
    "AUGMENTATIONS",
    "IMAGE_OPTIONS",
    "OPTIONS",
    "REGISTRY",
    "DataModule",
    "Split",
    "create",
    "data_folder",
    "fetch",
]

REGISTRY = Registry("dataset", Path(__file__).parent, "regx.data", more=uci.rows)
AUGMENTATIONS = Registry("augmentation", Path(__file__).parent / "augmentation", "regx.data.augmentation")

OPTIONS = (
    Parameter(
        "seed",
        "int",
        42,
        "Seeds the split, the subset, augmentation, and the rows of a toy set.",
        bounds=Bounds(0, 2**32 - 1),
    ),
    Parameter("n_samples", "int", 1000, "Rows of a toy set, all parts together.", bounds=Bounds(4, 10_000_000)),
    Parameter("noise", "float", 0.1, "Standard deviation of a toy set's Gaussian noise.", bounds=Bounds(0, 100)),
    Parameter(
        "val_size",
        "float",
        None,
        "Share of all rows that validate (default 0.2; of images 0.1 of the training part).",
        bounds=Bounds(above=0, high=0.9),
        optional=True,
    ),
    Parameter(
        "test_size",
        "float",
        None,
        "Share of all rows kept for the test (default 0.2); 0 for none.",
        bounds=Bounds(0, 0.9),
        optional=True,
    ),
    Parameter(
        "standardize",
        "bool",
        True,
        "Scale number columns and regression targets to mean 0 and deviation 1 of the training rows (not toy sets).",
    ),
    Parameter(
        "protocol",
        "str",
        "standard",
        "standard: stratified train, validation and test parts; paper: the Jumpstart reference code's split.",
        choices=("standard", "paper"),
    ),
    Parameter("data_dir", "str", None, "Data folder; default: REGX_DATA, else the user's cache folder.", optional=True),
    Parameter("target", "str", None, "Column to predict; needed for the user's own table.", optional=True),
    Parameter(
        "task",
        "str",
        "auto",
        "What the target is; auto decides by its values.",
        choices=("auto", "classification", "regression"),
    ),
    Parameter(
        "subset",
        "int",
        None,
        "Use at most this many rows, classes in proportion; of images this many of the training and of the test part.",
        bounds=Bounds(1),
        optional=True,
    ),
)

IMAGE_OPTIONS = (
    Parameter(
        "image_size",
        "int",
        None,
        "Side of an image in pixels; default: that of the set, and 224 for image files of many sizes.",
        bounds=Bounds(1, 4096),
        optional=True,
    ),
    Parameter(
        "augment",
        "list",
        [],
        "Random changes of training images, as flip or crop(padding=4).",
    ),
    Parameter(
        "workers",
        "int",
        "auto",
        "Processes that decode streamed images, for each part; auto: one less than the cores, at most 16, and 0 on a "
        "machine of two.",
        bounds=Bounds(0, 256),
        words=("auto",),
    ),
    Parameter(
        "corrupt",
        "str",
        "error",
        "What to do with an image file that cannot be decoded.",
        choices=("error", "skip"),
    ),
    Parameter(
        "stream",
        "str",
        "auto",
        "Whether image files are read while training; auto: if all of them, decoded, would take more than 2 GB.",
        choices=("auto", "yes", "no"),
    ),
)


def create(name: str, **options: Any) -> DataModule:
    """Makes a dataset, split and encoded.

    Args:
        name: a registered dataset, `uci:ID`, `uci:NAME`, the path of a .csv, .tsv or .parquet file, or the path of a
            folder of images.
        **options: those in `OPTIONS` and `IMAGE_OPTIONS`, and further ones that a toy set has.

    Raises:
        UserError: an unknown dataset or option, or a value, file or table that cannot be used.
        RunFailed: data that cannot be downloaded or is corrupt.
    """
    from regx.data.assembly import assemble

    row, values = _checked(name, options)
    if _is_images(name, row):
        return _images(name, row, values)
    table = _table(name, row, values)
    kept = ("seed", "val_size", "test_size", "standardize", "protocol", "subset")
    return assemble(name, table, **{option: values[option] for option in kept})


def check(name: str, **options: Any) -> None:
    """Raises what `create` would at once, without reading anything: unknown names and options, missing files."""
    row, _ = _checked(name, options)
    if row is None and _is_file(name) and not Path(name).expanduser().is_file():
        raise UserError(f"there is no file {name!r}", "dataset")


def _checked(name: str, options: dict[str, Any]) -> tuple[Info | None, dict[str, Any]]:
    """The row of a registered dataset, and its options with defaults."""
    row = None if _is_dynamic(name) else REGISTRY[name]
    known = {parameter.name: parameter for parameter in (*(row.parameters if row else ()), *OPTIONS, *IMAGE_OPTIONS)}
    checked = check_options(f"dataset {name}", tuple(known.values()), options)
    values = {parameter.name: parameter.default for parameter in known.values()} | checked
    _refuse_idle(name, row, values)
    if values["data_dir"] is not None:
        data_folder(values["data_dir"])  # a wrong folder is an error, whether or not this dataset reads from it
    return row, values


def fetch(name: str, data_dir: str | Path | None = None) -> Path | str:
    """Puts a dataset on disk, so that it can be used without a network.

    Returns:
        Where the dataset lies, or one line that says why nothing needs to be fetched.

    Raises:
        UserError: an unknown dataset.
        RunFailed: it cannot be downloaded, or what is on disk is corrupt.
    """
    folder = data_folder(data_dir)
    if _is_file(name):
        return "your own file, nothing to fetch"
    if _is_dynamic(name) and not name.startswith(uci.PREFIX):
        return "your own folder, nothing to fetch"
    if not name.startswith(uci.PREFIX):
        row = REGISTRY[name]
        kind = row.facts["kind"]
        if kind == "toy" or name == "fake":
            return "made on the fly, nothing to fetch"
        if kind == "scikit-learn":
            return "comes with scikit-learn, nothing to fetch"
        if kind == "image":
            return Path(row.load()(folder).where)
    return uci.fetch(name, folder)


def data_folder(data_dir: str | Path | None = None) -> Path:
    """The data folder: `data_dir`, else the environment's REGX_DATA, else the user's cache folder.

    It need not exist yet.

    Raises:
        UserError: it is a file.
    """
    if not data_dir:
        data_dir = os.environ.get("REGX_DATA")
    if not data_dir:
        import platformdirs

        return platformdirs.user_cache_path("regx")
    folder = Path(data_dir).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{str(data_dir)!r} is not a folder", "data_dir")
    return folder


def _images(name: str, row: Info | None, values: dict[str, Any]) -> DataModule:
    from regx.data import pictures

    if row is not None:
        own = {parameter.name: values[parameter.name] for parameter in row.parameters}
        collection = row.load()(data_folder(values["data_dir"]), **own)
    else:
        collection = _own_folder(name)
    kept = ("seed", "val_size", "test_size", "standardize", "subset", *(option.name for option in IMAGE_OPTIONS))
    return pictures.assemble(name, collection, **{option: values[option] for option in kept})


def _own_folder(name: str) -> Collection:
    from regx.data import folders, imagenet

    root = Path(name).expanduser()
    return imagenet.read(root, name) if imagenet.is_marked(root) else folders.read(root, name)


def _table(name: str, row: Info | None, values: dict[str, Any]) -> Table:
    if row is not None and row.facts["kind"] != "UCI":
        return row.load()(**{parameter.name: values[parameter.name] for parameter in row.parameters})
    if _is_file(name):
        from regx.data import tables

        return tables.load(name, target=values["target"], task=values["task"])
    return uci.load(name, data_dir=data_folder(values["data_dir"]), target=values["target"], task=values["task"])


def _refuse_idle(name: str, row: Info | None, values: dict[str, Any]) -> None:
    """Refuses options that would have no effect on this dataset, so that nobody believes they had one."""
    defaults = {parameter.name: parameter.default for parameter in OPTIONS}
    kind = row.facts["kind"] if row else None
    images = _is_images(name, row)
    for option in () if images else IMAGE_OPTIONS:
        if values[option.name] != option.default:
            raise UserError(f"{name} is no set of images; leave it out", option.name)
    if kind != "toy":
        own_options = {parameter.name for parameter in row.parameters} if row else set()
        for option in {"n_samples", "noise"} - own_options:
            if values[option] != defaults[option]:
                raise UserError(f"{name} is not a toy set and has no {option}; subset takes fewer rows", option)
    if images and values["protocol"] == "paper":
        raise UserError("the paper protocol is one for tables; use standard", "protocol")
    if images or (row is not None and kind != "UCI"):
        if values["target"] is not None:
            raise UserError(f"the target of {name} is fixed; leave it out", "target")
        own = "regression" if row is not None and row.facts["task"] == "regression" else "classification"
        if values["task"] not in ("auto", own):
            raise UserError(f"{name} is a {own} set", "task")
    if values["protocol"] == "paper":
        for option in ("val_size", "test_size"):
            if values[option] is not None:
                raise UserError("the paper protocol fixes the split; leave it out or use protocol standard", option)


def _is_dynamic(name: str) -> bool:
    """Whether the name is no row of the registry: a file, a folder, or any UCI set."""
    if _is_file(name) or name.startswith(uci.PREFIX):
        return True
    if name in REGISTRY:
        return False
    if Path(name).expanduser().is_dir():
        return True
    if os.sep in name and not Path(name).expanduser().exists():
        raise UserError(f"there is no file or folder {name!r}", "dataset")
    if os.sep in name or Path(name).is_file():
        raise UserError(
            f"{name!r} is no table that regx reads; use {', '.join(SUFFIXES)}, or a folder of images", "dataset"
        )
    return False


def _is_images(name: str, row: Info | None) -> bool:
    if row is not None:
        return row.facts["kind"] == "image"
    return not _is_file(name) and not name.startswith(uci.PREFIX)


def _is_file(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def __getattr__(name: str) -> Any:
    if name in ("DataModule", "Split"):
        from regx.data import module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
