"""What a worker does, in whatever process and on whatever machine: it carries programs out and says how they went."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from regx.errors import RunFailed, UserError
from regx.sweeps import trial
from regx.sweeps.programs import SINGLE, Program
from regx.sweeps.trial import Trial
from regx.training.folder import InUse, RunFolder, to_json, write_atomically

# How a trial went. The first three are what its run folder says; then: another process trains it, an error of the
# machine or of regx, the process is gone.
FINISHED, FAILED, INTERRUPTED, BUSY, ERROR, LOST = "finished", "failed", "interrupted", "busy", "error", "lost"
# Seconds between two words of a worker on how far its program is.
TELL_EVERY = 0.5


@dataclass(frozen=True)
class Outcome:
    """How a trial went.

    Attributes:
        trial: which.
        status: one of the words above.
        worker: who carried it out.
        message: why, where it did not finish.
        row: numbers of the best epoch.
        trained: whether it was trained now; False where it had been finished before.
        ended: why training ended, as `result.json` says.
        warnings: what the run had to say.
    """

    trial: Trial
    status: str
    worker: str
    message: str = ""
    row: dict[str, float] = field(default_factory=dict)
    trained: bool = True
    ended: str = ""
    warnings: tuple[str, ...] = ()


class Reporter:
    """Watches a run for somebody else.

    Args:
        tell: called with epoch and number of epochs after every logged one.
    """

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell
        self.warnings: list[str] = []
        self.began = False

    def started(self, lines: list[str]) -> None:
        """The run is built."""
        self.began = True

    def step(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        """A step was taken."""

    def row(self, row: dict[str, float], epochs: int) -> None:
        """An epoch was logged."""
        self._tell(int(row["epoch"]), epochs)

    def warn(self, message: str) -> None:
        """Something went otherwise than asked."""
        self.warnings.append(message)


def carry_out(
    program: Program,
    worker: str,
    say: Callable[[Outcome], None],
    tell: Callable[[int, int], None] = lambda epoch, epochs: None,
) -> None:
    """Trains the trials of a program; raises nothing but what ends the process.

    SIGTERM interrupts them: a run that trains saves a checkpoint, one that has not begun is left as it is.

    Args:
        program: what to train.
        worker: who does.
        say: called once for every trial, as soon as it has ended, and never interrupted by SIGTERM.
        tell: called a few times a second with epoch and number of epochs of the trial that is least far.
    """
    trials, least = program.trials, _Least(tell)
    watches = [Reporter(functools.partial(least.row, number)) for number in range(len(trials))]
    left = set(range(len(trials)))

    def ended(number: int, how: dict[str, Any] | BaseException) -> None:
        item, watch = trials[number], watches[number]
        with interruption.held():
            if isinstance(how, dict):
                found = outcome(item, how, worker, trained=watch.began)
            else:
                found = _without_result(item, how, worker, began=watch.began)
            say(dataclasses.replace(found, warnings=tuple(watch.warnings)) if watch.began else found)
            least.ended(number)
            left.discard(number)

    why: BaseException = RunFailed("its program has ended without it")
    interruption = _Interruption()
    before = signal.signal(signal.SIGTERM, interruption)
    try:
        if program.engine == SINGLE:
            ended(0, trial.carry_out(trials[0], watches[0], argv=sys.argv))
        else:
            trial.carry_out_together(trials, watches, sys.argv, ended)
    except (KeyboardInterrupt, Exception) as error:
        why = error
    finally:
        signal.signal(signal.SIGTERM, before)
    for number in sorted(left):
        ended(number, why)


class _Least:
    """How far a program is: as far as the run of it that is least far."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell
        self._at: dict[int, tuple[int, int]] = {}
        self._told = 0.0

    def row(self, number: int, epoch: int, epochs: int) -> None:
        """A run has logged an epoch."""
        self._at[number] = (epoch, epochs)
        if time.monotonic() - self._told > TELL_EVERY:
            self._told = time.monotonic()
            self._tell(*min(self._at.values(), key=lambda at: at[0] / at[1]))

    def ended(self, number: int) -> None:
        """A run has ended."""
        self._at.pop(number, None)


class _Interruption:
    """What SIGTERM does: it raises KeyboardInterrupt, but not while an outcome is being said."""

    def __init__(self) -> None:
        self._held = self._asked = False

    def __call__(self, number: int, frame: Any) -> None:
        if not self._held:
            raise KeyboardInterrupt
        self._asked = True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps a signal waiting."""
        self._held = True
        yield
        self._held = False
        if self._asked:
            self._asked = False
            raise KeyboardInterrupt


def _without_result(item: Trial, error: BaseException, worker: str, *, began: bool) -> Outcome:
    """How a trial went that has no result."""
    if isinstance(error, KeyboardInterrupt):
        return Outcome(item, INTERRUPTED, worker, trained=began)
    if isinstance(error, RunFailed):
        return Outcome(item, BUSY if isinstance(error, InUse) else ERROR, worker, error.message)
    if isinstance(error, UserError):
        return Outcome(item, FAILED, worker, str(error))
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({os.path.basename(where[0].filename)})" if where else ""
    text = " ".join(str(error).split())[:300]
    return Outcome(item, ERROR, worker, f"{type(error).__name__}: {text}{place}")


def outcome(item: Trial, result: dict[str, Any], worker: str, *, trained: bool) -> Outcome:
    """What `result.json` says."""
    # JSON has no NaN.
    row = {key: math.nan if value is None else value for key, value in (result.get("best") or {}).items()}
    return Outcome(item, result["status"], worker, result.get("error", ""), row, trained, result.get("ended", ""))


def forget(item: Trial) -> None:
    """Removes the result of a trial that an error ended, and its checkpoints, so that it can begin anew."""
    folder = RunFolder(item.place())
    if folder.result.is_file():
        folder.clear()


def record(item: Trial, message: str) -> None:
    """Writes the result of a trial that could not even begin."""
    with suppress(UserError, OSError):  # the configuration cannot be made, or nothing can be written
        config, folder = item.config(), RunFolder(item.place())
        if folder.result.is_file():
            return
        item.leave_note()
        nothing: dict[str, Any] = {"best": {}, "last": {}, "test": {}, "epochs": 0, "seconds": 0.0}
        told = {"status": "failed", "ended": "error", "hash": config.hash(), "config": config.as_dict()}
        write_atomically(folder.result, to_json(told | nothing | {"run_dir": str(folder.path), "error": message}))
