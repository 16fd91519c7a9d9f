"""Residual networks of torchvision's layout, with and without normalization, skip connections and convolutions."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from regx.errors import UserError
from regx.models import REGISTRY
from regx.models.activations import ACTIVATIONS, activation_of_images
from regx.models.base import Network, check_images
from regx.models.init import initialize
from regx.models.resnet_options import BOTTLENECKS, CIFAR, STAGES, check, stage_widths
from regx.parameters import Bounds
from regx.registry import register

Layer = nn.Conv2d | nn.Linear

# Stem -> side of its kernel, stride, whether a max-pooling follows.
_STEMS = {"224": (7, 2, True), "64": (3, 2, False), "32": (3, 1, False)}


@dataclass(frozen=True)
class _Units:
    """What blocks are made of.

    Attributes:
        dense: linear layers instead of convolutions.
        batchnorm: whether a batch normalization follows each.
        activation: makes an activation module.
    """

    dense: bool
    batchnorm: bool
    activation: Callable[[], nn.Module]

    @property
    def prefix(self) -> str:
        return "fc" if self.dense else "conv"

    def layer(self, inputs: int, outputs: int, kernel: int, stride: int) -> Layer:
        if self.dense:
            return nn.Linear(inputs, outputs, bias=False)
        return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)

    def norm(self, width: int) -> nn.Module:
        return nn.BatchNorm1d(width) if self.dense else nn.BatchNorm2d(width)

    def place(self, number: int, size: tuple[int, int, int, int]) -> dict[str, nn.Module]:
        """`conv1`, `bn1` and `activation1` of place 1, in a layer of (inputs, outputs, kernel, stride)."""
        found: dict[str, nn.Module] = {f"{self.prefix}{number}": self.layer(*size)}
        if self.batchnorm:
            found[f"bn{number}"] = self.norm(size[1])
        found[f"activation{number}"] = self.activation()
        return found


class Block(nn.Module):
    """Two layers, or three with a bottleneck: `conv1`, `bn1`, `activation1`, `conv2`, ...; `fc1`, ... if dense.

    What the block reads, or `downsample` of it where the shape changes, is added before the last activation. The stride
    of a bottleneck is that of its 3x3 convolution, as in torchvision.
    """

    def __init__(self, inputs: int, width: int, stride: int, *, units: _Units, bottleneck: bool, skip: bool) -> None:
        super().__init__()
        self.outputs = width * (4 if bottleneck else 1)
        # Built before the other layers, as in torchvision, so that the random numbers are the same.
        downsample = None
        if skip and (inputs != self.outputs or (stride > 1 and not units.dense)):
            downsample = nn.Sequential(units.layer(inputs, self.outputs, 1, stride))
            if units.batchnorm:
                downsample.append(units.norm(self.outputs))
        sizes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            sizes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, self.outputs, 1, 1)]
        self._steps: list[tuple[str, ...]] = []
        for number, size in enumerate(sizes, start=1):
            place = units.place(number, size)
            for name, module in place.items():
                self.add_module(name, module)
            self._steps.append(tuple(place))
        self.skip = skip
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, inputs, H, W) to (N, outputs, H / stride, W / stride); (N, inputs) to (N, outputs) if dense."""
        out = x
        for number, (*layers, activation) in enumerate(self._steps, start=1):
            for name in layers:
                out = getattr(self, name)(out)
            if self.skip and number == len(self._steps):
                out = out + (x if self.downsample is None else self.downsample(x))
            out = getattr(self, activation)(out)
        return out

    def layers(self) -> list[Layer]:
        """The layers of the residual branch."""
        return [getattr(self, step[0]) for step in self._steps]

    def last_weight(self) -> Tensor:
        """What makes the residual branch zero when it is: the weight of the last normalization, else of the layer."""
        return getattr(self, self._steps[-1][-2]).weight


