"""How a sweep, or some runs, stand: what `regx watch` finds in their folders, and nowhere else."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from regx.analysis import selection
from regx.analysis.configurations import row_names
from regx.analysis.runs import MONITORED, Run, title_of, varying
from regx.analysis.statistics import spread
from regx.analysis.table import is_minimised, plain
from regx.cli.sweep_progress import last
from regx.sweeps import plan, registry
from regx.sweeps.definition import Metric, leaf
from regx.sweeps.report import alive
from regx.sweeps.trial import Trial, flat
from regx.training.folder import PRUNED, RunFolder
from regx.training.options import options_of

# An estimate of what is left needs so much of the whole to be done.
TELLING = 0.01
# A run that no driver speaks for has stopped where it has written nothing for so many seconds and logged rows.
SILENT_SECONDS, SILENT_ROWS = 60.0, 5


class Log:
    """How far a metrics.csv is, and its best value; of a file that grows only what is new is read.

    Args:
        path: the file, which need not be there yet.
        metric: column to look at; None for the monitored one.
    """

    def __init__(self, path: Path, metric: Metric | None) -> None:
        self.path = path
        self._keys = [metric.name] if metric else ["val/acc", "val/r2"]
        self._sign = -1.0 if metric and metric.goal == "minimize" else 1.0
        self._clear()

    def _clear(self) -> None:
        self.changed, self.rows, self.epoch = 0.0, 0, 0
        self.value: float | None = None
        self.best: float | None = None
        self._file, self._offset = 0, 0
        self._columns: list[str] = []

    def update(self) -> None:
        """Reads the rows that have been written since the last call."""
        try:
            with self.path.open("rb") as file:
                now = os.fstat(file.fileno())
                if now.st_ino != self._file or now.st_size < self._offset:  # a resumed run has replaced it
                    self._clear()
                self._file, self.changed = now.st_ino, now.st_mtime
                file.seek(self._offset)
                new, _, _ = file.read().rpartition(b"\n")  # a line that is still being written comes later
                if new:
                    self._offset += len(new) + 1
                    self._take(new.decode().split("\n"))
        except (OSError, ValueError, IndexError):  # not there, or damaged: the run itself will say so
            self._clear()

    def _take(self, lines: list[str]) -> None:
        if not self._columns:
            self._columns, lines = lines[0].split(","), lines[1:]
        epoch = self._columns.index("epoch")
        place = next((self._columns.index(key) for key in self._keys if key in self._columns), None)
        for line in lines:  # of numbers alone: no cell is quoted
            cells = line.split(",")
            self.rows, self.epoch = self.rows + 1, int(float(cells[epoch]))
            self.value = float(cells[place]) if place is not None and cells[place] else None
            if self.value is not None and math.isfinite(self.value):
                is_better = self.best is None or self._sign * (self.value - self.best) > 0
                self.best = self.value if is_better else self.best


@dataclass
class Member:
    """A run that is watched.

    Attributes:
        run: as tables see it.
        what: it in a few words.
        epochs: of all of it.
        folder: None while it is not known.
        log: what it has logged.
        trial: of a sweep.
        ended: when it has, in seconds since 1970; 0 while it has not.
        why: it has failed.
    """

    run: Run
    what: str
    epochs: int
    folder: Path | None
    log: Log
    trial: Trial | None = None
    ended: float = 0.0
    why: str = ""
    _stamp: int = 0

    @property
    def key(self) -> str:
        """What the drivers of a sweep call it."""
        return self.trial.key if self.trial else ""

    def update(self) -> bool:
        """Reads the result if it is another one than at the last call, and says whether it is; else the log."""
        stamp = self._time_of("result.json")
        if stamp == self._stamp:
            if not self.ended:
                self.log.update()
            return False
        self._stamp = stamp
        result: dict[str, Any] = {}
        with suppress(FileNotFoundError):  # the run begins anew at this moment
            result = (RunFolder(self.folder).read_result() if self.folder else None) or {}
        status = result.get("status", "unfinished")
        if result.get("ended") == PRUNED and self.trial and self.trial.early is None:
            status = "unfinished"  # for a sweep without hyperband
        self.ended = stamp / 1e9 if status in ("finished", "failed") else 0.0
        self.why = result.get("error", "") if status == "failed" else ""
        best = {key: math.nan if value is None else float(value) for key, value in result.get("best", {}).items()}
        monitor = result.get("monitor", self.run.monitor)
        self.run = dataclasses.replace(self.run, status=status, best=best, monitor=monitor)
        return True

    def _time_of(self, name: str) -> int:
        with suppress(OSError):
            return (self.folder / name).stat().st_mtime_ns if self.folder else 0
        return 0

    def began(self) -> float:
        """When it was begun or resumed; 0 where it was not."""
        return self._time_of("env.json") / 1e9

    def sign(self) -> float:
        """When it last wrote something; 0 where it never did."""
        return max(self.began(), self.log.changed, self.ended, self._time_of("checkpoints/last.pt") / 1e9)

    def is_silent(self, now: float) -> bool:
        """Whether it has written nothing for so long that it must have stopped."""
        per_row = (self.log.changed - self.began()) / self.log.rows if self.log.rows else 0.0
        return now - self.sign() > max(SILENT_SECONDS, SILENT_ROWS * per_row)


@dataclass
class Frame:
    """How things stand at one moment.

    Attributes:
        name: of the sweep or the only run.
        metric: what values are of.
        counts: runs by state.
        elapsed: seconds since it was begun or resumed.
        left: estimated seconds until the end; None where unknown.
        running: run, epoch, epochs, value, best, seconds; silent: seconds without a word, or None. Begun ones first.
        leaders: the best configurations: what, n (seeds that have finished), of (seeds), mean, std.
        failed: run and why, the latest first.
        over: nothing more will happen.
    """

    name: str
    metric: str
    counts: dict[str, int]
    elapsed: float
    left: float | None
    running: list[dict[str, Any]]
    leaders: list[dict[str, Any]]
    failed: list[dict[str, str]]
    over: bool


class Runs:
    """Some runs that are watched.

    Args:
        folders: theirs.

    Raises:
        UserError: one of them is no run folder.
    """

    metric: Metric | None = None
    # What a run is that has not ended and writes nothing.
    rest = "silent"
    # When this view first looked, and how many runs were done then.
    _first: tuple[float, float] | None = None

    def __init__(self, folders: Sequence[Path]) -> None:
        self.members = [_of_folder(folder) for folder in folders]
        runs = [member.run for member in self.members]
        names = varying(runs)
        if len(runs) > 1:
            for member in self.members:
                settings = {name: plain(member.run.setting(name)) for name in names} | {"seed": member.run.seed}
                member.what = " ".join(f"{name}={value}" for name, value in settings.items())
        self.name = folders[0].name if len(folders) == 1 else f"{len(folders)} runs"
        self.total = len(folders)
        self._leaders: list[dict[str, Any]] = []

    def look(self) -> Frame:
        """What the folders say now."""
        now = time.time()
        self._read()
        left = [member for member in self.members if not member.ended]
        running = [member for member in left if not member.is_silent(now)]
        return self._frame(now, left, running, {}, over=not left)

    def _read(self) -> None:
        changed = [member.update() for member in self.members]
        if any(changed):
            self._leaders = _leaders([member.run for member in self.members], self.metric)

    def _frame(
        self, now: float, shown: list[Member], running: list[Member], failed: dict[str, str], *, over: bool
    ) -> Frame:
        ended = sorted((member for member in self.members if member.ended), key=lambda member: -member.ended)
        failed = {member.what: member.why for member in ended if member.run.status == "failed"} | failed
        done = sum(member.run.finished for member in ended)
        counts = {"total": self.total, "done": done, "running": len(running), "failed": len(ended) - done}
        counts[self.rest] = max(0, self.total - len(ended) - len(running))
        last_sign = max((member.sign() for member in self.members), default=0.0) if over else now
        began = self._began(last_sign)
        # A run that is half done is half a run, here as in the rest.
        parts = sum(min(1.0, member.log.epoch / member.epochs) for member in running)
        self._first = self._first or (now, parts + len(ended))
        elapsed = max(0.0, last_sign - began) if began else 0.0
        seconds, trained = now - self._first[0], parts + len(ended) - self._first[1]
        if trained < TELLING * self.total:  # too little was seen: since it was begun
            seconds, trained = elapsed, parts + sum(member.ended >= began for member in ended)
        known = bool(running) and trained >= TELLING * self.total
        at_work = {id(member) for member in running}
        rows = [_row(member, now, id(member) in at_work) for member in shown]
        title = self.metric.name if self.metric else title_of([member.run for member in ended], MONITORED)
        return Frame(
            name=self.name,
            metric="validation metric" if title == MONITORED else title,
            counts=counts,
            elapsed=elapsed,
            left=seconds * (self.total - len(ended) - parts) / trained if known else None,
            running=sorted(rows, key=lambda row: row["seconds"] is None),
            leaders=self._leaders,
            failed=[{"run": what, "why": last(why)} for what, why in failed.items()],
            over=over,
        )

    def _began(self, end: float) -> float:
        """When the first was begun or resumed; 0 where none was."""
        return min((began for member in self.members if (began := member.began())), default=0.0)


class OfSweep(Runs):
    """The runs of a sweep that are watched.

    Args:
        folder: of the sweep.
        name: by which it is found where the folder keeps no definition.
    """

    rest = "to do"

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self._kept = folder, folder / registry.KEPT
        self._source = str(folder) if self._kept.is_file() else name
        self._defined, self._notes = -1.0, 0
        self._spoken_for: set[str] = set()
        self._plan()

    def look(self) -> Frame:
        """What the folders say now."""
        now, drivers = time.time(), alive(self.folder)
        self._plan()
        self._read()
        at_work = {key for one in drivers.values() for entry in one["running"].values() for key in entry["keys"]}
        self._spoken_for |= at_work
        left = [member for member in self.members if not member.ended]
        # Of a run that was a driver's, nobody but a driver can say that it runs.
        running = [m for m in left if m.key in at_work or (m.key not in self._spoken_for and not m.is_silent(now))]
        over = len(self.members) - len(left) >= self.total
        if not (drivers or running):
            signs = [self._time_kept(), *(member.sign() for member in self.members)]
            over |= bool(self._spoken_for) or now - max(signs) > SILENT_SECONDS
        failed = {run: why for one in drivers.values() for run, why in one["failed"].items()}
        return self._frame(now, running, running, failed, over=over)

    def _time_kept(self) -> float:
        """When somebody last asked for the sweep."""
        return self._kept.stat().st_mtime if self._kept.is_file() else 0.0

    def _began(self, end: float) -> float:
        asked = self._time_kept()
        return asked if 0 < asked < end else super()._began(end)

    def _plan(self) -> None:
        """Takes note of what the sweep has asked for since the last call."""
        defined, notes = self._time_kept(), len(list(self.folder.glob("*/trial.json")))
        if defined != self._defined:
            self._sweep, self.members = registry.load(self._source), []
            self.name, self.metric, self._leaders = self._sweep.name, self._sweep.metric, []
        if defined != self._defined or (self._sweep.method == "bayes" and notes != self._notes):
            known = {member.key for member in self.members}
            new = [item for item in plan.trials(self._sweep, self.folder) if item.key not in known]
            self.members += [self._of_trial(item) for item in new]
            most = (self._sweep.run_cap or 0) * len(self._sweep.seeds()) if self._sweep.method == "bayes" else 0
            self.total = max(len(self.members), most)
        self._defined, self._notes = defined, notes
        finished = {member.key for member in self.members if member.run.finished}
        for member in self.members:
            # Only then is it known where a run is that begins with the weights of another one.
            if (
                member.folder is None
                and member.trial
                and (not member.trial.after or member.trial.after.key in finished)
            ):
                member.folder = member.trial.place()
                member.log = Log(member.folder / "metrics.csv", self.metric)

    def _of_trial(self, item: Trial) -> Member:
        config = item.config()
        parameters = {key: value for key, value in flat(item.parameters).items() if key != "seed"}
        run = Run("", "not begun", item.label, parameters, item.seed, config.as_dict(), {}, {}, "val/acc")
        return Member(run, item.describe(), config.epochs, None, Log(self.folder, self.metric), item)


def _of_folder(folder: Path) -> Member:
    config = RunFolder(folder).read_config()
    values = config.as_dict()
    parameters = {o.key: values[o.key] for o in options_of(type(config)) if o.identity and o.key in values}
    seed = parameters.pop("seed")
    run = Run(folder.name, "unfinished", None, parameters, seed, values, {}, {}, "val/acc")
    return Member(run, folder.name, config.epochs, folder, Log(folder / "metrics.csv", None))


def _row(member: Member, now: float, runs: bool) -> dict[str, Any]:
    began, log = member.began(), member.log
    value = log.value if log.value is not None and math.isfinite(log.value) else None
    numbers = {"epoch": log.epoch, "epochs": member.epochs, "value": value, "best": log.best}
    since = {
        "seconds": max(0.0, round(now - began, 1)) if began else None,
        "silent": None if runs else round(now - member.sign(), 1),
    }
    return {"run": member.what} | numbers | since


def _leaders(runs: list[Run], metric: Metric | None) -> list[dict[str, Any]]:
    """Configurations by their mean over the seeds that have finished; of several datasets, the best of each."""
    if not any(run.finished for run in runs):
        return []
    key, rows = metric.name if metric else MONITORED, []
    for group in selection.grouped(runs, row_names(runs, None)):
        for dataset, entry in group.entries.items():
            if values := list(entry.by_seed(key).values()):
                what = {leaf(name): plain(value) for name, value in group.key.items() if value is not None}
                means = {"n": len(values), "of": len(entry.tried), "mean": fmean(values), "std": spread(values)}
                rows.append((dataset, {"what": what} | means))
    minimised = is_minimised(key, metric.goal) if metric else False
    rows.sort(key=lambda row: row[1]["mean"], reverse=not minimised)
    several = len({dataset for dataset, _ in rows}) > 1
    best: dict[str, dict[str, Any]] = {}
    for dataset, row in rows:
        best.setdefault(dataset, row)
    return list(best.values()) if several else [row for _, row in rows]
