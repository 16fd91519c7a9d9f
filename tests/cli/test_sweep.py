"""`regx sweep` as a user meets it."""

import csv
import io
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from regx.cli import listing
from regx.sweeps import driver, plan, registry
from regx.training.vectorised import grouping, native
from tests.cli.done import Done
from tests.cli.sweep_by_hand import BESIDE, SWEEP


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.yaml").write_text(SWEEP)
    (tmp_path / "mine.regx.yaml").write_text(BESIDE)
    return "mine.yaml"


def test_a_sweep_from_plan_to_tables(capsys: pytest.CaptureFixture[str], mine: str) -> None:
    done = Done(capsys, "sweep", "plan", mine)
    assert done.code == 0 and "4 runs in runs/mine: 4 new" in done.out and not Path("runs").exists()
    assert re.search(r"label +seed +lambda +state", done.out)

    done = Done(capsys, "sweep", "results", "mine")
    assert done.code == 2 and "no sweep is called 'mine'" in done.err
    done = Done(capsys, "sweep", "run", mine, "--workers", "2")
    assert done.code == 0, done.err
    assert "4 runs done" in done.err and re.search(r"alive +2 ", done.out) and "baseline" in done.out
    assert len(list(Path("runs/mine").glob("*/result.json"))) == 4

    again = Done(capsys, "sweep", "run", mine)
    assert again.code == 0 and again.out == done.out and "nothing to do, all 4 runs have ended" in again.err
    for name in ("mine", mine, "runs/mine"):
        assert Done(capsys, "sweep", "results", name).out == done.out
    assert "4 finished of 4 runs" in Done(capsys, "sweep", "status", "mine").out
    assert "4 finished" in Done(capsys, "sweep", "plan", mine).out


def test_results_in_every_format_have_the_numbers_of_the_run_folders(
    capsys: pytest.CaptureFixture[str], mine: str
) -> None:
    assert Done(capsys, "sweep", "run", mine, "--workers", "2").code == 0
    folders = [json.loads(path.read_text()) for path in Path("runs/mine").glob("*/result.json")]
    alive = [result["best"]["val/acc"] for result in folders if result["config"]["lambda"]]
    mean = sum(alive) / 2
    found = json.loads(Done(capsys, "sweep", "results", "mine", "-f", "json").out)
    (row,) = (row for row in found["tables"][0]["rows"] if row["label"] == "alive")
    assert row["n"] == 2 and row["val/acc mean"] == pytest.approx(mean, abs=1e-12)
    rows = list(csv.DictReader(io.StringIO(Done(capsys, "sweep", "results", "mine", "-f", "csv").out)))
    assert {row["label"]: float(row["val/acc mean"]) for row in rows}["alive"] == pytest.approx(mean, abs=1e-12)
    assert "| alive" in Done(capsys, "sweep", "results", "mine", "-f", "markdown").out
    assert r"\toprule" in Done(capsys, "sweep", "results", "mine", "-f", "latex").out
    done = Done(
        capsys, "sweep", "results", "mine", "--metric", "val/loss", "--by", "label", "--table", "configurations"
    )
    assert done.code == 0 and "val/loss" in done.out and "test/acc" not in done.out
    for arguments, part in (
        (["-f", "cvs"], "did you mean 'csv'?"),
        (["--table", "rank"], "did you mean 'ranks'?"),
        (["--by", "dept"], "dept"),
        (["--from", "lab/p/id"], "wandb:ENTITY/PROJECT/ID"),
    ):
        done = Done(capsys, "sweep", "results", "mine", *arguments)
        assert done.code == 2 and part in done.err and len(done.err.splitlines()) == 1


def test_changes_stay_with_the_folder(capsys: pytest.CaptureFixture[str], mine: str) -> None:
    done = Done(capsys, "sweep", "run", mine, "--set", "epochs=1", "--set", "technique=1")
    assert done.code == 2 and "'technique' is no option" in done.err
    done = Done(capsys, "sweep", "run", mine, "--set", "epochs=1", "--seeds", "5,")
    assert done.code == 2 and "--seeds: '5,'" in done.err
    changes = ["--set", "epochs=1", "--set", "depth=[1,2]", "--seeds", "1"]
    assert Done(capsys, "sweep", "run", mine, *changes, "--workers", "2").code == 0
    found = [json.loads(path.read_text()) for path in Path("runs/mine").glob("*/result.json")]
    assert sorted((r["config"]["depth"], r["config"]["lambda"], r["epochs"], r["config"]["seed"]) for r in found) == [
        (depth, strength, 1, 0) for depth in (1, 2) for strength in (0, 0.01)
    ]
    assert "4 finished of 4 runs" in Done(capsys, "sweep", "status", "mine").out
    assert "nothing to do" in Done(capsys, "sweep", "run", "runs/mine").err
    # The file itself has other runs, and the tables show those alone.
    assert Done(capsys, "sweep", "run", mine, "--workers", "2").code == 0
    assert "4 finished of 4 runs" in Done(capsys, "sweep", "status", "mine").out
    assert len(list(Path("runs/mine").glob("*/result.json"))) == 8


