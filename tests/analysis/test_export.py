"""Exported files: what they compute beside the network itself, and what is refused before anything is written."""

import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regx.analysis import export as exports
from regx.analysis.export import FORMS, export
from regx.errors import RunFailed, UserError
from regx.models import Rectangular
from regx.training.trained import Trained, load
from tests.analysis.trained_by_hand import compact_folder, trained_run, zero_units

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime: pip install 'regx[export]'",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = trained_run(tmp_path_factory.mktemp("runs"))
    zero_units(found)
    return found


@pytest.fixture(scope="module")
def trained(run: Path) -> Trained:
    return load(run, devices="cpu")


@pytest.fixture(scope="module")
def small(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same, compact."""
    return load(compact_folder(run, tmp_path_factory.mktemp("small") / "run"), devices="cpu")


def outputs(trained: Trained, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return trained.model(x).numpy()


def test_a_state_dict_is_plain_tensors_that_any_program_loads(trained: Trained, tmp_path: Path) -> None:
    done = export(trained, "state-dict", tmp_path / "a" / "weights.pt")
    assert done.bytes == done.path.stat().st_size and done.path == tmp_path / "a" / "weights.pt"
    assert (done.shape, done.checked, done.difference) == (None, "PyTorch", 0)
    state = torch.load(done.path, weights_only=True)
    assert type(state) is dict and all(type(value) is Tensor for value in state.values())
    model = Rectangular((2,), 1, depth=2, width=6).eval()
    model.load_state_dict(state)
    x = torch.randn(9, 2)
    with torch.no_grad():
        np.testing.assert_array_equal(model(x).numpy(), outputs(trained, x))


@pytest.mark.parametrize("which", ["trained", "small"])
def test_a_program_takes_any_number_of_samples(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    trained = request.getfixturevalue(which)
    done = export(trained, "torch-export", tmp_path / "network.pt2")
    assert (done.shape, done.samples) == (("batch", 2), len(trained.data.val))
    program = torch.export.load(done.path).module()
    for samples in (1, 5, 40):
        x = torch.randn(samples, 2)
        np.testing.assert_allclose(program(x).detach().numpy(), outputs(trained, x), rtol=1e-5, atol=1e-6)


@needs_onnx
@pytest.mark.parametrize("which", ["trained", "small"])
def test_onnx_takes_any_number_of_samples(
    which: str, tmp_path: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    trained = request.getfixturevalue(which)
    done = export(trained, "onnx", tmp_path / "network.onnx")
    assert (done.shape, done.checked) == (("batch", 2), "onnxruntime")
    assert capfd.readouterr() == ("", ""), "exporters are silent"
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    for samples in (1, 5, 40):
        x = torch.randn(samples, 2)
        found: Any = session.run(["output"], {"input": x.numpy()})[0]
        np.testing.assert_allclose(found, outputs(trained, x), rtol=1e-5, atol=1e-6)


@needs_onnx
def test_onnx_of_fixed_batches_and_an_older_operator_set(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import onnx
    import onnxruntime

    done = export(trained, "onnx", tmp_path / "network.onnx", batch_size=5, opset=18)
    # 24 validation samples are four batches of 5.
    assert (done.shape, done.samples) == ((5, 2), 20)
    assert onnx.load(done.path).opset_import[0].version == 18
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [5, 2]
    with pytest.raises(UserError, match=r"^opset: PyTorch cannot write this network in 5, but in \d+$"):
        export(trained, "onnx", tmp_path / "other.onnx", opset=5)
    assert not (tmp_path / "other.onnx").exists()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], "exporters are silent"


@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_computes_something_else_is_not_written(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    def off(model: nn.Module, x: Tensor, *_: Any) -> Any:
        return b"wrong", lambda x: model(x) * (1 + 2e-4), "something"

    monkeypatch.setitem(exports._WRITERS, "torch-export", off)
    path = tmp_path / "network.pt2"
    if force:
        path.write_text("earlier")
    with pytest.raises(RunFailed, match=r"something computes outputs that differ by 2\.0e-04 .* --tolerance 0\.0001"):
        export(trained, "torch-export", path, force=force)
    assert [p.name for p in tmp_path.iterdir()] == (["network.pt2"] if force else [])
    assert not force or path.read_text() == "earlier"
    done = export(trained, "torch-export", path, tolerance=1e-3, force=force)
    assert path.read_bytes() == b"wrong"
    assert done.relative == pytest.approx(2e-4, rel=1e-2)
    assert done.difference == pytest.approx(2e-4 * abs(outputs(trained, trained.data.val.x)).max(), rel=1e-2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_outputs_that_are_no_numbers_are_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setitem(exports._WRITERS, "torch-export", lambda model, *_: (b"", lambda x: model(x) * value, "x"))
    with pytest.raises(RunFailed, match="nothing was written"):
        export(trained, "torch-export", tmp_path / "network.pt2")


class Asks(nn.Module):
    """Decides by a number that only a run knows, which no program can hold."""

    def forward(self, x: Tensor) -> Tensor:
        print("seen")
        return x if x.sum() > 0 else -x


def test_a_network_that_cannot_be_exported_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        RunFailed, match=r"^this network cannot be written as torch-export: .*--batch-size may work$"
    ) as e:
        exports._program(Asks(), torch.randn(2, 2), None, None)
    assert "\n" not in e.value.message
    assert "seen" in capsys.readouterr().err, "what the exporter has said helps where it fails"


def test_the_file_has_a_name_in_the_run_folder(run: Path) -> None:
    trained = load(run, devices="cpu")
    done = export(trained, "state-dict")
    assert done.path == run / "best.state_dict.pt"
    with pytest.raises(UserError, match=r"^out: .*best\.state_dict\.pt is there; .*--force replaces it$"):
        export(trained, "state-dict")
    assert export(trained, "state-dict", force=True).path == done.path


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("onxn", {}, r"^to: 'onxn' is not among onnx, torch-export, state-dict; did you mean 'onnx'\?$"),
        ("state-dict", {"batch_size": 3}, "^batch_size: weights alone have no batches$"),
        ("torch-export", {"batch_size": 0}, "^batch_size: 0 is below 1$"),
        ("torch-export", {"opset": 18}, "^opset: is for --to onnx, not torch-export$"),
        ("torch-export", {"tolerance": -1.0}, "^tolerance: -1 is no number from 0$"),
        ("torch-export", {"tolerance": float("nan")}, "^tolerance: nan is no number from 0$"),
    ],
)
def test_requests_that_make_no_sense(trained: Trained, to: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        export(trained, to, Path("never"), **options)


def test_a_folder_is_no_file(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^out: .* is a folder; name a file in it$"):
        export(trained, "state-dict", tmp_path)


def test_a_missing_package_is_named_with_the_command(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(UserError, match=r"^to: onnx needs .*onnxscript: pip install 'regx\[export\]'$"):
        export(trained, "onnx", tmp_path / "network.onnx")


@needs_onnx
def test_without_onnxruntime_nothing_is_said_to_be_checked(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    done = export(trained, "onnx", tmp_path / "network.onnx")
    assert (done.checked, done.samples) == (None, 0) and done.path.is_file()


def test_every_form_is_written_somehow() -> None:
    assert set(FORMS) == set(exports._WRITERS)
