"""Counts what does not depend on the machine: kernels that a piece of code dispatches."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Neither views nor allocations: what is left is work.
_FREE = ("view", "t", "transpose", "expand", "unsqueeze", "squeeze", "select", "slice", "detach", "alias", "as_strided")
_FREE += ("unbind", "split", "split_with_sizes", "permute", "_unsafe_view", "_reshape_alias", "empty", "empty_like")
_FREE += ("empty_strided", "new_empty", "new_empty_strided")


class Kernels(TorchDispatchMode):
    """Counts the operators that reach the dispatcher within the context, views and allocations excluded."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ not in _FREE
        return func(*args, **(kwargs or {}))
