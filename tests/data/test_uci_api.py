"""UCI's API against a loopback server; `ucimlrepo` itself is the independent truth for what an answer means."""

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ucimlrepo import fetch as ucimlrepo_fetch
from ucimlrepo import fetch_ucirepo

import regx.data as data
from regx.data import uci_api
from regx.errors import RunFailed, UserError

ROLES = {
    "kind": "Target",
    "width": "Feature",
    "colour": "Feature",
    "height": "Feature",
    "number": "ID",
    "page": "Other",
}
CSV = "number,height,width,colour,page,kind\n" + "".join(
    f"9{row},{row % 7},{row % 5 + 0.5 if row % 6 else ''},{('red', 'blue')[row % 2]},{row},{'ab'[row % 3 == 0]}\n"
    for row in range(30)
)


def labels_of(module: data.DataModule) -> torch.Tensor:
    return torch.cat([part.y for part in (module.train, module.val, module.test) if part is not None])


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_the_answer_means_what_ucimlrepo_says(uci, tmp_path: Path) -> None:
    uci.add(900, "Leaves", ROLES, CSV)
    answer, folder = uci_api.get(900, tmp_path, label="uci:900")
    truth: Any = fetch_ucirepo(id=900)
    frame: Any = answer.frame
    features = frame.drop(columns=list(answer.targets))
    pd.testing.assert_frame_equal(features[list(truth.data.features.columns)], truth.data.features)
    pd.testing.assert_frame_equal(frame[list(answer.targets)], truth.data.targets)
    assert answer.unused == ("number", "page") and answer.name == truth.metadata.name
    assert folder == tmp_path / "uci" / "900"


def test_features_come_in_the_order_of_the_csv(uci, tmp_path: Path) -> None:
    uci.add(900, "Leaves", ROLES, CSV)
    module = data.create("uci:900", data_dir=str(tmp_path))
    assert module.features == ("height", "width", "colour=blue", "colour=red")
    assert module.classes == ("a", "b") and torch.bincount(labels_of(module)).tolist() == [20, 10]
    assert any("Leaves" in note and str(tmp_path / "uci" / "900") in note for note in module.notes)
    assert any("number, page" in note for note in module.notes)


def test_bodies_are_cached_as_they_came_and_the_network_is_asked_once(uci, tmp_path: Path) -> None:
    uci.add(900, "Leaves", ROLES, CSV)
    folder = data.fetch("uci:900", tmp_path)
    assert isinstance(folder, Path)
    assert (folder / "data.csv").read_bytes() == CSV.encode()
    assert json.loads((folder / "dataset.json").read_bytes())["data"] == uci.sets[900][0]
    source = json.loads((folder / "source.json").read_text())
    for name in ("dataset.json", "data.csv"):
        assert source[name]["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert source["data.csv"]["url"].endswith("/static/public/900/data.csv") and source["time"].endswith("+00:00")
    assert sorted(path.name for path in folder.iterdir()) == ["data.csv", "dataset.json", "source.json"]
    first = data.create("uci:900", data_dir=str(tmp_path))
    assert len(uci.requests) == 2
    again = data.create("uci:leaves", data_dir=str(tmp_path))
    assert len(uci.requests) == 2 and torch.equal(first.train.x, again.train.x)


def test_files_placed_by_hand_need_no_checksums_and_no_network(uci, tmp_path: Path) -> None:
    uci.add(900, "Leaves", ROLES, CSV)
    folder = tmp_path / "uci" / "900"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"status": 200, "data": uci.sets[900][0]}))
    (folder / "data.csv").write_text(CSV)
    assert len(labels_of(data.create("uci:900", data_dir=str(tmp_path)))) == 30
    assert uci.requests == []


def send(status: int = 200, body: bytes = b"", announced: int | None = None):
    def fault(handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if announced is None else announced))
        handler.end_headers()
        handler.wfile.write(body)

    return fault


