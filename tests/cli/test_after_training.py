"""`regx cost`, `regx sensitivity` and `regx export`: what they print, and what they say of mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from regx.training.folder import load_checkpoint, save_checkpoint
from tests.analysis.trained_by_hand import trained_run, zero_units
from tests.cli.done import Done

COMMANDS = ("cost", "sensitivity", "export")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = trained_run(tmp_path_factory.mktemp("runs"))
    zero_units(found)
    return found


def typed(command: str, *arguments: str) -> list[str]:
    """With what the command cannot do without."""
    return [command, *arguments, *(["--to", "state-dict"] if command == "export" else [])]


def test_cost_prints_the_networks_side_by_side(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "cost", str(run), "--layers", "--repeats", "2", "-b", "3")
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert ["dense", "67", "54"] in [line[:3] for line in lines]
    assert ["compact", "49", "(73.1", "%)", "38", "(70.4", "%)"] in [line[:7] for line in lines]
    (header,) = (line for line in done.out.splitlines() if "latency in ms" in line)
    assert "speed-up against masked" in header
    times = {line[1]: line for line in lines if line[:1] == ["3"]}
    assert list(times) == ["dense", "masked", "compact"]
    # Latency with its quartiles, samples per second, memory: a masked network has no speed-up.
    assert len(times["masked"]) == len(times["dense"]) == len(times["compact"]) - 3
    assert ["hidden.layer0", "6", "->", "4", "18", "->", "12", "67", "%"] in [line[:9] for line in lines]
    assert "zeros alone save neither memory nor time" in done.out


def test_cost_as_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["cost", str(run), "-f", "json", "--repeats", "5", "--threads", "2", "-b", "1", "-b", "64", "--layers"]
    found = json.loads(Done(capsys, *arguments).out)
    assert (found["device"], found["threads"], found["repeats"]) == ("cpu", 2, 5)
    assert {name: (of["parameters"], of["macs"]) for name, of in found["networks"].items()} == {
        "dense": (67, 54),
        "masked": (67, 54),
        "compact": (49, 38),
    }
    passes = {(item["network"], item["batch_size"]): item for item in found["passes"]}
    assert len(passes) == 6
    for (name, size), item in passes.items():
        assert item["latency_q1_s"] <= item["latency_s"] <= item["latency_q3_s"]
        assert item["samples_per_s"] == pytest.approx(size / item["latency_s"])
        assert (item["speed_up"] is not None) == (name == "compact")
    up = passes["compact", 64]["speed_up"]
    assert up["against"] == "masked" and up["q1"] <= up["q3"]
    assert up["ratio"] == pytest.approx(passes["masked", 64]["latency_s"] / passes["compact", 64]["latency_s"])
    assert passes["dense", 64]["peak_bytes"] == 64 * passes["dense", 1]["peak_bytes"] == 64 * 4 * 12
    assert found["layers"][-1]["parameters_left"] == 49


def test_sensitivity_prints_a_table_and_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["sensitivity", str(run), "--levels", "0.5", "--layers", "hidden.*", "--out", "here"]
    done = Done(capsys, *arguments)
    assert (done.code, done.err) == (0, "")
    assert "most sensitive, where about half of the elements of one weight are zero" in done.out
    assert done.out.count(".weight ") == 2
    assert done.out.splitlines()[-3:] == [f"here/elements-val.{kind}" for kind in ("csv", "png", "svg")]
    rows = Path("here/elements-val.csv").read_text()
    assert rows.count("\n") == 1 + 2 * 2
    again = Done(capsys, *arguments)
    assert "4 of 4 rows were measured before" in again.out and Path("here/elements-val.csv").read_text() == rows


def test_sensitivity_that_is_stopped_says_how_it_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from regx.training.trained import Trained

    calls, evaluate = [], Trained.evaluate

    def stopped(self: Trained, *arguments: object) -> dict[str, float]:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Trained, "evaluate", stopped)
    done = Done(capsys, "sensitivity", str(run), "--levels", "0.5,0.9", "--out", "here")
    assert (done.code, done.out) == (130, "")
    assert done.err == "interrupted; here/elements-val.csv has what is measured, and the same command goes on there\n"
    assert Path("here/elements-val.csv").read_text().count("\n") == 3


def test_nothing_zeroed_is_told_beside_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained_run(tmp_path, epochs=3)
    done = Done(capsys, "sensitivity", str(run), "--levels", "0.5")
    best = json.loads((run / "result.json").read_text())["best"]["val/acc"]
    assert f"nothing zeroed: val/acc {best:.4f}, as in the run" in done.out
    assert (run / "sensitivity" / "elements-val.png").is_file()
    state = load_checkpoint(run / "checkpoints" / "best.pt")
    state["model"]["head.weight"].neg_()
    save_checkpoint(run / "checkpoints" / "best.pt", state)
    done = Done(capsys, "sensitivity", str(run), "--levels", "0.5", "--out", "other")
    assert f"but the run had {best:.4f}" in done.out


def test_export_prints_file_size_and_difference(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "export", str(run), "--to", "torch-export", "--out", "network.pt2", "-b", "4")
    first, second = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert first.startswith("network.pt2 (") and first.endswith("kB, input 4 x 2)")
    assert second == "outputs by PyTorch on 24 validation samples are the same"
    assert torch.export.load("network.pt2").module()(torch.zeros(4, 2)).shape == (4, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        *([typed(name, "nowhere"), 2, "there is no run folder or checkpoint nowhere"] for name in COMMANDS),
        (["cost", "RUN", "--device", "gpu"], 2, "--device: 'gpu' is not auto, cpu, cuda or cuda:N"),
        (["cost", "RUN", "--repeats", "0"], 2, "--repeats: 0 is below 1"),
        (["cost", "RUN", "-b", "0"], 2, "--batch-size: 0 is below 1"),
        (["cost", "RUN", "-f", "xml"], 2, "--format: 'xml' is not among table, json"),
        (["sensitivity", "RUN", "--on", "train"], 2, "--on: 'train' is not among val, test"),
        (["sensitivity", "RUN", "--levels", "half"], 2, "--levels: 'half' is no first:last:step"),
        (["sensitivity", "RUN", "--layers", "fc"], 2, "--layers: 'fc' matches no weight"),
        (["sensitivity", "RUN", "--structure", "rows"], 2, "--structure: 'rows' cannot be zeroed"),
        (["sensitivity", "RUN", "--out", "config.yaml"], 1, "cannot write config.yaml: File exists"),
        (["export", "RUN", "--to", "tflite"], 2, "--to: 'tflite' is not among onnx, torch-export, state-dict"),
        (["export", "RUN", "--to", "torch-export", "-b", "some"], 2, "--batch-size: 'some' is not dynamic"),
        (typed("export", "RUN", "--out", "config.yaml/x"), 1, "cannot write config.yaml/x"),
    ],
)
def test_mistakes_are_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    Path("config.yaml").write_text("")
    done = Done(capsys, *(str(run) if argument == "RUN" else argument for argument in arguments))
    (line,) = done.err.splitlines()
    assert (done.code, done.out) == (code, "")
    assert line.startswith(f"regx: error: {message}"), line


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_no_torch(command: str) -> None:
    code = (
        "import sys\nfrom regx.cli.main import main\n"
        f"try: main([{command!r}, '--help'])\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "print(sorted({'torch', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert f"regx {command} runs/NAME" in done.stdout
