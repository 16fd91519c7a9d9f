"""What each operation does to channels: a rule for every kind, and one for all that is not understood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from regx.compaction.atoms import Atoms
from regx.compaction.passes import Call, Pass
from regx.compaction.seen import Addition, Dims, Reader, State

aten = torch.ops.aten


def name(packet: Any) -> str:
    """An operation's name in messages: `aten.relu`."""
    return packet._qualified_op_name.replace("::", ".")


def note(seen: Pass, call: Call) -> None:
    """Notes what an operation has done."""
    _rule(call)(seen, call)
    if call.func._schema.is_mutable and (call.computed or _random(call)):
        for y in call.outputs:
            seen.written(y)


def hold(seen: Pass, packet: Any, states: list[State]) -> None:
    """Notes that all channels of what an operation is given stay."""
    for state in states:
        for atoms in state.dims:
            seen.trace.book.keep(atoms, f"{name(packet)} in {seen.where()}")


def _rule(call: Call) -> Callable[[Pass, Call], None]:
    packet = call.packet
    if _random(call) or any(x.is_complex() for x in (*call.tensors, *call.outputs)):
        return _anything
    if packet in _RULES:
        return _RULES[packet]
    if packet in (aten.mean, aten.sum, aten.amax, aten.amin) and any(
        argument.name == "dim" for argument in call.func._schema.arguments
    ):
        return _reduce
    if torch.Tag.pointwise in call.func.tags and len(call.outputs) == 1:
        return _pointwise
    return _anything


def _random(call: Call) -> bool:
    return torch.Tag.nondeterministic_seeded in call.func.tags


def _anything(seen: Pass, call: Call) -> None:
    """An operation that is not understood: its inputs are kept as they are, its outputs may be anything."""
    hold(seen, call.packet, call.states)
    changes = call.computed or _random(call)  # else it is made of parameters and numbers alone
    for y in call.outputs:
        seen.set(y, (None,) * y.dim(), torch.full_like(y, changes, dtype=torch.bool), changes)


def _fresh(seen: Pass, call: Call) -> None:
    """A tensor of numbers that only has the size of another."""
    for y in call.outputs:
        seen.set(y, (None,) * y.dim(), torch.zeros_like(y, dtype=torch.bool), False)


def _move(seen: Pass, call: Call) -> None:
    """Numbers are moved, not changed: what holds for a tensor holds for what becomes of it."""
    x, state = call.args[0], call.states[0]
    if call.outputs[0].dtype != x.dtype and call.packet is aten.view:  # the same bits as other numbers
        return _anything(seen, call)
    if call.packet is aten.squeeze:  # of a single channel that is left it would remove the dimension
        over = call.args[1] if len(call.args) > 1 else range(x.dim())
        for k in (over,) if isinstance(over, int) else over:
            seen.trace.book.keep(state.dims[k], f"aten.squeeze in {seen.where()}")
    dims: list[list[Atoms | None]] = [[None] * y.dim() for y in call.outputs]
    for k, atoms in enumerate(state.dims):
        if atoms is None:
            continue
        reason = f"{name(call.packet)} in {seen.where()}"
        shape = [-1 if i == k else 1 for i in range(x.dim())]
        numbers = torch.as_tensor(atoms, device=x.device).view(shape).expand(x.shape)
        for y, moved in enumerate(tree_leaves(_again(call, numbers))):
            place = _varies_along(moved)
            found = _numbers_along(moved, place)
            # A part of the channels is found by its place, which is another when some of them are gone.
            part = call.packet in _PARTS and found is not None and not np.array_equal(found, atoms)
            if place is None or found is None or part or dims[y][place] is not None:
                seen.trace.book.keep(atoms, reason)
            else:
                dims[y][place] = found
    if call.packet in (aten.t, aten.transpose) and id(x) in seen.stored:
        seen.origin[id(call.outputs[0])] = id(x)
    for y, mask, own in zip(call.outputs, tree_leaves(_again(call, state.unknown)), dims, strict=True):
        seen.set(y, tuple(own), mask, state.computed)
    return None


def _again(call: Call, x: Tensor) -> Any:
    """What the call makes of other numbers."""
    func, packet = call.func, call.packet
    if packet in (aten._to_copy, aten.lift_fresh, aten.detach, aten.alias):
        return x
    if packet in (aten.view, aten._unsafe_view):  # whatever the layout in memory
        return x.reshape(*call.args[1:])
    return func(x, *call.args[1:], **call.kwargs)


def _varies_along(numbers: Tensor) -> int | None:
    """The only dimension along which the numbers vary; None where they are all the same, or vary along several."""
    found = [k for k in range(numbers.dim()) if numbers.shape[k] > 1 and (numbers != numbers.narrow(k, 0, 1)).any()]
    return found[0] if len(found) == 1 else None


