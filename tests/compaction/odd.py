"""Networks as people write them: weights used by hand, views of a fixed size, blocks that a rewrite would change."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.nn import functional as F


class Chain(nn.Module):
    """Three layers, of which what is between the second and the last is written by hand."""

    def __init__(self, first: nn.Module | None = None, second: nn.Module | None = None) -> None:
        super().__init__()
        self.first = first or nn.Linear(6, 8)
        self.second = second or nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.middle(self.first(x).relu()).relu())

    def middle(self, x: Tensor) -> Any:
        return self.second(x)


class Images(Chain):
    """The same of images (N, 6, 6, 6), as wide as high as deep."""

    def __init__(self, second: nn.Module | None = None) -> None:
        super().__init__(nn.Conv2d(6, 8, 1), second or nn.Conv2d(8, 8, 3, padding=1))
        self.last = nn.Conv2d(8, 3, 1)


class WithoutItsBias(Chain):
    def middle(self, x: Tensor) -> Tensor:
        return F.linear(x, self.second.get_parameter("weight"))


class ScaledBias(Chain):
    def middle(self, x: Tensor) -> Tensor:
        weight, bias = self.second.parameters()
        return torch.addmm(bias, x, weight.t(), beta=0.5, alpha=2)


class SharedBias(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Linear(8, 8)
        self.third.bias = self.second.bias  # type: ignore[assignment]

    def middle(self, x: Tensor) -> Tensor:
        return self.third(self.second(x).relu())


class BiasUsedTwice(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.second.get_parameter("bias").sum()


class WeightUsedTwice(Images):
    """The constants of a padding convolution go into another channel's weight, which is no one else's to read."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.second.get_parameter("weight").sum()


class ThreeBiases(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight) + 3 * self.bias


class ReadsAParameter(Chain):
    """One weight is read once by the units and once by a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.weight = nn.Parameter(torch.randn(1, 8)), nn.Parameter(torch.randn(8, 8))

    def middle(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.token @ self.weight


class SoftmaxOfWeight(Chain):
    def middle(self, x: Tensor) -> Tensor:
        return F.linear(self.second(x).relu(), self.second.get_parameter("weight").softmax(1))


class Rolled(Chain):
    def middle(self, x: Tensor) -> Tensor:
        return self.second(x.roll(3, 1))


class Scrambled(Chain):
    """Samples and units are mixed, which a single sample would not show."""

    def middle(self, x: Tensor) -> Tensor:
        return self.second(x.view(-1, len(x)).t().contiguous())


class PooledUnits(Chain):
    def middle(self, x: Tensor) -> Tensor:
        return self.second(F.avg_pool1d(x[:, None], 3, 1, 1)[:, 0])


class ShiftedChannels(Images):
    def middle(self, x: Tensor) -> Tensor:
        return self.second(F.pad(x, (0, 0, 0, 0, 1, -1)))


class ChannelsAsPositions(Images):
    """A convolution moves along what was the channels; there are as many of them as positions."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(6, 8, 3, padding=1))
        self.first, self.third = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 8, 1)

    def middle(self, x: Tensor) -> Tensor:
        return self.second(x.transpose(1, 2)) + self.third(x)


