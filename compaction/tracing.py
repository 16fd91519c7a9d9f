"""One pass through a network that notes which channels belong together, and which hold a constant.

The network is run once, on two samples, in evaluation mode; every operation that PyTorch dispatches is seen, whatever
module, function or hook it comes from. So there is no table of models, and what is not understood is kept.

Of every tensor it is known

    atoms     for each dimension the atoms of its channels, or None where it cannot change
    unknown   which numbers depend on the network's input; the others are the same for every input

A number is known although it is computed from unknown ones where only zeros read them: the output of a filter of
zeros is its bias, and a batch normalisation with weight 0 returns its own bias. (Zero times infinity counts as zero.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regx.compaction import rules, running
from regx.compaction.passes import Call, Pass
from regx.compaction.seen import Trace
from regx.errors import UserError


def trace(model: nn.Module, *inputs: Any, alive: dict[int, Tensor] | None = None, held: Collection[int] = ()) -> Trace:
    """Runs `model` once and notes what belongs together.

    Flags, buffers and the global random state stay as they are.

    Args:
        model: any model.
        inputs: what it is called with, as `running.sample` gives it: several samples, but few.
        alive: number of a call of a rectifier -> (C,) which of its channels were above 0 on some data: the others
            count as constants (0). Without it nothing is believed about data.
        held: numbers of operations all whose channels stay.

    Raises:
        UserError: the model decides by the numbers that it computes which way to go, so one pass does not show it, or
            it returns no tensor.
    """
    seen = Pass(model, running.rows(inputs), alive or {})
    calls: Counter[str] = Counter()
    given = running.copies(inputs)
    for x in tree_leaves(given):
        if isinstance(x, Tensor):
            seen.set(x, (None,) * x.dim(), torch.ones_like(x, dtype=torch.bool), True)
    with running.undisturbed(model), _following(seen, calls), _Mode(seen, held):
        outputs = model(*given)
    found = seen.trace
    states = [seen.state(x) for x in running.tensors(outputs)]
    for state in states:
        for atoms in state.dims:
            found.book.keep(atoms, "the network's output")
    found.constant = not any(bool(state.unknown.any()) for state in states)
    # What one call of a module adds may be constant where that of another is not.
    found.additions = [addition for addition in found.additions if calls[addition.module] == 1]
    return found


@contextmanager
def _following(seen: Pass, calls: Counter[str]) -> Iterator[None]:
    """Knows meanwhile in which module the pass is."""

    def enter(module: nn.Module, args: Any) -> None:
        name = seen.enter(module)
        calls[name] += 1

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        seen.stack.pop()

    hooks = nn.modules.module
    handles = [hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Mode(TorchDispatchMode):
    """Lets every operation be noted."""

    def __init__(self, seen: Pass, held: Collection[int]) -> None:
        super().__init__()
        self._seen = seen
        self._held = held
        self._count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        seen, packet = self._seen, func.overloadpacket
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        states = seen.use(tensors)
        if packet in rules.PYTHON_VALUES and any(bool(state.unknown.any()) for state in states):
            raise UserError(
                f"{seen.where()} decides by the numbers that it computes ({rules.name(packet)}), so one pass does not "
                "show what it does; it cannot be compacted"
            )
        if self._count in self._held:
            rules.hold(seen, packet, states)
        self._count += 1
        # What an operation in place writes over is still needed.
        seen.old = {id(args[0]): args[0].clone()} if packet in (rules.aten.add_, rules.aten.mul_) else {}
        values = func(*args, **kwargs)
        outputs = [y for y in tree_leaves(values) if isinstance(y, Tensor)]
        if outputs:
            rules.note(seen, Call(func, args, kwargs, tensors, states, outputs))
        return values
