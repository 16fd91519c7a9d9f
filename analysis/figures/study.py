"""The runs that figures are drawn of: what differs between them, how they are put together, and their epochs."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from regx.analysis.runs import MONITORED, TESTED, Run, identity, placed, title_of, varying
from regx.errors import RunFailed, UserError

if TYPE_CHECKING:
    import numpy as np

MOST_POINTS = 120  # of a curve
MOST_PANELS, MOST_LINES = 12, 7


class CannotDraw(UserError):
    """These runs do not hold what the figure shows."""


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in nothing but their seed.

    Attributes:
        setting: what they were done with, of what differs between configurations.
        name: the same in a few letters.
        runs: one per seed.
    """

    setting: dict[str, Any]
    name: str
    runs: tuple[Run, ...]


class Study:
    """Runs, and where their folders are.

    Args:
        runs: of one sweep, say.
        folder: a run's folder is `folder / run.name`.
        metric: what to judge by, in the place of the metric that each figure has of its own.
    """

    def __init__(self, runs: Sequence[Run], folder: Path, metric: str | None = None) -> None:
        found = placed(runs)
        # Of runs that have not come to their end there is a best epoch so far, but no comparison.
        self.runs = [run for run in found if run.finished] or [run for run in found if run.status != "failed"]
        self.left_out = len(found) - len(self.runs)
        self.folder = folder
        self.metric = metric
        self._history: dict[str, dict[str, np.ndarray]] = {}

    def path(self, run: Run) -> Path:
        """A run's folder."""
        return self.folder / run.name

    @functools.cached_property
    def axes(self) -> list[str]:
        """What differs between configurations, without what something before it says already: the label comes first."""
        kept: list[str] = []
        groups = 1
        for name in varying(self.runs):
            now = len({tuple(identity(run.setting(key)) for key in (*kept, name)) for run in self.runs})
            if now > groups:
                kept.append(name)
                groups = now
        return kept

    @functools.cached_property
    def configurations(self) -> list[Configuration]:
        """All configurations, in the order of the values."""
        return self.grouped(self.runs, self.axes)

    def grouped(self, runs: Iterable[Run], axes: Sequence[str]) -> list[Configuration]:
        """Runs with the same settings, in the order of the values: numbers rise, others are as they come."""
        found: dict[tuple[str, ...], list[Run]] = {}
        for run in runs:
            found.setdefault(tuple(identity(run.setting(name)) for name in axes), []).append(run)
        order = [values_of(self.runs, name) for name in axes]
        places = [{identity(value): place for place, value in enumerate(values)} for values in order]
        keys = sorted(found, key=lambda key: [place[part] for place, part in zip(places, key, strict=True)])
        configurations = []
        for key in keys:
            setting = {name: found[key][0].setting(name) for name in axes}
            configurations.append(Configuration(setting, self.name_of(setting), tuple(found[key])))
        return configurations

    def name_of(self, setting: dict[str, Any]) -> str:
        """Settings in a few letters: `Jumpstart, depth 50`."""
        parts = [
            text(value) if name == "label" else f"{short(name)} {text(value)}"
            for name, value in setting.items()
            if name != "label" or value is not None
        ]
        return ", ".join(parts) or "all runs"

    def judged_by(self) -> str:
        """The metric of a run as a whole: the one asked for, else that of the test split, else of validation."""
        if self.metric:
            return self.metric
        return TESTED if self.runs and all(run.value(TESTED) is not None for run in self.runs) else MONITORED

    def check_one_metric(self) -> None:
        """Raises `CannotDraw` for runs that are judged by accuracy beside others that are judged by R²."""
        monitors = sorted({run.monitor for run in self.runs if run.best})
        if self.metric is None and len(monitors) > 1:
            raise CannotDraw(f"these runs are judged by {' and by '.join(monitors)}; give --metric, or fewer runs")

    def title_of(self, metric: str) -> str:
        """Name of a metric."""
        return title_of(self.runs, metric)

    def chosen(self, most: int, runs: Sequence[Run] | None = None) -> tuple[list[Configuration], str]:
        """At most so many configurations, evenly from the best to the worst; and a sentence where some are left out.

        Args:
            most: how many.
            runs: those that have what is drawn, where not all have.
        """
        configurations = self.configurations if runs is None else self.grouped(runs, self.axes)
        if len(configurations) <= most:
            return configurations, ""
        found = [(_middle(item.runs), index) for index, item in enumerate(configurations)]
        ranked = [index for _, index in sorted(found, reverse=True)]
        places = {round(step * (len(ranked) - 1) / (most - 1)) for step in range(most)}
        kept = sorted(ranked[place] for place in places)
        note = f"{len(kept)} of {len(ranked)} configurations, evenly from the best to the worst"
        return [configurations[index] for index in kept], f" {note} by {self.title_of(MONITORED)}."

    @functools.cached_property
    def most_seeds(self) -> int:
        """How many seeds the configuration has that has most."""
        return max(len(item.runs) for item in self.configurations)

    def over_seeds(self, how: str) -> str:
        """`mean over seeds, `, or nothing where every configuration has a single one."""
        return f"{how} over seeds, " if self.most_seeds > 1 else ""

    def counted(self) -> str:
        """How many runs there are of how many configurations."""
        seeds = {len(item.runs) for item in self.configurations}
        many = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else f"{min(seeds)} seeds"
        many = "one seed" if seeds == {1} else many
        each = f" ({len(self.configurations)} configurations, {many} each)" if len(self.configurations) > 1 else ""
        out = f"; {self.left_out} that failed or have not ended are left out" if self.left_out else ""
        return f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}{each}{out}"

    @functools.cached_property
    def epochs(self) -> np.ndarray:
        """At most 120 epochs from the first to the last that any run has logged.

        Raises:
            CannotDraw: no run has a row.
        """
        import numpy as np

        logged: set[int] = set()
        for run in self.runs:
            logged.update(int(line.partition(",")[0]) for line in _lines(self.path(run))[1:])
        if not logged:
            raise CannotDraw("no run has a metrics.csv with a logged epoch")
        every = np.array(sorted(logged))
        return every[np.unique(np.linspace(0, len(every) - 1, MOST_POINTS).round().astype(int))]

    def history(self, run: Run) -> dict[str, np.ndarray]:
        """Every column of metrics.csv at `epochs`: the last value until then, so a run that has ended keeps its last.

        NaN before the first.
        """
        if run.name not in self._history:
            self._history[run.name] = _at(_lines(self.path(run)), self.epochs, self.path(run))
        return self._history[run.name]

    def columns(self) -> list[str]:
        """Columns of metrics.csv that some run has."""
        return list(dict.fromkeys(key for run in self.runs for key in self.history(run)))

    def ended_early(self) -> bool:
        """Whether some run logged its last epoch before others."""
        return len({run.last.get("epoch") for run in self.runs}) > 1


