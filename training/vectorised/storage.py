"""What R networks have in one flat tensor, and where every network's own part of it lies."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn


class Layout:
    """Where everything lies in a flat tensor of the parameters, or of the running statistics, of R networks.

    Args:
        runs: R.
        segments: name -> (L, R, ...), the shape of the same tensor of L layers of all networks. Layers come before
            runs, so that one layer of all runs is dense.
        places: name in the module -> its segment, and its layer in that.
        idle: names in the module that are not trained.
    """

    def __init__(
        self,
        runs: int,
        segments: Mapping[str, tuple[int, ...]],
        places: Mapping[str, tuple[str, int]],
        idle: Collection[str] = (),
    ) -> None:
        self.runs, self.segments, self.places, self.idle = runs, segments, places, idle
        self.used = sum(torch.Size(sizes).numel() for sizes in segments.values())
        self.size = padded(self.used)

    @classmethod
    def of_parameters(cls, model: nn.Module, runs: int) -> Layout:
        """That of R such modules: a segment for every parameter."""
        idle = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        return cls._of(dict(model.named_parameters()), runs, idle)

    @classmethod
    def of_buffers(cls, model: nn.Module, runs: int) -> Layout:
        """That of R such modules: a segment for every buffer that is averaged over batches."""
        return cls._of({name: x for name, x in model.named_buffers() if x.is_floating_point()}, runs, ())

    @classmethod
    def _of(cls, tensors: Mapping[str, Tensor], runs: int, idle: Collection[str]) -> Layout:
        segments = {name: (1, runs, *tensor.shape) for name, tensor in tensors.items()}
        return cls(runs, segments, {name: (name, 0) for name in tensors}, idle)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The segments of a flat tensor."""
        pieces = flat[: self.used].split([torch.Size(sizes).numel() for sizes in self.segments.values()])
        return {name: piece.view(sizes) for piece, (name, sizes) in zip(pieces, self.segments.items(), strict=True)}

    def parts(self, flat: Tensor, run: int) -> dict[str, Tensor]:
        """What belongs to one network: name in the module -> its part of a flat tensor."""
        views = self.views(flat)
        return {name: views[segment][layer, run] for name, (segment, layer) in self.places.items()}

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
            view.fill_(view.dim() > 3)
        return found

    def is_trained(self, device: torch.device) -> Tensor:
        """(size,) bool: the bias of a layer before batch normalisation, say, is not."""
        found = torch.zeros(self.size, dtype=torch.bool, device=device)
        views = self.views(found)
        for name, (segment, layer) in self.places.items():
            views[segment][layer].fill_(name not in self.idle)
        return found


def padded(size: int) -> int:
    """The next multiple of what a processor computes in one go.

    What is left over, PyTorch computes by other code, whose last digit may differ: then a run would depend on its place
    among the others.
    """
    return -(-size // 64) * 64
