"""speed.csv: what it holds, and that measuring it leaves no trace in the run."""

import copy
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

from regx.training import experiment
from regx.training.build import Experiment, build
from regx.training.experiments import ResNetConfig
from tests.training.silent import Silent

KEYS = [
    "epoch",
    "speed/samples_per_second",
    "speed/train_seconds",
    "speed/val_seconds",
    "speed/peak_memory_mb",
]


def config(**options: Any) -> ResNetConfig:
    small: dict[str, Any] = {"depth": 20, "width_multiplier": 0.5, "image_size": 8, "n_samples": 100, "epochs": 2}
    return ResNetConfig(dataset="fake", batch_size=16, wandb="disabled", plots=False, **small | options)


# Everything that holds a state: running statistics, dropout, ties drawn at random, gates drawn at random, an average.
RANDOM: dict[str, Any] = {
    "regularizer": ["jumpstart(tie_breaking=random)=0.1", "l0(include=layer1*)=0.1", "l1=0.001"],
    "dropout": 0.3,
    "ema": 0.9,
}


@pytest.mark.parametrize("options", [RANDOM, {"amp": "bf16", "accumulate": 2, "lambda_": 0.1}], ids=str)
def test_a_measured_run_is_the_run(tmp_path: Path, options: dict[str, Any]) -> None:
    folders = []
    for on in (True, False):
        result = experiment.run(config(log_speed=on, run_dir=str(tmp_path / str(on)), **options), Silent(), argv=[])
        folders.append(Path(result["run_dir"]))
    measured, plain = folders
    assert (measured / "metrics.csv").read_bytes() == (plain / "metrics.csv").read_bytes()
    assert not (plain / "speed.csv").exists()
    speed = pandas.read_csv(measured / "speed.csv")
    assert list(speed) == [*KEYS, "speed/regularizer_share"]
    assert speed["epoch"].tolist() == [1, 2]
    assert all(value > 0 for key in KEYS for value in speed[key].tolist())
    shares = speed["speed/regularizer_share"].tolist()
    assert shares[0] == shares[1] < 1, "it is measured once"


def state(built: Experiment) -> dict[str, Any]:
    trainer = built.trainer
    parameters = [*built.model.parameters(), *trainer.stepper.own]
    return copy.deepcopy(
        {
            "model": built.model.state_dict(),
            "own": [p.detach() for p in trainer.stepper.own],
            "grads": [p.grad for p in parameters],
            "penalties": [penalty.state_dict() for penalty in trainer.penalties],
            "rng": torch.get_rng_state(),
            "optimizer": trainer.stepper.state_dict(),
        }
    )


def assert_equal(ours: Any, theirs: Any, where: str = "") -> None:
    """Nested states are equal, bit for bit."""
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_equal(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, list | tuple):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(*pair, f"{where}/{number}")
    else:
        assert ours == theirs, where


def test_measuring_puts_everything_back() -> None:
    built = build(config(log_speed=True, **RANDOM))
    trainer = built.trainer
    for penalty in trainer.penalties:
        penalty.begin(1)
    batch = next(built.data.train.batches([slice(0, 16)], 1))
    for last in (False, True):
        trainer.stepper.accumulate(batch.x, batch.y, 0.5, first=not last, last=last)
    before = state(built)
    assert all(gradient is not None for gradient in before["grads"])
    trainer.speed.count(batch.x, batch.y, last=False)
    assert "speed/regularizer_share" not in trainer.speed.row(1), "the very first batch is not measured"
    trainer.speed.count(batch.x, batch.y, last=False)
    assert trainer.speed.row(1)["speed/regularizer_share"] < 1
    assert_equal(before, state(built))
    trainer.stepper.update()
    assert not torch.equal(before["model"]["conv1.weight"], built.model.state_dict()["conv1.weight"])


def test_samples_per_second_are_those_of_the_epoch() -> None:
    built = build(config(log_speed=True))
    rows: list[dict[str, float]] = []
    built.trainer.fit(
        lambda row: rows.append(built.trainer.speed.row(built.trainer.epoch)), lambda: None, lambda: False
    )
    for row in rows:
        trained = row["speed/samples_per_second"] * row["speed/train_seconds"]
        assert trained == pytest.approx(len(built.data.train))


@pytest.mark.parametrize("options", [{"regularizer": []}, {"log_speed": False, "lambda_": 0.1}], ids=str)
def test_there_is_no_share_without_penalties_or_when_off(options: dict[str, Any]) -> None:
    built = build(config(**{"log_speed": True, "epochs": 1} | options))
    rows: list[dict[str, float]] = []
    built.trainer.fit(lambda row: rows.append(built.trainer.speed.row(1)), lambda: None, lambda: False)
    assert [list(row) for row in rows] == [KEYS]
