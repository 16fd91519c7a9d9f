"""What a network is, not looking at the clock: parameters, multiply-adds, channels, bytes, and its layers."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regx.regularizers import cost


@dataclass(frozen=True)
class LayerSize:
    """A linear or convolutional layer.

    Attributes:
        channels: outputs.
        parameters: weights and biases.
        macs: multiply-adds per sample.
    """

    channels: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class Size:
    """A network.

    Attributes:
        parameters: number of all parameters.
        macs: multiply-adds per sample of its linear and convolutional layers, as in `regx.regularizers.cost`.
        channels: outputs of these layers.
        bytes: of its state_dict, written by `torch.save`.
        layers: layer -> its size.
    """

    parameters: int
    macs: int
    channels: int
    bytes: int
    layers: dict[str, LayerSize]

    def totals(self) -> dict[str, int]:
        """The numbers of the network, without those of its layers."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "layers"}


def size(model: nn.Module, x: Tensor) -> Size:
    """What a network is.

    Args:
        model: the network, in any mode.
        x: input, (N, ...), on its device.
    """
    counted, found = cost.count(model, x), cost.layers(model)
    layers = {name: LayerSize(cost.channels(found[name]), of.parameters, of.macs) for name, of in counted.items()}
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return Size(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=sum(layer.macs for layer in layers.values()),
        channels=sum(layer.channels for layer in layers.values()),
        bytes=file.getbuffer().nbytes,
        layers=layers,
    )


def by_layer(before: Size, after: Size) -> list[dict[str, Any]]:
    """One row per layer of the larger network, then what is in no layer, then the total; 0 for what is gone.

    The columns: `layer`, and `channels`, `parameters`, `macs` before and, with `_left`, after.
    """
    old, new = _with_sums(before), _with_sums(after)
    pairs = [(name, of, new.get(name, LayerSize(0, 0, 0))) for name, of in old.items()]
    return [
        {"layer": name}
        | {
            key: getattr(side, column)
            for column in ("channels", "parameters", "macs")
            for key, side in ((column, one), (f"{column}_left", other))
        }
        for name, one, other in pairs
    ]


def _with_sums(of: Size) -> dict[str, LayerSize]:
    """The layers, what is in none of them (normalisation, say), and all together."""
    inside = sum(layer.parameters for layer in of.layers.values())
    sums = {
        "in no layer": LayerSize(0, of.parameters - inside, 0),
        "total": LayerSize(of.channels, of.parameters, of.macs),
    }
    return of.layers | sums
