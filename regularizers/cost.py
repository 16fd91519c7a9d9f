"""Parameters and multiply-accumulates of the layers of a model, read from one dry run."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from regx.errors import UserError
from regx.regularizers.preactivations import modules_by_name

Layer = nn.Linear | _ConvNd


@dataclass(frozen=True)
class LayerCost:
    """What one linear or convolutional layer costs.

    Attributes:
        parameters: weights and biases.
        macs: multiply-accumulates per sample, over all calls of a forward pass; additions of the bias not counted.
        positions: how often the weights are applied per sample: output positions, or, for a transposed convolution,
            input positions.
    """

    parameters: int
    macs: int
    positions: int


@dataclass(frozen=True)
class Trace:
    """What a dry run saw of the layers.

    Attributes:
        positions: layer -> positions per sample, as in `LayerCost`; 0 for a layer that was not run.
        batch_norms: layer -> the batch normalisation that alone reads its output; absent where there is none.
    """

    positions: dict[str, int]
    batch_norms: dict[str, str]


def count(model: nn.Module, *inputs: Any) -> dict[str, LayerCost]:
    """Cost of every linear and convolutional (also transposed) module.

    A convolution costs output positions x output channels x input channels / groups x kernel size, a linear layer
    inputs x outputs for every position it is applied to, as in IntelLabs/distiller. Weights that are used without
    calling a module (those of `nn.MultiheadAttention`) are not counted.

    The model is run once in evaluation mode without gradients. Its training flags, buffers and the global random state
    stay as they are.

    Args:
        model: the model.
        inputs: what to call it with; the first tensor has the samples in its first dimension.

    Returns:
        Layer name -> its cost, in the order of the modules; `macs` and `positions` are 0 for a layer that did not run.
    """
    found = layers(model)
    positions = trace(model, inputs, {}).positions
    return {
        name: LayerCost(size(layer), layer.weight.numel() * positions[name], positions[name])
        for name, layer in found.items()
    }


def layers(model: nn.Module) -> dict[str, Layer]:
    """Name -> linear or convolutional module; the root, whose name is empty, goes by its class.

    Raises:
        UserError: a lazy module has no weights yet.
    """
    found: dict[str, Layer] = {}
    for name, module in modules_by_name(model).items():
        # The output projection of nn.MultiheadAttention is a module that is never called.
        if isinstance(module, Layer) and not isinstance(module, NonDynamicallyQuantizableLinear):
            if isinstance(module.weight, nn.UninitializedParameter):
                raise UserError(f"layer {name!r} is lazy and has no weights yet; call the model once before")
            found[name] = module
    return found


def channels(layer: Layer) -> int:
    """Number of output channels or units."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def size(layer: Layer) -> int:
    """Number of weights and biases."""
    return layer.weight.numel() + (0 if layer.bias is None else layer.bias.numel())


def batch_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """First dimension of the first tensor; 1 where there is none."""
    return next((x.shape[0] for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.dim()), 1)


def trace(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    """Runs the model once in evaluation mode without gradients and leaves no mark on it.

    Batch normalisation counts as the reader of a layer's output where the layer's output tensor itself, not a copy or
    a view, is its input, where nothing else reads that tensor or writes into it, and where it reads nothing else.
    Inputs are copied, buffers are swapped for copies and put back, and the global random state is restored. Hooks of
    regularizers are silent meanwhile; other hooks run.
    """
    found = layers(model)
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    uses = _Uses()
    totals = Counter[str]()
    sources: dict[str, set[str | None]] = {name: set() for name in norms}  # batch normalisation -> its layers

    def after_layer(name: str, layer: Layer, inputs: tuple[Any, ...], output: Tensor) -> None:
        totals[name] += (
            inputs[0].numel() // layer.in_channels
            if isinstance(layer, _ConvTransposeNd)
            else output.numel() // channels(layer)
        )
        # The units of a linear layer are those of batch normalisation for (N, C) only.
        if isinstance(layer, nn.Linear) and output.dim() != 2:
            uses.elsewhere.add(name)
        uses.outputs[id(output)] = name, output
        uses.norms[id(output)] = set()

    def before_norm(name: str, inputs: tuple[Any, ...]) -> None:
        layer = uses.outputs.get(id(inputs[0]), (None,))[0] if inputs else None
        sources[name].add(layer)
        if layer is not None:
            uses.norms[id(inputs[0])].add(name)

    handles = []
    for name, layer in found.items():
        handles.append(
            layer.register_forward_hook(lambda module, x, y, name=name: after_layer(name, module, x, y))  # type: ignore[misc]
        )
    for name, norm in norms.items():
        handles.append(norm.register_forward_pre_hook(lambda _, x, name=name: before_norm(name, x)))  # type: ignore[misc]
    try:
        with _untouched(model), torch.no_grad():
            args, kwargs = tree_map_only(Tensor, torch.clone, (args, kwargs))
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            with uses:
                results = functional_call(model, buffers, args, kwargs)
            uses.look_at(results)
    finally:
        for handle in handles:
            handle.remove()
    readers: dict[str, set[frozenset[str]]] = {name: set() for name in found}
    for output, (name, _) in uses.outputs.items():
        readers[name].add(frozenset(uses.norms[output]))
    batch_norms = {}
    for norm_name, (layer_name, *more) in ((norm, list(names)) for norm, names in sources.items() if names):
        only = readers.get(layer_name or "") == {frozenset((norm_name,))}
        if layer_name is not None and not more and only and layer_name not in uses.elsewhere:
            batch_norms[layer_name] = norm_name
    samples = batch_size(args, kwargs)
    return Trace({name: round(totals[name] / samples) for name in found}, batch_norms)


class _Uses(TorchDispatchMode):
    """Notes which of the layer outputs are read or written by anything but batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[int, tuple[str, Tensor]] = {}  # kept alive, as a freed tensor's id would be given away
        self.norms: dict[int, set[str]] = {}  # the batch normalisations that read them
        self.elsewhere: set[str] = set()  # layers with other readers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "batch_norm" not in func.overloadpacket.__name__:
            self.look_at((args, kwargs))
        return func(*args, **(kwargs or {}))

    def look_at(self, tensors: Any) -> None:
        """Notes a reader of each of these tensors that is a layer's output."""
        self.elsewhere.update(self.outputs[id(x)][0] for x in tree_leaves(tensors) if id(x) in self.outputs)


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with regularizers silent; puts training flags, hooks and random states back."""
    modules = list(model.modules())
    flags = [module.training for module in modules]
    tables = [table for module in modules for table in (module._forward_pre_hooks, module._forward_hooks)]
    hooks = [dict(table) for table in tables]
    devices = {x.device.index for x in model.parameters() if x.device.type == "cuda"}
    # Casts made without gradients must not be found by the pass that follows.
    cache = torch.is_autocast_cache_enabled()
    with torch.random.fork_rng(devices):
        try:
            torch.set_autocast_cache_enabled(False)
            for module in modules:
                module.training = False
            for table in tables:
                for key in [key for key, hook in table.items() if type(hook).__module__.startswith("regx.")]:
                    del table[key]
            yield
        finally:
            torch.set_autocast_cache_enabled(cache)
            for module, flag in zip(modules, flags, strict=True):
                module.training = flag
            for table, hook in zip(tables, hooks, strict=True):
                table.clear()
                table.update(hook)
