"""`regx sweep create`, `agent`, `results --from` and `regx wandb upload`: the real client, a loopback server."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wandb_server import Server, served

SWEEP = """\
method: grid
command: ["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]
metric: {name: val/acc, goal: maximize}
parameters:
  technique: {values: [{label: plain}, {label: alive, lambda: 0.01}]}
  optim: {parameters: {lr: {values: [0.01, 1e-5]}}}
  dataset: {value: iris}
  depth: {value: 1}
  epochs: {value: 2}
  plots: {value: false}
"""


def regx(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = Path("home").absolute()
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "regx", *arguments],
        env=os.environ | server.environment(home),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def metrics(folder: Path) -> dict[str, str]:
    """Run -> its log."""
    return {path.parent.name: path.read_text() for path in folder.glob("*/metrics.csv")}


def test_runs_of_a_sweep_are_mirrored_afterwards_under_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SWEEP)
    with served() as server:
        created = regx(server, "sweep", "create", "mine.yaml", "--seeds", "1")
        assert created.returncode == 0, created.stderr
        path = created.stdout.strip()
        assert re.fullmatch(r"[\w-]+/regx/\w+", path)
        assert regx(server, "sweep", "run", "runs/mine", "--workers", "2").returncode == 0
        assert server.of_sweep(path.rpartition("/")[2]) == []
        sent = regx(server, "wandb", "upload", "mine")
        assert sent.returncode == 0 and "4 runs sent, 0 were there before" in sent.stdout, sent.stderr
        again = regx(server, "wandb", "upload", "mine")
        assert "0 runs sent, 4 were there before" in again.stdout
        assert len(server.of_sweep(path.rpartition("/")[2])) == 4
        back = regx(server, "sweep", "results", "mine", "--from", f"wandb:{path}", "-f", "json")
        here = regx(server, "sweep", "results", "mine", "-f", "json")

    def numbers(text: str) -> set[tuple[str, float, int, float, float]]:
        rows = json.loads(text)["tables"][0]["rows"]
        learning_rate = "lr" if "lr" in rows[0] else "optim.lr"
        keys = ("label", learning_rate, "n", "val/acc mean", "test/acc mean")
        return {tuple(row[key] for key in keys) for row in rows}

    assert len(numbers(here.stdout)) == 4 and numbers(back.stdout) == numbers(here.stdout)
    key = next(value for name, value in server.environment(tmp_path).items() if name == "WANDB_API_KEY")
    assert all(key.encode() not in file.read_bytes() for file in Path("runs").rglob("*") if file.is_file())


@pytest.mark.slow
def test_agents_train_the_same_runs_as_this_machine(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SWEEP)
    (tmp_path / "mine.regx.yaml").write_text("seeds: 2\nwhere: lr > 0.001 or lambda > 0\n")
    with served() as server:
        path = regx(server, "sweep", "create", "mine.yaml").stdout.strip()
        done = regx(server, "sweep", "agent", path, "--workers", "2", "--run-dir", "agents")
        assert done.returncode == 0, done.stderr
        # The server knows the whole grid; two of its runs are left out by the condition.
        assert sum(int(n) for n in re.findall(r"(\d+) finished", done.stdout)) == 6
        assert sum(int(n) for n in re.findall(r"(\d+) skipped", done.stdout)) == 2
        assert {run.state for run in server.of_sweep(path.rpartition("/")[2])} == {"finished"}
        assert regx(server, "sweep", "run", "mine.yaml").returncode == 0
        assert len(metrics(Path("runs/mine"))) == 6
        assert metrics(Path("agents/mine")) == metrics(Path("runs/mine"))
        failing = regx(
            server, "sweep", "create", "mine.yaml", "--set", "depth=3", "--set", "lr=[1.0e+30]", "--seeds", "4"
        )
        done = regx(server, "sweep", "agent", failing.stdout.strip(), "--max-failures", "2", "--run-dir", "failing")
        assert done.returncode == 1 and "stopped: 2 trials in a row failed" in done.stdout, done.stdout


def test_without_a_key_one_line_says_what_would_work(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SWEEP)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    for arguments in (["create", "mine.yaml"], ["agent", "a/b/c"]):
        done = subprocess.run(
            [sys.executable, "-m", "regx", "sweep", *arguments],
            env=environment
            | {"HOME": str(tmp_path), "WANDB_CONFIG_DIR": str(tmp_path), "NETRC": str(tmp_path / "none")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1 and "regx sweep run" in done.stderr and "Traceback" not in done.stderr, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "regx", "sweep", "agent", "mine"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and "no sweep is called 'mine'" in done.stderr
