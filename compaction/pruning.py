"""Making zeros after training, for a compaction that nothing has prepared: by a threshold, or down to a cost.

Both zero the parameters of whole channels in the model; what is compact afterwards equals this masked model, no longer
the one that was trained.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from regx.compaction import running
from regx.compaction.planning import Bools
from regx.compaction.seen import Layer, Trace
from regx.compaction.tracing import trace
from regx.errors import UserError

# Of every dimension at least this share of the channels stays when a cost is aimed at.
LEAST = 0.1


def by_threshold(model: nn.Module, threshold: float) -> int:
    """Zeroes the units, filters and normalisation scales that are small.

    Args:
        model: changed in place. A row of a linear layer or a filter of a convolution is zeroed, with its bias, where
            its Euclidean norm is at most `threshold`; the scale of a normalised channel where its absolute value is.
        threshold: at least 0.

    Returns:
        How many were zeroed that were not zero before.
    """
    zeroed = 0
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Layer) and module._parameters.get("weight") is None:
                continue  # computed from other parameters
            if isinstance(module, Layer):
                rows = 1 if getattr(module, "transposed", False) else 0
                weight = module.weight.movedim(rows, 0)
                # A channel of a grouped transposed convolution is shared between groups.
                if rows and getattr(module, "groups", 1) > 1:
                    continue
                norms = torch.linalg.vector_norm(weight.flatten(1), dim=1)
                tensors = [weight, module.bias]
            elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                norms, tensors = module.weight.abs(), [module.weight]
            else:
                continue
            small = norms <= threshold
            zeroed += int((small & (norms > 0)).sum())
            for tensor in tensors:
                if tensor is not None:
                    tensor[small] = 0
    return zeroed


def to_macs(model: nn.Module, share: float, *inputs: Any) -> int:
    """Zeroes the channels of the smallest magnitude until a part of the multiply-adds is left.

    Channels that belong together are one; the magnitude of such a class is the sum of squares of all weights that read
    or make it, relative to the mean over the channels beside it, as in the group norm of Fang et al., CVPR 2023
    (arXiv:2301.12900). The smallest of the whole network go first; a tenth of every layer stays.

    Args:
        model: changed in place.
        share: of the multiply-adds of the linear and convolutional layers that may be left; above 0, at most 1.
        inputs: what the model is called with; the first sample is used.

    Returns:
        How many classes of channels were zeroed.

    Raises:
        UserError: even with a tenth of every layer more would be left.
    """
    seen = trace(model, *running.sample(model, inputs))
    classes, kept = seen.book.classes()
    total = _macs(seen, classes, np.zeros(int(classes.max(initial=-1)) + 1, bool))
    if not total:
        raise UserError("the network has no linear or convolutional layer that could be cut", "target_macs")
    layers = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, Layer)}
    parameters = dict(model.named_parameters())
    size, magnitude = np.zeros(int(classes.max()) + 1), np.zeros(int(classes.max()) + 1)
    together: list[NDArray[np.int64]] = []
    for name, dims in seen.tensors.items():
        for dim, atoms in enumerate(dims):
            if atoms is None or name not in parameters:
                continue
            together.append(classes[atoms])
            if name in layers:
                squares = parameters[name].detach().double().square().movedim(dim, 0).flatten(1).sum(1)
                np.add.at(magnitude, classes[atoms], squares.cpu().numpy())
                size[classes[atoms]] += 1
    families = _families(together, len(magnitude))
    means = np.bincount(families, magnitude * (size > 0)) / np.maximum(np.bincount(families, size > 0), 1)
    relative = magnitude / np.maximum(means[families], 1e-30)
    free = np.zeros(len(size), bool)
    for reader in seen.readers:  # other dimensions, of a kernel say, are no channels
        free[classes[reader.inputs]] = True
    free[list(kept)] = False
    order = [int(k) for k in np.argsort(relative, kind="stable") if free[k]]
    order = _within(order, together)

    def left(count: int) -> float:
        gone = np.zeros(len(magnitude), bool)
        gone[order[:count]] = True
        return _macs(seen, classes, gone) / total

    least = left(len(order))
    if least > share:
        reasons = Counter(reason for reason in kept.values() if not reason.endswith("output")).most_common(1)
        why = f" and what {reasons[0][0]} keeps" if reasons else ""
        raise UserError(
            f"{share:g} is out of reach: a tenth of every layer{why} still cost {least:.3f} of the multiply-adds",
            "target_macs",
        )
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if left(middle) <= share else (middle + 1, high)
    zero(model, seen, classes, set(order[:low]))
    return low


def zero(model: nn.Module, seen: Trace, classes: NDArray[np.int64], chosen: set[int]) -> None:
    """Zeroes all parameters of the chosen classes of channels."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, dims in seen.tensors.items():
            for dim, atoms in enumerate(dims):
                if atoms is not None and name in parameters:
                    hit = np.isin(classes[atoms], list(chosen))
                    parameters[name].movedim(dim, 0)[torch.from_numpy(hit)] = 0


def _families(together: list[NDArray[np.int64]], count: int) -> NDArray[np.int64]:
    """Number of the family of every class: those that lie side by side in some tensor."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.concatenate([np.repeat(members[:1], len(members)) for members in together])
    graph = coo_array((np.ones(len(rows), bool), (rows, np.concatenate(together))), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _within(order: list[int], together: list[NDArray[np.int64]]) -> list[int]:
    """The order without those that would leave less than the least share of some dimension."""
    room = [len(members) - max(1, int(np.ceil(LEAST * len(members)))) for members in together]
    where: dict[int, list[int]] = {}
    for number, members in enumerate(together):
        for member in members:  # as often as it is there
            where.setdefault(int(member), []).append(number)
    allowed = []
    for candidate in order:
        places = where[candidate]
        needed = {place: places.count(place) for place in set(places)}
        if all(room[place] >= times for place, times in needed.items()):
            allowed.append(candidate)
            for place, times in needed.items():
                room[place] -= times
    return allowed


def _macs(seen: Trace, classes: NDArray[np.int64], gone: Bools) -> float:
    total = 0.0
    for reader in seen.readers:
        kernel = reader.weight[0, 0].numel()
        total += (
            float((~gone[classes[reader.inputs]]).sum() * (~gone[classes[reader.outputs]]).sum())
            * kernel
            * reader.positions
        )
    return total + sum(float((~gone[classes[outputs]]).sum()) * each for outputs, each in seen.others)
