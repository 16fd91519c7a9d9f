"""The contract of the vectorised trainer: R runs together are the same R runs alone, whatever their options."""

import math
from typing import Any

import pytest
import torch

from regx.regularizers import REGISTRY as REGULARIZERS
from regx.training import build
from regx.training.build import Experiment
from regx.training.experiments import from_dict
from regx.training.vectorised import grouping
from regx.training.vectorised.group import Group
from regx.training.vectorised.runs import _close_epoch
from tests.training.vectorised.double import built

SMALL: dict[str, Any] = {
    "experiment": "rectangular",
    "dataset": "moons",
    "n_samples": 60,
    "noise": 0.2,
    "depth": 4,
    "width": 3,
    "batch_size": 15,  # of 36 rows: the last batch is smaller
    "epochs": 4,
    "lambda": 0.05,
    "stop_at": None,
}
# What makes the runs of a program differ; every case is trained with all of these.
NUMBERS: list[dict[str, Any]] = [
    {"seed": 0, "lr": 0.01},
    {"seed": 1, "lr": 0.003, "lambda": 0.3},
    {"seed": 2, "lr": 0.02, "lambda": 0.0, "lr_schedule": "cosine"},
]
L1 = {"regularizer": ["jumpstart", "l1=1e-3"]}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no status": {"log_status": False, "lambda": 0.05},
    "no status, no strength": {"log_status": False, "lambda": 0.0},
    "gelu": {"activation": "gelu"},
    "leaky_relu": {"activation": "leaky_relu"},
    "elu": {"activation": "elu"},
    "selu": {"activation": "selu"},
    "silu": {"activation": "silu"},
    "tanh": {"activation": "tanh"},
    "sigmoid": {"activation": "sigmoid"},
    "mish": {"activation": "mish"},
    "identity": {"activation": "identity", "hook_at": "layer"},
    "batchnorm": {"batchnorm": True},
    "skip 1": {"skip_connections": 1},
    "skip 2": {"skip_connections": 2},
    "skip 3, batchnorm": {"skip_connections": 3, "batchnorm": True},
    "dropout": {"dropout": 0.2},
    "dropout, batchnorm, skip": {"dropout": 0.3, "batchnorm": True, "skip_connections": 1},
    "kaiming": {"init": "kaiming"},
    "zero": {"init": "zero", "sign_balance": 0.51},
    "wide": {"width": 40, "depth": 2},
    "one layer": {"depth": 1},
    **{f"mode {m}": {"mode": m} for m in ("unit", "point", "unit_positive", "point_positive", "positive")},
    **{f"mode all_but_{m}": {"mode": f"all_but_{m}"} for m in ("unit_positive", "unit_negative")},
    **{f"mode all_but_{m}": {"mode": f"all_but_{m}"} for m in ("point_positive", "point_negative")},
    "aggr mean": {"aggr": "mean"},
    "aggr sum": {"aggr": "sum"},
    "aggr norm": {"aggr": "norm"},
    "ties shared": {"tie_breaking": "average", "depth": 8, "width": 2},
    "margins": {"positive_margin": 0.5, "negative_margin": -0.25, "sign_balance": 0.7},
    "hooks at layers": {"hook_at": "layer"},
    "hooks at layers and the head": {"hook_at": "layer", "skip_last": False, "batchnorm": True},
    "clipped": {"lambda_clip": 0.4},
    "schedule of lambda": {"lambda_schedule": "linear", "lambda_other_end": 0.5, "lambda_warmup": 2},
    "no task loss": {"task_loss": False, "lambda": 0.1},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "adam with decay of all": {"weight_decay": 0.1, "decay_norms": True, "batchnorm": True},
    "sgd": {"optimizer": "sgd"},
    "momentum": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
    "nesterov": {"optimizer": "sgd", "momentum": 0.8, "nesterov": True},
    "gradient clipping": {"grad_clip": 0.01},
    "moving average": {"ema": 0.9, "batchnorm": True},
    "moving average, penalised": L1 | {"ema": 0.9},
    "label smoothing": {"label_smoothing": 0.1},
    "full batch": {"batch_size": "full"},
    "drop last": {"drop_last": True},
    "rate of every step": {"lr_update": "step", "lr_warmup": 1},
    "plateau": {"lr_schedule": "plateau", "lr_patience": 0},
    "sparse log": {"log_every": 3},
    "several classes": {"dataset": "spirals", "label_smoothing": 0.2},
    "a table": {"dataset": "iris", "n_samples": None, "noise": None, "batch_size": 40},
    "a regression": {"dataset": "diabetes", "n_samples": None, "noise": None, "batch_size": 100},
    "the paper's split": {"protocol": "paper"},
    "l1": L1,
    "l1 by proximal steps": L1 | {"optimize": "prox"},
    "l1 by proximal steps, sgd": L1 | {"optimize": "prox", "optimizer": "sgd", "momentum": 0.5},
    "l2": {"regularizer": ["l2=1e-2"], "lambda": 0.0},
    "elastic net": {"regularizer": ["elastic_net(l1_ratio=0.3, biases=true)=1e-2"], "lambda": 0.0},
    "l0 approximation": {"regularizer": ["l0_approx=1e-4"], "lambda": 0.0},
    "group lasso": {"regularizer": ["jumpstart", "group_lasso(groups=units)=1e-2"]},
    "group lasso by proximal steps": {"regularizer": ["group_lasso(groups=units, prox=true)=1e-2"], "lambda": 0.0},
    "sparse group lasso": {"regularizer": ["sparse_group_lasso(prox=true)=1e-2"], "lambda": 0.0},
    "group variance": {"regularizer": ["group_variance=1e-5"], "lambda": 0.0},
    "hierarchical": {"regularizer": ["hierarchical=1e-3"], "lambda": 0.0},
    "orthogonal": {"regularizer": ["orthogonal=1e-3"], "lambda": 0.0},
    "orthogonal, cosine": {"regularizer": ["orthogonal(form=cosine)=1e-2"], "lambda": 0.0},
    "clipped penalty of weights": {"regularizer": ["l2(clip=5)=1e-2"], "lambda": 0.0},
    "prune": {"regularizer": ["prune=0.3"], "lambda": 0.0},
    "threshold": {"regularizer": ["threshold=0.1"], "lambda": 0.0},
    "target sparsity": {"regularizer": ["l1(prox=true, target_sparsity=0.5)=1e-3"], "lambda": 0.0},
}


