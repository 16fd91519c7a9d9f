"""The command line as a user meets it: what is printed where, and the exit codes."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from regx.cli.output import verdict
from tests.cli.done import Done

SMALL = ["--depth", "3", "--epochs", "3", "--n-samples", "60", "--wandb", "disabled", "--no-plots"]


def test_a_run_prints_results_on_stdout_and_progress_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "rectangular", *SMALL, "--lambda", "0.01")
    assert done.code == 0
    assert "validation accuracy" in done.out
    assert "results: runs/rectangular-moons-3x4-lambda0.01-seed42-" in done.out
    assert "epoch 3/3" in done.err
    assert "epoch 3/3" not in done.out


def test_json_on_stdout_is_the_result_file(capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "rectangular", *SMALL, "-f", "json")
    result = json.loads(done.out)
    assert result["status"] == "finished"
    assert json.loads((Path(result["run_dir"]) / "result.json").read_text()) == result
    folder = {str(path.relative_to(result["run_dir"])) for path in Path(result["run_dir"]).rglob("*") if path.is_file()}
    expected = {
        "config.yaml",
        "env.json",
        "metrics.csv",
        "status.npz",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "result.json",
    }
    assert expected <= folder


def test_the_same_command_again_shows_the_stored_result(capsys: pytest.CaptureFixture[str]) -> None:
    first = Done(capsys, "rectangular", *SMALL, "-f", "json")
    again = Done(capsys, "rectangular", *SMALL, "-f", "json")
    assert (again.code, again.out) == (0, first.out)
    assert "already finished" in again.err
    forced = Done(capsys, "rectangular", *SMALL, "-f", "json", "--force")
    assert "already" not in forced.err
    fresh, old = json.loads(forced.out), json.loads(first.out)
    assert (fresh["best"], fresh["last"], fresh["test"]) == (old["best"], old["last"], old["test"])


def test_config_file_repeats_a_run_and_typed_options_win(capsys: pytest.CaptureFixture[str]) -> None:
    first = json.loads(Done(capsys, "rectangular", *SMALL, "-f", "json").out)
    file = f"{first['run_dir']}/config.yaml"
    again = json.loads(Done(capsys, "rectangular", "--config", file, "-f", "json", "--run-dir", "other").out)
    assert again["hash"] == first["hash"]
    assert again["best"] == first["best"]
    printed = Done(capsys, "rectangular", "--config", file, "--lr", "0.5", "--print-config")
    assert yaml.safe_load(printed.out)["lr"] == 0.5
    assert yaml.safe_load(printed.out)["depth"] == 3


def test_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = Done(capsys, "rectangular", "--depth", "7", "--dry-run")
    assert done.code == 0
    assert "--depth" in done.out and "(new)" in done.out
    assert list(tmp_path.iterdir()) == []
    plan = json.loads(Done(capsys, "rectangular", "--depth", "7", "--dry-run", "-f", "json").out)
    assert plan["config"]["depth"] == 7


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        (["--lambda_", "0.5"], "lambda", 0.5),
        (["--lambda_=0.5"], "lambda", 0.5),
        (["--use_batchnorm"], "batchnorm", True),
        (["--use_batchnorm=True"], "batchnorm", True),
        (["--use_batchnorm", "False"], "batchnorm", False),
        (["--dropout_rate", "0.1"], "dropout", 0.1),
        (["--gpus", "0"], "devices", "0"),
        (["--batch_size", "None"], "batch_size", "full"),
        (["--n_maxpool", "None"], "n_maxpool", None),
        (["--maxpool_mode", "None"], "maxpool_mode", "log"),
        (["--use_loss=False", "--lambda", "1"], "task_loss", False),
        (["--use_flattening", "True"], "head", "flatten"),
        (["--plot_num_points", "52"], "plot_points", 52),
        (["--plot_epoch_freq", "2"], "plot_every", 2),
        (["--skip_last=False"], "skip_last", False),
        (["--plot_status"], "plot_status", True),
        (["--init", "glorot"], "init", "xavier"),
    ],
)
def test_spellings_of_earlier_scripts(
    capsys: pytest.CaptureFixture[str], typed: list[str], key: str, value: object
) -> None:
    done = Done(capsys, "rectangular", *typed, "--print-config")
    assert done.code == 0, done.err
    assert yaml.safe_load(done.out)[key] == value


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        (["rectangular", "--depth", "0"], 2, ["--depth", "0", "at least 1"]),
        (["rectangular", "--depth", "many"], 2, ["--depth", "'many'"]),
        (["rectangular", "--depht", "3"], 2, ["--depht", "--depth"]),
        (["rectangular", "--lambda", "-1"], 2, ["--lambda", "-1", "at least 0"]),
        (["rectangular", "--lambda", "nan"], 2, ["--lambda", "nan"]),
        (["rectangular", "--num_workers", "4"], 2, ["--workers", "moons is no set of images"]),
        (["rectangular", "--use_batchnorm=perhaps"], 2, ["--batchnorm", "perhaps"]),
        (["rectangular", "--dataset", "moon"], 2, ["'moon'", "moons"]),
        (["rectangular", "--dataset", "no/such.csv", "--target", "y"], 2, ["no/such.csv"]),
        (["rectangular", "--config", "nowhere.yaml"], 2, ["--config", "nowhere.yaml"]),
        (["rectangular", "-f", "xml"], 2, ["--format", "'xml'"]),
        (["rectangular", "--devices", "cuda:7"], 2, ["--devices", "cuda:7"]),
        (["rectangular", "--run-dir", "/proc/regx", *SMALL], 1, ["/proc/regx", "--run-dir"]),
        (["rectangular", "--width", "3000000"], 1, ["memory", "--width"]),
        (
            ["rectangular", "--label-smoothing", "0.1", "--dataset", "diabetes", "--depth", "3"],
            2,
            ["--label-smoothing", "diabetes"],
        ),
        (["rectangular", "--batchnorm", "--batch-size", "35", *SMALL], 2, ["--batch-size", "one row"]),
        (["rectangular", "--batchnorm", "--batch-size", "1", *SMALL], 2, ["--batch-size", "one row"]),
        (["rectangular", "--activation", "identity", *SMALL], 2, ["--activation", "--hook-at layer"]),
        (["rectangular", "--no-task-loss", *SMALL], 2, ["--task-loss", "nothing to train on"]),
        (["resume", "nowhere"], 2, ["nowhere"]),
        (["resume", "."], 2, ["no run folder"]),
        (["list", "dataset"], 2, ["dataset", "datasets"]),
        (["show", "jumpstrat"], 2, ["jumpstrat", "jumpstart"]),
        (["retangular"], 2, ["retangular", "rectangular"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) and value and value[0] != "--depth" else None,
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, typed: list[str], code: int, words: list[str]
) -> None:
    done = Done(capsys, *typed)
    assert done.code == code
    assert done.out == ""
    lines = [line for line in done.err.splitlines() if line]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("regx: error: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert not (tmp_path / "runs").exists(), "nothing half-written"


def test_help_names_every_option_and_default() -> None:
    from regx.training.experiments import RectangularConfig
    from regx.training.options import options_of

    command = [sys.executable, "-m", "regx", "rectangular", "--help"]
    text = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"COLUMNS": "300", "NO_COLOR": "1", "PATH": ""}
    ).stdout
    for option in options_of(RectangularConfig):
        assert f"{option.flag} " in text or f"{option.flag}/" in text or f"{option.flag}\n" in text, option.flag
    for panel in ("Model", "Regularizer", "Data", "Optimisation", "Output", "Hardware"):
        assert f" {panel}" in text


def test_list_and_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(Done(capsys, "list", "-f", "json").out)
    assert {"augmentations", "datasets", "models", "recipes", "regularizers", "schedules"} == set(listed)
    (shown,) = json.loads(Done(capsys, "show", "jumpstart", "-f", "json").out)
    assert {p["name"] for p in shown["parameters"]} >= {"mode", "aggr", "tie_breaking", "sign_balance", "hook_at"}


def test_a_failed_run_is_one_line_and_its_result(capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["--dataset", "diabetes", "--optimizer", "sgd", "--lr", "1e12", "--epochs", "9", "--wandb", "disabled"]
    done = Done(capsys, "rectangular", *typed, "-f", "json")
    assert done.code == 1
    assert json.loads(done.out)["status"] == "failed"
    assert done.err.splitlines()[-1].startswith("regx: error: ") and "a lower --lr" in done.err.splitlines()[-1]
    again = Done(capsys, "rectangular", *typed)
    assert (again.code, again.out) == (1, "")


def test_doctor_trains_and_reports(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["check"]: row for row in json.loads(Done(capsys, "doctor", "-f", "json").out)}
    assert {"torchvision", "devices", "data folder", "W&B", "smoke run"} <= set(rows)
    assert "three regularised steps" in rows["smoke run"]["found"]


def test_doctor_fails_when_something_is_broken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = Done(capsys, "doctor", "-f", "json", "--data-dir", str(tmp_path / "file"))
    assert done.code == 1
    assert [row["check"] for row in json.loads(done.out) if not row["ok"]] == ["data folder"]


def test_fetch_says_what_needs_no_fetching(capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "datasets", "fetch", "moons", "iris")
    assert done.code == 0
    assert [line.partition(":")[0] for line in done.out.splitlines()] == ["moons", "iris"]


def test_shell_completion_knows_datasets() -> None:
    environment = {"_REGX_COMPLETE": "complete_bash", "COMP_WORDS": "regx rectangular --dataset mo", "COMP_CWORD": "3"}
    command = [sys.executable, "-c", "from regx.cli.main import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment | {"PATH": ""})
    assert done.stdout.split() == ["moons"], done.stderr


def test_verdict_needs_more_than_luck() -> None:
    def result(value: float, rows: int) -> dict[str, object]:
        best = {"val/acc": value, "val/jr/unit_dead_ratio": 0.25}
        return {"status": "finished", "best": best, "monitor": "val/acc", "chance": 0.5, "rows": {"val": rows}}

    assert verdict(result(0.585, 200)).startswith("did not train: validation accuracy 0.585")
    assert verdict(result(0.585, 5000)).startswith("trained:")
    assert verdict(result(0.95, 40)).startswith("trained:")
    assert "25% of the units are dead" in verdict(result(0.95, 40))


def test_the_reason_of_an_early_end_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "rectangular", *SMALL, "--epochs", "30", "--patience", "2", "--lr", "1e-9")
    assert "finished after 3 of 30 epochs, as val/acc was no better for 2 logged epochs" in done.out
    assert "epoch 3/30" in done.err


def test_configuration_from_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("depth: 7\n"))
    printed = Done(capsys, "rectangular", "--config", "-", "--print-config")
    assert yaml.safe_load(printed.out)["depth"] == 7


def test_progress_without_a_reader_does_not_end_the_run(tmp_path: Path) -> None:
    command = (
        f"{sys.executable} -m regx rectangular {' '.join(SMALL)} 2>&1 >/dev/null | head -n 0; ls runs/*/result.json"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.strip().endswith("result.json")
