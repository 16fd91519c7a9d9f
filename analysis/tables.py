"""The tables that a sweep's results can be seen as, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from regx.analysis.configurations import configurations
from regx.analysis.jumpstart_tables import key_metrics, ranks, strengths, uci, win_draw_loss
from regx.analysis.pivots import frontier, pivot
from regx.analysis.runs import Run
from regx.analysis.stability import stability
from regx.analysis.table import Table, TableSpec
from regx.errors import UserError, did_you_mean

# The first line of each one's docstring says what it shows.
TABLES: dict[str, Callable[[Sequence[Run], TableSpec | None], Table]] = {
    "configurations": configurations,
    "key-metrics": key_metrics,
    "win-draw-loss": win_draw_loss,
    "strengths": strengths,
    "ranks": ranks,
    "uci": uci,
    "frontier": frontier,
    "pivot": pivot,
    "stability": stability,
}


def summary(name: str) -> str:
    """What a table shows, in one line."""
    return (TABLES[name].__doc__ or "").partition("\n")[0].rstrip(":.")


def make(name: str, runs: Sequence[Run], spec: TableSpec | None = None) -> Table:
    """Makes a table by its name.

    Raises:
        UserError: there is no such table, or `spec` names what the runs do not have.
        RunFailed: no run has finished.
    """
    if name not in TABLES:
        raise UserError(f"there is no table {name!r}{did_you_mean(name, TABLES)}", "table")
    return TABLES[name](runs, spec)
