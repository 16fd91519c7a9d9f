"""ResNets: torchvision's names, numbers and outputs; parameters, stems, activations, dense units, errors."""

import copy
import itertools
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from regx.errors import UserError
from regx.models import REGISTRY, ResNet, create
from regx.models.resnet import Block
from regx.models.resnet_options import STAGES
from regx.regularizers import Jumpstart

SMALL = (3, 16, 16)

# Depth -> parameters with and without batch normalization, 1000 classes (blauigris/jumpstart).
TWICE = {
    18: (11_689_512, 11_679_912),
    34: (21_797_672, 21_780_648),
    50: (25_557_032, 25_503_912),
    101: (44_549_160, 44_443_816),
    152: (60_192_808, 60_041_384),
}
ONE_AND_A_HALF = {
    18: (2_958_200, 2_953_000),
    34: (5_700_696, 5_691_304),
    50: (6_952_968, 6_923_624),
    101: (12_975_048, 12_916_328),
    152: (18_211_464, 18_125_672),
}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(shape: tuple[int, ...], classes: int, **options: Any) -> ResNet:
    with torch.device("meta"):
        return ResNet(shape, classes, **options)


def small(depth: int = 20, **options: Any) -> ResNet:
    shape = options.pop("shape", SMALL)
    return ResNet(shape, 5, depth=depth, **{"width_multiplier": 1.25, **options})


@pytest.mark.parametrize(("multiplier", "table"), [(2, TWICE), (1.5, ONE_AND_A_HALF)])
def test_parameters_of_the_imagenet_family(multiplier: float, table: dict[int, tuple[int, int]]) -> None:
    for depth, counts in table.items():
        found = [
            parameters(on_meta((3, 224, 224), 1000, depth=depth, width_multiplier=multiplier, batchnorm=batchnorm))
            for batchnorm in (True, False)
        ]
        assert tuple(found) == counts, depth


def closed_form(depth: int, m: float, inputs: int, classes: int, *, batchnorm: bool, skips: bool, dense: bool) -> int:
    """Parameters, counted layer by layer from the paper's table."""
    cifar = depth in (20, 32, 44, 56, 110)
    bottleneck = depth >= 50 and not cifar
    nine = 1 if dense else 9
    per_channel = 2 if batchnorm else 0
    width = 16 if cifar else 64
    total = width * (inputs * nine + per_channel)
    base = width
    for k, count in enumerate(STAGES[depth]):
        w = int(base * m**k)
        for i in range(count):
            out = 4 * w if bottleneck else w
            if bottleneck:
                total += width * w + nine * w * w + w * out + per_channel * (2 * w + out)
            else:
                total += nine * width * w + nine * w * w + per_channel * 2 * w
            if skips and (width != out or (not dense and k > 0 and i == 0)):
                total += width * out + per_channel * out
            width = out
    return total + (width + 1) * classes


@pytest.mark.parametrize("depth", STAGES)
@pytest.mark.parametrize("unit_type", ["conv", "dense"])
def test_what_is_taken_away_is_not_built(depth: int, unit_type: str) -> None:
    for batchnorm, skips, m in itertools.product((True, False), (True, False), (1, 1.3)):
        model = on_meta(
            (2, 8, 8),
            7,
            depth=depth,
            width_multiplier=m,
            batchnorm=batchnorm,
            skip_connections=skips,
            unit_type=unit_type,
        )
        inputs = 128 if unit_type == "dense" else 2
        assert parameters(model) == closed_form(
            depth, m, inputs, 7, batchnorm=batchnorm, skips=skips, dense=unit_type == "dense"
        )
        names = " ".join(name for name, _ in model.named_modules())
        assert ("bn" in names) == batchnorm
        assert skips or "downsample" not in names
        kinds = (nn.Conv2d, nn.BatchNorm2d) if unit_type == "dense" else (nn.BatchNorm1d,)
        assert not any(isinstance(module, kinds) for module in model.modules())
        layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
        assert [name for name, layer in layers.items() if layer.bias is not None] == ["fc"]


def test_weights_of_resnet20() -> None:
    model = ResNet((3, 32, 32), 10, depth=20)
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1) == 270_896
    assert model.conv1.stride == (1, 1)


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvisions_numbers_and_outputs(depth: int) -> None:
    torch.manual_seed(3)
    theirs = torchvision.models.get_model(f"resnet{depth}", weights=None)
    torch.manual_seed(3)
    ours = ResNet((3, 64, 64), 1000, depth=depth, stem="224")
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items()), "the same initial weights"

    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
        torch.testing.assert_close(ours.train()(x), theirs.train()(x))


