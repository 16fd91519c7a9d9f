"""`regx sweep results`: the tables that a sweep ends in."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regx.analysis import render, runs, tables
from regx.analysis.table import Table, TableSpec
from regx.cli import output
from regx.cli.sweep_arguments import Name, RunDir, kept, ran
from regx.errors import UserError, did_you_mean
from regx.sweeps import plan
from regx.sweeps.definition import Sweep
from regx.sweeps.trial import Trial, flat

if TYPE_CHECKING:
    from regx.analysis.runs import Run

FORMATS = ("table", *render.FORMATS)


def check_format(format: str) -> None:
    """Raises `UserError` for a format that does not exist."""
    if format not in FORMATS:
        raise UserError(f"{format!r} is no format{did_you_mean(format, FORMATS)}", "format")


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
        # One name is a list of one.
        entry = {
            key: [value] if key in ("by", "metrics") and isinstance(value, str) else value
            for key, value in entry.items()
        }
        given: dict[str, Any] = {"baseline": sweep.sidecar.baseline} | entry
        found.append((name, TableSpec(**given | {key: value for key, value in changes.items() if value is not None})))
    return found


def runs_of(sweep: Sweep, folder: Path) -> list[Run]:
    """The runs of a sweep as it is defined now, in its order; those of earlier definitions are left out."""
    planned = _planned(sweep, folder)
    for name, item in planned.items():
        if (folder / name).is_dir():
            item.leave_note()  # another command may have trained it, or its label is a new one
    begun = {run.name: run for run in runs.read(folder)}
    return [begun.get(name) or _not_begun(name, item) for name, item in planned.items()]


def names_of_runs(sweep: Sweep, folder: Path) -> list[str]:
    """The run folders of a sweep, in its order: the baseline before all others."""
    return list(_planned(sweep, folder))


def _planned(sweep: Sweep, folder: Path) -> dict[str, Trial]:
    found = sorted(
        plan.trials(sweep, folder), key=lambda item: item.label is None or item.label != sweep.sidecar.baseline
    )
    return {item.place().name: item for item in found}


def _not_begun(name: str, item: Trial) -> Run:
    parameters = {key: value for key, value in flat(item.parameters).items() if key != "seed"}
    return runs.Run(
        name=name,
        status="not begun",
        label=item.label,
        parameters=parameters,
        seed=item.seed,
        config=item.config().as_dict(),
        best={},
        last={},
        monitor="val/acc",
    )


def print_tables(
    sweep: Sweep, found: list[Run], specs: list[tuple[str, TableSpec]], format: str, more: dict[str, Any] | None = None
) -> None:
    """Prints tables; `more` is what else JSON shall say. Of a sweep that is half done, those that there can be."""
    made, failed = made_of(sweep, found, specs)
    if failed and all(run.finished for run in found):
        raise next(iter(failed.values()))
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
    for name, error in failed.items():
        print(f"{name}: not yet: {error.message}", file=sys.stderr)


def made_of(
    sweep: Sweep, found: list[Run], specs: list[tuple[str, TableSpec]]
) -> tuple[list[Table], dict[str, UserError]]:
    """The tables that there can be of these runs; of the others, by name, why not.

    While a sweep is not complete, and its own baseline has no finished run, nothing is compared with that.
    """
    made, failed = [], {}
    complete = all(run.finished for run in found)
    labels = {run.label for run in found if run.finished}
    for name, spec in specs:
        named = spec.baseline is not None and "=" not in spec.baseline
        if named and not complete and spec.baseline == sweep.sidecar.baseline and spec.baseline not in labels:
            spec = dataclasses.replace(spec, baseline=None)
        try:
            made.append(tables.make(name, found, spec))
        except UserError as error:
            failed[name] = error
    return made, failed


def show(table: Table) -> None:
    """Prints a table and its notes for people."""
    columns, rows = render.aligned(table)
    number = next((index for index, column in enumerate(table.columns) if column == "n"), 1)
    output.print_numbers(table.title, columns, rows, number)
    for note in table.notes:
        print(f"* {note}")


def results(
    name: Name,
    tables_: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            metavar="NAME",
            help="A table instead of the sweep's own; may be repeated: " + "; ".join(tables.TABLES) + ".",
            autocompletion=lambda incomplete: [name for name in tables.TABLES if name.startswith(incomplete)],
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", metavar="KEY", help="Numbers to show; may be repeated.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="PARAMETER", help="What makes a row; of other parameters the best is taken."),
    ] = None,
    rows: Annotated[str | None, typer.Option("--rows", metavar="PARAMETER", help="Rows of a pivot.")] = None,
    columns: Annotated[str | None, typer.Option("--columns", metavar="PARAMETER", help="Columns of a pivot.")] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="LABEL|P=V", help="What others are tested against.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="val|test",
            help="Rows that ranks and p values are about; the epoch is chosen by validation either way.",
        ),
    ] = None,
    sort: Annotated[str | None, typer.Option("--sort", metavar="COLUMN", help="Column to sort by.")] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="wandb:ENTITY/PROJECT/ID", help="Read W&B's runs instead of run folders."),
    ] = None,
    run_dir: RunDir = Path("runs"),
    format: Annotated[
        str, typer.Option("--format", "-f", metavar="|".join(FORMATS), help="How to print; csv keeps every digit.")
    ] = "table",
) -> None:
    """Print the tables of a sweep: one row per configuration, mean and deviation over seeds, best by validation.

    Test metrics are those of the epoch that is best by validation. p values are of paired tests against the baseline.
    """
    check_format(format)
    changes = {
        "metrics": metrics,
        "metric": metrics[0] if metrics else None,
        "by": by,
        "rows": rows,
        "columns": columns,
        "baseline": baseline,
        "on": on,
        "sort": sort,
    }
    if source is None:
        sweep, folder = ran(name, run_dir)
        found = runs_of(sweep, folder)
    else:
        sweep = kept(name, run_dir)
        found = _from_wandb(source)
    try:
        print_tables(sweep, found, wanted(sweep, tables_, **changes), format)
    except UserError as error:
        if error.option in ("metrics", "metric"):
            raise UserError(error.message, "metric") from None
        raise


def _from_wandb(source: str) -> list[Run]:
    from regx.training.tracking import sweeps

    kind, _, path = source.partition(":")
    if kind != "wandb" or not path:
        raise UserError(f"{source!r}: write wandb:ENTITY/PROJECT/ID", "from")
    return runs.from_wandb(sweeps.runs(path))
