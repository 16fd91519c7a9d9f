"""Ray and SLURM carry out the same runs as processes of this machine, through losses and interruptions."""

import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from regx.errors import RunFailed, UserError
from regx.sweeps import definition, plan, registry
from regx.sweeps.driver import Driver
from regx.sweeps.engines import Engine
from regx.sweeps.engines.local import LocalEngine
from regx.sweeps.engines.ray import RayEngine
from regx.sweeps.engines.slurm import SlurmEngine
from regx.sweeps.report import Report
from regx.training.folder import RunFolder, load_checkpoint

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
needs_submitit = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")

SWEEP = """
method: grid
command: ["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]
metric: {name: val/acc, goal: maximize}
parameters:
  dataset: {value: iris}
  depth: {values: [1, 2]}
  lambda: {values: LAMBDAS}
  epochs: {value: EPOCHS}
  plots: {value: false}
"""
# Enough epochs for several seconds of training.
LONG = 2000


def prepare(folder: Path, lambdas: str = "[0, 0.01, 0.1]", epochs: int = 2) -> tuple[definition.Sweep, Path]:
    """A sweep of two depths and these strengths, kept in its folder as the command line does."""
    folder.mkdir(exist_ok=True)
    path = folder / "grid.yaml"
    path.write_text(SWEEP.replace("LAMBDAS", lambdas).replace("EPOCHS", str(epochs)))
    sweep = definition.read(path)
    registry.keep(sweep, folder / "grid")
    return sweep, folder / "grid"


def drive(
    sweep: definition.Sweep, folder: Path, engine: Engine, act: Callable[[Report], None] = lambda report: None
) -> Report:
    return Driver(sweep, folder, plan.trials(sweep, folder)).run(engine, act)


def metrics(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/metrics.csv")}


def once(folder: Path, act: Callable[[Report], Any]) -> Callable[[Report], None]:
    """Acts as soon as all trials at work are in the middle of training."""
    acted = []

    def look(report: Report) -> None:
        rows = [text.count(b"\n") for text in metrics(folder).values()]
        if not acted and len(rows) >= len(report.running) > 0 and min(rows) > 20:
            acted.append(act(report))

    return look


def stop_driver(report: Report) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def kill_one_ray_worker(engine: RayEngine) -> None:
    worker = next(worker for worker in engine._workers.values() if worker.place and worker.program)
    assert worker.place
    os.kill(worker.place[1], signal.SIGKILL)


def kill_one_job(engine: SlurmEngine) -> None:
    """Kills the process that trains, which is the child of submitit's local controller."""
    controller = next(slot.job.job_id for slot in engine._slots.values() if slot.program)
    child = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()[0]
    os.kill(int(child), signal.SIGKILL)


def slurm(folder: Path, count: int = 2, **more: Any) -> SlurmEngine:
    return SlurmEngine(folder / ".slurm", count, **{"cluster": "local", **more})


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray writes a token there, by which its processes know each other, and remembers it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The runs of the short sweep, by processes of this machine."""
    sweep, folder = prepare(tmp_path_factory.mktemp("short"))
    assert drive(sweep, folder, LocalEngine(2)).finished == 6
    return metrics(folder)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The runs of the long sweep, never interrupted."""
    sweep, folder = prepare(tmp_path_factory.mktemp("long"), "[0.01]", LONG)
    assert drive(sweep, folder, LocalEngine(2)).finished == 2
    return metrics(folder)


@pytest.mark.slow
@needs_ray
def test_ray_does_the_same_runs(
    short: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep, folder = prepare(Path("runs"))  # a relative folder means the same to the workers
    report = drive(sweep, folder, RayEngine(count=2))
    assert (report.finished, report.failed, report.ended) == (6, {}, "")
    assert metrics(folder) == short
    assert capfd.readouterr().out == ""


@pytest.mark.slow
@needs_submitit
def test_jobs_do_the_same_runs(short: dict[str, bytes], tmp_path: Path) -> None:
    sweep, folder = prepare(tmp_path)
    report = drive(sweep, folder, slurm(folder))
    assert (report.finished, report.failed, report.ended) == (6, {}, "")
    assert metrics(folder) == short


@pytest.mark.slow
@needs_ray
def test_a_killed_ray_worker_is_replaced(
    long: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep, folder = prepare(tmp_path, "[0.01]", LONG)
    engine = RayEngine(count=2)
    driver = Driver(sweep, folder, plan.trials(sweep, folder))
    report = driver.run(engine, once(folder, lambda _: kill_one_ray_worker(engine)))
    assert (report.finished, report.failed) == (2, {})
    assert sum(driver._losses.values()) == 1
    assert metrics(folder) == long
    assert capfd.readouterr().out == ""


@pytest.mark.slow
@needs_submitit
def test_a_killed_job_is_submitted_again(long: dict[str, bytes], tmp_path: Path) -> None:
    sweep, folder = prepare(tmp_path, "[0.01]", LONG)
    engine = slurm(folder)
    driver = Driver(sweep, folder, plan.trials(sweep, folder))
    report = driver.run(engine, once(folder, lambda _: kill_one_job(engine)))
    assert (report.finished, report.failed) == (2, {})
    assert sum(driver._losses.values()) == 1
    assert metrics(folder) == long


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda folder: RayEngine(count=2), id="ray", marks=needs_ray),
        pytest.param(slurm, id="slurm", marks=needs_submitit),
    ],
)
def test_interrupted_trials_go_on_from_their_checkpoints(
    make: Callable[[Path], Engine], long: dict[str, bytes], tmp_path: Path
) -> None:
    sweep, folder = prepare(tmp_path, "[0.01]", LONG)
    report = drive(sweep, folder, make(folder), once(folder, stop_driver))
    assert (report.ended, report.finished, report.failed) == ("interrupted", 0, {})
    logged = {name: text.count(b"\n") - 1 for name, text in metrics(folder).items()}
    assert logged.keys() == long.keys()
    for name, epochs in logged.items():
        run = RunFolder(folder / name)
        assert not run.result.is_file()
        assert load_checkpoint(run.last)["epoch"] == epochs < LONG  # nothing that was logged is trained again
    assert drive(sweep, folder, LocalEngine(2)).finished == 2
    assert metrics(folder) == long