def activations(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if "activation" in name}


def recorded(modules: dict[str, nn.Module]) -> list[str]:
    """The names of the modules that are called, once for each call, as it grows."""
    calls: list[str] = []
    for name, module in modules.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    return calls


@pytest.mark.parametrize("depth", [18, 50, 20])
@pytest.mark.parametrize("unit_type", ["conv", "dense"])
def test_each_activation_is_a_module_called_once(depth: int, unit_type: str) -> None:
    for activation, skips in (("relu", False), ("gelu", True)):
        model = small(depth, unit_type=unit_type, activation=activation, skip_connections=skips, batchnorm=False)
        kind = {"relu": nn.ReLU, "gelu": nn.GELU}[activation]
        found = activations(model)
        assert len(found) == 1 + sum(STAGES[depth]) * (3 if depth == 50 else 2)
        assert all(type(module) is kind for module in found.values())
        calls = recorded(found)
        with torch.no_grad():
            model(torch.randn(1, *SMALL))
        assert calls == list(found), "once each, in the order of the names"


def slow_forward(model: ResNet, x: Tensor, activation: Any, *, dense: bool) -> Tensor:
    """The CIFAR family in evaluation mode, written with functions and the names of the tensors."""
    state = model.state_dict()

    def layer(name: str, x: Tensor, stride: int) -> Tensor:
        weight = state[f"{name}.weight"]
        return x @ weight.T if dense else F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        if f"{name}.weight" not in state:
            return x
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        shape = (-1,) if dense else (-1, 1, 1)
        return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)

    own = "fc" if dense else "conv"
    x = activation(norm("bn1", layer(f"{own}1", x.flatten(1) if dense else x, 1)))
    for k in (1, 2, 3):
        for i in range(3):
            block = f"layer{k}.{i}"
            stride = 2 if k > 1 and i == 0 else 1
            out = activation(norm(f"{block}.bn1", layer(f"{block}.{own}1", x, stride)))
            out = norm(f"{block}.bn2", layer(f"{block}.{own}2", out, 1))
            if model.blocks()[0].skip:
                short = x
                if f"{block}.downsample.0.weight" in state:
                    short = norm(f"{block}.downsample.1", layer(f"{block}.downsample.0", x, stride))
                out = out + short
            x = activation(out)
    return (x if dense else x.mean((2, 3))) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize("unit_type", ["conv", "dense"])
@pytest.mark.parametrize("batchnorm", [True, False])
@pytest.mark.parametrize("skips", [True, False])
def test_outputs_by_the_slow_way(unit_type: str, batchnorm: bool, skips: bool) -> None:
    torch.manual_seed(0)
    for name, function in (("relu", torch.relu), ("tanh", torch.tanh)):
        model = small(
            activation=name, unit_type=unit_type, batchnorm=batchnorm, skip_connections=skips, shape=(1, 8, 8)
        ).double()
        x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
        given = x.clone()
        model(x)  # moves the running statistics
        model.eval()
        torch.testing.assert_close(model(x), slow_forward(model, x, function, dense=unit_type == "dense"))
        assert torch.equal(x, given), "the input is left alone"


@pytest.mark.parametrize("batchnorm", [True, False])
@pytest.mark.parametrize("depth", [18, 50])
def test_overwriting_activations_change_no_gradient(depth: int, batchnorm: bool) -> None:
    torch.manual_seed(0)
    model = small(depth, batchnorm=batchnorm, width_multiplier=0.6).double()
    careful = copy.deepcopy(model)
    assert all(module.inplace for module in activations(model).values())  # type: ignore[union-attr]
    for module in activations(careful).values():
        module.inplace = False  # type: ignore[assignment]
    x = torch.randn(2, *SMALL, dtype=torch.float64)
    for one in (model, careful):
        one(x).square().sum().backward()
    for mine, other in zip(model.parameters(), careful.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize(
    ("side", "options", "kernel", "first", "last"),
    [
        (128, {}, 7, 32, 4),
        (127, {}, 3, 64, 8),
        (48, {}, 3, 24, 3),
        (47, {}, 3, 47, 6),
        (32, {}, 3, 32, 4),
        (32, {"stem": "224"}, 7, 8, 1),
        (32, {"stem": "64"}, 3, 16, 2),
        (64, {"stem": "32"}, 3, 64, 8),
        (1, {}, 3, 1, 1),
    ],
)
def test_stems(side: int, options: dict[str, Any], kernel: int, first: int, last: int) -> None:
    model = on_meta((1, side + 2, side), 4, depth=18, **options)
    sizes = []
    for layer in (model.layer1, model.layer4):
        layer.register_forward_hook(lambda *args: sizes.append(args[2].shape[-1]))  # type: ignore[operator]
    model.eval()
    assert model(torch.empty(2, 1, side + 2, side, device="meta")).shape == (2, 4)
    conv = model.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d) and conv.kernel_size == (kernel, kernel)
    assert sizes == [first, last]
    assert hasattr(model, "maxpool") == (kernel == 7)


