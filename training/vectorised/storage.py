"""The weights of R rectangular networks in one flat tensor, and where every network's own parameters lie in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regx.models import Rectangular


@dataclass(frozen=True)
class Shape:
    """What all networks of a program have in common.

    Attributes:
        inputs, outputs, depth, width: sizes.
        batchnorm: whether a batch normalisation follows every layer.
    """

    inputs: int
    outputs: int
    depth: int
    width: int
    batchnorm: bool

    @classmethod
    def of(cls, model: Rectangular) -> Shape:
        """That of a network."""
        layers = [name for name in model.hidden if name.startswith("layer")]
        first: torch.nn.Linear = model.hidden["layer0"]  # type: ignore[assignment]
        norm = any(name.startswith("batchnorm") for name in model.hidden)
        return cls(first.in_features, model.head.out_features, len(layers), first.out_features, norm)

    def segments(self, runs: int) -> dict[str, tuple[int, ...]]:
        """Shape of every segment; layers come before runs, so that one layer of all runs is dense."""
        width, depth = self.width, self.depth
        found = {
            "first": (1, runs, width, self.inputs),
            "hidden": (depth - 1, runs, width, width),
            "bias": (depth, runs, width),
            "head": (1, runs, self.outputs, width),
            "head_bias": (1, runs, self.outputs),
        }
        return found | ({"gamma": (depth, runs, width), "beta": (depth, runs, width)} if self.batchnorm else {})


class Layout:
    """Where everything lies in a flat tensor of the parameters of R networks.

    Args:
        shape: of the networks.
        runs: R.
    """

    def __init__(self, shape: Shape, runs: int) -> None:
        self.shape, self.runs = shape, runs
        self.segments = shape.segments(runs)
        self.used = sum(torch.Size(sizes).numel() for sizes in self.segments.values())
        self.size = padded(self.used)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The segments of a flat tensor."""
        pieces = flat[: self.used].split([torch.Size(sizes).numel() for sizes in self.segments.values()])
        return {name: piece.view(sizes) for piece, (name, sizes) in zip(pieces, self.segments.items(), strict=True)}

    def parameters(self, flat: Tensor, run: int) -> dict[str, Tensor]:
        """What belongs to one network: name in the module -> its part of a flat tensor."""
        views, found = self.views(flat), {}
        for layer in range(self.shape.depth):
            first = layer == 0
            found[f"hidden.layer{layer}.weight"] = views["first" if first else "hidden"][max(layer - 1, 0), run]
            found[f"hidden.layer{layer}.bias"] = views["bias"][layer, run]
            if self.shape.batchnorm:
                found[f"hidden.batchnorm{layer}.weight"] = views["gamma"][layer, run]
                found[f"hidden.batchnorm{layer}.bias"] = views["beta"][layer, run]
        return found | {"head.weight": views["head"][0, run], "head.bias": views["head_bias"][0, run]}

    def owner(self, device: torch.device) -> Tensor:
        """(size,) int64: whose every number of a flat tensor is."""
        found = torch.zeros(self.size, dtype=torch.int64, device=device)
        for view in self.views(found).values():
            view.copy_(torch.arange(self.runs, device=device).view(1, -1, *[1] * (view.dim() - 2)))
        return found

    def is_weight(self, device: torch.device) -> Tensor:
        """(size,) bool: whether a number belongs to a weight; else to a bias or to batch normalisation."""
        found = torch.zeros(self.size, dtype=torch.bool, device=device)
        for view in self.views(found).values():
            view.fill_(view.dim() == 4)
        return found

    def is_trained(self, device: torch.device) -> Tensor:
        """(size,) bool: the bias of a layer before batch normalisation is not."""
        found = torch.zeros(self.size, dtype=torch.bool, device=device)
        for name, view in self.views(found).items():
            view.fill_(not (self.shape.batchnorm and name == "bias"))
        return found


def padded(size: int) -> int:
    """The next multiple of what a processor computes in one go.

    What is left over, PyTorch computes by other code, whose last digit may differ: then a run would depend on its place
    among the others.
    """
    return -(-size // 64) * 64
