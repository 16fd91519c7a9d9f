"""Networks with every kind of coupling, and random zeros in them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regx.compaction.seen import Layer


class Everything(nn.Module):
    """Concatenation, depthwise and grouped convolutions, residual additions, gating, padding, pooling, flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.left = nn.Conv2d(8, 6, 3, padding=1, stride=2)
        self.right = nn.Conv2d(8, 4, 5, padding=2, stride=2, padding_mode="replicate")
        self.depthwise = nn.Conv2d(10, 20, 3, padding=1, groups=10)
        self.grouped = nn.Conv2d(20, 10, 1, groups=5)
        self.prelu = nn.PReLU(10)
        self.branch = nn.Sequential(nn.Conv2d(10, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU(inplace=True))
        self.back = nn.Conv2d(7, 10, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(10, 3, 1), nn.Conv2d(3, 10, 1)
        self.up = nn.ConvTranspose2d(10, 5, 2, stride=2)
        self.hidden = nn.Linear(5 * 4 * 4, 9)
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn(self.stem(x))), 3, 1, padding=1)
        x = torch.cat([self.left(x), self.right(x).tanh()], 1)
        x = self.prelu(self.grouped(self.depthwise(x).relu_()))
        x = x + self.back(self.branch(x))
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))).sigmoid()
        x = F.avg_pool2d(x * gate, 3, 2, padding=1)
        x = self.up(F.silu(x))
        return self.head(F.gelu(self.hidden(x.flatten(1))))

    @staticmethod
    def sample() -> Tensor:
        return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def scatter(model: nn.Module, seed: int) -> nn.Module:
    """Gives normalisation layers statistics and biases of a trained network, of which none is zero by chance."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean = torch.randn(module.num_features, generator=random).to(module.weight) / 3
            module.running_var = torch.rand(module.num_features, generator=random).to(module.weight) + 0.5
            module.weight.data = torch.rand(module.num_features, generator=random).to(module.weight) + 0.5
            module.bias.data = torch.randn(module.num_features, generator=random).to(module.weight) / 3
    return model


def zero_groups(model: nn.Module, seed: int, last: str | tuple[str, ...] = "head") -> nn.Module:
    """Zeroes random rows, filters, columns, channels, scales and some whole layers, but none of the last layer's."""
    random = torch.Generator().manual_seed(seed)

    def some(count: int, share: float) -> Tensor:
        return torch.rand(count, generator=random) < share

    share = 0.7 * float(torch.rand((), generator=random))
    for name, module in model.named_modules():
        if name.endswith(last):
            continue
        if isinstance(module, Layer):
            kind = int(torch.randint(5, (), generator=random))
            if kind < 3:  # rows, with or without their bias
                rows = some(len(module.weight), share)
                module.weight.data[rows] = 0
                if module.bias is not None and kind < 2 and len(module.bias) == len(rows):
                    module.bias.data[rows] = 0
            elif kind == 3:
                module.weight.data[:, some(module.weight.shape[1], share)] = 0
            elif seed % 5 == 0 and some(1, 0.3):
                module.weight.data.zero_()
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and seed % 2:
            module.weight.data[some(module.num_features, share / 2)] = 0
    return model
