"""The driver: every trial exactly once, whatever happens to workers, to trials and to itself."""

import contextlib
import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regx.sweeps import definition, driver, plan, registry, work
from regx.sweeps.definition import Sweep
from regx.sweeps.driver import Driver
from regx.sweeps.engines import Progress
from regx.sweeps.programs import Planner, Program
from regx.sweeps.report import Report, alive
from regx.sweeps.trial import Trial
from regx.sweeps.work import Outcome
from regx.training.folder import to_json, write_atomically

GRID = """\
method: grid
command: ["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]
metric: {name: val/acc, goal: maximize}
parameters:
  dataset: {value: iris}
  depth: {values: [1, 2, 3]}
  width: {values: [2, 4]}
  epochs: {value: 1}
"""

Behaviour = Callable[[Trial, str], Outcome]


def done(item: Trial, worker: str, value: float = 0.5, status: str = work.FINISHED, error: str = "") -> Outcome:
    """Writes the result that a training would, and says so."""
    place = item.place()
    (place / "checkpoints").mkdir(parents=True, exist_ok=True)
    result = {"status": status, "ended": "epochs", "best": {"epoch": 1, "val/acc": value}, "error": error}
    write_atomically(place / "trial.json", to_json(item.note()))
    write_atomically(place / "result.json", to_json(result))
    return work.outcome(item, result, worker, trained=True)


class Scripted:
    """Its workers do what a test says, trial after trial; a lost one takes the rest of its program along."""

    name = "scripted"

    def __init__(self, count: int, behave: Behaviour = done) -> None:
        self._busy: dict[str, deque[Trial]] = {f"worker {number}": deque() for number in range(count)}
        self._behave = behave
        self.carried_out: list[tuple[str, str]] = []
        self.programs: list[Program] = []

    def workers(self) -> list[str]:
        return list(self._busy)

    def idle(self) -> list[str]:
        return [worker for worker, items in self._busy.items() if not items]

    def submit(self, program: Program, worker: str) -> None:
        assert not self._busy[worker] and program.trials
        self._busy[worker] = deque(program.trials)
        self.programs.append(program)

    def wait(self, seconds: float) -> list[Outcome | Progress]:
        for worker, items in self._busy.items():
            if items:
                self.carried_out.append((worker, items[0].key))
                event = self._behave(items.popleft(), worker)
                if event.status != work.LOST:
                    return [event]
                rest = [dataclasses.replace(event, trial=item) for item in items]
                items.clear()
                return [event, *rest]
        time.sleep(0.01)
        return []

    def dismiss(self, worker: str) -> None:
        assert not self._busy.pop(worker), "a worker that has something to do"

    def interrupt(self) -> None:
        self._behave = lambda item, worker: Outcome(item, work.INTERRUPTED, worker)

    def close(self) -> None:
        self._busy = {}


def sweep_of(folder: Path, text: str = GRID, **more: Any) -> Sweep:
    path = folder / "mine.yaml"
    path.write_text(text)
    return definition.read(path, **more)


def drive(sweep: Sweep, folder: Path, engine: Any, planner: Planner | None = None) -> Report:
    folder.mkdir(exist_ok=True)
    return Driver(sweep, folder, plan.trials(sweep, folder), planner).run(engine, lambda report: None)


def test_each_trial_is_carried_out_once(tmp_path: Path) -> None:
    sweep, engine = sweep_of(tmp_path), Scripted(4)
    report = drive(sweep, tmp_path / "runs", engine)
    assert (report.finished, report.found, report.failed) == (6, 0, {})
    assert len({key for _, key in engine.carried_out}) == len(engine.carried_out) == 6
    again = Scripted(4)
    report = drive(sweep, tmp_path / "runs", again)
    assert (report.finished, report.found, again.carried_out) == (6, 6, [])


