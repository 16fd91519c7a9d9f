"""Two runs side by side: what differs between them, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from regx.analysis.report import drawing
from regx.analysis.report.asked import environment_rows, shown_value
from regx.analysis.report.page import Page, grid
from regx.analysis.report.records import Record, check_one_task
from regx.analysis.report.report import curves_of, images, run_table
from regx.analysis.runs import identity
from regx.analysis.table import Cell, Table
from regx.training.experiments import EXPERIMENTS
from regx.training.options import options_of

NAMES = ("A", "B")
# From here on a number is written with an exponent.
_LONG = 1e6
_DIFFERENCE = "B − A"
# Of metrics, in this order; others follow.
_FIRST = ("acc", "r2", "top5_acc", "rmse", "mae", "loss", "total_loss")


def comparison(one: Record, other: Record) -> list[Table]:
    """Tables of two runs: options that differ, network, metrics at the best epoch, status of units and points, cost.

    A table without rows is left out.

    Raises:
        UserError: one run is of classification, the other of regression.
    """
    pair = (one, other)
    check_one_task(pair)
    tables = [_options(pair), _network(pair), _metrics(pair), _status(pair), _cost(pair)]
    return [table for table in tables if table.rows]


def remarks(one: Record, other: Record) -> list[str]:
    """What a reader must know before believing a difference."""
    found = []
    for name, record in zip(NAMES, (one, other), strict=True):
        if not record.run.finished:
            why = f": {record.error}" if record.error else ""
            found.append(f"{name} is {record.run.status}, not finished{why}.")
    found.append("One run each: a difference may be luck of the seed; several seeds and `regx report` tell.")
    if one.run.seed != other.run.seed:
        found.append(f"The seeds differ ({one.run.seed} and {other.run.seed}).")
    keys = ("dataset", "data_seed", "val_size", "test_size", "n_samples", "noise", "subset", "protocol")
    data = [key for key in keys if identity(one.run.config.get(key)) != identity(other.run.config.get(key))]
    if data:
        found.append(f"The data differ ({', '.join(data)}), so the metrics are of different rows.")
    epochs = [record.result.get("epochs") for record in (one, other)]
    if None not in epochs and epochs[0] != epochs[1]:
        found.append(f"The budgets differ: A trained {epochs[0]} epochs, B {epochs[1]}.")
    return found


def page_of_two(one: Record, other: Record) -> Page:
    """The page of two runs.

    Raises:
        UserError: one run is of classification, the other of regression.
        RunFailed: a file is damaged.
    """
    tables = comparison(one, other)
    pair = [replace(r, run=replace(r.run, label=n)) for n, r in zip(NAMES, (one, other), strict=True)]
    drawn, note = images(pair)
    return Page(
        title="Two runs compared",
        facts={name: f"{record.run.name} ({record.run.status})" for name, record in zip(NAMES, pair, strict=True)},
        caveats=remarks(one, other),
        beside=[grid(table) for table in tables],
        figures=drawing.overlaid(pair, NAMES),
        runs=run_table(pair, drawn, note),
        curves=curves_of(pair),
    )


def _options(pair: Sequence[Record]) -> Table:
    configs = [record.run.config for record in pair]
    kinds = [EXPERIMENTS[kind] for kind in dict.fromkeys(c.get("experiment") for c in configs) if kind in EXPERIMENTS]
    known = dict.fromkeys(["experiment", *(o.key for kind in kinds for o in options_of(kind) if o.identity)])
    rows: list[list[Cell]] = [
        [key, *(shown_value(config[key]) if key in config else "" for config in configs)]
        for key in known
        if identity(configs[0].get(key)) != identity(configs[1].get(key))
    ]
    return Table("options that differ", ["option", *NAMES], rows)


def _network(pair: Sequence[Record]) -> Table:
    rows: list[list[Cell]] = []
    counts = [record.result.get("parameters") for record in pair]
    if any(count is not None for count in counts):
        rows.append(_numbers("parameters", counts))
    keys = dict.fromkeys(key for record in pair for key in record.run.best if key.startswith("sparsity/"))
    names = {"macs": "multiply-adds per sample", "macs_left": "multiply-adds left"}
    names |= {"parameters_left": "parameters left"}
    for key in keys:
        name = key.partition("/")[2]
        if name == "parameters" or "e-" in name:  # told above; thresholds are for `regx sparsity`
            continue
        values = [record.run.best.get(key) for record in pair]
        if name in names:
            rows.append(
                _numbers(names[name], [None if v is None or not math.isfinite(v) else round(v) for v in values])
            )
        else:
            rows.append(_numbers(f"{name} that are zero (share)", values))
    notes = [] if keys else ["zeros and multiply-adds are counted by runs with --log-sparsity yes"]
    return _table("network, at the best epoch", "", rows, notes)


def _metrics(pair: Sequence[Record]) -> Table:
    keys = dict.fromkeys(key for record in pair for key in record.run.best)
    shown = [key for key in keys if key.partition("/")[0] in ("val", "test", "train") and key.count("/") == 1]

    def order(key: str) -> tuple[int, int]:
        stage, _, name = key.partition("/")
        return (("val", "test", "train").index(stage), _FIRST.index(name) if name in _FIRST else len(_FIRST))

    rows = [_numbers(key, [record.run.best.get(key) for record in pair]) for key in sorted(shown, key=order)]
    return _table("metrics, at the epoch that is best by validation", "metric", rows)


def _status(pair: Sequence[Record]) -> Table:
    keys = dict.fromkeys(key for record in pair for key in record.run.best if key.startswith("val/jr/"))
    rows = [
        _numbers(key.removeprefix("val/jr/").replace("_", " "), [record.run.best.get(key) for record in pair])
        for key in keys
        if not key.endswith("_loss")
    ]
    return _table("status of units and points, on the validation rows", "", rows)


def _cost(pair: Sequence[Record]) -> Table:
    rows: list[list[Cell]] = [
        _numbers("best epoch", [_whole(record.run.best.get("epoch")) for record in pair]),
        _numbers("epochs", [record.result.get("epochs") for record in pair]),
        _numbers("seconds", [record.seconds for record in pair]),
    ]
    told = [environment_rows(record) for record in pair]
    told = [texts | {"Commit": texts["Commit"][:12]} if "Commit" in texts else texts for texts in told]
    rows += [
        [key.lower(), *(texts.get(key, "") for texts in told), None]
        for key in ("Engine", "Device", "Commit")
        if any(key in texts for texts in told)
    ]
    return _table("cost and machine", "", [row for row in rows if any(cell is not None for cell in row[1:])])


def _whole(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else round(value)


def _numbers(name: str, values: Sequence[Any]) -> list[Cell]:
    """A row of two numbers and their difference."""
    known: list[Any] = [None if value is None or not math.isfinite(value) else value for value in values]
    one, other = known
    return [name, one, other, None if one is None or other is None else other - one]


def _table(title: str, first: str, rows: list[list[Cell]], notes: Sequence[str] = ()) -> Table:
    form = ".4f" if max((abs(c) for row in rows for c in row if isinstance(c, float)), default=0) < _LONG else ".4g"
    formats = dict.fromkeys(NAMES, form) | {_DIFFERENCE: f"+{form}"}
    return Table(title, [first, *NAMES, _DIFFERENCE], rows, list(notes), formats)
