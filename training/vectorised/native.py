"""The native engine: whole epochs of many small dense networks in one call of a C++ function, compiled on this machine.

`native.cpp` is compiled on first need, for one width and one activation, by the C++ compiler of the machine ($CXX, else
c++, g++ or clang++), and kept in the user's cache folder. All tensors are contiguous and on the CPU.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.errors import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

ACTIVATIONS = ("relu", "leaky_relu", "elu", "selu", "silu", "tanh", "sigmoid", "identity")
# What the ten columns of `Measured.status` are, as `regx.training.status` sums them up.
STATUS = (
    *("positive_unit", "negative_unit", "positive_point", "negative_point", "points_dead", "points_linear"),
    *("points_nonlinear", "cells_dead", "cells_linear", "cells_efficient"),
)
_SOURCE = Path(__file__).with_name("native.cpp")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC", "-pthread")
_TASKS = ("binary", "multiclass", "regression")
_OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class Parameters:
    """float32 parameters of R networks with F inputs, L layers of W units and K outputs, or a moment of each.

    Attributes:
        w0: (R, W, F) weights of the first layer.
        wh: (L - 1, R, W, W) weights of the other layers.
        bias: (L, R, W) biases of all layers.
        whead: (R, K, W) weights of the head.
        bhead: (R, K) biases of the head.
    """

    w0: Tensor
    wh: Tensor
    bias: Tensor
    whead: Tensor
    bhead: Tensor


@dataclass(frozen=True)
class Constraints:
    """Jumpstart with `aggr=balanced` and `tie_breaking=single`: the weights of its four constraints, and its margins.

    The weights are rho, or 1 - rho for the negative ones, and 0 where the mode leaves a constraint out.
    """

    unit_positive: float = 0.0
    unit_negative: float = 0.0
    point_positive: float = 0.0
    point_negative: float = 0.0
    positive_margin: float = 1.0
    negative_margin: float = -1.0


@dataclass(frozen=True)
class Measured:
    """Sums over the batches of an epoch, or over the pieces of an evaluation.

    A run that has met a NaN has NaN losses, and its counts mean nothing.

    Attributes:
        losses: (R, 2) float64: task loss and Jumpstart's value, each times the rows of its batch.
        counts: (R, 1) float64 hits of a classification, or (R, 2 K) squared errors of all targets, then absolute ones.
        status: (R, 10) float64, the columns of `STATUS`.
        ever_positive: (R, L, W) bool: the unit's largest pre-activation was above 0 in some batch.
        ever_nonpositive: (R, L, W) bool: its smallest one was 0 or below in some batch.
    """

    losses: Tensor
    counts: Tensor
    status: Tensor
    ever_positive: Tensor
    ever_nonpositive: Tensor


class _Tensors(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("w0", "wh", "bias", "whead", "bhead")]


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class _Call(ctypes.Structure):
    """`Call` of native.cpp."""

    _fields_ = [
        *_fields(ctypes.c_int64, "runs rows features layers outputs batch steps used"),
        *_fields(ctypes.c_int64, "shared_x shared_y task optimizer nesterov train record threads scratch_per_thread"),
        *_fields(ctypes.c_void_p, "x y order"),
        *_fields(_Tensors, "weights first second"),
        *_fields(ctypes.c_void_p, "lr decay decay_biases momentum strength clip grad_clip t"),
        *_fields(ctypes.c_double, " ".join(item.name for item in fields(Constraints))),
        *_fields(ctypes.c_double, "task_share beta1 beta2 eps"),
        *_fields(ctypes.c_void_p, "losses counts status ever_positive ever_nonpositive scratch"),
    ]


class Kernel:
    """The compiled function for one width and one activation; made by `load`.

    Args:
        library: the compiled `native.cpp`.
        width: units of a layer.
    """

    def __init__(self, library: ctypes.CDLL, width: int) -> None:
        self.width = width
        self._library = library
        library.size_of_call.restype = library.scratch_floats.restype = ctypes.c_int64
        library.execute.restype = None
        assert library.size_of_call() == ctypes.sizeof(_Call)

    def train(
        self,
        x: Tensor,
        y: Tensor,
        order: Tensor,
        batch_size: int,
        parameters: Parameters,
        first: Parameters | None,
        second: Parameters | None,
        *,
        task: str,
        optimizer: str,
        lr: Tensor,
        t: Tensor,
        decay: Tensor | None = None,
        decay_biases: Tensor | None = None,
        momentum: Tensor | None = None,
        nesterov: bool = False,
        grad_clip: Tensor | None = None,
        strength: Tensor | None = None,
        clip: Tensor | None = None,
        constraints: Constraints = Constraints(),
        task_loss: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        record: bool = True,
        threads: int = 1,
    ) -> Measured | None:
        """Trains all runs for an epoch, in place: `parameters`, the moments and `t`.

        Args:
            x: (R, n, F) or, for data that all runs share, (1, n, F) float32.
            y: (R or 1, n) int64 classes, or (R or 1, n, K) float32 targets.
            order: (R, used) int64 rows of `x` in the order of the epoch; its consecutive pieces are the batches.
            batch_size: rows of a batch; the last one has what is left.
            parameters: of all runs.
            first: Adam's first moments or SGD's momentum buffers, zero at the start; None for SGD without momentum.
            second: Adam's second moments, zero at the start; None for SGD.
            task: whose loss is trained on: binary, multiclass or regression.
            optimizer: sgd, adam or adamw, as PyTorch's.
            lr: (R,) float64 learning rates.
            t: (R,) int64 steps that the optimiser has made so far.
            decay: (R,) float64 weight decay of weights; None is none.
            decay_biases: (R,) float64 weight decay of biases; None is none.
            momentum: (R,) float64 momentum of SGD; None is none.
            nesterov: whether SGD's momentum is Nesterov's.
            grad_clip: (R,) float64 largest norm of the gradient; None, or infinity in a run, for any.
            strength: (R,) float64 Jumpstart's strength; None is 0 for all.
            clip: (R,) float64 value above which Jumpstart is cut off; None, or infinity in a run, for none.
            constraints: Jumpstart's.
            task_loss: whether the task loss is trained on.
            betas: Adam's.
            eps: Adam's.
            record: whether to measure what is returned.
            threads: processor threads; the runs are spread over them.

        Returns:
            What was measured, or None without `record`.

        Raises:
            ValueError: a tensor has another shape or type than said here, is not contiguous or not on the CPU, or
                `order`, or a class in `y`, is out of range.
        """
        runs = order.shape[0]
        needed = (first, second) if optimizer != "sgd" else (first,) if momentum is not None else ()
        if any(moment is None for moment in needed) or (first is not None and first is second):
            raise ValueError(f"{optimizer} needs {len(needed)} moments of its own")
        call, measured, kept = self._call(x, y, parameters, runs, task, batch_size, constraints, clip, record, threads)
        _check("order", order, "int64", (runs, order.shape[1]))
        _check_range("order", order, x.shape[1])
        for name, moment in (("first", first), ("second", second)):
            if moment is not None:
                setattr(call, name, self._tensors(name, moment, runs, call))
        per_run = {"lr": lr, "decay": decay, "decay_biases": decay_biases, "momentum": momentum, "strength": strength}
        kept |= {name: _per_run(name, value, runs, 0.0) for name, value in per_run.items()}
        kept["grad_clip"] = _per_run("grad_clip", grad_clip, runs, float("inf"))
        _check("t", t, "int64", (runs,))
        for name, value in (kept | {"order": order, "t": t}).items():
            setattr(call, name, value.data_ptr())
        call.used, call.steps = order.shape[1], -(-order.shape[1] // call.batch)
        call.optimizer, call.nesterov, call.train = _place("optimizer", optimizer, _OPTIMIZERS), nesterov, True
        call.task_share, call.beta1, call.beta2, call.eps = float(task_loss), *betas, eps
        self._execute(call)
        return measured

    def evaluate(
        self,
        x: Tensor,
        y: Tensor,
        parameters: Parameters,
        *,
        task: str,
        piece: int,
        clip: Tensor | None = None,
        constraints: Constraints = Constraints(),
        threads: int = 1,
    ) -> Measured:
        """Measures all runs on all rows, in order and in pieces of at most `piece` rows; see `train`.

        Raises:
            ValueError: as `train`.
        """
        runs = parameters.w0.shape[0]
        call, measured, kept = self._call(x, y, parameters, runs, task, piece, constraints, clip, True, threads)
        call.used, call.steps = x.shape[1], -(-x.shape[1] // call.batch)
        call.clip = kept["clip"].data_ptr()
        self._execute(call)
        assert measured is not None
        return measured

    def _call(
        self,
        x: Tensor,
        y: Tensor,
        parameters: Parameters,
        runs: int,
        task: str,
        batch: int,
        constraints: Constraints,
        clip: Tensor | None,
        record: bool,
        threads: int,
    ) -> tuple[_Call, Measured | None, dict[str, Tensor]]:
        """What training and evaluation share: the call, what it fills in, and tensors that must outlive it."""
        import torch

        call = _Call(runs=runs, rows=x.shape[1], features=x.shape[2], outputs=parameters.bhead.shape[1])
        call.layers, call.batch, call.threads = len(parameters.bias), max(1, min(batch, x.shape[1])), min(threads, runs)
        call.task, call.record = _place("task", task, _TASKS), record
        call.shared_x, call.shared_y = len(x) == 1, len(y) == 1
        call.weights = self._tensors("parameters", parameters, runs, call)
        _check("x", x, "float32", (1 if call.shared_x else runs, call.rows, call.features))
        rows = (1 if call.shared_y else runs, call.rows)
        if task == "regression":
            _check("y", y, "float32", (*rows, call.outputs))
        else:
            _check("y", y, "int64", rows)
            _check_range("y", y, max(call.outputs, 2))
        if call.threads < 1 or call.rows < 1 or (task == "binary" and call.outputs != 1):
            raise ValueError(f"{threads} threads, {call.rows} rows and {call.outputs} outputs do not fit a {task} task")
        for item in fields(constraints):
            setattr(call, item.name, getattr(constraints, item.name))
        call.x, call.y = x.data_ptr(), y.data_ptr()
        measured = None
        if record:
            counts = 2 * call.outputs if task == "regression" else 1
            sums = [torch.zeros(runs, n, dtype=torch.float64) for n in (2, counts, len(STATUS))]
            seen = [torch.zeros(runs, call.layers, self.width, dtype=torch.bool) for _ in range(2)]
            measured = Measured(*sums, *seen)
            for item in fields(measured):
                setattr(call, item.name, getattr(measured, item.name).data_ptr())
        return call, measured, {"clip": _per_run("clip", clip, runs, float("inf"))}

    def _tensors(self, name: str, parameters: Parameters, runs: int, call: _Call) -> _Tensors:
        layers, width, features, outputs = call.layers, self.width, call.features, call.outputs
        shapes = {
            "w0": (runs, width, features),
            "wh": (layers - 1, runs, width, width),
            "bias": (layers, runs, width),
            "whead": (runs, outputs, width),
            "bhead": (runs, outputs),
        }
        for part, shape in shapes.items():
            _check(f"{name}.{part}", getattr(parameters, part), "float32", shape)
        return _Tensors(*(getattr(parameters, part).data_ptr() for part in shapes))

    def _execute(self, call: _Call) -> None:
        import torch

        call.scratch_per_thread = self._library.scratch_floats(ctypes.byref(call))
        scratch = torch.empty(call.threads * call.scratch_per_thread + 16)
        call.scratch = -(-scratch.data_ptr() // 64) * 64
        self._library.execute(ctypes.byref(call))


def obstacle() -> str | None:
    """Why there is no native engine on this machine, in one line; None where there is. Compiles on first need."""
    try:
        load(4, "relu")
    except RunFailed as failure:
        return failure.message
    return None


@functools.lru_cache(maxsize=64)
def load(width: int, activation: str) -> Kernel:
    """The kernel of networks with layers of `width` units and one of `ACTIVATIONS`; compiled on first need.

    Raises:
        RunFailed: there is no C++ compiler, it fails, or the cache folder cannot be written.
    """
    assert width > 0 and activation in ACTIVATIONS, (width, activation)
    return Kernel(_library(width, activation), width)


def _library(width: int, activation: str) -> ctypes.CDLL:
    import platformdirs

    compiler = _compiler()
    options = [*_FLAGS, f"-DWIDTH={width}", f"-DACTIVATION={activation}"]
    # All that the compiler knows of itself and of this processor.
    known = _run([*compiler, *_FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    content = [_SOURCE.read_text(), known, *compiler, *options]
    name = hashlib.sha256("\0".join(content).encode()).hexdigest()[:24]
    folder = platformdirs.user_cache_path("regx") / "native"
    path = folder / f"{name}.so"
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as private:
                built = Path(private) / path.name
                _run([*compiler, *options, str(_SOURCE), "-o", str(built)])
                os.replace(built, path)  # several processes may be building it
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise RunFailed(f"the native engine cannot be kept in or loaded from {folder}: {error}") from None


def _compiler() -> list[str]:
    chosen = os.environ.get("CXX", "").strip()
    if chosen:
        command = shlex.split(chosen)
        if shutil.which(command[0]):
            return command
        raise RunFailed(f"the C++ compiler of $CXX, {chosen}, does not exist")
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise RunFailed("there is no C++ compiler (c++, g++, clang++, or $CXX)")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"})
    except OSError as error:
        raise RunFailed(f"the C++ compiler {command[0]} cannot be started: {error.strerror}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise RunFailed(f"the C++ compiler {command[0]} failed: {lines[0].strip()}")
    return done.stdout


def _check(name: str, value: Tensor, dtype: str, shape: tuple[int, ...]) -> None:
    """Raises `ValueError` for a tensor that the C++ function would misread."""
    if str(value.dtype) != f"torch.{dtype}" or tuple(value.shape) != shape or not value.is_contiguous():
        found = f"{'' if value.is_contiguous() else 'non-contiguous '}{value.dtype} {tuple(value.shape)}"
        raise ValueError(f"{name} is {found}; needed is contiguous torch.{dtype} {shape}")
    if value.device.type != "cpu":
        raise ValueError(f"{name} is on {value.device}; needed is the CPU")


def _place(name: str, value: str, known: tuple[str, ...]) -> int:
    if value not in known:
        raise ValueError(f"{name} {value!r} is none of {', '.join(known)}")
    return known.index(value)


def _check_range(name: str, value: Tensor, size: int) -> None:
    if value.numel() and not 0 <= int(value.min()) <= int(value.max()) < size:
        raise ValueError(f"{name} has values outside of 0 to {size - 1}")


def _per_run(name: str, value: Tensor | None, runs: int, default: float) -> Tensor:
    import torch

    if value is None:
        return torch.full((runs,), default, dtype=torch.float64)
    _check(name, value, "float64", (runs,))
    return value
