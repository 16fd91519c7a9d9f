"""A trial from its parameters to its run folder, and hyperband's decisions in a real run."""

import csv
import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from regx.errors import UserError
from regx.sweeps import definition, plan, trial, work
from regx.sweeps.hyperband import Hyperband
from regx.sweeps.programs import Program
from regx.sweeps.trial import Trial
from regx.sweeps.work import Outcome
from regx.training.folder import PRUNED, InUse, RunFolder
from regx.training.vectorised import runs
from tests.sweeps.carried import carried_out
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
        held = carried_out(first)
    assert held.status == work.BUSY and "in use by another process" in held.message
    missing = dataclasses.replace(second, options=second.options | {"dataset": "nowhere.csv"})
    failed = carried_out(missing)
    assert failed.status == work.FAILED and "nowhere.csv" in failed.message
    blocked = dataclasses.replace(second, folder=tmp_path / "mine.yaml" / "runs")
    assert carried_out(blocked).status == work.ERROR
    done = carried_out(second)
    assert done.status == work.FINISHED and done.trained and done.row["epoch"] >= 1
    assert not carried_out(second).trained


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


def together(items: list[Trial], engine: str = "vectorised") -> list[Outcome]:
    """The outcomes of a program, in the order in which they are said."""
    told: list[Outcome] = []
    chosen = [dataclasses.replace(item, settings=item.settings | {"engine": engine}) for item in items]
    work.carry_out(Program(tuple(chosen), engine), "w", told.append)
    return told


LIKE = SWEEP.replace("early_terminate: {type: hyperband, min_iter: 2, eta: 2}\n", "")


def test_a_program_makes_the_run_folders_of_its_trials(tmp_path: Path) -> None:
    items = trials(tmp_path, LIKE)
    done = together(items)
    assert [outcome.status for outcome in done] == [work.FINISHED] * 3 and all(outcome.trained for outcome in done)
    assert {outcome.trial.key for outcome in done} == {item.key for item in items}
    for item in items:
        assert json.loads((item.place() / "trial.json").read_text())["key"] == item.key
        assert plan.state(item)[0] == plan.FINISHED and logged(item.place()) == list(range(1, 9))
    again = together(items)
    assert [(outcome.status, outcome.trained) for outcome in again] == [(work.FINISHED, False)] * 3
    assert [outcome.row for outcome in again] == [outcome.row for outcome in done]


def test_what_is_wrong_with_one_trial_does_not_touch_the_others_of_its_program(tmp_path: Path) -> None:
    text = LIKE.replace("[0.1, 0.01, 1.0e-8]", "[0.1, 0.2, 0.3, 0.4]")
    held, blocked, missing, good = trials(tmp_path, text)
    blocked = dataclasses.replace(blocked, folder=tmp_path / "mine.yaml" / "runs")
    missing = dataclasses.replace(missing, options=missing.options | {"dataset": "nowhere.csv"})
    with RunFolder(held.place()).held():
        found = {outcome.trial.key: outcome for outcome in together([held, blocked, missing, good])}
    assert found[held.key].status == work.BUSY and "in use by another process" in found[held.key].message
    assert found[blocked.key].status == work.ERROR and "cannot write" in found[blocked.key].message
    assert found[missing.key].status == work.FAILED and "nowhere.csv" in found[missing.key].message
    assert found[good.key].status == work.FINISHED and len(found) == 4


def test_hyperband_ends_runs_of_a_program_and_without_it_they_go_on(tmp_path: Path) -> None:
    found = trials(tmp_path)
    ended = {outcome.trial.key: outcome.ended for outcome in together(found)}
    worst = found[2]
    assert ended[found[0].key] == "epochs" and ended[worst.key] == PRUNED
    assert logged(worst.place())[-1] < 8 and plan.state(worst)[0] == plan.FINISHED
    freed = dataclasses.replace(worst, early=None)
    assert plan.state(freed)[0] == plan.UNFINISHED
    (outcome,) = together([freed])
    assert (outcome.status, outcome.ended, outcome.trained) == (work.FINISHED, "epochs", True)
    assert logged(worst.place()) == list(range(1, 9))


@pytest.mark.parametrize(
    ("how", "status", "message"),
    [
        (KeyboardInterrupt(), work.INTERRUPTED, ""),
        (ZeroDivisionError("by zero"), work.ERROR, "ZeroDivisionError: by zero (test_trial.py)"),
    ],
)
def test_every_trial_has_an_outcome_whatever_becomes_of_the_program(
    how: BaseException, status: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = trials(tmp_path, LIKE)

    def broken(wanted: list[Any], *, argv: list[str], ended: Any) -> None:
        wanted[1].observer.started([])
        wanted[1].observer.row({"epoch": 3}, 8)
        ended(1, {"status": "interrupted"})
        raise how

    monkeypatch.setattr(runs, "run_together", broken)
    told = together(items)
    assert [outcome.trial.key for outcome in told] == [items[1].key, items[0].key, items[2].key]
    assert (told[0].status, told[0].trained) == (work.INTERRUPTED, True)
    assert {(outcome.status, outcome.message) for outcome in told[1:]} == {(status, message)}


def test_sigterm_waits_while_an_outcome_is_said(tmp_path: Path) -> None:
    """Half of a message would be worse than none."""
    items = trials(tmp_path, LIKE)
    for item in items:
        carried_out(item)
    told: list[Outcome] = []

    def say(outcome: Outcome) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        told.append(outcome)

    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        work.carry_out(Program(tuple(items), "vectorised"), "w", say)
    finally:
        signal.signal(signal.SIGTERM, ignored)
    assert [outcome.status for outcome in told] == [work.FINISHED, work.INTERRUPTED, work.INTERRUPTED]
    assert [outcome.trial for outcome in told] == items and signal.getsignal(signal.SIGTERM) == before
