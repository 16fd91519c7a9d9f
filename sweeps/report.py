"""How a sweep stands, as its driver tells whoever watches. Nothing heavy is imported here."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regx.sweeps.engines import Progress
from regx.sweeps.programs import Program
from regx.sweeps.trial import Trial

# In a sweep's folder, where its drivers say that they live; and seconds after which one that has not is dead.
DRIVERS, DEAD_AFTER = ".drivers", 20.0


@dataclass
class Report:
    """How a sweep stands.

    Attributes:
        total: trials, as far as they are known.
        finished: trials that are done.
        found: how many of these were done before.
        failed: trial -> why.
        running: worker -> the trials of its program that have not ended, and how far they are.
        best: the best trial so far and its value of the metric.
        seconds_left: an estimate, from the programs of this session.
        dismissed: worker -> why it takes no more work.
        ended: why nothing more is begun: ``, `interrupted`, `target`, `metric` or `workers`.
        why: more words on `ended`.
        pruned: trials that hyperband has ended, of the finished ones.
        warnings: what runs have said, each text once -> the first trial that said so.
    """

    total: int = 0
    finished: int = 0
    found: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    running: dict[str, tuple[Program, Progress | None]] = field(default_factory=dict)
    best: tuple[Trial, float] | None = None
    seconds_left: float | None = None
    dismissed: dict[str, str] = field(default_factory=dict)
    ended: str = ""
    why: str = ""
    pruned: int = 0
    warnings: dict[str, str] = field(default_factory=dict)

    def at_work(self) -> int:
        """How many trials are being trained."""
        return sum(len(program.trials) for program, _ in self.running.values())


@dataclass
class Work:
    """A program that a worker has been given, and how fast it is.

    Attributes:
        program: all of it.
        began: when, in seconds of a clock.
        trained: trials of it that have been trained to an end.
        to_go_on: trials of it that were lost or interrupted.
        to_begin_anew: trials of it that an error has ended.
        first: time and share of its epochs at its first word, which may be late: it may go on from checkpoints.
    """

    program: Program
    began: float
    trained: int = 0
    to_go_on: list[Trial] = field(default_factory=list)
    to_begin_anew: list[Trial] = field(default_factory=list)
    first: tuple[float, float] | None = None

    def tell(self, at: Progress, now: float) -> None:
        """Takes note of how far it is."""
        self.first = self.first or (now, at.epoch / at.epochs)

    def seconds_left(self, at: Progress | None, now: float) -> float | None:
        """An estimate, by what it has done since its first word; None while that is nothing."""
        if at is None or self.first is None:
            return None
        since, share = self.first
        done = at.epoch / at.epochs - share
        return (now - since) * (1 - share - done) / done if done > 0 else None


@dataclass
class Pace:
    """What runs take: a program of R that takes a minute is a minute for R runs."""

    seconds: float = 0.0
    runs: int = 0

    def over(self, work: Work, now: float) -> None:
        """Takes a program in that has ended."""
        if work.trained:
            self.seconds += now - work.began
            self.runs += work.trained

    def seconds_left(self, report: Report, works: dict[str, Work], workers: int, now: float) -> float | None:
        """An estimate for the rest of a sweep; None while nothing is known.

        Args:
            report: how it stands.
            works: worker -> its program.
            workers: how many share the rest.
            now: the time of the same clock.
        """
        seconds, runs, left, unknown = self.seconds, self.runs, 0.0, 0
        for worker, work in works.items():
            rest = work.seconds_left(report.running[worker][1], now)
            if rest is None:
                unknown += len(work.program.trials)
                continue
            seconds += now - work.began + rest
            runs += len(work.program.trials)
            left += rest
        if not runs:
            return None
        waiting = report.total - report.finished - len(report.failed) - report.at_work()
        return (left + (max(0, waiting) + unknown) * seconds / runs) / max(1, workers)


def alive(folder: Path) -> dict[str, dict[str, Any]]:
    """The drivers that are at work in a sweep's folder: name -> what they say of themselves."""
    found = {}
    for path in sorted((folder / DRIVERS).glob("*.json")):
        host, _, process = path.stem.rpartition("-")
        try:
            if host == socket.gethostname():
                os.kill(int(process), 0)
            if time.time() - path.stat().st_mtime < DEAD_AFTER:
                found[path.stem] = json.loads(path.read_text())
        except (OSError, ValueError):  # it has just ended, or was killed
            continue
    return found
