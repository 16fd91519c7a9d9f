"""`regx plot`: which files it writes, and what it says where it cannot."""

import json
from pathlib import Path

import pytest
from PIL import Image

from regx.analysis.figures import KINDS
from regx.training.folder import write_csv
from tests.cli.done import Done


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for depth in (1, 2):
        folder = tmp_path / "small" / str(depth)
        folder.mkdir(parents=True)
        rows = [{"epoch": epoch, "val/acc": depth / 10, "val/loss": 1.0} for epoch in (1, 2, 3)]
        write_csv(folder / "metrics.csv", rows)
        config = {"experiment": "rectangular", "dataset": "moons", "depth": depth}
        (folder / "config.yaml").write_text(json.dumps(config))
        (folder / "trial.json").write_text(json.dumps({"parameters": {"depth": depth}, "seed": 0}))
        result = {"status": "finished", "config": config, "best": rows[-1], "last": rows[-1], "monitor": "val/acc"}
        (folder / "result.json").write_text(json.dumps(result))
    return Path("small")


def test_draws_all_that_the_runs_can_give(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "plot", str(sweep), "--theme", "both")
    assert (done.code, done.err) == (0, "")
    paths = [Path(line) for line in done.out.splitlines()]
    assert {path.stem for path in paths if path.suffix == ".csv"} == {
        "learning-curves-val-acc",
        "box-plots-depth",
        "loss-curves-val-loss",
    }
    assert len(paths) == 15 and len(set(paths)) == 15 and all(path.stat().st_size for path in paths)
    assert {path.parent for path in paths} == {sweep / "figures"}
    again = Done(capsys, "plot", str(sweep), "--format", "csv")
    assert again.code == 0, "its own folder is none of a run"


def test_a_kind_of_some_runs_into_a_folder(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(sweep / "1"), str(sweep / "2")]
    done = Done(capsys, "plot", "learning-curves", *runs, "--metric", "val/loss", "-f", "svg", "--out", "here")
    assert done.out.split() == ["here/learning-curves-val-loss.svg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["heatmap", "small"], "'heatmap' is no kind of figure; did you mean 'heat-map'; there are learning-curves,"),
        (["heat-map", "small"], "a heat-map needs two numeric parameters that vary"),
        (["gate-probabilities", "small"], "no run has gates"),
        (["box-plots", "small/1"], "box-plots compares runs, and this is one"),
        (["box-plots"], "box-plots of what? Give the folder of a sweep"),
        (["boxplots"], "there is no folder boxplots; did you mean 'box-plots'"),
        (["small/3"], "there is no folder small/3"),
        (["learning-curves", "small/3"], "there is no folder small/3"),
        (["small", "--metric", "val/los"], "--metric: no run has 'val/los'; did you mean 'val/loss'"),
        (["small", "--theme", "drak"], "--theme: 'drak' is no theme; did you mean 'dark'"),
        (["small", "--format", "pgn"], "--format: 'pgn' is no format of a figure; did you mean 'png'"),
    ],
)
def test_mistakes_are_one_line(
    sweep: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    done = Done(capsys, "plot", *arguments)
    assert done.code == 2 and done.err.count("\n") == 1 and message in done.err and not done.out
    assert not (sweep / "figures").exists()


def test_a_name_is_looked_for_in_the_run_dir(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").mkdir()
    sweep.rename("runs/small")
    done = Done(capsys, "plot", "box-plots", "small", "-f", "csv")
    assert done.out.split() == ["runs/small/figures/box-plots-depth.csv"]
    done = Done(capsys, "plot", "box-plots", "1", "2", "--run-dir", "runs/small", "-f", "csv")
    assert done.out.split() == ["figures/box-plots-depth.csv"], "several folders: here"
    done = Done(capsys, "plot", "smal")
    assert "there is no folder smal, neither here nor in runs; did you mean 'small'?" in done.err
    assert "is a file; give the folder" in Done(capsys, "plot", "figures/box-plots-depth.csv").err


def test_runs_of_a_sweep_are_in_its_order_the_baseline_first(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(
        'method: grid\ncommand: ["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]\n'
        "metric: {name: val/acc, goal: maximize}\nparameters:\n"
        "  technique: {values: [{label: B, width: 5}, {label: Z, width: 2}, {label: A, width: 3}]}\n"
        "  epochs: {value: 2}\n  depth: {value: 1}\n  n_samples: {value: 40}\n  plots: {value: false}\n"
    )
    Path("mine.regx.yaml").write_text("baseline: Z\n")
    assert Done(capsys, "sweep", "run", "mine.yaml").code == 0
    done = Done(capsys, "plot", "learning-curves", "mine", "-f", "csv")
    rows = Path(done.out.strip()).read_text().splitlines()[1:]
    assert list(dict.fromkeys(row.split(",")[1] for row in rows)) == ["Z", "B", "A"]


def test_pictures_of_status_become_gifs(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "1" / "plots" / "status").mkdir(parents=True)
    for epoch in (1, 2):
        Image.new("RGB", (4, 4), (epoch, 0, 0)).save(sweep / f"1/plots/status/val_unit_status_{epoch:05d}.png")
    done = Done(capsys, "plot", str(sweep / "1"), "--animate")
    assert (done.code, done.out) == (0, "small/1/figures/unit-status-val.gif\n")
    for arguments, message in (
        (["small/2"], "--animate: small/2 has no pictures of its status in plots/status; train with --plot-status"),
        (["small"], "--animate: takes the folder of one run"),
        (["small/1", "small/2"], "--animate: takes the folder of one run"),
        (["small/1", "--theme", "dark"], "--animate: joins pictures as they are and takes no --theme"),
        (["loss-curves", "small/1"], "--animate: joins pictures as they are and takes no loss-curves"),
    ):
        done = Done(capsys, "plot", *arguments, "--animate")
        assert done.code == 2 and message in done.err and done.err.count("\n") == 1


def test_help_names_every_kind(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    done = Done(capsys, "plot", "--help")
    assert all(kind in done.out for kind in KINDS)
