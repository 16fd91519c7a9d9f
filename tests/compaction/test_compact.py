"""A compact network computes what the masked one does: that is all it has to do."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from regx.compaction import recipe
from regx.compaction.removal import compact, difference
from regx.errors import UserError
from regx.models import create
from regx.regularizers import L0, cost
from tests.compaction.patterns import Everything, scatter, zero_groups


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(x)


def built(name: str, shape: tuple[int, ...], dtype: torch.dtype, **options: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = scatter(create(name, input_shape=shape, output_size=5, **options), 0).to(dtype)
    return model.eval(), torch.randn(3, *shape, dtype=dtype)


def test_two_hundred_random_patterns() -> None:
    torch.manual_seed(0)
    model, x = scatter(Everything().double(), 1), Everything.sample()
    smaller = refused = 0
    for seed in range(200):
        masked = zero_groups(copy.deepcopy(model), seed)
        wanted = outputs(masked, x)
        try:
            found = compact(masked, x)
        except UserError as error:
            assert "the same for every input" in str(error) and wanted.std(0).max() < 1e-14
            refused += 1
            continue
        assert difference(wanted, outputs(found.model, x)) <= 1e-12, seed
        smaller += size(found.model) < size(model)
        again = recipe.apply(copy.deepcopy(model), found.recipe)
        again.load_state_dict(found.model.state_dict())
        assert torch.equal(outputs(again, x), outputs(found.model, x)), seed
    assert smaller > 100 and refused > 3, (smaller, refused)


MODELS = {
    "rectangular 50x4": ("rectangular", (2,), {"depth": 50, "init": "orthogonal", "activation": "leaky_relu"}),
    "rectangular with skips": ("rectangular", (6,), {"depth": 12, "width": 16, "skip_connections": 3}),
    "resnet 20": ("resnet", (3, 32, 32), {"depth": 20}),
    "resnet 56": ("resnet", (3, 16, 16), {"depth": 56}),
    "resnet 18": ("resnet", (3, 32, 32), {"depth": 18}),
    "resnet 50": ("resnet", (3, 64, 64), {"depth": 50, "stem": "224"}),
    "resnet 20 without skips": ("resnet", (3, 16, 16), {"depth": 20, "skip_connections": False}),
    "dense resnet": ("resnet", (10,), {"depth": 20, "unit_type": "dense"}),
    "lenet5": ("lenet5", (1, 28, 28), {}),
    "googlenet": ("googlenet", (3, 32, 32), {}),
    "torchvision resnet 18": ("torchvision:resnet18", (3, 64, 64), {}),
    "torchvision mobilenet": ("torchvision:mobilenet_v3_small", (3, 64, 64), {}),
    "torchvision shufflenet": ("torchvision:shufflenet_v2_x0_5", (3, 64, 64), {}),
}


@pytest.mark.parametrize("case", MODELS)
def test_models(case: str) -> None:
    name, shape, options = MODELS[case]
    model, x = built(name, shape, torch.float64, **options)
    layers = list(cost.layers(model).values())
    random = torch.Generator().manual_seed(3)
    for layer in layers[:-1]:
        gone = torch.rand(len(layer.weight), generator=random) < (0.4 if len(layer.weight) > 4 else 0.15)
        gone[0] = False
        layer.weight.data[gone] = 0
    wanted = outputs(model, x)
    assert wanted.std(0).min() > 0
    found = compact(model, x)
    assert size(found.model) < 0.9 * size(model)
    assert difference(wanted, outputs(found.model, x)) <= 1e-12
    single, small = copy.deepcopy(model).float(), compact(copy.deepcopy(model).float(), x.float()).model
    assert size(small) == size(found.model)
    assert difference(outputs(single, x.float()), outputs(small, x.float())) <= 1e-5


def test_exactly_the_zero_channels_go() -> None:
    """Half of all channels of a ResNet-18: a quarter of the multiply-adds between layers, half at both ends."""
    model, x = built("resnet", (3, 32, 32), torch.float32, depth=18)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data[1::2] = 0
        elif isinstance(module, nn.BatchNorm2d):
            module.bias.data[1::2] = 0
            module.running_mean[1::2] = 0  # type: ignore[index]
    small = compact(model, x).model
    half = create("resnet", input_shape=(3, 32, 32), output_size=5, depth=18)
    for module in small.modules():
        assert not isinstance(module, nn.Conv2d) or module.bias is None
    assert [m.out_channels * 2 for m in small.modules() if isinstance(m, nn.Conv2d)] == [
        m.out_channels for m in half.modules() if isinstance(m, nn.Conv2d)
    ]
    macs = {of: sum(layer.macs for layer in cost.count(of, x).values()) for of in (model, small)}
    stem, last = 32 * 32 * 9 * 3 * 64, 512 * 5
    assert macs[small] == (macs[model] - stem - last) / 4 + (stem + last) / 2
    assert difference(outputs(model, x), outputs(small, x)) <= 1e-5


@pytest.mark.parametrize("zero", [True, False], ids=["nothing is added", "a constant is added"])
@pytest.mark.parametrize("name", ["resnet", "torchvision:resnet18"])
def test_a_dead_block_goes_as_a_whole(name: str, zero: bool) -> None:
    options = {"depth": 18} if name == "resnet" else {}
    model, x = built(name, (3, 64, 64), torch.float64, **options)
    for block in (model.get_submodule("layer1.1"), model.get_submodule("layer3.0")):
        block.get_parameter("conv2.weight").data.zero_()
        bn: Any = block.bn2
        if zero:
            bn.bias.data = bn.running_mean * bn.weight.data / (bn.running_var + bn.eps).sqrt()
    found = compact(model, x)
    assert difference(outputs(model, x), outputs(found.model, x)) <= 1e-12
    names = dict(found.model.named_modules())
    assert "layer1.1.conv1" not in names and "layer3.0.conv2" not in names and "layer1.0.conv1" in names
    assert "layer3.0.downsample.0" in names
    copied = recipe.apply(create(name, input_shape=(3, 64, 64), output_size=5, **options).double(), found.recipe)
    copied.load_state_dict(found.model.state_dict())
    assert torch.equal(outputs(copied, x), outputs(found.model, x))
    found.model.train()(x).sum().backward()  # and it can be trained on
    assert all(p.grad is not None for p in found.model.parameters())


def test_closed_gates_are_removed() -> None:
    """GoogLeNet with L0 gates on the outputs of its layers: what the gates have closed is gone once they are folded."""
    model, x = built("googlenet", (3, 32, 32), torch.float64)
    gates = L0(model)
    gates.strength = 1e-3
    model.train()(x)
    with torch.no_grad():
        gates.log_alpha[::2] = -3.0  # closed: sigmoid(-3) * 1.2 - 0.1 < 0
        gates.log_alpha[1::4] = 0.5  # half open
        gates.log_alpha[3::4] = 3.0
    gated = outputs(model, x)
    open_share = float((gates.gates()[next(iter(gates.gates()))] > 0).double().mean())
    gates.fold()
    gates.detach()
    assert open_share < 1 and difference(gated, outputs(model, x)) <= 1e-12
    small = compact(model, x).model
    assert difference(gated, outputs(small, x)) <= 1e-12
    channels = {of: sum(map(cost.channels, cost.layers(of).values())) for of in (model, small)}
    assert channels[small] <= 0.55 * channels[model]


def test_a_dead_layer_is_an_error() -> None:
    model, x = built("lenet5", (1, 28, 28), torch.float32)
    next(m for m in model.modules() if isinstance(m, nn.Conv2d)).weight.data.zero_()
    with pytest.raises(UserError, match="the same for every input"):
        compact(model, x)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x) if x.sum() > 0 else self.b(-x)


def test_a_model_that_decides_by_numbers_is_refused_with_the_operation() -> None:
    with pytest.raises(UserError, match=r"decides by the numbers that it computes \(aten\.\w+\)"):
        compact(Branches(), torch.ones(1, 4))


class Cut(nn.Module):
    """Takes a part of its channels by their place, and writes some into a buffer of its own."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.a, self.b, self.inplace = nn.Linear(4, 8), nn.Linear(8, 2), inplace

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.inplace:
            out = torch.zeros_like(x)
            out[:, :4] = x[:, 4:]
            out[:, 4:] = x[:, :4].relu()
            return self.b(out)
        first, second = x.chunk(2, 1)
        return self.b(torch.cat([second, first.relu()], 1))


