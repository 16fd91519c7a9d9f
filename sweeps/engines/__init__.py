"""Where programs are carried out: on this machine, on a Ray cluster, or on SLURM. All look the same to the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from regx.sweeps.programs import Program
from regx.sweeps.work import Outcome


@dataclass(frozen=True)
class Progress:
    """How far a running program is."""

    worker: str
    epoch: int
    epochs: int


class Engine(Protocol):
    """Carries programs out. What it holds in memory may be lost: run folders are the state of a sweep.

    Attributes:
        name: `local`, `ray` or `slurm`.
    """

    name: str

    def workers(self) -> list[str]:
        """Names of those that take programs now, busy or not."""
        ...

    def idle(self) -> list[str]:
        """Names of those that could begin one now."""
        ...

    def submit(self, program: Program, worker: str) -> None:
        """Gives a program to an idle worker, which is busy until all of its trials have had an outcome."""
        ...

    def wait(self, seconds: float) -> list[Outcome | Progress]:
        """What has happened since the last call: an outcome for every trial; waits for it at most so long."""
        ...

    def dismiss(self, worker: str) -> None:
        """Gives this worker no more programs."""
        ...

    def interrupt(self) -> None:
        """Asks running trials to save a checkpoint and stop; their outcomes still come."""
        ...

    def close(self) -> None:
        """Ends everything, at once where something still runs."""
        ...
