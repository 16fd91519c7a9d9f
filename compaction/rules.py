"""What each operation does to channels: a rule for every kind, and one for all that is not understood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from regx.compaction.atoms import Atoms
from regx.compaction.seen import Addition, Dims, Layer, Reader, State, Trace

aten = torch.ops.aten


@dataclass(frozen=True)
class Call:
    """An operation that was called.

    Attributes:
        func: the operation.
        args: what it was given.
        kwargs: what it was given by name.
        tensors: the tensors among that.
        states: what was known of them.
        outputs: the tensors that came out.
    """

    func: Any
    args: Any
    kwargs: Any
    tensors: list[Tensor]
    states: list[State]
    outputs: list[Tensor]

    @property
    def packet(self) -> Any:
        """The operation, whatever the types of what it was given."""
        return self.func.overloadpacket

    @property
    def computed(self) -> bool:
        """Whether the network's input had a part in it."""
        return any(state.computed for state in self.states)


class Pass:
    """What is known so far in a pass through a model.

    Args:
        model: the model.
        alive: number of a call of a rectifier -> (C,) which of its channels are not constant on the data.
    """

    def __init__(self, model: nn.Module, alive: dict[int, Tensor]) -> None:
        self.trace = Trace()
        self.alive = alive
        self.old: dict[int, Tensor] = {}  # what the present operation writes over
        self.stack: list[str] = [""]  # names of the modules that the pass is in
        self.added: dict[str, int] = {}  # tensors added so far, by module
        self.origin: dict[int, int] = {}  # a transposed weight -> the parameter
        self._states: dict[int, tuple[Tensor, State]] = {}  # tensors are kept alive, as their ids would be given away
        self._names = {id(module): name for name, module in model.named_modules()}
        self.layers: dict[int, tuple[str, Layer]] = {}  # a weight -> its layer
        for name, module in model.named_modules():
            if isinstance(module, Layer):
                self.layers.setdefault(id(module.weight), (name, module))
        self.stored = {id(x): name for name, x in [*model.named_parameters(), *model.named_buffers()]}

    def enter(self, module: nn.Module) -> str:
        """Notes that the pass is now in a module, and returns its name."""
        self.stack.append(self._names.get(id(module), self.stack[-1]))
        self.added[self.stack[-1]] = 0
        return self.stack[-1]

    def where(self) -> str:
        """The module that the pass is in, for messages."""
        return f"module {self.stack[-1]!r}" if self.stack[-1] else "the network"

    def set(self, tensor: Tensor, dims: Dims, unknown: Tensor, computed: bool) -> None:
        """Notes what is known of a tensor."""
        self._states[id(tensor)] = tensor, State(dims, unknown, computed)

    def state(self, tensor: Tensor) -> State:
        """What is known of a tensor; a parameter that is met for the first time gets its atoms."""
        if id(tensor) not in self._states:
            dims: Dims = (None,) * tensor.dim()
            if id(tensor) in self.stored:
                dims = tuple(self.trace.book.new(size) if size > 1 else None for size in tensor.shape)
                self.trace.tensors[self.stored[id(tensor)]] = dims
            self.set(tensor, dims, torch.zeros_like(tensor, dtype=torch.bool), False)
        return self._states[id(tensor)][1]

    def fixed(self, number: int, reason: str) -> Atoms:
        """Atoms of a dimension that cannot change, for where there must be some."""
        atoms = self.trace.book.new(number)
        self.trace.book.keep(atoms, reason)
        return atoms

    def written(self, tensor: Tensor) -> None:
        """A tensor was written into: of others that share its memory nothing is known any more."""
        storage = tensor.untyped_storage().data_ptr()
        for key, (x, state) in list(self._states.items()):
            if x is not tensor and x.untyped_storage().data_ptr() == storage and key not in self.stored:
                self._states[key] = x, State(state.dims, torch.ones_like(state.unknown), True)


def name(packet: Any) -> str:
    """An operation's name in messages: `aten.relu`."""
    return packet._qualified_op_name.replace("::", ".")


def note(seen: Pass, call: Call) -> None:
    """Notes what an operation has done."""
    rule = _rule(call)
    if not call.computed and rule is _anything:  # made of parameters and numbers alone
        for y in call.outputs:
            seen.set(y, (None,) * y.dim(), torch.zeros_like(y, dtype=torch.bool), False)
    else:
        rule(seen, call)
    if call.func._schema.is_mutable and call.computed:
        for y in call.outputs:
            seen.written(y)


def _rule(call: Call) -> Callable[[Pass, Call], None]:
    packet = call.packet
    if packet in _RULES:
        return _RULES[packet]
    if packet in (aten.mean, aten.sum, aten.amax, aten.amin) and any(
        argument.name == "dim" for argument in call.func._schema.arguments
    ):
        return _reduce
    if torch.Tag.pointwise in call.func.tags and len(call.outputs) == 1:
        return _pointwise
    return _anything


