"""The models: rectangular networks, whose depth and width an experiment sets, and networks for images.

    from regx.models import Rectangular, create
    model = Rectangular((2,), 1, depth=50, width=4)         # or
    model = create("rectangular", input_shape=(2,), output_size=1, depth=50, width=4)
    model = create("resnet", input_shape=(3, 32, 32), output_size=10, depth=18, batchnorm=False)
    model = create("torchvision:mobilenet_v3_small", input_shape=(3, 224, 224), output_size=10)

`regx.models.pretrained.load` puts trained weights into any of them.

Importing this package or reading `REGISTRY.rows` does not import PyTorch; the first use of a class does.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.errors import UserError
from regx.parameters import Parameter
from regx.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from regx.models.googlenet import GoogLeNet
    from regx.models.lenet import MLP, LeNet5
    from regx.models.rectangular import Rectangular
    from regx.models.resnet import ResNet
    from regx.models.wide_resnet import WideResNet

__all__ = ["MLP", "REGISTRY", "GoogLeNet", "LeNet5", "Rectangular", "ResNet", "WideResNet", "create", "options_of"]

REGISTRY = Registry("model", Path(__file__).parent, __name__)

# Before the colon of the names of models that other libraries have.
_LIBRARIES = ("torchvision", "timm")

_MODULES = {
    "GoogLeNet": "regx.models.googlenet",
    "LeNet5": "regx.models.lenet",
    "MLP": "regx.models.lenet",
    "Rectangular": "regx.models.rectangular",
    "ResNet": "regx.models.resnet",
    "WideResNet": "regx.models.wide_resnet",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def create(name: str, *, input_shape: tuple[int, ...], output_size: int, **options: Any) -> "nn.Module":
    """Builds the model called `name`.

    Args:
        name: a name of `REGISTRY`, or `torchvision:NAME` or `timm:NAME` for a classifier of these libraries.
        input_shape: shape of one sample, (F,) or (C, H, W).
        output_size: number of outputs.
        options: the model's own options; those of other libraries have none.

    Raises:
        UserError: a name, option or value that does not exist or does not fit the input.
    """
    if _is_external(name):
        if options:
            raise UserError(f"{name} has no options, so {next(iter(options))!r} cannot be set")
        return importlib.import_module("regx.models.external").build(name, input_shape, output_size)
    info = REGISTRY[name]
    return info.load()(input_shape, output_size, **info.check(options))


def options_of(name: str) -> tuple[Parameter, ...]:
    """The options of the model called `name`; none for `torchvision:NAME` and `timm:NAME`.

    Raises:
        UserError: there is no such model in regx; the names of other libraries are not looked up.
    """
    return () if _is_external(name) else REGISTRY[name].parameters


def _is_external(name: str) -> bool:
    library, colon, _ = name.partition(":")
    return bool(colon) and library in _LIBRARIES
