"""Carries a sweep out: gives its trials to an engine's workers, and deals with whatever happens to them.

The run folders are the state. Whatever this process remembers, another one finds out anew after it was killed; several
may work at the same sweep at once.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from regx.errors import UserError
from regx.sweeps import distributions, plan, suggest, work
from regx.sweeps.definition import Sweep
from regx.sweeps.engines import Engine, Progress
from regx.sweeps.report import Report
from regx.sweeps.trial import Trial
from regx.sweeps.work import Outcome
from regx.training.folder import PRUNED, RunFolder, to_json, write_atomically

# A worker takes no more work after errors of so many different trials in a row, which go back to the others.
ERRORS_IN_A_ROW = 5
# A trial whose process was lost so often more than errors are retried is given up.
MORE_LOSSES = 2
# Seconds until a trial that another process trains is looked at again.
BUSY_SECONDS = 2.0
# Seconds between two lives of the file by which `regx sweep status` sees a driver, and after which it is dead.
HEARTBEAT, DEAD_AFTER = 2.0, 20.0
POLL = 0.2
# So many finished runs without the metric, and none with it, end the sweep.
LACKING = 3
# Random draws in the place of a proposal that has been tried, before a space counts as exhausted.
TRIES = 100
STOP = "stop"


class Driver:
    """One session of a sweep.

    Args:
        sweep: what to run.
        folder: of the sweep; parent of the run folders.
        trials: of a grid or random search, all; of a search by `bayes`, those begun.
    """

    def __init__(self, sweep: Sweep, folder: Path, trials: list[Trial]) -> None:
        self.sweep, self.folder = sweep, folder
        self.report = Report()
        self._trials = {item.key: item for item in trials}
        self._queue: deque[Trial] = deque()
        self._ended: dict[str, str] = {}
        self._values: dict[str, float] = {}
        self._attempts: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        # Trials that failed on a worker since it last had one that did not.
        self._errors: dict[str, dict[str, Trial]] = {}
        self._given_back: set[str] = set()
        self._dice = random.Random(0)
        self._not_before: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._durations: list[float] = []
        self._asked_to_stop = 0
        self._exhausted = False
        self._lacking: list[str] = []
        self._start = time.time()
        self._beat = 0.0
        self._heart = folder / ".drivers" / f"{socket.gethostname()}-{os.getpid()}.json"
        self._take_stock()

    def _take_stock(self) -> None:
        """Finds out what is done; what was begun comes first."""
        begun, new = [], []
        for item in self._trials.values():
            status, result = plan.state(item)
            if status in (plan.FINISHED, plan.FAILED):
                item.leave_note()  # another command may have trained it
                self._note(work.outcome(item, result, "", trained=False))
            else:
                (begun if status == plan.UNFINISHED else new).append(item)
        self._queue.extend([*begun, *new])
        self.report.found = self.report.finished
        self._judge_metric()

    def run(self, engine: Engine, watch: Callable[[Report], None]) -> Report:
        """Works until nothing is left to do, or somebody stops it.

        Args:
            engine: where; it is closed at the end.
            watch: called a few times a second with the present state.
        """
        report, self.engine, self.watch = self.report, engine, watch
        try:
            with _asked(self._on_signal):
                while True:
                    self._fill()
                    self._show()
                    if not report.running and (report.ended or not self.left()):
                        return report
                    for event in self.engine.wait(POLL):
                        self._happened(event)
                    self._judge_metric()
                    stop = self.folder / STOP
                    if not report.ended and stop.is_file() and stop.stat().st_mtime > self._start:
                        self._on_signal()
        finally:
            self.engine.close()
            self._heart.unlink(missing_ok=True)

    def most(self) -> int:
        """Trials that could be carried out at once: more workers than these would only start up."""
        if self.sweep.method == "bayes":
            return (self.sweep.run_cap or 1) * len(self.sweep.seeds())
        return max(1, len(self._queue))

    def gpus(self) -> int:
        """How many GPUs a run takes."""
        return max((item.gpus() for item in self._queue), default=1) or 1

    def _on_signal(self) -> None:
        self._asked_to_stop += 1
        if self._asked_to_stop > 1:
            raise KeyboardInterrupt
        self.report.ended = "interrupted"
        self.engine.interrupt()

    def left(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._queue) or self._may_propose()

    def _fill(self) -> None:
        """Gives every idle worker a trial, as long as there are any."""
        for worker in self.engine.idle():
            if self.report.ended:
                return
            if self._errors.get(worker):
                # Is it the worker, or are the next trials all of one kind? Another one tells.
                self._queue.rotate(self._dice.randrange(len(self._queue) + 1))
            item = self._next()
            if item is None:
                return
            self.report.running[worker] = (item, None)
            self._began[worker] = time.monotonic()
            self.engine.submit(item, worker)

    def _next(self) -> Trial | None:
        now = time.monotonic()
        for _ in range(len(self._queue)):
            item = self._queue.popleft()
            if item.after is not None and self._ended.get(item.after.key) == work.FAILED:
                self._note(Outcome(item, work.FAILED, "", f"begins with the weights of {item.after.describe()}"))
            elif (item.after is not None and item.after.key not in self._ended) or (
                self._not_before.get(item.key, 0.0) > now
            ):
                self._queue.append(item)
            else:
                # Another driver may have done it meanwhile.
                status, result = plan.state(item)
                if status not in (plan.FINISHED, plan.FAILED):
                    return item
                self._note(work.outcome(item, result, "", trained=False))
        return self._proposed() if not self._queue and self._may_propose() else None

    def _may_propose(self) -> bool:
        return self.sweep.method == "bayes" and not self._exhausted and len(self._points()) < (self.sweep.run_cap or 0)

    def _points(self) -> dict[str, list[Trial]]:
        """The configurations of a search, each with its trials of several seeds."""
        found: dict[str, list[Trial]] = {}
        for item in self._trials.values():
            found.setdefault(json.dumps(item.parameters, sort_keys=True), []).append(item)
        return found

    def _proposed(self) -> Trial | None:
        assert self.sweep.metric is not None
        finished, running = [], []
        for same in self._points().values():
            values = [self._values.get(item.key, math.nan) for item in same if item.key in self._ended]
            if len(values) == len(same):
                finished.append((same[0].parameters, sum(values) / len(values)))
            else:
                running.append(same[0].parameters)
        point = suggest.suggest(
            self.sweep.parameters,
            finished,
            running,
            goal=self.sweep.metric.goal,
            seed=0,
            budget=self.sweep.run_cap or 0,
        )
        made = self._new(point)
        for index in range(TRIES if not made else 0):
            made = made or self._new(distributions.random(self.sweep.parameters, 1, len(self._trials) * TRIES + index))
        if not made:  # as good as all of a small space has been tried
            self._exhausted = True
            return None
        self._trials |= {item.key: item for item in made}
        self._queue.extend(made[1:])
        return made[0]

    def _new(self, point: dict[str, Any]) -> list[Trial]:
        """The trials of a proposal that the conditions allow and that has not been tried."""
        made = plan.expand(self.sweep, self.folder, point)
        return [] if any(item.key in self._trials for item in made) else made

    def _happened(self, event: Outcome | Progress) -> None:
        if isinstance(event, Progress):
            if event.worker in self.report.running:
                item, _ = self.report.running[event.worker]
                self.report.running[event.worker] = (item, event)
            return
        item = event.trial
        self.report.running.pop(event.worker, None)
        if event.status in (work.FINISHED, work.FAILED):
            self._errors.pop(event.worker, None)
            if event.trained:
                self._durations.append(time.monotonic() - self._began[event.worker])
            if event.status == work.FAILED:
                _record(item, event.message)
            for text in event.warnings:
                self.report.warnings.setdefault(text, item.describe())
            self._note(event)
        elif event.status == work.BUSY:
            self._not_before[item.key] = time.monotonic() + BUSY_SECONDS
            self._queue.append(item)
        elif event.status == work.INTERRUPTED:
            self._queue.appendleft(item)
        else:
            self._try_again(event)

    def _try_again(self, event: Outcome) -> None:
        """After an error or a loss: the trial goes back, or is given up; the worker too."""
        item = event.trial
        counter = self._losses if event.status == work.LOST else self._attempts
        counter[item.key] += 1
        limit = self.sweep.sidecar.retries + (MORE_LOSSES if event.status == work.LOST else 0)
        if counter[item.key] > limit:
            self._give_up(item, event.message)
        elif event.status == work.LOST:
            self._queue.appendleft(item)  # it goes on from its checkpoint
        else:
            _forget(item)
            self._queue.append(item)
        mine = self._errors.setdefault(event.worker, {})
        mine[item.key] = item
        if len(mine) >= ERRORS_IN_A_ROW:
            self._dismiss(event.worker, mine, event.message)

    def _dismiss(self, worker: str, mine: dict[str, Trial], message: str) -> None:
        """Gives a worker no more work; what it has spoilt is tried once more by the others."""
        self.engine.dismiss(worker)
        self.report.dismissed[worker] = f"{len(mine)} trials in a row failed, the last: {message}"
        if not self.engine.workers():
            self.report.ended = "workers"
            return
        for item in mine.values():
            if self._ended.get(item.key) == work.FAILED and item.key not in self._given_back:
                self._given_back.add(item.key)
                del self._ended[item.key]
                self.report.failed.pop(item.describe(), None)
                _forget(item)
                self._queue.append(item)

    def _give_up(self, item: Trial, message: str) -> None:
        """Writes down why, so that other commands know it too."""
        _record(item, message)
        self._note(Outcome(item, work.FAILED, "", message))

    def _note(self, event: Outcome) -> None:
        """A trial has ended."""
        item, report, metric = event.trial, self.report, self.sweep.metric
        self._ended[item.key] = event.status
        if event.status == work.FAILED:
            report.failed[item.describe()] = event.message
            return
        report.finished += 1
        key = metric.name if metric else self._monitor(event)
        report.pruned += event.ended == PRUNED
        value = event.row.get(key)
        if value is None:
            known = ", ".join(sorted(name for name in event.row if name.startswith("val/") and "/jr/" not in name))
            self._lacking.append(f"{item.describe()} has not logged the metric {key!r}; it has logged {known}")
            return
        if math.isnan(value):
            return
        self._values[item.key] = value
        best = report.best
        if best is None or (metric.better(value, best[1]) if metric else value > best[1]):
            report.best = (item, value)
        if metric and metric.target is not None and not metric.better(metric.target, value):
            report.ended = report.ended or "target"

    def _judge_metric(self) -> None:
        """Ends a sweep whose metric no run logs: after a few runs, or with the last one."""
        report = self.report
        over = not self.left() and not report.running
        if self._lacking and not self._values and not report.ended and (over or len(self._lacking) >= LACKING):
            report.ended, report.why = "metric", self._lacking[0]

    def _monitor(self, event: Outcome) -> str:
        return "val/acc" if "val/acc" in event.row else "val/r2"

    def _show(self) -> None:
        report = self.report
        report.total = len(self._trials)
        if self.sweep.method == "bayes":
            report.total = max(report.total, (self.sweep.run_cap or 0) * len(self.sweep.seeds()))
        if self._durations:
            left = report.total - report.finished - len(report.failed) - len(report.running) / 2
            mean = sum(self._durations) / len(self._durations)
            report.seconds_left = mean * max(0, left) / max(1, len(self.engine.workers()))
        self.watch(report)
        if time.monotonic() - self._beat > HEARTBEAT:
            self._beat = time.monotonic()
            with suppress(OSError):  # a full disk: the runs say so, each for itself
                self._heart.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._heart, json.dumps(self._life()) + "\n")

    def _life(self) -> dict[str, Any]:
        running = {
            worker: {
                "trial": item.describe(),
                "key": item.key,
                "epoch": at.epoch if at else 0,
                "epochs": at.epochs if at else 0,
            }
            for worker, (item, at) in self.report.running.items()
        }
        return {"engine": self.engine.name, "running": running, "failed": self.report.failed}


def _forget(item: Trial) -> None:
    """Removes the result of a trial that an error ended, and its checkpoints, so that it can begin anew."""
    folder = RunFolder(item.place())
    if folder.result.is_file():
        folder.clear()


def _record(item: Trial, message: str) -> None:
    """Writes the result of a trial that could not even begin."""
    with suppress(UserError, OSError):  # the configuration cannot be made, or nothing can be written
        config, folder = item.config(), RunFolder(item.place())
        if folder.result.is_file():
            return
        item.leave_note()
        nothing: dict[str, Any] = {"best": {}, "last": {}, "test": {}, "epochs": 0, "seconds": 0.0}
        told = {"status": "failed", "ended": "error", "hash": config.hash(), "config": config.as_dict()}
        write_atomically(folder.result, to_json(told | nothing | {"run_dir": str(folder.path), "error": message}))


def alive(folder: Path) -> dict[str, dict[str, Any]]:
    """The drivers that are at work in a sweep's folder: name -> what they say of themselves."""
    found = {}
    for path in sorted((folder / ".drivers").glob("*.json")):
        host, _, process = path.stem.rpartition("-")
        try:
            if host == socket.gethostname():
                os.kill(int(process), 0)
            if time.time() - path.stat().st_mtime < DEAD_AFTER:
                found[path.stem] = json.loads(path.read_text())
        except (OSError, ValueError):  # it has just ended, or was killed
            continue
    return found


@contextmanager
def _asked(call: Callable[[], None]) -> Iterator[None]:
    """Calls back on Ctrl-C and SIGTERM."""
    before = {
        number: signal.signal(number, lambda *_: call()) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
