"""What holds on data and not for every input: rectifiers that never fire, and those that always do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from regx.compaction import running
from regx.compaction.rules import RECTIFIERS
from regx.compaction.tracing import trace


@dataclass(frozen=True)
class Range:
    """What a rectifier was given.

    Attributes:
        low: (C,) smallest number of each channel.
        high: (C,) largest number of each channel.
    """

    low: Tensor
    high: Tensor


class _Watch(TorchDispatchMode):
    """Keeps the range of what every rectifier is given, in the order of their calls."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[Range] = []
        self.call = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in RECTIFIERS:
            self._note(args[0])
        return func(*args, **(kwargs or {}))

    def _note(self, x: Tensor) -> None:
        by_channel = x.movedim(1, 0).flatten(1) if x.dim() > 1 else x.reshape(1, -1)
        found = Range(by_channel.amin(1), by_channel.amax(1))
        if self.call == len(self.ranges):
            self.ranges.append(found)
        else:
            before = self.ranges[self.call]
            self.ranges[self.call] = Range(before.low.minimum(found.low), before.high.maximum(found.high))
        self.call += 1


def ranges(model: nn.Module, batches: Iterable[Tensor]) -> list[Range]:
    """The range of the inputs of every rectifier (ReLU) over some data, in evaluation mode; numbers are one channel.

    Args:
        model: the model; channels are dimension 1 of what its rectifiers read.
        batches: inputs, (N, ...).
    """
    watch = _Watch()
    with running.undisturbed(model):
        for x in batches:
            watch.call = 0
            with watch:
                model(x)
    return watch.ranges


def zero_dead(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Zeroes the weights that read units which are dead on some data: 0 after the rectifier for every sample.

    On this data the model computes what it did; on other data it need not.

    Args:
        model: changed in place.
        batches: inputs, (N, ...), gone through twice.

    Returns:
        How many inputs of layers were zeroed that had weights before.
    """
    found = ranges(model, batches)
    sample = running.sample(model, (next(iter(batches)),))
    seen = trace(model, *sample, alive={call: of.high > 0 for call, of in enumerate(found)})
    zeroed = 0
    with torch.no_grad():
        for reader in seen.readers:
            # Of two calls of a layer one may read a unit that is dead, and the other one that is not.
            if reader.layer is None or seen.uses[f"{reader.name}.weight"] > 1:
                continue
            weight = reader.layer.weight.transpose(0, 1) if reader.transposed else reader.layer.weight
            dead = reader.constant == 0
            zeroed += int((dead & (weight.flatten(2).any(2) if weight.dim() > 2 else weight != 0).any(0)).sum())
            weight[:, dead] = 0
    return zeroed