class Tied(nn.Module):
    """One weight in two places, and one layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.middle = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.middle.weight = self.second.weight
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = self.second(self.second(x).relu()).relu()
        return self.last(self.middle(x).relu())


class Shared(nn.Module):
    """A residual block that is called twice, of which the branch is dead in the first call alone."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(3, 3, bias=False)
        self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.block(x * 0)
        x = self.second(x)
        return self.last((x + self.block(x)).relu())


@pytest.mark.parametrize(
    "make", [lambda: Cut(False), lambda: Cut(True), Tied, Shared], ids=["parts", "in place", "tied", "shared"]
)
def test_what_cannot_be_told_apart_stays(make: Any) -> None:
    x = torch.randn(6, 4 if make is not Shared else 3, dtype=torch.float64)
    for seed in range(20):
        torch.manual_seed(seed)
        model = zero_groups(make().double(), seed, last=("b", "last"))
        wanted = outputs(model, x)
        if wanted.std(0).max() > 1e-14:
            assert difference(wanted, outputs(compact(model, x).model, x)) <= 1e-12, seed


def test_the_model_is_left_as_it_was() -> None:
    model, x = built("resnet", (3, 16, 16), torch.float32, depth=20)
    zero_groups(model, 1, last="fc")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, training = torch.get_rng_state(), model.train().training
    compact(model, x)
    assert torch.equal(torch.get_rng_state(), state) and model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