def _anything(seen: Pass, call: Call) -> None:
    """An operation that is not understood: its inputs are kept as they are, its outputs may be anything."""
    for state in call.states:
        for atoms in state.dims:
            seen.trace.book.keep(atoms, f"{name(call.packet)} in {seen.where()}")
    for y in call.outputs:
        seen.set(y, (None,) * y.dim(), torch.ones_like(y, dtype=torch.bool), call.computed)


def _fresh(seen: Pass, call: Call) -> None:
    """A tensor of numbers that only has the size of another."""
    for y in call.outputs:
        seen.set(y, (None,) * y.dim(), torch.zeros_like(y, dtype=torch.bool), False)


def _move(seen: Pass, call: Call) -> None:
    """Numbers are moved, not changed: what holds for a tensor holds for what becomes of it."""
    x, state = call.args[0], call.states[0]
    dims: list[list[Atoms | None]] = [[None] * y.dim() for y in call.outputs]
    for k, atoms in enumerate(state.dims):
        if atoms is None:
            continue
        reason = f"{name(call.packet)} in {seen.where()}"
        shape = [-1 if i == k else 1 for i in range(x.dim())]
        numbers = torch.as_tensor(atoms, device=x.device).view(shape).expand(x.shape)
        for y, moved in enumerate(tree_leaves(_again(call, numbers))):
            place = _varies_along(moved)
            # A part of the channels is found by its place, which is another when some of them are gone.
            part = call.packet in _PARTS and (place is None or place < 0 or moved.shape[place] != len(atoms))
            if place is None or place < 0 or part or dims[y][place] is not None:
                seen.trace.book.keep(atoms, reason)
            else:
                dims[y][place] = moved.movedim(place, 0).reshape(moved.shape[place], -1)[:, 0].cpu().numpy()
    if call.packet in (aten.t, aten.transpose) and id(x) in seen.stored:
        seen.origin[id(call.outputs[0])] = id(x)
    for y, mask, found in zip(call.outputs, tree_leaves(_again(call, state.unknown)), dims, strict=True):
        seen.set(y, tuple(found), mask, state.computed)


def _again(call: Call, x: Tensor) -> Any:
    """What the call makes of other numbers."""
    func, packet = call.func, call.packet
    if packet in (aten._to_copy, aten.lift_fresh, aten.detach, aten.alias):
        return x
    if packet in (aten.view, aten._unsafe_view):  # whatever the layout in memory
        return x.reshape(*call.args[1:])
    if packet is aten.as_strided_:
        func = aten.as_strided.default
    return func(x, *call.args[1:], **call.kwargs)


def _varies_along(numbers: Tensor) -> int | None:
    """The only dimension along which the numbers vary; -1 where they are all the same, None where several."""
    found = [k for k in range(numbers.dim()) if numbers.shape[k] > 1 and (numbers != numbers.narrow(k, 0, 1)).any()]
    if not found:
        return -1
    return found[0] if len(found) == 1 else None


def _cat(seen: Pass, call: Call) -> None:
    tensors = [x for x in call.args[0] if x.numel()]
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
        if alive is not None:
            unknown &= alive.to(y.device).view(1, -1, *[1] * (y.dim() - 2))
        seen.trace.rectifiers.append(dims[1] if y.dim() > 1 else None)
    if packet in (aten.add, aten.add_) and len(pairs) == 2:
        _addition(seen, [seen.old.get(id(x), x) for x in call.tensors], call.states)
    seen.set(y, tuple(dims), unknown, call.computed)


def _addition(seen: Pass, tensors: list[Tensor], states: list[State]) -> None:
    module = seen.stack[-1]
    place = seen.added.get(module, 0)
    seen.added[module] = place + 1
    if tensors[0].shape != tensors[1].shape or not all(state.computed for state in states):
        return
    for side in (0, 1):
        if not states[side].unknown.any():
            seen.trace.additions.append(Addition(module, place, side, _by_channel(tensors[side])))
            return


def _by_channel(x: Tensor) -> Tensor | None:
    """(C,) the values of (1, C, ...) where all positions agree; else None."""
    values = x[0].reshape(x.shape[1], -1) if x.dim() > 1 else x[:, None]
    return values[:, 0].clone() if (values == values[:, :1]).all() else None


def _norm(seen: Pass, call: Call) -> None:
    """Batch normalisation."""
    x, weight, *vectors = call.args[:5]
    state = seen.state(x)
    for vector in (weight, *vectors):
        if vector is not None:
            seen.trace.book.tie(state.dims[1], seen.state(vector).dims[0], f"normalised in {seen.where()}")
    by_channel = (1, -1, *[1] * (x.dim() - 2))
    unknown = state.unknown
    if len(call.args) > 5 and call.args[5] is True and x.dim() > 2:  # with statistics of the batch
        unknown = unknown.flatten(2).any(2).view(by_channel).expand_as(x)
    if weight is not None:
        unknown = unknown & (weight != 0).view(by_channel)
    y, *others = call.outputs
    seen.set(y, state.dims, unknown, state.computed)
    for other in others:
        seen.set(other, (None,) * other.dim(), torch.ones_like(other, dtype=torch.bool), state.computed)


