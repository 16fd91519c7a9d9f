"""Jobs of a SLURM cluster, one per program, which is one run, submitted by submitit.

A job per run asks the queue for what the run needs and no longer than it runs; SLURM puts it where there is room, and
its log is that of one run. A job that has to end before its run is done (time limit, preemption) saves a checkpoint and
says so, and the driver submits another one. So SLURM need not put jobs back into the queue by itself.

Jobs are asked to stop by a file, and look at the clock themselves: a signal that SLURM sends goes to all processes of a
job, and would end those that read data for the one that saves the checkpoint.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regx.errors import RunFailed, UserError
from regx.sweeps import work
from regx.sweeps.engines import Progress
from regx.sweeps.programs import Program
from regx.sweeps.registry import KEPT
from regx.sweeps.work import Outcome

# Seconds between two looks for results of jobs, and between two questions to SLURM, which tells of jobs without one.
LOOK_EVERY, ASK_EVERY = 1.0, 15.0
# Seconds until the result of a job that has ended must have come through the file system.
RESULT_WITHIN = 15.0
# Seconds of a job that are kept for its checkpoint, and the part of its time that these are at most.
RESERVE, RESERVE_PART = 90, 0.25
# Seconds for jobs to end when they are cancelled.
PATIENCE = 10.0
# States in which a job ends without having had a chance to begin.
UNBEGUN = ("CANCELLED", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE")
# What submitit notes around the error of a job.
_RULE = "-" * 22


@dataclass
class _Slot:
    """A place for one job at a time.

    Attributes:
        name: for the driver.
        program: what the job carries out.
        job: of submitit.
        ended: when it was first seen to have ended without a result.
    """

    name: str
    program: Program | None = None
    job: Any = None
    ended: float | None = None


class SlurmEngine:
    """Jobs, as many at a time as there are workers.

    Args:
        folder: for scripts, pickled programs and logs; all machines must see it.
        count: jobs at a time, pending ones included.
        cluster: `slurm`, or `local` for processes of this machine.
        partition: of the jobs.
        minutes: their time limit. A longer run goes on in another job.
        cpus: cores of each.
        gpus: GPUs of each; a run with `devices: N` gets N where that is more.
        memory: GB of each; None for the partition's own.
        more: further options of sbatch, in its spelling (`account`, `qos`, `constraint`, `exclude`, ...).

    Raises:
        UserError: submitit is not installed.
        RunFailed: SLURM is not here, or does not say what has become of jobs.
    """

    name = "slurm"

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        cluster: str = "slurm",
        partition: str | None = None,
        minutes: int = 60,
        cpus: int = 1,
        gpus: int = 0,
        memory: float | None = None,
        more: dict[str, str | int] | None = None,
    ) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise UserError("--engine slurm needs submitit: pip install 'regx[slurm]'")
        if cluster == "slurm":
            _check_slurm()
        self._slots = {name: _Slot(name) for name in (f"slurm {number}" for number in range(count))}
        self._cluster, self._folder, self._cpus, self._gpus = cluster, folder, cpus, gpus
        self._seconds = 60 * minutes - min(RESERVE, RESERVE_PART * 60 * minutes)
        self._stop = folder.absolute() / f"stop-{secrets.token_hex(4)}"
        self._looked = self._asked = time.monotonic()
        # One for every number of GPUs: submitit cannot take back what was asked for once.
        self._executors: dict[int, Any] = {}
        self._parameters = {
            "name": "regx",
            "timeout_min": minutes,
            "cpus_per_task": cpus,
            "mem_gb": memory,
            "slurm_partition": partition,
            "slurm_additional_parameters": {"no-requeue": True, **(more or {})},
        }
        self._executor(gpus)

    def _executor(self, gpus: int) -> Any:
        if gpus not in self._executors:
            executor = importlib.import_module("submitit").AutoExecutor(folder=self._folder, cluster=self._cluster)
            executor.update_parameters(**self._parameters, gpus_per_node=gpus or None)
            self._executors[gpus] = executor
        return self._executors[gpus]

    def workers(self) -> list[str]:
        """Names of the slots that were not dismissed."""
        return list(self._slots)

    def idle(self) -> list[str]:
        """Names of the slots without a job."""
        return [slot.name for slot in self._slots.values() if slot.program is None]

    def submit(self, program: Program, worker: str) -> None:
        """Submits a job.

        Raises:
            RunFailed: SLURM refuses it.
        """
        slot = self._slots[worker]
        executor = self._executor(max(self._gpus, program.gpus()))
        try:
            slot.job = executor.submit(_carry_out, program, worker, self._cpus, self._stop, self._seconds)
        except (_errors().FailedJobError, _errors().FailedSubmissionError, OSError) as error:
            raise RunFailed(f"cannot submit a job: {_last_line(str(error))}") from None
        slot.program, slot.ended = program, None

    def wait(self, seconds: float) -> list[Outcome | Progress]:
        """What has come of the jobs.

        Raises:
            RunFailed: a job does not see the sweep's folder.
        """
        time.sleep(max(0.0, min(seconds, self._looked + LOOK_EVERY - time.monotonic())))
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY:
            return []
        self._looked = now
        busy = [slot for slot in self._slots.values() if slot.program is not None]
        if busy and now - self._asked > ASK_EVERY:
            self._asked = now
            busy[0].job.get_info(mode="force")  # submitit asks for all its jobs at once
        return [event for slot in busy for event in _ended(slot)]

    def dismiss(self, worker: str) -> None:
        """Submits no more jobs here."""
        del self._slots[worker]

    def interrupt(self) -> None:
        """Asks the jobs to save a checkpoint and stop, and cancels those that still wait in the queue."""
        self._stop.touch()
        waiting = [slot.job.job_id for slot in self._slots.values() if slot.program is not None]
        if waiting and self._cluster == "slurm":
            subprocess.run(["scancel", "--state=PENDING", *waiting], capture_output=True, check=False)
            self._asked = -ASK_EVERY

    def close(self) -> None:
        """Cancels the jobs that are left."""
        jobs = [slot.job for slot in self._slots.values() if slot.program is not None]
        for job in jobs:
            job.cancel(check=False)
        deadline = time.monotonic() + (PATIENCE if self._cluster == "local" else 0.0)
        while time.monotonic() < deadline and not all(job.done() for job in jobs):
            time.sleep(0.1)
        self._slots = {}
        self._stop.unlink(missing_ok=True)


def _check_slurm() -> None:
    for command in ("sbatch", "srun", "scancel", "sacct"):
        if shutil.which(command) is None:
            raise RunFailed(f"SLURM's {command} is not here; sweep on a machine that jobs are submitted from")
    asked = subprocess.run(["sacct", "--noheader", "--allocations"], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise RunFailed(f"sacct does not say what becomes of jobs: {_last_line(asked.stderr)}")


def _carry_out(program: Program, worker: str, cpus: int, stop: Path, seconds: float) -> list[Outcome] | str:
    """What a job does: the outcomes of a program, or why this machine is unfit for the sweep.

    Args:
        program: what to train.
        worker: of the driver.
        cpus: threads.
        stop: the file that asks to save a checkpoint and stop.
        seconds: when that is done without being asked, because the job's time will be over.
    """
    folder = program.trials[0].folder
    if not (folder / KEPT).is_file():
        return f"{os.uname().nodename} does not see {folder.absolute()}/{KEPT}; all machines must see that folder"
    until, done = time.monotonic() + seconds, threading.Event()
    from torch import set_num_threads

    set_num_threads(cpus)
    for number in (signal.SIGUSR2, signal.SIGCONT):  # with which submitit would put the job back into the queue
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until there is something to interrupt
    threading.Thread(target=_watch, args=(stop, until, done), daemon=True).start()
    found: list[Outcome] = []
    try:
        work.carry_out(program, worker, found.append)
    finally:
        done.set()
    late = time.monotonic() > until
    return [_in_vain(event) if late and event.status == work.INTERRUPTED else event for event in found]


def _in_vain(event: Outcome) -> Outcome:
    """What it means that a job's time is over: where nothing was trained, another such job would come no further."""
    if event.trained:
        return event
    return Outcome(event.trial, work.LOST, event.worker, "the time of its job was over before it could train")


