"""`regx watch` beside the files it reads: it says what they hold, and reads no more of them than need be."""

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from regx.cli import watch
from regx.cli.watch_runs import SILENT_SECONDS, Frame, Log, OfSweep, Runs
from regx.errors import UserError
from regx.sweeps import plan, registry
from regx.sweeps.definition import Metric
from regx.sweeps.trial import Trial
from regx.training.folder import MetricsFile, RunFolder, to_json
from tests.cli.done import Done

SWEEP = """\
method: grid
command: ["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]
metric: {name: val/acc, goal: maximize}
parameters:
  lambda: {values: [0, 0.01]}
  dataset: {value: iris}
  depth: {value: 1}
  epochs: {value: 10}
  plots: {value: false}
"""


@pytest.fixture
def trials(tmp_path: Path) -> list[Trial]:
    """A sweep of two configurations and two seeds, of which nothing has been trained."""
    (tmp_path / "mine.yaml").write_text(SWEEP)
    (tmp_path / "mine.regx.yaml").write_text("seeds: 2\n")
    sweep, folder = registry.load("mine.yaml"), Path("runs/mine")
    registry.keep(sweep, folder)
    return plan.trials(sweep, folder)


def begin(trial: Trial, *accuracies: float) -> RunFolder:
    """What a run that has logged so many epochs leaves behind."""
    trial.leave_note()
    folder = RunFolder(trial.place())
    folder.last.parent.mkdir(parents=True, exist_ok=True)
    folder.create(trial.config(), [])
    log = MetricsFile(folder.metrics)
    for epoch, accuracy in enumerate(accuracies, start=1):
        log.append({"epoch": epoch, "train/loss": 1.0, "val/acc": accuracy})
    log.close()
    return folder


def end(trial: Trial, accuracy: float = 0.5, **more: str) -> None:
    folder = begin(trial, accuracy)
    told = {"status": "finished", "ended": "epochs", "monitor": "val/acc", "best": {"val/acc": accuracy}, "last": {}}
    folder.result.write_text(to_json(told | {"config": trial.config().as_dict()} | more))


def driver(*running: Trial) -> Path:
    """The life of a process that works on the sweep."""
    life = Path("runs/mine/.drivers/host-1.json")
    life.parent.mkdir(exist_ok=True)
    works = {
        f"worker {i}": {"trial": t.describe(), "keys": [t.key], "epoch": 0, "epochs": 0} for i, t in enumerate(running)
    }
    life.write_text(json.dumps({"engine": "local", "running": works, "failed": {}}))
    return life


def look() -> Frame:
    return OfSweep(Path("runs/mine"), "mine").look()


def test_a_log_that_grows_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, values = tmp_path / "metrics.csv", [0.4, 0.9, float("nan"), 0.2, 0.7]
    log = Log(path, Metric("val/loss", "minimize"))
    log.update()
    assert (log.epoch, log.value, log.best) == (0, None, None), "there is none yet"
    taken: list[str] = []
    take = log._take
    monkeypatch.setattr(log, "_take", lambda lines: (taken.extend(lines), take(lines)))
    with path.open("w") as file:
        file.write("epoch,val/loss,val/acc\n")
        for epoch, value in enumerate(values, start=1):
            line = f"{epoch},{value!r},0.5\n"
            file.write(line[:3])
            file.flush()
            log.update()
            assert log.epoch == epoch - 1, "half a line is none"
            file.write(line[3:])
            file.flush()
            log.update()
            with path.open(newline="") as written:
                known = [float(row["val/loss"]) for row in csv.DictReader(written)]
            assert log.epoch == len(known) and log.best == min(known), "NaN is never the lowest"
            assert str(log.value) == str(known[-1])
    log.update()
    assert len(taken) == 1 + len(values), "every line once"
    other = tmp_path / "other"
    other.write_text("epoch,val/loss,val/acc\n1,0.8,0.5\n")
    other.replace(path)  # as a resumed run does
    log.update()
    assert (log.epoch, log.value, log.best, log.rows) == (1, 0.8, 0.8, 1)
    path.write_bytes(b"\xff\xfe\nnothing,of,ours\n")
    log.update()
    assert (log.epoch, log.best) == (0, None)


