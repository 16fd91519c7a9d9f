"""A trial from its parameters to its run folder, and hyperband's decisions in a real run."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from regx.errors import UserError
from regx.sweeps import definition, plan, trial, work
from regx.sweeps.hyperband import Hyperband
from regx.sweeps.trial import Trial
from regx.training.folder import PRUNED, InUse, RunFolder
from tests.training.silent import Silent

SWEEP = """\
method: grid
command: ["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]
metric: {name: val/loss, goal: minimize}
early_terminate: {type: hyperband, min_iter: 2, eta: 2}
parameters:
  dataset: {value: iris}
  depth: {value: 1}
  lr: {values: [0.1, 0.01, 1.0e-8]}
  epochs: {value: 8}
  plots: {value: false}
"""


def trials(folder: Path, text: str = SWEEP) -> list[Trial]:
    (folder / "mine.yaml").write_text(text)
    return plan.trials(definition.read(folder / "mine.yaml"), folder / "runs")


def logged(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open() as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def test_hyperband_ends_the_worst_and_without_it_they_go_on(tmp_path: Path) -> None:
    found = trials(tmp_path)
    ended = [trial.carry_out(item, Silent(), argv=[])["ended"] for item in found]
    assert ended == ["epochs", "epochs", PRUNED] or ended == ["epochs", PRUNED, PRUNED]
    worst = found[2]
    # At the band of two rows, by the rule itself.
    histories = [trial.read_history(item.place(), "val/loss") for item in found]
    early = Hyperband.read({"type": "hyperband", "min_iter": 2, "eta": 2})
    assert early.stops(histories[2][:2], histories[:2], "minimize")
    assert logged(worst.place()) == [1, 2] and plan.state(worst)[0] == plan.FINISHED

    freed = dataclasses.replace(worst, early=None)
    assert freed.key == worst.key and plan.state(freed)[0] == plan.UNFINISHED
    result = trial.carry_out(freed, Silent(), argv=[])
    assert (result["status"], result["ended"]) == ("finished", "epochs")
    assert logged(worst.place()) == list(range(1, 9))


def test_a_trials_folder_says_what_the_sweep_has_set(tmp_path: Path) -> None:
    text = SWEEP.replace(
        "lr: {values: [0.1, 0.01, 1.0e-8]}", "a: {values: [{label: fast, lr: 0.1}]}\n  seed: {value: 3}"
    )
    (item,) = trials(tmp_path, text)
    item.leave_note()
    note = json.loads((item.place() / "trial.json").read_text())
    assert note["parameters"] == {"dataset": "iris", "depth": 1, "a.lr": 0.1, "epochs": 8, "plots": False}
    assert (note["label"], note["seed"], note["sweep"], note["key"]) == ("fast", 3, "mine", item.key)
    assert note["point"]["a"] == {"label": "fast", "lr": 0.1}
    assert item.describe() == "fast seed=3"


def test_what_can_be_wrong_with_a_trial_is_an_outcome(tmp_path: Path) -> None:
    first, second, _ = trials(tmp_path)
    with RunFolder(first.place()).held():
        held = work.carry_out(first, "w")
    assert held.status == work.BUSY and "in use by another process" in held.message
    missing = dataclasses.replace(second, options=second.options | {"dataset": "nowhere.csv"})
    failed = work.carry_out(missing, "w")
    assert failed.status == work.FAILED and "nowhere.csv" in failed.message
    blocked = dataclasses.replace(second, folder=tmp_path / "mine.yaml" / "runs")
    assert work.carry_out(blocked, "w").status == work.ERROR
    done = work.carry_out(second, "w")
    assert done.status == work.FINISHED and done.trained and done.row["epoch"] >= 1
    assert not work.carry_out(second, "w").trained


def test_a_folder_in_use_is_told_apart(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.held(), pytest.raises(InUse), RunFolder(tmp_path / "run").held():
        pass


def test_a_reference_that_has_not_finished_is_no_run(tmp_path: Path) -> None:
    text = SWEEP.replace(
        "lr: {values: [0.1, 0.01, 1.0e-8]}", 'a: {values: [{label: one}, {label: two, pretrained: "{one}"}]}'
    )
    first, second = trials(tmp_path, text)
    assert second.after == first and plan.state(second)[0] == plan.NEW
    with pytest.raises(UserError, match=r"best\.pt"):
        trial.carry_out(second, Silent(), argv=[])
    trial.carry_out(first, Silent(), argv=[])
    result = trial.carry_out(second, Silent(), argv=[])
    assert result["config"]["pretrained"].startswith(str((first.place() / "checkpoints" / "best.pt").absolute()))
