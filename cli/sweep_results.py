"""`regx sweep results`: the tables that a sweep ends in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.analysis import render, runs, tables
from regx.analysis.table import Table, TableSpec
from regx.cli import output
from regx.errors import UserError, did_you_mean
from regx.sweeps import plan
from regx.sweeps.definition import Sweep

if TYPE_CHECKING:
    from regx.analysis.runs import Run

FORMATS = ("table", *render.FORMATS)


def check_format(format: str) -> None:
    """Raises `UserError` for a format that does not exist."""
    if format not in FORMATS:
        raise UserError(f"{format!r} is not among {', '.join(FORMATS)}{did_you_mean(format, FORMATS)}", "format")


def wanted(sweep: Sweep, names: list[str] | None = None, **changes: Any) -> list[tuple[str, TableSpec]]:
    """Names and contents of the tables: those of the sidecar, or the ones that are asked for.

    Args:
        sweep: whose sidecar says what its tables are.
        names: tables to show instead; one that the sidecar has too is as it says.
        changes: fields of `TableSpec` in the place of the sidecar's; None changes nothing.

    Raises:
        UserError: a table, or one of its options, that does not exist.
    """
    listed = [dict(entry) for entry in sweep.sidecar.tables or [{"table": "configurations"}]]
    for name in names or []:
        if name not in tables.TABLES:
            raise UserError(f"there is no table {name!r}{did_you_mean(name, tables.TABLES)}", "table")
    if names:
        known = {entry["table"]: entry for entry in reversed(listed)}
        listed = [known.get(name, {"table": name}) for name in names]
    fields = TableSpec.__dataclass_fields__
    found = []
    for entry in listed:
        name = entry.pop("table")
        for key in entry:
            if key not in fields:
                raise UserError(f"{sweep.path}: a table has no option {key!r}{did_you_mean(key, fields)}")
        if name not in tables.TABLES:
            raise UserError(f"{sweep.path}: there is no table {name!r}{did_you_mean(name, tables.TABLES)}")
        given = {"baseline": sweep.sidecar.baseline} | entry
        found.append((name, TableSpec(**given | {key: value for key, value in changes.items() if value is not None})))
    return found


def runs_of(sweep: Sweep, folder: Path) -> list[Run]:
    """The runs of a sweep as it is defined now; those of earlier definitions in its folder are left out."""
    names = {item.place().name for item in plan.trials(sweep, folder)}
    return [run for run in runs.read(folder) if run.name in names]


def print_tables(
    sweep: Sweep, found: list[Run], specs: list[tuple[str, TableSpec]], format: str, more: dict[str, Any] | None = None
) -> None:
    """Prints tables; `more` is what else JSON shall say."""
    made = [tables.make(name, found, spec) for name, spec in specs]
    if format == "json":
        listed = [json.loads(render.to_json(table)) for table in made]
        print(json.dumps({"sweep": sweep.name} | (more or {}) | {"tables": listed}, indent=2))
        return
    for number, table in enumerate(made):
        if number:
            print()
        if format == "table":
            show(table)
        else:
            print(render.FORMATS[format](table), end="")


def show(table: Table) -> None:
    """Prints a table and its notes for people."""
    output.print_table(table.title, *render.aligned(table))
    for note in table.notes:
        print(f"* {note}")


def described() -> list[str]:
    """`NAME: what it shows` of every table."""
    return [f"{name}: {tables.summary(name)}" for name in tables.TABLES]
