"""R dense rectangular networks, forward and backward by hand: layer by layer, all runs in one matrix product.

Activations lie as (layer, run, unit, row): one layer of all runs is one dense block, and everything that is the same
for all layers (slopes, extremes, gradients of weights) is one operation over the whole stack. Buffers are made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from regx.models import Rectangular
from regx.training.vectorised.extremes import Layers
from regx.training.vectorised.storage import Layout, padded

aten = torch.ops.aten

# Activation -> its value into a buffer, and its slope at pre-activations into a buffer.
_SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def _activate(name: str, x: Tensor, out: Tensor) -> None:
    if name == "relu":
        torch.clamp_min(x, 0, out=out)
    elif name == "identity":
        out.copy_(x)
    elif name in ("tanh", "sigmoid"):
        getattr(torch, name)(x, out=out)
    elif name == "selu":
        aten.elu.out(x, _SELU[0], _SELU[1], out=out)
    else:
        getattr(aten, name).out(x, out=out)


def _slope(name: str, x: Tensor, out: Tensor) -> None:
    ones = torch.ones((), dtype=x.dtype, device=x.device).expand_as(x)
    if name == "relu":
        torch.gt(x, 0, out=out)
    elif name == "identity":
        out.fill_(1)
    elif name in ("tanh", "sigmoid"):
        out.copy_(getattr(aten, f"{name}_backward")(ones, getattr(torch, name)(x)))
    elif name == "leaky_relu":
        out.copy_(aten.leaky_relu_backward(ones, x, 0.01, False))
    elif name in ("elu", "selu"):
        alpha, scale = _SELU if name == "selu" else (1.0, 1.0)
        out.copy_(aten.elu_backward(ones, alpha, scale, 1.0, False, x))
    else:
        out.copy_(getattr(aten, f"{name}_backward")(ones, x))


class Networks(Protocol):
    """R networks that are computed together.

    Attributes:
        gradients: of the weights, flat; `backward` writes them.
        layers: names of the hooked layers, in the order of the forward pass; known after one.
        positions: of the layers of every group of equal width, in the order of the forward pass.
        widths: of these groups.
    """

    gradients: Tensor
    layers: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...]

    def forward(self, x: Tensor, *, train: bool) -> Any:
        """Maps (R, B, ...), or (1, B, ...) where inputs are the same, to something with an `output` (R, K, B)."""
        ...

    def taps(self, done: Any) -> list[Layers]:
        """The pre-activations of the hooked layers, by groups."""
        ...

    def slopes(self, done: Any, output_gradient: Tensor) -> list[Layers]:
        """Zeros, to which what a penalty of `taps` adds to the gradients is to be added before `backward`.

        Args:
            done: the forward pass.
            output_gradient: (R, K, B) of the outputs; it may be among what is returned.
        """
        ...

    def backward(self, done: Any, output_gradient: Tensor) -> None:
        """Writes the gradients of all weights."""
        ...


@dataclass(frozen=True)
class Shape:
    """What all dense rectangular networks of a program have in common.

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
        first: nn.Linear = model.hidden["layer0"]  # type: ignore[assignment]
        norm = any(name.startswith("batchnorm") for name in model.hidden)
        return cls(first.in_features, model.head.out_features, len(layers), first.out_features, norm)

    def layout(self, runs: int) -> Layout:
        """Where the parameters of R networks lie."""
        width, depth = self.width, self.depth
        segments = {
            "first": (1, runs, width, self.inputs),
            "hidden": (depth - 1, runs, width, width),
            "bias": (depth, runs, width),
            "head": (1, runs, self.outputs, width),
            "head_bias": (1, runs, self.outputs),
        }
        places = {"head.weight": ("head", 0), "head.bias": ("head_bias", 0)}
        for layer in range(depth):
            places[f"hidden.layer{layer}.weight"] = ("hidden", layer - 1) if layer else ("first", 0)
            places[f"hidden.layer{layer}.bias"] = ("bias", layer)
        if not self.batchnorm:
            return Layout(runs, segments, places)
        for name, of_torch in (("gamma", "weight"), ("beta", "bias")):
            segments[name] = (depth, runs, width)
            places |= {f"hidden.batchnorm{layer}.{of_torch}": (name, layer) for layer in range(depth)}
        return Layout(runs, segments, places, {f"hidden.layer{layer}.bias" for layer in range(depth)})

    def statistics(self, runs: int) -> Layout:
        """Where their running statistics lie."""
        if not self.batchnorm:
            return Layout(runs, {}, {})
        names = {"mean": "running_mean", "variance": "running_var"}
        places = {f"hidden.batchnorm{i}.{of}": (name, i) for name, of in names.items() for i in range(self.depth)}
        return Layout(runs, dict.fromkeys(names, (self.depth, runs, self.width)), places)


@dataclass
class Stack:
    """A number for every layer, run, unit and row.

    Attributes:
        rows: (L, S) every layer in a row, which is longer than needed: see `padded`.
        values: (L, R, W, B) the same without what is too much.
        row, value: the layers of these; made once, as to pick one takes as long as a small product.
        turned: (R, B, W) the layers of `values`, transposed.
    """

    rows: Tensor
    values: Tensor
    row: tuple[Tensor, ...]
    value: tuple[Tensor, ...]
    turned: tuple[Tensor, ...]