def test_an_extended_grid_carries_out_what_is_new(tmp_path: Path) -> None:
    drive(sweep_of(tmp_path), tmp_path / "runs", Scripted(2))
    engine = Scripted(2)
    report = drive(sweep_of(tmp_path, GRID.replace("[2, 4]", "[2, 4, 8]")), tmp_path / "runs", engine)
    assert (report.finished, report.found, len(engine.carried_out)) == (9, 6, 3)


def test_errors_are_retried_as_told_and_then_reported(tmp_path: Path) -> None:
    tries: Counter[str] = Counter()

    def behave(item: Trial, worker: str) -> Outcome:
        tries[item.key] += 1
        if item.options["depth"] == 2 and tries[item.key] < 2:
            return Outcome(item, work.ERROR, worker, "CUDA is gone")
        if item.options["depth"] == 3:
            return Outcome(item, work.ERROR, worker, "the disk is full")
        return done(item, worker)

    report = drive(sweep_of(tmp_path), tmp_path / "runs", Scripted(4, behave))
    assert (report.finished, len(report.failed)) == (4, 2)
    assert set(report.failed.values()) == {"the disk is full"} and set(tries.values()) == {1, 2}


def test_a_loss_that_is_not_finite_is_not_retried(tmp_path: Path) -> None:
    engine = Scripted(2, lambda item, worker: done(item, worker, status=work.FAILED, error="val/loss is nan"))
    report = drive(sweep_of(tmp_path), tmp_path / "runs", engine)
    assert len(report.failed) == 6 and len(engine.carried_out) == 6 and not report.dismissed


def test_a_worker_that_fails_again_and_again_stops_and_its_trials_go_to_others(tmp_path: Path) -> None:
    def behave(item: Trial, worker: str) -> Outcome:
        return Outcome(item, work.ERROR, worker, "no GPU") if worker == "worker 0" else done(item, worker)

    text = GRID.replace("[1, 2, 3]", "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]")
    report = drive(sweep_of(tmp_path, text), tmp_path / "runs", Scripted(2, behave))
    assert (report.finished, report.failed) == (20, {})
    assert (
        list(report.dismissed) == ["worker 0"]
        and "5 trials in a row failed, the last: no GPU" in report.dismissed["worker 0"]
    )


def test_when_all_workers_fail_the_rest_is_left(tmp_path: Path) -> None:
    text = GRID.replace("[1, 2, 3]", "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]")
    engine = Scripted(2, lambda item, worker: Outcome(item, work.ERROR, worker, "no GPU"))
    report = drive(sweep_of(tmp_path, text), tmp_path / "runs", engine)
    assert report.ended == "workers" and len(engine.carried_out) < 20, "of 40 that the trials would have been tried"


def test_a_lost_trial_goes_back_and_is_given_up_in_the_end(tmp_path: Path) -> None:
    losses = iter([True, False] * 100)

    def behave(item: Trial, worker: str) -> Outcome:
        if item.options["depth"] == 3 and item.options["width"] == 4:
            return Outcome(item, work.LOST, worker, "its process was killed")
        return Outcome(item, work.LOST, worker, "killed") if next(losses) else done(item, worker)

    report = drive(sweep_of(tmp_path), tmp_path / "runs", Scripted(3, behave))
    assert report.finished == 5 and list(report.failed.values()) == ["its process was killed"]


def test_what_another_driver_trains_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "BUSY_SECONDS", 0.05)
    asked: Counter[str] = Counter()

    def behave(item: Trial, worker: str) -> Outcome:
        asked[item.key] += 1
        if item.options["depth"] == 1 and asked[item.key] < 3:
            return Outcome(item, work.BUSY, worker)
        if item.options["depth"] == 1:
            raise AssertionError("the other one has finished it")
        return done(item, worker)

    class Other(Scripted):
        """Meanwhile the other driver finishes what it trains."""

        def wait(self, seconds: float) -> list[Outcome | Progress]:
            found = super().wait(seconds)
            for event in found:
                if isinstance(event, Outcome) and event.status == work.BUSY and asked[event.trial.key] == 2:
                    done(event.trial, "elsewhere")
            return found

    report = drive(sweep_of(tmp_path), tmp_path / "runs", Other(2, behave))
    assert report.finished == 6 and not report.failed


