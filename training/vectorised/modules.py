"""R networks of any kind: one module for all of them, by `torch.func.vmap` over their parameters and statistics.

Convolutions become ones of R groups, linear layers batched matrix products. So a run among others is the run alone to
rounding, but not to the last bit: these add up in another order than those of a single run. Images lie in memory
channel by channel (contiguous), whatever `--channels-last` says.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from regx.training.vectorised.extremes import Layers
from regx.training.vectorised.storage import Layout


@dataclass
class Pass:
    """What a forward pass leaves behind.

    Attributes:
        output: (R, K, B), without a gradient.
        attached: the same with its history, where there is one.
        hooked: pre-activations (R, B, C) or (R, B, C, H, W) of every hooked layer.
        taps: what was made of them, with its history.
        slopes: gradients that a penalty adds to these.
    """

    output: Tensor
    attached: Tensor
    hooked: tuple[Tensor, ...]
    taps: list[Layers] = field(default_factory=list)
    slopes: list[Layers] = field(default_factory=list)


class Modules:
    """R modules that differ in nothing but numbers; see `regx.training.vectorised.network.Networks`.

    Args:
        model: one of them; it is copied, without its numbers.
        layout: of the flat weights.
        weights: flat.
        averages: layout of the flat running statistics.
        statistics: flat; forward passes in training change them.
        hooked: names of the modules whose pre-activations are looked at.
        at_layers: whether these are the outputs of layers, else the inputs of activations.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        weights: Tensor,
        averages: Layout,
        statistics: Tensor,
        *,
        hooked: Sequence[str],
        at_layers: bool,
    ) -> None:
        self.gradients = torch.zeros_like(weights)
        self._parameters = {name: view[0] for name, view in layout.views(weights).items()}
        for name, parameter in self._parameters.items():
            self._parameters[name] = parameter.detach().requires_grad_(name not in layout.idle)
        views = layout.views(self.gradients)
        self._trained = [name for name in self._parameters if name not in layout.idle]
        self._into = [views[name][0] for name in self._trained]
        self._buffers = {name: view[0] for name, view in averages.views(statistics).items()}
        self._model = copy.deepcopy(model).to("meta")  # the hooks of a copy do nothing
        self._seen: list[tuple[str, Tensor]] = []
        modules = dict(self._model.named_modules())
        for module in modules.values():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment] # what is hooked has to stay as it is
        for name in hooked:
            if at_layers:
                modules[name].register_forward_hook(functools.partial(self._see_output, name))
            else:
                modules[name].register_forward_pre_hook(functools.partial(self._see_input, name))
        self.layers: tuple[str, ...] = ()
        self.positions: tuple[tuple[int, ...], ...] = ()
        self.widths: tuple[int, ...] = ()

    def _see_input(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._seen.append((name, args[0]))

    def _see_output(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self._seen.append((name, output))

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Any:
        """Output and pre-activations of one network."""
        self._seen = []
        output = torch.func.functional_call(self._model, (parameters, buffers), (x,), tie_weights=False)
        seen, self._seen = self._seen, []
        self.layers = tuple(name for name, _ in seen)
        return output, tuple(x for _, x in seen)

    def forward(self, x: Tensor, *, train: bool) -> Pass:
        """Maps (R, B, ...), or (1, B, ...) where inputs are the same for all, to outputs (R, K, B)."""
        self._model.train(train)
        runs = next(iter(self._parameters.values())).shape[0]
        shared = len(x) == 1 < runs
        call = torch.func.vmap(self._one, in_dims=(0, 0, None if shared else 0))
        with torch.set_grad_enabled(train):
            output, hooked = call(self._parameters, self._buffers, x[0] if shared else x)
        output = output.transpose(1, 2)
        alike: dict[tuple[bool, int], list[int]] = {}
        for position, z in enumerate(hooked):
            alike.setdefault((z.dim() > 3, z.shape[2]), []).append(position)
        self.positions, self.widths = tuple(map(tuple, alike.values())), tuple(width for _, width in alike)
        return Pass(output.detach(), output, hooked)

    def taps(self, done: Pass) -> list[Layers]:
        """See `Networks.taps`; the histories of what is returned stay in `done`."""
        with torch.set_grad_enabled(done.attached.requires_grad):
            done.taps = [_stacked([done.hooked[i] for i in positions]) for positions in self.positions]
        found = []
        for layers in done.taps:
            high = layers.high.detach()
            found.append(Layers(high, high if layers.low is layers.high else layers.low.detach()))
        return found

    def slopes(self, done: Pass, output_gradient: Tensor) -> list[Layers]:
        """See `Networks.slopes`."""
        for layers in done.taps:
            high = torch.zeros_like(layers.high)
            low = high if layers.low is layers.high else torch.zeros_like(layers.low)
            done.slopes.append(Layers(high, low))
        return done.slopes

    def backward(self, done: Pass, output_gradient: Tensor) -> None:
        """See `Networks.backward`; `done` is used up."""
        roots, gradients = [done.attached], [output_gradient]
        for layers, slopes in zip(done.taps, done.slopes, strict=False):  # without slopes where nothing penalises
            several = layers.low is not layers.high
            roots += [layers.high, layers.low] if several else [layers.high]
            gradients += [slopes.high, slopes.low] if several else [slopes.high]
        found = torch.autograd.grad(roots, [self._parameters[name] for name in self._trained], gradients)
        torch._foreach_copy_(self._into, list(found))


def _stacked(hooked: list[Tensor]) -> Layers:
    """Layers (L, R, C, B) of pre-activations (R, B, C) or (R, B, C, H, W)."""
    if hooked[0].dim() == 3:
        x = torch.stack([x.transpose(1, 2) for x in hooked])
        return Layers(x, x)
    tables = [_SpatialTables.apply(x.flatten(3)) for x in hooked]
    return Layers(*(torch.stack([two[i].transpose(1, 2) for two in tables]) for i in (0, 1)))  # type: ignore[index]


class _SpatialTables(torch.autograd.Function):
    """Largest and smallest value (R, B, C) of every image and channel of (R, B, C, S); of equal ones the first counts.

    As `max` and `min` are, but with one tensor of zeros in the backward pass: to make them takes longest.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        (high, at_high), (low, at_low) = x.max(3), x.min(3)
        ctx.shape = x.shape
        ctx.save_for_backward(at_high, at_low)
        return high, low

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        total = grad_outputs[0].new_zeros(ctx.shape)
        for at, gradient in zip(ctx.saved_tensors, grad_outputs, strict=True):
            total.scatter_add_(3, at.unsqueeze(3), gradient.unsqueeze(3))
        return total