def test_a_sweep_that_is_at_work(trials: list[Trial]) -> None:
    done, failed, half, new = trials
    end(done, 0.75)
    end(failed, status="failed", error="Traceback\n  somewhere\nthe loss is NaN\n")
    begin(half, 0.5, 0.875, 0.75, 0.625, 0.75)
    driver(half, new)
    asked = time.time() - 100
    os.utime("runs/mine/.sweep.yaml", (asked, asked))
    frame = look()
    assert frame.name == "mine" and frame.metric == "val/acc" and not frame.over
    assert frame.counts == {"total": 4, "done": 1, "running": 2, "failed": 1, "to do": 0}
    assert frame.failed == [{"run": failed.describe(), "why": "the loss is NaN"}]
    first, second = frame.running
    wanted = {"run": half.describe(), "epoch": 5, "epochs": 10, "value": 0.75, "best": 0.875, "silent": None}
    assert wanted.items() <= first.items() and 0 <= first["seconds"] < 60
    assert {"run": new.describe(), "epoch": 0, "value": None, "seconds": None}.items() <= second.items()
    # Two and a half of four runs took 100 seconds.
    assert frame.elapsed == pytest.approx(100, abs=5)
    assert frame.left == pytest.approx(frame.elapsed * 1.5 / 2.5, rel=1e-6)
    assert frame.leaders == [{"what": {"lambda": 0}, "n": 1, "of": 2, "mean": 0.75, "std": None}]


def test_it_is_over_when_all_have_ended_or_nobody_is_at_work(trials: list[Trial]) -> None:
    watched = OfSweep(Path("runs/mine"), "mine")
    assert not watched.look().over, "somebody has just asked for it"
    end(trials[0])
    begin(trials[1], 0.5)
    life = driver(trials[1])
    assert not watched.look().over
    life.unlink()
    frame = watched.look()
    assert frame.over and frame.counts["to do"] == 3 and not frame.running and frame.left is None
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(watch.drawn(frame, 80, 24))
    assert "nobody is at work on the other 3" in console.export_text()
    for trial in trials:
        end(trial)
    frame = look()
    assert frame.over and frame.counts == {"total": 4, "done": 4, "running": 0, "failed": 0, "to do": 0}


def test_runs_that_no_driver_speaks_for_run_while_they_write(trials: list[Trial]) -> None:
    folder = begin(trials[0], 0.5, 0.5)
    assert [row["run"] for row in look().running] == [trials[0].describe()]
    before = time.time() - SILENT_SECONDS - 5
    for path in (*folder.path.rglob("*"), Path("runs/mine/.sweep.yaml")):
        os.utime(path, (before, before))
    frame = look()
    assert frame.counts["running"] == 0 and frame.counts["to do"] == 4 and frame.over
    os.utime(folder.env, (before - 1000, before - 1000))  # two epochs in 1000 seconds: the third may come yet
    assert look().counts["running"] == 1


