"""What a worker does, in whatever process and on whatever machine: it carries trials out and says how they went."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from regx.errors import RunFailed, UserError
from regx.sweeps import trial
from regx.sweeps.trial import Trial

# How a trial went. The first three are what its run folder says; then: another process trains it, an error of the
# machine or of regx, the process is gone.
FINISHED, FAILED, INTERRUPTED, BUSY, ERROR, LOST = "finished", "failed", "interrupted", "busy", "error", "lost"


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


def carry_out(item: Trial, worker: str, tell: Callable[[int, int], None] = lambda epoch, epochs: None) -> Outcome:
    """Trains a trial and says how it went; raises nothing but what ends the process.

    SIGTERM interrupts it: a run that trains saves a checkpoint, one that has not begun is left as it is.
    """
    from regx.training.folder import InUse

    watch = Reporter(tell)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = trial.carry_out(item, watch, argv=sys.argv)
    except KeyboardInterrupt:
        return Outcome(item, INTERRUPTED, worker, trained=watch.began)
    except InUse as error:
        return Outcome(item, BUSY, worker, error.message)
    except RunFailed as error:
        return Outcome(item, ERROR, worker, error.message)
    except UserError as error:
        return Outcome(item, FAILED, worker, str(error))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:300]
        return Outcome(item, ERROR, worker, f"{type(error).__name__}: {text} ({os.path.basename(where.filename)})")
    finally:
        signal.signal(signal.SIGTERM, before)
    found = outcome(item, result, worker, trained=watch.began)
    return dataclasses.replace(found, warnings=tuple(watch.warnings)) if watch.began else found


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def outcome(item: Trial, result: dict[str, Any], worker: str, *, trained: bool) -> Outcome:
    """What `result.json` says."""
    # JSON has no NaN.
    row = {key: math.nan if value is None else value for key, value in (result.get("best") or {}).items()}
    return Outcome(item, result["status"], worker, result.get("error", ""), row, trained, result.get("ended", ""))