def test_half_done_trials_come_first(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    trials = plan.trials(sweep, tmp_path / "runs")
    (trials[4].place() / "checkpoints").mkdir(parents=True)
    (trials[4].place() / "checkpoints" / "last.pt").touch()
    engine = Scripted(1)
    drive(sweep, tmp_path / "runs", engine)
    assert engine.carried_out[0][1] == trials[4].key


def test_weights_are_waited_for(tmp_path: Path) -> None:
    text = GRID + '  a: {values: [{label: tuned, pretrained: "{dense}"}, {label: dense}]}\n'
    order: list[tuple[str | None, int]] = []

    def behave(item: Trial, worker: str) -> Outcome:
        order.append((item.label, item.options["depth"]))
        if item.after is not None:
            assert plan.state(item.after)[0] == plan.FINISHED
        if item.label == "dense" and item.options["depth"] == 3:
            return done(item, worker, status=work.FAILED, error="nan")
        return done(item, worker)

    report = drive(sweep_of(tmp_path, text), tmp_path / "runs", Scripted(3, behave))
    assert report.finished == 8 and len(report.failed) == 4
    assert sorted(order) == sorted(
        [*[("dense", depth) for depth in (1, 1, 2, 2, 3, 3)], *[("tuned", depth) for depth in (1, 1, 2, 2)]]
    )
    assert sum("begins with the weights of" in why for why in report.failed.values()) == 2


def test_the_search_ends_at_the_target(tmp_path: Path) -> None:
    text = GRID.replace("maximize}", "maximize, target: 0.7}")
    engine = Scripted(1, lambda item, worker: done(item, worker, value=item.options["depth"] / 4))
    report = drive(sweep_of(tmp_path, text), tmp_path / "runs", engine)
    assert report.ended == "target" and report.best is not None and report.best[1] == 0.75
    assert len(engine.carried_out) == 5


def test_a_metric_that_no_run_logs_ends_the_sweep_after_a_few(tmp_path: Path) -> None:
    engine = Scripted(1)
    report = drive(sweep_of(tmp_path, GRID.replace("val/acc", "train/top5_acc")), tmp_path / "runs", engine)
    assert report.ended == "metric" and len(engine.carried_out) == driver.LACKING
    assert "has not logged the metric 'train/top5_acc'; it has logged val/acc" in report.why
    again = Driver(sweep_of(tmp_path), tmp_path / "runs", plan.trials(sweep_of(tmp_path), tmp_path / "runs"))
    assert again.report.ended == "", "another metric, which the runs have"


def test_the_last_run_shows_that_the_metric_is_never_logged(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, GRID.replace("val/acc", "train/top5_acc").replace("[1, 2, 3]", "[1]"))
    for engine in (Scripted(1), Scripted(1)):  # the second time nothing is left to be done
        report = drive(sweep, tmp_path / "runs", engine)
        assert (report.ended, report.finished) == ("metric", 2) and "top5_acc" in report.why


def test_one_run_without_the_metric_does_not_end_the_sweep(tmp_path: Path) -> None:
    def behave(item: Trial, worker: str) -> Outcome:
        outcome = done(item, worker)
        return dataclasses.replace(outcome, row={"val/loss": 1.0}) if item.options["depth"] < 3 else outcome

    report = drive(sweep_of(tmp_path, GRID.replace("[1, 2, 3]", "[1, 3]")), tmp_path / "runs", Scripted(1, behave))
    assert (report.ended, report.finished, report.failed) == ("", 4, {})


def test_errors_of_one_kind_of_trial_do_not_stop_a_worker(tmp_path: Path) -> None:
    def behave(item: Trial, worker: str) -> Outcome:
        bad = item.options["depth"] <= 6
        return Outcome(item, work.ERROR, worker, "cannot be downloaded") if bad else done(item, worker)

    text = GRID.replace("[1, 2, 3]", str(list(range(1, 25)))).replace("[2, 4]", "[2]")
    report = drive(sweep_of(tmp_path, text), tmp_path / "runs", Scripted(1, behave))
    assert (report.finished, len(report.failed), report.dismissed) == (18, 6, {})


def grouped(tmp_path: Path, count: int) -> Sweep:
    """A sweep of one configuration and so many seeds, which can be one program."""
    text = GRID.replace("[1, 2, 3]", "[1]").replace("[2, 4]", "[2]")
    return sweep_of(tmp_path, text, seeds=list(range(count)))


def test_programs_are_carried_out_once(tmp_path: Path) -> None:
    sweep, engine = grouped(tmp_path, 20), Scripted(2)
    seen: list[int] = []
    (tmp_path / "runs").mkdir()
    driving = Driver(sweep, tmp_path / "runs", plan.trials(sweep, tmp_path / "runs"), Planner("vectorised"))
    assert driving.most(2) == 2 and driving.most(64) == 20
    report = driving.run(engine, lambda report: seen.append(report.at_work()))
    assert (report.finished, report.failed, report.running) == (20, {}, {})
    assert [len(program.trials) for program in engine.programs] == [10, 10]
    assert {item.config().engine for program in engine.programs for item in program.trials} == {"vectorised"}
    assert len({key for _, key in engine.carried_out}) == len(engine.carried_out) == 20
    assert seen == list(range(20, -1, -1))


def test_of_a_program_only_what_is_missing_is_trained_and_what_is_half_done_first(tmp_path: Path) -> None:
    sweep = grouped(tmp_path, 8)
    trials = plan.trials(sweep, tmp_path / "runs")
    for item in trials[4:6]:
        (item.place() / "checkpoints").mkdir(parents=True)
        (item.place() / "checkpoints" / "last.pt").touch()
    done(trials[0], "earlier")

    class Other(Scripted):
        """Another driver finishes a trial between planning and beginning."""

        def submit(self, program: Program, worker: str) -> None:
            if not self.programs:
                done(trials[7], "elsewhere")
            super().submit(program, worker)

    engine = Other(1)
    report = drive(sweep, tmp_path / "runs", engine, Planner("vectorised"))
    assert (report.finished, report.found) == (8, 1)
    keys = [[item.key for item in program.trials] for program in engine.programs]
    assert keys == [[item.key for item in some] for some in (trials[4:6], [*trials[1:4], trials[6]])]


def test_a_trial_that_kills_its_program_takes_its_mates_down_twice_at_most(tmp_path: Path) -> None:
    tries: Counter[int] = Counter()

    def behave(item: Trial, worker: str) -> Outcome:
        tries[item.seed] += 1
        return Outcome(item, work.LOST, worker, "killed") if item.seed == 3 else done(item, worker)

    engine = Scripted(1, behave)
    report = drive(grouped(tmp_path, 8), tmp_path / "runs", engine, Planner("vectorised"))
    assert (report.finished, list(report.failed.values())) == (7, ["killed"])
    sizes = [len(program.trials) for program in engine.programs]
    # Those before it have ended when it dies; those behind it go along, twice; then each is alone, the culprit twice.
    assert sizes[:2] == [8, 5] and sizes[2:] == [1] * (5 + 1)
    assert tries[3] == 2 + driver.MORE_LOSSES and {tries[seed] for seed in range(8) if seed != 3} == {1}


def test_an_error_of_a_program_is_one_error_and_its_trials_are_then_tried_alone(tmp_path: Path) -> None:
    engine = Scripted(2)

    def behave(item: Trial, worker: str) -> Outcome:
        mine = next(p for p in reversed(engine.programs) if item.key in {other.key for other in p.trials})
        return Outcome(item, work.ERROR, worker, "no memory") if len(mine.trials) > 1 else done(item, worker)

    engine._behave = behave
    report = drive(grouped(tmp_path, 32), tmp_path / "runs", engine, Planner("vectorised"))
    assert (report.finished, report.failed, report.dismissed) == (32, {}, {})
    assert [len(program.trials) for program in engine.programs] == [16, 16, *[1] * 32]


def test_errors_alone_count_as_told_after_an_error_in_company(tmp_path: Path) -> None:
    tries: Counter[int] = Counter()

    def behave(item: Trial, worker: str) -> Outcome:
        tries[item.seed] += 1
        return Outcome(item, work.ERROR, worker, "no") if item.seed == 1 else done(item, worker)

    report = drive(grouped(tmp_path, 3), tmp_path / "runs", Scripted(1, behave), Planner("vectorised"))
    assert (report.finished, list(report.failed.values())) == (2, ["no"])
    assert tries == {0: 1, 1: 1 + 2, 2: 1}, "once in company, then alone, and a retry"


def test_an_interrupted_program_goes_on_as_one(tmp_path: Path) -> None:
    sweep = grouped(tmp_path, 6)

    def interrupted(item: Trial, worker: str) -> Outcome:
        (item.place() / "checkpoints").mkdir(parents=True, exist_ok=True)
        (item.place() / "checkpoints" / "last.pt").touch()
        return Outcome(item, work.INTERRUPTED, worker)

    (tmp_path / "runs").mkdir()
    driving = Driver(sweep, tmp_path / "runs", plan.trials(sweep, tmp_path / "runs"), Planner("vectorised"))
    first = Scripted(1, lambda item, worker: (done if item.seed < 2 else interrupted)(item, worker))
    told: list[int] = []

    def stop(report: Report) -> None:
        if report.finished == 2 and not told:
            told.append(report.at_work())
            os.kill(os.getpid(), signal.SIGTERM)

    first.interrupt = lambda: None  # type: ignore[method-assign]
    report = driving.run(first, stop)
    assert (report.ended, report.finished, told) == ("interrupted", 2, [4])
    assert [program.describe() for program in driving._programs] == ["4 runs: seed=2 ... seed=5"]
    second = Scripted(1)
    assert drive(sweep, tmp_path / "runs", second, Planner("vectorised")).finished == 6
    assert [len(program.trials) for program in second.programs] == [4]


def test_the_seeds_of_a_proposal_are_one_program(tmp_path: Path) -> None:
    engine = Scripted(2, lambda item, worker: done(item, worker, quality(item)))
    sweep = sweep_of(tmp_path, BAYES.replace("run_cap: 25", "run_cap: 5"), seeds=[1, 2, 3])
    report = drive(sweep, tmp_path / "runs", engine, Planner("vectorised"))
    assert report.finished == 15 and [len(program.trials) for program in engine.programs] == [3] * 5
    assert all(len({item.options["lr"] for item in program.trials}) == 1 for program in engine.programs)


def test_what_could_not_begin_is_known_to_others(tmp_path: Path) -> None:
    engine = Scripted(2, lambda item, worker: Outcome(item, work.FAILED, worker, "there is no file 'x.csv'"))
    sweep = sweep_of(tmp_path)
    drive(sweep, tmp_path / "runs", engine)
    states = [plan.state(item) for item in plan.trials(sweep, tmp_path / "runs")]
    assert {status for status, _ in states} == {plan.FAILED}
    assert all(result["error"] == "there is no file 'x.csv'" for _, result in states)


BAYES = """\
method: bayes
run_cap: 25
command: ["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]
metric: {name: val/acc, goal: maximize}
parameters:
  lr: {distribution: log_uniform_values, min: 1e-5, max: 1.0}
  depth: {min: 1, max: 9}
"""


def quality(item: Trial) -> float:
    return -((math.log10(item.options["lr"]) + 3) ** 2) - (item.options["depth"] - 4) ** 2 / 8


def test_bayes_searches_and_goes_on_from_its_run_folders(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, BAYES)
    behave: Behaviour = lambda item, worker: done(item, worker, quality(item))  # noqa: E731
    first = Scripted(3, behave)
    driven = dataclasses.replace(sweep, run_cap=12)
    assert drive(driven, tmp_path / "runs", first).finished == 12
    second = Scripted(3, behave)
    report = drive(sweep, tmp_path / "runs", second)
    assert report.finished == 25 and len(second.carried_out) == 13
    assert report.best is not None
    begun = {key for _, key in first.carried_out}
    early = max(quality(item) for item in plan.trials(sweep, tmp_path / "runs") if item.key in begun)
    assert report.best[1] >= early and report.best[1] > -0.2


def test_bayes_repeats_over_seeds_and_ends_when_a_small_space_is_exhausted(tmp_path: Path) -> None:
    text = BAYES.replace("  lr: {distribution: log_uniform_values, min: 1e-5, max: 1.0}\n", "").replace(
        "max: 9", "max: 3"
    )
    engine = Scripted(2)
    report = drive(sweep_of(tmp_path, text, seeds=[1, 2]), tmp_path / "runs", engine)
    assert report.finished == 6 == len(engine.carried_out)


def test_stopping_and_the_life_of_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "HEARTBEAT", 0.0)
    folder = tmp_path / "runs"
    seen: list[dict[str, Any]] = []

    def behave(item: Trial, worker: str) -> Outcome:
        seen.append(alive(folder))
        if len(seen) == 3:
            (folder / driver.STOP).touch()
            os.utime(folder / driver.STOP, (time.time() + 5, time.time() + 5))
        return done(item, worker)

    report = drive(sweep_of(tmp_path), folder, Scripted(1, behave))
    assert report.ended == "interrupted" and report.finished < 6
    (life,) = seen[-1].values()
    assert life["engine"] == "scripted" and life["running"]["worker 0"]["trial"].startswith("depth=")
    assert alive(folder) == {}
    os.utime(folder / driver.STOP, (1, 1))  # an earlier request is for earlier drivers
    assert drive(sweep_of(tmp_path), folder, Scripted(1)).finished == 6


