"""The answer to a sweep in a few sentences: which configuration validation chose, how good it is, and against what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from regx.analysis.configurations import configurations, datasets_of_rows, row_names
from regx.analysis.report.asked import setting_text, shown_value
from regx.analysis.report.records import METRIC_WORDS
from regx.analysis.runs import MONITORED, TESTED, Run, identity, technique, title_of, varying
from regx.analysis.selection import Group, all_datasets, grouped, merit
from regx.analysis.statistics import DIGITS, LEVEL, Paired, confidence_interval, paired
from regx.analysis.table import Table, TableSpec, check_any_finished, counted, p_text, plain

# Ties beyond so many are counted.
_NAMED = 3
_CI = "95\u00a0% CI"  # not broken into two lines
SURVIVORS = "(survivors)"
# What a configuration is called of which nothing varies.
_NAMELESS = "the configuration"


@dataclass(frozen=True)
class Row:
    """A configuration that was a candidate.

    Attributes:
        name: in words.
        values: the metric that is told, per seed (over several datasets: its mean over them), or per dataset where
            differences are between datasets.
        by_seed: the same metric per seed.
        score: by which rows are ordered: seeds that have finished, mean validation metric.
        p: of the table: a number, or why there is none.
    """

    name: str
    group: Group
    values: dict[Any, float]
    by_seed: dict[int | None, float]
    score: tuple[int, float]
    p: float | str | None = None

    @property
    def mean(self) -> float:
        """Mean of the metric over seeds."""
        return fmean(self.by_seed.values())


@dataclass(frozen=True)
class Answer:
    """What came out.

    Attributes:
        headline: the answer, in one sentence.
        remarks: what belongs to it: ties, the runner-up, how it was chosen.
        metric: key of the metric that is told (test/acc).
        words: the same in words (test accuracy).
        rows: all candidates, the best by validation first.
        baseline: place of the baseline in `rows`, None where there is none.
        spec: text of the baseline, as `--baseline` takes it.
        table: of these rows, with intervals, differences and p values.
    """

    headline: str
    remarks: list[str]
    metric: str
    words: str
    rows: list[Row]
    baseline: int | None
    spec: str | None
    table: Table = field(repr=False)


def find_baseline(runs: Sequence[Run], named: str | None) -> str | None:
    """The baseline as `--baseline` would name it: the one that is asked for, the label Baseline, or strength 0.

    Tables take the label `Baseline` by themselves; a sweep over a strength without labels has it where that is 0.
    """
    if named is not None:
        return named
    if any(run.label == "Baseline" for run in runs) and any(run.label != "Baseline" for run in runs):
        return "Baseline"
    strengths = [name for name in varying(runs) if name.rpartition(".")[2].rstrip("_") == "lambda"]
    if len(strengths) == 1 and not any(run.label for run in runs):
        unpenalised = [run for run in runs if identity(run.setting(strengths[0])) == identity(0)]
        # A regularizer may name a strength of its own, which a lambda of 0 leaves as it is.
        if unpenalised and all(
            technique(run.config) == technique(run.config | {"regularizer": []}) for run in unpenalised
        ):
            return f"{strengths[0]}=0"
    return None


def answer(runs: Sequence[Run], named: str | None = None) -> Answer:
    """Chooses by validation, reports on test, compares with the baseline.

    The rows are the values of the baseline's parameters (or the labels). Of all other parameters each row has those
    that are best by its own validation metric, so that a tuned configuration is compared with a tuned baseline. Without
    a baseline, every configuration is a row. Of several datasets, the mean is taken over those that all rows share.

    Args:
        runs: of a sweep.
        named: the baseline that is asked for.

    Raises:
        UserError: no configuration is called so.
        RunFailed: no run has finished.
    """
    runs = list(runs)
    check_any_finished(runs)
    spec = find_baseline(runs, named)
    by = _row_names(runs, spec)
    has_test = any(run.value(TESTED) is not None for run in runs if run.finished)
    metric = TESTED if has_test else MONITORED
    table = configurations(runs, TableSpec(by=by, metrics=[metric, MONITORED], baseline=spec))
    groups = grouped(runs, by)
    several = len(all_datasets(groups)) > 1
    rows = [
        row
        for group, datasets in zip(groups, datasets_of_rows(groups, by), strict=True)
        if (row := _row(group, datasets, metric, several, table, by)) is not None
    ]
    rows.sort(key=lambda row: row.score, reverse=True)
    # `configurations` has refused a baseline that no row is; of one without a finished run there is nothing to compare.
    place = next((i for i, row in enumerate(rows) if row.p == "baseline"), None) if spec else None
    words = _words(title_of(runs, metric))
    headline, remarks = _told(rows, place, spec, words, "datasets" if several else "seeds", has_test)
    return Answer(headline, remarks, title_of(runs, metric), words, rows, place, spec, table)


def _row_names(runs: list[Run], spec: str | None) -> list[str]:
    if spec is None:
        return [name for name in row_names(runs, None) if name != "dataset"]
    labels = {run.label for run in runs}
    if "=" in spec and spec not in labels:
        return [part.partition("=")[0].strip() for part in spec.split(",")]
    return ["label"] if labels != {None} else ["technique"]


def _row(
    group: Group, datasets: Sequence[str], metric: str, several: bool, table: Table, by: Sequence[str]
) -> Row | None:
    validated, values = group.by_seed(MONITORED, datasets), group.by_seed(metric, datasets)
    if not validated or not values:
        return None
    per = {name: mean for name in datasets if (mean := group.entries[name].mean(metric)) is not None}
    return Row(
        _name(group),
        group,
        dict(per) if several else dict(values),
        values,
        merit(validated.values()),
        _p(group, table, by),
    )


def _p(group: Group, table: Table, by: Sequence[str]) -> float | str | None:
    if "p" not in table.columns:
        return None
    places = [table.columns.index(name) for name in by]
    key = [plain(group.key[name]) for name in by]
    row = next(row for row in table.rows if [row[place] for place in places] == key)
    return row[table.columns.index("p")]


def _name(group: Group) -> str:
    """The row in words, with what validation has chosen for it."""
    parts = [
        setting_text(name, value)
        for name, value in group.key.items()
        if not (name in ("label", "technique") and value is None)
    ]
    chosen = [entry.chosen for entry in group.entries.values() if entry.chosen]
    names = [name for name in dict.fromkeys(key for item in chosen for key in item) if not _told_by_label(name, group)]
    alike = [name for name in names if len({identity(item.get(name)) for item in chosen}) == 1]
    told = [f"{name} {shown_value(chosen[0].get(name))}" for name in alike]
    open_ = [f"its best {name} per dataset" for name in names if name not in alike]
    return (", ".join(parts) or _NAMELESS) + (f" at {', '.join(told + open_)}" if told or open_ else "")


def _told_by_label(name: str, group: Group) -> bool:
    return name == "label" and "label" in group.key


def _words(title: str) -> str:
    stage, _, metric = title.partition("/")
    return f"{ {'val': 'validation', 'test': 'test'}.get(stage, stage) } {METRIC_WORDS.get(metric, metric)}"


def _told(
    rows: list[Row], baseline: int | None, spec: str | None, words: str, unit: str, has_test: bool
) -> tuple[str, list[str]]:
    if not rows:
        return "No configuration has a finished run in every dataset, so there is nothing to compare yet.", []
    best, base = rows[0], None if baseline is None else rows[baseline]
    over = f", the mean over {counted(len(best.values), 'dataset')}" if unit == "datasets" else ""
    reached = f"{best.name}, with a {words} of {_number(best.mean)}{over} ({certainty(best.by_seed)})"
    remarks = []
    tests = sum(isinstance(row.p, float | int) or str(row.p).endswith(SURVIVORS) for row in rows)
    if base is None:
        if len(rows) > 1:
            headline = f"Best of {len(rows)} by validation: {reached}."
        else:
            what = "One run" if len(best.by_seed) == 1 and unit == "seeds" else "One configuration"
            headline = f"{what}{reached.removeprefix(_NAMELESS)}." if best.name == _NAMELESS else f"{what}: {reached}."
        if len(rows) > 1:
            missing = (
                f"The baseline {spec} has no finished run" if spec else "No baseline is known (--baseline names one)"
            )
            remarks.append(f"{missing}, so no difference is tested.")
    elif best is base:
        headline = f"Nothing beat the baseline by validation: {reached}."
    else:
        headline = f"Best by validation: {reached}, {difference(best, base, unit, tests)}."
    remarks += _ties(rows)
    if len(rows) > 1 and base is not None and best is base:
        remarks.append(f"Next by validation: {rows[1].name}, {difference(rows[1], base, unit, tests)}.")
    elif len(rows) > 1 and rows[1] is not base:
        remarks.append(_runner_up(best, rows[1], unit))
    if len(rows) > 1:
        remarks.append(_how(rows, has_test))
    passed_over = [row for row in rows if row.score[1] > best.score[1]]
    if passed_over:
        remarks.append(
            f"{passed_over[0].name} has a higher validation mean, but of fewer finished seeds "
            f"({passed_over[0].score[0]} against {best.score[0]}), and was passed over."
        )
    return headline, remarks


def _how(rows: list[Row], has_test: bool) -> str:
    entries = [entry for row in rows for entry in row.group.entries.values()]
    tuned = [name for name in dict.fromkeys(key for entry in entries for key in entry.chosen) if name != "label"]
    each = f" (and, for each row, its {', '.join(tuned)})" if tuned else ""
    where = (
        "the numbers are of the test rows, which chose nothing"
        if has_test
        else "there are no test rows, so the numbers are those that chose, and look a little too good"
    )
    return f"Epoch and configuration{each} were chosen by the validation metric; {where}."


def certainty(by_seed: Mapping[Any, float]) -> str:
    """`n = 32 seeds, 95 % CI 0.965 to 0.992`; of fewer than three seeds, why there is no interval."""
    count = len(by_seed)
    if count == 1:
        return "one seed, so no interval"
    if count == 2:
        return f"two seeds, {' and '.join(_number(value) for value in by_seed.values())}: too few for an interval"
    interval = confidence_interval(list(by_seed.values()))
    assert interval is not None
    return f"n\u00a0=\u00a0{count} seeds, {_CI} {_number(interval[0])} to {_number(interval[1])}"


def difference(row: Row, base: Row, unit: str, comparisons: int) -> str:
    """`+0.479 against the baseline lambda 0 (95 % CI of the difference ..., p < 0.001, paired over 32 seeds)`."""
    found = paired(row.values, base.values)
    if found is None:
        return f"which shares no {unit.removesuffix('s')} with the baseline"
    named = base.name if base.name.lower().startswith("baseline") else f"the baseline {base.name}"
    size = f"{found.difference:+.3f} against {named}"
    return f"{size} ({', '.join(_evidence(found, row.p, unit, comparisons))})"


def _evidence(found: Paired, p: float | str | None, unit: str, comparisons: int) -> list[str]:
    interval = found.interval if found.n > 2 else None
    parts = [f"{_CI} {interval[0]:+.3f} to {interval[1]:+.3f}"] if interval else []
    shared = f"paired over {counted(found.n, unit.removesuffix('s'))}"
    if isinstance(p, float | int):
        holm = f", corrected by Holm for {comparisons} comparisons" if comparisons > 1 else ""
        least = comparisons * 2 ** (1 - found.n)
        doubt = "" if p < LEVEL else ": no difference beyond luck was shown"
        if unit == "datasets" and p >= LEVEL and least >= LEVEL:
            doubt = f": {found.n} datasets and {counted(comparisons, 'comparison')} allow no p below {p_text(least)}"
        value = f"p {'' if p < 0.001 else '= '}{p_text(p).replace('<', '< ')}".replace(" ", "\u00a0")
        return [*parts, f"{value}, {shared}{holm}{doubt}"]
    if p == "n too small":
        return [*parts, f"too few pairs for a test: {counted(found.n, unit.removesuffix('s'))}"]
    if p == "no spread":
        return [f"every one of {found.n} {unit} differs by the same amount, which no test can judge"]
    if isinstance(p, str) and p.endswith(SURVIVORS):
        return [*parts, f"p {p.partition(' ')[0]}, {shared}, of the runs that did not fail"]
    return [*parts, f"{shared}, not tested: {p}"] if p else [*parts, shared]


def _ties(rows: list[Row]) -> list[str]:
    tied = [row.name for row in rows[1:] if row.score == rows[0].score]
    if not tied:
        return []
    more = f" and {len(tied) - _NAMED} more" if len(tied) > _NAMED else ""
    return [f"By validation it ties with {', '.join(tied[:_NAMED])}{more}; the first of them in the sweep is named."]


def _runner_up(best: Row, second: Row, unit: str) -> str:
    found = paired(best.values, second.values)
    told = f"Next by validation is {second.name}, {_number(second.mean)}"
    if found is None:
        return f"{told}."
    if round(found.difference, DIGITS) == 0:
        return f"{told}: the same."
    side = "above" if found.difference > 0 else "below"
    size = f"the first is {abs(found.difference):.3f} {side} it"
    if found.n < 3 or found.interval is None:
        return f"{told}; {size} (too few pairs for an interval)."
    low, high = found.interval
    doubt = ", so the two cannot be told apart" if low <= 0 <= high else ""
    return f"{told}; {size} ({_CI} {low:+.3f} to {high:+.3f}, paired over {found.n} {unit}){doubt}."


def _number(value: float) -> str:
    return f"{value:.3f}"