def _pool(seen: Pass, call: Call) -> None:
    """Every channel of (N, C, ...) by itself."""
    state, y = call.states[0], call.outputs[0]
    masks = tree_leaves(call.func(state.unknown.float(), *call.args[1:], **call.kwargs))
    dims = tuple(a if y.shape[k] == call.args[0].shape[k] else None for k, a in enumerate(state.dims))
    for k, atoms in enumerate(state.dims):
        if dims[k] is None:
            seen.trace.book.keep(atoms, f"{name(call.packet)} in {seen.where()}")
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
    if of_weight.unknown.any():
        return _anything(seen, call)
    outputs = of_weight.dims[1 if transposed else 0]
    if of_x.unknown.all() and not transposed:
        unknown = (weight != 0).flatten(1).any(1).view(1, -1, *[1] * (y.dim() - 2)).expand_as(y)
    else:
        settings = (stride, padding, dilation, transposed, output_padding, groups)
        unknown = call.func(of_x.unknown.float(), (weight != 0).float(), None, *settings) > 0.5
    if groups == 1:
        w = weight.transpose(0, 1) if transposed else weight
        seen.trace.book.tie(of_x.dims[1], of_weight.dims[0 if transposed else 1], f"convolved in {seen.where()}")
        _read(seen, x, 1, w, id(weight), outputs, y, padded=bool(np.any(padding)) or transposed, transposed=transposed)
    else:
        outputs = _in_groups(seen, call, of_x.dims[1], of_weight.dims)
    if bias is not None:
        seen.trace.book.tie(outputs, seen.state(bias).dims[0], f"convolved in {seen.where()}")
    seen.set(y, (None, outputs, *[None] * (y.dim() - 2)), unknown, of_x.computed)
    return None


def _in_groups(seen: Pass, call: Call, inputs: Atoms | None, dims: Dims) -> Atoms | None:
    """A grouped convolution: a group goes as a whole, its inputs with its outputs. Returns the atoms of the outputs."""
    reason, groups, transposed = f"convolved in groups in {seen.where()}", call.args[8], call.args[6]
    outputs = dims[0]
    if transposed or inputs is None or outputs is None:
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
    bias, x, weight = call.args if call.packet is aten.addmm else (None, *call.args)
    of_x, of_weight, y = seen.state(x), seen.state(weight), call.outputs[0]
    if of_weight.unknown.any():
        return _anything(seen, call)
    reason, outputs = f"multiplied in {seen.where()}", of_weight.dims[1]
    seen.trace.book.tie(of_x.dims[1], of_weight.dims[0], reason)
    _read(seen, x, 1, weight.t(), seen.origin.get(id(weight), 0), outputs, y)
    if bias is not None:
        seen.trace.book.tie(outputs, seen.state(bias).dims[-1], reason)
    unknown = of_x.unknown.float() @ (weight != 0).float() > 0
    seen.set(y, (of_x.dims[0], outputs), unknown, of_x.computed)
    return None


def _read(
    seen: Pass,
    x: Tensor,
    dim: int,
    weight: Tensor,
    source: int,
    outputs: Atoms | None,
    y: Tensor,
    *,
    padded: bool = False,
    transposed: bool = False,
) -> None:
    """Notes a linear map with the weight (O, I, ...), whose own tensor has the id `source`."""
    state = seen.state(x)
    inputs = state.dims[dim]
    if not state.computed:
        return
    if inputs is None:
        outputs = seen.fixed(weight.shape[0], f"in {seen.where()}") if outputs is None else outputs
        seen.trace.others.append((outputs, weight[0].numel() * (y.numel() // weight.shape[0])))
        return
    values = x.movedim(dim, 0).reshape(len(inputs), -1)
    unknown = state.unknown.movedim(dim, 0).reshape(len(inputs), -1).any(1)
    same = (values == values[:, :1]).all(1)
    constant = torch.where(same & ~unknown, values[:, 0], torch.nan)
    layer_name, layer = seen.layers.get(source, (seen.stack[-1], None))
    if outputs is None:
        outputs = seen.fixed(weight.shape[0], f"a single output of {seen.where()}")
    positions = y.numel() // weight.shape[0]
    seen.trace.readers.append(
        Reader(layer_name, layer, weight.detach(), transposed, inputs, outputs, constant, padded, positions)
    )


# Of a part of a dimension.
_PARTS = {aten.slice, aten.select, aten.split, aten.split_with_sizes, aten.unbind, aten.roll}
_MOVES = _PARTS | {
    aten.view, aten._unsafe_view, aten.t, aten.transpose, aten.permute, aten.expand, aten.squeeze, aten.unsqueeze,
    aten.clone, aten.detach, aten.alias, aten._to_copy, aten.lift_fresh, aten.as_strided_, aten.flip, aten.repeat,
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
