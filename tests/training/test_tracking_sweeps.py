"""Sweeps on W&B with the real client and real agents, against a server on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from regx.errors import RunFailed, UserError
from regx.training import tracking
from regx.training.tracking import agents as crew
from regx.training.tracking import sweeps
from tests.wandb_server import KEY, Server, served

pytestmark = pytest.mark.usefixtures("private")

# What `wandb agent` does, without the five seconds that it sleeps between trials.
LAUNCHER = """
import sys
import wandb.wandb_agent
from wandb.cli.cli import cli
wandb.wandb_agent.Agent.POLL_INTERVAL = 0.1
sys.argv[0:1] = ["wandb", "agent"]
cli()
"""

# A trial that does what its parameter `do` says, where `on` (a worker) names it, and else finishes.
TRIAL = """
import json, os, signal, sys, time, yaml
file = os.environ["WANDB_SWEEP_PARAM_PATH"]
given = {key: item["value"] for key, item in yaml.safe_load(open(file)).items() if key != "wandb_version"}
worker, status = int(os.environ["REGX_WORKER"]), "finished"
print("trial", json.dumps([given["a"], worker, os.environ.get("CUDA_VISIBLE_DEVICES"), sys.executable]), flush=True)
do = given.get("do") if given.get("on", worker) == worker else None
if do == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if do == "orphan" and given["a"] == 1:
    os.kill(os.getppid(), signal.SIGKILL)
if do == "sleep":
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    print("sleeping", flush=True)
    while not ended:
        time.sleep(0.02)
    status = "interrupted"
if do == "fail":
    status = "failed"
if do == "slow":
    time.sleep(0.5)
report = {"run": os.environ["WANDB_RUN_ID"], "status": status, "worker": worker}
with open(os.environ["REGX_TRIAL_LOG"], "a") as log:
    log.write(json.dumps(report) + chr(10))