class Written(Chain):
    """Writes into a buffer of its own through a view, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(9, 8))
        self.register_buffer("calls", torch.zeros(()))

    def middle(self, x: Tensor) -> Tensor:
        self.get_buffer("calls").add_(1)
        self.get_buffer("kept")[: len(x)] = x
        return self.second(self.get_buffer("kept")[: len(x)])


class Noisy(Chain):
    """Reads noise beside its units: no constant, though the input has no part in it."""

    def __init__(self) -> None:
        super().__init__(second=nn.Linear(16, 8))

    def middle(self, x: Tensor) -> Tensor:
        return self.second(torch.cat([x, torch.randn(1, 8, dtype=x.dtype).expand(len(x), -1)], 1))


class Squeezed(Chain):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 2), nn.Linear(2, 8))

    def middle(self, x: Tensor) -> Tensor:
        return self.second(x[:, :, None].squeeze())


class FixedView(Images):
    def __init__(self) -> None:
        super().__init__(nn.Linear(8 * 36, 8))
        self.last = nn.Linear(8, 3)

    def middle(self, x: Tensor) -> Tensor:
        return self.second(x.view(-1, 8 * 36))


class FixedGroups(Images):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 8, 3, groups=8))

    def middle(self, x: Tensor) -> Tensor:
        weight, bias = self.second.parameters()
        return F.conv2d(x, weight, bias, groups=8)


class Asserted(Chain):
    def middle(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 8
        return self.second(x)


class Recurrent(Chain):
    def __init__(self) -> None:
        super().__init__(second=nn.GRU(8, 8, batch_first=True))

    def middle(self, x: Tensor) -> Tensor:
        return self.second(x[:, None])[0][:, 0]


class Reinterpreted(Chain):
    def middle(self, x: Tensor) -> Tensor:
        return self.second(x.view(torch.int64).view(x.dtype))


class JoinsNothing(Chain):
    def middle(self, x: Tensor) -> Tensor:
        return self.second(torch.cat([torch.cat([x[:, :0], x[:, :0]], 1), x], 1))


class Statistics(Chain):
    """Normalises by the batch, of which one sample has no statistics."""

    def middle(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.second(x), None, None, training=True)


@dataclass
class Returned:
    output: Tensor
    hidden: Tensor


class Hidden(Chain):
    """Returns what its layers hold, in a dataclass."""

    def forward(self, x: Tensor) -> Any:
        hidden = self.first(x).relu()
        return {"all": [Returned(self.last(self.second(hidden)), hidden)]}


def pruned() -> nn.Module:
    """Weights that `torch.nn.utils.prune` computes from others."""
    model = Chain()
    torch.nn.utils.prune.ln_structured(model.first, "weight", 0.5, 2, 0)
    torch.nn.utils.prune.ln_structured(model.second, "weight", 0.5, 2, 1)
    return model


def spectral() -> nn.Module:
    """Weights that are computed from others by what is not understood."""
    model = Chain()
    torch.nn.utils.parametrizations.spectral_norm(model.second)
    return model


CASES: dict[str, Any] = {
    case.__name__: case
    for case in (
        WithoutItsBias, ScaledBias, SharedBias, BiasUsedTwice, WeightUsedTwice, ReadsAParameter, SoftmaxOfWeight,
        Rolled, Scrambled, PooledUnits, ShiftedChannels, ChannelsAsPositions, Written, Noisy, Squeezed, FixedView,
        FixedGroups, Asserted, Recurrent, Reinterpreted, JoinsNothing, Statistics, Hidden, pruned, spectral,
    )
} | {"ThreeBiases": lambda: Chain(second=ThreeBiases(8, 8))}  # fmt: skip


def sample(model: nn.Module, rows: int) -> Tensor:
    shape = (rows, 6, 6, 6) if isinstance(model, Images) else (rows, 6)
    return torch.randn(shape, dtype=torch.float64)


class Block(nn.Module):
    """A residual block whose branch is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.dead = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(x) + self.dead(x)


class Multiple(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.dead(x), x, alpha=2)


class Sizes(Block):
    """A sum of two numbers of Python, which is no sum of tensors."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[0] + x.shape[1]
        return (x + self.dead(x)) * (size - x.shape[0])


class InPlaceInBranch(Block):
    """The dead branch rectifies what the other side passes on."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dead(self.relu(x))


class Statement(Block):
    """What a clamp returns is not used, what it does is; on the sample it does nothing."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.other(x)
        y.clamp_(-100, 100)
        return y + self.dead(x)


class Alias(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.other(x)
        kept = y
        y += self.dead(x)
        return kept * y


class Hooked(Block):
    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(lambda module, args, output: output.mul(3))


class Named(Block):
    """Has a parameter of the name that a shift would get."""

    def __init__(self) -> None:
        super().__init__()
        self.shift0 = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.shift0


class Dropping(Block):
    """Drops by a function, whose flag a rewrite would freeze."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5, self.training)


class Optional(Block):
    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = super().forward(x)
        return x if scale is None else x * scale


class Asked(Block):
    """Has a method that the network calls."""

    def scale(self) -> float:
        return 2.0


class Sequences(Block):
    """Channels are the last of (N, L, C)."""

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None].expand(-1, 8, -1)
        return (self.other(x) + self.dead(x)).sum(1)


class Signals(Block):
    """Of one dimension, so a shift is no image."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.dead = nn.Conv1d(8, 8, 1), nn.Conv1d(8, 8, 1)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, None].expand(-1, -1, 5)
        return (self.other(x) + self.dead(x)).sum(2)


class WithoutParameters(Block):
    """The module that adds has no parameter of its own."""

    class Add(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    def __init__(self) -> None:
        super().__init__()
        self.add = self.Add()

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self.other(x), self.dead(x))


BLOCKS = (
    Block, Multiple, Sizes, InPlaceInBranch, Statement, Alias, Hooked, Named, Dropping, Optional, Asked, Sequences,
    Signals, WithoutParameters,
)  # fmt: skip
# Of which the dead side can go, and all else stays as it is.
REWRITTEN = {"Block", "Statement", "Named", "Sequences", "Signals", "WithoutParameters"}


class Blocked(nn.Module):
    """A block between two layers."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(6, 8), block, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.first(x))
        return self.last(x) * (self.block.scale() if isinstance(self.block, Asked) else 1)
