"""How much of a model is exactly or nearly zero, by unit, and what would be left of it without its zeros.

Of every weight with two and more dimensions outside normalisation layers, frozen ones included, each tensor once:

    elements   single numbers
    kernels    2D: one kernel of a convolution, filter by channel
    filters    3D: all that makes one output channel of a convolution
    channels   one input channel of a convolution, over all filters
    rows       one output of a linear layer
    columns    one input of a linear layer
    units      filters and rows, and one output of any other weight

A group is zero when all its numbers are exactly 0, and near zero when its Euclidean norm is below a threshold, as in
the group lasso; an element when its absolute value is. Near zero includes zero.

Source: units and weights table of IntelLabs/distiller, whose `sparsity_2D` of a matrix is `rows` here; zeros beside
near zeros of avdosev/group_loss (which takes the largest absolute value) and Mohamedsalem80/GroupL1.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regx.errors import UserError
from regx.regularizers import cost
from regx.regularizers.groups import Part, cut, read_groups
from regx.regularizers.precision import widened
from regx.regularizers.selection import Weight, weights_of

THRESHOLDS = {"1e-5": 1e-5, "1e-3": 1e-3, "1e-2": 1e-2}
# Unit -> its name in `regx.regularizers.groups`.
UNITS = {
    "kernels": "kernels",
    "filters": "filters",
    "channels": "channels",
    "rows": "rows",
    "columns": "cols",
    "units": "units",
}

# Weights of one shape are copied together and measured at once up to this many numbers; a larger one stays in place.
_STACK_LIMIT = 2**18


class SparsityMeter:
    """Measures the zeros of a model; made once, when the model is on its device, and asked as often as needed.

        meter = SparsityMeter(model, x[:1])
        row = meter.row()
        write_csv(path, meter.table())

    It holds the parameters, not copies: a model whose parameters are replaced needs a new one.

    Args:
        model: the model.
        sample: input of a dry run, (N, ...), to count multiply-accumulates with; without it none are.
        blocks: also measure blocks, as in `blocks(4,2)`: 4 outputs by 2 inputs.

    Raises:
        UserError: the model has no weights, or `blocks` is something else or does not divide them.
    """

    def __init__(self, model: nn.Module, sample: Tensor | None, *, blocks: str | None = None) -> None:
        self._layers = _layers(model, sample, blocks)
        self._stacks = _stacked(self._layers)
        self._units = [unit for unit in (*UNITS, "blocks") if any(unit in layer.parts for layer in self._layers)]
        self._parameters = sum(parameter.numel() for parameter in model.parameters())
        self._macs = None if sample is None else sum(layer.size * layer.positions for layer in self._layers)

    def row(self) -> dict[str, Tensor]:
        """Totals over the model, as 0-dimensional tensors on its device; waits for no device.

        * `sparsity/<unit>`: share of the groups that are zero; units that the model does not have are left out.
        * `sparsity/<unit>_1e-5`, `_1e-3`, `_1e-2`: share of those that are near zero.
        * `sparsity/parameters`: number of all parameters; `sparsity/parameters_left`: number if every linear or
          convolutional layer were cut to its f rows or filters and c columns or channels that are not zero:
          f c k for its weight (k: size of a kernel; convolution groups are cut one by one) and f for its bias. All
          other parameters stay, batch normalisation's too. A zero filter counts as removable even where a bias makes
          its output a constant, and what its removal would spare in other layers is not counted.
        * `sparsity/macs`, `sparsity/macs_left`: multiply-accumulates per sample of these layers before and after the
          same cut, as in `regx.regularizers.cost`; only with a sample.
        """
        counts: list[Tensor] = []
        groups: dict[str, list[tuple[Tensor, Tensor]]] = {unit: [] for unit in self._units}
        left, macs = [], []
        with torch.no_grad():
            for stack in self._stacks:
                found = stack.measure()
                counts.append(found.elements)
                for unit, extents in found.groups.items():
                    groups[unit].append(extents)
                removed, spared = stack.cut(found)
                left.append(removed)
                macs.append(spared)
            columns = {"elements": (torch.stack(counts).sum(0), sum(layer.size for layer in self._layers))}
            for unit, extents in groups.items():
                largest, norms = (torch.cat([x[side].flatten() for x in extents]) for side in (0, 1))
                columns[unit] = (_counts(largest, norms), len(norms))
            shares = torch.stack([count.double() / total for count, total in columns.values()])
            row = {f"sparsity/{unit}": share for unit, share in zip(columns, shares[:, 0].unbind(), strict=True)}
            for unit, near in zip(columns, shares[:, 1:].unbind(), strict=True):
                for name, share in zip(THRESHOLDS, near.unbind(), strict=True):
                    row[f"sparsity/{unit}_{name}"] = share
            removed = torch.stack(left).sum()
            row["sparsity/parameters"] = torch.full_like(removed, self._parameters)
            row["sparsity/parameters_left"] = self._parameters - removed
            if self._macs is not None:
                spared = torch.stack(macs).sum()
                row["sparsity/macs"] = torch.full_like(spared, self._macs)
                row["sparsity/macs_left"] = self._macs - spared
        return row

    def table(self) -> list[dict[str, Any]]:
        """One row per weight, in the order of the model, and one called `total`.

        The columns: `name`, `shape` (`64x3x3x3`), `dense` (numbers), `nnz` (numbers that are not 0), the shares of
        zeros by unit under the names of `row()` (None for a unit that the weight does not have), `std` (of the
        population), `mean`, `abs_mean`, and the shares of near zeros (`filters_1e-3`).
        """
        units = ["columns", "rows", "channels", "kernels", "filters", "units", "blocks"]
        units = [unit for unit in units if unit in self._units] + ["elements"]
        rows, all_counts, all_moments = [], [], []
        with torch.no_grad():
            for layer in self._layers:
                found = _Stack([layer]).measure()
                counts = {"elements": (np.array(found.elements.tolist()), layer.size)}
                for unit, (largest, norms) in found.groups.items():
                    counts[unit] = (np.array(_counts(largest, norms).tolist()), norms.numel())
                w = layer.weight.tensor.double()
                moments = torch.stack([w.std(correction=0), w.mean(), w.abs().mean()]).tolist()
                shape = "x".join(map(str, w.shape))
                rows.append(_table_row(layer.weight.name, shape, units, counts, moments))
                all_counts.append(counts)
                all_moments.append(moments)
        total = {}
        for unit in units:
            found = [counts[unit] for counts in all_counts if unit in counts]
            total[unit] = (sum(count for count, _ in found), sum(size for _, size in found))
        sizes = np.array([layer.size for layer in self._layers])
        return [*rows, _table_row("total", "", units, total, _pooled(sizes, np.array(all_moments)))]

    def arrays(self) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        """All weights in one row, and the Euclidean norms of all `filters`, `rows` and other `units`: to draw."""
        norms: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for layer in self._layers:
                kind = next(unit for unit in ("filters", "rows", "units") if unit in layer.parts)
                norms.setdefault(kind, []).append(_Stack([layer]).measure().groups[kind][1].flatten())
            weights = torch.cat([layer.weight.tensor.detach().float().flatten() for layer in self._layers])
        return weights.cpu().numpy(), {kind: torch.cat(found).cpu().numpy() for kind, found in norms.items()}


@dataclass(frozen=True)
class _Layer:
    """One weight and how it is cut.

    Attributes:
        weight: the weight, (A, B, ...), where A and B are outputs and inputs or, transposed, inputs and outputs.
        parts: unit -> cut of the (A, B) map that is left when kernels are one number each.
        sides: units that are the outputs and the inputs; None for what is no linear or convolutional layer.
        split: groups of a grouped convolution.
        biases: number of biases per output.
        positions: how often the weight is applied per sample; 0 where that was not counted.
    """

    weight: Weight
    parts: dict[str, Part]
    sides: tuple[str, str] | None
    split: int
    biases: int
    positions: int

    @property
    def size(self) -> int:
        return self.weight.tensor.numel()


def _layers(model: nn.Module, sample: Tensor | None, blocks: str | None) -> list[_Layer]:
    if blocks is not None and read_groups(blocks)[0] != "blocks":
        raise UserError(f"{blocks!r} is no size of blocks; write blocks(4,2), say", "log_blocks")
    weights = weights_of(model, frozen=True)
    if not weights:
        raise UserError(f"{type(model).__name__} has no weights of two and more dimensions to measure")
    parts: dict[str, dict[str, Part]] = {weight.name: {} for weight in weights}
    for unit, name in (UNITS | ({"blocks": blocks} if blocks else {})).items():
        # Only blocks can fit badly; of the others it just says that no weight has them.
        with contextlib.suppress(UserError) if unit != "blocks" else contextlib.nullcontext():
            kept, levels = cut(name, weights)
            for weight, part in zip(kept, levels[0].parts, strict=True):
                assert part is not None
                kernel = weight.tensor.ndim - 2
                parts[weight.name][unit] = Part(part.shape[: len(part.shape) - kernel], part.keep)
    costs = cost.count(model, sample) if sample is not None else {}
    users: dict[int, list[tuple[str, cost.Layer]]] = {}
    for name, module in cost.layers(model).items():
        users.setdefault(id(module.weight), []).append((name, module))
    layers = []
    for weight in weights:
        own, mine = parts[weight.name], users.get(id(weight.tensor), [])
        sides = ("units", "channels" if "channels" in own else "columns") if mine else None
        layers.append(
            _Layer(
                weight,
                own,
                sides,
                split=int(getattr(weight.module, "groups", 1)),
                biases=len({id(module.bias) for _, module in mine if module.bias is not None}),
                positions=sum(costs[name].positions for name, _ in mine if name in costs),
            )
        )
    return layers


@dataclass(frozen=True)
class _Found:
    """What is measured of a stack of n weights.

    Attributes:
        elements: (1 + thresholds,) how many elements are zero and near zero.
        groups: unit -> largest absolute value and Euclidean norm of every group, (n, ...).
    """

    elements: Tensor
    groups: dict[str, tuple[Tensor, Tensor]]


class _Stack:
    """Weights that look alike, measured together."""

    def __init__(self, layers: list[_Layer]) -> None:
        self.layers = layers
        device = layers[0].weight.tensor.device
        self._positions = torch.tensor([layer.positions for layer in layers]).to(device)

    def measure(self) -> _Found:
        tensors: list[Tensor] = [layer.weight.tensor for layer in self.layers]
        w = torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)
        w = widened(w)
        size = w.abs()
        elements = _counts(size, size)
        kernel = tuple(range(3, w.ndim))
        largest, norms = (size.amax(kernel), torch.linalg.vector_norm(w, dim=kernel)) if kernel else (size, size)
        done: dict[Part, tuple[Tensor, Tensor]] = {}  # filters are the units of a convolution: measured once
        groups = {}
        for unit, part in self.layers[0].parts.items():
            if part not in done:
                shape = (len(w), *part.shape)
                within = tuple(dim + 1 for dim in range(len(part.shape)) if dim not in part.keep)
                a, b = largest.view(shape), norms.view(shape)
                done[part] = (a.amax(within), torch.linalg.vector_norm(b, dim=within)) if within else (a, b)
            groups[unit] = done[part]
        return _Found(elements, groups)

    def cut(self, found: _Found) -> tuple[Tensor, Tensor]:
        """Numbers of parameters and multiply-accumulates that cutting the zero groups would remove."""
        layer = self.layers[0]
        if layer.sides is None:
            return self._positions.new_zeros(()), self._positions.new_zeros(())
        sides = [found.groups[unit][0].reshape(len(self.layers), layer.split, -1) for unit in layer.sides]
        outputs, inputs = (torch.count_nonzero(side, dim=-1) for side in sides)  # (n, split)
        kernel = math.prod(layer.weight.tensor.shape[2:])
        removed = layer.size - kernel * (outputs * inputs).sum(-1)
        biases = layer.biases * (sides[0].numel() - outputs.sum())
        return removed.sum() + biases, (removed * self._positions).sum()


def _stacked(layers: list[_Layer]) -> list[_Stack]:
    """Small weights of the same shape and cut together, large ones each for itself."""
    alike: dict[Any, list[_Layer]] = {}
    for layer in layers:
        tensor = layer.weight.tensor
        key = (tensor.shape, tensor.dtype, tuple(layer.parts.items()), layer.sides, layer.biases)
        alike.setdefault(key, []).append(layer)
    stacks = []
    for group in alike.values():
        most = max(_STACK_LIMIT // max(group[0].size, 1), 1)
        stacks += [_Stack(group[begin : begin + most]) for begin in range(0, len(group), most)]
    return stacks


def _counts(largest: Tensor, norms: Tensor) -> Tensor:
    """(1 + thresholds,) how many are zero, and how many near zero at every threshold."""
    near = [torch.count_nonzero(norms < threshold) for threshold in THRESHOLDS.values()]
    return torch.stack([largest.numel() - torch.count_nonzero(largest), *near])


def _table_row(
    name: str, shape: str, units: list[str], counts: dict[str, tuple[NDArray[np.int64], int]], moments: list[float]
) -> dict[str, Any]:
    zeros, dense = counts["elements"]
    shares = {unit: (counts[unit][0] / counts[unit][1]).tolist() if unit in counts else None for unit in units}
    row = {"name": name, "shape": shape, "dense": dense, "nnz": dense - int(zeros[0])}
    row |= {unit: None if share is None else share[0] for unit, share in shares.items()}
    row |= dict(zip(("std", "mean", "abs_mean"), moments, strict=True))
    for index, threshold in enumerate(THRESHOLDS, 1):
        row |= {f"{unit}_{threshold}": None if share is None else share[index] for unit, share in shares.items()}
    return row


def _pooled(sizes: NDArray[np.int64], moments: NDArray[np.float64]) -> list[float]:
    """Standard deviation, mean and mean absolute value of all numbers, from those of the parts."""
    std, mean, absolute = moments.T
    total = np.average(mean, weights=sizes)
    variance = np.average(std**2 + (mean - total) ** 2, weights=sizes)
    return [float(np.sqrt(variance)), float(total), float(np.average(absolute, weights=sizes))]
