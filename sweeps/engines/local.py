"""Worker processes on this machine. They import PyTorch once and then carry one program out after the other."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from regx.sweeps import work
from regx.sweeps.engines import Progress
from regx.sweeps.programs import Program
from regx.sweeps.trial import Trial
from regx.sweeps.work import Outcome

# Seconds that interrupted trials are given to save a checkpoint.
PATIENCE = 60.0


@dataclass
class _Worker:
    """A worker.

    Attributes:
        name: for the driver.
        process: that it is now.
        pipe: to the process.
        trials: of its program, those without an outcome, by their keys.
    """

    name: str
    process: BaseProcess
    pipe: Connection
    trials: dict[str, Trial] = field(default_factory=dict)


class LocalEngine:
    """Processes on this machine.

    Args:
        count: how many.
        gpus: what `CUDA_VISIBLE_DEVICES` is for each in turn; `0+1` gives two to one worker. Empty: as it is.
    """

    name = "local"

    def __init__(self, count: int, gpus: list[str] | None = None) -> None:
        methods = multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            # One process imports PyTorch, and the others are copies of it: a new worker costs next to nothing.
            self._context.set_forkserver_preload(["regx.training.experiment", "regx.training.vectorised.runs"])
        self._gpus = [gpu.replace("+", ",") for gpu in gpus or []]
        self._threads = max(1, (os.cpu_count() or 1) // count)
        self._workers = {name: self._start(name, number) for number, name in enumerate(_names(count))}
        self._numbers = {name: number for number, name in enumerate(self._workers)}

    def _start(self, name: str, number: int) -> _Worker:
        environment = {"CUDA_VISIBLE_DEVICES": self._gpus[number % len(self._gpus)]} if self._gpus else {}
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, name, environment, self._threads), name=name)
        process.start()
        theirs.close()
        return _Worker(name, process, ours)

    def workers(self) -> list[str]:
        """Names of the workers that were not dismissed."""
        return list(self._workers)

    def idle(self) -> list[str]:
        """Names of the workers without a program."""
        return [worker.name for worker in self._workers.values() if not worker.trials]

    def submit(self, program: Program, worker: str) -> None:
        """Gives a program to an idle worker."""
        mine = self._workers[worker]
        mine.trials = {item.key: item for item in program.trials}
        with contextlib.suppress(OSError):  # it died while it was idle: `wait` says so
            mine.pipe.send(program)

    def wait(self, seconds: float) -> list[Outcome | Progress]:
        """What the workers say; one that died is replaced, and those of its trials that have not ended are lost."""
        pipes = {worker.pipe: worker for worker in self._workers.values()}
        found: list[Outcome | Progress] = []
        for pipe in multiprocessing.connection.wait(list(pipes), seconds):
            worker = pipes[pipe]  # type: ignore[index]
            try:
                while worker.pipe.poll():
                    message = worker.pipe.recv()
                    if isinstance(message, Outcome):
                        del worker.trials[message.trial.key]
                    found.append(message)
            except (EOFError, OSError):
                found += self._replace(worker)
        return found

    def _replace(self, worker: _Worker) -> list[Outcome]:
        worker.process.join()
        code = worker.process.exitcode
        worker.pipe.close()
        self._workers[worker.name] = self._start(worker.name, self._numbers[worker.name])
        how = f"was killed by signal {-code}" if code and code < 0 else f"ended with exit code {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return [Outcome(item, work.LOST, worker.name, f"its process {how}{hint}") for item in worker.trials.values()]

    def dismiss(self, worker: str) -> None:
        """Ends an idle worker."""
        mine = self._workers.pop(worker)
        mine.pipe.close()
        mine.process.join()

    def interrupt(self) -> None:
        """Asks the trials to save a checkpoint and stop."""
        for worker in self._workers.values():
            if worker.trials and worker.process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.process.pid, signal.SIGTERM)

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers.values():
            worker.pipe.close()  # an idle one ends by itself
        deadline = time.monotonic() + (0 if any(w.trials for w in self._workers.values()) else PATIENCE)
        for worker in self._workers.values():
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive() and worker.process.pid:
                with contextlib.suppress(ProcessLookupError):  # with the processes of a run that has several
                    os.killpg(worker.process.pid, signal.SIGKILL)
                worker.process.kill()
                worker.process.join()
        self._workers = {}


def _names(count: int) -> list[str]:
    return [f"worker {number}" for number in range(count)]


def _work(pipe: Connection, name: str, environment: dict[str, str], threads: int) -> None:
    """Carries out what comes through the pipe until it is closed, which it is too when the driver dies."""
    os.setpgrp()  # Ctrl-C in the driver's terminal is for the driver, which asks us to stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # while there is nothing to interrupt
    os.environ.update(environment)
    from torch import set_num_threads

    set_num_threads(threads)

    def send(message: Outcome | Progress) -> None:
        try:
            pipe.send(message)
        except OSError:  # nobody is left to work for; the runs go on from their checkpoints another time
            os._exit(1)

    while True:
        try:
            program = pipe.recv()
        except (EOFError, OSError):
            return
        work.carry_out(program, name, send, lambda epoch, epochs: send(Progress(name, epoch, epochs)))