sys.exit(status == "failed")
"""


def use(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in server.environment(tmp_path / "home").items():
        monkeypatch.setenv(key, value)


def grid(folder: Path, points: int = 4, **constants: Any) -> dict[str, Any]:
    """A sweep over `a` = 1, 2, ... of the trial above."""
    program = folder / "trial.py"
    program.write_text(TRIAL)
    parameters = {"a": {"values": [*range(1, points + 1)]}} | {k: {"value": v} for k, v in constants.items()}
    return {"method": "grid", "program": str(program), "parameters": parameters}


class Work:
    """What came of working a sweep off: the outcome, the printed lines, and trials as [a, worker, gpus, python]."""

    def __init__(self, folder: Path, path: str, command: list[str] | None = None, **options: Any) -> None:
        launcher = folder / "launcher.py"
        launcher.write_text(LAUNCHER)
        self.lines: list[str] = []
        react = options.pop("react", lambda line: None)

        def on_line(line: str) -> None:
            self.lines.append(line)
            react(line)

        self.outcome = crew.agents(
            path,
            log=folder / "trials.jsonl",
            run_dir=folder / "sweep",
            on_line=on_line,
            command=command or [sys.executable, str(launcher)],
            **options,
        )
        self.code = self.outcome.exit_code
        self.trials = [json.loads(line.partition(" trial ")[2]) for line in self.lines if "] trial [" in line]
        self.counts = [dict(worker.trials) for worker in self.outcome.workers]


def test_sweep_is_made_quietly(tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    config = grid(tmp_path) | {"name": "first", "metric": {"name": "val/loss", "goal": "minimize"}}
    before = dict(os.environ)
    assert sweeps.create(config, project="jumpstart") == "lab/jumpstart/sweep0"
    assert server.sweeps["sweep0"].config == config
    assert {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"} == before
    assert capfd.readouterr() == ("", "")


def test_no_server_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = time.monotonic()
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    with pytest.raises(RunFailed, match=r"no API key for .*wandb login.*regx sweep run"):
        sweeps.create(grid(tmp_path), project="p")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    import wandb

    wandb.teardown()  # wandb reads its environment once
    for call in (
        lambda: sweeps.create(grid(tmp_path), project="p"),
        lambda: sweeps.set_state("lab/p/sweep0", "stop"),
        lambda: sweeps.runs("lab/p/sweep0"),
        lambda: Work(tmp_path, "lab/p/sweep0"),
    ):
        with pytest.raises(RunFailed, match=r"127\.0\.0\.1:1 does not answer; ") as error:
            call()
        assert "\n" not in str(error.value)
        assert KEY not in str(error.value)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(RunFailed, match="W&B is switched to offline"):
        sweeps.create(grid(tmp_path), project="p")
    assert time.monotonic() - begin < 20  # wandb's own patience is 90 s


def test_mistakes(tmp_path: Path, server: Server) -> None:
    with pytest.raises(UserError, match="sweep: 'sweep0' is not a sweep on W&B"):
        sweeps.runs("sweep0")
    with pytest.raises(UserError, match="did you mean 'pause'"):
        sweeps.set_state("lab/p/sweep0", "paused")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="workers: 0 is below 1"):
        Work(tmp_path, "lab/p/sweep0", workers=0)
    with pytest.raises(RunFailed, match="W&B has no sweep lab/p/sweep0"):
        Work(tmp_path, "lab/p/sweep0")
    with pytest.raises(RunFailed, match="did not give the runs of lab/p/sweep0"):
        sweeps.runs("lab/p/sweep0")
    with pytest.raises(RunFailed, match=r"did not take the sweep \(.*ambiguous"):
        sweeps.create({"method": "random", "parameters": {"a": {"min": 1, "max": 2.5}}}, project="p")


def test_runs_of_a_sweep_read_back(tmp_path: Path, server: Server) -> None:
    path = sweeps.create(grid(tmp_path), project="p")
    for number, sweep in enumerate(["sweep0", "sweep0", "other"]):
        tracker = tracking.start(
            mode="online",
            run_dir=tmp_path / str(number),
            config={"depth": number, "opt": {"name": "sgd"}},
            warn=pytest.fail,
            name=f"run {number}",
            project="p",
            run_id=f"id{number}",
            sweep=sweep,
        )
        tracker.log({"train/loss": 0.75 + number, "lr": 0.5}, 1)
        tracker.log({"train/loss": 0.25 + number, "lr": float("nan")}, 2)
        Image.new("RGB", (3, 2)).save(tmp_path / "picture.png")
        tracker.image("picture", tmp_path / "picture.png", 2)
        tracker.summary({"test/acc": 0.5})
        tracker.finish(number)
    assert [run.sweep for run in server.runs.values()] == ["sweep0", "sweep0", "other"]
    first, second = sweeps.runs(path)
    assert (first["name"], first["id"], first["state"], second["state"]) == ("run 0", "id0", "finished", "failed")
    assert first["config"] == {"depth": 0, "opt": {"name": "sgd"}}
    assert (first["summary"]["test/acc"], first["summary"]["train/loss"]) == (0.5, {"min": 0.25})
    one, two = second["history"]
    assert one == {"epoch": 1, "train/loss": 1.75, "lr": 0.5}
    assert (two["epoch"], two["train/loss"], two["lr"] != two["lr"], len(two)) == (2, 1.25, True, 3)


def test_offline_run_joins_its_sweep_when_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as gone:
        use(gone, tmp_path, monkeypatch)
    warnings: list[str] = []
    tracker = tracking.start(
        mode="auto", run_dir=tmp_path / "run", config={"a": 1}, warn=warnings.append, run_id="id7", sweep="sweep0"
    )
    tracker.log({"train/loss": 0.5}, 1)
    tracker.finish()
    assert tracker.mode == "offline"
    assert [f"{gone.url} does not answer" in line for line in warnings] == [True]
    import wandb

    wandb.teardown()
    with served() as server:
        use(server, tmp_path, monkeypatch)
        command = [sys.executable, "-P", "-m", *(tracker.sync_hint or "").split()]
        subprocess.run(command, check=True, capture_output=True)
    run = server.runs["id7"]
    assert (run.sweep, run.values, run.state) == ("sweep0", {"a": 1}, "finished")
    assert [row["train/loss"] for row in run.history] == [0.5]


def test_agents_work_a_grid_off(tmp_path: Path, server: Server) -> None:
    path = sweeps.create(grid(tmp_path, 4, do="slow"), project="p")
    work = Work(tmp_path, path, workers=2, gpus=["0", "1+2"])
    assert work.code == 0, work.lines
    assert sorted(a for a, *_ in work.trials) == [1, 2, 3, 4]
    assert {(worker, gpus) for _, worker, gpus, _ in work.trials} == {(0, "0"), (1, "1,2")}
    assert {Path(python) for *_, python in work.trials} == {Path(sys.executable).parent / "python"}
    assert sum(counts["finished"] for counts in work.counts) == 4
    assert all(line.startswith(("[worker 0] ", "[worker 1] ")) for line in work.lines)
    assert KEY not in "".join(work.lines)


@pytest.mark.slow
def test_count_is_per_worker_and_goes_to_the_agent(tmp_path: Path, server: Server) -> None:
    work = Work(tmp_path, sweeps.create(grid(tmp_path), project="p"), workers=2, count=1)
    assert (work.code, work.counts) == (0, [{"finished": 1}, {"finished": 1}])
    assert len(server.sweeps["sweep0"].points) == 2


def test_failing_worker_stops_while_others_go_on(tmp_path: Path, server: Server) -> None:
    path = sweeps.create(grid(tmp_path, 6, do="fail", on=0), project="p")
    work = Work(tmp_path, path, workers=2, max_failures=2)
    assert work.code == 1
    sick, well = work.outcome.workers
    assert (dict(sick.trials), sick.reason) == ({"failed": 2}, "2 trials in a row failed")
    assert (dict(well.trials), well.reason) == ({"finished": 4}, None)


def test_trials_that_die_without_a_word_count_as_failed(tmp_path: Path, server: Server) -> None:
    work = Work(tmp_path, sweeps.create(grid(tmp_path, 6, do="die"), project="p"), max_failures=2)
    (worker,) = work.outcome.workers
    assert (work.code, worker.reason, worker.restarts) == (1, "2 trials in a row failed", 0)
    assert 2 <= worker.trials["died"] <= 3  # the agent may have begun the next one
    assert server.sweeps["sweep0"].points


@pytest.mark.slow
def test_agent_that_is_killed_is_started_again(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "BACKOFF_SECONDS", 0.1)
    work = Work(tmp_path, sweeps.create(grid(tmp_path, 3, do="orphan"), project="p"), count=3)
    (worker,) = work.outcome.workers
    assert (work.code, dict(worker.trials), worker.restarts) == (0, {"finished": 3}, 1)


def test_worker_whose_agents_cannot_live_gives_up(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "BACKOFF_SECONDS", 0.05)
    path = sweeps.create(grid(tmp_path), project="p")
    work = Work(tmp_path, path, [sys.executable, "-c", "print('no'); raise SystemExit(3)"], restarts=2)
    assert work.lines == ["[worker 0] no"] * 3
    assert (work.code, work.outcome.workers[0].reason) == (
        1,
        "its agent ended with exit code 3, and again after 2 restarts",
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_interrupted_agents_let_their_trials_end(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(crew, "SECOND_SIGNAL_SECONDS", 0.5)
    before = signal.getsignal(number)

    def react(line: str) -> None:
        if line.endswith("] sleeping"):
            os.kill(os.getpid(), number)

    work = Work(tmp_path, sweeps.create(grid(tmp_path, do="sleep"), project="p"), react=react)
    assert (work.code, work.counts) == (130, [{"interrupted": 1}])
    assert len(server.sweeps["sweep0"].points) == 3
    assert signal.getsignal(number) is before


def test_sweep_is_paused_and_stopped(tmp_path: Path, server: Server) -> None:
    path = sweeps.create(grid(tmp_path), project="p")
    states = []
    for state in ("pause", "stop"):
        sweeps.set_state(path, state)
        states.append(server.sweeps["sweep0"].state)
    assert states == ["PAUSED", "FINISHED"]
    with pytest.raises(RunFailed, match=r"W&B did not pause lab/p/sweep0 \(Cannot pause finished sweep"):
        sweeps.set_state(path, "pause")


@pytest.mark.slow
def test_agents_leave_when_the_sweep_is_stopped(tmp_path: Path, server: Server) -> None:
    path = sweeps.create(grid(tmp_path, do="slow"), project="p")

    def react(line: str) -> None:
        if "] trial [" in line:
            server.sweeps["sweep0"].state = "FINISHED"

    work = Work(tmp_path, path, react=react)
    assert (work.code, work.counts) == (0, [{"finished": 1}])
    assert len(server.sweeps["sweep0"].points) == 3


@pytest.mark.slow
def test_paused_sweep_keeps_its_agents_waiting(tmp_path: Path, server: Server) -> None:
    path = sweeps.create(grid(tmp_path, 3), project="p")
    seen: list[str] = []

    def react(line: str) -> None:
        if "] trial [" in line and not seen:
            server.sweeps["sweep0"].state = "PAUSED"
            time.sleep(1)
            seen.extend(server.runs)
            server.sweeps["sweep0"].state = "RUNNING"

    work = Work(tmp_path, path, react=react)
    assert (len(seen), work.code, work.counts) == (1, 0, [{"finished": 3}])