def configured(case: dict[str, Any]) -> list[Any]:
    """The configurations of a case, one per run; None in a case removes an option."""
    made = []
    for numbers in NUMBERS:
        own = dict(numbers)
        if case.get("lambda") is not None or case.get("lambda_clip"):
            own.pop("lambda", None)
        if "lr_schedule" in case or case.get("optimizer") == "sgd":
            own.pop("lr_schedule", None)
        values = {key: value for key, value in (SMALL | own | case).items() if value is not None or key == "stop_at"}
        made.append(from_dict(values))
    return made


def alone(config: Any) -> tuple[Experiment, list[dict[str, float]]]:
    """A run by the trainer of single runs, and its rows."""
    experiment, _ = built(config)
    rows: list[dict[str, float]] = []
    experiment.trainer.fit(rows.append, lambda: None, lambda: False)
    return experiment, rows


class Rows:
    """Stands in for a session."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def row(self, row: dict[str, float]) -> None:
        """Takes a row."""
        self.rows.append(row)


def together(configs: list[Any]) -> tuple[list[Experiment], list[list[dict[str, float]]]]:
    """The same runs as one program."""
    found = [built(config) for config in configs]
    group = Group([experiment for experiment, _ in found], states=[state for _, state in found])
    sessions = {number: Rows() for number in range(len(configs))}
    for _ in range(configs[0].epochs):
        sums = group.train_epoch()
        assert sums is not None
        assert not _close_epoch(group, sums, sessions)  # type: ignore[arg-type]
    group.dismiss(list(sessions))
    return [experiment for experiment, _ in found], [session.rows for session in sessions.values()]


def test_without_status_runs_without_a_penalty_are_programs_of_their_own() -> None:
    """They have no hooks then, not even to measure."""

    def likeness(**options: Any) -> str:
        return grouping.likeness(from_dict(SMALL | options))

    assert likeness(**{"lambda": 0.0}) == likeness()
    assert likeness(**{"lambda": 0.0}, log_status=False) != likeness(log_status=False)
    assert likeness(**{"lambda": 0.0}, lambda_other_end=0.1, lambda_schedule="cosine", log_status=False) == likeness(
        log_status=False
    )


@pytest.mark.parametrize("name", sorted(set(REGULARIZERS.rows) - {"jumpstart"}))
def test_regularizers_of_the_forward_pass_are_refused(name: str) -> None:
    config = from_dict(SMALL | {"regularizer": [f"{name}=0.1"], "lambda": 0.0})
    penalties = build.build(config).trainer.penalties
    acts = any(penalty.of_forward or list(penalty.regularizer.parameters()) for penalty in penalties)
    assert grouping.obstacle(config) == (f"regularizer {name}" if acts else None)


def test_hooks_at_normalisations_are_refused_wherever_they_are_asked_for() -> None:
    options = {"hook_at": "layer", "batchnorm": True, "lambda": 0.0}
    for more in (
        {"skip_batchnorm": False},
        {"regularizer": ["jumpstart(skip_batchnorm=false)=0.1"]},
        {"regularizer": ["jumpstart(skip_batchnorm=true)=0.1"], "skip_batchnorm": False},
    ):
        found = grouping.obstacle(from_dict(SMALL | options | more))
        assert found == "--hook-at layer with --no-skip-batchnorm"
    assert grouping.obstacle(from_dict(SMALL | options)) is None


@pytest.mark.parametrize("name", CASES)
def test_runs_together_are_the_runs_alone(name: str) -> None:
    configs = configured(CASES[name])
    assert all(grouping.obstacle(config) is None for config in configs)
    assert len({grouping.likeness(config) for config in configs}) == 1
    experiments, tables = together(configs)
    for config, mine, rows in zip(configs, experiments, tables, strict=True):
        other, expected = alone(config)
        assert len(rows) == len(expected)
        for row, wanted in zip(rows, expected, strict=True):
            assert list(row) == list(wanted)
            for key, value in wanted.items():
                # Where trained alone, means are taken in single precision.
                assert row[key] == pytest.approx(value, rel=2e-6, abs=1e-6, nan_ok=True), key
                if key.endswith("_ratio") or key.endswith("acc"):
                    assert row[key] == pytest.approx(value, abs=1e-7), key
        weights = mine.model.state_dict()
        for key, value in other.model.state_dict().items():
            torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-10, msg=key)
        best, wanted_best = mine.trainer.best, other.trainer.best
        assert best.epoch == wanted_best.epoch
        for key, value in wanted_best.weights.items():
            torch.testing.assert_close(best.weights[key], value, rtol=0, atol=1e-10, msg=key)
        assert math.isfinite(rows[-1]["val/loss"])
