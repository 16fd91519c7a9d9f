"""Accuracy beside sparsity, and one metric over two parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from regx.analysis.configurations import (
    aggregation_notes,
    constants_note,
    datasets_of_rows,
    metrics_of,
    ordered,
    row_names,
)
from regx.analysis.runs import MONITORED, Run, check_metric, check_setting, identity, title_of, varying
from regx.analysis.selection import chosen_note, grouped
from regx.analysis.statistics import DIGITS
from regx.analysis.table import (
    Cell,
    Table,
    TableSpec,
    check_any_finished,
    counted,
    is_minimised,
    mean_std,
    missing_notes,
    number_format,
    plain,
    with_marks,
)
from regx.errors import RunFailed, UserError

# Units of exact zeros (`regx.training.sparsity`), in the order in which the first that a sweep has is its sparsity.
_UNITS = (
    *("elements", "kernels", "filters", "channels", "rows", "columns", "units"),
    *("blocks", "heads", "groups", "gates"),
)


def frontier(runs: Sequence[Run], spec: TableSpec | None = None) -> Table:
    """Accuracy beside sparsity, one row per configuration, sorted by sparsity.

    A star marks the frontier: no other configuration (of the same dataset) is at least as sparse and better by the mean
    validation metric, or as good and sparser. Sparsity is the share of exact zeros at the best epoch; a run that counts
    no zeros, as no regularizer of it makes any, has an empty cell and is taken for dense.

    Args:
        runs: of a sweep.
        spec: uses `by` and `metrics`: the first is the sparsity that rows are sorted by, the others are shown beside.

    Raises:
        UserError: a name in `spec` that the runs do not have, or runs that count no zeros.
        RunFailed: no run has finished.
    """
    spec = spec or TableSpec()
    runs = list(runs)
    check_any_finished(runs)
    sparsity = list(spec.metrics) if spec.metrics else _sparsity(runs)
    for metric in sparsity:
        check_metric(runs, metric, "metrics")
    by = row_names(runs, spec.by)
    groups = grouped(runs, by)
    datasets = datasets_of_rows(groups, by)
    metrics = [*sparsity, *metrics_of(runs, None)]
    rows: list[list[Cell]] = []
    points: list[tuple[str, float, float | None]] = []
    for group, names in zip(groups, datasets, strict=True):
        values = [list(group.by_seed(metric, names).values()) for metric in metrics]
        cells = [cell for of_metric in values for cell in mean_std(of_metric)]
        n = len(values[len(sparsity)])
        rows.append([*(plain(group.key[name]) for name in by), n, *cells])
        quality = mean_std(values[len(sparsity)])[0]
        sparse = mean_std(values[0])[0]
        # What is left counts downwards; a run that counts nothing is dense.
        sparse = -math.inf if sparse is None else -float(sparse) if is_minimised(sparsity[0]) else float(sparse)
        points.append((str(group.key.get("dataset", "")), sparse, None if quality is None else float(quality)))
    rows = [[*row, "*" if _on_frontier(point, points) else None] for row, point in zip(rows, points, strict=True)]
    titles = [title_of(runs, metric) for metric in metrics]
    numbers = [f"{title} {what}" for title in titles for what in ("mean", "std")]
    columns = with_marks([*by, "n", *numbers, "frontier"], rows, [group.mark for group in groups])
    order = ordered(list(range(len(rows))), [point[1] for point in points])
    order = ordered(order, [point[0] for point in points])
    formats = {column: number_format((row[columns.index(column)] for row in rows), column) for column in numbers}
    return Table(
        f"{titles[len(sparsity)]} beside {sparsity[0]} of {counted(len(rows), 'configuration')}",
        columns,
        [rows[place] for place in order],
        [
            "mean ± std over n seeds; * on the frontier: nothing else is at least as sparse and better by validation",
            *aggregation_notes(groups, datasets, by),
            *chosen_note(groups),
            *missing_notes(runs),
            *constants_note(runs, by),
        ],
        formats | {name: ".3f" for name in numbers if name.startswith("sparsity/") and "left" not in name},
    )


def _sparsity(runs: list[Run]) -> list[str]:
    shares = [f"sparsity/{unit}" for unit in _UNITS]
    found = [key for key in shares if any(run.finished and run.value(key) for run in runs)]
    found = found or [key for key in shares if any(run.finished and key in run.best for run in runs)]
    if not found:
        raise UserError("no finished run counts zeros; train with --log-sparsity yes", "metrics")
    left = "sparsity/parameters_left"
    return [*found[:1], *([left] if any(run.finished and left in run.best for run in runs) else [])]


def _on_frontier(point: tuple[str, float, float | None], points: list[tuple[str, float, float | None]]) -> bool:
    context, sparsity, quality = point
    if quality is None:
        return False
    mine = (round(sparsity, DIGITS), round(quality, DIGITS))
    others = [(round(s, DIGITS), round(q, DIGITS)) for c, s, q in points if c == context and q is not None]
    return not any(other[0] >= mine[0] and other[1] >= mine[1] and other != mine for other in others)


def pivot(runs: Sequence[Run], spec: TableSpec | None = None) -> Table:
    """One metric over two parameters, depth x width by default: the numbers of a heat map.

    A cell is the mean ± std over seeds, of the best configuration by validation where more than the two parameters
    varies, and over datasets the mean of those that all cells share.

    Args:
        runs: of a sweep.
        spec: uses `rows`, `columns` and `metric` (None: the monitored one).

    Raises:
        UserError: a name in `spec` that the runs do not have, or fewer than two parameters that vary.
        RunFailed: no run has finished, or no dataset has one of every cell.
    """
    spec = spec or TableSpec()
    runs = list(runs)
    check_any_finished(runs)
    down, across = _axes(runs, spec)
    metric = spec.metric or MONITORED
    check_metric(runs, metric, "metric")
    groups = grouped(runs, [down, across])
    datasets = datasets_of_rows(groups, [down, across])
    cells: dict[tuple[str, str], list[float]] = {}
    for group, names in zip(groups, datasets, strict=True):
        place = (identity(group.key[down]), identity(group.key[across]))
        cells[place] = list(group.by_seed(metric, names).values())
    heights, widths = (_in_order([group.key[name] for group in groups]) for name in (down, across))
    rows: list[list[Cell]] = []
    for height in heights:
        found = [cells.get((identity(height), identity(width)), []) for width in widths]
        rows.append([plain(height), *(cell for values in found for cell in mean_std(values))])
    columns = [down, *(f"{across} {plain(width)} {what}" for width in widths for what in ("mean", "std"))]
    sizes = {len(values) for values in cells.values() if values}
    if not sizes:
        raise RunFailed("no dataset has a finished run of every cell; make dataset the rows or the columns")
    seeds = f"{min(sizes)} to {max(sizes)} seeds" if len(sizes) > 1 else counted(max(sizes), "seed")
    title = title_of(runs, metric)
    form = number_format((cell for row in rows for cell in row[1:]), title)
    return Table(
        f"{title} over {down} and {across}",
        columns,
        rows,
        [
            f"mean ± std over {seeds}, at the epoch that is best by validation",
            *aggregation_notes(groups, datasets, [down, across]),
            *chosen_note(groups),
            *missing_notes(runs),
        ],
        {column: form for column in columns[1:]},
    )


def _axes(runs: list[Run], spec: TableSpec) -> tuple[str, str]:
    for name, option in ((spec.rows, "rows"), (spec.columns, "columns")):
        if name is not None:
            check_setting(runs, name, option)
    names = [name for name in varying(runs) if name not in (spec.rows, spec.columns)]
    ends = {name.rpartition(".")[2]: name for name in names}
    usual = [ends.pop(end) for end in ("depth", "width") if end in ends]
    names = usual + [name for name in names if name not in usual]
    down = spec.rows or (names.pop(0) if names else None)
    across = spec.columns or (names.pop(0) if names else None)
    if down is None or across is None:
        raise UserError("fewer than two parameters vary in this sweep; name rows and columns", "rows")
    if down == across:
        raise UserError(f"{down} cannot be both rows and columns", "columns")
    return down, across


def _in_order(values: list[object]) -> list[object]:
    """Different values, numbers rising, texts as they come."""
    different = list({identity(value): value for value in values}.values())
    places = ordered(list(range(len(different))), [v if isinstance(v, int | float) else None for v in different])
    return [different[place] for place in places]
