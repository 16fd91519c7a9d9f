"""What is learned: toy sets, scikit-learn's real sets, UCI's, and the user's own tables.

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
    from regx.data.tables import Table

__all__ = ["OPTIONS", "REGISTRY", "DataModule", "Split", "create", "data_folder", "fetch"]

REGISTRY = Registry("dataset", Path(__file__).parent, "regx.data", more=uci.rows)

OPTIONS = (
    Parameter(
        "seed", "int", 42, "Seeds the split, the subset, and the rows of a toy set.", bounds=Bounds(0, 2**32 - 1)
    ),
    Parameter("n_samples", "int", 1000, "Rows of a toy set, all parts together.", bounds=Bounds(4, 10_000_000)),
    Parameter("noise", "float", 0.1, "Standard deviation of a toy set's Gaussian noise.", bounds=Bounds(0, 100)),
    Parameter("val_size", "float", 0.2, "Share of all rows that validate.", bounds=Bounds(above=0, high=0.9)),
    Parameter("test_size", "float", 0.2, "Share of all rows kept for the test; 0 for none.", bounds=Bounds(0, 0.9)),
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
        "subset", "int", None, "Use at most this many rows, classes in proportion.", bounds=Bounds(1), optional=True
    ),
)


def create(name: str, **options: Any) -> DataModule:
    """Makes a dataset, split and encoded.

    Args:
        name: a registered dataset, `uci:ID`, `uci:NAME`, or the path of a .csv, .tsv or .parquet file.
        **options: those in `OPTIONS`, and further ones that a toy set has.

    Raises:
        UserError: an unknown dataset or option, or a value, file or table that cannot be used.
        RunFailed: data that cannot be downloaded or is corrupt.
    """
    from regx.data.assembly import assemble

    row = None if _is_dynamic(name) else REGISTRY[name]
    known = {parameter.name: parameter for parameter in (*(row.parameters if row else ()), *OPTIONS)}
    checked = check_options(f"dataset {name}", tuple(known.values()), options)
    values = {parameter.name: parameter.default for parameter in known.values()} | checked
    _refuse_idle(name, row, values)
    if values["data_dir"] is not None:
        data_folder(values["data_dir"])  # a wrong folder is an error, whether or not this dataset reads from it
    table = _table(name, row, values)
    kept = ("seed", "val_size", "test_size", "standardize", "protocol", "subset")
    return assemble(name, table, **{option: values[option] for option in kept})


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
    if not name.startswith(uci.PREFIX):
        kind = REGISTRY[name].facts["kind"]
        if kind == "toy":
            return "made on the fly, nothing to fetch"
        if kind == "scikit-learn":
            return "comes with scikit-learn, nothing to fetch"
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
    if kind != "toy":
        for option in ("n_samples", "noise"):
            if values[option] != defaults[option]:
                raise UserError(f"{name} is not a toy set and has no {option}; subset takes fewer rows", option)
    if row is not None and kind != "UCI":
        if values["target"] is not None:
            raise UserError(f"the target of {name} is fixed; leave it out", "target")
        own = "regression" if row.facts["task"] == "regression" else "classification"
        if values["task"] not in ("auto", own):
            raise UserError(f"{name} is a {own} set", "task")
    if values["protocol"] == "paper":
        for option in ("val_size", "test_size"):
            if values[option] != defaults[option]:
                raise UserError("the paper protocol fixes the split; leave it out or use protocol standard", option)


def _is_dynamic(name: str) -> bool:
    """Whether the name is no row of the registry: a file, or any UCI set."""
    if _is_file(name) or name.startswith(uci.PREFIX):
        return True
    if name not in REGISTRY and (os.sep in name or Path(name).is_file()):
        raise UserError(f"{name!r} is no table that regx reads; use {', '.join(SUFFIXES)}", "dataset")
    return False


def _is_file(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def __getattr__(name: str) -> Any:
    if name in ("DataModule", "Split"):
        from regx.data import module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