def records(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """Run -> the identity that it was begun under, and the epochs in its log."""
    found = {}
    for path in folder.glob("*/result.json"):
        lines = (path.parent / "metrics.csv").read_text().splitlines()[1:]
        found[path.parent.name] = (
            json.loads((path.parent / "env.json").read_text())["id"],
            [line.split(",")[0] for line in lines],
        )
    return found


def children(pid: int) -> list[int]:
    """Processes below one."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = {int(child): int(parent) for child, parent in zip(listed[::2], listed[1::2], strict=True)}
    found, queue = [], deque([pid])
    while queue:
        at = queue.popleft()
        below = [child for child, parent in parents.items() if parent == at]
        found += below
        queue.extend(below)
    return found


def workers_of(pid: int) -> list[int]:
    """The workers among a driver's processes: those whose parent is the server that forks them."""
    below = children(pid)
    return [child for child in below if not children(child) and child not in direct(pid)]


def direct(pid: int) -> list[int]:
    return [
        int(word)
        for word in subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
        ).stdout.split()
    ]


def kill_randomly(
    sweep_file: Path, runs: Path, wanted: int, kills: int, drivers: int, workers: int, engine: str = "single"
) -> int:
    """Runs a sweep to its end while workers and drivers are killed; the number of workers that were."""
    dice, killed, left = random.Random(0), 0, drivers
    while True:
        command = [
            sys.executable,
            "-m",
            "regx",
            "sweep",
            "run",
            str(sweep_file),
            "--run-dir",
            str(runs),
            "--workers",
            str(workers),
            "--engine",
            engine,
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        begun = time.monotonic()
        while process.poll() is None:
            time.sleep(dice.uniform(0.2, 0.8))
            finished = len(list(runs.glob("*/*/result.json")))
            if left and finished > wanted * (drivers - left + 1) / (drivers + 2) and time.monotonic() - begun > 2:
                process.kill()
                left -= 1
            elif killed < kills and finished < wanted and (alive := workers_of(process.pid)):
                try:
                    os.kill(dice.choice(alive), signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    pass
        _, err = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, err
            return killed


def check_exactly_once(runs: Path, wanted: int, epochs: int) -> None:
    """Every run is done, its log has every epoch once, and it was begun once."""
    (folder,) = (path for path in runs.iterdir() if path.is_dir())
    found = records(folder)
    assert len(found) == wanted == len(list(folder.glob("*/trial.json")))
    assert {tuple(log) for _, log in found.values()} == {tuple(str(epoch) for epoch in range(1, epochs + 1))}
    assert len({identity for identity, _ in found.values()}) == wanted


KILLED = """\
method: grid
command: ["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]
parameters:
  dataset: {value: iris}
  depth: {values: [DEPTHS]}
  seed: {values: [SEEDS]}
  epochs: {value: EPOCHS}
  plots: {value: false}
  log_status: {value: false}
  stop_at: {value: none}
"""


def killed_sweep(folder: Path, depths: int, seeds: int, epochs: int = 20) -> Path:
    numbers = [", ".join(map(str, range(1, count + 1))) for count in (depths, seeds)]
    path = folder / "killed.yaml"
    text = KILLED.replace("DEPTHS", numbers[0]).replace("SEEDS", numbers[1]).replace("EPOCHS", str(epochs))
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("engine", "epochs"), [("single", 20), pytest.param("vectorised", 200, marks=pytest.mark.slow)]
)
def test_killed_workers_and_drivers(engine: str, epochs: int, tmp_path: Path) -> None:
    path = killed_sweep(tmp_path, 3, 4, epochs)
    killed = kill_randomly(path, tmp_path / "runs", wanted=12, kills=3, drivers=1, workers=2, engine=engine)
    assert killed >= 1
    check_exactly_once(tmp_path / "runs", 12, epochs)


@pytest.mark.slow
def test_many_killed_workers_and_drivers(tmp_path: Path) -> None:
    path = killed_sweep(tmp_path, 8, 50)
    killed = kill_randomly(path, tmp_path / "runs", wanted=400, kills=25, drivers=2, workers=8)
    assert killed >= 20
    check_exactly_once(tmp_path / "runs", 400, 20)


def test_kept_sweeps_are_found_by_name_path_and_folder(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    registry.keep(sweep, tmp_path / "runs" / "mine")
    assert registry.find(str(tmp_path / "runs" / "mine")) == tmp_path / "runs" / "mine" / ".sweep.yaml"
    assert registry.find(str(tmp_path / "mine.yaml")) == tmp_path / "mine.yaml"


@pytest.mark.parametrize(("engine", "workers"), [pytest.param("single", 2, marks=pytest.mark.slow), ("vectorised", 1)])
def test_a_killed_sweep_goes_on_inside_its_runs(engine: str, workers: int, tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(
        KILLED.replace("DEPTHS", "4").replace("SEEDS", "0, 1").replace("EPOCHS", "1000")
        + "  checkpoint_every: {value: 0.05}\n"
    )
    command = [*(sys.executable, "-m", "regx", "sweep", "run", str(path)), "--engine", engine]
    command += ["--workers", str(workers), "--run-dir"]
    process = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    logs: list[Path] = []
    while len(logs) < 2 and process.poll() is None:
        logs = [log for log in (tmp_path / "killed").glob("long/*/metrics.csv") if log.read_text().count("\n") > 30]
        time.sleep(0.05)
    for pid in [process.pid, *children(process.pid)]:  # workers would stop by themselves, but only after some rows
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    folder = tmp_path / "killed" / "long"
    assert not list(folder.glob("*/result.json")) and len(list(folder.glob("*/checkpoints/last.pt"))) == 2
    for runs in ("killed", "whole"):
        done = subprocess.run([*command, str(tmp_path / runs)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for log in folder.glob("*/metrics.csv"):
        assert len(json.loads((log.parent / "env.json").read_text())["resumed"]) == 1
        assert log.read_text() == (tmp_path / "whole" / "long" / log.parent.name / "metrics.csv").read_text()
