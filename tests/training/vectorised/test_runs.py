"""Run folders of runs that were trained together: the same bytes as of each alone, whatever happens on the way."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regx.errors import RunFailed, UserError
from regx.training import experiment
from regx.training.experiments import from_dict
from regx.training.folder import InUse, RunFolder
from regx.training.vectorised import native, runs
from regx.training.vectorised.runs import Wanted, run_together
from tests.training.silent import Silent

SMALL: dict[str, Any] = {
    "experiment": "rectangular",
    "n_samples": 100,
    "depth": 6,
    "width": 3,
    "batch_size": 25,
    "epochs": 12,
    "lambda": 0.05,
    "stop_at": None,
    "plots": False,
    "wandb": "disabled",
    "checkpoint_every": 1000,
}
# Runs that end in different epochs for different reasons; the last one but one diverges.
RAGGED: list[dict[str, Any]] = [
    {"seed": 0},
    {"seed": 1, "patience": 2, "lr": 0.05},
    {"seed": 2, "epochs": 5, "lambda": 0.0},
    {"seed": 3, "stop_at": 0.5, "lr_schedule": "cosine"},
    {"seed": 4, "optimizer": "sgd", "lr": 1e30, "lambda": 1.0},
    {"seed": 5, "dataset": "circles"},
]
needs_compiler = pytest.mark.skipif(native.obstacle() is not None, reason=str(native.obstacle()))
ENGINES = ["vectorised", pytest.param("native", marks=needs_compiler)]


def wanted(folder: Path, options: dict[str, Any], **more: Any) -> Wanted:
    """A run with these options, in a folder of its own."""
    config = from_dict(SMALL | {"run_dir": str(folder)} | options)
    return Wanted(config, RunFolder(folder / config.run_name()), Silent(), **more)


def trained(items: list[Wanted]) -> list[Any]:
    """The results, or the errors, in the order of the runs."""
    found: dict[int, Any] = {}

    def ended(number: int, outcome: Any) -> None:
        assert number not in found
        found[number] = outcome

    run_together(items, argv=[], ended=ended)
    return [found[number] for number in range(len(items))]


def same(one: RunFolder, other: RunFolder) -> None:
    """Asserts that two folders hold the same."""
    mine, others = content(one), content(other)
    for name, value in others.items():
        if isinstance(value, dict):
            assert mine[name].keys() == value.keys()
            for key in value:
                assert mine[name][key] == value[key], (name, key)
        assert mine[name] == value, name


def content(folder: RunFolder) -> dict[str, Any]:
    """What a run has left behind, without what says when and where."""
    result = folder.read_result() or {}
    result = {key: value for key, value in result.items() if key not in ("seconds", "run_dir", "config")}
    result["error"] = result.get("error", "").partition(" (last good")[0]
    status = dict(np.load(folder.status)) if folder.status.is_file() else {}
    best = torch.load(folder.best, weights_only=True) if folder.best.is_file() else {}
    return {
        "result": result,
        "metrics": folder.metrics.read_text(),
        "coverage": folder.coverage.read_text(),
        "status": {name: array.tolist() for name, array in status.items()},
        "best": _plain(best),
        "last": _plain(torch.load(folder.last, weights_only=True) | {"seconds": 0}),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return "nan" if isinstance(value, float) and math.isnan(value) else value


class Killer(Silent):
    """Raises, as if somebody pulled the plug, when so many steps of all runs are done."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        self.left -= 1
        if self.left <= 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_among_others_is_bitwise_the_run_alone(engine: str, tmp_path: Path) -> None:
    """Ragged ends, other seeds, rates and data, and a run that turns NaN."""
    numbers = [options for options in RAGGED if "optimizer" not in options]
    diverging = [{**options, "optimizer": "sgd"} for options in RAGGED]
    for kind, variants in (("adam", numbers), ("sgd", diverging)):
        options = [{**item, "engine": engine} for item in variants]
        among = [wanted(tmp_path / "among" / kind, item) for item in options]
        results = trained(among)
        alone = [wanted(tmp_path / "alone" / kind, item) for item in options]
        for item in alone:
            trained([item])
        for one, other in zip(among, alone, strict=True):
            same(one.folder, other.folder)
        ends = [result["ended"] for result in results]
        assert len(set(ends)) >= (3 if kind == "adam" else 2)
        assert [result["status"] for result in results].count("failed") == (1 if kind == "sgd" else 0)
    failed = next(result for result in results if result["status"] == "failed")
    assert "is nan" in failed["error"] or "not finite" in failed["error"]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_interrupted_program_goes_on_as_if_it_had_not_been(engine: str, tmp_path: Path) -> None:
    """Stopped after some steps, with checkpoints in the middle of an epoch, then resumed."""
    options = [{"seed": seed, "engine": engine, "checkpoint_every": 1e-9} for seed in range(3)]
    whole = [wanted(tmp_path / "whole", item) for item in options]
    trained(whole)

    for after in (2, 7, 11):
        parts = [wanted(tmp_path / f"parts{after}", item) for item in options]
        killer = Killer(after * 3)
        for item in parts:
            item.observer = killer
        with pytest.raises(KeyboardInterrupt):
            trained(parts)
        assert not any(item.folder.result.is_file() for item in parts)
        again = [wanted(tmp_path / f"parts{after}", item) for item in options]
        results = trained(again)
        assert [result["status"] for result in results] == ["finished"] * 3
        for one, other in zip(again, whole, strict=True):
            same(one.folder, other.folder)
            assert json.loads(one.folder.env.read_text())["resumed"]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_epoch_that_only_some_runs_log_goes_on_from_its_middle(engine: str, tmp_path: Path) -> None:
    """Epoch 4 is the last of one run, which logs it, and one of many of the others, which do not."""
    numbers = ({"epochs": 4}, {"epochs": 6, "seed": 1}, {"epochs": 4, "seed": 2})
    options = [{"log_every": 10, "engine": engine, "checkpoint_every": 1e-9, **item} for item in numbers]
    whole = [wanted(tmp_path / "whole", item) for item in options]
    trained(whole)
    for order in ([0, 1, 2], [1, 0, 2]):
        parts = [wanted(tmp_path / f"parts{order}", options[number]) for number in order]
        # All are in the middle of an epoch only where steps are taken one by one.
        killer = Killer((3 * 3 + 2) * 3 if engine == "vectorised" else 3 * 3 + 2)
        for item in parts:
            item.observer = killer
        with pytest.raises(KeyboardInterrupt):
            trained(parts)
        again = [wanted(tmp_path / f"parts{order}", options[number]) for number in order]
        assert [result["status"] for result in trained(again)] == ["finished"] * 3
        for number, item in zip(order, again, strict=True):
            same(item.folder, whole[number].folder)


