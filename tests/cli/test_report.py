"""`regx report` and `regx compare` as a user meets them."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli.done import Done
from tests.cli.sweep_by_hand import BESIDE, SWEEP

RUN = ("rectangular", "--depth", "1", "--epochs", "2", "--wandb", "disabled", "--run-dir", "mine")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of four runs, in the folder that this returns."""
    from regx.cli.main import main

    folder = tmp_path_factory.mktemp("sweep")
    (folder / "mine.yaml").write_text(SWEEP)
    (folder / "mine.regx.yaml").write_text(BESIDE)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "run", str(folder / "mine.yaml"), "--run-dir", str(folder / "runs"), "--workers", "1"])
    assert stop.value.code == 0
    return folder


@pytest.fixture
def sweep(ran: Path, tmp_path: Path) -> Path:
    """A copy of it in the folder where commands run."""
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True)
    return tmp_path


def results(folder: Path, alive: bool) -> list[float]:
    found = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    return [result["test"]["test/acc"] for result in found if bool(result["config"]["lambda"]) is alive]


def test_a_sweep_becomes_a_file(capsys: pytest.CaptureFixture[str], sweep: Path) -> None:
    done = Done(capsys, "report", "mine.yaml")
    assert done.code == 0, done.err
    assert re.fullmatch(r"runs/mine/report\.html \(\d\.\d MB\)\n", done.out)
    text = Path("runs/mine/report.html").read_text()
    best = max((sum(results(sweep / "runs/mine", alive)) / 2, alive) for alive in (True, False))
    assert "Which one" in text and "two seeds, " in text and f"{best[0]:.3f}" in text
    for folder in (sweep / "runs/mine").glob("*/result.json"):
        assert folder.parent.name in text
    table = Done(capsys, "sweep", "results", "mine.yaml", "-f", "csv").out
    assert "n too small" in table and "n too small" in text
    again = Done(capsys, "report", "runs/mine", "--title", "Again", "--baseline", "alive")
    assert again.code == 0 and "<title>Again</title>" in Path("runs/mine/report.html").read_text()


def test_run_folders_become_a_file_here(capsys: pytest.CaptureFixture[str], sweep: Path) -> None:
    folders = sorted(str(path.parent) for path in Path("runs/mine").glob("*/config.yaml"))
    done = Done(capsys, "report", *folders[:2])
    assert done.code == 0 and done.out.startswith("report.html (")
    text = Path("report.html").read_text()
    assert "<title>2 runs</title>" in text and Path(folders[0]).name in text and Path(folders[3]).name not in text


def test_a_half_done_sweep_says_what_is_missing(capsys: pytest.CaptureFixture[str], sweep: Path) -> None:
    gone, failed = sorted(Path("runs/mine").glob("*/result.json"))[:2]
    gone.unlink()
    result = json.loads(failed.read_text()) | {"status": "failed", "error": "the loss is nan"}
    failed.write_text(json.dumps(result))
    assert Done(capsys, "report", "runs/mine").code == 0
    text = Path("runs/mine/report.html").read_text()
    assert f"1 run is unfinished, and is in no mean: {gone.parent.name}." in text
    assert f"1 run failed and is in no mean: {failed.parent.name}: the loss is nan" in text
    for path in Path("runs/mine").glob("*/result.json"):
        path.unlink()
    done = Done(capsys, "report", "runs/mine")
    assert done.code == 1 and "no run has finished yet (4 unfinished)" in done.err


def test_what_is_no_report_is_not_overwritten(capsys: pytest.CaptureFixture[str], sweep: Path) -> None:
    Path("notes.html").write_text("mine")
    done = Done(capsys, "report", "runs/mine", "--out", "notes.html")
    assert done.code == 2 and "notes.html is there and no report of regx" in done.err
    assert Path("notes.html").read_text() == "mine"
    assert Done(capsys, "report", "runs/mine", "--out", "notes.html", "--force").code == 0
    assert Done(capsys, "report", "runs/mine", "--out", "notes.html").code == 0, "one of its own is replaced"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nothing"], "no sweep is called 'nothing'"),
        (["report", "nothing", "runs/mine"], "there is no folder nothing"),
        (["report", "."], ". is no run folder and holds none"),
        (
            ["report", "runs/mine", "--baseline", "alife"],
            "--baseline: no configuration is 'alife'; did you mean 'alive'?",
        ),
        (["report", "runs/mine", "--out", "runs"], "--out: runs is a folder; name a file in it"),
        (["compare", "runs/mine", "runs/mine"], "runs/mine is no run folder: it has no config.yaml"),
        (["compare", "nothing", "runs"], "there is no folder nothing, neither here nor in runs"),
        (["report", "runs/mien"], "there is no folder runs/mien; did you mean 'mine'?"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], sweep: Path, arguments: list[str], message: str
) -> None:
    done = Done(capsys, *arguments)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1 and not done.out


def test_two_runs_side_by_side(capsys: pytest.CaptureFixture[str], sweep: Path) -> None:
    one, other = sorted(path.parent for path in Path("runs/mine").glob("*seed0*/result.json"))
    done = Done(capsys, "compare", str(one), str(other), "--html", "two.html")
    assert done.code == 0 and "two.html (" in done.err
    assert re.search(r"lambda +0 +0\.01", done.out) and "One run each" in done.out
    found = json.loads(Done(capsys, "compare", str(one), str(other), "-f", "json").out)
    assert found["runs"] == {"A": str(one), "B": str(other)}
    tables = {table["title"]: table["rows"] for table in found["tables"]}
    assert tables["options that differ"] == [{"option": "lambda", "A": "0", "B": "0.01"}]
    a, b = (json.loads((path / "result.json").read_text()) for path in (one, other))
    (row,) = (r for r in tables["metrics, at the epoch that is best by validation"] if r["metric"] == "test/loss")
    wanted = [result["test"]["test/loss"] for result in (a, b)]
    assert [row["A"], row["B"]] == wanted and row["B − A"] == pytest.approx(wanted[1] - wanted[0], abs=1e-12)
    (row,) = (r for r in tables["network, at the best epoch"] if r[""] == "parameters")
    assert [row["A"], row["B"], row["B − A"]] == [a["parameters"], b["parameters"], 0]
    text = Path("two.html").read_text()
    assert "<title>Two runs compared</title>" in text and one.name in text and other.name in text
    assert "curves-acc" in text


def test_runs_that_have_nothing_in_common(capsys: pytest.CaptureFixture[str]) -> None:
    for dataset in ("iris", "diabetes"):
        assert Done(capsys, *RUN, "--dataset", dataset).code == 0
    one, other = sorted(Path("mine").glob("*/"))
    for command in (["compare", str(one), str(other)], ["report", "mine"]):
        done = Done(capsys, *command)
        assert done.code == 2 and "classification and regression are two reports" in done.err
    assert "the same run" in Done(capsys, "compare", str(one), str(one)).err


def test_difference_of_data_seed_and_budget_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert Done(capsys, *RUN, "--dataset", "iris").code == 0
    assert Done(capsys, *RUN, "--epochs", "3", "--dataset", "wine", "--seed", "1").code == 0
    one, other = sorted(str(path) for path in Path("mine").glob("*/"))
    out = Done(capsys, "compare", one, other).out
    assert "The seeds differ (42 and 1)." in out and "The data differ (dataset)" in out
    assert "A trained 2 epochs, B 3" in out