def drop(handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def wire(**changes: object) -> bytes:
    metadata = {"uci_id": 900, "name": "Leaves", "data_url": "http://127.0.0.1:9/data.csv", "variables": []}
    return json.dumps({"status": 200, "data": metadata | changes}).encode()


FAILURES = {
    "api 404": ("api", send(404), "UCI answered HTTP 404"),
    "api 500": ("api", send(500), "UCI answered HTTP 500"),
    "api status": (
        "api",
        send(body=b'{"status": 404, "message": "No\\ndataset"}'),
        "UCI says 'No dataset' (status 404)",
    ),
    "not served": ("api", send(body=wire(data_url=None)), "its API does not serve it"),
    "strange url": ("api", send(body=wire(data_url="file:///etc/hostname")), "'file:///etc/hostname'"),
    "not json": ("api", send(body=b"<!DOCTYPE html>\n<html>"), "is not JSON (it begins '<!DOCTYPE html>')"),
    "another api": ("api", send(body=b'{"ok": true, "data": {}}'), "has no status, its API may have changed"),
    "no data": ("api", send(body=b'{"status": 200}'), "has no data"),
    "json list": ("api", send(body=b"[]"), "has no status"),
    "api cut": ("api", send(body=b'{"status"', announced=500), "cut short after 9 of 500 bytes"),
    "api dropped": ("api", drop, "broke"),
    "csv 404": ("csv", send(404), "UCI answered HTTP 404"),
    "csv 500": ("csv", send(500), "UCI answered HTTP 500"),
    "header only": ("csv", send(body=CSV.split("\n")[0].encode() + b"\n"), "data.csv has no rows"),
    "empty": ("csv", send(), "data.csv is empty"),
    "html": ("csv", send(body=b"<!DOCTYPE html>\n<html>"), "lacks the variable 'kind' (it begins '<!DOCTYPE html>')"),
    "lacks a variable": ("csv", send(body=CSV.replace("kind", "sort").encode()), "lacks the variable 'kind'"),
    "ragged": ("csv", send(body=CSV.encode() + b"1,2,3,4,5,6,7,8,9\n"), "is not a table"),
    "csv cut": ("csv", send(body=CSV.encode()[:200], announced=len(CSV)), f"cut short after 200 of {len(CSV)} bytes"),
    "csv dropped": ("csv", drop, "broke"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_every_failure_is_one_line_and_leaves_no_cache(case: str, uci, tmp_path: Path) -> None:
    uci.add(900, "Leaves", ROLES, CSV)
    kind, fault, says = FAILURES[case]
    uci.faults[kind] = fault
    for call in (lambda: data.create("uci:900", data_dir=str(tmp_path)), lambda: data.fetch("uci:900", tmp_path)):
        with pytest.raises(RunFailed) as error:
            call()
        text = one_line(error)
        assert text.startswith("uci:900: ") and says in text
        assert str(tmp_path / "uci" / "900") in text and "by hand" in text
        assert not list(tmp_path.rglob("*.csv")) and not list(tmp_path.rglob("*.json"))
    del uci.faults[kind]  # nothing stands in the way of the next try
    assert len(labels_of(data.create("uci:900", data_dir=str(tmp_path)))) == 30


@pytest.mark.parametrize("kind", ["api", "csv"])
def test_a_server_that_hangs_is_given_up(kind: str, uci, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uci_api, "TIMEOUT_S", 0.2)
    uci.add(900, "Leaves", ROLES, CSV)
    uci.faults[kind] = lambda handler: uci.release.wait(10)
    with pytest.raises(RunFailed) as error:
        data.create("uci:900", data_dir=str(tmp_path))
    assert "within 0.2 s" in one_line(error)
    assert socket.getdefaulttimeout() is None


def test_a_server_that_drips_is_given_up(uci, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uci_api, "DEADLINE_S", 0.0)
    uci.add(900, "Leaves", ROLES, CSV)
    with pytest.raises(RunFailed) as error:
        data.create("uci:900", data_dir=str(tmp_path))
    assert "within" in one_line(error)


def test_unknown_roles_and_other_sets_are_refused(uci, tmp_path: Path) -> None:
    uci.add(900, "Leaves", ROLES | {"page": "Weight"}, CSV)
    with pytest.raises(RunFailed, match="variable 'page' the unknown role 'Weight'"):
        data.create("uci:900", data_dir=str(tmp_path))
    uci.add(901, "Leaves", ROLES, CSV)
    uci.sets[901][0]["uci_id"] = 17
    with pytest.raises(RunFailed, match=r"answered with another dataset, 17 \(Leaves\)"):
        data.create("uci:901", data_dir=str(tmp_path))


def test_additional_info_is_not_needed(uci, tmp_path: Path) -> None:
    uci.add(900, "Leaves", ROLES, CSV)
    del uci.sets[900][0]["additional_info"]
    assert len(labels_of(data.create("uci:900", data_dir=str(tmp_path)))) == 30


def test_offline_says_which_set_which_folder_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(ucimlrepo_fetch, "API_BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}/api/dataset")
        for name, uci_id, place in (
            ("uci:900", 900, tmp_path / "uci" / "900" / "data.csv"),
            ("credit_approval", 27, tmp_path / "uci" / "credit-approval" / "crx.data"),
        ):
            with pytest.raises(RunFailed) as error:
                data.create(name, data_dir=str(tmp_path))
            text = one_line(error)
            assert text.startswith(f"{name}: cannot reach 127.0.0.1")
            assert f"not cached in {tmp_path / 'uci' / str(uci_id)}" in text and str(place) in text
        with pytest.raises(RunFailed, match="nothing of that name is cached in"):
            data.create("uci:leaves", data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["dataset.json", "data.csv"])
def test_a_corrupt_cache_is_named_and_not_replaced(name: str, uci, tmp_path: Path) -> None:
    uci.add(900, "Leaves", ROLES, CSV)
    folder = data.fetch("uci:900", tmp_path)
    assert isinstance(folder, Path)
    damaged = (folder / name).read_bytes().replace(b"1", b"2", 1)
    (folder / name).write_bytes(damaged)
    for call in (lambda: data.create("uci:900", data_dir=str(tmp_path)), lambda: data.fetch("uci:900", tmp_path)):
        with pytest.raises(RunFailed) as error:
            call()
        assert f"{folder / name} is corrupt" in one_line(error) and f"delete the folder {folder}" in str(error.value)
    assert (folder / name).read_bytes() == damaged and len(uci.requests) == 2


def test_corrupt_checksums_and_half_a_cache(uci, tmp_path: Path) -> None:
    uci.add(900, "Leaves", ROLES, CSV)
    folder = data.fetch("uci:900", tmp_path)
    assert isinstance(folder, Path)
    (folder / "source.json").write_text("{")
    with pytest.raises(RunFailed, match=r"source\.json is corrupt; delete the folder"):
        data.create("uci:900", data_dir=str(tmp_path))
    (folder / "source.json").unlink()
    (folder / "data.csv").write_text("cut")
    with pytest.raises(RunFailed, match=r"data\.csv cannot be used: .* lacks the variable 'kind'"):
        data.create("uci:900", data_dir=str(tmp_path))
    (folder / "data.csv").unlink()  # what a killed download leaves
    assert len(labels_of(data.create("uci:900", data_dir=str(tmp_path)))) == 30


def test_a_killed_write_leaves_no_cache(uci, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uci.add(900, "Leaves", ROLES, CSV)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(uci_api.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            data.fetch("uci:900", tmp_path)
    assert list((tmp_path / "uci" / "900").iterdir()) == []
    assert data.fetch("uci:900", tmp_path) == tmp_path / "uci" / "900"


def test_a_folder_that_cannot_be_written_is_named(uci, tmp_path: Path) -> None:
    uci.add(900, "Leaves", ROLES, CSV)
    (tmp_path / "uci").write_text("a file")
    with pytest.raises(RunFailed) as error:
        data.fetch("uci:900", tmp_path)
    assert "cannot write the cache folder" in one_line(error)


def test_a_name_must_be_equal_not_a_part(uci, tmp_path: Path) -> None:
    uci.add(901, "Oak Leaves", ROLES, CSV)
    uci.add(902, "Elm Leaves", ROLES, CSV.replace("red", "green"))
    uci.add(903, "Leaves", ROLES, CSV.replace("red", "brown"))
    assert data.fetch("uci:leaves", tmp_path) == tmp_path / "uci" / "903"
    assert data.fetch("uci:Elm_Leaves", tmp_path) == tmp_path / "uci" / "902"
    with pytest.raises(UserError) as error:
        data.create("uci:eave", data_dir=str(tmp_path))
    text = one_line(error)
    assert error.value.exit_code == 2
    assert all(candidate in text for candidate in ("uci:901 (Oak Leaves)", "uci:902 (Elm Leaves)", "uci:903 (Leaves)"))
    with pytest.raises(UserError, match="uci:roots: UCI has no dataset of that name"):
        data.create("uci:roots", data_dir=str(tmp_path))
    uci.faults["list"] = send(500)  # the list only serves messages
    with pytest.raises(UserError, match=r"choose one of uci:901 \(Oak Leaves\)"):
        data.create("uci:oak", data_dir=str(tmp_path))


def test_a_known_set_has_the_same_classes_from_the_api(uci, tmp_path: Path) -> None:
    roles = {"A16": "Target", **{f"A{i}": "Feature" for i in range(15, 0, -1)}}
    row = "{},{}," + ",".join("1.5" if i % 2 else "2.5" for i in range(12)) + ",{},{}\n"
    csv = ",".join(f"A{i}" for i in range(1, 17)) + "\n"
    csv += "".join(row.format("ab"[i % 2], "" if i < 3 else i, i * i, "-+"[i % 4 == 0]) for i in range(40))
    uci.add(27, "Credit Approval", roles, csv)
    for name in ("credit_approval", "uci:27", "uci:Credit Approval"):
        module = data.create(name, data_dir=str(tmp_path))
        assert module.classes == ("-", "+") and torch.bincount(labels_of(module)).tolist() == [30, 10]
        assert module.features == ("A1=a", "A1=b", "A2", "A15")
        assert any("this copy has 40 rows, 690 are documented" in note for note in module.notes)


def test_rows_without_a_label_are_left_out_and_counted(uci, tmp_path: Path) -> None:
    uci.add(900, "Leaves", ROLES, CSV + "1,2,3,red,5,\n1,2,3,red,5,?\n")
    module = data.create("uci:900", data_dir=str(tmp_path))
    assert len(labels_of(module)) == 30
    assert any("dropped 2 of 32 rows: no value of kind" in note for note in module.notes)


def test_targets_and_tasks(uci, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    body = "".join(f"{a:.3f},{b:.3f},{i % 4},{'xy'[i % 2]}\n" for i, (a, b) in enumerate(rng.normal(size=(40, 2))))
    csv = "a,b,c,d\n" + body
    folder = str(tmp_path)
    uci.add(910, "Two numbers", {"a": "Target", "b": "Target", "c": "Feature"}, csv, tasks=("Regression",))
    module = data.create("uci:910", data_dir=folder)
    assert module.task == "regression" and module.train.y.shape == (24, 2) and len(module.target_std) == 2
    uci.add(911, "Whole numbers", {"c": "Target", "b": "Feature"}, csv, tasks=())
    assert data.create("uci:911", data_dir=folder).classes == ("0", "1", "2", "3")
    assert data.create("uci:911", data_dir=folder, task="regression").task == "regression"
    uci.add(912, "Said to be regression", {"c": "Target", "b": "Feature"}, csv, tasks=("Regression",))
    assert data.create("uci:912", data_dir=folder).task == "regression"
    uci.add(913, "Two kinds", {"c": "Target", "d": "Target", "b": "Feature"}, csv)
    with pytest.raises(UserError, match=r"target: uci:913 has 2 targets \('c', 'd'\)"):
        data.create("uci:913", data_dir=folder)
    assert data.create("uci:913", data_dir=folder, target="d").classes == ("x", "y")
    uci.add(914, "None", {"b": "Feature", "d": "Feature"}, csv)
    with pytest.raises(UserError, match="target: UCI names no target for uci:914; choose one of 'b', 'd'"):
        data.create("uci:914", data_dir=folder)
    uci.add(915, "Index", {"a": "Feature", "b": "Feature", "d": "Target"}, csv, index_col=["a"])
    assert data.create("uci:915", data_dir=folder).features == ("b",)
    with pytest.raises(UserError, match="target: uci:915 has no column 'dd'; did you mean 'd'"):
        data.create("uci:915", data_dir=folder, target="dd")


@pytest.mark.parametrize("name", ["uci:", "uci: ", "uci:0"])
def test_names_that_name_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        data.create(name, data_dir=str(tmp_path))