def _watch(stop: Path, until: float, done: threading.Event) -> None:
    """Asks the main thread to stop, once it must."""
    while not done.wait(LOOK_EVERY):
        if stop.exists() or time.monotonic() > until:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            return


def _ended(slot: _Slot) -> list[Outcome]:
    """The outcomes of a job, once it has ended.

    Raises:
        RunFailed: its machine does not see the sweep's folder.
    """
    job, program = slot.job, slot.program
    assert program is not None
    if not job.done() and job.state != "PREEMPTED":  # which submitit takes for a job that will come back
        return []
    if job.paths.result_pickle.exists():
        slot.program = slot.job = None
        return _read(job, program, slot.name)
    state, begun = job.state, job.paths.stdout.is_file()
    slot.ended = slot.ended or time.monotonic()
    if (begun or not state.startswith(UNBEGUN)) and time.monotonic() - slot.ended < RESULT_WITHIN:
        return []
    slot.program = slot.job = None
    if not begun and not state.startswith(UNBEGUN):
        raise RunFailed(f"job {job.job_id} has left no log in {job.paths.folder}; all machines must see that folder")
    said = _last_line(job.stderr() or "")
    why = f"job {job.job_id} is gone: {state}" + (f", {said}" if said else "")
    return [Outcome(item, work.LOST, slot.name, why) for item in program.trials]


def _read(job: Any, program: Program, worker: str) -> list[Outcome]:
    try:
        result = job.result()
    except _errors().FailedJobError as error:
        why = f"job {job.job_id}: {_last_line(str(error).split(_RULE)[1])}"
        return [Outcome(item, work.ERROR, worker, why) for item in program.trials]
    if isinstance(result, str):
        raise RunFailed(result)
    return result


def _errors() -> Any:
    """The module of submitit that has its exceptions."""
    return importlib.import_module("submitit.core.utils")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return re.sub(r"\s+", " ", lines[-1]).strip() if lines else ""
