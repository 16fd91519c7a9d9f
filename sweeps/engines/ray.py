"""A Ray cluster, or Ray on this machine. A worker is an actor: a process that stays on one machine.

So a machine that spoils whatever it is given loses its own workers only, and PyTorch is imported once per worker.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import signal
import socket
import time
from dataclasses import dataclass
from typing import Any

from regx.errors import RunFailed, UserError
from regx.sweeps import work
from regx.sweeps.engines import Progress
from regx.sweeps.programs import Program
from regx.sweeps.registry import KEPT
from regx.sweeps.work import Outcome

# Ray's own messages would go to the standard output, and its usage statistics to its makers.
QUIET = {"RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_USAGE_STATS_ENABLED": "0"}

# Seconds until somebody must answer at the address of a cluster.
CONNECT_WITHIN = 5.0


@dataclass
class _Worker:
    """A worker, the actor that it is now, and what was asked of it.

    Attributes:
        name: for the driver.
        gpus: what the actor claims.
        actor: None until it has something to do.
        asked: for its place; None once that is known.
        place: its node and process.
        program: what it carries out.
        result: the promise of the outcomes.
    """

    name: str
    gpus: float = 0.0
    actor: Any = None
    asked: Any = None
    place: tuple[str, int] | None = None
    program: Program | None = None
    result: Any = None


class RayEngine:
    """Processes of a Ray cluster, all of which see the sweep's folder under the same path and have regx.

    Args:
        address: of the cluster: `HOST:PORT`, `ray://HOST:PORT`, `auto` for the one that this machine belongs to, or
            `local` to start Ray here; None is `$RAY_ADDRESS`, else `local`.
        count: how many workers; None for as many as fit the cluster as it is now. More wait until it grows.
        cpus: cores of each.
        gpus: GPUs of each; a run with `devices: N` claims N where that is more.

    Raises:
        UserError: Ray is not installed, or the address is none.
        RunFailed: there is no such cluster, or no machine of it has what a worker needs.
    """

    name = "ray"

    def __init__(
        self, address: str | None = None, count: int | None = None, cpus: float = 1.0, gpus: float = 0.0
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UserError("--engine ray needs Ray: pip install 'regx[ray]'")
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        self._cpus, self._gpus, self._home = cpus, gpus, os.getcwd()
        self._interrupting = False
        _connect(address)
        try:
            count = count or self._fitting()
        except BaseException:
            _ray().shutdown()
            raise
        self._workers = {name: _Worker(name) for name in (f"ray {number}" for number in range(count))}

    def _fitting(self) -> int:
        machines = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
        needs = {"CPU": self._cpus, "GPU": self._gpus}
        fits = [min(int(has.get(key, 0.0) / need) for key, need in needs.items() if need) for has in machines]
        if sum(fits):
            return sum(fits)
        shown = "; ".join(f"{has.get('CPU', 0):g} cores and {has.get('GPU', 0):g} GPUs" for has in machines)
        raise RunFailed(f"a run needs {self._cpus:g} cores and {self._gpus:g} GPUs; the machines have {shown}")

    def workers(self) -> list[str]:
        """Names of the workers that were not dismissed."""
        return list(self._workers)

    def idle(self) -> list[str]:
        """Names of the workers without a program."""
        return [worker.name for worker in self._workers.values() if worker.program is None]

    def submit(self, program: Program, worker: str) -> None:
        """Gives a program to an idle worker."""
        mine = self._workers[worker]
        gpus = max(self._gpus, program.gpus())
        if mine.actor is not None and mine.gpus != gpus:
            _end(mine)
        if mine.actor is None:
            mine.gpus = gpus
            made = _ray().remote(_Carrier).options(num_cpus=self._cpus, num_gpus=gpus, max_restarts=0)
            mine.actor = made.remote(self._home, self._cpus)
            mine.asked = mine.actor.place.remote()
        mine.program, mine.result = program, mine.actor.carry_out.remote(program, worker)

    def wait(self, seconds: float) -> list[Outcome | Progress]:
        """What has come of the programs.

        Raises:
            RunFailed: a worker does not see the sweep's folder.
        """
        found: list[Outcome | Progress] = []
        if self._interrupting:
            found += self._stop_all()
        asked = {worker.asked: worker for worker in self._workers.values() if worker.asked is not None}
        if asked:  # perhaps for what the idle ones claim
            for worker in self._workers.values():
                if worker.program is None:
                    _end(worker)
        results = {worker.result: worker for worker in self._workers.values() if worker.program is not None}
        if not asked and not results:
            time.sleep(seconds)
            return found
        refs = [*asked, *results]
        ready, _ = _ray().wait(refs, num_returns=len(refs), timeout=seconds)
        for ref in ready:
            if ref in asked:
                with contextlib.suppress(_ray().exceptions.RayError):  # the outcomes say so too
                    asked[ref].place = _ray().get(ref)
                asked[ref].asked = None
        return found + [event for ref in ready if ref in results for event in self._outcomes(results[ref])]

    def _outcomes(self, worker: _Worker) -> list[Outcome]:
        program, ref = worker.program, worker.result
        assert program is not None
        worker.program = worker.result = None
        status, why = work.ERROR, ""
        try:
            result = _ray().get(ref)
        except _ray().exceptions.RayTaskError as error:
            why = _last_line(error)
        except _ray().exceptions.RayError as error:
            _end(worker)
            if isinstance(error, _ray().exceptions.RayActorError) and error.actor_init_failed:
                why = _last_line(error)
            else:
                status, why = work.LOST, _cause(error)
        else:
            if isinstance(result, str):
                raise RunFailed(result)
            return result
        return [Outcome(item, status, worker.name, why) for item in program.trials]

    def _stop_all(self) -> list[Outcome]:
        self._interrupting = False
        found = []
        for worker in self._workers.values():
            if worker.program is None:
                continue
            if worker.place is not None:
                _send_sigterm(worker.place)
            else:  # it is not running yet
                found += [Outcome(item, work.INTERRUPTED, worker.name) for item in worker.program.trials]
                worker.program = worker.result = None
                _end(worker)
        return found

    def dismiss(self, worker: str) -> None:
        """Ends an idle worker."""
        _end(self._workers.pop(worker))

    def interrupt(self) -> None:
        """Asks the trials to save a checkpoint and stop."""
        self._interrupting = True  # `wait` does so: this may be called by a signal in the middle of Ray's own work

    def close(self) -> None:
        """Ends all workers, and Ray where it was started here."""
        for worker in self._workers.values():
            _end(worker)
        self._workers = {}
        _ray().shutdown()


class _Carrier:
    """The actor, which Ray runs in the main thread of a process of its own: signals reach it."""

    def __init__(self, home: str, cpus: float) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # while there is nothing to interrupt
        # Ctrl-C in the driver's terminal is for the driver, which asks us to stop.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._home = home
        with contextlib.suppress(OSError):  # `carry_out` says so
            os.chdir(home)
        from torch import set_num_threads

        set_num_threads(max(1, int(cpus)))

    def place(self) -> tuple[str, int]:
        """Node and process."""
        return _ray().get_runtime_context().get_node_id(), os.getpid()

    def carry_out(self, program: Program, worker: str) -> list[Outcome] | str:
        """The outcomes of a program, or why this machine is unfit for the sweep."""
        folder = program.trials[0].folder
        if not (folder / KEPT).is_file():
            path = os.path.join(self._home, folder, KEPT)
            return f"{os.uname().nodename} does not see {path}; all machines must see the folder of the runs"
        found: list[Outcome] = []
        work.carry_out(program, worker, found.append)
        return found


def _ray() -> Any:
    """The package, which need not be installed."""
    return importlib.import_module("ray")


def _connect(address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        if address not in ("auto", "local"):
            _check(address)
        _ray().init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except (OSError, RuntimeError) as error:
        what = "start Ray" if address == "local" else f"reach the Ray cluster {address}"
        raise RunFailed(f"cannot {what}: {_last_line(error)}") from None


def _check(address: str) -> None:
    """Raises where nobody answers: Ray would try for minutes, and print."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d{1,5})", address)
    if found is None:
        raise UserError(f"{address!r} is no address of a Ray cluster; write HOST:PORT, auto or local")
    socket.create_connection((found[1], int(found[2])), CONNECT_WITHIN).close()


def _end(worker: _Worker) -> None:
    """Ends the actor at once; the worker's next program gets a new one."""
    if worker.actor is not None:
        _ray().kill(worker.actor)
    worker.actor = worker.asked = worker.place = None


def _send_sigterm(place: tuple[str, int]) -> None:
    """Sends the signal to a process, whichever machine it is on."""
    node, process = place
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    there = strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    _ray().remote(_terminate).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(process)


def _terminate(process: int) -> None:
    os.kill(process, signal.SIGTERM)


def _cause(error: Exception) -> str:
    """What Ray knows of the end of a worker, without its page of advice."""
    text = str(error)
    found = re.search(r"because (its [^.:]*)", text)
    return found[1].strip() if found else f"its process is gone ({type(error).__name__})"


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
