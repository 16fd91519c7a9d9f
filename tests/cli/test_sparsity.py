"""`regx sparsity`: what it prints of a run folder's weights.csv, and what it says where there is none."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from regx.cli.main import main
from regx.models import Rectangular
from regx.training.folder import write_csv
from regx.training.sparsity import SparsityMeter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("")
    return tmp_path


def written(folder: Path, *, images: bool = True) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    model = Rectangular((3, 8, 8) if images else (5,), 4, depth=3, width=40)
    model.get_parameter("hidden.layer1.weight").data[:10] = 0
    model.get_parameter("hidden.layer2.weight").data[:, :1] *= 1e-5
    model.get_parameter("head.weight").data[0, 0] = 0
    rows = SparsityMeter(model, None).table()
    write_csv(folder / "weights.csv", rows)
    return rows


class Done:
    """Exit code, stdout and stderr of a command run in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        with pytest.raises(SystemExit) as stop:
            main(["sparsity", *arguments])
        self.code = stop.value.code
        self.out, self.err = capsys.readouterr()


@pytest.mark.parametrize(("typed", "suffix"), [("0", ""), ("0.001", "_1e-3"), ("1e-2", "_1e-2"), ("1E-05", "_1e-5")])
def test_json_holds_the_columns_of_the_threshold(
    folder: Path, capsys: pytest.CaptureFixture[str], typed: str, suffix: str
) -> None:
    rows = written(folder)
    done = Done(capsys, str(folder), "-f", "json", "--threshold", typed)
    assert (done.code, done.err) == (0, "")
    units = ["columns", "rows", "channels", "kernels", "filters", "units", "elements"]
    plain = ["name", "shape", "dense", "nnz", "std", "mean", "abs_mean"]
    assert json.loads(done.out) == [
        {key: row[key] for key in plain} | {unit: row[unit + suffix] for unit in units} for row in rows
    ]


def test_table_has_a_line_per_layer_and_a_total(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = written(folder)
    done = Done(capsys, str(folder))
    lines = done.out.splitlines()
    assert lines[0] == f"{folder}: share of what is exactly zero, by unit"
    body = [line.split() for line in lines if ".weight" in line or line.strip().startswith("total")]
    assert [line[0] for line in body] == [row["name"] for row in rows]
    layer = body[1]
    # 10 of 40 filters are zero, and so are a quarter of the kernels and of the weights, but no channel.
    assert layer[1:4] == ["40x40x3x3", "14,400", "10,800"]
    assert layer[4:14] == ["0.0", "%", "25.0", "%", "25.0", "%", "25.0", "%", "25.0", "%"]
    # One of 320 weights is never rounded to none.
    head = body[3]
    assert head[1:4] == ["4x80", "320", "319"]
    assert head[-5:-3] == ["0.3", "%"]
    near = Done(capsys, str(folder), "--threshold", "1e-2").out
    assert near.startswith(f"{folder}: share of what is smaller than 1e-2, by unit")


def test_the_same_column_is_not_shown_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder, images=False)
    headings = Done(capsys, str(folder)).out.splitlines()[2].split()
    assert " ".join(headings) == "name shape dense nnz columns rows elements (fine) std mean abs mean"


def test_what_is_no_finished_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*arguments: str) -> str:
        done = Done(capsys, *arguments)
        assert (done.code, done.out) == (2, "")
        (line,) = done.err.splitlines()
        return line.removeprefix("regx: error: ")

    assert error(str(tmp_path / "no")) == f"no such run folder: {tmp_path / 'no'}"
    assert error(str(tmp_path)) == f"{tmp_path} is no run folder: it has no config.yaml"
    (tmp_path / "config.yaml").write_text("")
    table = tmp_path / "weights.csv"
    assert error(str(tmp_path)) == f"{table} is written at the end of the run; `regx resume {tmp_path}` finishes it"
    (tmp_path / "result.json").write_text("{}")
    assert error(str(tmp_path)).startswith(f"{table} does not exist: this run did not log sparsity")
    written(tmp_path)
    assert error(str(tmp_path), "--threshold", "0.1") == "--threshold: '0.1' was not counted; use 0, 1e-5, 1e-3, 1e-2"
    assert error(str(tmp_path), "--threshold", "small").startswith("--threshold: 'small' was not counted")
    assert "'xml'" in error(str(tmp_path), "-f", "xml")


@pytest.mark.parametrize("keep", [0, 1, 3, 400, 900])
def test_a_damaged_file_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str], keep: int) -> None:
    written(folder)
    path = folder / "weights.csv"
    path.write_bytes(path.read_bytes()[:keep])
    done = Done(capsys, str(folder))
    assert (done.code, done.out, done.err) == (1, "", f"regx: error: {path} is damaged: it is no complete table\n")


def test_looking_at_it_imports_no_torch(folder: Path) -> None:
    written(folder)
    code = (
        "import sys\nfrom regx.cli.main import main\n"
        f"try: main(['sparsity', {str(folder)!r}])\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "print(sorted({'torch', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "total" in done.stdout
