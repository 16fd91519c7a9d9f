"""Forward hooks that do not follow a model into its copies."""

from collections.abc import Callable
from typing import Any


class Hook:
    """Calls a function, whose value counts; in a copied or unpickled model it has none to call and does nothing."""

    def __init__(self, call: Callable[..., Any] | None) -> None:
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return None if self.call is None else self.call(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hook":
        return Hook(None)

    def __reduce__(self) -> tuple[type, tuple[None]]:
        return Hook, (None,)
