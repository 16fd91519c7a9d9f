"""Files of a run folder are whole or absent, and damaged ones are said to be so."""

import json
from pathlib import Path

import pytest
import torch

from regx.errors import RunFailed, UserError
from regx.training.experiments import RectangularConfig
from regx.training.folder import (
    CHECKPOINT_FORMAT,
    MetricsFile,
    RunFolder,
    load_checkpoint,
    save_checkpoint,
    to_json,
    write_atomically,
    write_csv,
)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", no_room)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"], "nothing half-written is left"


def test_checkpoint_round_trip_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 3, "model": {"w": torch.arange(4.0)}, "best": {"row": {"val/acc": 0.5}}})
    state = load_checkpoint(path)
    assert state["epoch"] == 3
    assert torch.equal(state["model"]["w"], torch.arange(4.0))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RunFailed, match=r"last\.pt is damaged"):
        load_checkpoint(path)
    save_checkpoint(path, {"epoch": 3, "hash": "abc"})
    with pytest.raises(RunFailed, match=r"last\.pt was written by another version of regx; delete it"):
        load_checkpoint(path, "abc")
    save_checkpoint(path, {"epoch": 3, "hash": "abc", "format": CHECKPOINT_FORMAT})
    assert load_checkpoint(path, "abc")["epoch"] == 3
    with pytest.raises(RunFailed, match=r"has changed since .*last\.pt"):
        load_checkpoint(path, "abd")
    torch.save({"other": 1}, path)
    with pytest.raises(RunFailed, match="no checkpoint of regx"):
        load_checkpoint(path)


def test_metrics_file_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    for epoch in range(1, 6):
        file.append({"epoch": epoch, "val/acc": epoch / 10})
    file.close()
    with path.open("a") as torn:
        torn.write("6,0.")
    file = MetricsFile(path, keep_to=3)
    file.append({"epoch": 4, "val/acc": 0.25})
    file.close()
    assert path.read_text() == "epoch,val/acc\n1,0.1\n2,0.2\n3,0.3\n4,0.25\n"


@pytest.mark.parametrize("content", [None, "", "loss\n0.5\n", "epoch,loss\nx,1\n"])
def test_damaged_metrics_are_said_to_be_so(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "metrics.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RunFailed, match=r"metrics\.csv is damaged; delete .*last\.pt"):
        MetricsFile(path, keep_to=1)


def test_json_has_no_nan() -> None:
    assert json.loads(to_json({"a": float("nan"), "b": [float("inf"), 1.0], "c": {"d": 2}})) == {
        "a": None,
        "b": [None, 1.0],
        "c": {"d": 2},
    }


def test_folder_is_locked_for_others(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.held(), pytest.raises(RunFailed, match="in use by another process"), RunFolder(tmp_path).held():
        pass
    with RunFolder(tmp_path).held():
        pass


def test_identity_survives_a_resume_and_a_new_start_has_another(tmp_path: Path) -> None:
    folder, config = RunFolder(tmp_path), RectangularConfig()
    first = folder.create(config, ["regx", "rectangular"])
    assert folder.create(config, ["regx", "resume"]) == first
    environment = json.loads(folder.env.read_text())
    assert environment["argv"] == ["regx", "rectangular"]
    assert [session["argv"] for session in environment["resumed"]] == [["regx", "resume"]]
    folder.clear()
    assert folder.create(config, []) != first


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run folder: it has no config\.yaml"):
        RunFolder(tmp_path).read_config()
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(RunFailed, match=r"result\.json is corrupt"):
        RunFolder(tmp_path).read_result()


def test_a_table_is_written_as_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_csv(path, [{"a": 1, "b": "x,y"}, {"a": 2.5, "b": ""}])
    assert path.read_text() == 'a,b\n1,"x,y"\n2.5,\n'
