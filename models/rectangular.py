"""Rectangular networks: as many hidden layers as asked for, all of the same width."""

import math
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from regx.errors import UserError
from regx.models import REGISTRY
from regx.models.activations import ACTIVATIONS
from regx.models.init import initialize
from regx.parameters import Bounds
from regx.registry import register

# What the forward pass does with the output of a hidden module.
_PASS, _STORE, _ADD, _POOL = range(4)


@register("rectangular", source="blauigris/jumpstart: a stack of equally wide layers, for tables and images")
class Rectangular(nn.Module):
    """A stack of `depth` hidden layers of equal `width`, dense for tables (F,) and convolutional for images (C, H, W).

    Every hidden layer is linear or convolution, then batch normalisation, dropout and activation, each a module of
    its own (`hidden.layer0`, `hidden.batchnorm0`, `hidden.dropout0`, `hidden.activation0`, ...). The output has no
    activation. The bias of a layer before batch normalisation, which takes it out again, is not trained: an optimiser
    like Adam would make a random walk of its rounding noise.

    A dense network has width (F + 1) + (depth - 1) width (width + 1) + (width + 1) output_size parameters, a
    convolutional one with the `pool` head width (k² C + 1) + (depth - 1) width (k² width + 1) + (2 width + 1)
    output_size; batch normalisation adds 2 depth width.

    Skip connections differ from the reference code (blauigris/jumpstart), which doubles the output of the first
    activation and knows only ReLU: here the first activation's output is stored, and the output of every k-th
    activation after it is added to what is stored, and stored in turn. Max-pooling applies to what is stored as well.

    Args:
        input_shape: shape of one sample: (F,) or (C, H, W).
        output_size: number of outputs.
        depth: number of hidden layers.
        width: units or channels of every hidden layer.
        activation: activation function of the hidden layers; `identity` makes a linear network.
        batchnorm: whether a batch normalisation follows every hidden layer.
        skip_connections: number of layers that one skip connection spans; none by default.
        dropout: probability of dropout after every hidden layer; 0 means no dropout layers.
        init: initial weights. `pytorch`: PyTorch's defaults for linear and convolution, what the reference code calls
            kaiming; `kaiming`: He normal, fan in, with the activation's gain; `xavier`: Glorot uniform; `orthogonal`:
            with the activation's gain; `zero`: all weights 0. Except for `pytorch`, all biases start at 0.
        kernel_size: side of the convolution kernels, odd, so that the image keeps its size (images only).
        head: how an image becomes a vector. `pool`: mean and maximum of every channel; `flatten`: every value.
        n_maxpool: number of 2 x 2 max-poolings (images only); none by default.
        maxpool_mode: where they are. `log`: after 1/2, 3/4, 7/8, ... of the layers, rounded up; `linear`: evenly from
            the input to the last layer.

    Raises:
        UserError: an option is not legal, or does not fit the input.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        *,
        depth: Annotated[int, Bounds(1)] = 50,
        width: Annotated[int, Bounds(1)] = 4,
        activation: Literal[
            "relu", "gelu", "leaky_relu", "elu", "selu", "silu", "tanh", "sigmoid", "mish", "identity"
        ] = "relu",
        batchnorm: bool = False,
        skip_connections: Annotated[int, Bounds(1)] | None = None,
        dropout: Annotated[float, Bounds(0, 1)] = 0.0,
        init: Literal["pytorch", "kaiming", "xavier", "orthogonal", "zero"] = "pytorch",
        kernel_size: Annotated[int, Bounds(1)] = 3,
        head: Literal["pool", "flatten"] = "pool",
        n_maxpool: Annotated[int, Bounds(0)] | None = None,
        maxpool_mode: Literal["log", "linear"] = "log",
    ) -> None:
        super().__init__()
        REGISTRY["rectangular"].check(
            {
                "depth": depth,
                "width": width,
                "activation": activation,
                "batchnorm": batchnorm,
                "skip_connections": skip_connections,
                "dropout": dropout,
                "init": init,
                "kernel_size": kernel_size,
                "head": head,
                "n_maxpool": n_maxpool,
                "maxpool_mode": maxpool_mode,
            }
        )
        self.input_shape = tuple(input_shape)
        if len(self.input_shape) not in (1, 3) or min(self.input_shape) < 1:
            raise UserError(f"{self.input_shape} is neither (features,) nor (channels, height, width)", "input_shape")
        if output_size < 1:
            raise UserError(f"{output_size} is out of bounds; use at least 1", "output_size")
        images = len(self.input_shape) == 3
        if images and kernel_size % 2 == 0:
            raise UserError(f"{kernel_size} is even, which changes the image size; use an odd number", "kernel_size")
        pools = _pool_positions(n_maxpool or 0, maxpool_mode, depth)
        if pools and not images:
            raise UserError(f"{n_maxpool} does not fit input {self.input_shape}: only images are pooled", "n_maxpool")
        if images and min(self.input_shape[1:]) < 2 ** len(pools):
            raise UserError(f"{n_maxpool} poolings do not fit images of {self.input_shape[1:]}; use fewer", "n_maxpool")

        make_activation, gain = ACTIVATIONS[activation]
        self.hidden = nn.ModuleDict()
        self._actions: list[int] = []
        inputs = self.input_shape[0]
        for i in range(depth + 1):
            if i in pools:
                self._add(f"maxpool{i}", nn.MaxPool2d(2), _POOL)
            if i == depth:
                break
            layer = (
                nn.Conv2d(inputs, width, kernel_size, padding=kernel_size // 2) if images else nn.Linear(inputs, width)
            )
            self._add(f"layer{i}", layer)
            if batchnorm:
                assert layer.bias is not None
                layer.bias.requires_grad_(False)  # taken out again at once: its gradient would be rounding noise
                self._add(f"batchnorm{i}", nn.BatchNorm2d(width) if images else nn.BatchNorm1d(width))
            if dropout > 0:
                self._add(f"dropout{i}", nn.Dropout(dropout))
            skips = skip_connections is not None and i % skip_connections == 0
            self._add(f"activation{i}", make_activation(), (_ADD if i else _STORE) if skips else _PASS)
            inputs = width
        self._pooled_head = images and head == "pool"
        if images:
            height, breadth = (side >> len(pools) for side in self.input_shape[1:])
            inputs = 2 * width if head == "pool" else width * height * breadth
        self.head = nn.Linear(inputs, output_size)
        initialize(self, init, gain=gain, head=self.head)

    def _add(self, name: str, module: nn.Module, action: int = _PASS) -> None:
        self.hidden[name] = module
        self._actions.append(action)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, F) or (N, C, H, W) to (N, output_size)."""
        residual = None
        for module, action in zip(self.hidden.values(), self._actions, strict=True):
            x = module(x)
            if action:
                if action == _POOL:
                    residual = None if residual is None else module(residual)
                else:
                    residual = x = x if residual is None else x + residual
        if x.dim() > 2:
            x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1) if self._pooled_head else x.flatten(1)
        return self.head(x)

    @property
    def dropout(self) -> float:
        """Probability of dropout, of all layers together; may be set during training (annealed dropout).

        Raises:
            UserError: when set in a model without dropout layers, or to something that is not a probability.
        """
        layers = self._dropouts()
        return layers[0].p if layers else 0.0

    @dropout.setter
    def dropout(self, value: float) -> None:
        layers = self._dropouts()
        if not layers:
            raise UserError("the model has no dropout layers; build it with dropout above 0", "dropout")
        value = REGISTRY["rectangular"].parameter("dropout").check(value)
        for layer in layers:
            layer.p = value

    def _dropouts(self) -> list[nn.Dropout]:
        return [module for module in self.hidden.values() if isinstance(module, nn.Dropout)]


def _pool_positions(count: int, mode: str, depth: int) -> list[int]:
    """After how many hidden layers each max-pooling comes."""
    if mode == "log":
        positions = [math.ceil(depth * (1 - 0.5**k)) for k in range(1, count + 1)]
    else:
        positions = [depth * k // max(count - 1, 1) for k in range(count)]
    if len(set(positions)) < count:
        raise UserError(f"{count} poolings do not fit {depth} layers; use fewer", "n_maxpool")
    return positions
