"""A trained network as a file for other programs, checked against the network on its own validation samples."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regx.errors import RunFailed, UserError, did_you_mean
from regx.training.folder import write_atomically
from regx.training.trained import Trained

# Form -> how its file's name ends.
FORMS = {"onnx": ".onnx", "torch-export": ".pt2", "state-dict": ".state_dict.pt"}
# Validation samples that the file is checked on.
SAMPLES = 64


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: the file.
        bytes: its size.
        shape: of the input, `batch` where any number of samples will do; None for weights alone.
        checked: what has computed its outputs; None where nothing could.
        samples: validation samples that were compared.
        difference: largest absolute difference of an output.
        relative: that, relative to the largest absolute output.
    """

    path: Path
    bytes: int
    shape: tuple[int | str, ...] | None
    checked: str | None
    samples: int = 0
    difference: float = 0.0
    relative: float = 0.0


def export(
    trained: Trained,
    to: str,
    out: Path | None = None,
    *,
    batch_size: int | None = None,
    opset: int | None = None,
    tolerance: float = 1e-4,
    force: bool = False,
) -> Exported:
    """Writes a network, checks what was written, and only then puts it in its place.

    Args:
        trained: the network, on the CPU.
        to: a key of `FORMS`.
        out: the file; `best.onnx`, say, in the run folder by default.
        batch_size: samples that the file takes at a time; None for any number.
        opset: ONNX's; None for PyTorch's default.
        tolerance: largest difference that is accepted, relative to the largest output.
        force: replace a file that is there.

    Raises:
        UserError: no such form, options that it does not have, a file that is there, or a package that is not.
        RunFailed: the network cannot be exported so, or the file computes something else.
    """
    _check(to, batch_size, opset, tolerance)
    out = out or trained.folder / f"{trained.checkpoint.stem}{FORMS[to]}"
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file in it", "out")
    if out.exists() and not force:
        raise UserError(f"{out} is there; choose another file, or --force replaces it", "out")
    model = copy.deepcopy(trained.model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    x = trained.sample(max(SAMPLES, batch_size or 0)).contiguous()
    if batch_size is not None:
        rows = torch.arange(max(len(x) // batch_size, 1) * batch_size) % len(x)
        x = x[rows]
    # A copy, as a program keeps the whole storage of its example.
    content, runs, checked = _WRITERS[to](model, x[: batch_size or 2].clone(), batch_size, opset)
    shape = None if to == "state-dict" else (batch_size or "batch", *x.shape[1:])
    if runs is None:
        difference = relative = 0.0
    else:
        difference, relative = _compare(model, x, runs, batch_size)
        if not relative <= tolerance:
            raise RunFailed(
                f"{checked} computes outputs that differ by {relative:.1e} of the largest, more than --tolerance"
                f" {tolerance:g}; nothing was written"
            )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, content)
    except OSError as error:
        raise RunFailed(f"cannot write {out}: {error.strerror}") from error
    return Exported(out, len(content), shape, checked, len(x) if runs else 0, difference, relative)


def _check(to: str, batch_size: int | None, opset: int | None, tolerance: float) -> None:
    if to not in FORMS:
        raise UserError(f"{to!r} is not among {', '.join(FORMS)}{did_you_mean(to, FORMS)}", "to")
    if to == "state-dict" and batch_size is not None:
        raise UserError("weights alone have no batches", "batch_size")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"{batch_size} is below 1", "batch_size")
    if opset is not None and to != "onnx":
        raise UserError(f"is for --to onnx, not {to}", "opset")
    if not tolerance >= 0:
        raise UserError(f"{tolerance:g} is no number from 0", "tolerance")
    if to == "onnx" and (
        missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    ):
        raise UserError(f"onnx needs {' and '.join(missing)}: pip install 'regx[export]'", "to")


# What runs a file: a batch -> its outputs.
Runs = Callable[[Tensor], Tensor]
Written = tuple[bytes, Runs | None, str | None]


def _state_dict(model: nn.Module, x: Tensor, batch_size: int | None, opset: int | None) -> Written:
    file = io.BytesIO()
    torch.save({name: tensor.detach().clone() for name, tensor in model.state_dict().items()}, file)
    again = copy.deepcopy(model)
    again.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    return file.getvalue(), again, "PyTorch"


def _program(model: nn.Module, x: Tensor, batch_size: int | None, opset: int | None) -> Written:
    file = io.BytesIO()
    with _quiet("torch-export", batch_size):
        torch.export.save(torch.export.export(model, (x,), dynamic_shapes=_dynamic(batch_size)), file)
        again = torch.export.load(io.BytesIO(file.getvalue())).module()
    return file.getvalue(), again, "PyTorch"


def _onnx(model: nn.Module, x: Tensor, batch_size: int | None, opset: int | None) -> Written:
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"]}
    with _quiet("onnx", batch_size), tempfile.TemporaryDirectory() as folder:
        program = torch.onnx.export(
            model, (x,), dynamo=True, dynamic_shapes=_dynamic(batch_size), opset_version=opset, **names
        )
        assert program is not None
        file = Path(folder) / "network.onnx"
        program.save(file, external_data=False)
        content = file.read_bytes()
    if opset is not None and (found := program.model.opset_imports[""]) != opset:
        raise UserError(f"PyTorch cannot write this network in {opset}, but in {found}", "opset")
    if importlib.util.find_spec("onnxruntime") is None:
        return content, None, None
    import onnxruntime

    with _quiet("onnx", batch_size):
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), "onnxruntime"


_WRITERS = {"onnx": _onnx, "torch-export": _program, "state-dict": _state_dict}


def _dynamic(batch_size: int | None) -> Any:
    return ({0: torch.export.Dim("batch")},) if batch_size is None else None


def _compare(model: nn.Module, x: Tensor, runs: Runs, batch_size: int | None) -> tuple[float, float]:
    """Largest difference, absolute and relative to the largest output; of any size of batch, one sample too."""
    sizes = [batch_size] * (len(x) // batch_size) if batch_size else [1, len(x) - 1] if len(x) > 1 else [1]
    with torch.no_grad():
        wanted = torch.cat([model(part) for part in x.split(sizes)])
        found = torch.cat([runs(part) for part in x.split(sizes)])
    largest = float((wanted - found).abs().max())
    return largest, largest / max(float(wanted.abs().max()), torch.finfo(wanted.dtype).tiny)


@contextlib.contextmanager
def _quiet(to: str, batch_size: int | None) -> Iterator[None]:
    """Keeps to itself what exporters say, unless they fail.

    Raises:
        RunFailed: they do.
    """
    said = io.StringIO()
    disabled = logging.root.manager.disable
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            logging.disable(logging.ERROR)
            yield
    except Exception as error:  # whatever PyTorch's exporters raise; the cause stays chained
        print(said.getvalue(), end="", file=sys.stderr)
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        instead = "; a fixed --batch-size may work" if batch_size is None else ""
        raise RunFailed(f"this network cannot be written as {to}: {reason[:300]}{instead}") from error
    finally:
        logging.disable(disabled)
