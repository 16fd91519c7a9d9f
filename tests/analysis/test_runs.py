"""Runs are read as they were written, and damage is named."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from regx.analysis.configurations import configurations
from regx.analysis.runs import from_wandb, read, technique, varying
from regx.analysis.table import TableSpec
from regx.errors import RunFailed, UserError
from regx.training.experiment import run
from regx.training.experiments import RectangularConfig
from tests.analysis.runs_by_hand import run as by_hand
from tests.training.silent import Silent


def trial(folder: Path, parameters: dict[str, Any], label: str | None = None, seed: int = 0, **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"sweep": "small", "label": label, "parameters": parameters, "seed": seed} | more
    (folder / "trial.json").write_text(json.dumps(content))


def test_reads_what_a_run_has_written(tmp_path: Path) -> None:
    config = RectangularConfig(
        dataset="iris", depth=2, epochs=2, seed=3, plots=False, wandb="disabled", run_dir=str(tmp_path)
    )
    result = run(config, Silent(), argv=[])
    trial(tmp_path / config.run_name(), {"depth": 2, "technique.lambda": 0.0}, label="Baseline", seed=3)
    (tmp_path / "other").mkdir()
    (found,) = read(tmp_path)
    assert (found.name, found.status, found.label, found.seed) == (config.run_name(), "finished", "Baseline", 3)
    assert found.config == result["config"] and found.monitor == "val/acc" and found.ended == "epochs"
    assert found.best == result["best"] | result["test"] and found.last == result["last"]
    assert found.value("monitored") == result["best"]["val/acc"]
    assert found.value("tested") == result["test"]["test/acc"]
    assert found.setting("lambda") == 0.0 and found.setting("width") == 4 and found.setting("nothing") is None


def test_runs_that_have_not_finished(tmp_path: Path) -> None:
    trial(tmp_path / "a", {"depth": 1})
    trial(tmp_path / "b", {"depth": 2}, seed=1)
    (tmp_path / "b" / "config.yaml").write_text("dataset: iris\nwidth: 8\n")
    trial(tmp_path / "c", {"depth": 3})
    failed = {"status": "failed", "config": {}, "best": {"val/r2": None}, "last": {}, "monitor": "val/r2"}
    (tmp_path / "c" / "result.json").write_text(json.dumps(failed | {"error": "loss is NaN"}))
    first, second, third = read(tmp_path)
    assert (first.status, first.best, first.config) == ("unfinished", {}, {})
    assert second.setting("width") == 8 and second.seed == 1
    assert (third.status, third.value("monitored"), third.ended) == ("failed", None, None)
    assert math.isnan(third.best["val/r2"])


def test_a_run_that_is_starting_has_the_options_of_its_trial(tmp_path: Path) -> None:
    options = {"dataset": "iris", "depth": 2, "seed": 5}
    trial(tmp_path / "a", {"depth": 2}, seed=5, options=options)
    trial(tmp_path / "b", {"depth": 2}, seed=5, options=options, experiment="rectangular")
    trial(tmp_path / "c", {"depth": 2}, seed=5, options=options | {"gone": 1}, experiment="rectangular")
    trial(tmp_path / "d", {"depth": 2}, options=options)
    (tmp_path / "d" / "config.yaml").write_text("dataset: wine\n")
    bare, whole, foreign, begun = read(tmp_path)
    assert bare.config == options and bare.setting("dataset") == "iris"
    assert whole.config == RectangularConfig(**options).as_dict()
    assert foreign.config["dataset"] == "iris" and begun.config == {"dataset": "wine"}


@pytest.mark.parametrize("name", ["trial.json", "result.json", "config.yaml"])
@pytest.mark.parametrize("content", ["{", "[1]", "\udcff"])
def test_corrupt_files_are_named(tmp_path: Path, name: str, content: str) -> None:
    trial(tmp_path / "a", {"depth": 1})
    (tmp_path / "a" / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RunFailed, match=name.replace(".", r"\.")):
        read(tmp_path)


def test_foreign_content_is_said_to_be_so(tmp_path: Path) -> None:
    trial(tmp_path / "a", {"depth": 1})
    (tmp_path / "a" / "result.json").write_text('{"status": "finished", "best": {"val/acc": "high"}}')
    with pytest.raises(RunFailed, match="holds something else than regx writes"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"there is no folder .*small; did you mean 'smaller'"):
        (tmp_path / "smaller").mkdir()
        read(tmp_path / "small")


def test_from_wandb() -> None:
    history = [
        {"epoch": 1, "val/acc": 0.5, "val/loss": 0.2},
        {"epoch": 2, "val/acc": 0.7, "val/loss": 0.4, "best/confusion": {"_type": "image-file", "path": "x"}},
        {"epoch": 3, "val/acc": 0.7, "val/loss": "NaN"},
        {"epoch": 4, "val/acc": "NaN"},
    ]
    row = {
        "name": "first",
        "state": "finished",
        "config": {"dataset": "iris", "seed": 7, "run_dir": "here", "technique": {"label": "alive", "lambda": 0.1}},
        "history": history,
        "summary": {"test/acc": {"max": 0.6}, "val/acc": {"max": 0.7}},
    }
    crashed = row | {"state": "crashed", "history": [], "summary": {}}
    finished, failed, running = from_wandb([row, crashed, crashed | {"state": "running"}])
    assert finished.best == {"epoch": 2, "val/acc": 0.7, "val/loss": 0.4, "test/acc": 0.6}, "the first of the best"
    assert finished.last["epoch"] == 4 and finished.seed == 7
    assert finished.parameters == {"dataset": "iris", "technique.lambda": 0.1}
    assert finished.label == "alive"
    assert (failed.status, failed.best, running.status) == ("failed", {}, "unfinished")
    regression = row | {"history": [{"epoch": 1, "val/r2": -1.0}, {"epoch": 2, "val/r2": 0.5}]}
    (found,) = from_wandb([regression])
    assert (found.monitor, found.value("monitored")) == ("val/r2", 0.5)
    # A penalty that has its full strength from epoch 3 on: only from there an epoch can be the best.
    settled, fallback = from_wandb([row | {"summary": {"best/epoch": epoch}} for epoch in (3, 9)])
    assert settled.best["epoch"] == 3 and math.isnan(settled.best["val/loss"])
    assert fallback.best["epoch"] == 2, "a row that was not stored"


def test_from_wandb_with_infinite_numbers() -> None:
    entries = [{"epoch": 1, "val/r2": "-Infinity", "val/loss": "Infinity"}, {"epoch": 2, "val/r2": -3.0, "val/loss": 2}]
    row = {"state": "finished", "summary": {}}
    rows = [
        row | {"name": f"{shift}-{seed}", "config": {"dataset": "iris", "seed": seed, "lr": shift},
               "history": [*entries[:1], {"epoch": 2, "val/r2": shift + seed, "val/loss": "Infinity"}]}
        for shift in (0.0, 0.5)
        for seed in range(2)
    ]  # fmt: skip
    rows.append(rows[0] | {"name": "inf", "history": [{"epoch": 1, "val/r2": math.inf}]})
    found = from_wandb(rows)
    assert [run.value("monitored") for run in found] == [0.0, 1.0, 0.5, 1.5, None]
    table = configurations(found, TableSpec(metrics=["val/r2", "val/loss"]))
    assert [row[1] for row in table.rows] == [2, 2] and [row[-1] for row in table.rows] == [None, None]


def test_from_wandb_of_runs_that_a_condition_has_skipped() -> None:
    row = {"name": "a", "state": "finished", "config": {"dataset": "iris", "lr": 0.1}, "summary": {}}
    history = [{"epoch": 1, "val/acc": 0.5}]
    skipped = row | {"config": {"lr": 0.2, "depth": 9}, "history": []}
    found = from_wandb([row | {"history": history}, skipped])
    assert [run.status for run in found] == ["finished", "skipped by a condition"]
    assert varying(found) == []
    notes = configurations(found).notes
    assert "not in the numbers: 1 of 2 runs (1 skipped by a condition)" in notes and "NaN" not in " ".join(notes)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"lambda": 0.0, "regularizer": ["jumpstart"], "activation": "relu"}, "Baseline"),
        ({"lambda": 0.1, "regularizer": ["jumpstart"]}, "Jumpstart"),
        ({"lambda": 0.0, "regularizer": ["jumpstart=0.1", "l1(include=a=b)=0"], "batchnorm": True},
         "Jumpstart + BatchNorm"),
        ({"skip_connections": 2}, "Skip connections"),
        ({"lambda": 0.1, "regularizer": ["group_lasso(groups=blocks(2,4))"], "activation": "gelu"},
         "group_lasso + GELU"),
        ({"lambda": 0.5, "regularizer": ["prune(schedule=agp)", "l0=0"]}, "prune"),
        ({"regularizer": ["prune(schedule=agp,other_end=0.3)=0", "threshold=1e-3", "l0"]}, "prune + threshold"),
        ({"regularizer": ["l0"], "lambda": 0.0}, "Baseline"),
        ({"regularizer": ["of_another_version=1"]}, "of_another_version=1"),
    ],
)  # fmt: skip
def test_technique_of_a_configuration(config: dict[str, Any], name: str) -> None:
    assert technique(config) == name


@pytest.mark.parametrize("name", ["l0", "prune", "threshold"])
def test_gates_and_masks_without_a_strength_are_the_baseline(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataset": "iris", "depth": 2, "epochs": 2, "plots": False, "wandb": "disabled"}
    configs = [
        RectangularConfig(**options, run_dir=str(tmp_path), regularizer=found, log_sparsity="no")
        for found in ([], [name])
    ]
    plain, idle = (run(config, Silent(), argv=[])["last"] for config in configs)
    assert {technique(config.as_dict()) for config in configs} == {"Baseline"}
    assert {key: idle[key] for key in ("train/loss", "val/loss")} == {
        key: plain[key] for key in ("train/loss", "val/loss")
    }


def test_what_varies() -> None:
    runs = [by_hand(0.5, depth=1, lr=0.1, items=[1]), by_hand(0.5, depth=1.0, lr=0.2, items=[1])]
    assert varying(runs) == ["lr"], "1 and 1.0 are the same depth"
    assert varying([by_hand(0.5, label="A"), by_hand(0.5, label="B", batchnorm=True)]) == ["label", "batchnorm"]