def test_runs_that_stopped_in_different_epochs_go_on_together(tmp_path: Path) -> None:
    """One in the middle of an epoch that it logs, one in the middle of an epoch that it does not."""
    options = [{"seed": seed, "log_every": 3, "engine": "vectorised", "checkpoint_every": 1e-9} for seed in range(2)]
    whole = [wanted(tmp_path / "whole", item) for item in options]
    trained(whole)
    parts = [wanted(tmp_path / "parts", item) for item in options]
    for item, epochs in zip(parts, (2, 3), strict=True):
        item.observer = Killer(epochs * 3 + 2)
        with pytest.raises(KeyboardInterrupt):
            trained([item])
        item.observer = Silent()
    trained(parts)
    for one, other in zip(parts, whole, strict=True):
        same(one.folder, other.folder)


def test_what_a_diverged_run_says_is_what_it_says_alone(tmp_path: Path) -> None:
    """Whenever checkpoints are made: its last one is that of the epoch before."""
    found = []
    for engine in ("single", "vectorised"):
        options = {"seed": 4, "optimizer": "sgd", "lr": 1e30, "lambda": 1.0, "checkpoint_every": 0, "engine": engine}
        item = wanted(tmp_path / engine, options)
        result = experiment.run(item.config, Silent(), argv=[])
        found.append(result["error"].replace(str(item.folder.path), "folder"))
    assert found[0] == found[1]
    assert "last good checkpoint: epoch 0, folder" in found[0]


def test_runs_with_dropout_batchnorm_and_averages_resume_too(tmp_path: Path) -> None:
    """Their random numbers, running statistics and averages are in the checkpoint; proximal steps read Adam's."""
    more = {"dropout": 0.2, "batchnorm": True, "ema": 0.9, "engine": "vectorised", "lambda": 0.0}
    more |= {"regularizer": ["l1(prox=true)=1e-3"], "grad_clip": 1.0, "weight_decay": 0.01}
    options = [{"seed": seed, **more} for seed in range(2)]
    whole = [wanted(tmp_path / "whole", item) for item in options]
    trained(whole)
    cut = [wanted(tmp_path / "cut", item, end=_stops_at(5)) for item in options]
    assert [result["ended"] for result in trained(cut)] == ["enough"] * 2
    for item in cut:
        item.folder.result.unlink()
    again = [wanted(tmp_path / "cut", item) for item in options]
    trained(again)
    for one, other in zip(again, whole, strict=True):
        same(one.folder, other.folder)


def _stops_at(epoch: int) -> Any:
    return lambda row: "enough" if row["epoch"] == epoch else None


