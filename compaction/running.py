"""Runs of a network that leave no mark on it, and whether two networks compute the same."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from regx.errors import UserError

# Type of the numbers -> the largest difference, relative to the largest output, that the order of sums explains.
_TOLERANCE = {torch.float64: 1e-9, torch.complex128: 1e-9, torch.float32: 1e-4, torch.complex64: 1e-4}
_TOLERANCE_OF_HALF = 0.05
_WHY = "; its code may use the number of channels"


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; flags, buffers and the global random state are as they were afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    buffers = [
        (module._buffers, name, x, x.clone())
        for module in model.modules()
        for name, x in module._buffers.items()
        if x is not None
    ]
    devices = {x.device.index for x in model.parameters() if x.device.type == "cuda"}
    try:
        model.eval()
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        for module, flag in flags:
            module.training = flag
        for table, name, x, before in buffers:
            table[name] = x
            if not torch.equal(x, before):
                x.copy_(before)


def tensors(outputs: Any) -> list[Tensor]:
    """The tensors that a network returns, in containers and dataclasses.

    Raises:
        UserError: there is none, or something that may hide some.
    """
    found: list[Tensor] = []
    waiting = [outputs]
    while waiting:
        for leaf in tree_leaves(waiting.pop()):
            if isinstance(leaf, Tensor):
                found.append(leaf)
            elif dataclasses.is_dataclass(leaf):
                waiting.append([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])
            elif not isinstance(leaf, str | bytes | int | float | complex | None):
                raise UserError(f"the network returns {type(leaf).__name__}, of which nothing is known")
    if not found:
        raise UserError(f"the network returns {type(outputs).__name__}, in which there is no tensor")
    return found


def sample(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Two rows of the inputs, so that a pass shows what belongs to a sample; all of them where a model takes no two.

    Raises:
        UserError: the model cannot be run.
    """
    pair = _two(inputs)
    for given in (pair, inputs):
        try:
            with undisturbed(model):
                model(*copies(given))
            return given
        except Exception as error:  # whatever the model's own code raises
            problem = error
    raise UserError(f"the network cannot be run on this input: {one_line(problem)}") from problem


def _two(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    count = rows(inputs)
    if count in (0, 2):
        return inputs
    index = [0, min(1, count - 1)]
    return tree_map_only(Tensor, lambda x: x[index] if x.dim() and len(x) == count else x, inputs)


def rows(inputs: tuple[Any, ...]) -> int:
    """Number of samples: the first dimension of the first tensor that has one; 1 where there is none."""
    return next((len(x) for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.dim()), 1)


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model, in which weights that are computed from others (`torch.nn.utils.prune`) carry no gradient.

    Raises:
        UserError: it cannot be copied.
    """
    attributes = [x for module in model.modules() for x in vars(module).values() if isinstance(x, Tensor)]
    try:
        return copy.deepcopy(model, {id(x): x.detach().clone() for x in attributes if not x.is_leaf})
    except Exception as error:  # whatever the model's own code raises
        raise UserError(f"the network cannot be copied: {one_line(error)}") from error


def copies(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs again, which a network may write into."""
    return tree_map_only(Tensor, torch.clone, inputs)


def one_line(error: BaseException) -> str:
    """What an error says, or what it is."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@dataclass(frozen=True)
class Problem:
    """Why a network is not what it should be.

    Attributes:
        text: a line.
        call: number of the operation where it failed; None where it did not fail, but returned something else.
    """

    text: str
    call: int | None = None


class Check:
    """What a network computes of a sample, and of noise in its place: so a constant of this sample is found out.

    Args:
        model: the network.
        inputs: the sample.

    Raises:
        UserError: the model cannot be run, or returns no tensor.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._cases = [(inputs, _outputs(model, inputs))]
        random = torch.Generator().manual_seed(0)

        def noise(x: Tensor) -> Tensor:
            if not x.is_floating_point() or not x.numel():
                return x
            return (x.abs().max() * torch.randn(x.shape, generator=random).to(x)).contiguous(memory_format=layout(x))

        # A model may refuse noise, or take no other numbers than these.
        with contextlib.suppress(Exception):
            other = tree_map_only(Tensor, noise, inputs)
            self._cases.append((other, _outputs(model, other)))

    def problem(self, model: nn.Module) -> Problem | None:
        """Why this network does not compute the same; None where it does."""
        for inputs, wanted in self._cases:
            last = _Last(model)
            try:
                # torch.fx also prints what it raises.
                with contextlib.redirect_stderr(io.StringIO()), last.following():
                    found = _outputs(model, inputs, last)
            except Exception as error:  # whatever the model's own code raises
                text = f"{last.operation} in {last.where()} fails in the smaller network: {one_line(error)}"
                return Problem(text, last.count)
            if [x.shape for x in found] != [x.shape for x in wanted]:
                return Problem(f"the smaller network returns other shapes{_WHY}")
            if not max(_beyond(*pair) for pair in zip(wanted, found, strict=True)) <= 1:
                return Problem(f"the smaller network computes something else{_WHY}")
        return None


def layout(x: Tensor) -> torch.memory_format:
    """Whether the channels of images are last in memory."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _outputs(model: nn.Module, inputs: tuple[Any, ...], mode: Any = None) -> list[Tensor]:
    given = copies(inputs)
    with undisturbed(model):
        with mode or contextlib.nullcontext():
            found = model(*given)
        return [x.clone() for x in tensors(found)]


def _beyond(first: Tensor, second: Tensor) -> float:
    """The largest difference, as a multiple of what the order of sums explains."""
    if not first.numel() or not (first.is_floating_point() or first.is_complex()):
        return 0.0
    same = (first == second) | (first.isnan() & second.isnan())
    scale = torch.where(first.isfinite(), first, 0).abs().max()
    far = torch.where(same, 0, first - second).abs().max()
    return float(far / (scale * _TOLERANCE.get(first.dtype, _TOLERANCE_OF_HALF))) if far else 0.0


class _Last(TorchDispatchMode):
    """Knows which operation was called last, and in which module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.count, self.operation = -1, "nothing"
        self._stack = [""]
        self._names = {id(module): name for name, module in model.named_modules()}

    def where(self) -> str:
        """The module, for messages."""
        return f"module {self._stack[-1]!r}" if self._stack[-1] else "the network"

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Knows meanwhile in which module the network is."""
        hooks = nn.modules.module
        enter = hooks.register_module_forward_pre_hook(
            lambda module, _: self._stack.append(self._names.get(id(module), self._stack[-1]))
        )
        leave = hooks.register_module_forward_hook(lambda module, _, output: self._leave())
        try:
            yield
        finally:
            enter.remove()
            leave.remove()

    def _leave(self) -> None:
        self._stack.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        self.operation = str(func.overloadpacket)
        return func(*args, **(kwargs or {}))
