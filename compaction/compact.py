"""Exact compaction: a smaller network that computes the same."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from regx.compaction import blocks, planning, recipe
from regx.compaction.recipe import Step
from regx.compaction.seen import Layer, Trace
from regx.compaction.tracing import trace
from regx.errors import UserError


@dataclass
class Compact:
    """A compact network and how it was made.

    Attributes:
        model: the smaller network; the one that was given is as it was.
        recipe: what was removed, for `recipe.apply`; lists, names and numbers alone.
        kept: reason -> how many channels that hold nothing were kept for it.
    """

    model: nn.Module
    recipe: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def compact(model: nn.Module, *inputs: Any) -> Compact:
    """Removes from a copy of `model` the channels, units and residual branches that do not matter.

    A channel goes where everything that reads it either reads a constant, which then goes into the bias or into
    another channel, or has weights of zero for it. Channels that additions, concatenations, normalisation or grouped
    convolutions tie together go together. In evaluation mode the smaller network computes what the model does, for
    every input, up to the order of sums.

        smaller = compact(model, x).model

    Args:
        model: any model in any state; on any device.
        inputs: what to call it with, (N, ...); the first sample is used.

    Raises:
        UserError: one pass does not show what the model does, or nothing of it depends on its input.
    """
    model = copy.deepcopy(model)
    steps: list[Step] = []
    notes: list[str] = []
    for _ in range(100):  # every round that is not the last removes something
        step = Step()
        seen = trace(model, *inputs)
        if seen.constant:
            raise UserError("the network returns the same for every input: all channels of some layer are dead")
        _drop_sides(model, seen, step, notes)
        if step.dropped:
            seen = trace(model, *inputs)
        _cut_channels(model, seen, step)
        if not (step.dropped or step.cuts or step.replaced):
            break
        steps.append(step)
    return Compact(model, [asdict(step) for step in steps], notes)


def _drop_sides(model: nn.Module, seen: Trace, step: Step, notes: list[str]) -> None:
    """Rewrites residual blocks of which one side is a constant."""
    # The later additions of a module first, so that the places of the others stay right.
    for addition in reversed(seen.additions):
        if addition.constant is None:
            continue
        zero = not addition.constant.any()
        what = blocks.Drop(addition.module, addition.place, addition.side, 0 if zero else len(addition.constant))
        try:
            shift = blocks.drop(model, what)
        except UserError as error:
            notes.append(f"a dead side of an addition stays: {error}")
            continue
        if shift:
            blocks.constant(model, shift, addition.constant)
        step.dropped.append(asdict(what))


def _cut_channels(model: nn.Module, seen: Trace, step: Step) -> None:
    found = planning.plan(seen)
    layers: dict[str, Layer] = {name: m for name, m in model.named_modules() if isinstance(m, Layer)}
    cuts: recipe.Cuts = {}
    for name, dims in seen.tensors.items():
        for dim, atoms in enumerate(dims):
            if atoms is not None and not (stays := found.keeps(atoms)).all():
                cuts.setdefault(name, {})[dim] = stays.nonzero()[0].tolist()
    if not cuts:
        return
    with torch.no_grad():
        step.biases = planning.fold(seen, found, layers)
        for name in step.biases:
            row = seen.tensors[f"{name}.weight"][1 if isinstance(layers[name], nn.modules.conv._ConvTransposeNd) else 0]
            stays = found.keeps(row) if row is not None else None
            if stays is not None and not stays.all():
                cuts[f"{name}.bias"] = {0: stays.nonzero()[0].tolist()}
        recipe.cut(model, cuts)
    step.cuts = cuts


def difference(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference, relative to the largest absolute value of `first`."""
    return float((first - second).abs().max() / first.abs().max().clamp_min(torch.finfo(first.dtype).tiny))