def test_the_cifar_family_always_has_its_own_stem() -> None:
    model = on_meta((3, 224, 224), 10, depth=56)
    assert isinstance(model.conv1, nn.Conv2d) and not hasattr(model, "maxpool")
    assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.out_channels) == ((3, 3), (1, 1), 16)
    assert on_meta((3, 32, 32), 10, depth=20, stem="32").state_dict().keys() > {"conv1.weight"}


def test_dense_units_take_any_shape() -> None:
    for shape in ((7,), (2, 5), (3, 4, 4)):
        model = small(18, unit_type="dense", shape=shape, width_multiplier=1)
        assert model(torch.randn(3, *shape)).shape == (3, 5)
    model = on_meta((10,), 5, depth=50, unit_type="dense")
    found = [getattr(block, "fc2").out_features for block in model.blocks()]  # noqa: B009
    assert found == [64] * 3 + [128] * 4 + [256] * 6 + [512] * 3


def test_dropout_comes_before_the_last_layer() -> None:
    model = small(dropout=1.0)
    assert torch.equal(model(torch.randn(3, *SMALL)), model.fc.bias.expand(3, 5))
    assert model.eval()(torch.randn(3, *SMALL)).std(0).min() > 0
    assert not any(isinstance(module, nn.Dropout) for module in small().modules())


def test_jumpstart_hooks_every_activation() -> None:
    model = small(18, batchnorm=False, skip_connections=False)
    with Jumpstart(model) as jumpstart:
        model(torch.randn(4, *SMALL))
        loss = jumpstart.loss
        loss.backward()
        assert list(jumpstart.coverage().layers) == list(activations(model))
    assert loss.isfinite() and model.get_submodule("conv1").weight.grad is not None  # type: ignore[union-attr]


def test_blocks_and_copies() -> None:
    model = small(width_multiplier=1)
    assert len(model.blocks()) == 9 and all(isinstance(block, Block) for block in model.blocks())
    assert [block.downsample is None for block in model.blocks()] == [True] * 3 + [False, True, True] * 2
    other = copy.deepcopy(model.eval())
    x = torch.randn(2, *SMALL)
    assert torch.equal(model(x), other(x))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (SMALL, {"depth": 51}, r"^depth: 51 is not among the depths 18, 20, 32, .*152; did you mean 50\?$"),
        (SMALL, {"depth": 0}, "did you mean 18"),
        (SMALL, {"depth": 100000}, "did you mean 152"),
        (SMALL, {"unit_type": "linear"}, "unit_type: 'linear'"),
        (SMALL, {"activation": "rulu"}, "activation: 'rulu' is not among its choices; did you mean 'relu'"),
        (SMALL, {"width_multiplier": 0}, "width_multiplier: 0 is out of bounds"),
        (SMALL, {"width_multiplier": 0.1}, "width_multiplier: 0.1 leaves stage 3 without channels"),
        (SMALL, {"dropout": 2}, "dropout: 2"),
        (SMALL, {"stem": "128"}, "stem: '128'"),
        (SMALL, {"stem": "64", "depth": 20}, "stem: 64 does not fit depth 20"),
        (SMALL, {"stem": "64", "unit_type": "dense"}, "stem: 64 is a stem for images"),
        (SMALL, {"init": "fixup", "skip_connections": False}, "init: fixup starts .* needs skip_connections"),
        (SMALL, {"init": "zero_last", "skip_connections": False}, "init: zero_last"),
        ((30,), {}, r"input_shape: \(30,\) is not \(channels, height, width\)"),
        ((3, 0, 4), {}, "input_shape"),
        ((), {"unit_type": "dense"}, "input_shape"),
    ],
)
def test_illegal_options(shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        on_meta(shape, 10, **options)


def test_registry_and_create() -> None:
    model = create("resnet", input_shape=SMALL, output_size=3, depth="20", batchnorm="false")
    assert isinstance(model, ResNet) and model.depth == 20
    with pytest.raises(UserError, match="output_size"):
        create("resnet", input_shape=SMALL, output_size=0)
    assert [option.name for option in REGISTRY["resnet"].parameters] == [
        *("depth", "unit_type", "batchnorm", "skip_connections", "width_multiplier", "dropout", "init", "stem"),
        "activation",
    ]
