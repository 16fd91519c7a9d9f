"""Exact compaction: a smaller network that computes the same."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from regx.compaction import blocks, planning, recipe, running
from regx.compaction.recipe import Step
from regx.compaction.running import Check, Problem
from regx.compaction.seen import Addition, Layer, Trace
from regx.compaction.tracing import trace
from regx.errors import UserError

# Rounds, and operations per round that turn out to need all of their channels.
_ROUNDS, _HELD = 100, 50


@dataclass
class Compact:
    """A compact network and how it was made.

    Attributes:
        model: the smaller network; the one that was given is as it was.
        recipe: what was removed, for `recipe.apply`; lists, names and numbers alone.
        notes: what could go but stays, a line each.
    """

    model: nn.Module
    recipe: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def compact(model: nn.Module, *inputs: Any) -> Compact:
    """Removes from a copy of `model` the channels, units and residual branches that do not matter.

    A channel goes where everything that reads it either reads a constant, which then goes into the bias or into
    another channel, or has weights of zero for it. Channels that additions, concatenations, normalisation or grouped
    convolutions tie together go together. In evaluation mode the smaller network computes what the model does, for
    every input of the sample's shape (and any number of samples), up to the order of sums. That it does so on the
    sample, and on noise in its place, is looked at after every step.

        smaller = compact(model, x).model

    Args:
        model: any model in any state; on any device.
        inputs: what to call it with, (N, ...); two samples are used.

    Raises:
        UserError: the model cannot be run or copied, one pass does not show what it does, nothing of it depends on its
            input, or no smaller one computes the same.
    """
    model = running.copied(model)
    sample = running.sample(model, inputs)
    check = Check(model, sample)
    steps: list[Step] = []
    notes: dict[tuple[str, int], str] = {}
    for _ in range(_ROUNDS):  # every round that is not the last removes something
        step = Step()
        seen = _seen(model, sample)
        if seen.constant:
            raise UserError("the network returns the same for every input: all channels of some layer are dead")
        _drop_sides(model, seen, step, check, notes)
        model = _cut_channels(model, sample, step, check)
        if not (step.dropped or step.cuts):
            break
        steps.append(step)
    return Compact(model, [asdict(step) for step in steps], list(notes.values()))


def _seen(model: nn.Module, sample: tuple[Any, ...], held: Collection[int] = ()) -> Trace:
    try:
        return trace(model, *sample, held=held)
    except UserError:
        raise
    except Exception as error:  # what a mode of dispatch cannot be used with
        raise UserError(f"the network cannot be followed: {running.one_line(error)}") from error


def _drop_sides(model: nn.Module, seen: Trace, step: Step, check: Check, notes: dict[tuple[str, int], str]) -> None:
    """Rewrites residual blocks of which one side is a constant, in every round one addition of each."""
    done: set[str] = set()
    for addition in seen.additions:
        place = addition.module, addition.place
        if addition.constant is None or addition.module in done or place in notes:
            continue
        before = model.get_submodule(addition.module) if addition.module else model
        try:
            dropped = _drop(model, addition, seen.sums[addition.module])
            if problem := check.problem(model):
                model.set_submodule(addition.module, before)
                raise UserError(problem.text)
        except UserError as error:
            notes[place] = f"a dead side of an addition stays: {error}"
            continue
        step.dropped.append(dropped)
        done.add(addition.module)


def _drop(model: nn.Module, addition: Addition, total: int) -> dict[str, Any]:
    assert addition.constant is not None
    zero = not addition.constant.any()
    shape = [] if zero else list(addition.constant.shape)
    what = blocks.Drop(addition.module, addition.place, total, addition.side, shape)
    shift = blocks.drop(model, what)
    if shift:
        blocks.fill(model, shift, addition.constant)
    return asdict(what)


def _cut_channels(model: nn.Module, sample: tuple[Any, ...], step: Step, check: Check) -> nn.Module:
    """A copy without the channels that can go; what turns out to need them, such as a view of a fixed size, keeps them.

    Raises:
        UserError: it computes something else, and nothing tells why.
    """
    held: set[int] = set()
    while True:
        smaller = running.copied(model)
        cuts, biases = _cut(smaller, _seen(smaller, sample, held))
        if not cuts:
            return model
        problem = check.problem(smaller)
        if problem is None:
            step.cuts, step.biases = cuts, biases
            return smaller
        _hold(problem, held)


def _hold(problem: Problem, held: set[int]) -> None:
    if problem.call is None or problem.call in held or len(held) >= _HELD:
        raise UserError(problem.text)
    held.add(problem.call)


def _cut(model: nn.Module, seen: Trace) -> tuple[recipe.Cuts, list[str]]:
    """Cuts in place. Returns what stays, and the layers that got a bias."""
    found = planning.plan(seen)
    layers: dict[str, Layer] = {name: m for name, m in model.named_modules() if isinstance(m, Layer)}
    cuts: recipe.Cuts = {}
    for name, dims in seen.tensors.items():
        for dim, atoms in enumerate(dims):
            if atoms is not None and not (stays := found.keeps(atoms)).all():
                cuts.setdefault(name, {})[dim] = stays.nonzero()[0].tolist()
    if not cuts:
        return cuts, []
    with torch.no_grad():
        biases = planning.fold(seen, found, layers)
        for name in biases:
            row = seen.tensors[f"{name}.weight"][1 if isinstance(layers[name], nn.modules.conv._ConvTransposeNd) else 0]
            stays = found.keeps(row) if row is not None else None
            if stays is not None and not stays.all():
                cuts[f"{name}.bias"] = {0: stays.nonzero()[0].tolist()}
        recipe.cut(model, cuts)
    return cuts, biases


def difference(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference, relative to the largest absolute value of `first`."""
    return float((first - second).abs().max() / first.abs().max().clamp_min(torch.finfo(first.dtype).tiny))