def _numbers_along(numbers: Tensor, place: int | None) -> Atoms | None:
    if place is None:
        return None
    return numbers.movedim(place, 0).reshape(numbers.shape[place], -1)[:, 0].cpu().numpy()


def _cat(seen: Pass, call: Call) -> None:
    tensors = [x for x in call.args[0] if x.numel()] or call.args[0]
    y = call.outputs[0]
    dim = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) % y.dim()
    states, reason = [seen.state(x) for x in tensors], f"joined in {seen.where()}"
    dims: list[Atoms | None] = []
    for k in range(y.dim()):
        parts = [state.dims[k] for state in states]
        if k == dim:
            whole = [
                seen.fixed(x.shape[k], reason) if part is None else part for x, part in zip(tensors, parts, strict=True)
            ]
            dims.append(np.concatenate(whole))
        else:
            for part in parts[1:]:
                seen.trace.book.tie(parts[0], part, reason)
            dims.append(None if any(part is None for part in parts) else parts[0])
    seen.set(y, tuple(dims), torch.cat([state.unknown for state in states], dim), call.computed)


def _pointwise(seen: Pass, call: Call) -> None:
    """Every number by itself: channels that meet are tied; a product with zero is zero."""
    packet, y = call.packet, call.outputs[0]
    if torch.broadcast_shapes(*(x.shape for x in call.tensors)) != y.shape:
        return _anything(seen, call)
    dims: list[Atoms | None] = [None] * y.dim()
    pairs = list(zip(call.tensors, call.states, strict=True))
    for k in range(1, y.dim() + 1):
        parts = [state.dims[-k] for x, state in pairs if x.dim() >= k and x.shape[-k] == y.shape[-k]]
        for part in parts[1:]:
            seen.trace.book.tie(parts[0], part, f"{name(packet)} in {seen.where()}")
        dims[-k] = parts[0] if all(part is not None for part in parts) else None
    unknown = torch.zeros_like(y, dtype=torch.bool)
    for _, state in pairs:
        unknown |= state.unknown
    if packet in (aten.mul, aten.mul_) and len(pairs) == 2:
        for x, state in pairs:
            unknown &= state.unknown | (seen.old.get(id(x), x) != 0)
    if packet in RECTIFIERS:
        alive = seen.alive.get(len(seen.trace.rectifiers))
        if alive is not None and y.dim() > 1:
            unknown &= alive.to(y.device).view(1, -1, *[1] * (y.dim() - 2))
        seen.trace.rectifiers.append(dims[1] if y.dim() > 1 else None)
    if packet in (aten.add, aten.add_) and len(pairs) == 2:
        _addition(seen, call)
    seen.set(y, tuple(dims), unknown, call.computed)
    return None


def _addition(seen: Pass, call: Call) -> None:
    module = seen.stack[-1]
    place = seen.trace.sums.get(module, 0)
    seen.trace.sums[module] = place + 1
    (first, second), y = (seen.old.get(id(x), x) for x in call.tensors), call.outputs[0]
    if first.shape != second.shape or not all(state.computed for state in call.states):
        return
    if call.kwargs or not first.dtype == second.dtype == y.dtype:  # a multiple of the second
        return
    for side, x in ((0, first), (1, second)):
        if not call.states[side].unknown.any():
            seen.trace.additions.append(Addition(module, place, side, _by_channel(x, call.states[side].dims)))
            return


def _by_channel(x: Tensor, dims: Dims) -> Tensor | None:
    """The numbers of a tensor along its channels, of size 1 elsewhere; None where they vary there too."""
    for k in range(x.dim()):
        if (x == x.narrow(k, 0, 1)).all():
            x = x.narrow(k, 0, 1)
    vary = [k for k in range(x.dim()) if x.shape[k] > 1]
    return x.clone() if len(vary) <= 1 and all(dims[k] is not None for k in vary) else None


def _norm(seen: Pass, call: Call) -> None:
    """Batch normalisation."""
    x, weight, *vectors = call.args[:5]
    state = seen.state(x)
    for vector in (weight, *vectors):
        if vector is not None:
            seen.trace.book.tie(state.dims[1], seen.state(vector).dims[0], f"normalised in {seen.where()}")
    by_channel = (1, -1, *[1] * (x.dim() - 2))
    unknown = state.unknown
    if len(call.args) > 5 and call.args[5] is True:  # with statistics of the batch
        for atoms in (state.dims[0], *state.dims[2:]):
            seen.trace.book.keep(atoms, f"normalised in {seen.where()}")
        unknown = unknown.movedim(1, 0).flatten(1).any(1).view(by_channel).expand_as(x)
    if weight is not None:
        unknown = unknown & (weight != 0).view(by_channel)
    y, *others = call.outputs
    seen.set(y, state.dims, unknown, state.computed)
    for other in others:
        seen.set(other, (None,) * other.dim(), torch.ones_like(other, dtype=torch.bool), state.computed)