def _middle(runs: Sequence[Run]) -> float:
    values = [value for run in runs if (value := run.value(MONITORED)) is not None]
    return median(values) if values else -math.inf


def _lines(folder: Path) -> list[str]:
    """The header and complete rows of a run's metrics.csv; none where it has no such file.

    Raises:
        RunFailed: it cannot be read.
    """
    path = folder / "metrics.csv"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise RunFailed(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is damaged'}") from None
    lines = text[: text.rfind("\n") + 1].splitlines()  # the last row may be half written
    if lines and not (lines[0].startswith("epoch,") and all(line.partition(",")[0].isdigit() for line in lines[1:])):
        raise RunFailed(f"{path} is damaged: its rows do not begin with an epoch")
    return lines


def _at(lines: list[str], epochs: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    import numpy as np

    if len(lines) < 2:
        return {}
    (columns,) = csv.reader(lines[:1])
    logged = np.array([int(line.partition(",")[0]) for line in lines[1:]])
    rows = np.searchsorted(logged, epochs, side="right") - 1
    try:
        wanted = {
            row: [float(cell or "nan") for cell in lines[row + 1].split(",")] for row in set(rows.tolist()) - {-1}
        }
        table = np.array([wanted.get(row, [math.nan] * len(columns)) for row in rows.tolist()])
        return dict(zip(columns, table.T, strict=True))
    except ValueError:
        raise RunFailed(f"{folder / 'metrics.csv'} is damaged: not every cell is a number") from None


def values_of(runs: Iterable[Run], name: str) -> list[Any]:
    """The values that a setting has: numbers rise, others are as they come."""
    found = {identity(run.setting(name)): run.setting(name) for run in runs}
    values = list(found.values())
    return sorted(values) if all(is_number(value) for value in values) else values


def is_number(value: Any) -> bool:
    """Whether it is a finite number (no truth value)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def numeric(runs: Iterable[Run], name: str) -> bool:
    """Whether every run has a number there."""
    return all(is_number(run.setting(name)) for run in runs)


def log_spaced(values: Iterable[float]) -> bool:
    """Whether positive values lie on a logarithmic rather than a linear scale: a factor of 20 from end to end."""
    values = list(values)
    return bool(values) and min(values) > 0 and max(values) >= 20 * min(values)


def short(name: str) -> str:
    """The last part of a parameter's name."""
    return name.rpartition(".")[2]


def text(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    if isinstance(value, float | int):
        return f"{value:g}"
    return ", ".join(map(text, value)) or "none" if isinstance(value, list | tuple) else str(value)


def rounded(value: float, digits: int = 6) -> float | None:
    """A number with so many digits, as a specification needs no more; None for NaN and infinity, which JSON lacks."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
