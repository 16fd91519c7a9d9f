"""What is known so far in a pass through a network: of every tensor, and where the pass is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from regx.compaction.atoms import Atoms
from regx.compaction.seen import Dims, Layer, State, Trace

# Modules of PyTorch whose noted sizes `recipe.resize` puts right, and those that note none.
_RESIZED = (nn.Linear, _ConvNd, _NormBase, nn.PReLU)
_WITHOUT_SIZES = {nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict}


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
        samples: rows that it is run on.
        alive: number of a call of a rectifier -> (C,) which of its channels are not constant on the data.
    """

    def __init__(self, model: nn.Module, samples: int, alive: dict[int, Tensor]) -> None:
        self.trace = Trace()
        self.samples = samples
        self.alive = alive
        self.old: dict[int, Tensor] = {}  # what the present operation writes over
        self.stack: list[str] = [""]  # names of the modules that the pass is in
        self.origin: dict[int, int] = {}  # a transposed weight -> the parameter
        self._states: dict[int, tuple[Tensor, State]] = {}  # tensors are kept alive, as their ids would be given away
        self._names = {id(module): name for name, module in model.named_modules()}
        self._layers: dict[int, tuple[str, Layer]] = {}  # a weight -> its layer
        self._fixed: set[int] = set()  # tensors of modules that have noted sizes which cannot be put right
        for name, module in model.named_modules():
            if isinstance(module, Layer) and module._parameters.get("weight") is not None:  # a plain parameter
                self._layers.setdefault(id(module.weight), (name, module))
            if not _can_be_resized(module):
                own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
                self._fixed.update(id(x) for x in own)
        self.stored = {id(x): name for name, x in [*model.named_parameters(), *model.named_buffers()]}

    def enter(self, module: nn.Module) -> str:
        """Notes that the pass is now in a module, and returns its name."""
        self.stack.append(self._names.get(id(module), self.stack[-1]))
        self.trace.sums[self.stack[-1]] = 0
        return self.stack[-1]

    def where(self) -> str:
        """The module that the pass is in, for messages."""
        return f"module {self.stack[-1]!r}" if self.stack[-1] else "the network"

    def layer(self, weight: int) -> tuple[str, Layer | None, bool]:
        """Whose weight this is, by its id.

        Returns:
            Name of the layer, or of the module that the pass is in; the layer, if it is one's; whether the pass is in
            that layer's own forward method, as PyTorch has it, which adds the layer's bias.
        """
        name, layer = self._layers.get(weight, (self.stack[-1], None))
        if layer is None or name != self.stack[-1] or "forward" in vars(layer) or not _of_torch(type(layer).forward):
            return name, layer, False
        return name, layer, layer.bias is None or self.stored.get(id(layer.bias)) == f"{name}.bias"

    def set(self, tensor: Tensor, dims: Dims, unknown: Tensor, computed: bool) -> None:
        """Notes what is known of a tensor."""
        self._states[id(tensor)] = tensor, State(dims, unknown, computed)

    def state(self, tensor: Tensor) -> State:
        """What is known of a tensor; a parameter that is met for the first time gets its atoms."""
        if id(tensor) not in self._states:
            dims: Dims = (None,) * tensor.dim()
            if id(tensor) in self.stored and id(tensor) not in self._fixed:
                dims = tuple(self.trace.book.new(size) if size > 1 else None for size in tensor.shape)
                self.trace.tensors[self.stored[id(tensor)]] = dims
            self.set(tensor, dims, torch.zeros_like(tensor, dtype=torch.bool), False)
        return self._states[id(tensor)][1]

    def use(self, tensors: list[Tensor]) -> list[State]:
        """What is known of the tensors that an operation reads."""
        self.trace.uses.update(Counter(self.stored[id(x)] for x in tensors if id(x) in self.stored))
        return [self.state(x) for x in tensors]

    def fixed(self, number: int, reason: str) -> Atoms:
        """Atoms of a dimension that cannot change, for where there must be some."""
        atoms = self.trace.book.new(number)
        self.trace.book.keep(atoms, reason)
        return atoms

    def written(self, tensor: Tensor) -> None:
        """A tensor was written into: of others that share its memory nothing is known any more."""
        storage = tensor.untyped_storage().data_ptr()
        for key, (x, state) in list(self._states.items()):
            if x is not tensor and x.untyped_storage().data_ptr() == storage:
                self._states[key] = x, State(state.dims, torch.ones_like(state.unknown), True)


def _of_torch(thing: Any) -> bool:
    return thing.__module__.startswith("torch.nn.modules.")


def _can_be_resized(module: nn.Module) -> bool:
    """Whether a module works on when its tensors are cut: modules of PyTorch note sizes beside them."""
    own = [kind for kind in type(module).__mro__ if _of_torch(kind) and kind not in _WITHOUT_SIZES]
    return isinstance(module, _RESIZED) or not own