@register(
    "resnet",
    source="He et al. 2016, arXiv:1512.03385; blauigris/jumpstart; the 6n + 2 family as in IntelLabs/distiller",
    shares="base:Network",
)
class ResNet(Network):
    """A residual network, of which normalization, skip connections and convolutions may be taken away.

    The depths 18, 34, 50, 101 and 152 are the ImageNet family with four stages of int(64 m^k) channels, bottlenecks
    from depth 50 on. The depths 20, 32, 44, 56 and 110 are the CIFAR family with three stages of int(16 m^k) channels,
    a stem for 32 pixels and 1x1 convolutions in the shortcuts that change the shape. m is the width multiplier.

    Modules have torchvision's names (`conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.downsample.0`, `fc`), so its weights
    fit where the options are the defaults; activations are modules of their own, one for each place, called once in a
    forward pass (`activation1`, `layer1.0.activation1`, ...). What an option takes away is not built. No layer but the
    last has a bias, with and without batch normalization.

    With dense units every convolution is a linear layer (`fc1`, `layer1.0.fc1`, ...), the sample is flattened, and
    there is neither stride nor pooling.

    Args:
        input_shape: shape of one sample: (C, H, W), or anything if dense.
        output_size: number of outputs.
        depth: 18, 34, 50, 101 or 152 for the ImageNet family, 20, 32, 44, 56 or 110 for the CIFAR family.
        unit_type: `conv` for images, `dense` for samples of any shape.
        batchnorm: whether a batch normalization follows every layer but the last.
        skip_connections: whether each block adds what it reads to what it computes.
        width_multiplier: how many times as wide as the stage before it a stage is.
        dropout: probability of dropout before the last layer; 0 means no dropout module.
        init: initial weights. `torchvision`: He normal, fan out, for ReLU, and PyTorch's default for the last layer;
            `pytorch`: PyTorch's defaults; `kaiming`: He normal, fan in, with the activation's gain; `orthogonal`: with
            the activation's gain; `delta_orthogonal`: the same in the middle of each kernel, 0 around it (dense: the
            same as orthogonal); `zero_last`: as torchvision, and 0 for the last batch normalization of each residual
            branch, or its last layer where there is none; `fixup`: as zero_last, and the other layers of each of L
            branches of n layers times L^(-1 / (2n - 2)), and 0 for the last layer (Zhang et al. 2019, only the initial
            weights, without the extra biases and scales).
        stem: `224`: 7x7 with stride 2 and a 3x3 max-pooling with stride 2; `64`: 3x3 with stride 2; `32`: 3x3 with
            stride 1; `auto`: 224 if the smaller side of the images has 128 pixels or more, 64 from 48 on, else 32, and
            always 32 in the CIFAR family.

    Raises:
        UserError: an option is not legal, or does not fit the input.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        *,
        depth: int = 50,
        unit_type: Literal["conv", "dense"] = "conv",
        batchnorm: bool = True,
        skip_connections: bool = True,
        width_multiplier: Annotated[float, Bounds(above=0, high=16)] = 2.0,
        dropout: Annotated[float, Bounds(0, 1)] = 0.0,
        init: Literal[
            "torchvision", "pytorch", "kaiming", "orthogonal", "delta_orthogonal", "zero_last", "fixup"
        ] = "torchvision",
        stem: Literal["auto", "224", "64", "32"] = "auto",
        **shared: Any,
    ) -> None:
        super().__init__(input_shape, output_size, **shared)
        combined: dict[str, Any] = {
            "depth": depth,
            "unit_type": unit_type,
            "skip_connections": skip_connections,
            "width_multiplier": width_multiplier,
            "init": init,
            "stem": stem,
        }
        REGISTRY["resnet"].check({**combined, "batchnorm": batchnorm, "dropout": dropout})
        check(**combined)
        self.depth = depth
        self.dense = unit_type == "dense"
        name = self.activation_name
        if self.dense:
            units = _Units(True, batchnorm, ACTIVATIONS[name][0])
        else:
            check_images(self.input_shape)
            units = _Units(False, batchnorm, lambda: activation_of_images(name))
        self.stem = "" if self.dense else _stem(stem, depth, self.input_shape)
        self._differs = _differences(self, units, skip_connections, width_multiplier)

        # In torchvision's order, so that the random numbers are the same.
        width = 16 if depth in CIFAR else 64
        kernel, stride, pooled = _STEMS[self.stem] if self.stem else (1, 1, False)
        inputs = math.prod(self.input_shape) if self.dense else self.input_shape[0]
        path = units.place(1, (inputs, width, kernel, stride))
        if pooled:
            path["maxpool"] = nn.MaxPool2d(3, 2, padding=1)
        bottleneck = depth in BOTTLENECKS
        for k, (count, wide) in enumerate(zip(STAGES[depth], stage_widths(depth, width_multiplier), strict=True)):
            blocks = nn.Sequential()
            for i in range(count):
                step = 2 if k and not i else 1
                block = Block(width, wide, step, units=units, bottleneck=bottleneck, skip=skip_connections)
                blocks.append(block)
                width = block.outputs
            path[f"layer{k + 1}"] = blocks
        for key, module in path.items():
            self.add_module(key, module)
        self._path = tuple(path)
        self.avgpool = None if self.dense else nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else None
        self.fc = nn.Linear(width, output_size)
        _initialize(self, init, ACTIVATIONS[name][1])

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W), or (N, ...) if dense, to (N, output_size)."""
        if self.dense:
            x = x.flatten(1)
        for name in self._path:
            x = getattr(self, name)(x)
        if self.avgpool is not None:
            x = self.avgpool(x).flatten(1)
        if self.dropout is not None:
            x = self.dropout(x)
        return self.fc(x)

    def blocks(self) -> list[Block]:
        """The residual blocks, first to last."""
        return [module for module in self.modules() if isinstance(module, Block)]

    def torchvision_name(self) -> str:
        """Name of the model of torchvision that computes the same.

        Raises:
            UserError: none does, and why.
        """
        if self._differs:
            raise UserError(
                f"torchvision has no weights for a resnet with {', '.join(self._differs)}; give the path of a file",
                "pretrained",
            )
        return f"resnet{self.depth}"


