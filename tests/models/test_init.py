"""Initial weights: the property that each is named after, and torchvision's numbers."""

import math
from typing import Any, get_args

import pytest
import torch
import torchvision
from torch import Tensor, nn

from regx.models import REGISTRY, Rectangular, ResNet
from regx.models.activations import ACTIVATIONS, activation_of_images
from regx.models.base import Network
from regx.models.init import fill

SHAPE = (3, 8, 8)
INITS = REGISTRY["resnet"].parameter("init").choices or ()


def layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def build(init: str, **options: Any) -> ResNet:
    torch.manual_seed(5)
    return ResNet(SHAPE, 6, **{"depth": 20, "width_multiplier": 1.5, "init": init, **options})


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("unit_type", ["conv", "dense"])
@pytest.mark.parametrize("batchnorm", [True, False])
def test_all_are_finite(init: str, unit_type: str, batchnorm: bool) -> None:
    model = build(init, unit_type=unit_type, batchnorm=batchnorm)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    out = model(torch.randn(4, *SHAPE))
    assert out.isfinite().all() and (out.count_nonzero() > 0) == (init != "fixup")
    default = build("pytorch", unit_type=unit_type, batchnorm=batchnorm)
    same = [torch.equal(a.weight, b.weight) for a, b in zip(layers(model), layers(default), strict=True)]
    assert (all(same), any(same[:-1])) == ((True, True) if init == "pytorch" else (False, False))


@pytest.mark.parametrize("depth", [18, 50])
def test_zero_last_is_torchvisions(depth: int) -> None:
    torch.manual_seed(1)
    theirs = torchvision.models.get_model(f"resnet{depth}", weights=None, zero_init_residual=True, num_classes=6)
    torch.manual_seed(1)
    ours = ResNet(SHAPE, 6, depth=depth, init="zero_last", stem="224").state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize("unit_type", ["conv", "dense"])
@pytest.mark.parametrize("init", ["zero_last", "fixup"])
@pytest.mark.parametrize("depth", [18, 50])
def test_blocks_start_as_their_shortcuts(unit_type: str, init: str, depth: int) -> None:
    for batchnorm in (True, False):
        model = build(init, unit_type=unit_type, batchnorm=batchnorm, depth=depth, width_multiplier=0.5)
        model.eval()
        checked = []

        def compare(block: Any, inputs: tuple[Tensor], output: Tensor, checked: list[Any] = checked) -> None:
            shortcut = inputs[0] if block.downsample is None else block.downsample(inputs[0])
            checked.append(torch.equal(output, shortcut.relu()))

        for block in model.blocks():
            block.register_forward_hook(compare)
        with torch.no_grad():
            out = model(torch.randn(2, *SHAPE))
        assert checked == [True] * len(model.blocks())
        assert (out.count_nonzero() == 0) == (init == "fixup")


@pytest.mark.parametrize(("depth", "exponent"), [(18, -1 / 2), (50, -1 / 4)])
def test_fixup_scales_the_first_layers_of_branches(depth: int, exponent: float) -> None:
    options: dict[str, Any] = {"depth": depth, "batchnorm": False, "width_multiplier": 1}
    scaled, plain = build("fixup", **options).blocks(), build("torchvision", **options).blocks()
    factor = len(plain) ** exponent
    for one, other in zip(scaled, plain, strict=True):
        for mine, his in zip(one.layers()[:-1], other.layers()[:-1], strict=True):
            torch.testing.assert_close(mine.weight, his.weight * factor)


@pytest.mark.parametrize("name", ["relu", "tanh", "selu"])
def test_kaiming_has_the_gain_of_the_activation(name: str) -> None:
    model = build("kaiming", activation=name)
    for layer in layers(model):
        gain = 1.0 if layer is model.fc else ACTIVATIONS[name][1]
        expected = gain / math.sqrt(layer.weight[0].numel())
        spread = 5 / math.sqrt(2 * layer.weight.numel())
        assert layer.weight.std().item() == pytest.approx(expected, rel=spread)
    assert model.fc.bias.count_nonzero() == 0


@pytest.mark.parametrize("init", ["orthogonal", "delta_orthogonal"])
@pytest.mark.parametrize("unit_type", ["conv", "dense"])
def test_orthogonal_matrices(init: str, unit_type: str) -> None:
    model = build(init, unit_type=unit_type, activation="tanh")
    for layer in layers(model):
        weight = layer.weight.detach()
        if init == "delta_orthogonal" and weight.dim() == 4:
            middle = weight.shape[-1] // 2
            tap = weight[:, :, middle, middle].clone()
            assert weight.count_nonzero() == tap.count_nonzero() > 0
            weight = tap
        matrix = weight.flatten(1)
        matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        gain = 1.0 if layer is model.fc else 5 / 3
        torch.testing.assert_close(matrix @ matrix.T, gain**2 * torch.eye(len(matrix)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(5, 5, 3, 3), (9, 4, 5, 5), (6, 2, 1, 1)])
def test_delta_orthogonal_keeps_every_norm(size: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(size[1], size[0], size[2], padding=size[2] // 2, bias=False)
    fill(conv.weight, "delta_orthogonal", 1.5)
    x = torch.randn(3, size[1], 6, 7)
    torch.testing.assert_close(conv(x).square().sum((1, 2, 3)), 1.5**2 * x.square().sum((1, 2, 3)))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="'he'"):
        fill(torch.empty(2, 2), "he", 1.0)


def test_models_offer_every_activation() -> None:
    names = tuple(ACTIVATIONS)
    assert get_args(Network.__init__.__annotations__["activation"]) == names
    for row in REGISTRY.rows.values():
        assert row.parameter("activation").choices == names, row.name
    for name in names:
        module, x = activation_of_images(name), torch.randn(9)
        torch.testing.assert_close(module(x.clone()), ACTIVATIONS[name][0]()(x))
        assert getattr(module, "inplace", False) == (name == "relu")


def test_rectangular_networks_start_as_before() -> None:
    """Drawn in the order of the layers, after PyTorch's own initialization has drawn its numbers."""
    torch.manual_seed(2)
    model = Rectangular((3,), 2, depth=2, width=4, init="kaiming")
    torch.manual_seed(2)
    expected = [nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)]
    for layer, gain in zip(expected, (math.sqrt(2), math.sqrt(2), 1), strict=True):
        nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))
    for found, layer in zip(layers(model), expected, strict=True):
        assert torch.equal(found.weight, layer.weight) and found.bias is not None and not found.bias.any()