@pytest.mark.slow
@needs_ray
def test_ray_workers_that_do_not_fit_at_once_take_turns(short: dict[str, bytes], tmp_path: Path) -> None:
    sweep, folder = prepare(tmp_path)
    report = drive(sweep, folder, RayEngine(count=2, cpus=float(os.cpu_count() or 1)))
    assert (report.finished, report.failed) == (6, {})


@pytest.mark.slow
@needs_ray
def test_ray_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"needs 1 cores and 64 GPUs; the machines have \d+ cores and \d+ GPUs"):
        RayEngine(gpus=64)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RunFailed, match=f"cannot reach the Ray cluster 127.0.0.1:{port}: .*refused"):
        RayEngine(f"127.0.0.1:{port}")
    with pytest.raises(UserError, match="'head' is no address of a Ray cluster; write HOST:PORT, auto or local"):
        RayEngine("head")
    sweep, folder = prepare(tmp_path)
    (folder / registry.KEPT).unlink()  # as on a machine that does not mount the folder
    with pytest.raises(RunFailed, match=r"does not see .*all machines must see"):
        drive(sweep, folder, RayEngine(count=1))


@pytest.mark.slow
@needs_submitit
def test_a_job_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    sweep, folder = prepare(tmp_path)
    (folder / registry.KEPT).unlink()
    with pytest.raises(RunFailed, match=r"does not see .*all machines must see"):
        drive(sweep, folder, slurm(folder, 1))


