"""Layers that are linear on the data: units whose pre-activation is never negative, which a rectifier leaves as it is.

A layer of such units and the next one are one linear map, so one of them goes. Where only some of a layer's units are
linear, all that the next layer sees of them is a map of a rank that no more units than inputs or outputs are needed
for. Both hold on the data alone: on other samples a pre-activation may be negative.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regx.compaction import recipe, running
from regx.compaction.observed import Range, ranges
from regx.compaction.recipe import Step
from regx.compaction.removal import Compact, difference
from regx.compaction.seen import Trace
from regx.compaction.tracing import trace

# A pre-activation of units that stand for others is at least this share of its range above 0.
MARGIN = 0.01


def fold(made: Compact, batches: Iterable[Tensor], tolerance: float = 1e-5) -> list[str]:
    """Folds linear units of fully connected layers into their neighbours, layer by layer.

    Args:
        made: the compact network, changed in place; its recipe grows by what is done.
        batches: inputs (N, ...) of all the data that the units shall be linear on; gone through several times.
        tolerance: largest relative change of an output on this data; what changes more is left as it is.

    Returns:
        What was folded, a line each.
    """
    lines: list[str] = []
    refused: set[str] = set()
    with running.undisturbed(made.model):
        while (found := _next(made.model, batches, refused)) is not None:
            first, second, linear, rectified = found
            before = _outputs(made.model, batches)
            modules = {name: made.model.get_submodule(name) for name in (first, second)}
            copies = {name: copy.deepcopy(module) for name, module in modules.items()}
            step, line = _fold(made.model, first, second, linear, rectified, batches)
            if step is not None and _same(made.model, batches, before, tolerance):
                made.recipe.append(asdict(step))
                lines.append(line)
                continue
            refused.add(first)
            for name, module in copies.items():
                made.model.set_submodule(name, module)
    return lines


def _same(model: nn.Module, batches: Iterable[Tensor], before: Tensor, tolerance: float) -> bool:
    try:
        return difference(before, _outputs(model, batches)) <= tolerance
    except Exception:  # whatever the model's own code raises where it needs the units that are gone
        return False


def _next(model: nn.Module, batches: Iterable[Tensor], refused: set[str]) -> tuple[str, str, Tensor, bool] | None:
    """The first pair of layers to fold: their names, which units are linear, whether a rectifier reads the second."""
    seen = trace(model, *running.sample(model, (next(iter(batches)),)))
    measured = ranges(model, batches)
    classes, kept = seen.book.classes()
    owners: dict[int, set[str]] = {}
    for name, dims in seen.tensors.items():
        for atoms in dims:
            for number in classes[atoms] if atoms is not None else ():
                owners.setdefault(int(number), set()).add(name)
    dense = [r for r in seen.readers if isinstance(r.layer, nn.Linear)]
    by_input = {tuple(classes[r.inputs]): r for r in dense}
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear) or name in refused or f"{name}.weight" not in seen.tensors:
            continue
        atoms = seen.tensors[f"{name}.weight"][0]
        reader = by_input.get(tuple(classes[atoms])) if atoms is not None else None
        calls = _calls(seen, classes, atoms)
        if reader is None or not (reader.own and _used_once(seen, name) and _used_once(seen, reader.name)):
            continue
        if len(calls) != 1 or any(int(k) in kept for k in classes[atoms]):
            continue
        mine = {f"{name}.weight", f"{name}.bias", f"{reader.name}.weight"}
        if any(not owners[int(k)] <= mine for k in classes[atoms]):
            continue
        linear = _linear(measured, calls[0])
        if linear is None:
            continue
        enough = min(layer.in_features, reader.weight.shape[0])
        if bool(linear.all()) or int(linear.sum()) > enough:
            return name, reader.name, linear, len(_calls(seen, classes, reader.outputs)) == 1
    return None


def _used_once(seen: Trace, name: str) -> bool:
    return seen.uses[f"{name}.weight"] == 1 and seen.uses[f"{name}.bias"] <= 1


def _calls(seen: Trace, classes: np.ndarray, atoms: Any) -> list[int]:
    """Calls of rectifiers that read just these channels."""
    if atoms is None:
        return []
    return [
        k
        for k, read in enumerate(seen.rectifiers)
        if read is not None and np.array_equal(classes[read], classes[atoms])
    ]


def _linear(measured: list[Range], call: int) -> Tensor | None:
    return measured[call].low >= 0 if call < len(measured) else None


def _fold(
    model: nn.Module, first: str, second: str, linear: Tensor, rectified: bool, batches: Iterable[Tensor]
) -> tuple[Step | None, str]:
    a, b = model.get_submodule(first), model.get_submodule(second)
    assert isinstance(a, nn.Linear) and isinstance(b, nn.Linear)
    if bool(linear.all()):
        return _merge(model, first, second, a, b, rectified, batches)
    return _reduce(model, first, second, a, b, linear, batches)


def _merge(
    model: nn.Module, first: str, second: str, a: nn.Linear, b: nn.Linear, rectified: bool, batches: Iterable[Tensor]
) -> tuple[Step | None, str]:
    """Two layers become one."""
    weight = (b.weight.double() @ a.weight.double()).to(b.weight)
    bias = b.bias if b.bias is not None else b.weight.new_zeros(len(b.weight))
    if a.bias is not None:
        bias = (b.weight.double() @ a.bias.double() + bias.double()).to(b.weight)
    lowest = _least(model, a, lambda x: x, batches)
    if float(lowest.min()) >= 0:  # the rectifier that is left between leaves these inputs as they are
        stays, goes, name = b, first, second
    elif rectified:  # the rectifier that is left between is that of the second layer
        stays, goes, name = a, second, first
    else:
        return None, ""
    fresh = [name] if stays.bias is None else []
    stays.weight, stays.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    recipe.resize(stays)
    model.set_submodule(goes, nn.Identity())
    shapes = {f"{name}.weight": list(weight.shape), f"{name}.bias": list(bias.shape)}
    return Step(replaced=[goes], biases=fresh, shapes=shapes), f"{first} and {second} became one layer"


def _reduce(
    model: nn.Module, first: str, second: str, a: nn.Linear, b: nn.Linear, linear: Tensor, batches: Iterable[Tensor]
) -> tuple[Step, str]:
    """Linear units become as few as the rank of what the next layer sees of them needs."""
    units = linear.nonzero().squeeze(1)
    u, s, v = torch.linalg.svd(b.weight[:, units].double() @ a.weight[units].double(), full_matrices=False)
    rank = min(a.in_features, b.out_features)
    root = s[:rank].sqrt()
    outer, inner = u[:, :rank] * root, v[:rank] * root[:, None]
    low = _least(model, a, lambda x: x.double() @ inner.T, batches)
    high = -_least(model, a, lambda x: -(x.double() @ inner.T), batches)
    shift = MARGIN * (high - low) - low
    biases = [name for name, layer in ((first, a), (second, b)) if layer.bias is None]
    for layer in (a, b):
        recipe.add_bias(layer)
    b.bias += (b.weight[:, units].double() @ a.bias[units].double() - outer @ shift).to(b.bias)
    kept = units[:rank]
    a.weight[kept], a.bias[kept] = inner.to(a.weight), shift.to(a.bias)
    b.weight[:, kept] = outer.to(b.weight)
    gone = set(units[rank:].tolist())
    stays = [k for k in range(a.out_features) if k not in gone]
    cuts = {f"{first}.weight": {0: stays}, f"{first}.bias": {0: stays}, f"{second}.weight": {1: stays}}
    recipe.cut(model, cuts)
    return Step(biases=biases, cuts=cuts), f"{len(units)} linear units of {first} became {rank}"


def _least(model: nn.Module, layer: nn.Module, of: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Tensor:
    """(K,) the smallest of a function (N, K) of a layer's inputs over the data."""
    found: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor]) -> None:
        found.append(of(args[0]).flatten(0, -2).amin(0))

    with layer.register_forward_pre_hook(keep):
        _outputs(model, batches)
    return torch.stack(found).amin(0)


def _outputs(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    return torch.cat([model(x) for x in batches])
