"""The tables of Jumpstart (Riera, Puertas, Pujol, IEEE Access 2025, doi:10.1109/ACCESS.2025.3591313).

They compare techniques (baseline, Jumpstart, skip connections, BatchNorm, GELU) over datasets. Per technique and
dataset the best configuration by validation is reported, as the mean over its seeds (`regx.analysis.selection`). Where
their code (blauigris/jumpstart) contradicts itself or the captions, the docstrings say what was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from regx.analysis.configurations import metrics_of, ordered
from regx.analysis.runs import MONITORED, Run, check_setting, identity, placed, title_of
from regx.analysis.selection import (
    Group,
    all_datasets,
    chosen_note,
    grouped,
    left_out_note,
    merit,
    shared_datasets,
)
from regx.analysis.statistics import (
    DIGITS,
    LEAST_RANKED,
    LEVEL,
    critical_difference,
    iman_davenport,
    mean_ranks,
    min_ranks,
)
from regx.analysis.table import (
    Cell,
    Table,
    TableSpec,
    check_any_finished,
    counted,
    judged_by,
    mean_std,
    missing_notes,
    number_format,
    p_text,
    plain,
    with_marks,
)
from regx.errors import RunFailed, UserError

# A technique has many dead (linear) units in a dataset from here on: the captions' 20 %.
MANY = 0.2

# The paper's symbols of the ratios in `regx.training.status`.
SYMBOLS = {
    "U_d": "unit_dead_ratio",
    "U_l": "unit_linear_ratio",
    "U_n": "unit_nonlinear_ratio",
    "D^layer_d": "deathness_ratio",
    "D^layer_l": "linearity_ratio",
    "D^layer_n": "nonlinearity_ratio",
    "D^network_d": "point_dead_ratio",
    "D^network_n": "point_nonlinear_ratio",
    "E": "point_efficiency",
}


def key_metrics(runs: Sequence[Run], spec: TableSpec | None = None) -> Table:
    """Per technique, over datasets: dead and linear units, trainability, convergence.

    * dead units, linear units: mean over datasets of the share of dead (linear) units, on the training rows. The code
      takes the area under a step function, which is this mean; the caption says the share of datasets with more than
      20 % of them. Both are columns.
    * trainability: share of datasets where the technique's validation metric is above the lowest of all techniques. So
      the worst technique of a dataset is not trainable there, nor is any where all are equal. A technique of which no
      run of a dataset has finished is not trainable there either.
    * convergence: mean over datasets of the technique's validation metric minus the highest of all techniques; <= 0.

    Args:
        runs: of a sweep.
        spec: uses `rows` (what is compared) and `on`.

    Raises:
        UserError: a name in `spec` that the runs do not have.
        RunFailed: no run has finished.
    """
    name, groups = _techniques(runs, spec)
    judge = judged_by(runs, spec)
    scores = {dataset: _scores(groups, dataset, judge) for dataset in all_datasets(groups)}
    rows: list[list[Cell]] = []
    for group in groups:
        mine = {d: found[_name(group)] for d, found in scores.items() if _name(group) in found}
        trained = sum(mine[d] > min(scores[d].values()) for d in mine)
        gaps = [mine[d] - max(scores[d].values()) for d in mine]
        cells: list[Cell] = [_name(group), len(mine)]
        for ratio in ("unit_dead_ratio", "unit_linear_ratio"):
            found = [entry.mean(f"train/jr/{ratio}") for entry in group.entries.values()]
            known = [value for value in found if value is not None]
            cells += (
                [fmean(known), sum(round(value, DIGITS) > MANY for value in known) / len(known)]
                if known
                else [None, None]
            )
        rows.append([*cells, trained / len(group.entries), fmean(gaps) if gaps else None])
    columns = [
        name,
        "datasets",
        "dead units",
        "datasets > 20 % dead",
        "linear units",
        "datasets > 20 % linear",
        "trainability",
        "convergence",
    ]
    formats = {column: ".3f" for column in columns[2:6:2]} | {column: ".0%" for column in (*columns[3:6:2], columns[6])}
    metric = title_of(runs, judge)
    notes = [
        "dead (linear) units: mean over datasets of their share on the training rows",
        f"trainability: share of datasets whose {metric} is above the lowest of all {name}s",
        f"convergence: mean over datasets of {metric} minus the highest of all {name}s",
    ]
    if len({row[1] for row in rows}) > 1:
        notes.append("the rows are not over the same datasets, as some have no finished run")
    order = ordered(list(range(len(rows))), [row[-1] for row in rows], falling=True)
    return Table(
        f"key metrics of {len(rows)} {name}s over {counted(len(scores), 'dataset')}",
        columns,
        [rows[place] for place in order],
        [*notes, *chosen_note(groups), *missing_notes(runs)],
        formats | {"convergence": "+.3f"},
    )


def win_draw_loss(runs: Sequence[Run], spec: TableSpec | None = None) -> Table:
    """In how many datasets a technique (row) wins, draws and loses against another (column).

    By the monitored validation metric, or its like on the test rows, unrounded, over the datasets in which every
    technique has a finished run.

    Args:
        runs: of a sweep.
        spec: uses `rows` (what is compared) and `on`.

    Raises:
        UserError: a name in `spec` that the runs do not have.
        RunFailed: no run has finished, or no dataset has one of every technique.
    """
    name, groups = _techniques(runs, spec)
    judge = judged_by(runs, spec)
    datasets = _shared(groups, name, judge)
    by_dataset = [_scores(groups, dataset, judge) for dataset in datasets]
    scores = [[found[_name(group)] for found in by_dataset] for group in groups]

    def record(row: int, column: int) -> str:
        pairs = list(zip(scores[row], scores[column], strict=True))
        wins, losses = sum(mine > other for mine, other in pairs), sum(mine < other for mine, other in pairs)
        return "-" if row == column else f"{wins}-{len(pairs) - wins - losses}-{losses}"

    names = [_name(group) for group in groups]
    places = range(len(groups))
    return Table(
        f"wins-draws-losses over {counted(len(datasets), 'dataset')}",
        [name, *names],
        [[names[row], *(record(row, column) for column in places)] for row in places],
        [
            f"row against column, by {title_of(runs, judge)}",
            *left_out_note(groups, datasets),
            *chosen_note(groups),
            *missing_notes(runs),
        ],
    )


def strengths(runs: Sequence[Run], spec: TableSpec | None = None) -> Table:
    """Per dataset and strength lambda: accuracy and nonlinear units and points, on training and validation rows.

    The best strength of a dataset, by the mean validation metric over seeds, has a star; as everywhere, among those
    with the most finished seeds.

    Args:
        runs: of a sweep.
        spec: uses `rows` (the parameter that is the strength).

    Raises:
        UserError: the strength is the same in all runs.
        RunFailed: no run has finished.
    """
    runs = list(runs)
    check_any_finished(runs)
    name = spec.rows if spec and spec.rows else "lambda"
    check_setting(runs, name, "rows")
    found = placed(runs)
    if len({identity(run.setting(name)) for run in found}) < 2:
        raise UserError(f"{name} is the same in all runs; name the parameter that is the strength", "rows")
    several = len({run.setting("technique") for run in found}) > 1 and any(run.label for run in found)
    by = ["dataset", *(["technique"] if several else []), name]
    groups = [group for group in grouped(runs, by) if any(entry.runs for entry in group.entries.values())]
    entries = [next(iter(group.entries.values())) for group in groups]
    merits = [merit(entry.by_seed(MONITORED).values()) for entry in entries]
    best: dict[str, tuple[int, float]] = {}
    for group, of_group in zip(groups, merits, strict=True):
        key = str(group.key["dataset"])
        best[key] = max(best.get(key, of_group), of_group)
    kept = ["U_n", "D^network_n", "D^layer_n"]
    train = title_of(runs, MONITORED).replace("val/", "train/")
    rows: list[list[Cell]] = []
    for group, entry, of_group in zip(groups, entries, merits, strict=True):
        values = list(entry.by_seed(MONITORED).values())
        is_best = of_group == best[str(group.key["dataset"])]
        ratios = [entry.mean(f"{part}/jr/{SYMBOLS[symbol]}") for part in ("val", "train") for symbol in kept]
        row = [plain(group.key[key]) for key in by]
        row += [len(values), *mean_std(values), "*" if is_best else None]
        accuracy = [entry.mean(run.monitor.replace("val/", "train/")) for run in entry.runs[:1]]
        rows.append([*row, *ratios[:3], *accuracy, *ratios[3:]])
    title = title_of(runs, MONITORED)
    columns = [*by, "n", f"{title} mean", f"{title} std", "best", *(f"val {symbol}" for symbol in kept), train]
    columns += [f"train {symbol}" for symbol in kept]
    formats = {column: ".3f" for column in columns[len(by) + 1 :]}
    columns = with_marks(columns, rows, [group.mark for group in groups])
    order = list(range(len(rows)))
    for index in reversed(range(len(by))):
        order = ordered(order, [row[index] for row in rows])
    return Table(
        f"{len({identity(group.key[name]) for group in groups})} strengths in {counted(len(best), 'dataset')}",
        columns,
        [rows[place] for place in order],
        [
            "mean ± std over n seeds; * best of its dataset by validation, of those with the most seeds",
            "U_n: nonlinear units; D^network_n: points nonlinear in all layers; D^layer_n: nonlinear points x layers",
            *chosen_note(groups),
            *missing_notes(runs),
        ],
        formats,
    )


def ranks(runs: Sequence[Run], spec: TableSpec | None = None) -> Table:
    """Rank of every technique in every dataset, and mean ranks with Friedman's test.

    Ranks are by the unrounded validation metric, ties all with the best of their ranks, as in the paper (which rounds
    accuracies to two decimals first, and so makes ties). The last row has the mean of ranks that ties share, which is
    what Friedman's and Nemenyi's tests are about (Demšar, JMLR 2006): Nemenyi's is for pairs, and only asked where
    Friedman's (with Iman and Davenport's F, over at least five datasets) finds a difference at all. Columns are sorted
    by it.

    Args:
        runs: of a sweep.
        spec: uses `rows` (what is compared) and `on`.

    Raises:
        UserError: a name in `spec` that the runs do not have.
        RunFailed: no run has finished, or no dataset has one of every technique.
    """
    name, groups = _techniques(runs, spec)
    judge = judged_by(runs, spec)
    datasets = _shared(groups, name, judge)
    scores = [list(_scores(groups, dataset, judge).values()) for dataset in datasets]
    by_min, by_mean = [min_ranks(row) for row in scores], [mean_ranks(row) for row in scores]
    means = [fmean(column) for column in zip(*by_mean, strict=True)]
    order = ordered(list(range(len(groups))), [*means])
    rows: list[list[Cell]] = [
        [dataset, *(row[place] for place in order)] for dataset, row in zip(datasets, by_min, strict=True)
    ]
    mins = [fmean(column) for column in zip(*by_min, strict=True)]
    rows.append(["mean rank", *(mins[place] for place in order)])
    rows.append(["mean rank, ties shared", *(means[place] for place in order)])
    notes = [f"by {title_of(runs, judge)}; equals all have the best of their ranks"]
    notes += _rank_note(scores)
    columns = ["dataset", *(_name(groups[place]) for place in order)]
    return Table(
        f"ranks of {len(groups)} {name}s in {counted(len(datasets), 'dataset')}",
        columns,
        rows,
        [*notes, *left_out_note(groups, datasets), *chosen_note(groups), *missing_notes(runs)],
        {column: ".2f" for column in columns[1:]},
    )


def _rank_note(scores: list[list[float]]) -> list[str]:
    """What Friedman's test says of two methods or more, and Nemenyi's where that finds a difference."""
    methods, datasets = len(scores[0]), len(scores)
    if methods > 2 and datasets < LEAST_RANKED:
        return [f"too few datasets for Friedman's test: {datasets} of at least {LEAST_RANKED}"]
    p = iman_davenport(scores)
    if p is None:
        return []
    tested = f"Friedman's test that all are alike, with Iman and Davenport's F: p {p_text(p)}"
    if p >= LEVEL:
        return [f"{tested}; so no two are said to differ"]
    difference = critical_difference(methods, datasets)
    return [
        f"{tested}; by Nemenyi's test mean ranks (ties shared) more than {difference:.2f} apart differ at the level "
        f"{LEVEL}"
    ]


def uci(runs: Sequence[Run], spec: TableSpec | None = None) -> Table:
    """The final table: rank, accuracy, and dead, linear and nonlinear units and points, per dataset and technique.

    Ratios are those of the training rows at the best epoch, as in the paper; accuracies are ranked unrounded.

    Args:
        runs: of a sweep.
        spec: uses `rows` (what is compared).

    Raises:
        UserError: a name in `spec` that the runs do not have.
        RunFailed: no run has finished.
    """
    name, groups = _techniques(runs, spec)
    metrics = metrics_of(list(runs), None)
    chosen = list(dict.fromkeys(key for g in groups for entry in g.entries.values() for key in entry.chosen))
    rows: list[list[Cell]] = []
    marks: list[str | None] = []
    for dataset in sorted(all_datasets(groups)):
        here = [(group, group.entries[dataset]) for group in groups if dataset in group.entries]
        scores = _scores(groups, dataset, MONITORED)
        rank = dict(zip(scores, min_ranks(list(scores.values())), strict=True))
        of_dataset: list[list[Cell]] = []
        for group, entry in here:
            row = [dataset, _name(group), *(plain(entry.chosen.get(key)) for key in chosen)]
            row += [len(entry.by_seed(MONITORED)), rank.get(_name(group))]
            row += [cell for metric in metrics for cell in mean_std(list(entry.by_seed(metric).values()))]
            of_dataset.append([*row, *(entry.mean(f"train/jr/{key}") for key in SYMBOLS.values())])
        order = ordered(list(range(len(here))), [rank.get(_name(group)) for group, _ in here])
        rows += [of_dataset[place] for place in order]
        marks += [here[place][1].mark for place in order]
    titles = [title_of(runs, metric) for metric in metrics]
    numbers = [f"{title} {what}" for title in titles for what in ("mean", "std")]
    columns = with_marks(["dataset", name, *chosen, "n", "rank", *numbers, *SYMBOLS], rows, marks)
    return Table(
        f"{len(groups)} {name}s in {counted(len(all_datasets(groups)), 'dataset')}",
        columns,
        rows,
        [
            "mean ± std over n seeds; ratios are of the training rows. U: units; D^layer: points x layers; D^network: "
            "points dead in some layer, nonlinear in all; d dead, l linear, n nonlinear; E: efficiency, the share of "
            "points x layers after the last layer in which the point is dead",
            *chosen_note(groups),
            *missing_notes(runs),
        ],
        {column: number_format(row[columns.index(column)] for row in rows) for column in numbers}
        | {symbol: ".2f" for symbol in SYMBOLS},
    )


def _techniques(runs: Sequence[Run], spec: TableSpec | None) -> tuple[str, list[Group]]:
    """What is compared, and a group for each: best configuration per dataset.

    Raises:
        UserError: no run has such a setting, or there is one only.
    """
    check_any_finished(runs)
    name = spec.rows if spec and spec.rows else "technique"
    check_setting(list(runs), name, "rows")
    groups = grouped(runs, [name])
    if len(groups) < 2:
        only = f"{name} is {_name(groups[0])} in all runs"
        raise UserError(f"there is nothing to compare: {only}; name another parameter", "rows")
    return name, groups


def _name(group: Group) -> str:
    """What a row of a comparison is called."""
    return str(plain(next(iter(group.key.values()))))


def _scores(groups: Sequence[Group], dataset: str, metric: str) -> dict[str, float]:
    """The mean of a metric of every technique that has a finished run in a dataset."""
    found: dict[str, float] = {}
    for group in groups:
        entry = group.entries.get(dataset)
        if entry and (mean := entry.mean(metric)) is not None:
            found[_name(group)] = round(mean, DIGITS)
    return found


def _shared(groups: Sequence[Group], name: str, metric: str) -> list[str]:
    """Datasets in which every technique has the metric."""
    datasets = [d for d in sorted(shared_datasets(groups)) if len(_scores(groups, d, metric)) == len(groups)]
    if not datasets:
        raise RunFailed(f"no dataset has a finished run of every {name}")
    return datasets