# SLURM's commands on one machine that has room for one job: this file under each of their names.
FAKE = """#!PYTHON
import fcntl, json, os, pathlib, subprocess, sys

name, *words = [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]
home = pathlib.Path(HOME)
jobs = lambda: sorted(home.glob("*.state"), key=lambda path: int(path.stem))
with (home / "calls").open("a") as calls:
    calls.write(json.dumps([name, *words]) + "\\n")
if name == "sbatch":
    state = home / f"{len(jobs()) + 1}.state"
    state.write_text("PENDING")
    print("Submitted batch job", state.stem, flush=True)
    if os.fork():
        os._exit(0)
    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open("/dev/null", os.O_WRONLY), stream)
    with (home / "node").open("w") as node:
        fcntl.flock(node, fcntl.LOCK_EX)
        if state.read_text() == "PENDING":
            state.write_text("RUNNING")
            code = subprocess.call(["bash", words[0]], env=os.environ | {"SLURM_JOB_ID": state.stem})
            state.write_text("FAILED" if code else "COMPLETED")
elif name == "srun":
    place = {word: words.index(word) + 1 for word in ("--output", "--error")}
    for option, stream in (("--output", 1), ("--error", 2)):
        path = words[place[option]].replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.execvp(words[5], words[5:])
elif name == "scancel":
    assert words[0] == "--state=PENDING", words
    for word in words[1:]:
        if (home / f"{word}.state").read_text() == "PENDING":
            (home / f"{word}.state").write_text("CANCELLED by 0")
elif name == "sacct":
    print("JobID|State|NodeList")
    for path in jobs():
        print(f"{path.stem}|{path.read_text()}|node")
"""


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("cluster")
    for name in ("sbatch", "srun", "scancel", "sacct"):
        path = home / name
        path.write_text(FAKE.replace("PYTHON", sys.executable).replace("HOME", repr(str(home))))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    return home


@pytest.mark.slow
@needs_submitit
def test_slurm_gets_what_was_asked_for(short: dict[str, bytes], cluster: Path, tmp_path: Path) -> None:
    sweep, folder = prepare(tmp_path, "[0, 0.01]")
    engine = slurm(
        folder, cluster="slurm", partition="gpu", minutes=30, cpus=1, gpus=1, memory=8, more={"account": "me"}
    )
    report = drive(sweep, folder, engine)
    assert (report.finished, report.failed) == (4, {})
    found = metrics(folder)
    assert found == {name: short[name] for name in found}
    script = next((folder / ".slurm").glob("*submission.sh")).read_text()
    for line in ("partition=gpu", "time=30", "cpus-per-task=1", "gpus-per-node=1", "mem=8GB", "account=me"):
        assert f"#SBATCH --{line}\n" in script
    assert "#SBATCH --no-requeue\n" in script


@pytest.mark.slow
@needs_submitit
def test_interrupting_cancels_jobs_that_wait(long: dict[str, bytes], cluster: Path, tmp_path: Path) -> None:
    sweep, folder = prepare(tmp_path, "[0.01]", LONG)

    def stop_while_one_runs(report: Report) -> None:
        rows = [text.count(b"\n") for text in metrics(folder).values()]
        if not report.ended and rows and rows[0] > 20:
            stop_driver(report)

    report = drive(sweep, folder, slurm(folder, cluster="slurm"), stop_while_one_runs)
    assert (report.ended, report.finished, report.failed) == ("interrupted", 0, {})
    states = [path.read_text() for path in sorted(cluster.glob("*.state"))]
    assert states[0] != states[1] == "CANCELLED by 0"
    assert [path.parent.parent.name for path in folder.glob("*/checkpoints/last.pt")] == list(metrics(folder))
    assert drive(sweep, folder, slurm(folder, cluster="slurm")).finished == 2
    assert metrics(folder) == long


@pytest.mark.slow
@needs_submitit
def test_a_run_longer_than_a_job_goes_on_in_another(
    long: dict[str, bytes], cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, folder = prepare(tmp_path, "[0.01]", LONG)
    engine = slurm(folder, cluster="slurm")
    engine._seconds = 6.0  # a minute is the least that SLURM knows
    report = drive(sweep, folder, engine)
    assert (report.finished, report.failed) == (2, {})
    assert len(list(cluster.glob("*.state"))) > 2
    assert metrics(folder) == long


@needs_submitit
def test_slurm_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunFailed, match="SLURM's sbatch is not here"):
        slurm(tmp_path, cluster="slurm")


@pytest.mark.parametrize(
    ("package", "make", "message"),
    [
        ("ray", RayEngine, r"--engine ray needs Ray: pip install 'regx\[ray\]'"),
        ("submitit", lambda: slurm(Path()), r"--engine slurm needs submitit: pip install 'regx\[slurm\]'"),
    ],
)
def test_package_is_missing(
    package: str, make: Callable[[], Engine], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(UserError, match=message):
        make()