def _stem(stem: str, depth: int, input_shape: tuple[int, ...]) -> str:
    if depth in CIFAR:
        return "32"
    if stem != "auto":
        return stem
    side = min(input_shape[1:])
    return "224" if side >= 128 else "64" if side >= 48 else "32"


def _differences(model: ResNet, units: _Units, skip_connections: bool, width_multiplier: float) -> list[str]:
    """What torchvision's ResNets do not have."""
    found = {
        f"depth {model.depth}": model.depth in CIFAR,
        "unit_type=dense": units.dense,
        "batchnorm=false": not units.batchnorm,
        "skip_connections=false": not skip_connections,
        f"width_multiplier={width_multiplier:g}": width_multiplier != 2,
        f"activation={model.activation_name}": model.activation_name != "relu",
        f"the stem {model.stem} (use stem=224)": not units.dense and model.depth not in CIFAR and model.stem != "224",
        f"{model.input_shape[0]} input channels": not units.dense and model.input_shape[0] != 3,
    }
    return [name for name, differs in found.items() if differs]


def _initialize(model: ResNet, init: str, gain: float) -> None:
    if init not in ("zero_last", "fixup"):
        initialize(model, init, gain=gain, head=model.fc)
        return
    initialize(model, "torchvision", gain=gain, head=model.fc)
    blocks = model.blocks()
    for block in blocks:
        nn.init.zeros_(block.last_weight())
        if init == "fixup":
            others = block.layers()[:-1]
            for layer in others:
                layer.weight.data.mul_(len(blocks) ** (-1 / (2 * len(others))))
    if init == "fixup":
        nn.init.zeros_(model.fc.weight)
        nn.init.zeros_(model.fc.bias)
