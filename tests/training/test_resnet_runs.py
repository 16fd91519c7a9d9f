"""Runs of residual networks that end in the middle of an epoch go on as if nothing had happened."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from regx.cli.main import main
from regx.training.build import Experiment, build
from regx.training.config import RunConfig
from regx.training.experiments import RectangularConfig, ResNetConfig
from regx.training.folder import load_checkpoint, save_checkpoint


def images(**options: Any) -> ResNetConfig:
    small: dict[str, Any] = {"depth": 20, "width_multiplier": 0.5, "image_size": 8, "n_samples": 60, "epochs": 2}
    return ResNetConfig(dataset="fake", batch_size=16, **small | options)


def fit(built: Experiment, stop_after: int | None = None) -> list[dict[str, float]]:
    """Trains to the end, or until it was asked so many times whether to stop."""
    rows: list[dict[str, float]] = []
    asked = itertools.count(1)
    built.trainer.fit(rows.append, lambda: None, lambda: next(asked) == stop_after)
    return rows


def in_pieces(config: RunConfig, path: Path, steps: int) -> tuple[list[dict[str, float]], Experiment, int]:
    """A run that is broken off after every `steps` steps and goes on from a file in other processes, as it were."""
    rows: list[dict[str, float]] = []
    breaks = 0
    while True:
        torch.manual_seed(1000 + breaks)  # another process has another random state
        built = build(config)
        if breaks:
            built.trainer.load_state_dict(load_checkpoint(path, config.hash()))
        before = (built.trainer.epoch, built.trainer.step)
        rows += fit(built, stop_after=steps)
        save_checkpoint(path, built.trainer.state_dict())
        if (built.trainer.epoch, built.trainer.step) == before:
            return rows, built, breaks
        breaks += 1


def assert_same(ours: Experiment, theirs: Experiment) -> None:
    for name, value in theirs.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], value), name
    assert ours.trainer.best.epoch == theirs.trainer.best.epoch
    for name, value in theirs.trainer.best.weights.items():
        assert torch.equal(ours.trainer.best.weights[name], value), name
    for mine, other in zip(ours.trainer.stepper.own, theirs.trainer.stepper.own, strict=True):
        assert torch.equal(mine, other)


AUGMENTED = {"augment": ["flip", "crop(padding=2)"], "dropout": 0.2, "ema": 0.9}


@pytest.mark.parametrize(
    "options",
    [
        {"regularizer": ["jumpstart(tie_breaking=random)=0.1"], **AUGMENTED},
        {"mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1, "regularizer": [], **AUGMENTED},
        {"regularizer": ["l0(noise=sample)=0.1", "l1(prox=true)=0.01"], "accumulate": 2, **AUGMENTED},
        {"optimizer": "sgd", "momentum": 0.9, "lr_update": "epoch", "amp": "bf16", "log_every": 2, "drop_last": True},
    ],
    ids=str,
)
def test_a_run_broken_off_after_every_step_is_the_uninterrupted_run(options: dict[str, Any], tmp_path: Path) -> None:
    config = images(**options)
    whole = build(config)
    rows = fit(whole)
    assert whole.trainer.steps == 2 + (not config.drop_last)
    pieces, last, breaks = in_pieces(config, tmp_path / "last.pt", steps=1)
    # An end of an epoch is asked about twice: after its last step, and when its row is written.
    assert breaks >= whole.trainer.steps * config.epochs
    assert pieces == rows
    assert_same(last, whole)


def test_a_regression_broken_off_within_an_epoch_has_the_same_metrics(tmp_path: Path) -> None:
    """With --drop-last R2 is that of the rows trained on, of which some came before the break."""
    config = RectangularConfig(dataset="diabetes", depth=2, epochs=2, batch_size=100, drop_last=True, lambda_=0.1)
    whole = build(config)
    assert len(whole.data.train) % 100 and whole.trainer.steps == 2
    rows = fit(whole)
    pieces, last, _ = in_pieces(config, tmp_path / "last.pt", steps=1)
    assert pieces == rows
    assert_same(last, whole)


def test_a_run_killed_within_an_epoch_resumes_to_the_same_metrics(tmp_path: Path) -> None:
    options = ["--dataset", "fake", "--image-size", "8", "--n-samples", "400", "--depth", "20", "--epochs", "2"]
    options += ["--width-multiplier", "0.5", "--batch-size", "16", "--augment", "flip", "--dropout", "0.1"]
    options += ["--lambda", "0.01", "--wandb", "disabled", "--no-plots"]

    def arguments(parent: Path) -> list[str]:
        return ["resnet", *options, "--run-dir", str(parent)]

    command = [sys.executable, "-m", "regx", *arguments(tmp_path / "broken"), "--checkpoint-every", "0.0001"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    broken = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    deadline, step = time.monotonic() + 120, 0
    while step < 3:  # of eighteen
        assert broken.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        files = list((tmp_path / "broken").glob("*/checkpoints/last.pt"))
        step = load_checkpoint(files[0])["step"] if files else 0
        time.sleep(0.005)
    broken.kill()
    broken.communicate()
    assert broken.returncode == -signal.SIGKILL
    (folder,) = (tmp_path / "broken").iterdir()
    assert not (folder / "result.json").exists()
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["step"] >= 3
    for arguments_ in (["resume", str(folder)], arguments(tmp_path / "whole")):
        with pytest.raises(SystemExit) as done:
            main(arguments_)
        assert done.value.code == 0
    for name in ("metrics.csv", "status.npz"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / folder.name / name).read_bytes(), name