def test_nothing_is_read_again_that_has_not_changed(trials: list[Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    for trial in trials[:3]:
        end(trial)
    read: list[str] = []
    real = RunFolder.read_result
    monkeypatch.setattr(RunFolder, "read_result", lambda self: (read.append(self.path.name), real(self))[1])
    watched = OfSweep(Path("runs/mine"), "mine")
    watched.look()
    assert len(read) == 3
    watched.look()
    assert len(read) == 3
    end(trials[3], 0.9)
    frame = watched.look()
    assert read[3:] == [trials[3].place().name] and frame.counts["done"] == 4
    RunFolder(trials[3].place()).clear()  # as `regx sweep retry` does
    assert watched.look().counts["done"] == 3
    Path("runs/mine/.sweep.yaml").write_text(SWEEP.replace("[0, 0.01]", "[0]"))
    assert watched.look().counts["total"] == 2, "somebody has asked for less"


def test_leaders_are_those_of_the_results(capsys: pytest.CaptureFixture[str], trials: list[Trial]) -> None:
    for trial, accuracy in zip(trials, [0.5, 0.75, 0.875, 0.75], strict=True):
        end(trial, accuracy)
    watch.watch(["mine"], format="json")
    frame = json.loads(capsys.readouterr().out)
    assert frame["over"] and frame["counts"]["done"] == 4 and frame["left"] is None
    results = Done(capsys, "sweep", "results", "mine", "--table", "configurations", "-f", "json")
    (table,) = json.loads(results.out)["tables"]
    assert [(row["what"], row["n"], row["of"], row["mean"], row["std"]) for row in frame["leaders"]] == [
        ({"lambda": row["lambda"]}, row["n"], 2, row["val/acc mean"], row["val/acc std"]) for row in table["rows"]
    ]
    means = [row["mean"] for row in frame["leaders"]]
    assert means == [0.8125, 0.625]
    watch.watch(["mine.yaml"])  # no terminal: one frame
    told = capsys.readouterr().out
    assert told.splitlines()[1].startswith("done 4/4") and "best so far" in told and "val/acc" in told
    watch.watch([str(path.parent) for path in sorted(Path("runs/mine").glob("*/result.json"))], once=True)
    of_runs = capsys.readouterr().out
    assert of_runs.startswith("4 runs") and "done 4/4" in of_runs and "lambda=0.01" in of_runs


def test_a_low_metric_can_be_the_better_one_and_datasets_are_not_compared(tmp_path: Path) -> None:
    text = SWEEP.replace("val/acc, goal: maximize", "val/loss, goal: minimize")
    (tmp_path / "mine.yaml").write_text(text.replace("{value: iris}", "{values: [iris, moons]}"))
    sweep, folder = registry.load("mine.yaml"), Path("runs/mine")
    registry.keep(sweep, folder)
    for trial in plan.trials(sweep, folder):
        end(trial)
        path = RunFolder(trial.place()).result
        loss = trial.options["lambda"] + (5 if trial.options["dataset"] == "moons" else 0)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"best": {"val/acc": 0.5, "val/loss": loss}}))
    leaders = look().leaders
    assert [(row["what"], row["mean"]) for row in leaders] == [
        ({"dataset": "iris", "lambda": 0}, 0),
        ({"dataset": "moons", "lambda": 0}, 5),
    ]


def test_some_runs(trials: list[Trial]) -> None:
    folders = [begin(trials[0], 0.5).path, begin(trials[2], 0.25, 0.75).path]
    watched = Runs(folders)
    frame = watched.look()
    assert [(row["run"], row["epoch"], row["best"]) for row in frame.running] == [
        ("lambda=0.0 seed=0", 1, 0.5),
        ("lambda=0.01 seed=0", 2, 0.75),
    ]
    assert frame.counts == {"total": 2, "done": 0, "running": 2, "failed": 0, "silent": 0}
    before = time.time() - SILENT_SECONDS - 60
    for path in folders[1].rglob("*"):
        os.utime(path, (before, before))
    frame = watched.look()
    assert frame.counts["silent"] == 1 and frame.running[1]["silent"] == pytest.approx(SILENT_SECONDS + 60, abs=5)
    end(trials[0])
    end(trials[2])
    assert watched.look().over
    assert Runs(folders[:1]).look().name == folders[0].name


def many(running: int, leaders: int, failed: int) -> Frame:
    rows = [
        {"run": f"technique=a-rather-long-name-{i} regularizer=jumpstart learning_rate=0.0{i} seed={i}", "epoch": 123}
        | {"epochs": 4000, "value": 0.123, "best": 0.456, "seconds": 77.0, "silent": None}
        for i in range(running)
    ]
    best = [{"what": {"label": f"name {i}" * 12}, "n": 3, "of": 5, "mean": 0.9, "std": 0.01} for i in range(leaders)]
    why = [{"run": f"label seed={i}", "why": "the weights are not finite; " * 6} for i in range(failed)]
    counts = {"total": 400, "done": 20, "running": running, "failed": failed, "to do": 300}
    return Frame("a sweep", "val/acc", counts, 4000.0, 7000.0, rows, best, why, False)


