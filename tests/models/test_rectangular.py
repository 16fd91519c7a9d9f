"""Rectangular networks: sizes, order of modules, skip connections, initial values, errors."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regx.models
from regx.errors import UserError
from regx.models import REGISTRY, Rectangular, create
from regx.models.rectangular import ACTIVATIONS, _pool_positions

TABLE, IMAGE = (3,), (2, 9, 8)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize(("features", "depth", "width", "outputs"), [(2, 50, 4, 1), (13, 1, 7, 3), (4, 2, 1, 2)])
def test_dense_parameter_count(batchnorm: bool, features: int, depth: int, width: int, outputs: int) -> None:
    model = Rectangular((features,), outputs, depth=depth, width=width, batchnorm=batchnorm)
    expected = width * (features + 1) + (depth - 1) * width * (width + 1) + width * outputs + outputs
    assert parameters(model) == expected + 2 * depth * width * batchnorm
    model.eval()
    assert model(torch.randn(5, features)).shape == (5, outputs)


@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize(("kernel_size", "depth", "width", "outputs"), [(3, 4, 5, 10), (5, 1, 2, 1), (1, 3, 4, 2)])
def test_image_parameter_count(batchnorm: bool, kernel_size: int, depth: int, width: int, outputs: int) -> None:
    model = Rectangular(IMAGE, outputs, depth=depth, width=width, batchnorm=batchnorm, kernel_size=kernel_size)
    k2 = kernel_size**2
    expected = width * (k2 * 2 + 1) + (depth - 1) * width * (k2 * width + 1) + 2 * width * outputs + outputs
    assert parameters(model) == expected + 2 * depth * width * batchnorm
    assert model(torch.randn(3, *IMAGE)).shape == (3, outputs)


def test_flat_head_sees_the_pooled_size() -> None:
    model = Rectangular(IMAGE, 3, depth=4, width=5, head="flatten", n_maxpool=2)
    assert model.head.in_features == 5 * 2 * 2
    assert model(torch.randn(3, *IMAGE)).shape == (3, 3)


def test_pooled_head_is_mean_and_maximum() -> None:
    model = Rectangular(IMAGE, 2, depth=1, width=3, activation="identity", kernel_size=1)
    x = torch.randn(2, *IMAGE)
    maps = model.get_submodule("hidden.layer0")(x)
    pooled = torch.cat([nn.AdaptiveAvgPool2d(1)(maps), nn.AdaptiveMaxPool2d(1)(maps)], 1).flatten(1)
    torch.testing.assert_close(model(x), model.head(pooled))


def test_order_of_the_modules() -> None:
    model = Rectangular((2,), 1, depth=2, batchnorm=True, dropout=0.1)
    assert list(model.hidden) == [
        *("layer0", "batchnorm0", "dropout0", "activation0"),
        *("layer1", "batchnorm1", "dropout1", "activation1"),
    ]
    x = torch.randn(5, 2)
    model.eval()
    expected = x
    for module in model.hidden.values():
        expected = module(expected)
    assert torch.equal(model(x), model.head(expected))


@pytest.mark.parametrize(
    ("depth", "count", "mode", "positions"),
    [
        (16, 3, "log", [8, 12, 14]),
        (30, 3, "log", [15, 23, 27]),
        (1, 1, "log", [1]),
        (16, 3, "linear", [0, 8, 16]),
        (5, 1, "linear", [0]),
        (5, 0, "log", []),
    ],
)
def test_pool_positions(depth: int, count: int, mode: str, positions: list[int]) -> None:
    assert _pool_positions(count, mode, depth) == positions


def test_pools_follow_their_layers() -> None:
    model = Rectangular((1, 16, 16), 2, depth=16, width=2, n_maxpool=3)
    names = list(model.hidden)
    assert [names[names.index(f"maxpool{i}") - 1] for i in (8, 12, 14)] == [f"activation{i}" for i in (7, 11, 13)]
    sizes = []
    model.get_submodule("hidden.layer15").register_forward_hook(lambda *args: sizes.append(args[2].shape[-1]))
    model(torch.randn(1, 1, 16, 16))
    assert sizes == [2]


def slow_forward(model: Rectangular, x: Tensor, every: int) -> Tensor:
    """Skip connections written out with names."""
    stored: Tensor | None = None
    for name, module in model.hidden.items():
        x = module(x)
        if name.startswith("maxpool") and stored is not None:
            stored = module(stored)
        if name.startswith("activation") and int(name.removeprefix("activation")) % every == 0:
            if stored is not None:
                x = stored + x
            stored = x
    return x


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("every", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [TABLE, IMAGE])
def test_skip_connections(activation: Any, every: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"n_maxpool": 2, "head": "flatten"} if len(shape) == 3 else {}
    model = Rectangular(shape, 2, depth=6, width=4, activation=activation, skip_connections=every, **options)
    plain = Rectangular(shape, 2, depth=6, width=4, activation=activation, **options)
    plain.load_state_dict(model.state_dict())
    x = torch.randn(3, *shape)
    torch.testing.assert_close(model(x), model.head(slow_forward(model, x, every).flatten(1)))
    assert torch.allclose(model(x), plain(x)) == (every > 5)


def test_skip_connections_carry_the_first_output_past_dead_layers() -> None:
    """With everything after the first layer at zero, the sum that arrives is the first activation's output, once."""
    model = Rectangular(TABLE, 4, depth=5, width=4, skip_connections=2)
    with torch.no_grad():
        for i in range(1, 5):
            layer = model.get_submodule(f"hidden.layer{i}")
            for parameter in layer.parameters():
                parameter.zero_()
        model.head.weight.copy_(torch.eye(4))
        model.head.bias.zero_()
    x = torch.randn(6, 3)
    torch.testing.assert_close(model(x), model.get_submodule("hidden.layer0")(x).relu())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_modules_of_their_own(name: Any) -> None:
    model = Rectangular(TABLE, 1, depth=3, activation=name)
    modules = [module for key, module in model.hidden.items() if key.startswith("activation")]
    assert len(set(modules)) == 3 and all(isinstance(module, ACTIVATIONS[name][0]) for module in modules)  # type: ignore[arg-type]
    assert name in (REGISTRY["rectangular"].parameter("activation").choices or ())


