"""A run from the outside: killed, interrupted, failing and forced runs leave the folder that they should."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from regx.errors import RunFailed, UserError
from regx.training import experiment
from regx.training.build import build
from regx.training.experiments import RectangularConfig
from regx.training.folder import MetricsFile, RunFolder, load_checkpoint


class Quiet:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.rows: list[dict[str, float]] = []
        self.warnings: list[str] = []

    def started(self, lines: list[str]) -> None:
        self.lines = lines

    def step(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        pass

    def row(self, row: dict[str, float], epochs: int) -> None:
        self.rows.append(row)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def config(folder: Path, **options: Any) -> RectangularConfig:
    small: dict[str, Any] = {
        "depth": 4,
        "epochs": 5,
        "batch_size": 32,
        "lambda_": 0.05,
        "wandb": "disabled",
        "plots": False,
    }
    if "dataset" not in options:
        small["n_samples"] = 100
    return RectangularConfig(run_dir=str(folder), **small | options)


def same_run(first: Path, second: Path) -> None:
    """Weights, metrics and outcome of two run folders are equal, bit for bit."""
    assert (first / "metrics.csv").read_text() == (second / "metrics.csv").read_text()
    for file in ("best.pt", "last.pt"):
        ours, theirs = (load_checkpoint(folder / "checkpoints" / file) for folder in (first, second))
        assert ours["epoch"] == theirs["epoch"]
        for name, value in ours["model"].items():
            assert torch.equal(value, theirs["model"][name]), name
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (first, second))
    for key in ("status", "hash", "best", "last", "test", "epochs", "ended"):
        assert ours[key] == theirs[key], key
    with np.load(first / "status.npz") as a, np.load(second / "status.npz") as b:
        assert set(a) == set(b)
        assert all(np.array_equal(a[key], b[key]) for key in a)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "regx", *arguments]


def wait_for_rows(process: "subprocess.Popen[bytes]", metrics: Path, rows: int) -> None:
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and metrics.read_text().count("\n") > rows):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


LONG = [
    "--depth",
    "6",
    "--epochs",
    "200",
    "--n-samples",
    "300",
    "--lambda",
    "0.01",
    "--dropout",
    "0.05",
    "--stop-at",
    "none",
]


@pytest.mark.parametrize(("way", "moments"), [(signal.SIGKILL, (30, 90)), (signal.SIGINT, (60,))])
def test_a_run_that_is_ended_from_outside_resumes_to_the_same_end(
    tmp_path: Path, way: signal.Signals, moments: tuple[int, ...]
) -> None:
    options = ["--wandb", "disabled", "--no-plots", "--checkpoint-every", "0.05"]
    whole = RectangularConfig(
        depth=6,
        epochs=200,
        n_samples=300,
        lambda_=0.01,
        dropout=0.05,
        stop_at=None,
        run_dir=str(tmp_path / "whole"),
        wandb="disabled",
        plots=False,
    )
    expected = Path(experiment.run(whole, Quiet(), argv=[])["run_dir"])
    folder = tmp_path / "broken" / expected.name
    arguments = ["rectangular", *LONG, *options, "--run-dir", str(tmp_path / "broken")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for already in moments:
        process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        wait_for_rows(process, folder / "metrics.csv", already)
        process.send_signal(way)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (130 if way is signal.SIGINT else -way), err.decode()
        assert not (folder / "result.json").exists()
        if way is signal.SIGINT:
            assert f"continue with: regx resume {folder}" in err.decode()
        arguments = ["resume", str(folder)]
    done = subprocess.run(command("resume", str(folder)), capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    same_run(expected, folder)


def test_run_folder_holds_what_it_promises(tmp_path: Path) -> None:
    observer = Quiet()
    result = experiment.run(config(tmp_path, plots=True, plot_status=True, plot_every=2), observer, argv=["regx", "x"])
    folder = Path(result["run_dir"])
    metrics = pandas.read_csv(folder / "metrics.csv")
    assert metrics["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert metrics["val/acc"].max() == result["best"]["val/acc"]
    assert metrics.loc[metrics["val/acc"].idxmax(), "epoch"] == result["best"]["epoch"]
    environment = json.loads((folder / "env.json").read_text())
    assert environment["argv"] == ["regx", "x"]
    assert torch.__version__.startswith(environment["versions"]["torch"])
    with np.load(folder / "status.npz") as status:
        assert status["train_units"].shape == (4, 4)
        assert status["train_points"].shape == (60, 4)
        assert len(status["layers"]) == 4
    drawn = {str(path.relative_to(folder / "plots")) for path in folder.rglob("*.png")}
    assert {
        "learning_curves.png",
        "unit_status.png",
        "point_status.png",
        "confusion.png",
        "decision_surface.png",
    } <= drawn
    assert {"status/train_unit_status_00002.png", "status/val_point_status_00004.png"} <= drawn
    assert any("jumpstart x 0.05: 4 layers" in line for line in observer.lines)


def test_best_weights_give_the_test_metric(tmp_path: Path) -> None:
    c = config(tmp_path, epochs=30, lr=0.1, stop_at=None)
    result = experiment.run(c, Quiet(), argv=[])
    folder = RunFolder(Path(result["run_dir"]))
    best, last = load_checkpoint(folder.best)["model"], load_checkpoint(folder.last)["model"]
    assert any(not torch.equal(value, last[name]) for name, value in best.items()), "the last epoch was no better"
    built = build(c)
    built.model.load_state_dict(load_checkpoint(RunFolder(Path(result["run_dir"])).best)["model"])
    with torch.no_grad():
        assert built.data.test is not None
        hits = (built.model(built.data.test.x)[:, 0] > 0) == built.data.test.y
    assert result["test"]["test/acc"] == pytest.approx(hits.double().mean().item())


def test_a_failing_run_says_why_and_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    c = config(tmp_path, dataset="diabetes", optimizer="sgd", lr=1e12, epochs=30, checkpoint_every=0.0)
    returned = experiment.run(c, Quiet(), argv=[])
    folder = RunFolder(tmp_path / c.run_name())
    result = folder.read_result()
    assert result is not None
    assert result["status"] == returned["status"] == "failed"
    assert re.search(r"at epoch \d+; a lower --lr.*\(last good checkpoint: epoch \d+", result["error"])
    assert all(bool(value.isfinite().all()) for value in load_checkpoint(folder.last)["model"].values())


def test_unfinished_folder_is_not_overwritten(tmp_path: Path) -> None:
    c = config(tmp_path)
    folder = RunFolder(tmp_path / c.run_name())
    experiment.run(c, Quiet(), argv=[])
    folder.result.unlink()
    before = folder.metrics.read_bytes()
    with pytest.raises(UserError, match=r"unfinished run: `regx resume .*` continues it, --force starts anew"):
        experiment.run(c, Quiet(), argv=[])
    assert folder.metrics.read_bytes() == before


def test_damaged_checkpoint_is_said_and_can_be_deleted(tmp_path: Path) -> None:
    c = config(tmp_path)
    whole = experiment.run(c, Quiet(), argv=[])
    folder = RunFolder(Path(whole["run_dir"]))
    folder.result.unlink()
    folder.last.write_bytes(b"garbage")
    with pytest.raises(RunFailed, match=r"last\.pt is damaged; delete it"):
        experiment.run(c, Quiet(), argv=[], folder=folder)
    folder.last.unlink()
    again = experiment.run(c, Quiet(), argv=[], folder=folder)
    assert (again["best"], again["test"]) == (whole["best"], whole["test"])


def test_a_full_disk_leaves_a_run_that_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = experiment.run(config(tmp_path / "whole"), Quiet(), argv=[])
    c = config(tmp_path / "full", checkpoint_every=0.0)
    write, rows = MetricsFile.append, []

    def no_room(self: MetricsFile, row: dict[str, float]) -> None:
        rows.append(row)
        if len(rows) == 3:
            raise OSError(28, "No space left on device", str(self.path))
        write(self, row)

    monkeypatch.setattr(MetricsFile, "append", no_room)
    with pytest.raises(RunFailed, match=r"cannot write .*metrics\.csv: No space left on device; then `regx resume"):
        experiment.run(c, Quiet(), argv=[])
    folder = RunFolder(tmp_path / "full" / c.run_name())
    assert folder.read_result() is None
    experiment.run(folder.read_config(), Quiet(), argv=[], folder=folder)
    same_run(Path(whole["run_dir"]), folder.path)


def test_a_changed_configuration_is_not_resumed(tmp_path: Path) -> None:
    c = config(tmp_path)
    folder = RunFolder(Path(experiment.run(c, Quiet(), argv=[])["run_dir"]))
    folder.result.unlink()
    folder.config.write_text(folder.config.read_text().replace("width: 4", "width: 5"))
    with pytest.raises(RunFailed, match=r"config\.yaml or its data file has changed"):
        experiment.run(folder.read_config(), Quiet(), argv=[], folder=folder)


def test_no_secrets_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("MY_TOKEN", "hush-hush")
    result = experiment.run(config(tmp_path), Quiet(), argv=[])
    for path in Path(result["run_dir"]).rglob("*"):
        if path.is_file():
            assert b"k" * 40 not in path.read_bytes() and b"hush-hush" not in path.read_bytes(), path


@pytest.mark.parametrize("dataset", ["iris", "diabetes", "digits", "blobs"])
def test_every_kind_of_task_trains(tmp_path: Path, dataset: str) -> None:
    observer = Quiet()
    result = experiment.run(
        config(tmp_path, dataset=dataset, epochs=30, lr=0.01, depth=2, width=16, stop_at=None), observer, argv=[]
    )
    assert result["status"] == "finished"
    assert result["best"][result["monitor"]] > result["chance"] + 0.1
    assert observer.rows[-1]["train/loss"] < observer.rows[0]["train/loss"]
