"""The tracker against the real wandb client: what lands on disk, what reaches a server, and what cannot hurt a run."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from regx.errors import UserError
from regx.training.tracking import runs as tracking
from tests.wandb_server import KEY, Server

pytestmark = pytest.mark.usefixtures("private")


@pytest.fixture
def warnings() -> list[str]:
    return []


def start(tmp_path: Path, warnings: list[str], mode: tracking.Mode, **arguments: Any) -> tracking.Tracker:
    config = {"depth": 50, "lambda": 0.01, "dataset": "moons"}
    return tracking.start(mode=mode, run_dir=tmp_path / "run", config=config, warn=warnings.append, **arguments)


def records(file: Path) -> list[Any]:
    """Reads a `.wandb` file: a 7-byte header, then LevelDB's log format (32 KiB blocks of checksummed fragments)."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    data, position, parts, found = file.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last fragment
            found.append(Record.FromString(parts))
            parts = b""
    return found


def items(updates: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in updates}


def offline_file(run_dir: Path) -> Path:
    import wandb

    wandb.teardown()  # the service writes behind `finish`, and this waits for it
    (file,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    return file


def history(file: Path) -> list[dict[str, Any]]:
    return [items(record.history.item) for record in records(file) if record.WhichOneof("record_type") == "history"]


def only(file: Path, kind: str) -> Any:
    (record,) = [record for record in records(file) if record.WhichOneof("record_type") == kind]
    return getattr(record, kind)


def test_offline_run_reads_back(tmp_path: Path, warnings: list[str]) -> None:
    tracker = start(
        tmp_path, warnings, "offline", name="moons 50x4", group="sweep", tags=["relu"], run_id="a1b2", job_type="train"
    )
    tracker.log({"train/loss": 0.75, "val/acc": 0.5, "lr": 0.1}, 0)
    tracker.log({"train/loss": 0.25, "val/acc": 0.875, "lr": float("nan")}, 1)
    tracker.log({"train/loss": 0.5, "val/acc": 0.75, "lr": 0.025}, 2)
    tracker.summary({"best/epoch": 1})
    tracker.finish(3)
    assert (tracker.mode, tracker.url, warnings) == ("offline", None, [])

    file = offline_file(tmp_path / "run")
    assert tracker.sync_hint == f"wandb sync {file.parent}"
    run = only(file, "run")
    assert (run.run_id, run.display_name, run.run_group, run.job_type) == ("a1b2", "moons 50x4", "sweep", "train")
    assert (run.project, list(run.tags)) == ("regx", ["relu"])
    config = items(run.config.update)
    assert {key: config[key] for key in ("depth", "lambda", "dataset")} == {
        "depth": 50,
        "lambda": 0.01,
        "dataset": "moons",
    }
    rows = history(file)
    assert [row["train/loss"] for row in rows] == [0.75, 0.25, 0.5]
    assert [row["epoch"] for row in rows] == [row["_step"] for row in rows] == [0, 1, 2]
    assert rows[1]["lr"] != rows[1]["lr"]
    summary: dict[str, Any] = {}
    for record in records(file):
        summary |= items(record.summary.update)
    assert summary["train/loss"] == {"min": 0.25}
    assert summary["val/acc"] == {"max": 0.875}
    assert summary["lr"] == 0.025
    assert summary["best/epoch"] == 1
    assert only(file, "exit").exit_code == 3
    metrics = {
        record.metric.name or record.metric.glob_name: record.metric
        for record in records(file)
        if record.WhichOneof("record_type") == "metric"
    }
    assert {metric.step_metric for name, metric in metrics.items() if name != "epoch"} == {"epoch"}
    assert {"*", "train/loss", "test/acc"} <= set(metrics)


def test_runs_that_are_open_at_once_stay_apart(tmp_path: Path, warnings: list[str]) -> None:
    trackers = [start(tmp_path / str(number), warnings, "offline", run_id=f"run{number}") for number in range(2)]
    for number, tracker in enumerate(trackers):
        tracker.log({"train/loss": number + 0.5}, 0)
    for tracker in trackers:
        tracker.finish()
    losses = [history(offline_file(tmp_path / str(number) / "run"))[0]["train/loss"] for number in range(2)]
    assert losses == [0.5, 1.5]
    assert warnings == []


def test_picture_is_copied(tmp_path: Path, warnings: list[str]) -> None:
    tracker = start(tmp_path, warnings, "offline")
    Image.new("RGB", (300, 150), "red").save(tmp_path / "red.png")
    tracker.image("val/status/unit", tmp_path / "red.png", 7)
    tracker.log({"val/loss": 0.5}, 7)
    tracker.finish()
    (row,) = history(offline_file(tmp_path / "run"))
    assert (row["val/status/unit/width"], row["val/status/unit/height"]) == (300, 150)
    assert (row["val/loss"], row["epoch"]) == (0.5, 7)
    image = offline_file(tmp_path / "run").parent / "files" / row["val/status/unit/path"]
    assert image.read_bytes() == (tmp_path / "red.png").read_bytes()
    assert warnings == []


def test_auto_without_a_key_is_offline_and_silent(
    tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def prompt(*arguments: object) -> str:
        raise AssertionError("asked something")

    monkeypatch.setattr("builtins.input", prompt)
    monkeypatch.setenv("WANDB_SILENT", "")  # wandb's own settings refuse an empty value
    tracker = start(tmp_path, warnings, "auto")
    tracker.finish()
    assert (tracker.mode, warnings) == ("offline", [])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("mode", "key", "said"),
    [
        ("auto", KEY, "http://127.0.0.1:1 does not answer"),
        ("online", KEY, "http://127.0.0.1:1 does not answer"),
        ("online", None, "no API key for http://127.0.0.1:1"),
        ("auto", "tooshort", "the API key cannot be used"),
    ],
)
def test_falls_back_to_offline(
    tmp_path: Path,
    warnings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    mode: tracking.Mode,
    key: str | None,
    said: str,
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    begin = time.monotonic()
    tracker = start(tmp_path, warnings, mode)
    tracker.log({"train/loss": 0.5}, 0)
    tracker.finish()
    assert time.monotonic() - begin < 10  # wandb's own patience is 90 s
    assert tracker.mode == "offline"
    assert len(warnings) == 1
    assert said in warnings[0]
    assert "\n" not in warnings[0]
    assert history(offline_file(tmp_path / "run"))[0]["train/loss"] == 0.5
    assert_no_key(tmp_path / "run")


def test_key_of_netrc_counts(tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine 127.0.0.1:1\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    start(tmp_path, warnings, "auto").finish()
    assert len(warnings) == 1
    assert "does not answer" in warnings[0]


def test_disabled_never_imports_wandb(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from regx.training import tracking\n"
        "for mode in ('disabled', 'auto'):\n"
        "    tracker = tracking.start(mode=mode, run_dir=Path('run'), config={}, warn=print)\n"
        "    tracker.log({'a': 1.0}, 0); tracker.summary({}); tracker.finish(0)\n"
        "    print(tracker.mode, tracker.sync_hint, 'wandb' in sys.modules, Path('run').exists())"
    )
    output = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "WANDB_MODE": "disabled"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stdout == "disabled None False False\n" * 2


def test_environment_mode_holds_for_auto_only(tmp_path: Path, warnings: list[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert start(tmp_path, warnings, "auto").mode == "disabled"
    tracker = start(tmp_path, warnings, "offline")
    tracker.finish()
    assert tracker.mode == "offline"
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(UserError, match="WANDB_MODE: 'sometimes' is not a mode"):
        start(tmp_path, warnings, "auto")
    with pytest.raises(UserError, match="wandb: 'on' is not among"):
        start(tmp_path, warnings, "on")  # type: ignore[arg-type]


def test_settings_file_mode_holds_for_auto(tmp_path: Path, warnings: list[str]) -> None:
    settings = tmp_path / "home" / "wandb" / "settings"
    settings.parent.mkdir()
    settings.write_text("[default]\nmode = disabled\n")  # what `wandb disabled` leaves in the working folder
    assert tracking.describe_login() == "disabled: wandb's settings say so"
    assert start(tmp_path, warnings, "auto").mode == "disabled"


def test_login_is_described_as_auto_would_act(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    assert tracking.describe_login() == f"online at {server.url}"
    import wandb

    wandb.teardown()  # wandb reads its environment once
    monkeypatch.delenv("WANDB_API_KEY")
    assert tracking.describe_login().startswith(f"offline: no API key for {server.url}")
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert tracking.describe_login() == "offline: WANDB_MODE says so"


# wandb 0.31 does not close the file of WANDB_SWEEP_PARAM_PATH.
@pytest.mark.filterwarnings("ignore:unclosed file.*parameters.yaml:ResourceWarning")
def test_sweep_agents_contract_holds(tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("wandb_version: 1\ndepth:\n  value: 7\nopt:\n  value: {name: sgd}\n")
    monkeypatch.setenv("WANDB_SWEEP_ID", "abcd1234")
    monkeypatch.setenv("WANDB_RUN_ID", "trial7")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(parameters))
    start(tmp_path, warnings, "auto", run_id="ours").finish()
    run = only(offline_file(tmp_path / "run"), "run")
    config = items(run.config.update)
    assert (run.run_id, run.sweep_id) == ("trial7", "abcd1234")
    assert (config["depth"], config["opt"], config["dataset"]) == (7, {"name": "sgd"}, "moons")


def test_run_id_of_the_environment_wins(tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    start(tmp_path, warnings, "auto", run_id="ours").finish()
    assert only(offline_file(tmp_path / "run"), "run").run_id == "theirs"


class BrokenRun:
    """A `wandb.Run` whose every call fails."""

    def __init__(self, folder: Path) -> None:
        self.dir, self.id, self.url, self.calls = str(folder / "files"), "x", None, 0

    def log(self, row: dict[str, float], step: int) -> None:
        self.calls += 1
        raise ConnectionError("socket\nclosed")

    def finish(self, exit_code: int) -> None:
        self.calls += 1
        raise TimeoutError("late")


def test_a_failure_warns_once_and_tracking_goes_quiet(tmp_path: Path, warnings: list[str]) -> None:
    run = BrokenRun(tmp_path)
    tracker = tracking.WandbTracker(run, "online", warnings.append, None)
    assert tracker.sync_hint is None
    for step in range(3):
        tracker.log({"train/loss": 1.0}, step)
    tracker.summary({"a": 1})
    tracker.finish()
    tracker.finish()
    assert warnings == ["wandb could not log (socket closed); the run goes on and its folder stays complete"]
    assert run.calls == 2  # one log, and finish all the same
    assert tracker.sync_hint == f"wandb sync --include-online {tmp_path}"


def test_server_counts_as_reachable_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("no_proxy", "NO_PROXY", "https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert tracking._answers("https://tracking.invalid")
        monkeypatch.setenv("no_proxy", "127.0.0.2")
        assert not tracking._answers("https://127.0.0.2:1")


def test_probe_ends_in_time_whatever_the_name_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def look_up(address: tuple[str, int], timeout: float) -> socket.socket:
        release.wait(30)
        raise OSError("no such host")

    monkeypatch.setattr(tracking, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(socket, "create_connection", look_up)
    begin = time.monotonic()
    assert not tracking._answers("https://127.0.0.1")
    assert time.monotonic() - begin < 5
    release.set()


def assert_no_key(folder: Path) -> None:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


def test_online_run_reaches_the_server(tmp_path: Path, warnings: list[str], server: Server) -> None:
    tracker = start(tmp_path, warnings, "auto", run_id="a1b2", project="jumpstart")
    assert (tracker.mode, tracker.url) == ("online", f"{server.url}/lab/jumpstart/runs/a1b2")
    tracker.log({"train/loss": 0.75}, 0)
    tracker.log({"train/loss": 0.25}, 1)
    tracker.summary({"best/epoch": 1})
    tracker.finish(0)
    assert (warnings, tracker.sync_hint) == ([], None)
    run = server.runs["a1b2"]
    assert [(row["epoch"], row["train/loss"]) for row in run.history] == [(0, 0.75), (1, 0.25)]
    assert run.config["lambda"] == {"value": 0.01}
    assert (run.summary["train/loss"], run.summary["best/epoch"]) == ({"min": 0.25}, 1)
    assert run.exit_code == 0
    assert_no_key(tmp_path / "run")


def test_refused_run_is_tracked_offline_and_can_be_sent_later(
    tmp_path: Path, warnings: list[str], server: Server
) -> None:
    server.status = 401
    tracker = start(tmp_path, warnings, "auto", run_id="a1b2")
    tracker.log({"train/loss": 0.75}, 0)
    tracker.finish()
    file = offline_file(tmp_path / "run")
    assert tracker.mode == "offline"
    assert len(warnings) == 1
    assert "refused the run" in warnings[0]
    assert history(file)[0]["train/loss"] == 0.75
    assert tracker.sync_hint == f"wandb sync --id a1b2 {file.parent}"
    assert_no_key(tmp_path / "run")


def test_server_that_dies_does_not_hold_the_end_up(
    tmp_path: Path, warnings: list[str], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 1.0)
    tracker = start(tmp_path, warnings, "online", run_id="a1b2")
    server.shutdown()
    server.server_close()
    tracker.log({"train/loss": 0.75}, 0)
    begin = time.monotonic()
    tracker.finish()
    assert time.monotonic() - begin < 10
    assert len(warnings) == 1
    assert "could not finish" in warnings[0]
    (folder,) = (tmp_path / "run" / "wandb").glob("run-*-a1b2")
    assert tracker.sync_hint == f"wandb sync --include-online {folder}"