def test_failures_are_told_and_retried(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = SWEEP.replace(
        "[{label: plain}, {label: alive, lambda: 0.01}]", "[{label: good}, {label: wild, lr: 1.0e+30}]"
    )
    (tmp_path / "wild.yaml").write_text(text.replace("depth: {value: 1}", "depth: {value: 3}"))
    done = Done(capsys, "sweep", "run", "wild.yaml", "--workers", "2")
    assert done.code == 1 and "1 of 2 runs have failed" in done.err.splitlines()[-1]
    assert "regx sweep retry runs/wild" in done.err and "Traceback" not in done.err
    assert re.search(r"good +1 ", done.out) and "failed" in done.out
    again = Done(capsys, "sweep", "run", "wild.yaml")
    assert again.code == 1 and "nothing to do" in again.err
    status = Done(capsys, "sweep", "status", "wild")
    assert "1 failed, 1 finished of 2 runs" in status.out and "wild seed=42" in status.out
    before = {path: path.stat().st_mtime_ns for path in Path("runs/wild").glob("*/result.json")}
    retried = Done(capsys, "sweep", "retry", "wild", "--workers", "1")
    assert retried.code == 1 and "1 failed runs begin anew" in retried.err
    assert sum(path.stat().st_mtime_ns != stamp for path, stamp in before.items()) == 1


def test_nothing_is_written_for_a_sweep_that_cannot_run(capsys: pytest.CaptureFixture[str], mine: str) -> None:
    for arguments, part in (
        ([mine, "--set", "depht=2"], "--set: 'depht' is no option; did you mean 'depth'?"),
        ([mine, "--set", "depth"], "--set: 'depth': write OPTION=VALUE"),
        ([mine, "--workers", "many"], "--workers: 'many'"),
        ([mine, "--run-cap", "0"], "--run-cap: 0"),
        ([mine, "--format", "xml"], "--format: 'xml'"),
        (["quikstart"], "did you mean 'quickstart'?"),
        (["missing.yaml"], "no such sweep"),
    ):
        done = Done(capsys, "sweep", "run", *arguments)
        assert done.code == 2 and part in done.err and len(done.err.splitlines()) == 1, done.err
    assert not Path("runs").exists()


def test_very_many_runs_are_asked_about_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    seeds = list(range(1000))
    (tmp_path / "big.yaml").write_text(
        SWEEP + f"  seed: {{values: {seeds}}}\n  width: {{values: {list(range(1, 51))}}}\n"
    )
    done = Done(capsys, "sweep", "run", "big.yaml")
    assert done.code == 2 and "100,000 runs; say --yes" in done.err and not Path("runs").exists()
    (tmp_path / "huge.yaml").write_text(
        SWEEP
        + f"  seed: {{values: {seeds}}}\n  width: {{values: {seeds[1:]}}}\n  batch_size: {{values: {seeds[1:]}}}\n"
    )
    done = Done(capsys, "sweep", "plan", "huge.yaml")
    assert done.code == 2 and "use method: random" in done.err


def test_sweeps_of_ones_own_are_listed_and_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "habits.yaml").write_text(SWEEP)
    (own / "habits.regx.yaml").write_text(BESIDE)
    (own / "broken.yaml").write_text("method: grid\n")
    monkeypatch.setenv("REGX_SWEEPS", str(own))
    monkeypatch.setattr(registry, "REGISTRY", type(registry.REGISTRY)("sweep", registry.HERE, "x", more=registry.rows))
    monkeypatch.setattr(listing, "SWEEPS", registry.REGISTRY)
    done = Done(capsys, "sweep", "list")
    assert done.code == 0 and re.search(r"habits +2 x 2 seeds +Which one", done.out)
    assert "broken" in done.out and "cannot be read" in done.out and "quickstart" in done.out
    rows = json.loads(Done(capsys, "sweep", "list", "-f", "json").out)
    assert {"name": "habits", "summary": "Which one"}.items() <= next(r for r in rows if r["name"] == "habits").items()
    done = Done(capsys, "sweep", "show", "habits")
    assert done.code == 0 and SWEEP in done.out and "baseline: plain" in done.out
    assert "4 new" in Done(capsys, "sweep", "plan", "habits").out
    assert "quickstart" in Done(capsys, "list", "sweeps").out
    assert "three techniques" in Done(capsys, "show", "quickstart").out.lower()
    assert "did you mean 'quickstart'?" in Done(capsys, "show", "quikstart").err


