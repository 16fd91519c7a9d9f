"""Runs that have ended, sent to a server on loopback by the real client: all of it, once, whatever happens."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from regx.errors import RunFailed, UserError
from regx.training import tracking
from regx.training.tracking import runs
from regx.training.tracking.upload import upload
from tests.wandb_server import KEY, Server

pytestmark = pytest.mark.usefixtures("private")

ROWS = [
    {"epoch": 1, "lr": 0.1, "train/loss": 0.75, "val/acc": 0.5},
    {"epoch": 2, "lr": 0.1, "train/loss": 0.25, "val/acc": 0.875},
    {"epoch": 4, "lr": 0.05, "train/loss": 0.5, "val/acc": 0.75, "val/r2": float("nan")},
]


def ended(folder: Path, id: str = "a1b2", status: str = "finished", **more: Any) -> Path:
    """A run folder as training leaves it."""
    (folder / "plots" / "status").mkdir(parents=True)
    (folder / "env.json").write_text(json.dumps({"id": id}))
    config = {"depth": 50, "lambda": 0.01, "tags": ["relu", "deep"], "group": "mine", "name": None}
    result = {"status": status, "config": config, "test": {"test/acc": 0.625, "test/loss": None}}
    (folder / "result.json").write_text(json.dumps(result | more))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[-1]))
        writer.writeheader()
        writer.writerows(ROWS)
    (folder / "speed.csv").write_text("epoch,speed/train_seconds\n1,0.5\n2,0.25\n4,0.125\n")
    Image.new("RGB", (30, 20), "red").save(folder / "plots" / "confusion.png")
    Image.new("RGB", (9, 9)).save(folder / "plots" / "status" / "train_unit.png")
    return folder


def send(folder: Path, **options: Any) -> bool:
    return upload(folder, project="jumpstart", warn=pytest.fail, **options)


def rows_of(history: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(row["epoch"], row["train/loss"]) for row in history]


def rows(server: Server, id: str = "a1b2") -> list[tuple[float, float]]:
    return rows_of(server.runs[id].history)


ALL = [(1, 0.75), (2, 0.25), (4, 0.5)]


def pictures(server: Server, id: str = "a1b2") -> list[bytes]:
    return [data for name, data in server.runs[id].files.items() if name.startswith("media/")]


def assert_no_key(folder: Path) -> None:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


def test_everything_arrives_once(tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    folder = ended(tmp_path / "moons")
    before = {path.name for path in folder.iterdir()}
    assert send(folder, sweep="sweep0") is True
    run = server.runs["a1b2"]
    assert (run.project, run.display_name, run.sweep, run.group) == ("jumpstart", "moons", "sweep0", "mine")
    assert (run.tags, run.state, run.exit_code) == (["relu", "deep"], "finished", 0)
    assert run.values == json.loads((folder / "result.json").read_text())["config"]
    assert rows(server) == ALL
    assert [row["_step"] for row in run.history] == [1, 2, 4]
    assert [row["speed/train_seconds"] for row in run.history] == [0.5, 0.25, 0.125]
    assert [row.get("val/acc") for row in run.history] == [0.5, 0.875, 0.75]
    assert run.history[2]["val/r2"] != run.history[2]["val/r2"]
    assert run.history[2]["best/confusion"]["width"] == 30
    assert pictures(server) == [(folder / "plots" / "confusion.png").read_bytes()]
    summary = run.summary
    assert (summary["test/acc"], summary["lr"], summary["epoch"]) == (0.625, 0.05, 4)
    assert (summary["train/loss"], summary["val/acc"]) == ({"min": 0.25}, {"max": 0.875})

    receipt = json.loads((folder / "wandb.json").read_text())
    assert (receipt["id"], receipt["url"], receipt["rows"]) == ("a1b2", f"{server.url}/lab/jumpstart/runs/a1b2", 3)
    assert {path.name for path in folder.iterdir()} == before | {"wandb.json"}
    assert_no_key(folder)
    assert capfd.readouterr() == ("", "")

    seen = len(server.operations)
    assert send(folder, sweep="sweep0") is False
    assert len(server.operations) == seen


def test_failed_runs_and_many_share_one_service(tmp_path: Path, server: Server) -> None:
    assert send(ended(tmp_path / "one", "id1", "failed", error="NaN"), group="ours")
    service = os.environ["WANDB_SERVICE"]
    assert send(ended(tmp_path / "two", "id2"))
    assert os.environ["WANDB_SERVICE"] == service
    assert (server.runs["id1"].state, server.runs["id1"].exit_code, server.runs["id1"].group) == ("failed", 1, "ours")
    assert (server.runs["id2"].state, rows(server, "id2")) == ("finished", ALL)


def test_killed_upload_is_completed(tmp_path: Path, server: Server) -> None:
    folder = ended(tmp_path / "run")
    server.dies_after = 2
    code = (
        "import sys; from pathlib import Path; from regx.training.tracking.upload import upload\n"
        "upload(Path(sys.argv[1]), project='jumpstart', warn=print)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and ("a1b2" not in server.runs or len(server.runs["a1b2"].history) < 2):
        time.sleep(0.05)
    child.kill()
    child.wait()
    assert rows(server) == ALL[:2]
    assert server.runs["a1b2"].state == "running"
    assert not (folder / "wandb.json").exists()
    server.dies_after = None
    assert send(folder) is True
    assert rows(server) == ALL
    assert (server.runs["a1b2"].state, server.runs["a1b2"].summary["train/loss"]) == ("finished", {"min": 0.25})
    assert set(pictures(server)) == {(folder / "plots" / "confusion.png").read_bytes()}
    assert_no_key(folder)


def test_server_that_dies_is_said_and_the_next_call_goes_on(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ended(tmp_path / "run")
    server.dies_after = 1
    monkeypatch.setattr(runs, "FINISH_SECONDS", 1.0)
    with pytest.raises(RunFailed, match=r"W&B did not take .*another upload goes on from here") as error:
        send(folder)
    assert "\n" not in str(error.value)
    assert not (folder / "wandb.json").exists()
    server.dies_after = None
    monkeypatch.setattr(runs, "FINISH_SECONDS", 30.0)
    assert send(folder) is True
    assert (rows(server), server.runs["a1b2"].state) == (ALL, "finished")


def test_pictures_that_were_lost_are_sent_again(tmp_path: Path, server: Server) -> None:
    folder = ended(tmp_path / "run")
    send(folder)
    (folder / "wandb.json").unlink()
    server.runs["a1b2"].state = "running"
    assert send(folder) is True  # all was there
    assert (rows(server), server.runs["a1b2"].state) == (ALL, "finished")
    (folder / "wandb.json").unlink()
    server.runs["a1b2"].files.clear()
    assert send(folder) is True
    assert pictures(server) == [(folder / "plots" / "confusion.png").read_bytes()]
    last = server.runs["a1b2"].history[3:]
    assert rows_of(server.runs["a1b2"].history[:3]) == ALL
    assert [sorted(key for key in row if not key.startswith("_")) for row in last] == [["best/confusion", "epoch"]]


def test_run_that_was_tracked_online_is_left_alone(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "run"
    tracker = tracking.start(mode="online", run_dir=folder, config={}, warn=pytest.fail, run_id="a1b2")
    tracker.log({"train/loss": 0.75}, 1)
    tracker.finish()
    assert send(ended(folder)) is False
    assert [row["epoch"] for row in server.runs["a1b2"].history] == [1]


def test_what_a_replaced_run_left_does_not_count(tmp_path: Path, server: Server) -> None:
    folder = ended(tmp_path / "run")
    left = folder / "wandb" / "run-20260101_000000-other"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    assert send(folder) is True
    assert list(server.runs) == ["a1b2"]


def test_run_whose_connection_broke_is_completed(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ended(tmp_path / "run")
    said: list[str] = []
    monkeypatch.setattr(runs, "FINISH_SECONDS", 1.0)
    tracker = tracking.start(
        mode="online", run_dir=folder, config={}, warn=said.append, run_id="theirs", project="jumpstart"
    )
    tracker.log({"train/loss": 0.75}, 1)
    server.dies_after = 1
    tracker.log({"train/loss": 0.25}, 2)
    tracker.finish()
    assert tracker.sync_hint
    assert len(said) == 1
    import wandb

    wandb.teardown()
    server.dies_after = None
    monkeypatch.setattr(runs, "FINISH_SECONDS", 30.0)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"wandb": tracker.sync_hint}))
    assert send(folder) is True
    assert list(server.runs) == ["theirs"]
    assert rows(server, "theirs") == ALL


def test_what_cannot_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ended(tmp_path / "run")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    with pytest.raises(
        RunFailed, match=r"no API key for http://127\.0\.0\.1:1 .*the run folder is complete without it"
    ):
        send(folder)
    import wandb

    wandb.teardown()  # wandb reads its environment once
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with pytest.raises(RunFailed, match="does not answer"):
        send(folder)
    (folder / "metrics.csv").write_text("epoch,train/loss\n1,wrong\n")
    with pytest.raises(RunFailed, match="is damaged"):
        send(folder)
    (folder / "result.json").unlink()
    with pytest.raises(UserError, match="is no run folder"):
        send(folder)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abcd1234")
    with pytest.raises(UserError, match="WANDB_SWEEP_ID: is set"):
        send(ended(tmp_path / "other"))
