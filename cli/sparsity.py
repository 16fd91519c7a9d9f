"""`regx sparsity`: the weights table of a run, layer by layer, from the file that the run wrote at its end."""

import csv
import math
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from regx.cli import output
from regx.errors import RunFailed, UserError

# The columns before and after those of the units, and what units are called above theirs.
BEFORE, AFTER = ("name", "shape", "dense", "nnz"), ("std", "mean", "abs_mean")
HEADINGS = {"kernels": "kernels (2D)", "filters": "filters (3D)", "elements": "elements (fine)"}


def sparsity(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN_FOLDER", help="Folder of the run, as printed when it started.")
    ],
    threshold: Annotated[
        str,
        typer.Option(
            "--threshold",
            metavar="NUMBER",
            help="Count what is smaller than this: 1e-5, 1e-3 or 1e-2; 0 counts what is exactly zero.",
        ),
    ] = "0",
    format: Annotated[
        str,
        typer.Option("--format", "-f", metavar="table|json", help="How to print.", autocompletion=output.formats),
    ] = "table",
) -> None:
    """Show how many weights, kernels, filters, ... of a finished run are zero, layer by layer."""
    output.check_format(format)
    table = _read(folder)
    suffix = _suffix(threshold, list(table[0]))
    # A column without a threshold in its name that also has one with it is a share.
    units = [name for name in table[0] if any(key.startswith(f"{name}_") and _limit(key) for key in table[0])]
    units = [unit for unit in units if any(row[unit] is not None for row in table)]
    rows = [
        {key: row[key] for key in BEFORE} | {u: row[u + suffix] for u in units} | {key: row[key] for key in AFTER}
        for row in table
    ]
    if format == "json":
        from regx.training.folder import to_json

        print(to_json(rows), end="")
        return
    if "units" in units and all(row.get("units") == row.get("rows") for row in rows):  # a column twice
        units.remove("units")
    counted = f"smaller than {threshold}" if suffix else "exactly zero"
    wide = max(len(f"{row['dense']:,}") for row in rows)  # digits line up
    output.print_table(
        f"{folder}: share of what is {counted}, by unit",
        [*BEFORE, *(HEADINGS.get(unit, unit) for unit in units), "std", "mean", "abs mean"],
        [
            [row["name"], row["shape"], *(f"{row[key]:{wide},}" for key in ("dense", "nnz"))]
            + [_percent(row[unit]) for unit in units]
            + [f"{row[key]: .3g}" for key in AFTER]
            for row in rows
        ],
    )


def _read(folder: Path) -> list[dict[str, Any]]:
    """The rows of the run's weights.csv, with numbers as numbers and empty cells as None."""
    if not folder.is_dir():
        raise UserError(f"no such run folder: {folder}")
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is no run folder: it has no config.yaml")
    path = folder / "weights.csv"
    if not path.is_file():
        if not (folder / "result.json").is_file():
            raise UserError(f"{path} is written at the end of the run; `regx resume {folder}` finishes it")
        raise UserError(f"{path} does not exist: this run did not log sparsity; run it with --log-sparsity yes")
    rows: list[dict[str, Any]] = []
    try:
        with path.open(newline="") as file:
            rows = [{key: _value(key, cell) for key, cell in row.items()} for row in csv.DictReader(file, strict=True)]
        complete = rows[-1]["name"] == "total" and {*BEFORE, *AFTER, "elements"} <= set(rows[0])
    except (ValueError, LookupError, TypeError, AttributeError, csv.Error):
        complete = False
    if not complete:
        raise RunFailed(f"{path} is damaged: it is no complete table")
    return rows


def _value(key: str, cell: str) -> Any:
    if key in ("name", "shape"):
        return cell
    return None if cell == "" else int(cell) if key in ("dense", "nnz") else float(cell)


def _limit(column: str) -> str | None:
    """The threshold that a column's name ends in."""
    match = re.search(r"_(\d[\d.e+-]*)$", column)
    return match[1] if match else None


def _suffix(threshold: str, columns: list[str]) -> str:
    """What the names of the columns end in that were counted at `threshold`."""
    known = list(dict.fromkeys(limit for column in columns if (limit := _limit(column))))
    try:
        wanted = float(threshold)
    except ValueError:
        wanted = math.nan
    if wanted == 0:
        return ""
    for limit in known:
        if float(limit) == wanted:
            return f"_{limit}"
    raise UserError(f"{threshold!r} was not counted; use 0, {', '.join(known)}", "threshold")


def _percent(share: float | None) -> str:
    """Writes a share as ` 37.0 %`; what is neither none nor all is never rounded to it."""
    if share is None:
        return ""
    shown = 100 * share if share in (0, 1) else min(max(100 * share, 0.1), 99.9)
    return f"{shown:5.1f} %"
