"""The models: rectangular networks, whose depth and width an experiment sets.

    from regx.models import Rectangular, create
    model = Rectangular((2,), 1, depth=50, width=4)         # or
    model = create("rectangular", input_shape=(2,), output_size=1, depth=50, width=4)

Importing this package or reading `REGISTRY.rows` does not import PyTorch; the first use of a class does.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from regx.models.rectangular import Rectangular

__all__ = ["REGISTRY", "Rectangular", "create"]

REGISTRY = Registry("model", Path(__file__).parent, __name__)

_MODULES = {"Rectangular": "regx.models.rectangular"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def create(name: str, *, input_shape: tuple[int, ...], output_size: int, **options: Any) -> "nn.Module":
    """Builds the model called `name`.

    Args:
        name: a name of `REGISTRY`.
        input_shape: shape of one sample, (F,) or (C, H, W).
        output_size: number of outputs.
        options: the model's own options.

    Raises:
        UserError: a name, option or value that does not exist or does not fit the input.
    """
    info = REGISTRY[name]
    return info.load()(input_shape, output_size, **info.check(options))
