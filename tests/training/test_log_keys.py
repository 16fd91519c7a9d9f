"""What a run is said to log is what it logs; and a run that somebody ends from outside."""

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from regx.training import experiments, log_keys
from regx.training.experiment import run
from tests.training.silent import Silent


@pytest.mark.parametrize(
    "options",
    [
        {"dataset": "iris", "lambda": 0.01},
        {"dataset": "iris", "regularizer": []},
        {"dataset": "diabetes", "log_status": False},
        {
            "dataset": "digits_image",
            "regularizer": ["l1=1e-3", "l1=1e-4", "jumpstart=0.1"],
            "log_blocks": "blocks(2,1)",
        },
        {"dataset": "digits_image", "regularizer": ["l0=1"], "batchnorm": True},
        {"dataset": "iris", "regularizer": ["prune(schedule=agp, end=1)=0.5"], "log_sparsity": "yes"},
    ],
)
def test_every_logged_number_is_known_beforehand(options: dict[str, Any], tmp_path: Path) -> None:
    more = {"epochs": 1, "depth": 2, "wandb": "disabled", "plots": False, "run_dir": str(tmp_path)}
    config = experiments.from_dict(options | more, "rectangular")
    result = run(config, Silent(), argv=[])
    logged = set(pandas.read_csv(Path(result["run_dir"]) / "metrics.csv").columns)
    known = set(log_keys.logged(config))
    assert logged <= known, logged - known
    # What is known but not logged can only be units that this network does not have, and numbers of other tasks.
    assert all(key.startswith("sparsity/") or key.endswith("/top5_acc") for key in known - logged), known - logged


@pytest.mark.parametrize(
    ("key", "rises"),
    [
        *[(f"val/{key}", True) for key in ("acc", "r2", "jr/unit_nonlinear_ratio", "jr/point_efficiency")],
        *[(f"val/{key}", False) for key in ("loss", "rmse", "jr/unit_dead_ratio", "jr/linearity_ratio")],
    ],
)
def test_of_which_numbers_more_is_better(key: str, rises: bool) -> None:
    assert log_keys.rises(key) is rises


def test_a_run_that_is_ended_from_outside_has_finished_and_says_why(tmp_path: Path) -> None:
    config = experiments.from_dict(
        {"dataset": "iris", "depth": 1, "epochs": 9, "wandb": "disabled", "plots": False, "run_dir": str(tmp_path)},
        "rectangular",
    )
    rows: list[float] = []

    def end(row: dict[str, float]) -> str | None:
        rows.append(row["epoch"])
        return "enough" if row["epoch"] == 3 else None

    result = run(config, Silent(), argv=[], end=end)
    assert rows == [1, 2, 3] and (result["status"], result["ended"], result["epochs"]) == ("finished", "enough", 3)
    assert json.loads((Path(result["run_dir"]) / "result.json").read_text())["ended"] == "enough"
    assert "test/acc" in result["test"]
