"""Learning rates follow their closed forms, and go on where they were after a resume."""

import math
from typing import Any

import pytest
import torch

from regx.errors import UserError
from regx.training.experiments import RectangularConfig
from regx.training.schedules import Schedule

EPOCHS = 24
LR = 0.1


def rates(config: RectangularConfig, metrics: list[float] | None = None) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], config.lr)
    schedule = Schedule(optimizer, config)
    found = []
    for epoch in range(EPOCHS):
        found.append(schedule.lr)
        optimizer.step()
        schedule.advance(metrics[epoch] if metrics else None)
    return found


def config(**options: Any) -> RectangularConfig:
    return RectangularConfig(lr=LR, epochs=EPOCHS, **options)


def cosine(epoch: float, length: float, low: float = 0.0) -> float:
    return low + (LR - low) * (1 + math.cos(math.pi * epoch / length)) / 2


@pytest.mark.parametrize(
    ("options", "closed_form"),
    [
        ({}, lambda e: LR),
        ({"lr_schedule": "step", "lr_cycle_length": 5, "lr_gamma": 0.5}, lambda e: LR * 0.5 ** (e // 5)),
        ({"lr_schedule": "multistep", "lr_milestones": "10,4"}, lambda e: LR * 0.1 ** ((e >= 4) + (e >= 10))),
        ({"lr_schedule": "exponential", "lr_gamma": 0.9}, lambda e: LR * 0.9**e),
        ({"lr_schedule": "cosine", "lr_min": 0.01}, lambda e: cosine(e, EPOCHS, 0.01)),
        ({"lr_schedule": "cosine", "lr_cycle_length": 6}, lambda e: cosine(e, 6)),
        ({"lr_schedule": "restarts", "lr_cycle_length": 8, "lr_min": 1e-5}, lambda e: cosine(e % 8, 8, 1e-5)),
        (
            {"lr_schedule": "cyclic", "lr_cycle_length": 4, "lr_cycle_mode": "triangular"},
            lambda e: LR * (1 - abs((e / 4) % 2 - 1)),
        ),
        ({"lr_warmup": 4}, lambda e: LR * (1e-5 + (1 - 1e-5) * min(e, 4) / 4)),
        (
            {"lr_warmup": 4, "lr_schedule": "multistep", "lr_milestones": "8"},
            lambda e: LR * (1e-5 + (1 - 1e-5) * min(e, 4) / 4) * 0.1 ** (e >= 8),
        ),
        (
            {"lr_warmup": 4, "lr_schedule": "restarts", "lr_cycle_length": 8},
            lambda e: cosine(e % 8, 8) * (1e-5 + (1 - 1e-5) * min(e, 4) / 4),
        ),
    ],
)
def test_closed_form(options: dict[str, Any], closed_form: Any) -> None:
    assert rates(config(**options)) == pytest.approx([closed_form(e) for e in range(EPOCHS)], abs=1e-9)


def test_restarts_lengthen() -> None:
    found = rates(config(lr_schedule="restarts", lr_cycle_length=4, lr_cycle_mult=2))
    assert [epoch for epoch, lr in enumerate(found) if lr == pytest.approx(LR)] == [0, 4, 12]


def test_plateau_acts_after_patience() -> None:
    found = rates(config(lr_schedule="plateau", lr_patience=3, lr_gamma=0.5), metrics=[0.5] * EPOCHS)
    assert found[:5] == [LR] * 5
    assert found[5] == pytest.approx(LR / 2)


@pytest.mark.parametrize("name", ["step", "multistep", "cosine", "restarts", "cyclic", "exponential", "plateau"])
def test_resumes_where_it_was(name: str) -> None:
    options: dict[str, Any] = {"lr_schedule": name}
    if name in ("step", "cosine", "restarts", "cyclic"):
        options["lr_cycle_length"] = 5
    if name == "multistep":
        options["lr_milestones"] = "4,12"
    options["lr_warmup"] = 3
    metrics = [0.5] * EPOCHS
    whole = rates(config(**options), metrics)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], LR)
    schedule = Schedule(optimizer, config(**options))
    for _ in range(9):
        optimizer.step()
        schedule.advance(0.5)
    saved = (optimizer.state_dict(), schedule.state_dict())
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], LR)
    schedule = Schedule(optimizer, config(**options))
    optimizer.load_state_dict(saved[0])
    schedule.load_state_dict(saved[1])
    rest = []
    for _ in range(9, EPOCHS):
        rest.append(schedule.lr)
        optimizer.step()
        schedule.advance(0.5)
    assert rest == pytest.approx(whole[9:], abs=1e-12)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lr_schedule": "cosine", "lr_gamma": 0.5}, "lr_gamma"),
        ({"lr_cycle_length": 5}, "lr_cycle_length"),
        ({"lr_min": 1e-5}, "lr_min"),
        ({"lr_schedule": "step", "lr_patience": 3}, "lr_patience"),
    ],
)
def test_options_that_a_schedule_has_no_use_for_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match="is for --lr-schedule") as error:
        config(**options)
    assert error.value.option == named