@pytest.mark.parametrize("height", [20, 24, 50])
def test_a_frame_fits_a_narrow_terminal(height: int) -> None:
    for frame in (many(60, 12, 30), many(2, 0, 0), many(0, 9, 2), many(60, 0, 30), many(1, 1, 1)):
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(watch.drawn(frame, 80, height))
        lines = console.export_text().splitlines()
        assert len(lines) <= height and all(len(line) <= 80 for line in lines)
        text = "\n".join(lines)
        for part, rows, says in (
            ("running", frame.running, "123/4000  0.123    0.456  1 min 17 s"),
            ("best so far", frame.leaders, "3/5  0.900 ± 0.010"),
            ("failed", frame.failed, "label seed=0"),
        ):
            assert not rows or (part in text and says in text)
        assert len(lines) >= height - 2 or len(frame.running) < 60, "what room there is, is used"


def test_lines_are_dealt_out() -> None:
    assert watch.shares(8, [60, 5, 3]) == [3, 3, 2]
    assert watch.shares(30, [60, 5, 3]) == [22, 5, 3]
    assert watch.shares(30, [2, 5, 0]) == [2, 5, 0]
    assert watch.shares(0, [60, 5, 0]) == [1, 1, 0], "a screen too low for anything"


def in_a_terminal(*arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    master, slave = pty.openpty()
    code = f"from regx.cli.watch import watch; watch({list(arguments)!r}, every=0.1)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=slave, stdout=slave, stderr=slave, env=os.environ | {"TERM": "xterm"}
    )
    os.close(slave)
    return process, master


def read_until(master: int, wanted: bytes) -> bytes:
    """What a terminal was told, up to some text or the end."""
    told = b""
    while wanted not in told:
        try:
            told += os.read(master, 65536)
        except OSError:  # its other side is closed
            break
    return told


def test_leaving_the_view_leaves_a_clean_screen(trials: list[Trial]) -> None:
    begin(trials[0], 0.5)
    driver(trials[0])
    process, master = in_a_terminal("mine")
    drawn = read_until(master, b"0/4")
    assert b"\x1b[?1049h" in drawn, "a screen of its own"
    process.send_signal(signal.SIGINT)
    rest = read_until(master, b"nothing more")
    os.close(master)
    assert process.wait(20) == 0
    assert b"\x1b[?1049l" in rest and b"\x1b[?25h" in rest and b"Traceback" not in rest, "screen and cursor are back"


def test_the_view_ends_with_the_sweep_and_leaves_its_last_frame(trials: list[Trial]) -> None:
    driver(trials[0])
    process, master = in_a_terminal("mine")
    read_until(master, b"0/4")
    for trial in trials:
        end(trial)
    rest = read_until(master, b"nothing more")
    os.close(master)
    assert process.wait(20) == 0
    assert b"4/4" in rest.rpartition(b"\x1b[?1049l")[2]


def test_mistakes(trials: list[Trial]) -> None:
    begin(trials[0], 0.5)
    run = trials[0].place()
    Path("empty").mkdir()
    for places, more, message in (
        (["mien"], {}, "no sweep is called 'mien'"),
        ([str(run), "empty"], {}, "empty is no run folder and holds none"),
        (["empty"], {}, "empty is no run folder and holds none"),
        (["runs/mien"], {}, "there is no folder runs/mien; did you mean 'mine'?"),
        ([str(run), str(run / "config.yaml")], {}, f"{run / 'config.yaml'} is a file"),
        (["quickstart"], {}, "quickstart has not been run in runs"),
        (["mine"], {"every": 0.0}, "every: 0 is not at least 0.1"),
        (["mine"], {"format": "jsno"}, "format: 'jsno' is not among table, json; did you mean 'json'?"),
    ):
        with pytest.raises(UserError) as error:
            watch.watch(places, **more)  # type: ignore[arg-type]
        assert str(error.value).startswith(message)
    assert run.name in Runs([run]).look().name
    watch.watch([run.name], run_dir=Path("runs/mine"), once=True)


def test_a_folder_of_runs(trials: list[Trial], capsys: pytest.CaptureFixture[str]) -> None:
    for trial in trials[:2]:
        begin(trial, 0.5)
    (trials[0].place().parent / ".sweep.yaml").unlink()
    watch.watch(["runs/mine", str(trials[0].place())], once=True, format="json")
    assert json.loads(capsys.readouterr().out)["counts"]["total"] == 2, "each of them once"
