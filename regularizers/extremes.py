"""Largest and smallest pre-activations of every unit and every point, with a backward pass that keeps no activation."""

from typing import Any

import torch
from torch import Tensor

from regx.regularizers.precision import widened

# Largest of the units, smallest of the units, then those of the points. One after the other, as no scatter has then two
# sources for one place: the order of the sum, and so the sum, is fixed. In pairs, so that opposite gradients on one
# place (a tie of all values) cancel exactly.
_SCATTER_ORDER = (0, 2, 1, 3)


class StackedExtremes(torch.autograd.Function):
    """Extremes (L, 2, C + N) of (L, N, C).

    Saves four small index tensors and no activation.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, generator: torch.Generator | None) -> Tensor:
        ctx.shape, ctx.dtype = x.shape, x.dtype
        found = [x.max(1), x.max(2), x.min(1), x.min(2)]  # of equal extremes, torch gives the first
        values = [value for value, _ in found]
        indices = [index for _, index in found]
        if generator is not None:
            indices = [_random_tie(x, values[i], (1, 2, 1, 2)[i], generator) for i in range(4)]
        ctx.save_for_backward(*indices)
        return widened(torch.cat(values, 1).unflatten(1, (2, -1)))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        indices = ctx.saved_tensors
        total = grad.new_zeros(ctx.shape, dtype=ctx.dtype)
        points, units = ctx.shape[1:]
        grads = grad.to(ctx.dtype).flatten(1).split([units, points, units, points], 1)
        for i in _SCATTER_ORDER:
            dim = (1, 2, 1, 2)[i]
            total = total.scatter_add_(dim, indices[i].unsqueeze(dim), grads[i].unsqueeze(dim))
        return total, None


def spatial_values(x: Tensor, unit_dim: int) -> Tensor:
    """Extremes (2, C + N) of one tensor with more than two dimensions, without the places where they are."""
    flat = x.movedim(unit_dim, 1).flatten(2)
    highest, lowest = flat.amax(2), flat.amin(2)
    found = torch.cat([highest.amax(0), highest.amax(1), lowest.amin(0), lowest.amin(1)])
    return widened(found.unflatten(0, (2, -1)))


class SpatialExtremes(torch.autograd.Function):
    """Extremes of one tensor with more than two dimensions.

    Saves the storage positions of the 2 (N + C) extremes and no activation, so the activation may be overwritten.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, unit_dim: int, generator: torch.Generator | None) -> Tensor:
        moved = x.movedim(unit_dim, 1)
        flat = moved.flatten(2)
        if not _is_dense(flat):
            flat = flat.contiguous()
        points, units, _ = flat.shape
        highest, lowest = flat.amax(2), flat.amin(2)
        found = [highest.max(0), highest.max(1), lowest.min(0), lowest.min(1)]
        values = [value for value, _ in found]
        if generator is None:
            all_points = torch.arange(points, device=x.device)
            all_units = torch.arange(units, device=x.device)
            at = []
            for unit, point, extreme in ((found[0], found[1], torch.argmax), (found[2], found[3], torch.argmin)):
                n = torch.cat([unit[1], all_points])
                c = torch.cat([all_units, point[1]])
                at.append(_storage_positions(flat, n, c, extreme(flat[n, c], 1)))
        else:
            at = _random_positions(flat, values, generator)
        ctx.strides, ctx.moved_shape, ctx.unit_dim, ctx.dtype = flat.stride(), moved.shape, unit_dim, x.dtype
        ctx.save_for_backward(torch.cat(at))
        return widened(torch.cat(values).unflatten(0, (2, -1)))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        (at,) = ctx.saved_tensors
        total = grad.new_zeros(ctx.moved_shape.numel(), dtype=ctx.dtype)
        points, units = ctx.moved_shape[:2]
        sizes = [units, points, units, points]
        positions, grads = at.split(sizes), grad.to(ctx.dtype).flatten().split(sizes)
        for i in _SCATTER_ORDER:
            total = total.scatter_add_(0, positions[i], grads[i])
        flat_shape = (*ctx.moved_shape[:2], ctx.moved_shape[2:].numel())
        # Same layout as the activation (channels_last stays so): adding gradients of two layouts is slow.
        grad_x = total.as_strided(flat_shape, ctx.strides).unflatten(2, ctx.moved_shape[2:])
        return grad_x.movedim(1, ctx.unit_dim), None, None


def _storage_positions(flat: Tensor, n: Tensor, c: Tensor, s: Tensor) -> Tensor:
    stride_n, stride_c, stride_s = flat.stride()
    return torch.add(torch.add(n * stride_n, c, alpha=stride_c), s, alpha=stride_s)


def _random_positions(flat: Tensor, values: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    points, units, size = flat.shape
    by_unit = flat.transpose(0, 1).reshape(units, -1)
    by_point = flat.reshape(points, -1)
    at = []
    for i, value in enumerate(values):
        row = torch.arange(len(value), device=flat.device)
        index = _random_tie(by_point if i % 2 else by_unit, value, 1, generator)
        other, s = index // size, index % size
        at.append(_storage_positions(flat, row, other, s) if i % 2 else _storage_positions(flat, other, row, s))
    return at


def _random_tie(x: Tensor, value: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    """Index along `dim` of one entry that equals `value`, each with the same probability."""
    draw = torch.rand(x.shape, device=x.device, generator=generator)
    return draw.masked_fill_(x != value.unsqueeze(dim), -1).argmax(dim)


def _is_dense(x: Tensor) -> bool:
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True