def test_export_is_strictly_wandbs_format(capsys: pytest.CaptureFixture[str], mine: str, tmp_path: Path) -> None:
    with (tmp_path / "mine.regx.yaml").open("a") as file:
        file.write("where: depth < 3\nwhen: {dropout: depth > 1}\n")
    with (tmp_path / "mine.yaml").open("a") as file:
        file.write("  lr: {value: 1e-5}\n  dropout: {value: 0.5}\n")
    found = yaml.safe_load(Done(capsys, "sweep", "export", mine).out)
    assert found["parameters"]["lr"] == {"value": 1e-5} and found["parameters"]["seed"] == {"values": [0, 1]}
    assert set(found) == {"method", "command", "metric", "parameters", "name"}
    assert found["command"][-6:] == ["--sweep", "mine", "--where", "depth < 3", "--when", "dropout: depth > 1"]
    lines = Done(capsys, "sweep", "export", mine, "-f", "commands").out.splitlines()
    assert len(lines) == 4 and all("--dropout" not in line for line in lines)
    done = Done(capsys, *lines[3].split()[1:], "--dry-run", "-f", "json")
    planned = json.loads(Done(capsys, "sweep", "plan", mine, "-f", "json").out)
    assert json.loads(done.out)["run_dir"] == f"runs/mine/{planned['trials'][3]['run']}"


def test_a_trial_of_an_agent(
    capsys: pytest.CaptureFixture[str], mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As W&B's agent starts it, but for the server: tests with one are in test_sweep_wandb.py."""
    log = tmp_path / "log"
    for key, value in {
        "REGX_TRIAL_LOG": str(log),
        "WANDB_RUN_ID": "r1",
        "REGX_WORKER": "3",
        "WANDB_MODE": "disabled",
    }.items():
        monkeypatch.setenv(key, value)
    given = {
        "technique": {"label": "alive", "lambda": 0.01},
        "dataset": "iris",
        "depth": 1,
        "epochs": 2,
        "plots": False,
    }
    (tmp_path / "p.json").write_text(json.dumps(given | {"seed": 1}))
    trial = ["sweep", "trial", "rectangular", "p.json", "--sweep", "mine"]
    done = Done(capsys, *trial, "--where", "depth > 1")
    assert done.code == 0 and "leaves this run out" in done.err and not list(Path("runs").glob("*/*/result.json"))
    done = Done(capsys, *trial)
    assert done.code == 0, done.err
    planned = json.loads(Done(capsys, "sweep", "plan", mine, "-f", "json").out)
    assert [row["state"] for row in planned["trials"]].count("finished") == 1, "the same run folder as `regx sweep run`"
    (tmp_path / "p.json").write_text(json.dumps(given | {"dept": 1}))
    done = Done(capsys, *trial)
    assert done.code == 2 and "did you mean 'depth'?" in done.err
    reports = [json.loads(line) for line in log.read_text().splitlines()]
    assert [report["status"] for report in reports] == ["skipped", "finished", "failed"]
    assert {(report["run"], report["worker"]) for report in reports} == {("r1", 3)}


def test_stop_asks_whoever_is_at_work(capsys: pytest.CaptureFixture[str], mine: str) -> None:
    assert Done(capsys, "sweep", "run", mine, "--workers", "1").code == 0
    done = Done(capsys, "sweep", "stop", "mine")
    assert done.code == 0 and "nobody is at work" in done.out
    life = Path("runs/mine/.drivers/host-1.json")
    life.parent.mkdir(exist_ok=True)
    running = {"worker 0": {"trial": "alive seed=1", "keys": ["x"], "epoch": 3, "epochs": 9}}
    life.write_text(json.dumps({"engine": "local", "running": running, "failed": {}}))
    done = Done(capsys, "sweep", "stop", "mine")
    assert "asked 1 at work to stop" in done.out and Path("runs/mine", driver.STOP).is_file()
    assert "alive seed=1" in Done(capsys, "sweep", "status", "mine").out
    os.utime(life, (1, 1))
    assert "alive seed=1" not in Done(capsys, "sweep", "status", "mine").out


def test_the_same_runs_are_found_whoever_trained_them(capsys: pytest.CaptureFixture[str], mine: str) -> None:
    lines = Done(capsys, "sweep", "export", mine, "-f", "commands").out.splitlines()
    for line in lines:
        assert Done(capsys, *line.split()[1:]).code == 0
    done = Done(capsys, "sweep", "run", mine)
    assert done.code == 0 and "nothing to do, all 4 runs have ended" in done.err
    assert re.search(r"plain +2 ", done.out)


LIKE = """\
method: grid
command: ["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]
parameters:
  a: {values: [{}, {activation: gelu}, {compile: true}]}
  dataset: {value: iris}
  depth: {value: 2}
  epochs: {value: 20}
  plots: {value: false}
"""


def test_the_plan_says_how_runs_are_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "obstacle", lambda: None)
    monkeypatch.setattr(grouping, "seconds", lambda config, engine: 120.0)
    (tmp_path / "like.yaml").write_text(LIKE)
    planned = ["sweep", "plan", "like.yaml", "--seeds", "4", "--workers", "1"]
    done = Done(capsys, *planned)
    assert done.code == 0 and "12 runs in runs/like: 12 new" in done.out, done.err
    for row in ("native +1 +4 +4 +8 min 00 s", "vectorised +1 +4 +4 +8 min 00 s", "single +4 +4 +1 +8 min 00 s"):
        assert re.search(row, done.out), done.out
    lines = done.out.splitlines()[-3:]
    assert lines[:2] == [
        "4 runs train vectorised, not native: --activation gelu",
        "4 runs train one by one: --compile",
    ]
    assert lines[2] == "together roughly 24 min 00 s on 1 workers"
    for engine, rows in (("local", ["single"]), ("vectorised", ["vectorised", "single"]), ("slurm", ["single"])):
        found = json.loads(Done(capsys, *planned, "--engine", engine, "-f", "json").out)["programs"]
        assert [row["engine"] for row in found["engines"]] == rows
        assert sum(row["runs"] for row in found["engines"]) == 12 and found["workers"] == 1
    assert "one run per job" in Done(capsys, *planned, "--engine", "slurm").out
    done = Done(capsys, *planned, "--engine", "singel")
    assert done.code == 2 and "did you mean 'single'?" in done.err


