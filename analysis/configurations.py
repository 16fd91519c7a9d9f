"""One row per configuration of a sweep: mean and spread over seeds, and what differs from the baseline beyond luck."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from regx.analysis.runs import (
    MONITORED,
    TESTED,
    Run,
    check_metric,
    check_setting,
    identity,
    placed,
    title_of,
    varying,
)
from regx.analysis.selection import (
    Group,
    all_datasets,
    chosen_note,
    grouped,
    left_out_note,
    shared_datasets,
)
from regx.analysis.statistics import (
    LEAST_DATASETS,
    LEAST_SEEDS,
    LEVEL,
    confidence_interval,
    holm,
    paired_t,
    signed_rank,
)
from regx.analysis.table import (
    Cell,
    Table,
    TableSpec,
    check_any_finished,
    counted,
    is_minimised,
    judged_by,
    mean_std,
    missing_notes,
    number_format,
    p_text,
    plain,
    with_marks,
)
from regx.errors import UserError, did_you_mean

# In the place of a p value where the only metric there is has chosen what would be tested by it.
CHOSEN = "chosen by validation"


def configurations(runs: Sequence[Run], spec: TableSpec | None = None) -> Table:
    """One row per configuration: mean ± std over seeds, confidence interval, difference to the baseline and its p.

    All numbers are those of the epoch with the best validation metric. n counts the seeds that have finished; std has
    n - 1 in its denominator; the interval is Student's. Where rows are over several datasets (`by` leaves `dataset`
    out), the numbers are of the mean over datasets, per seed, over the datasets in which every row has a run.

    Significance is about the first metric, paired with the baseline: within a dataset over seeds by Student's t test;
    over several datasets by Wilcoxon's signed-rank test of the datasets' means over shared seeds, as seeds of one
    dataset are no independent datasets. A difference has Student's interval over the same pairs. p values are corrected
    by Holm over all tests of the table. Where rows are the best of several configurations by validation, the test is
    about the same metric on the test rows: that of validation was chosen for being good. Where seeds have failed, a p
    is about the survivors and gets no star.

    Args:
        runs: of a sweep.
        spec: uses `by`, `metrics`, `baseline`, `sort`, `goal`, `on`.

    Raises:
        UserError: a name in `spec` that the runs do not have.
        RunFailed: no run has finished.
    """
    spec = spec or TableSpec()
    runs = list(runs)
    check_any_finished(runs)
    by = row_names(runs, spec.by)
    metrics = metrics_of(runs, spec.metrics)
    if (judge := judged_by(runs, spec)) == TESTED:
        metrics = [judge, *(metric for metric in metrics if title_of(runs, metric) != title_of(runs, judge))]
    titles = [title_of(runs, metric) for metric in metrics]
    groups = grouped(runs, by)
    datasets = datasets_of_rows(groups, by)
    values = [[list(group.by_seed(m, d).values()) for m in metrics] for group, d in zip(groups, datasets, strict=True)]
    missing = any(not run.finished for run in runs)
    columns = [*by, "n", *(["not finished"] if missing else [])]
    rows: list[list[Cell]] = []
    for group, numbers in zip(groups, values, strict=True):
        cells: list[Cell] = [plain(group.key[name]) for name in by]
        cells.append(len(numbers[0]))
        cells += [sum(not run.finished for run in group.tried)] if missing else []
        for place, of_metric in enumerate(numbers):
            cells += mean_std(of_metric)
            cells += list(confidence_interval(of_metric) or (None, None)) if place == 0 else []
        rows.append(cells)
    for place, title in enumerate(titles):
        columns += [f"{title} mean", f"{title} std"]
        columns += [f"{title} low", f"{title} high"] if place == 0 else []
    formats = {
        column: number_format((row[index] for row in rows), column)
        for index, column in enumerate(columns)
        if "/" in column
    }
    notes = ["mean ± std over n seeds, at the epoch that is best by validation; CI: 95 % interval of the mean"]
    single = not any(len(numbers[0]) > 1 for numbers in values)
    notes = ["one seed each, at the epoch that is best by validation: no std, no interval"] if single else notes
    columns = with_marks(columns, rows, [group.mark for group in groups])
    if (baseline := _baseline(groups, spec.baseline)) is not None:
        name, tests, of_tests = _against(groups, datasets, baseline, metrics[0])
        columns += [f"difference to {name}", f"difference to {name} low", f"difference to {name} high", "p"]
        form = "+" + number_format(test[0] for test in tests)
        formats |= {column: form for column in columns[-4:-1]} | {"p": "p"}
        rows = [row + test for row, test in zip(rows, tests, strict=True)]
        notes += of_tests
    order = _order(columns, rows, spec, titles, by)
    notes += [*aggregation_notes(groups, datasets, by), *chosen_note(groups), *missing_notes(runs)]
    notes += constants_note(runs, by)
    return Table(counted(len(groups), "configuration"), columns, [rows[index] for index in order], notes, formats)


def metrics_of(runs: list[Run], wanted: Sequence[str] | None) -> list[str]:
    """The metrics of a table, checked: what is asked for, or the monitored one and its like on the test rows."""
    if wanted is None:
        return [MONITORED, *([TESTED] if any(run.value(TESTED) is not None for run in runs) else [])]
    for metric in wanted:
        check_metric(runs, metric, "metrics")
    if not wanted:
        raise UserError("give at least one metric", "metrics")
    return list(dict.fromkeys(wanted))


def row_names(runs: list[Run], by: Sequence[str] | None) -> list[str]:
    """Names of the settings that make a row: `by`, or the dataset, the label and all that it does not decide."""
    if by is not None:
        for name in by:
            check_setting(runs, name, "by")
        return list(dict.fromkeys(by))
    names = varying(runs)
    set_by_label = _set_by_label(runs)
    return sorted((name for name in names if name not in set_by_label), key=lambda name: name != "dataset")


def _set_by_label(runs: list[Run]) -> set[str]:
    """Parameters that the label decides."""
    runs = placed(runs)
    labels = {run.label for run in runs}
    if len(labels) < 2:
        return set()
    return {
        name
        for name in varying(runs)
        if name not in ("label", "dataset")
        and all(len({identity(run.setting(name)) for run in runs if run.label == label}) == 1 for label in labels)
    }


def datasets_of_rows(groups: Sequence[Group], by: Sequence[str]) -> list[list[str]]:
    """The datasets that each row is about: its own one, or those that all rows share."""
    if "dataset" in by:
        return [list(group.entries) for group in groups]
    shared = shared_datasets([group for group in groups if any(entry.runs for entry in group.entries.values())])
    return [shared] * len(groups)


def aggregation_notes(groups: Sequence[Group], datasets: Sequence[Sequence[str]], by: Sequence[str]) -> list[str]:
    """Says over how many datasets the rows are, and which are left out."""
    if "dataset" in by or len(all_datasets(groups)) == 1:
        return []
    alive = [group for group in groups if any(entry.runs for entry in group.entries.values())]
    number = counted(len(datasets[0]), "dataset")
    return [
        f"each number is of the mean over {number}, per seed that has finished in all of them",
        *left_out_note(alive, datasets[0]),
    ]


def constants_note(runs: list[Run], by: Sequence[str]) -> list[str]:
    """Names what the sweep set to one value everywhere, and what the label stands for."""
    changing = {*varying(runs), *by}
    names = dict.fromkeys(name for run in runs for name in run.parameters if name not in changing)
    constant = {name: value for name in names if (value := placed(runs)[0].setting(name)) is not None}
    notes = []
    if constant and len(constant) <= 20:
        notes.append("everywhere: " + ", ".join(f"{name} {plain(value)}" for name, value in constant.items()))
    if decided := sorted(_set_by_label(runs) - set(by)):
        notes.append(f"the label stands for: {', '.join(decided)}")
    return notes


def _baseline(groups: Sequence[Group], wanted: str | None) -> list[int] | None:
    """Places of the rows that are the baseline; None where there is none and nobody asked for one.

    Raises:
        UserError: the name fits no row.
    """
    labels = [label for group in groups if (label := _label(group)) is not None]
    if wanted is None:
        found = [i for i, group in enumerate(groups) if _label(group) == "Baseline"]
        return found if 0 < len(found) < len(groups) else None
    if "=" in wanted and wanted not in labels:
        pairs = [part.partition("=") for part in wanted.split(",")]
        settings = {name.strip(): value.strip() for name, _, value in pairs}
        for name in settings:
            if name not in groups[0].key:
                known = did_you_mean(name, groups[0].key)
                raise UserError(f"{name!r} of {wanted!r} makes no rows here{known}", "baseline")
        found = [i for i, g in enumerate(groups) if all(_is(g.key[name], value) for name, value in settings.items())]
    else:
        found = [i for i, group in enumerate(groups) if _label(group) == wanted]
    if not found:
        near = did_you_mean(wanted, dict.fromkeys(labels)) if labels else "; write name=value"
        raise UserError(f"no configuration is {wanted!r}{near}", "baseline")
    return found


def _label(group: Group) -> str | None:
    return group.key.get("label", group.key.get("technique"))


def _is(value: Any, text: str) -> bool:
    """Whether `text` means this value: 1e-2 is 0.01."""
    try:
        return not isinstance(value, bool) and float(text) == float(value)
    except (TypeError, ValueError):
        return str(plain(value)).lower() == text.lower()


def _against(
    groups: Sequence[Group], datasets: Sequence[Sequence[str]], baseline: list[int], metric: str
) -> tuple[str, list[list[Cell]], list[str]]:
    """Name of the baseline; difference and p of every row; what was done.

    A row is compared with the baseline that agrees with it in all that varies among the baselines (dataset, depth).
    """
    keys = [groups[i].key for i in baseline]
    same = [name for name in keys[0] if len({identity(key[name]) for key in keys}) > 1]
    by_context = {tuple(identity(groups[i].key[name]) for name in same): i for i in baseline}
    fixed = {name: value for name, value in keys[0].items() if name not in same}
    name = _label(groups[baseline[0]]) or ", ".join(f"{key}={plain(value)}" for key, value in fixed.items())
    several = len(all_datasets(groups)) > 1 and "dataset" not in groups[0].key
    tested, of_chosen = _tested(groups, metric)
    cells: list[list[Cell]] = []
    ps: dict[int, float] = {}
    losers: dict[int, list[Group]] = {}
    for place, group in enumerate(groups):
        other = by_context.get(tuple(identity(group.key[name]) for name in same))
        if place in baseline or other is None:
            cells.append([None, None, None, "baseline" if place in baseline else "no baseline"])
            continue
        differences = _differences(group, groups[other], datasets[place], tested or metric, several)
        if tested is None and (_is_chosen(group) or _is_chosen(groups[other])):
            cells.append([fmean(differences) if differences else None, None, None, CHOSEN])
            continue
        p = (signed_rank if several else paired_t)(differences)
        enough = len(differences) >= (LEAST_DATASETS if several else LEAST_SEEDS)
        interval = confidence_interval(differences) or (None, None)
        word = "no spread" if enough else "n too small"
        cells.append([fmean(differences) if differences else None, *interval, word])
        if p is not None:
            ps[place] = p
            losers[place] = [found for found in (group, groups[other]) if any(e.lost for e in found.entries.values())]
    for place, p in zip(ps, holm(list(ps.values())), strict=True):
        cells[place][-1] = f"{p_text(p)} (survivors)" if losers[place] else p
    words = {row[-1] for row in cells}
    notes = _test_notes(several, words, [len(names) for names in datasets], len(ps))
    return name, cells, [*notes, *of_chosen, *_survivors_note(losers)]


def _is_chosen(group: Group) -> bool:
    return any(entry.chosen for entry in group.entries.values())


def _tested(groups: Sequence[Group], metric: str) -> tuple[str | None, list[str]]:
    """The metric that a test may be about, None where there is none for rows that were chosen; and a note on it."""
    if not any(map(_is_chosen, groups)) or not (metric == MONITORED or metric.startswith("val/")):
        return metric, []
    runs = [run for group in groups for entry in group.entries.values() for run in entry.runs]
    unseen = TESTED if metric == MONITORED else metric.replace("val/", "test/", 1)
    title, of_test = title_of(runs, metric), title_of(runs, unseen)
    if all(run.value(unseen) is None for run in runs):
        return None, [f"{CHOSEN}: no p of the best of several configurations, as no run has {of_test}"]
    return unseen, [f"difference and p are of {of_test}, as the best of several by validation look too good in {title}"]


def _survivors_note(losers: dict[int, list[Group]]) -> list[str]:
    groups = list({id(group): group for found in losers.values() for group in found}.values())
    parts = []
    for group in groups[:8]:
        lost = sum(len(entry.lost) for entry in group.entries.values())
        runs = lost + sum(len(entry.runs) for entry in group.entries.values())
        name = ", ".join(str(plain(value)) for value in group.key.values() if value is not None)
        parts.append(f"{lost} of {counted(runs, 'seed' if len(group.entries) == 1 else 'run')} of {name}")
    if not parts:
        return []
    more = f" and of {len(groups) - 8} rows more" if len(groups) > 8 else ""
    return [f"survivors only, no star: {', '.join(parts)}{more} failed"]


def _differences(group: Group, other: Group, datasets: Sequence[str], metric: str, several: bool) -> list[float]:
    """Row minus baseline: per dataset, of the means over the seeds that both have; or, of one dataset, per seed."""
    per_dataset = []
    for name in datasets:
        if name in group.entries and name in other.entries:
            mine, theirs = group.entries[name].by_seed(metric), other.entries[name].by_seed(metric)
            per_dataset.append([mine[seed] - theirs[seed] for seed in mine if seed in theirs])
    if several:
        return [fmean(differences) for differences in per_dataset if differences]
    return per_dataset[0] if per_dataset else []


def _test_notes(several: bool, words: set[Cell], sizes: list[int], tests: int) -> list[str]:
    if several:
        notes = ["p: Wilcoxon's signed-rank test over datasets, paired, exact, two-sided"]
        least, unit = LEAST_DATASETS, "datasets"
        smallest = tests * 2 ** (1 - max(sizes))
        if tests and smallest >= LEVEL:
            notes.append(
                f"{max(sizes)} datasets and {counted(tests, 'test')}: no corrected p can be below {smallest:.2g}"
            )
    else:
        notes = ["p: Student's paired t test over shared seeds, two-sided"]
        least, unit = LEAST_SEEDS, "shared seeds"
    notes[0] += f", corrected by Holm for {tests} tests" if tests > 1 else ""
    notes[0] += f"; * below {LEVEL}"
    notes.append(f"CI of a difference: Student's 95 % interval over the same {unit}, for one comparison, uncorrected")
    if "n too small" in words:
        notes.append(f"n too small: fewer than {least} {unit}")
    if "no spread" in words:
        notes.append("no spread: every seed differs by the same amount, which a t test cannot judge")
    return notes


def _order(columns: list[str], rows: list[list[Cell]], spec: TableSpec, titles: list[str], by: list[str]) -> list[int]:
    """Places of the rows in the order of the table: empty cells last, equals in the order of the sweep."""
    wanted = [("dataset", False)] if "dataset" in by else []
    wanted.append((f"{titles[0]} mean", not is_minimised(titles[0], spec.goal)))
    if spec.sort is not None:
        column = f"{spec.sort} mean" if f"{spec.sort} mean" in columns else spec.sort
        if column not in columns:
            known = [c.removesuffix(" mean") for c in columns if not c.endswith((" std", " low", " high"))]
            raise UserError(f"there is no column {spec.sort!r}{did_you_mean(spec.sort, known)}", "sort")
        goal = spec.goal if spec.sort == titles[0] else None
        wanted = [(column, column.endswith(" mean") and not is_minimised(spec.sort, goal))]
    order = list(range(len(rows)))
    for column, falling in reversed(wanted):
        index = columns.index(column)
        order = ordered(order, [row[index] for row in rows], falling)
    return order


def ordered(places: list[int], cells: list[Cell], falling: bool = False) -> list[int]:
    """Sorts places by their cells, numbers before texts and empty cells last; stable."""
    full = [place for place in places if cells[place] is not None]
    empty = [place for place in places if cells[place] is None]

    def key(place: int) -> tuple[bool, Any]:
        cell = cells[place]
        return (True, cell) if isinstance(cell, str) else (False, -cell if falling and cell is not None else cell)

    return sorted(full, key=key) + empty