def test_gains_are_pytorchs_where_it_has_them() -> None:
    for name in ("relu", "leaky_relu", "tanh", "sigmoid", "linear"):
        assert ACTIVATIONS["identity" if name == "linear" else name][1] == pytest.approx(nn.init.calculate_gain(name))


def weights(model: Rectangular) -> list[Tensor]:
    return [module.weight for module in model.hidden.values() if isinstance(module, nn.Linear | nn.Conv2d)]


def biases(model: Rectangular) -> list[Tensor]:
    return [module.bias for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]  # type: ignore[misc]


@pytest.mark.parametrize("shape", [(40,), (3, 5, 5)])
def test_initial_weights(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"depth": 3, "width": 40}
    for weight in weights(Rectangular(shape, 2, init="kaiming", **options)):
        assert weight.std().item() == pytest.approx(math.sqrt(2 / weight[0].numel()), rel=0.1)
    for weight in weights(Rectangular(shape, 2, init="kaiming", activation="identity", **options)):
        assert weight.std().item() == pytest.approx(math.sqrt(1 / weight[0].numel()), rel=0.1)
    for weight in weights(Rectangular(shape, 2, init="xavier", **options)):
        fan_in, fan_out = weight[0].numel(), weight.transpose(0, 1)[0].numel()
        assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / (fan_in + fan_out)), rel=0.02)
    for weight in weights(Rectangular(shape, 2, init="orthogonal", **options))[1:]:
        rows = weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(40), atol=1e-4, rtol=0)
    zero = Rectangular(shape, 2, init="zero", **options)
    assert all(parameter.count_nonzero() == 0 for parameter in zero.parameters())
    for init in ("kaiming", "xavier", "orthogonal"):
        model = Rectangular(shape, 2, init=init, **options)  # type: ignore[arg-type]
        assert all(bias.count_nonzero() == 0 for bias in biases(model)) and model.head.weight.count_nonzero() > 0


