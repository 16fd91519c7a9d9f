"""Works a W&B sweep off: several real `wandb agent`s, which are watched, restarted, and stopped where all fails."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regx.errors import UserError
from regx.training.tracking.sweeps import find

AGENT = (sys.executable, "-P", "-m", "wandb", "agent")
POLL_SECONDS = 0.2
# Between the signals of a stop: an agent waits for its trial after the first, and ends it gently after the second.
SECOND_SIGNAL_SECONDS = 1.0
BACKOFF_SECONDS = 2.0
_ENDED = "Cleaning up finished run: "
_BAD = ("failed", "died")


@dataclass
class Worker:
    """What became of a worker, which is one agent at a time.

    Attributes:
        number: from 0 on.
        trials: how many ended how: `finished`, `failed`, `interrupted`, `skipped`, and `died` (without a word: killed,
            or the sweep's command cannot be started).
        restarts: how often its agent had died and was started again.
        reason: why it stopped before the sweep's end; `None` where it did not.
    """

    number: int
    trials: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    reason: str | None = None


@dataclass
class Outcome:
    """What became of all workers; `exit_code` is 0, 1 (a trial failed or a worker gave up) or 130 (interrupted)."""

    exit_code: int
    workers: list[Worker]


def agents(
    path: str,
    *,
    count: int | None = None,
    workers: int = 1,
    gpus: Sequence[str] = (),
    restarts: int = 3,
    max_failures: int = 3,
    log: Path,
    run_dir: Path,
    on_line: Callable[[str], None],
    command: Sequence[str] = AGENT,
) -> Outcome:
    """Runs W&B agents until the sweep has no more trials for them.

    A trial finds `REGX_TRIAL_LOG` (this call's `log`) and `REGX_WORKER` (its worker's number) in its environment, and
    appends one line of JSON at its end: `{"run": WANDB_RUN_ID, "status": "finished", "worker": 0}`. A trial that fails
    is no reason for W&B's agent to stop (its own rules are switched off): `max_failures` in a row stop that worker,
    while the others go on.

    The first Ctrl-C or SIGTERM lets running trials save their state and end; the second kills them.

    Args:
        path: of the sweep, `entity/project/id`.
        count: trials per worker, as in `wandb agent --count`; `None` is as many as there are.
        workers: agents at a time, each of which has one trial at a time.
        gpus: for worker 0, 1, ... in turn, as `0`, or `0+1` for trials on two GPUs; nothing leaves the choice to them.
        restarts: how often an agent that died is started again, before its worker gives up.
        max_failures: failed trials in a row after which a worker takes no more.
        log: file that trials report to.
        run_dir: where agents keep their files (in its `wandb` folder).
        on_line: called in this thread with each line that agents and trials print, after `[worker 0] `.
        command: starts an agent, without its options.

    Raises:
        UserError: `path` is not that of a sweep, or a number is below 1 (`restarts`: 0).
        RunFailed: there is no key, no answer, or no such sweep.
    """
    for option, value, least in (
        ("workers", workers, 1),
        ("count", count, 1),
        ("max_failures", max_failures, 1),
        ("restarts", restarts, 0),
    ):
        if value is not None and value < least:
            raise UserError(f"{value} is below {least}", option)
    find(path)
    log = log.resolve()
    log.parent.mkdir(parents=True, exist_ok=True)
    run_dir.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "REGX_TRIAL_LOG": str(log),
        "WANDB_DIR": str(run_dir.resolve()),
        "WANDB_AGENT_DISABLE_FLAPPING": "true",
        "WANDB_AGENT_MAX_INITIAL_FAILURES": str(10**9),
    }
    environment.pop("WANDB_SERVICE", None)  # this process's own
    lines: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    reports = _Reports(log)
    with _signals() as asked:
        crew = [
            _Agent(Worker(number), path, count, list(command), environment | _devices(gpus, number), lines)
            for number in range(workers)
        ]
        try:
            _watch(crew, lines, reports, asked, restarts=restarts, max_failures=max_failures, on_line=on_line)
        finally:
            for agent in crew:
                agent.kill()
    done = [agent.worker for agent in crew]
    bad = any(worker.reason or any(worker.trials[status] for status in _BAD) for worker in done)
    return Outcome(130 if asked else int(bad), done)


def _watch(
    crew: list[_Agent],
    lines: queue.SimpleQueue[tuple[int, str]],
    reports: _Reports,
    asked: list[int],
    *,
    restarts: int,
    max_failures: int,
    on_line: Callable[[str], None],
) -> None:
    def count_reports() -> None:
        for worker, status in reports.new():
            if 0 <= worker < len(crew):
                crew[worker].ended(status, max_failures)

    while True:
        running = [agent for agent in crew if agent.tend(restarts)]
        count_reports()  # at once, so that no trial is begun after the last failure
        for number, line in _arrived(lines):
            on_line(f"[worker {number}] {line}")
            if _ENDED in line:
                count_reports()
                if line.partition(_ENDED)[2].strip() not in reports.runs:
                    crew[number].ended("died", max_failures)
        if not running:
            return
        for agent in running:
            agent.signal(len(asked))


class _Agent:
    """The process of a worker."""

    def __init__(
        self,
        worker: Worker,
        path: str,
        count: int | None,
        command: list[str],
        environment: dict[str, str],
        lines: queue.SimpleQueue[tuple[int, str]],
    ) -> None:
        self.worker = worker
        self._path, self._count, self._command, self._lines = path, count, command, lines
        self._environment = environment | {"REGX_WORKER": str(worker.number)}
        self._failures = 0
        self._signals: list[float] = []
        self._again_at: float | None = None
        self._start()

    def _start(self) -> None:
        left = [] if self._count is None else ["--count", str(self._count - self.worker.trials.total())]
        self._again_at = None
        self._process = subprocess.Popen(
            [*self._command, *left, self._path],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C comes from here, once
        )
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: Any) -> None:
        with stream:
            for line in stream:
                self._lines.put((self.worker.number, line.rstrip("\n")))

    def tend(self, restarts: int) -> bool:
        """Starts an agent that has died again; whether there is one, or will be."""
        if self._again_at is not None:
            if self._signals:
                return False
            # A trial that outlives its agent holds the pipe open, and the device busy.
            if time.monotonic() >= self._again_at and not self._reader.is_alive():
                self._start()
            return True
        code = self._process.poll()
        if code is None:
            return True
        if self._reader.is_alive():
            self._reader.join(1)  # its last lines
        if code == 0 or self._signals:
            return False
        if self._count is not None and self.worker.trials.total() >= self._count:
            return False
        if self.worker.restarts >= restarts:
            self.worker.reason = f"its agent ended with exit code {code}" + (
                f", and again after {restarts} restarts" if restarts else ""
            )
            return False
        self._again_at = time.monotonic() + BACKOFF_SECONDS * 2**self.worker.restarts
        self.worker.restarts += 1
        return True

    def ended(self, status: str, max_failures: int) -> None:
        """A trial has ended."""
        self.worker.trials[status] += 1
        self._failures = self._failures + 1 if status in _BAD else 0
        if self._failures >= max_failures and self.worker.reason is None:
            self.worker.reason = f"{self._failures} trials in a row failed"
            self._send()

    def signal(self, asked: int) -> None:
        """Passes on that the user wants to stop (`asked`: how often).

        An agent takes no more trials after its first SIGINT, ends its trial by SIGTERM after the second, and by SIGKILL
        after the third. Its own `--forward-signals` nests one handler deeper with every trial, up to Python's limit.
        """
        wanted = 0 if not asked else 2 if asked == 1 else 3
        late = not self._signals or time.monotonic() >= self._signals[-1] + SECOND_SIGNAL_SECONDS
        if len(self._signals) < wanted and late:
            self._send()

    def _send(self) -> None:
        self._signals.append(time.monotonic())
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Ends an agent that is still there."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class _Reports:
    """What trials have written since the beginning.

    Args:
        path: the file of JSON lines; what is in it already is of others.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = path.stat().st_size if path.is_file() else 0
        self.runs: set[str] = set()

    def new(self) -> list[tuple[int, str]]:
        """Worker and status of each complete line that has come since the last call."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._place)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]  # the rest is still being written
        self._place += len(whole)
        found = []
        for line in whole.splitlines():
            try:
                report = json.loads(line)
                found.append((int(report["worker"]), str(report["status"])))
                self.runs.add(report["run"])
            except (ValueError, KeyError, TypeError):
                continue  # a torn line is as good as none: its trial counts as died
        return found


def _devices(gpus: Sequence[str], number: int) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)].replace("+", ",")} if gpus else {}


def _arrived(lines: queue.SimpleQueue[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Lines that are there, waiting up to `POLL_SECONDS` for the first."""
    timeout = POLL_SECONDS
    while True:
        try:
            yield lines.get(timeout=timeout)
        except queue.Empty:
            return
        timeout = 0


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects the requests to stop (Ctrl-C, SIGTERM, a closed terminal) instead of dying of them."""
    asked: list[int] = []
    try:
        before = {
            number: signal.signal(number, lambda number, frame: asked.append(number))
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
    except ValueError:  # not the main thread: nobody can press Ctrl-C here
        before = {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
