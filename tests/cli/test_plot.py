"""`regx plot`: which files it writes, and what it says where it cannot."""

import json
from pathlib import Path

import pytest

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
        (["small", "--theme", "drak"], "--theme: 'drak' is not among light, dark, both; did you mean 'dark'"),
        (["small", "--format", "pgn"], "--format: 'pgn' is not among png, svg, csv; did you mean 'png'"),
    ],
)
def test_mistakes_are_one_line(
    sweep: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    done = Done(capsys, "plot", *arguments)
    assert done.code == 2 and done.err.count("\n") == 1 and message in done.err and not done.out
    assert not (sweep / "figures").exists()


def test_help_names_every_kind(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    done = Done(capsys, "plot", "--help")
    assert all(kind in done.out for kind in KINDS)
