"""Residual blocks of which one side is dead: the block is rewritten to return the other side."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from regx.errors import UserError

_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_IN_PLACE = {
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow, operator.imod, operator.ifloordiv,
    operator.iand, operator.ior, operator.ixor, operator.setitem,
}  # fmt: skip
# Modules whose output is a new tensor.
_FRESH = (nn.Linear, _ConvNd, _BatchNorm)


@dataclass(frozen=True)
class Drop:
    """An addition that loses a side.

    Attributes:
        module: name of the module in whose forward pass it is.
        place: how many tensors are added in that forward pass before.
        total: how many are added in it.
        side: which operand goes.
        shape: of what is added instead; empty where the side was zero.
    """

    module: str
    place: int
    total: int
    side: int
    shape: list[int]


class _Shallow(fx.Tracer):
    """Follows a single forward pass: every module in it is called as it is."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def drop(model: nn.Module, what: Drop) -> str | None:
    """Rewrites the module of an addition so that one side, and all that only it needs, is gone.

    The module's forward pass is traced by `torch.fx`; its submodules keep their names. Where the side was not zero,
    the module gets a parameter `shift`, zeros to be filled.

    Returns:
        Name of the parameter `shift`, where there is one.

    Raises:
        UserError: the forward pass cannot be rewritten so that it does the same otherwise.
    """
    block = model.get_submodule(what.module)
    where = f"module {what.module!r}"
    if block is model:
        raise UserError("it is in the model's own forward pass")
    if sum(module is block for _, module in model.named_modules(remove_duplicate=False)) > 1:
        raise UserError(f"{where} has several names")
    if any(getattr(block, table) for table in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")):
        raise UserError(f"{where} has hooks")
    graph = _traced(block, where)
    sums = [node for node in graph.nodes if _adds_tensors(node)]
    if len(sums) != what.total:
        raise UserError(f"torch.fx sees other additions in {where} than were computed")
    node = sums[what.place]
    if node.kwargs:
        raise UserError(f"{where} adds a multiple")
    if _in_place(node, block) and (len(node.args[0].users) > 1 or node.args[0].op == "placeholder"):  # type: ignore[union-attr]
        raise UserError(f"{where} adds in place to what is read elsewhere")
    unused = {item for item in graph.nodes if not item.users}  # what is called for its effect stays
    name = _free_name(block) if what.shape else None
    other: Any = node.args[1 - what.side]
    if name:
        with graph.inserting_before(node):
            other = graph.call_function(torch.add, (other, graph.get_attr(name)))
    node.replace_all_uses_with(other)
    _remove(graph, node, unused, block, where)
    smaller = _rewritten(model, block, graph, name, what.shape)
    smaller.delete_all_unused_submodules()
    smaller.training = block.training
    model.set_submodule(what.module, smaller)
    return f"{what.module}.{name}" if name else None


def _rewritten(
    model: nn.Module, block: nn.Module, graph: fx.Graph, shift: str | None, shape: list[int]
) -> fx.GraphModule:
    """The block with another forward pass; the given one is as it was."""
    if not shift:
        return fx.GraphModule(block, graph, class_name=type(block).__name__)
    like = next((x for x in (*block.parameters(), *model.parameters()) if x.is_floating_point()), torch.empty(()))
    setattr(block, shift, nn.Parameter(like.new_zeros(shape)))
    try:
        return fx.GraphModule(block, graph, class_name=type(block).__name__)
    finally:
        delattr(block, shift)


def _traced(block: nn.Module, where: str) -> fx.Graph:
    """The forward pass, which has to be the same in training and in evaluation."""
    mode = block.training
    try:
        block.training = True
        training = _Shallow().trace(block)
        block.training = False
        graph = _Shallow().trace(block)
    except Exception as error:  # whatever the module's own code raises on proxies
        raise UserError(f"torch.fx cannot trace {where}: {' '.join(str(error).split())[:200]}") from error
    finally:
        block.training = mode
    if str(training) != str(graph):
        raise UserError(f"{where} does something else in training")
    return graph


def _adds_tensors(node: fx.Node) -> bool:
    return node.target in _ADDITIONS and len(node.args) == 2 and all(isinstance(x, fx.Node) for x in node.args)


def _free_name(block: nn.Module) -> str:
    number = 0
    while hasattr(block, f"shift{number}"):
        number += 1
    return f"shift{number}"


def _in_place(node: fx.Node, block: nn.Module) -> bool:
    """Whether an operation may write into what it is given."""
    if node.op == "call_module":
        return any(getattr(module, "inplace", False) for module in block.get_submodule(str(node.target)).modules())
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    flags = (node.kwargs.get("inplace"), node.kwargs.get("out"), *(x for x in node.args if isinstance(x, bool)))
    return node.op == "call_function" and (node.target in _IN_PLACE or any(x not in (None, False) for x in flags))


def _remove(graph: fx.Graph, node: fx.Node, unused: Iterable[fx.Node], block: nn.Module, where: str) -> None:
    """Removes a node that nothing reads, and all that only it needs.

    Raises:
        UserError: what goes writes into what stays.
    """
    gone: list[fx.Node] = [node]  # readers before what they read
    for item in reversed(list(graph.nodes)):
        stays = item is node or item in unused or item.op in ("placeholder", "output")
        if not stays and all(user in gone for user in item.users):
            gone.append(item)

    def goes(item: fx.Node) -> bool:
        """Whether nothing that stays can see what is written into this tensor."""
        if item not in gone or item.op == "get_attr":
            return False
        fresh = item.op == "call_module" and isinstance(block.get_submodule(str(item.target)), _FRESH)
        return fresh or all(goes(source) for source in item.all_input_nodes)

    for item in gone:
        if item is not node and _in_place(item, block) and not all(goes(source) for source in item.all_input_nodes):
            raise UserError(f"the dead side in {where} writes into what the other side reads")
    for item in gone:
        graph.erase_node(item)


def fill(model: nn.Module, name: str, value: Tensor) -> None:
    """Fills the parameter `shift` of a block."""
    model.get_parameter(name).detach().copy_(value)


def replace(model: nn.Module, name: str) -> None:
    """Puts an identity where a module was that is not needed any more."""
    model.get_submodule(name)  # which has to be there
    model.set_submodule(name, nn.Identity())