@dataclass
class Norm:
    """Running statistics of the batch normalisations: (L, R, W) each."""

    mean: Tensor
    variance: Tensor
    momentum: float
    eps: float


@dataclass
class Pass:
    """What a forward pass leaves behind.

    Attributes:
        x: (R, F, B) inputs.
        linear: outputs of the linear layers.
        pre: inputs of the activations; `linear` itself without normalisation and dropout.
        post: what each layer hands to the next, after a skip connection.
        output: (R, K, B).
        noise: factors of dropout.
        saved: means and inverse deviations of the batch, per layer.
        added: what a penalty adds to the gradients of the hooked layers; None without.
    """

    x: Tensor
    linear: Stack
    pre: Stack
    post: Stack
    output: Tensor
    noise: Stack | None
    saved: list[tuple[Tensor, Tensor]]
    added: Stack | None = None


class Network:
    """R networks with equal sizes; see `Networks`.

    Args:
        shape: sizes.
        layout: of the flat weights.
        weights: flat.
        hooked: names of the layers whose pre-activations are looked at.
        at_layers: whether these are the outputs of linear layers, else the inputs of activations.
        activation: name of the activation.
        skip: layers that a skip connection spans; None without.
        norm: running statistics; None without batch normalisation.
        dropout: (R,) probabilities; None without.
        generators: of the dropout of every run.
    """

    def __init__(
        self,
        shape: Shape,
        layout: Layout,
        weights: Tensor,
        *,
        hooked: tuple[str, ...],
        at_layers: bool,
        activation: str,
        skip: int | None = None,
        norm: Norm | None = None,
        dropout: Tensor | None = None,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self.layout, self.shape = layout, shape
        self.layers, self.at_layers, self.at_head = hooked, at_layers, "head" in hooked
        self.positions = (tuple(range(shape.depth)), *([(shape.depth,)] if self.at_head else []))
        self.widths = (shape.width, *([shape.outputs] if self.at_head else []))
        self.weights = layout.views(weights)
        self.activation, self.skip, self.norm = activation, skip, norm
        self.dropout, self.generators = dropout, generators
        self.gradients = torch.zeros_like(weights)
        self._by_segment = layout.views(self.gradients)
        self._weight = (self.weights["first"][0], *self.weights["hidden"])
        self._weight_turned = [weight.transpose(1, 2) for weight in self._weight]
        self._bias = [bias.unsqueeze(2) for bias in self.weights["bias"]]
        self._into = (self._by_segment["first"][0], *self._by_segment["hidden"])
        self._buffers: dict[str, Tensor] = {}
        self._stacks: dict[tuple[str, int], Stack] = {}

    def _buffer(self, name: str, batch: int) -> Stack:
        """Made once for every size of a batch; the memory is made anew only where more is needed than ever before."""
        if (name, batch) in self._stacks:
            return self._stacks[name, batch]
        shape = (self.layout.runs, self.shape.width, batch)
        size = torch.Size(shape).numel()
        whole = self.shape.depth * padded(size)
        kept = self._buffers.get(name)
        if kept is None or kept.numel() < whole:
            kept = self._buffers[name] = self.gradients.new_zeros(whole)
            self._stacks = {key: stack for key, stack in self._stacks.items() if key[0] != name}
        rows = kept[:whole].view(self.shape.depth, -1)
        values = rows[:, :size].view(-1, *shape)
        turned = tuple(value.transpose(1, 2) for value in values)
        self._stacks[name, batch] = Stack(rows, values, tuple(rows), tuple(values), turned)
        return self._stacks[name, batch]

    def forward(self, x: Tensor, *, train: bool) -> Pass:
        """Maps (R, B, F) to (R, K, B).

        Args:
            x: inputs; those of all runs, or (1, B, F) where they are the same.
            train: whether statistics are those of the batch, and dropout is on.
        """
        x = x.transpose(1, 2)
        weights, depth, batch = self.weights, self.shape.depth, x.shape[2]
        dropout = train and self.dropout is not None
        linear, post = self._buffer("linear", batch), self._buffer("post", batch)
        pre = self._buffer("pre", batch) if dropout or self.norm else linear
        noise = self._draw(batch) if dropout else None
        saved: list[tuple[Tensor, Tensor]] = []
        h = x.expand(self.layout.runs, -1, -1)
        for layer in range(depth):
            torch.baddbmm(self._bias[layer], self._weight[layer], h, out=linear.value[layer])
            if self.norm:
                saved.append(self._normalize(layer, linear.value[layer], pre.value[layer], train=train))
            if noise is not None:
                before = pre if self.norm else linear
                torch.mul(before.row[layer], noise.row[layer], out=pre.row[layer])
            _activate(self.activation, pre.row[layer], post.row[layer])
            h = post.value[layer]
            if self.skip and layer and layer % self.skip == 0:
                h.add_(post.value[layer - self.skip])
        output = torch.baddbmm(weights["head_bias"][0].unsqueeze(2), weights["head"][0], h)
        return Pass(x, linear, pre, post, output, noise, saved)

    def taps(self, done: Pass) -> list[Layers]:
        """See `Networks.taps`."""
        hidden = (done.linear if self.at_layers else done.pre).values
        output = done.output.unsqueeze(0)
        return [Layers(hidden, hidden), *([Layers(output, output)] if self.at_head else [])]

    def slopes(self, done: Pass, output_gradient: Tensor) -> list[Layers]:
        """See `Networks.slopes`."""
        done.added = self._buffer("hooked", done.x.shape[2])
        done.added.rows.zero_()
        hidden, output = done.added.values, output_gradient.unsqueeze(0)
        return [Layers(hidden, hidden), *([Layers(output, output)] if self.at_head else [])]

    def backward(self, done: Pass, output_gradient: Tensor) -> None:
        """See `Networks.backward`; `done` is used up."""
        pre_gradient, linear_gradient = (None, done.added) if self.at_layers else (done.added, None)
        weights, into, depth = self.weights, self._by_segment, self.shape.depth
        batch = done.x.shape[2]
        gradient = self._buffer("gradient", batch) if pre_gradient is None else pre_gradient
        slope, below = self._buffer("slope", batch), self._buffer("below", batch)
        _slope(self.activation, done.pre.rows, slope.rows)
        torch.bmm(output_gradient, done.post.turned[-1], out=into["head"][0])
        torch.sum(output_gradient, 2, out=into["head_bias"][0])
        torch.bmm(weights["head"][0].transpose(1, 2), output_gradient, out=below.value[-1])
        skipped: Tensor | None = None
        for layer in reversed(range(depth)):
            d, here = below.row[layer], gradient.row[layer]
            if self.skip and layer % self.skip == 0:
                if skipped is not None:
                    d.add_(skipped)
                skipped = d
            if pre_gradient is None:
                torch.mul(d, slope.row[layer], out=here)
            else:
                here.addcmul_(d, slope.row[layer])
            if done.noise is not None:
                here.mul_(done.noise.row[layer])
            if self.norm:
                self._normalize_backward(layer, done, gradient.value[layer])
            if linear_gradient is not None:
                here.add_(linear_gradient.row[layer])
            if layer:
                torch.bmm(self._weight_turned[layer], gradient.value[layer], out=below.value[layer - 1])
        x = done.x.expand(self.layout.runs, -1, -1)
        torch.sum(gradient.values, 3, out=into["bias"])
        for layer in range(depth):
            before = done.post.turned[layer - 1] if layer else x.transpose(1, 2)
            torch.bmm(gradient.value[layer], before, out=self._into[layer])
        if self.norm:
            into["bias"].zero_()  # not trained: taken out again by the normalisation

    def _draw(self, batch: int) -> Stack:
        """Factors of dropout, drawn for every run and layer as its own module would."""
        assert self.dropout is not None
        noise = self._buffer("noise", batch)
        kept = (1 - self.dropout).tolist()
        for layer in range(self.shape.depth):
            for run, generator in enumerate(self.generators):
                draw = torch.empty(batch, self.shape.width, dtype=self.gradients.dtype)
                draw.bernoulli_(kept[run], generator=generator)
                noise.value[layer][run] = (draw / kept[run] if kept[run] else draw).t()
        return noise

    def _normalize(self, layer: int, x: Tensor, out: Tensor, *, train: bool) -> tuple[Tensor, Tensor]:
        assert self.norm is not None
        norm = self.norm
        value, mean, inverse = torch.native_batch_norm(
            x.flatten(0, 1).unsqueeze(0),
            self.weights["gamma"][layer].flatten(),
            self.weights["beta"][layer].flatten(),
            norm.mean[layer].view(-1),
            norm.variance[layer].view(-1),
            train,
            norm.momentum,
            norm.eps,
        )
        out.copy_(value.view_as(out))
        return mean, inverse

    def _normalize_backward(self, layer: int, done: Pass, gradient: Tensor) -> None:
        assert self.norm is not None
        mean, inverse = done.saved[layer]
        found, gamma, beta = aten.native_batch_norm_backward(
            gradient.flatten(0, 1).unsqueeze(0),
            done.linear.value[layer].flatten(0, 1).unsqueeze(0),
            self.weights["gamma"][layer].flatten(),
            self.norm.mean[layer].view(-1),
            self.norm.variance[layer].view(-1),
            mean,
            inverse,
            True,
            self.norm.eps,
            [True, True, True],
        )
        gradient.copy_(found.view_as(gradient))
        self._by_segment["gamma"][layer].copy_(gamma.view_as(self._by_segment["gamma"][layer]))
        self._by_segment["beta"][layer].copy_(beta.view_as(self._by_segment["beta"][layer]))


def norm_of(model: nn.Module) -> nn.BatchNorm1d | None:
    """The first batch normalisation of a network."""
    return next((module for module in model.modules() if isinstance(module, nn.BatchNorm1d)), None)
