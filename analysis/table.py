"""What a table is: a plain value, which the command line prints and `regx.analysis.render` writes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from regx.analysis.runs import MONITORED, TESTED, Run, placed
from regx.analysis.statistics import spread
from regx.errors import RunFailed, UserError
from regx.training import log_keys
from regx.training.folder import PRUNED

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """A table.

    Columns `X mean` and `X std` are printed as one column `X`, 0.912 ± 0.013, and `X low` and `X high` as the interval
    `X CI`, [0.900, 0.925]; CSV and JSON keep them apart.

    Attributes:
        title: one line.
        columns: their names, all different.
        rows: numbers stay numbers; None is an empty cell.
        notes: what symbols mean, how many runs are missing, which choices were made.
        formats: how numbers of a column are printed: a format of Python's, or `p` for a p value.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    formats: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TableSpec:
    """What a table shall show; every table takes what concerns it.

    Attributes:
        by: parameters that make a row of `configurations` and `frontier`; None for all that vary. Of one that is left
            out the best by validation is taken, and of datasets the mean.
        rows: what `pivot` has as rows; what `key-metrics`, `win-draw-loss`, `ranks` and `uci` compare (`technique`);
            the strength that `strengths` shows (`lambda`).
        columns: what `pivot` has as columns.
        metrics: names as in metrics.csv; None for the monitored one and its like on the test rows.
        metric: what `pivot` shows.
        baseline: label of the configuration that others are tested against, or `name=value,name=value`; None for the
            label `Baseline`, where there is one.
        sort: column to sort by; None for dataset, then the first metric.
        goal: whether a high or a low first metric is better; None: low for losses, errors, dead and linear units.
        on: which rows of the data judge in `configurations`, `key-metrics`, `win-draw-loss` and `ranks`: `val` (None)
            or `test`, at the epoch that is best by validation.
    """

    by: Sequence[str] | None = None
    rows: str | None = None
    columns: str | None = None
    metrics: Sequence[str] | None = None
    metric: str | None = None
    baseline: str | None = None
    sort: str | None = None
    goal: Literal["maximize", "minimize"] | None = None
    on: Literal["val", "test"] | None = None


def is_minimised(metric: str, goal: str | None = None) -> bool:
    """Whether the lower is the better one."""
    if goal not in (None, "maximize", "minimize"):
        raise UserError(f"{goal!r} is not among maximize, minimize", "goal")
    if goal:
        return goal == "minimize"
    return not log_keys.rises(metric)


def judged_by(runs: Sequence[Run], spec: TableSpec | None) -> str:
    """The metric that ranks and tests are about: the monitored one, or its like on the test rows where `on` says so.

    Raises:
        UserError: `on` is neither `val` nor `test`, or no finished run has a test metric.
    """
    on = spec.on if spec else None
    if on not in (None, "val", "test"):
        raise UserError(f"{on!r} is not among val, test", "on")
    if on != "test":
        return MONITORED
    if all(run.value(TESTED) is None for run in runs):
        raise UserError("no finished run has a test metric; train with test rows, or use val", "on")
    return TESTED


def counted(number: int, noun: str) -> str:
    """`1 dataset`, `2 datasets`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def number_format(values: Iterable[Cell], name: str = "") -> str:
    """How a column of a metric is printed: three decimals, none for counts, more digits where all are tiny."""
    if re.search(r"/(parameters|macs)(_left)?\b", name):
        return ",.0f"
    biggest = max((abs(value) for value in values if isinstance(value, int | float)), default=0.0)
    return ",.0f" if biggest >= 1000 else ".2e" if 0 < biggest < 0.01 else ".3f"


def p_text(p: float) -> str:
    """A p value in three decimals."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def mean_std(values: Sequence[float]) -> list[Cell]:
    """The cells `X mean` and `X std`; empty where there is nothing to be had."""
    return [fmean(values) if values else None, spread(values)]


def check_any_finished(runs: Sequence[Run]) -> None:
    """Raises `RunFailed` where there is nothing to make a table of."""
    if not any(run.finished for run in runs):
        states = ", ".join(f"{count} {state}" for state, count in Counter(run.status for run in runs).items())
        raise RunFailed(f"no run has finished yet ({states or 'there are none'})")


def missing_notes(runs: Sequence[Run]) -> list[str]:
    """Says how many runs are not in the numbers, and why; and how many are that hyperband has ended."""
    missing = Counter(run.status for run in runs if not run.finished)
    notes = []
    if missing:
        states = ", ".join(f"{count} {state}" for state, count in sorted(missing.items()))
        notes.append(f"not in the numbers: {missing.total()} of {len(runs)} runs ({states})")
    finished = [run for run in runs if run.finished]
    grouped = [run for run in placed(runs) if run.finished]
    if nowhere := len(finished) - len(grouped):
        notes.append(f"not in the numbers: {counted(nowhere, 'finished run')} of an unknown dataset")
    blank = [run.monitor for run in grouped if run.value(run.monitor) is None]
    if blank:
        notes.append(f"not in the numbers: {counted(len(blank), 'finished run')} whose {blank[0]} is NaN or infinite")
    if early := sum(run.ended == PRUNED for run in grouped):
        notes.append(
            f"ended early by hyperband, in the numbers with the best epoch until then: {counted(early, 'run')}"
        )
    return notes


def with_marks(columns: list[str], rows: list[list[Cell]], marks: Sequence[str | None]) -> list[str]:
    """The columns, with one more for the rows (changed in place) that have a run that hyperband has ended."""
    if not any(marks):
        return columns
    for row, mark in zip(rows, marks, strict=True):
        row.append(mark)
    return [*columns, "ended early"]


def plain(value: Any) -> Cell:
    """A parameter's value as a cell; of a list (of regularizers), its items."""
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return value if value is None or isinstance(value, str | int | float) else str(value)
