"""Residual blocks of which one side is dead: the block is rewritten to return the other side."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from regx.errors import UserError

_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}


@dataclass(frozen=True)
class Drop:
    """An addition that loses a side.

    Attributes:
        module: name of the module in whose forward pass it is.
        place: how many tensors are added in that forward pass before.
        side: which operand goes.
        channels: number of channels of what is added instead; 0 where the side was zero.
    """

    module: str
    place: int
    side: int
    channels: int = 0


class _Shallow(fx.Tracer):
    """Follows a single forward pass: every module in it is called as it is."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def drop(model: nn.Module, what: Drop) -> str | None:
    """Rewrites the module of an addition so that one side, and all that only it needs, is gone.

    The module's forward pass is traced by `torch.fx`; its submodules keep their names. Where the side was not zero,
    the module gets a parameter `shift` of shape (1, C, 1, ...), zeros to be filled.

    Returns:
        Name of the parameter `shift`, where there is one.

    Raises:
        UserError: the forward pass cannot be traced, or the module is the model itself.
    """
    block = model.get_submodule(what.module)
    if block is model:
        raise UserError("the addition is in the model's own forward pass")
    try:
        graph = _Shallow().trace(block)
    except Exception as error:  # whatever the module's own code raises on proxies
        raise UserError(
            f"torch.fx cannot trace module {what.module!r}: {' '.join(str(error).split())[:200]}"
        ) from error
    nodes = [node for node in graph.nodes if _adds_tensors(node)]
    if len(nodes) <= what.place:
        raise UserError(f"torch.fx sees other additions in module {what.module!r} than were computed")
    node = nodes[what.place]
    other = node.args[1 - what.side]
    name = None
    if what.channels:
        number = sum(key.startswith("shift") for key, _ in block.named_parameters(recurse=False))
        own = f"shift{number}"
        like = next(block.parameters())
        dims = 2 if isinstance(next(_layers(block), None), nn.Linear) else 4
        setattr(block, own, nn.Parameter(like.new_zeros(1, what.channels, *[1] * (dims - 2))))
        name = f"{what.module}.{own}"
        with graph.inserting_before(node):
            shift = graph.get_attr(own)
            new = graph.call_function(torch.add, (other, shift))
        node.replace_all_uses_with(new)
    else:
        node.replace_all_uses_with(other)  # type: ignore[arg-type]
    smaller = fx.GraphModule(block, graph, class_name=type(block).__name__)
    graph = smaller.graph
    graph.eliminate_dead_code()
    smaller.recompile()
    smaller.delete_all_unused_submodules()
    smaller.train(block.training)
    model.set_submodule(what.module, smaller)
    return name


def _layers(block: nn.Module):
    return (module for module in block.modules() if isinstance(module, nn.Linear | nn.modules.conv._ConvNd))


def _adds_tensors(node: fx.Node) -> bool:
    return node.target in _ADDITIONS and len(node.args) == 2 and all(isinstance(x, fx.Node) for x in node.args)


def constant(model: nn.Module, name: str, value: Tensor) -> None:
    """Fills the parameter `shift` of a block."""
    shift = model.get_parameter(name)
    shift.detach().copy_(value.view_as(shift))


def replace(model: nn.Module, name: str) -> None:
    """Puts an identity where a module was that is not needed any more."""
    model.set_submodule(name, nn.Identity())
