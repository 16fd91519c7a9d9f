"""The activation functions of all models, each with the gain of the weights before it."""

import math
from collections.abc import Callable

from torch import nn

# Name -> (module, gain of its weights). Where theory has no value (gelu, elu, silu, mish), ReLU's is used.
ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "relu": (nn.ReLU, math.sqrt(2)),
    "gelu": (nn.GELU, math.sqrt(2)),
    "leaky_relu": (nn.LeakyReLU, math.sqrt(2 / (1 + 0.01**2))),
    "elu": (nn.ELU, math.sqrt(2)),
    "selu": (nn.SELU, 1.0),
    "silu": (nn.SiLU, math.sqrt(2)),
    "tanh": (nn.Tanh, 5 / 3),
    "sigmoid": (nn.Sigmoid, 1.0),
    "mish": (nn.Mish, math.sqrt(2)),
    "identity": (nn.Identity, 1.0),
}


def activation_of_images(name: str) -> nn.Module:
    """A new module for feature maps: ReLU overwrites its input, which saves memory; the others must not."""
    return nn.ReLU(inplace=True) if name == "relu" else ACTIVATIONS[name][0]()
