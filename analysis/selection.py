"""Runs put together: rows of a table, the datasets and seeds within, and the configuration chosen by validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from regx.analysis.runs import MONITORED, Run, identity, placed, varying
from regx.analysis.statistics import DIGITS
from regx.analysis.table import counted
from regx.training.folder import PRUNED


@dataclass(frozen=True)
class Entry:
    """The runs of a row in one dataset.

    Attributes:
        chosen: the parameters that the row leaves open, as the best configuration by validation has them.
        runs: finished runs of that configuration whose monitored metric is a number.
        tried: all runs, of all configurations and in any state.
        lost: runs of that configuration (of all, where none has finished) that have failed, or whose metric is none.
    """

    chosen: dict[str, Any]
    runs: tuple[Run, ...]
    tried: tuple[Run, ...]
    lost: tuple[Run, ...] = ()

    @property
    def mark(self) -> str | None:
        """† where hyperband has ended a run that is in the numbers."""
        return "†" if any(run.ended == PRUNED for run in self.runs) else None

    def by_seed(self, metric: str) -> dict[int | None, float]:
        """A metric of every seed that has it; of runs that repeat a seed, the mean."""
        found: dict[int | None, list[float]] = {}
        for run in self.runs:
            if (value := run.value(metric)) is not None:
                found.setdefault(run.seed, []).append(value)
        return {seed: fmean(values) for seed, values in found.items()}

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over seeds."""
        values = self.by_seed(metric).values()
        return fmean(values) if values else None


@dataclass(frozen=True)
class Group:
    """A row of a table: what it stands for, and its runs by dataset."""

    key: dict[str, Any]
    entries: dict[str, Entry]

    @property
    def tried(self) -> list[Run]:
        """All its runs."""
        return [run for entry in self.entries.values() for run in entry.tried]

    @property
    def mark(self) -> str | None:
        """† where one of its entries has one."""
        return next(filter(None, (entry.mark for entry in self.entries.values())), None)

    def by_seed(self, metric: str, datasets: Sequence[str]) -> dict[int | None, float]:
        """The mean over datasets of a metric, for every seed that has it in all of them."""
        columns = [self.entries[name].by_seed(metric) for name in datasets if name in self.entries]
        if not columns or len(columns) < len(datasets):
            return {}
        return {seed: fmean(c[seed] for c in columns) for seed in columns[0] if all(seed in c for c in columns)}


def dataset_of(run: Run) -> str:
    """Name of the dataset that a run learned."""
    return str(run.setting("dataset"))


def grouped(runs: Sequence[Run], by: Sequence[str]) -> list[Group]:
    """Groups runs by settings, in the order in which they come.

    What else varies within a group is chosen by validation, per dataset: the configuration with the highest mean of
    the monitored metric over seeds, among those with the most finished seeds (one lucky seed does not beat three); the
    first of equals. Its metrics are then means over all of its seeds, where Jumpstart's code takes the single best
    run. Runs that a condition has skipped, or whose dataset is unknown, are in no group.
    """
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in placed(runs):
        found.setdefault(tuple(identity(run.setting(name)) for name in by), []).append(run)
    return [Group({name: members[0].setting(name) for name in by}, _entries(members)) for members in found.values()]


def _entries(runs: list[Run]) -> dict[str, Entry]:
    datasets: dict[str, list[Run]] = {}
    for run in runs:
        datasets.setdefault(dataset_of(run), []).append(run)
    return {name: _best(members) for name, members in datasets.items()}


def _best(runs: list[Run]) -> Entry:
    names = [name for name in varying(runs) if name != "dataset"]
    configurations: dict[tuple[str, ...], list[Run]] = {}
    lost: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        key = tuple(identity(run.setting(name)) for name in names)
        if run.finished and run.value(MONITORED) is not None:
            configurations.setdefault(key, []).append(run)
        elif run.finished or run.status == "failed":
            lost.setdefault(key, []).append(run)
    if not configurations:
        return Entry({}, (), tuple(runs), tuple(run for members in lost.values() for run in members))
    entries = [
        Entry({name: members[0].setting(name) for name in names}, tuple(members), tuple(runs), tuple(lost.get(key, ())))
        for key, members in configurations.items()
    ]
    return max(entries, key=lambda entry: merit(entry.by_seed(MONITORED).values()))


def merit(scores: Iterable[float]) -> tuple[int, float]:
    """How good a configuration is by the validation metric of its seeds: the higher the better."""
    scores = list(scores)
    return len(scores), round(fmean(scores), DIGITS)


def shared_datasets(groups: Sequence[Group]) -> list[str]:
    """Datasets in which every group has a finished run."""
    first = groups[0].entries if groups else {}
    return [name for name in first if all(name in group.entries and group.entries[name].runs for group in groups)]


def all_datasets(groups: Sequence[Group]) -> list[str]:
    """Datasets of any group."""
    return list(dict.fromkeys(name for group in groups for name in group.entries))


def left_out_note(groups: Sequence[Group], kept: Sequence[str]) -> list[str]:
    """Names the datasets that some row has no finished run of."""
    gone = [name for name in all_datasets(groups) if name not in kept]
    if not gone:
        return []
    named = ", ".join(gone[:8]) + (f" and {len(gone) - 8} more" if len(gone) > 8 else "")
    return [f"{counted(len(gone), 'dataset')} left out, as some row has no finished run there: {named}"]


def chosen_note(groups: Sequence[Group]) -> list[str]:
    """Says what was chosen by validation."""
    entries = [entry for group in groups for entry in group.entries.values()]
    names = list(dict.fromkeys(name for entry in entries for name in entry.chosen))
    if not names:
        return []
    return [
        f"{', '.join(names)}: best by mean validation metric over seeds, per dataset; "
        "that validation metric is the best of several and so looks a little too good"
    ]