def _pool(seen: Pass, call: Call) -> None:
    """Every channel by itself, over the last one, two or three dimensions, which are positions."""
    state, y = call.states[0], call.outputs[0]
    masks = tree_leaves(call.func(state.unknown.float(), *call.args[1:], **call.kwargs))
    if call.packet is aten.constant_pad_nd:
        over = {y.dim() - 1 - k // 2 for k, size in enumerate(call.args[1]) if size}
    else:
        over = set(range(y.dim())[-next(int(c) for c in name(call.packet) if c.isdigit()) :])
    for k in over:
        seen.trace.book.keep(state.dims[k], f"{name(call.packet)} in {seen.where()}")
    dims = tuple(None if k in over else atoms for k, atoms in enumerate(state.dims))
    seen.set(y, dims, masks[0] != 0, state.computed)
    for other in call.outputs[1:]:  # places of maxima
        seen.set(other, dims, torch.ones_like(other, dtype=torch.bool), state.computed)


def _reduce(seen: Pass, call: Call) -> None:
    x, state = call.args[0], call.states[0]
    given = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    given = range(x.dim()) if given is None or given == [] else [given] if isinstance(given, int) else given
    over = {k % x.dim() for k in given}
    keepdim = call.args[2] if len(call.args) > 2 else call.kwargs.get("keepdim", False)
    for k in over:
        seen.trace.book.keep(state.dims[k], f"{name(call.packet)} over channels in {seen.where()}")
    dims = [None if k in over else a for k, a in enumerate(state.dims) if keepdim or k not in over]
    unknown = state.unknown.float().amax(tuple(over), keepdim=keepdim) > 0
    seen.set(call.outputs[0], tuple(dims), unknown, state.computed)


def _convolution(seen: Pass, call: Call) -> None:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = call.args
    of_x, of_weight, y = seen.state(x), seen.state(weight), call.outputs[0]
    if of_weight.computed or (bias is not None and seen.state(bias).computed):
        return _anything(seen, call)
    for atoms in (*of_x.dims[2:], *of_weight.dims[2:]):  # channels where positions should be
        seen.trace.book.keep(atoms, f"convolved in {seen.where()}")
    outputs = of_weight.dims[1 if transposed else 0]
    if of_x.unknown.all() and not transposed:
        unknown = (weight != 0).flatten(1).any(1).view(1, -1, *[1] * (y.dim() - 2)).expand_as(y)
    else:
        settings = (stride, padding, dilation, transposed, output_padding, groups)
        unknown = call.func(of_x.unknown.float(), (weight != 0).float(), None, *settings) > 0.5
    if groups == 1:
        w = weight.transpose(0, 1) if transposed else weight
        seen.trace.book.tie(of_x.dims[1], of_weight.dims[0 if transposed else 1], f"convolved in {seen.where()}")
        padded = bool(np.any(padding)) or transposed
        _read(seen, x, w, id(weight), outputs, y, padded=padded, transposed=transposed)
    else:
        outputs = _in_groups(seen, call, of_x.dims[1], of_weight.dims)
    if bias is not None:
        seen.trace.book.tie(outputs, seen.state(bias).dims[0], f"convolved in {seen.where()}")
    seen.set(y, (of_x.dims[0], outputs, *[None] * (y.dim() - 2)), unknown, of_x.computed)
    return None


def _in_groups(seen: Pass, call: Call, inputs: Atoms | None, dims: Dims) -> Atoms | None:
    """A grouped convolution: a group goes as a whole, its inputs with its outputs. Returns the atoms of the outputs."""
    reason, groups, transposed = f"convolved in groups in {seen.where()}", call.args[8], call.args[6]
    outputs = dims[0]
    # Elsewhere than in a layer, whose number of groups is put right, it is a number in somebody's code.
    if transposed or inputs is None or outputs is None or not seen.layer(id(call.args[1]))[2]:
        for atoms in (inputs, *dims):
            seen.trace.book.keep(atoms, reason)
        outputs = None
    else:
        seen.trace.book.keep(dims[1], reason)
        by_group = inputs.reshape(groups, -1)
        for part in (by_group[:, 1:], outputs.reshape(groups, -1)):
            seen.trace.book.tie(np.repeat(by_group[:, :1], part.shape[1], 1).ravel(), part.ravel(), reason)
    weight, y = call.args[1], call.outputs[0]
    if not transposed:
        counted = seen.fixed(len(weight), reason) if outputs is None else outputs
        seen.trace.others.append((counted, weight[0].numel() * y[0, 0].numel()))
    return outputs


def _product(seen: Pass, call: Call) -> None:
    """A matrix product with a known matrix is a linear layer; of two unknown ones everything is kept."""
    bias, x, weight = call.args[:3] if call.packet is aten.addmm else (None, *call.args[:2])
    of_x, of_weight, y = seen.state(x), seen.state(weight), call.outputs[0]
    plain = bias is None or (bias.dim() == 1 and not seen.state(bias).computed and not call.kwargs)
    if of_weight.computed or not plain:
        return _anything(seen, call)
    reason, outputs = f"multiplied in {seen.where()}", of_weight.dims[1]
    seen.trace.book.tie(of_x.dims[1], of_weight.dims[0], reason)
    _read(seen, x, weight.t(), seen.origin.get(id(weight), 0), outputs, y)
    if bias is not None:
        seen.trace.book.tie(outputs, seen.state(bias).dims[-1], reason)
    unknown = of_x.unknown.float() @ (weight != 0).float() > 0
    seen.set(y, (of_x.dims[0], outputs), unknown, of_x.computed)
    return None


def _read(
    seen: Pass,
    x: Tensor,
    weight: Tensor,
    source: int,
    outputs: Atoms | None,
    y: Tensor,
    *,
    padded: bool = False,
    transposed: bool = False,
) -> None:
    """Notes a linear map of dimension 1 with the weight (O, I, ...), whose own tensor has the id `source`."""
    state = seen.state(x)
    inputs = state.dims[1]
    if not state.computed:  # a parameter is read as channels are, so its channels may go nowhere
        seen.trace.book.keep(inputs, f"a parameter that is read in {seen.where()}")
        return
    applied = x.numel() // weight.shape[1] if transposed else y.numel() // weight.shape[0]
    positions = applied // seen.samples
    if inputs is None:
        outputs = seen.fixed(weight.shape[0], f"in {seen.where()}") if outputs is None else outputs
        seen.trace.others.append((outputs, weight[0].numel() * positions))
        return
    values = x.movedim(1, 0).flatten(1)
    unknown = state.unknown.movedim(1, 0).flatten(1).any(1)
    same = (values == values[:, :1]).all(1)
    constant = torch.where(same & ~unknown, values[:, 0], torch.nan)
    layer_name, layer, own = seen.layer(source)
    if outputs is None:
        outputs = seen.fixed(weight.shape[0], f"a single output of {seen.where()}")
    seen.trace.readers.append(
        Reader(layer_name, layer, own, weight.detach(), transposed, inputs, outputs, constant, padded, positions)
    )


# Of a part of a dimension.
_PARTS = {aten.slice, aten.select, aten.split, aten.split_with_sizes, aten.unbind, aten.roll}
_MOVES = _PARTS | {
    aten.view, aten._unsafe_view, aten.t, aten.transpose, aten.permute, aten.expand, aten.squeeze, aten.unsqueeze,
    aten.clone, aten.detach, aten.alias, aten._to_copy, aten.lift_fresh, aten.flip, aten.repeat,
    aten.pixel_shuffle, aten.pixel_unshuffle,
}  # fmt: skip
_POOLS = {
    aten.max_pool2d_with_indices, aten.max_pool3d_with_indices, aten.avg_pool2d, aten.avg_pool3d, aten.avg_pool1d,
    aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d, aten.adaptive_max_pool2d, aten.upsample_nearest2d,
    aten.upsample_bilinear2d, aten.constant_pad_nd, aten.reflection_pad1d, aten.reflection_pad2d,
    aten.replication_pad1d, aten.replication_pad2d,
}  # fmt: skip
_NORMS = {
    aten.native_batch_norm, aten._native_batch_norm_legit_no_training, aten.cudnn_batch_norm, aten.miopen_batch_norm,
}  # fmt: skip
_FRESH = {aten.new_zeros, aten.new_ones, aten.new_empty, aten.new_full, aten.zeros_like, aten.ones_like}
# What works on single numbers but is not tagged so.
_POINTWISE = {aten.hardswish, aten.hardswish_, aten.copy_, aten._prelu_kernel}
RECTIFIERS = {aten.relu, aten.relu_}
# A number leaves for Python, where it may decide anything.
PYTHON_VALUES = {aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.item}

_RULES: dict[Any, Callable[[Pass, Call], None]] = {
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_NORMS, _norm),
    **dict.fromkeys(_FRESH, _fresh),
    **dict.fromkeys(_POINTWISE, _pointwise),
    aten.mm: _product,
    aten.addmm: _product,
    aten.cat: _cat,
    aten.convolution: _convolution,
}
