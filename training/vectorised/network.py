"""R dense rectangular networks, forward and backward by hand: layer by layer, all runs in one matrix product.

Activations lie as (layer, run, unit, row): one layer of all runs is one dense block, and everything that is the same
for all layers (slopes, extremes, gradients of weights) is one operation over the whole stack. Buffers are made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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


@dataclass
class Stack:
    """A number for every layer, run, unit and row.

    Attributes:
        rows: (L, S) every layer in a row, which is longer than needed: see `padded`.
        values: (L, R, W, B) the same without what is too much.
    """

    rows: Tensor
    values: Tensor


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
    """

    x: Tensor
    linear: Stack
    pre: Stack
    post: Stack
    output: Tensor
    noise: Stack | None
    saved: list[tuple[Tensor, Tensor]]


class Network:
    """R networks with equal sizes.

    Args:
        layout: of the flat weights.
        weights: flat.
        activation: name of the activation.
        skip: layers that a skip connection spans; None without.
        norm: running statistics; None without batch normalisation.
        dropout: (R,) probabilities; None without.
        generators: of the dropout of every run.
    """

    def __init__(
        self,
        layout: Layout,
        weights: Tensor,
        *,
        activation: str,
        skip: int | None = None,
        norm: Norm | None = None,
        dropout: Tensor | None = None,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self.layout, self.shape = layout, layout.shape
        self.weights = layout.views(weights)
        self.activation, self.skip, self.norm = activation, skip, norm
        self.dropout, self.generators = dropout, generators
        self.gradients = torch.zeros_like(weights)
        self._by_segment = layout.views(self.gradients)
        self._buffers: dict[str, Tensor] = {}

    def _buffer(self, name: str, batch: int) -> Stack:
        """Made anew only where more is needed than ever before."""
        shape = (self.layout.runs, self.shape.width, batch)
        size = torch.Size(shape).numel()
        whole = self.shape.depth * padded(size)
        kept = self._buffers.get(name)
        if kept is None or kept.numel() < whole:
            kept = self._buffers[name] = self.gradients.new_zeros(whole)
        rows = kept[:whole].view(self.shape.depth, -1)
        return Stack(rows, rows[:, :size].view(-1, *shape))

    def forward(self, x: Tensor, *, train: bool) -> Pass:
        """Maps (R, F, B) to (R, K, B).

        Args:
            x: inputs; those of all runs, or (1, F, B) where they are the same.
            train: whether statistics are those of the batch, and dropout is on.
        """
        weights, depth, batch = self.weights, self.shape.depth, x.shape[2]
        dropout = train and self.dropout is not None
        linear, post = self._buffer("linear", batch), self._buffer("post", batch)
        pre = self._buffer("pre", batch) if dropout or self.norm else linear
        noise = self._draw(batch) if dropout else None
        saved: list[tuple[Tensor, Tensor]] = []
        h = x.expand(self.layout.runs, -1, -1)
        for layer in range(depth):
            weight = weights["hidden"][layer - 1] if layer else weights["first"][0]
            torch.baddbmm(weights["bias"][layer].unsqueeze(2), weight, h, out=linear.values[layer])
            if self.norm:
                saved.append(self._normalize(layer, linear.values[layer], pre.values[layer], train=train))
            if noise is not None:
                before = pre if self.norm else linear
                torch.mul(before.rows[layer], noise.rows[layer], out=pre.rows[layer])
            _activate(self.activation, pre.rows[layer], post.rows[layer])
            h = post.values[layer]
            if self.skip and layer and layer % self.skip == 0:
                h.add_(post.values[layer - self.skip])
        output = torch.baddbmm(weights["head_bias"][0].unsqueeze(2), weights["head"][0], h)
        return Pass(x, linear, pre, post, output, noise, saved)

    def zeros(self, name: str, batch: int) -> Stack:
        """Zeros, in a buffer of that name, for what `backward` shall add to the gradients."""
        found = self._buffer(name, batch)
        found.rows.zero_()
        return found

    def backward(
        self,
        done: Pass,
        output_gradient: Tensor,
        pre_gradient: Stack | None = None,
        linear_gradient: Stack | None = None,
    ) -> Tensor:
        """Gradients of all weights, flat.

        Args:
            done: the forward pass.
            output_gradient: (R, K, B) of the outputs.
            pre_gradient: what a penalty adds to the gradients of the inputs of activations; it is overwritten.
            linear_gradient: the same of the outputs of linear layers.
        """
        weights, into, depth = self.weights, self._by_segment, self.shape.depth
        batch = done.x.shape[2]
        gradient = self._buffer("gradient", batch) if pre_gradient is None else pre_gradient
        slope, below = self._buffer("slope", batch), self._buffer("below", batch)
        _slope(self.activation, done.pre.rows, slope.rows)
        torch.bmm(output_gradient, done.post.values[-1].transpose(1, 2), out=into["head"][0])
        torch.sum(output_gradient, 2, out=into["head_bias"][0])
        torch.bmm(weights["head"][0].transpose(1, 2), output_gradient, out=below.values[-1])
        skipped: Tensor | None = None
        for layer in reversed(range(depth)):
            d, here = below.rows[layer], gradient.rows[layer]
            if self.skip and layer % self.skip == 0:
                if skipped is not None:
                    d.add_(skipped)
                skipped = d
            if pre_gradient is None:
                torch.mul(d, slope.rows[layer], out=here)
            else:
                here.addcmul_(d, slope.rows[layer])
            if done.noise is not None:
                here.mul_(done.noise.rows[layer])
            if self.norm:
                self._normalize_backward(layer, done, gradient.values[layer])
            if linear_gradient is not None:
                here.add_(linear_gradient.rows[layer])
            if layer:
                weight = weights["hidden"][layer - 1].transpose(1, 2)
                torch.bmm(weight, gradient.values[layer], out=below.values[layer - 1])
        x = done.x.expand(self.layout.runs, -1, -1)
        torch.bmm(gradient.values[0], x.transpose(1, 2), out=into["first"][0])
        torch.sum(gradient.values, 3, out=into["bias"])
        for layer in range(1, depth):
            before = done.post.values[layer - 1].transpose(1, 2)
            torch.bmm(gradient.values[layer], before, out=into["hidden"][layer - 1])
        if self.norm:
            into["bias"].zero_()  # not trained: taken out again by the normalisation
        return self.gradients

    def _draw(self, batch: int) -> Stack:
        """Factors of dropout, drawn for every run and layer as its own module would."""
        assert self.dropout is not None
        noise = self._buffer("noise", batch)
        kept = (1 - self.dropout).tolist()
        for layer in range(self.shape.depth):
            for run, generator in enumerate(self.generators):
                draw = self.gradients.new_empty(batch, self.shape.width).bernoulli_(kept[run], generator=generator)
                noise.values[layer, run] = (draw / kept[run] if kept[run] else draw).t()
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
            done.linear.values[layer].flatten(0, 1).unsqueeze(0),
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
