"""Which channels can go: those that hold a constant wherever they are read, and those that nobody reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regx.compaction.seen import Layer, Reader, Trace

Bools = NDArray[np.bool_]
# A constant that stands for others is at least this share of the largest of them.
SMALLEST = 1e-3


@dataclass(frozen=True)
class Merge:
    """Constant channels that one of them shall stand for, as a bias would be wrong at the edges of the image.

    Attributes:
        reader: number of the linear map that reads them.
        channel: which of its inputs stands for all.
        share: (I,) what is added to its weights: `share[i]` times those of channel i.
    """

    reader: int
    channel: int
    share: Tensor


@dataclass
class Plan:
    """What is removed.

    Attributes:
        classes: class of every atom.
        gone: class -> whether it goes.
        merges: constants that go into another channel.
    """

    classes: NDArray[np.int64]
    gone: Bools
    merges: list[Merge]

    def keeps(self, atoms: NDArray[np.int64]) -> Bools:
        """Which of these channels stay."""
        return ~self.gone[self.classes[atoms]]


def plan(trace: Trace) -> Plan:
    """Decides what goes: as much as possible, and of every dimension at least one channel stays."""
    classes, kept = trace.book.classes()
    count = int(classes.max(initial=-1)) + 1
    stay = np.zeros(count, bool)
    stay[list(kept)] = True
    read = np.zeros(count, bool)
    for reader in trace.readers:
        read[classes[reader.inputs]] = True
    stay |= ~read
    maps = [_Map(reader, classes, _takes_constants(trace, reader)) for reader in trace.readers]
    while True:
        gone = _without_use(maps, stay)
        forced, merges = _merges(maps, gone)
        forced |= _one_of_each(trace, classes, gone)
        if not forced.any():
            return Plan(classes, gone, merges)
        stay |= forced


def _takes_constants(trace: Trace, reader: Reader) -> bool:
    """Whether the weight and the bias of a reader may change: nothing else reads them, not even another call."""
    return reader.own and trace.uses[f"{reader.name}.weight"] == 1 and trace.uses[f"{reader.name}.bias"] <= 1


class _Map:
    """A reader, by classes."""

    def __init__(self, reader: Reader, classes: NDArray[np.int64], can_fold: bool) -> None:
        self.inputs, self.outputs = classes[reader.inputs], classes[reader.outputs]
        used = (reader.weight != 0).flatten(2).any(2) if reader.weight.dim() > 2 else reader.weight != 0
        self.used: Bools = used.cpu().numpy()  # (O, I)
        self.constant = reader.constant.cpu().double().numpy()
        self.padded = reader.padded
        known = ~np.isnan(self.constant) & np.isfinite(self.constant)
        self.removable: Bools = known & (can_fold | (self.constant == 0))


def _without_use(maps: list[_Map], stay: Bools) -> Bools:
    """The most classes that can go together: nothing that stays reads an unknown number from them."""
    gone = ~stay
    while True:
        needed = np.zeros_like(gone)
        for item in maps:
            rows = ~gone[item.outputs]
            needed[item.inputs[item.used[rows].any(0) & ~item.removable]] = True
        if not (needed & gone).any():
            return gone
        gone &= ~needed


def _merges(maps: list[_Map], gone: Bools) -> tuple[Bools, list[Merge]]:
    """For maps that pad: the channel that stands for the removed constants, which has to stay for that."""
    forced = np.zeros_like(gone)
    merges = []
    for number, item in enumerate(maps):
        if not item.padded:
            continue
        live = item.used[~gone[item.outputs]].any(0)
        lost = gone[item.inputs] & live & (item.constant != 0)
        if not lost.any():
            continue
        # A channel that stays anyway will do, if its constant is not too small to stand for others; else the largest.
        least = SMALLEST * np.abs(item.constant[lost]).max()
        staying = item.removable & (np.abs(item.constant) > least) & (~gone | forced)[item.inputs]
        among = np.flatnonzero(staying if staying.any() else lost)
        channel = int(among[np.abs(item.constant[among]).argmax()])
        forced[item.inputs[channel]] |= gone[item.inputs[channel]]
        share = np.where(lost, np.nan_to_num(item.constant) / item.constant[channel], 0.0)
        share[channel] = 0
        merges.append(Merge(number, channel, torch.from_numpy(share)))
    return forced, merges


def _one_of_each(trace: Trace, classes: NDArray[np.int64], gone: Bools) -> Bools:
    """The first channel of every dimension that would be empty."""
    forced = np.zeros_like(gone)
    for dims in trace.tensors.values():
        for atoms in dims:
            if atoms is not None and gone[classes[atoms]].all() and not forced[classes[atoms]].any():
                forced[classes[atoms[0]]] = True
    return forced


def fold(trace: Trace, found: Plan, layers: dict[str, Layer]) -> list[str]:
    """Puts the constants of removed channels into biases, or into the channel that stands for them.

    Args:
        trace: of the model as it was.
        found: what is removed.
        layers: name -> the layer to change, still of its old size.

    Returns:
        Names of the layers that got a bias.
    """
    merges = {merge.reader: merge for merge in found.merges}
    new = []
    for number, reader in enumerate(trace.readers):
        lost = torch.from_numpy(~found.keeps(reader.inputs)).to(reader.constant.device)
        lost &= reader.constant.nan_to_num() != 0
        if not lost.any() or reader.layer is None:
            continue
        layer = layers[reader.name]
        weight = layer.weight.detach()
        weight = weight.transpose(0, 1) if reader.transposed else weight
        if number in merges:
            merge = merges[number]
            share = merge.share.to(weight)
            weight[:, merge.channel] += torch.einsum("oi...,i->o...", weight, share)
            continue
        rows = torch.from_numpy(found.keeps(reader.outputs)).to(weight.device)
        sums = weight.double().flatten(2).sum(2) if weight.dim() > 2 else weight.double()
        added = sums[:, lost] @ reader.constant[lost].double()
        added = torch.where(rows & (added != 0), added, 0.0)
        if not added.any():
            continue
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device))
            new.append(reader.name)
        layer.bias.detach().add_(added.to(weight.dtype))
    return new
