"""The small GoogLeNet for CIFAR whose branches L0 gates were studied on."""

from collections import OrderedDict
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from regx.models import REGISTRY
from regx.models.activations import ACTIVATIONS, activation_of_images
from regx.models.base import Network, check_images
from regx.models.init import initialize
from regx.parameters import Bounds
from regx.registry import register

# Channels of the reductions before 3x3 and 5x5, and of the outputs of the branches 1x1, 3x3, 5x5 and pooling.
_BLOCKS = (
    ((32, 16), (16, 32, 8, 8)),
    ((32, 16), (24, 48, 12, 12)),
    ((32, 16), (24, 48, 12, 12)),
    ((32, 16), (16, 48, 16, 16)),
    ((32, 16), (16, 48, 16, 16)),
    ((32, 16), (32, 48, 24, 24)),
    ((48, 16), (32, 64, 16, 16)),
    ((48, 16), (32, 64, 16, 16)),
)
_POOLED_BEFORE = (2, 6)


class Inception(nn.Module):
    """Four branches side by side, whose output layers are `branch1x1.output.conv`, `branch3x3.output.conv`, ...

    Args:
        inputs: channels that it reads.
        reduced: channels before the 3x3 and the 5x5 convolution.
        outputs: channels of the branches 1x1, 3x3, 5x5 and pooling.
        activation: name of the activation function.
    """

    def __init__(
        self, inputs: int, reduced: tuple[int, int], outputs: tuple[int, int, int, int], activation: str
    ) -> None:
        super().__init__()
        self.branch1x1 = _chain(output=_unit(inputs, outputs[0], 1, activation))
        self.branch3x3 = _chain(
            reduce=_unit(inputs, reduced[0], 1, activation), output=_unit(reduced[0], outputs[1], 3, activation)
        )
        self.branch5x5 = _chain(
            reduce=_unit(inputs, reduced[1], 1, activation), output=_unit(reduced[1], outputs[2], 5, activation)
        )
        self.branch_pool = _chain(pool=nn.MaxPool2d(3, 1, padding=1), output=_unit(inputs, outputs[3], 1, activation))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, inputs, H, W) to (N, sum of outputs, H, W)."""
        return torch.cat([self.branch1x1(x), self.branch3x3(x), self.branch5x5(x), self.branch_pool(x)], 1)


@register(
    "googlenet",
    source="Szegedy et al. 2015, arXiv:1409.4842, in the size of bobondemon/l0_regularization_practice",
    shares="base:Network",
)
class GoogLeNet(Network):
    """Eight Inception blocks for images of about 32 pixels: 260,650 parameters with 10 classes.

    A 3x3 convolution with 64 channels, blocks (`blocks.0` to `blocks.7`) with two max-poolings between them, average
    pooling and a linear layer. Every convolution is followed by batch normalization and activation; its bias, which
    batch normalization takes out again, is not trained. The globs `blocks.*.output.conv` and `blocks.*.reduce.conv`
    name the last layers of the 32 branches, with 832 channels, and the reductions before them.

    Args:
        input_shape: shape of one sample, (C, H, W).
        output_size: number of outputs.
        dropout: probability of dropout before the last layer; 0 means no dropout module.
        init: initial weights. `kaiming`: He normal, fan in, with the activation's gain; `orthogonal`: with the
            activation's gain; `pytorch`: PyTorch's defaults. Except for `pytorch`, all biases start at 0.

    Raises:
        UserError: an option is not legal, or does not fit the input.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        *,
        dropout: Annotated[float, Bounds(0, 1)] = 0.0,
        init: Literal["kaiming", "orthogonal", "pytorch"] = "kaiming",
        **shared: Any,
    ) -> None:
        super().__init__(input_shape, output_size, **shared)
        REGISTRY["googlenet"].check({"dropout": dropout, "init": init})
        check_images(self.input_shape)
        name = self.activation_name
        self.stem = _unit(self.input_shape[0], 64, 3, name)
        self.blocks = nn.ModuleList()
        width = 64
        for reduced, outputs in _BLOCKS:
            self.blocks.append(Inception(width, reduced, outputs, name))
            width = sum(outputs)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else None
        self.fc = nn.Linear(width, output_size)
        initialize(self, init, gain=ACTIVATIONS[name][1], head=self.fc)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, output_size)."""
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = block(self.maxpool(x) if i in _POOLED_BEFORE else x)
        x = self.avgpool(x).flatten(1)
        return self.fc(x if self.dropout is None else self.dropout(x))


def _unit(inputs: int, outputs: int, kernel: int, activation: str) -> nn.Sequential:
    """`conv`, `bn` and `activation`."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    assert conv.bias is not None
    conv.bias.requires_grad_(False)  # taken out again at once: its gradient would be rounding noise
    return _chain(conv=conv, bn=nn.BatchNorm2d(outputs), activation=activation_of_images(activation))


def _chain(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))