def test_every_engine_makes_the_same_run_folders(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "like.yaml").write_text(LIKE.replace(", {compile: true}", ""))
    names = {}
    for engine in ("local", "vectorised", "auto"):
        where = ["--run-dir", engine, "--workers", "1", "--seeds", "3"]
        done = Done(capsys, "sweep", "run", "like.yaml", "--engine", engine, *where)
        assert done.code == 0 and "6 runs done" in done.err, done.err
        assert "6 finished" in Done(capsys, "sweep", "plan", "like.yaml", *where).out
        names[engine] = {path.parent.name for path in Path(engine, "like").glob("*/result.json")}
        assert "nothing to do" in Done(capsys, "sweep", "run", "like.yaml", *where).err
    assert len(names["local"]) == 6 and names["local"] == names["vectorised"] == names["auto"]


def test_status_counts_the_runs_of_a_program(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "like.yaml").write_text(LIKE)
    sweep, folder = registry.load("like.yaml"), Path("runs/like")
    registry.keep(sweep, folder)
    keys = [item.key for item in plan.trials(sweep, folder)]
    life = folder / ".drivers/host-1.json"
    life.parent.mkdir()
    running = {"trial": "2 runs: a ... b", "keys": keys[:2], "epoch": 3, "epochs": 9}
    life.write_text(json.dumps({"engine": "local", "running": {"worker 0": running}, "failed": {}}))
    done = Done(capsys, "sweep", "status", "like")
    assert "1 new, 2 running of 3 runs" in done.out and "2 runs: a ... b" in done.out


def test_an_engine_that_was_asked_for_is_not_replaced_silently(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "like.yaml").write_text(LIKE.replace("{compile: true}", "{batchnorm: true}"))
    done = Done(capsys, "sweep", "run", "like.yaml", "--set", "epochs=1", "--seeds", "1", "--engine", "native")
    assert done.code == 0
    assert "runs train vectorised, not native: --batchnorm" in done.err
    assert "runs train vectorised, not native: --activation gelu" in done.err
