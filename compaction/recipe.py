"""The recipe of a compact network: what is cut out of which tensor, so that a checkpoint can replay it.

A recipe holds names, numbers and lists alone, so it is stored in a checkpoint beside the weights, and applied to a
network that was built anew before they are loaded into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from regx.compaction import blocks
from regx.errors import RunFailed, UserError

# Tensor -> dimension -> indices that stay.
Cuts = dict[str, dict[int, list[int]]]


@dataclass
class Step:
    """One round of removal.

    Attributes:
        dropped: additions that lose a side, in order, as `blocks.Drop` describes them.
        replaced: modules that an identity takes the place of.
        biases: layers that get a bias.
        shapes: of tensors whose numbers are new.
        cuts: what stays of each tensor.
    """

    dropped: list[dict[str, Any]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    biases: list[str] = field(default_factory=list)
    shapes: dict[str, list[int]] = field(default_factory=dict)
    cuts: Cuts = field(default_factory=dict)


def apply(model: nn.Module, steps: list[dict[str, Any]]) -> nn.Module:
    """Cuts `model` as a recipe says; the numbers of what stays are as they were.

    Args:
        model: a model of the architecture that the recipe was made for; changed in place.
        steps: the recipe.

    Raises:
        RunFailed: the recipe is another model's.
    """
    try:
        for step in steps:
            for drop in step["dropped"]:
                blocks.drop(model, blocks.Drop(**drop))
            for name in step["replaced"]:
                blocks.replace(model, name)
            for name in step["biases"]:
                add_bias(model.get_submodule(name))
            reshape(model, step["shapes"])
            cut(model, step["cuts"])
    except (AttributeError, KeyError, IndexError, TypeError, UserError) as error:
        raise RunFailed(f"the removal recipe is of another model: {error}") from error
    return model


def add_bias(layer: nn.Module) -> None:
    """Gives a linear or convolutional layer a bias of zeros, where it has none."""
    if layer.bias is None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        count = layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features
        layer.bias = nn.Parameter(weight.new_zeros(count))  # type: ignore[arg-type]


def reshape(model: nn.Module, shapes: Mapping[str, list[int]]) -> None:
    """Gives parameters other shapes; their numbers are zeros."""
    for name, shape in shapes.items():
        module = model.get_submodule(name.rpartition(".")[0])
        old = model.get_parameter(name)
        setattr(module, name.rpartition(".")[2], nn.Parameter(old.new_zeros(shape), old.requires_grad))
        resize(module)


def cut(model: nn.Module, cuts: Cuts) -> None:
    """Replaces parameters and buffers by what stays of them, and puts the sizes of their modules right."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}  # a tensor may be that of several modules
    for module in model.modules():
        for own, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            places.setdefault(id(tensor), []).append((module, own))
    for name, dims in cuts.items():
        path, _, own = name.rpartition(".")
        tensor = getattr(model.get_submodule(path), own)
        smaller = selected(tensor.detach(), dims)
        new = nn.Parameter(smaller, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else smaller
        for module, key in places[id(tensor)]:
            setattr(module, key, new)
            resize(module)


def selected(tensor: Tensor, dims: Mapping[int, list[int]]) -> Tensor:
    """What stays of a tensor, a copy in the same layout of memory."""
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    for dim, indices in dims.items():
        tensor = tensor.index_select(dim, torch.tensor(indices, dtype=torch.long, device=tensor.device))
    return tensor.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format).clone()


def follow(tensors: dict[str, Tensor], steps: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Cuts tensors that belong to parameters (masks, averages, moments of an optimiser) as these are.

    Args:
        tensors: name of a parameter -> a tensor of its shape.
        steps: the recipe.

    Returns:
        The same, cut; those of parameters whose numbers are new are left out, those of removed branches are not.
    """
    for step in steps:
        tensors = {
            name: selected(x, step["cuts"][name]) if name in step["cuts"] and x.dim() else x
            for name, x in tensors.items()
            if name not in step["shapes"]
        }
    return tensors


def resize(module: nn.Module) -> None:
    """Puts right the sizes that a module has noted beside its tensors."""
    own = module._parameters
    weight = own.get("weight") if own.get("weight") is not None else own.get("weight_orig")  # torch.nn.utils.prune
    if isinstance(module, _NormBase):
        known = module.running_mean if weight is None else weight
        module.num_features = len(known) if isinstance(known, Tensor) else module.num_features
    elif weight is None:
        return
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _ConvNd):
        rows, columns = weight.shape[:2]
        if isinstance(module, _ConvTransposeNd):
            rows, columns = columns, rows
        if module.groups > 1:  # whole groups go
            per_group = module.out_channels // module.groups
            module.groups = rows // per_group
            columns *= module.groups
        module.out_channels, module.in_channels = rows, columns
    elif isinstance(module, nn.PReLU):
        module.num_parameters = weight.numel()
