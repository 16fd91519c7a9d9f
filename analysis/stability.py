"""What the best checkpoint hides: how many seeds get there, and how many are still there in the last epoch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from regx.analysis.configurations import ordered, row_names
from regx.analysis.runs import MONITORED, Run, title_of
from regx.analysis.selection import grouped
from regx.analysis.table import Cell, Table, TableSpec, check_any_finished, mean_std, missing_notes, plain
from regx.errors import UserError

# From this validation accuracy (or R2) on a run has learned its task.
GOOD = 0.95
_DEAD = "val/jr/unit_dead_ratio"


def stability(runs: Sequence[Run], spec: TableSpec | None = None) -> Table:
    """The best epoch beside the last one: who has learned, and who has forgotten again.

    One row per configuration; a run counts as good from a validation accuracy (or R2) of 0.95 on.

    Args:
        runs: of a sweep.
        spec: uses `by`.

    Raises:
        UserError: a name in `spec` that the runs do not have, or that leaves several configurations in a row.
        RunFailed: no run has finished.
    """
    spec = spec or TableSpec()
    runs = list(runs)
    check_any_finished(runs)
    by = row_names(runs, spec.by)
    title = title_of(runs, MONITORED)
    rows: list[list[Cell]] = []
    for group in grouped(runs, by):
        tried = [run for run in group.tried if run.finished]
        if len({run.seed for run in tried}) < len(tried):
            raise UserError(f"{', '.join(by)} leave several configurations in a row; name all that vary", "by")
        pairs = [(run.value(MONITORED), run.last.get(run.monitor)) for run in tried]
        known = [(best, last) for best, last in pairs if best is not None and last is not None]
        dead = [run.last[_DEAD] for run in tried if _DEAD in run.last]
        reached, kept = (sum(pair[i] >= GOOD for pair in known) for i in (0, 1))
        middle = [median(pair[i] for pair in known) if known else None for i in (0, 1)]
        share = mean_std(dead)[0]
        rows.append([*(plain(group.key[name]) for name in by), len(known), *middle, reached, kept, share])
    columns = [f"{title} best, median", f"{title} last, median", f"best >= {GOOD}", f"last >= {GOOD}", "dead units"]
    order = list(range(len(rows)))
    for place in reversed(range(len(by))):
        cells = [row[place] for row in rows]
        if all(isinstance(cell, int | float) for cell in cells):
            order = ordered(order, cells)
    return Table(
        f"the best epoch of every seed beside its last one: {title}",
        [*by, "n", *columns],
        [rows[place] for place in order],
        [
            f"best: the epoch that is best by validation, whose weights a run keeps; >= {GOOD}: how many of the seeds",
            "dead units: their share in the last epoch, on the validation rows",
            *missing_notes(runs),
        ],
        {columns[0]: ".3f", columns[1]: ".3f", columns[4]: ".3f"},
    )