def test_pytorchs_own_initial_weights() -> None:
    torch.manual_seed(0)
    model = Rectangular((2,), 1, depth=3, width=4)
    torch.manual_seed(0)
    layers = [nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)]
    for parameter, expected in zip(
        model.parameters(), (p for layer in layers for p in layer.parameters()), strict=True
    ):
        assert torch.equal(parameter, expected)


def test_dropout_can_be_annealed() -> None:
    model = Rectangular(TABLE, 1, depth=3, dropout=0.9)
    assert model.dropout == 0.9
    model.dropout = 0.2
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.2] * 3
    model.dropout = 0
    assert model.dropout == 0 and torch.equal(model(torch.ones(2, 3))[0], model(torch.ones(2, 3))[1])
    with pytest.raises(UserError, match="out of bounds"):
        model.dropout = 1.5
    bare = Rectangular(TABLE, 1, depth=3)
    assert bare.dropout == 0
    with pytest.raises(UserError, match="no dropout layers"):
        bare.dropout = 0.5


def test_copies_are_independent() -> None:
    model = Rectangular(IMAGE, 1, depth=3, skip_connections=1)
    other = copy.deepcopy(model)
    x = torch.randn(2, *IMAGE)
    assert torch.equal(model(x), other(x))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert model(x).count_nonzero() and not other(x).count_nonzero()


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (TABLE, {"depth": 0}, "depth: 0 is out of bounds; use a whole number at least 1"),
        (TABLE, {"width": 0}, "width"),
        (TABLE, {"activation": "relu7"}, "activation: 'relu7' is not among its choices; did you mean 'relu'"),
        (TABLE, {"init": "he"}, "init: 'he'"),
        (TABLE, {"skip_connections": 0}, "skip_connections: 0"),
        (TABLE, {"dropout": -0.1}, "dropout: -0.1"),
        (TABLE, {"n_maxpool": 1}, "only images are pooled"),
        (IMAGE, {"kernel_size": 4}, "kernel_size: 4 is even"),
        (IMAGE, {"n_maxpool": 4, "depth": 40}, r"4 poolings do not fit images of \(9, 8\)"),
        (IMAGE, {"n_maxpool": 3, "depth": 2}, "3 poolings do not fit 2 layers"),
        ((), {}, "input_shape"),
        ((2, 3), {}, "neither"),
        ((0,), {}, "input_shape"),
    ],
)
def test_illegal_options(shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Rectangular(shape, 1, **options)


def test_registry_and_create() -> None:
    info = REGISTRY["rectangular"]
    assert info.load() is Rectangular
    assert {p.name: p.default for p in info.parameters} == Rectangular.__init__.__kwdefaults__
    model = create("rectangular", input_shape=(2,), output_size=1, depth="3", skip_connections=2)
    assert isinstance(model, Rectangular) and len(model.hidden) == 6
    with pytest.raises(UserError, match="no option 'depht'; did you mean 'depth'"):
        create("rectangular", input_shape=(2,), output_size=1, depht=3)
    with pytest.raises(UserError, match="did you mean 'rectangular'"):
        create("rectangle", input_shape=(2,), output_size=1)
    with pytest.raises(UserError, match="output_size"):
        create("rectangular", input_shape=(2,), output_size=0)
    assert set(regx.models.__all__) <= set(dir(regx.models))


def test_biases_before_batch_normalisation_are_not_trained() -> None:
    for shape in ((5,), (1, 6, 6)):
        model = create("rectangular", input_shape=shape, output_size=2, depth=2, width=3, batchnorm=True)
        fixed = [name for name, p in model.named_parameters() if not p.requires_grad]
        assert fixed == ["hidden.layer0.bias", "hidden.layer1.bias"]
        x = torch.randn(8, *shape)
        before = model(x)
        with torch.no_grad():
            dict(model.named_parameters())["hidden.layer0.bias"].add_(3.0)
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4)
