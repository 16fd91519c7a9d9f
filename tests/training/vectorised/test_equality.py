"""How far the engines stay together: the deep and narrow network that they are made for, step by step."""

from typing import Any

import pytest
import torch

from regx.training import build
from regx.training.experiments import from_dict
from regx.training.vectorised import native
from regx.training.vectorised.group import Group
from tests.training.vectorised.test_group import alone, together

DEEP: dict[str, Any] = {"experiment": "rectangular", "dataset": "moons", "depth": 50, "width": 4, "stop_at": None}
NUMBERS: list[dict[str, Any]] = [{"seed": 0, "lambda": 0.01}, {"seed": 1, "lambda": 0.1, "lr": 0.01}]


def test_a_hundred_steps_in_double_precision() -> None:
    """34 epochs of 3 steps; unit and point status counts are the same in every one."""
    configs = [from_dict(DEEP | numbers | {"epochs": 34}) for numbers in NUMBERS]
    experiments, tables = together(configs)
    for config, mine, rows in zip(configs, experiments, tables, strict=True):
        other, expected = alone(config)
        for row, wanted in zip(rows, expected, strict=True):
            assert row["train/loss"] == pytest.approx(wanted["train/loss"], abs=1e-7)  # alone it is told in float32
            assert row["train/JR_loss"] == pytest.approx(wanted["train/JR_loss"], rel=2e-7)
            assert {k: v for k, v in row.items() if "_ratio" in k} == {k: v for k, v in wanted.items() if "_ratio" in k}
        weights = other.model.state_dict()
        for name, value in mine.model.state_dict().items():
            torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-9, msg=name)
        train, objective = other.data.train, other.trainer.objective
        losses = [objective.loss(model(train.x), train.y) for model in (mine.model, other.model)]
        torch.testing.assert_close(*losses, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "engine",
    [
        "vectorised",
        pytest.param("native", marks=pytest.mark.skipif(native.obstacle() is not None, reason="no C++ compiler")),
    ],
)
def test_ten_steps_in_single_precision(engine: str) -> None:
    """Full batches, so that an epoch is a step; the losses of each are compared."""
    configs = [from_dict(DEEP | numbers | {"epochs": 10, "batch_size": "full"}) for numbers in NUMBERS]
    group = Group([build.build(config) for config in configs], engine)
    losses = []
    for _ in range(10):
        sums = group.train_epoch(record=True)
        assert sums is not None
        losses.append(group.measured("train", sums).losses)
    for run, config in enumerate(configs):
        rows: list[dict[str, float]] = []
        build.build(config).trainer.fit(rows.append, lambda: None, lambda: False)
        for step, row in enumerate(rows):
            assert float(losses[step][run, 0]) == pytest.approx(row["train/loss"], abs=1e-5)
            assert float(losses[step][run, 1]) == pytest.approx(row["train/JR_loss"], abs=1e-5)
