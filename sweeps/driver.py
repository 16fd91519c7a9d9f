"""Carries a sweep out: gives its trials in programs to an engine's workers, and deals with whatever happens to them.

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

from regx.sweeps import distributions, plan, suggest, work
from regx.sweeps.definition import Sweep
from regx.sweeps.engines import Engine, Progress
from regx.sweeps.programs import Planner, Program
from regx.sweeps.report import DRIVERS, Pace, Report, Work
from regx.sweeps.trial import Trial
from regx.sweeps.work import Outcome
from regx.training.folder import PRUNED, write_atomically

# A worker takes no more work after errors in so many different programs in a row, which go back to the others.
ERRORS_IN_A_ROW = 5
# A trial whose process was lost so often more than errors are retried is given up.
MORE_LOSSES = 2
# After so many losses, a trial is trained alone: it may be what has killed its program.
LOSSES_IN_COMPANY = 2
# Seconds until a trial that another process trains is looked at again.
BUSY_SECONDS = 2.0
# Seconds between two lives of the file by which `regx sweep status` sees a driver.
HEARTBEAT = 2.0
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
        planner: puts trials together (default: never).
    """

    def __init__(self, sweep: Sweep, folder: Path, trials: list[Trial], planner: Planner | None = None) -> None:
        self.sweep, self.folder, self.planner = sweep, folder, planner or Planner()
        self.report = Report()
        self._trials = {item.key: item for item in trials}
        # Trials that belong to no program yet, and programs that no worker has yet.
        self._queue: deque[Trial] = deque()
        self._programs: deque[Program] = deque()
        self._works: dict[str, Work] = {}
        self._begun: set[str] = set()
        self._alone: set[str] = set()
        self._ended: dict[str, str] = {}
        self._values: dict[str, float] = {}
        self._attempts: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        # What failed on a worker since it last had a trial that did not: a program's first trial -> those that failed.
        self._errors: dict[str, dict[str, list[Trial]]] = {}
        self._given_back: set[str] = set()
        self._dice = random.Random(0)
        self._not_before: dict[str, float] = {}
        self._pace = Pace()
        self._asked_to_stop = 0
        self._exhausted = False
        self._lacking: list[str] = []
        self._start = time.time()
        self._beat = 0.0
        self._heart = folder / DRIVERS / f"{socket.gethostname()}-{os.getpid()}.json"
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
        self._begun = {item.key for item in begun}
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

    def most(self, workers: int) -> int:
        """Programs that there are for so many workers: more workers than these would only start up."""
        if self.sweep.method == "bayes":
            return (self.sweep.run_cap or 1) * len(self.sweep.seeds())
        return max(1, len(self.planner.programs(self._queue, workers, self._company)))

    def fallbacks(self) -> dict[str, int]:
        """Why trials that are left have a simpler engine than the one asked for -> how many."""
        return self.planner.reasons(self._queue)

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
        return bool(self._queue or self._programs) or self._may_propose()

    def _fill(self) -> None:
        """Gives every idle worker a program, as long as there are any."""
        for worker in self.engine.idle():
            if self.report.ended:
                return
            if self._errors.get(worker):
                # Is it the worker, or are the next trials all of one kind? Another one tells.
                for waiting in (self._queue, self._programs):
                    waiting.rotate(self._dice.randrange(len(waiting) + 1))
            program = self._next()
            if program is None:
                return
            self.report.running[worker] = (program, None)
            self._works[worker] = Work(program, time.monotonic())
            self.engine.submit(program, worker)

    def _next(self) -> Program | None:
        while True:
            if not self._programs:
                ready = self._ready()
                if not ready and not self._queue and self._may_propose():
                    ready = self._proposed()
                # Of a search, a program has the seeds of one point: the other workers get points of their own.
                workers = 1 if self.sweep.method == "bayes" else len(self.engine.workers())
                self._programs.extend(self.planner.programs(ready, workers, self._company))
            if not self._programs:
                return None
            program = self._programs.popleft()
            for item in program.trials:
                # Another driver may have done it meanwhile.
                status, result = plan.state(item)
                if status in (plan.FINISHED, plan.FAILED):
                    self._note(work.outcome(item, result, "", trained=False))
                    program = program.without(item.key)
            if program.trials:
                return program

    def _company(self, item: Trial) -> str | bool:
        """What the trials of a program have in common: they go on or begin anew; or one of them is to be alone."""
        return item.key if item.key in self._alone else item.key in self._begun

    def _ready(self) -> list[Trial]:
        """Takes those trials out of the queue that can begin now."""
        now, found = time.monotonic(), []
        for _ in range(len(self._queue)):
            item = self._queue.popleft()
            if item.after is not None and self._ended.get(item.after.key) == work.FAILED:
                self._note(Outcome(item, work.FAILED, "", f"begins with the weights of {item.after.describe()}"))
            elif (item.after is not None and item.after.key not in self._ended) or (
                self._not_before.get(item.key, 0.0) > now
            ):
                self._queue.append(item)
            else:
                found.append(item)
        return found

    def _may_propose(self) -> bool:
        return self.sweep.method == "bayes" and not self._exhausted and len(self._points()) < (self.sweep.run_cap or 0)

    def _points(self) -> dict[str, list[Trial]]:
        """The configurations of a search, each with its trials of several seeds."""
        found: dict[str, list[Trial]] = {}
        for item in self._trials.values():
            found.setdefault(json.dumps(item.parameters, sort_keys=True), []).append(item)
        return found

    def _proposed(self) -> list[Trial]:
        """The trials of the next point of a search."""
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
        self._trials |= {item.key: item for item in made}
        return made

    def _new(self, point: dict[str, Any]) -> list[Trial]:
        """The trials of a proposal that the conditions allow and that has not been tried."""
        made = plan.expand(self.sweep, self.folder, point)
        return [] if any(item.key in self._trials for item in made) else made

    def _happened(self, event: Outcome | Progress) -> None:
        running = self.report.running
        if isinstance(event, Progress):
            if event.worker in running:
                running[event.worker] = (running[event.worker][0], event)
                self._works[event.worker].tell(event, time.monotonic())
            return
        item, mine = self._trials[event.trial.key], self._works[event.worker]
        if event.status in (work.FINISHED, work.FAILED):
            self._errors.pop(event.worker, None)
            mine.trained += event.trained
            if event.status == work.FAILED:
                work.record(item, event.message)
            for text in event.warnings:
                self.report.warnings.setdefault(text, item.describe())
            self._note(event)
        elif event.status == work.BUSY:
            self._not_before[item.key] = time.monotonic() + BUSY_SECONDS
            self._queue.append(item)
        elif event.status == work.INTERRUPTED:
            mine.to_go_on.append(item)
        else:
            self._try_again(item, event, mine)
        program, at = running[event.worker]
        running[event.worker] = (program.without(item.key), at)
        if not running[event.worker][0].trials:
            self._is_over(event)

    def _is_over(self, last: Outcome) -> None:
        """A program has ended with this outcome: what is half done goes on first, and the worker may be a bad one."""
        mine = self._works.pop(last.worker)
        del self.report.running[last.worker]
        self._pace.over(mine, time.monotonic())
        self._begun |= {item.key for item in mine.to_go_on}
        self._programs.extendleft(reversed(self.planner.programs(mine.to_go_on, 1, self._company)))
        self._programs.extend(self.planner.programs(mine.to_begin_anew, 1, self._company))
        if len(self._errors.get(last.worker, {})) >= ERRORS_IN_A_ROW:
            self._dismiss(last.worker, last.message)

    def _try_again(self, item: Trial, event: Outcome, mine: Work) -> None:
        """After an error or a loss: the trial goes back, or is given up."""
        lost, company = event.status == work.LOST, len(mine.program.trials) > 1
        counter = self._losses if lost else self._attempts
        # What is an error of all does not tell which trial is to blame.
        counter[item.key] += lost or not company
        if company and (not lost or counter[item.key] >= LOSSES_IN_COMPANY):
            self._alone.add(item.key)
        if counter[item.key] > self.sweep.sidecar.retries + (MORE_LOSSES if lost else 0):
            self._give_up(item, event.message)
        elif lost:
            mine.to_go_on.append(item)
        else:
            work.forget(item)
            mine.to_begin_anew.append(item)
        errors = self._errors.setdefault(event.worker, {})
        errors.setdefault(mine.program.trials[0].key, []).append(item)

    def _dismiss(self, worker: str, message: str) -> None:
        """Gives a worker no more work; what it has spoilt is tried once more by the others."""
        mine = [item for items in self._errors.pop(worker).values() for item in items]
        self.engine.dismiss(worker)
        count = len({item.key for item in mine})
        self.report.dismissed[worker] = f"{count} trials in a row failed, the last: {message}"
        if not self.engine.workers():
            self.report.ended = "workers"
            return
        for item in mine:
            if self._ended.get(item.key) == work.FAILED and item.key not in self._given_back:
                self._given_back.add(item.key)
                del self._ended[item.key]
                self.report.failed.pop(item.describe(), None)
                work.forget(item)
                self._programs.extend(self.planner.programs([item], 1))

    def _give_up(self, item: Trial, message: str) -> None:
        """Writes down why, so that other commands know it too."""
        work.record(item, message)
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
        workers = len(self.engine.workers())
        report.seconds_left = self._pace.seconds_left(report, self._works, workers, time.monotonic())
        self.watch(report)
        if time.monotonic() - self._beat > HEARTBEAT:
            self._beat = time.monotonic()
            with suppress(OSError):  # a full disk: the runs say so, each for itself
                self._heart.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._heart, json.dumps(self._life()) + "\n")

    def _life(self) -> dict[str, Any]:
        running = {
            worker: {
                "trial": program.describe(),
                "keys": [item.key for item in program.trials],
                "epoch": at.epoch if at else 0,
                "epochs": at.epochs if at else 0,
            }
            for worker, (program, at) in self.report.running.items()
        }
        return {"engine": self.engine.name, "running": running, "failed": self.report.failed}


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
