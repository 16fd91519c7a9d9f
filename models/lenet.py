"""The two small networks of the pruning literature: LeNet-5 in Caffe's size, and LeNet-300-100."""

import math
from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from regx.models import REGISTRY
from regx.models.activations import ACTIVATIONS, activation_of_images
from regx.models.base import Network, check_images, widths
from regx.registry import register


@register(
    "lenet5",
    source="LeCun et al. 1998 in the size of Caffe and of Louizos et al. 2018; AMLab-Amsterdam/L0_regularization",
    shares="base:Network",
)
class LeNet5(Network):
    """Two 5x5 convolutions, each with activation and 2x2 max-pooling, a linear layer of 500 units and the last one.

    431,080 parameters for images of 1 x 28 x 28 and 10 classes.

    Args:
        input_shape: shape of one sample, (C, H, W), from 16 pixels on.
        output_size: number of outputs.
        channels: channels of the two convolutions, joined by a comma.

    Raises:
        UserError: an option is not legal, or does not fit the input.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        *,
        channels: str = "20,50",
        **shared: Any,
    ) -> None:
        super().__init__(input_shape, output_size, **shared)
        REGISTRY["lenet5"].check({"channels": channels})
        first, second = widths(channels, "channels", count=2)
        check_images(self.input_shape, least=16)
        name = self.activation_name
        self.conv1 = nn.Conv2d(self.input_shape[0], first, 5)
        self.activation1 = activation_of_images(name)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.activation2 = activation_of_images(name)
        self.maxpool = nn.MaxPool2d(2)
        height, breadth = (((side - 4) // 2 - 4) // 2 for side in self.input_shape[1:])
        self.fc1 = nn.Linear(second * height * breadth, 500)
        self.activation3 = ACTIVATIONS[name][0]()
        self.fc2 = nn.Linear(500, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, output_size)."""
        x = self.maxpool(self.activation1(self.conv1(x)))
        x = self.maxpool(self.activation2(self.conv2(x)))
        return self.fc2(self.activation3(self.fc1(x.flatten(1))))


@register(
    "mlp",
    source="LeCun et al. 1998 (LeNet-300-100); Louizos et al. 2018; AMLab-Amsterdam/L0_regularization",
    shares="base:Network",
)
class MLP(Network):
    """Linear layers of any width for samples of any shape: 266,610 parameters for 784 inputs and 10 classes.

    Args:
        input_shape: shape of one sample; it is flattened.
        output_size: number of outputs.
        hidden: units of the hidden layers, joined by commas.

    Raises:
        UserError: an option is not legal.
    """

    def __init__(
        self, input_shape: tuple[int, ...], output_size: int, *, hidden: str = "300,100", **shared: Any
    ) -> None:
        super().__init__(input_shape, output_size, **shared)
        REGISTRY["mlp"].check({"hidden": hidden})
        modules = OrderedDict[str, nn.Module]()
        inputs = math.prod(self.input_shape)
        for i, width in enumerate(widths(hidden, "hidden"), start=1):
            modules[f"fc{i}"] = nn.Linear(inputs, width)
            modules[f"activation{i}"] = ACTIVATIONS[self.activation_name][0]()
            inputs = width
        self.hidden = nn.Sequential(modules)
        self.head = nn.Linear(inputs, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, ...) to (N, output_size)."""
        return self.head(self.hidden(x.flatten(1)))