def test_a_checkpoint_of_a_program_is_one_of_a_single_run(tmp_path: Path) -> None:
    """`--engine single` goes on from it, in the middle of an epoch too, and ends where it would have ended itself."""
    options = {"seed": 3, "epochs": 3}
    expected = wanted(tmp_path / "single", options)
    experiment.run(expected.config, Silent(), argv=[])
    begun = wanted(tmp_path / "mixed", options | {"engine": "vectorised", "checkpoint_every": 1e-9})

    begun.observer = Killer(5)
    with pytest.raises(KeyboardInterrupt):
        trained([begun])
    state = torch.load(begun.folder.last, weights_only=True)
    assert state["step"] > 0
    result = experiment.run(
        from_dict(SMALL | options | {"run_dir": str(tmp_path / "mixed")}), Silent(), argv=[], folder=begun.folder
    )
    wanted_result = expected.folder.read_result()
    assert wanted_result is not None
    assert result["engine"] == "single"
    for key, value in wanted_result["last"].items():
        assert result["last"][key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


def test_one_that_cannot_begin_does_not_keep_the_others(tmp_path: Path) -> None:
    items = [wanted(tmp_path, {"seed": seed, "engine": "vectorised", "epochs": 2}) for seed in range(3)]
    with items[1].folder.held():
        results = trained(items)
    assert isinstance(results[1], InUse)
    assert [results[i]["status"] for i in (0, 2)] == ["finished", "finished"]
    again = trained(items)
    assert [result["status"] for result in again] == ["finished"] * 3
    assert again[0] == json.loads(json.dumps(results[0]))


def test_other_shapes_of_data_are_programs_of_their_own(tmp_path: Path) -> None:
    options = [{"dataset": "moons"}, {"dataset": "spirals"}, {"dataset": "circles", "noise": 0.05}]
    results = trained([wanted(tmp_path, item | {"engine": "vectorised", "epochs": 2}) for item in options])
    assert [result["status"] for result in results] == ["finished"] * 3


class Breaking(Silent):
    """Raises after the second epoch."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def row(self, row: dict[str, float], epochs: int) -> None:
        if row["epoch"] == 2:
            raise self.error


def test_what_breaks_one_run_ends_no_other(tmp_path: Path) -> None:
    options = [{"seed": seed, "engine": "vectorised", "epochs": 4} for seed in range(4)]
    whole = [wanted(tmp_path / "whole", item) for item in options]
    trained(whole)
    items = [wanted(tmp_path / "parts", item) for item in options]
    items[0].observer = Breaking(OSError(28, "No space left on device", "metrics.csv"))
    items[2].observer = Breaking(ValueError("a bug"))
    results = trained(items)
    assert isinstance(results[0], RunFailed)
    assert "No space left on device" in results[0].message
    assert isinstance(results[2], ValueError)
    error = items[2].folder.read_result() or {}
    assert error["status"] == "failed" and "a bug" in error["error"]
    for number in (1, 3):
        same(items[number].folder, whole[number].folder)
    assert not items[0].folder.result.exists()
    again = wanted(tmp_path / "parts", options[0])
    trained([again])
    same(again.folder, whole[0].folder)


def test_engines_that_cannot_are_refused(tmp_path: Path) -> None:
    def engine(**options: Any) -> str:
        return runs.engine_of(from_dict(SMALL | options))

    assert engine() == "single"
    assert engine(engine="vectorised") == "vectorised"
    assert engine(engine="auto", compile=True) == "single"
    assert engine(engine="auto", activation="gelu") == "vectorised"
    with pytest.raises(UserError, match="regularizer l0; use auto or single"):
        engine(engine="vectorised", regularizer=["l0=1e-3"], **{"lambda": 0.0})
    with pytest.raises(UserError, match="--batchnorm; use auto or vectorised"):
        engine(engine="native", batchnorm=True)


@needs_compiler
def test_auto_is_native_where_it_can_be() -> None:
    assert runs.engine_of(from_dict(SMALL | {"engine": "auto"})) == "native"


def test_images_that_come_as_a_table_are_images(tmp_path: Path) -> None:
    """Of the digits: convolutions, so not native, and by `modules` where they are trained together."""
    options = {"dataset": "digits_image", "n_samples": 1000, "subset": 60, "epochs": 1, "depth": 2, "lambda": 0.1}
    assert runs.engine_of(from_dict(SMALL | options | {"engine": "auto"})) == "vectorised"
    with pytest.raises(UserError, match="digits_image has images"):
        runs.engine_of(from_dict(SMALL | options | {"engine": "native"}))
    assert trained([wanted(tmp_path, options | {"engine": "vectorised"})])[0]["status"] == "finished"
    with pytest.raises(UserError, match="dropout"):
        runs.engine_of(from_dict(SMALL | options | {"engine": "vectorised", "dropout": 0.1}))
