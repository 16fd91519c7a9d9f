"""Contenders that take turns, each in a process of its own.

In one process they would not be alone: a loop of many small operations takes a third longer where the weights and
modules of a thousand other runs lie in memory.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple

import torch
from peers.lightning_run import LightningRun
from peers.plain_loop import PlainLoop
from peers.regx_runs import Program, SingleRun
from peers.stacked import Stacked
from peers.task import Setting, Task, now

Kind = Literal["bare", "logged"]  # epochs without and with validation
LIGHTNING, LOOP, VMAP, SINGLE, PROGRAM = "Lightning", "plain loop", "torch.func.vmap", "regx, one run", "regx, "


class Entry(NamedTuple):
    """A contender.

    Attributes:
        title: `LIGHTNING`, `LOOP`, `VMAP`, `SINGLE`, or `PROGRAM` and the name of an engine.
        runs: how many it trains at once.
    """

    title: str
    runs: int


@dataclass
class Contender:
    """This process's side of a contender in another one."""

    entry: Entry
    pipe: Connection

    def seconds(self, kind: Kind, epochs: int) -> float:
        """Gives it a turn; the seconds that it took.

        Raises:
            SystemExit: it has died.
        """
        try:
            self.pipe.send((kind, epochs))
            return self.pipe.recv()
        except (EOFError, OSError):
            raise SystemExit(f"{self.entry.title} ({self.entry.runs} runs) ended early; its error is above") from None


@contextmanager
def contenders(setting: Setting, entries: Sequence[Entry]) -> Iterator[list[Contender]]:
    """Starts contenders; each has trained an epoch of both kinds to warm up."""
    context = multiprocessing.get_context("forkserver")
    # Imported once; torch._dynamo is what an optimiser imports in its first step.
    context.set_forkserver_preload(["regx.training.vectorised.group", "sklearn.datasets", "pandas", "torch._dynamo"])
    found = []
    try:
        for entry in entries:
            pipe, theirs = context.Pipe()
            context.Process(target=_serve, args=(setting, entry, theirs), daemon=True).start()
            theirs.close()
            found.append(Contender(entry, pipe))
        for contender in found:
            for kind in kinds(contender.entry):
                contender.seconds(kind, 1)
        yield found
    finally:
        for contender in found:
            contender.pipe.close()


def kinds(entry: Entry) -> tuple[Kind, ...]:
    """The kinds of epochs that a contender has."""
    return ("logged",) if entry.title == LIGHTNING else ("bare", "logged")


def _serve(setting: Setting, entry: Entry, pipe: Connection) -> None:
    torch.set_num_threads(1)
    task = setting.task()
    clocks = _clocks(task, entry)
    while True:
        try:
            kind, epochs = pipe.recv()
        except EOFError:
            return
        pipe.send(clocks[kind](epochs))


def _clocks(task: Task, entry: Entry) -> dict[Kind, Callable[[int], float]]:
    """Functions that say how many seconds a number of epochs take."""
    title, runs = entry
    if title == LIGHTNING:
        return {"logged": LightningRun(task).seconds}
    if title == LOOP:
        contender: PlainLoop | Stacked | SingleRun | Program = PlainLoop(task)
    elif title == VMAP:
        contender = Stacked(task, runs)
    elif title == SINGLE:
        contender = SingleRun(task)
    else:
        contender = Program(task, title.removeprefix(PROGRAM), range(runs))

    def clock(epoch: Callable[[], object]) -> Callable[[int], float]:
        def seconds(epochs: int) -> float:
            start = now(task.device)
            for _ in range(epochs):
                epoch()
            return now(task.device) - start

        return seconds

    return {"bare": clock(contender.train_epoch), "logged": clock(contender.logged_epoch)}
