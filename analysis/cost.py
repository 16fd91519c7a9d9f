"""What a network costs: parameters, multiply-adds, bytes in a file, memory of a forward pass, and time on the clock."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regx.analysis.sizes import Size, size
from regx.compaction import running
from regx.compaction.removal import compact, difference
from regx.errors import UserError
from regx.training import build
from regx.training.trained import Trained

# Passes of every network before the clock is looked at.
WARM_UP = 3
# Scale of the numbers that stand where a masked network has zeros, to make it dense.
FILLED = 1e-3

ON_CPU = "bytes of all tensors that one forward pass holds at once, without parameters and input"
ON_CUDA = "what the CUDA allocator holds at most in one forward pass, less what it held before, workspaces included"


@dataclass(frozen=True)
class Measured:
    """What one network costs with one size of batch.

    Attributes:
        size: what it is, whatever the batch.
        peak_bytes: memory of a forward pass in evaluation, as `peak_memory` says.
        batch_size: samples of a pass.
        seconds: of every timed pass; number i of all networks were measured one after the other.
    """

    size: Size
    peak_bytes: int
    batch_size: int
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median latency in seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the latency in seconds."""
        return _quartiles(self.seconds)

    @property
    def throughput(self) -> float:
        """Samples per second at the median latency."""
        return self.batch_size / self.median

    def speed_up(self, base: Measured) -> tuple[float, float, float]:
        """How many times faster it is than `base`: the ratio of medians, and the quartiles of the rounds' ratios."""
        rounds = [theirs / mine for theirs, mine in zip(base.seconds, self.seconds, strict=True)]
        return base.median / self.median, *_quartiles(rounds)


def measure(models: Mapping[str, nn.Module], x: Tensor, *, repeats: int = 50, threads: int = 1) -> dict[str, Measured]:
    """Measures networks side by side in evaluation mode: in every round each of them once, each round begun by another.

        found = measure({"dense": dense, "compact": smaller}, x)
        ratio, low, high = found["compact"].speed_up(found["dense"])

    Args:
        models: name -> network, all on the device of `x`.
        x: input, (N, ...).
        repeats: rounds that are timed, after `WARM_UP` that are not.
        threads: CPU threads of an operation while this is measured.

    Raises:
        UserError: `repeats` or `threads` is below 1.
    """
    for name, value in (("repeats", repeats), ("threads", threads)):
        if value < 1:
            raise UserError(f"{value} is below 1", name)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with ExitStack() as undisturbed:
            for model in models.values():
                undisturbed.enter_context(running.undisturbed(model))
            seconds = _time(models, x, repeats)
            return {
                name: Measured(size(model, x[:1]), peak_memory(model, x), len(x), tuple(seconds[name]))
                for name, model in models.items()
            }
    finally:
        torch.set_num_threads(before)


def peak_memory(model: nn.Module, x: Tensor) -> int:
    """Most bytes that one forward pass without gradients holds at a time, in the mode that the model is in.

    On the CPU the storages of all tensors that the pass makes are followed until they are freed; parameters, buffers,
    the input and what an operation holds only while it computes are not in it. On CUDA it is what the allocator counts.

    Args:
        model: the network, on the device of `x`.
        x: input, (N, ...).
    """
    with torch.no_grad():
        if x.device.type == "cuda":
            model(x)  # libraries take workspaces for good at their first use
            torch.cuda.synchronize(x.device)
            held = torch.cuda.memory_allocated(x.device)
            torch.cuda.reset_peak_memory_stats(x.device)
            model(x)
            return torch.cuda.max_memory_allocated(x.device) - held
        with _Storages([x, *model.parameters(), *model.buffers()]) as seen:
            model(x)
        return seen.peak


class _Storages(TorchDispatchMode):
    """Follows the storages that operations make; in-place operations and views make none."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self._known = {x.untyped_storage()._cdata for x in known}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._live = {key: item for key, item in self._live.items() if not item[0].expired()}
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and (storage := x.untyped_storage())._cdata not in self._known | self._live.keys():
                # The weak reference keeps the address from being given away.
                self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


def _time(models: Mapping[str, nn.Module], x: Tensor, repeats: int) -> dict[str, list[float]]:
    names = list(models)
    seconds: dict[str, list[float]] = {name: [] for name in names}

    def wait() -> None:
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)

    with torch.inference_mode():
        for number in range(-WARM_UP, repeats):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                wait()
                began = time.perf_counter()
                models[name](x)
                wait()
                if number >= 0:
                    seconds[name].append(time.perf_counter() - began)
    return seconds


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


@dataclass(frozen=True)
class Networks:
    """The networks that a run stands for.

    Attributes:
        models: `dense`, `masked` and `compact`, or those of them that there are.
        base: the one that speed-ups are told against.
        notes: what to know of them, a line each.
    """

    models: dict[str, nn.Module]
    base: str
    notes: list[str]


def networks(trained: Trained) -> Networks:
    """The trained network, which is masked where it has zeros, beside a dense one and a compact one.

    Dense is the network of the configuration: the trained one with small random numbers in place of its zeros, or a new
    one where what was loaded is compact already. Compact is what `regx.compaction` makes of the trained one.
    """
    if trained.recipe:
        dense = build.build(trained.config).model.eval()
        note = "dense is the configuration's network before anything was removed, with new weights"
        return Networks({"dense": dense, "compact": trained.model}, "dense", [note])
    masked, x = trained.model, trained.sample(2)
    models = {"dense": filled(masked), "masked": masked}
    notes = ["dense and masked hold tensors of the same sizes: zeros alone save neither memory nor time"]
    try:
        made = compact(masked, x)
    except UserError as error:
        return Networks(models, "masked", [*notes, f"there is no compact network: {error.message}"])
    if not made.recipe:
        none = "there is no compact network: no channel, unit or branch can be removed without changing outputs"
        return Networks(models, "masked", [*notes, none, *made.notes])
    with torch.no_grad():
        far = difference(masked(x), made.model(x))
    notes.append(f"outputs of compact differ from those of masked by {far:.1e} of the largest")
    return Networks(models | {"compact": made.model}, "masked", [*notes, *made.notes])


def filled(model: nn.Module) -> nn.Module:
    """A copy with small random numbers in place of all zeros of its parameters."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = FILLED * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(torch.where(parameter == 0, noise.to(parameter), parameter))
    return model


def batch(trained: Trained, size: int) -> Tensor:
    """`size` validation inputs; they are repeated where there are fewer.

    Raises:
        UserError: `size` is below 1.
    """
    if size < 1:
        raise UserError(f"{size} is below 1", "batch_size")
    x = trained.sample(size)
    rows = torch.arange(size, device=x.device) % len(x)
    return x if len(x) == size else x[rows].contiguous(memory_format=running.layout(x))
