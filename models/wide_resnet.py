"""Wide residual networks: few layers, many channels, activations before the convolutions."""

from typing import Annotated, Any

from torch import Tensor, nn

from regx.errors import UserError
from regx.models import REGISTRY
from regx.models.activations import activation_of_images
from regx.models.base import Network, check_images
from regx.models.init import initialize
from regx.parameters import Bounds
from regx.registry import register


class WideBlock(nn.Module):
    """Normalization, activation and 3x3 convolution, twice, and what the block reads added to that.

    Where the shape changes, what is added is `shortcut`, a 1x1 convolution, of the first activation's output.

    Args:
        inputs: channels that it reads.
        outputs: channels that it gives.
        stride: of the first convolution.
        dropout: probability of dropout before the second convolution.
        activation: name of the activation function.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.activation1 = activation_of_images(activation)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.activation2 = activation_of_images(activation)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else None
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride > 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        start = self.activation1(self.bn1(x))
        out = self.activation2(self.bn2(self.conv1(start)))
        out = self.conv2(out if self.dropout is None else self.dropout(out))
        return out + (x if self.shortcut is None else self.shortcut(start))


@register(
    "wide_resnet",
    source="Zagoruyko and Komodakis 2016, arXiv:1605.07146; AMLab-Amsterdam/L0_regularization",
    shares="base:Network",
)
class WideResNet(Network):
    """WRN-depth-width for images of about 32 pixels: 36,479,194 parameters at 28-10 with 10 classes.

    A 3x3 convolution with 16 channels, three groups of (depth - 4) / 6 blocks with 16, 32 and 64 times `width`
    channels, batch normalization, activation, average pooling and a linear layer. Convolutions have no bias and start
    He normal, fan out; the linear layer starts as PyTorch draws it.

    Args:
        input_shape: shape of one sample, (C, H, W).
        output_size: number of outputs.
        depth: number of convolutions in the longest path, 6n + 4.
        width: how many times as wide as the ResNet of He et al. for CIFAR.
        dropout: probability of dropout between the two convolutions of a block; 0 means no dropout modules.

    Raises:
        UserError: an option is not legal, or does not fit the input.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        *,
        depth: Annotated[int, Bounds(10)] = 28,
        width: Annotated[int, Bounds(1)] = 10,
        dropout: Annotated[float, Bounds(0, 1)] = 0.0,
        **shared: Any,
    ) -> None:
        super().__init__(input_shape, output_size, **shared)
        REGISTRY["wide_resnet"].check({"depth": depth, "width": width, "dropout": dropout})
        if depth % 6 != 4:
            nearest = max(10, round((depth - 4) / 6) * 6 + 4)
            raise UserError(f"{depth} is not 6n + 4, like 16, 22, 28, 40; did you mean {nearest}?", "depth")
        check_images(self.input_shape)
        name = self.activation_name
        self.conv1 = nn.Conv2d(self.input_shape[0], 16, 3, padding=1, bias=False)
        inputs = 16
        for k in range(3):
            outputs = 16 * width * 2**k
            blocks = []
            for i in range((depth - 4) // 6):
                blocks.append(WideBlock(inputs, outputs, 2 if k and not i else 1, dropout, name))
                inputs = outputs
            self.add_module(f"group{k + 1}", nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(inputs)
        self.activation = activation_of_images(name)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, output_size)
        initialize(self, "torchvision", gain=1.0, head=self.fc)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, output_size)."""
        x = self.conv1(x)
        for name in ("group1", "group2", "group3"):
            x = getattr(self, name)(x)
        return self.fc(self.avgpool(self.activation(self.bn(x))).flatten(1))
