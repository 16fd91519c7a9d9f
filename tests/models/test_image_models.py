"""GoogLeNet, LeNet-5, MLP and wide ResNets: parameters, outputs, what gates select, errors."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regx.errors import UserError
from regx.models import MLP, REGISTRY, GoogLeNet, LeNet5, WideResNet, create
from regx.regularizers import create as create_regularizer

CIFAR, MNIST = (3, 32, 32), (1, 28, 28)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(name: str, shape: tuple[int, ...], classes: int, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return create(name, input_shape=shape, output_size=classes, **options)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("googlenet", CIFAR, 260_650),  # bobondemon/l0_regularization_practice
        ("lenet5", MNIST, 431_080),
        ("mlp", MNIST, 266_610),
        ("wide_resnet", CIFAR, 36_479_194),  # 36.5 M in table 4 of the paper
    ],
)
def test_published_sizes(name: str, shape: tuple[int, ...], expected: int) -> None:
    assert parameters(on_meta(name, shape, 10)) == expected


def recorded(modules: dict[str, nn.Module]) -> list[str]:
    """The names of the modules that are called, once for each call, as it grows."""
    calls: list[str] = []
    for name, module in modules.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    return calls


@pytest.mark.parametrize("name", ["googlenet", "lenet5", "mlp", "wide_resnet"])
def test_activations_are_called_once_and_gradients_arrive(name: str) -> None:
    torch.manual_seed(0)
    for activation in ("relu", "gelu"):
        options: dict[str, Any] = {"depth": 10, "width": 1} if name == "wide_resnet" else {}
        model = create(name, input_shape=(2, 16, 17), output_size=3, activation=activation, **options)
        kind = {"relu": nn.ReLU, "gelu": nn.GELU}[activation]
        found = {key: module for key, module in model.named_modules() if "activation" in key.rpartition(".")[2]}
        assert found and all(type(module) is kind for module in found.values())
        calls = recorded(found)
        x = torch.randn(4, 2, 16, 17)
        given = x.clone()
        out = model(x)
        assert out.shape == (4, 3) and sorted(calls) == sorted(found) and torch.equal(x, given)
        out.square().sum().backward()
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and parameter.grad.count_nonzero() > 0, key


def test_gates_on_the_branches_of_googlenet() -> None:
    model = create("googlenet", input_shape=(3, 8, 8), output_size=10)
    gates = create_regularizer("l0(include=blocks.*.output.conv)=0.5", model)
    coverage = gates.coverage()
    assert len(coverage.layers) == 32 and sum(coverage.groups) == 832
    reductions = [name for name, _ in model.named_modules() if name.endswith(".reduce.conv")]
    assert len(reductions) == 16 and not set(reductions) & set(coverage.layers)
    model(torch.randn(2, 3, 8, 8))
    assert gates.loss.item() == pytest.approx(0.8318, abs=2e-3), "the mean probability that a gate is open"


def slow_googlenet(model: GoogLeNet, x: Tensor) -> Tensor:
    """Evaluation mode, with functions and the names of the tensors; branches by the sizes of their kernels."""
    state = model.state_dict()

    def unit(name: str, x: Tensor) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        x = F.conv2d(x, weight, state[f"{name}.conv.bias"], padding=weight.shape[-1] // 2)
        norm = [state[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *norm).tanh()

    x = unit("stem", x)
    for i in range(8):
        if i in (2, 6):
            x = F.max_pool2d(x, 3, 2, 1)
        block = f"blocks.{i}"
        branches = [unit(f"{block}.branch1x1.output", x)]
        for side in (3, 5):
            branch = f"{block}.branch{side}x{side}"
            assert state[f"{branch}.output.conv.weight"].shape[2:] == (side, side)
            branches.append(unit(f"{branch}.output", unit(f"{branch}.reduce", x)))
        branches.append(unit(f"{block}.branch_pool.output", F.max_pool2d(x, 3, 1, 1)))
        x = torch.cat(branches, 1)
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def test_googlenet_by_the_slow_way() -> None:
    torch.manual_seed(0)
    model = GoogLeNet((3, 16, 16), 4, activation="tanh").double()
    model(torch.randn(6, 3, 16, 16, dtype=torch.float64))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(model.eval()(x), slow_googlenet(model, x))
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert fixed == {name for name, _ in model.named_parameters() if name.endswith("conv.bias")}


@pytest.mark.parametrize("init", REGISTRY["googlenet"].parameter("init").choices or ())
def test_initial_weights_of_googlenet(init: Any) -> None:
    torch.manual_seed(0)
    model = GoogLeNet(CIFAR, 10, init=init)
    weight = model.get_submodule("blocks.7.branch3x3.output.conv").weight
    assert isinstance(weight, Tensor)
    inputs = weight[0].numel()
    if init == "orthogonal":
        rows = weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(64), atol=1e-4, rtol=0)
    else:
        std = {"kaiming": (2 / inputs) ** 0.5, "pytorch": (1 / (3 * inputs)) ** 0.5}[init]
        assert weight.std().item() == pytest.approx(std, rel=0.02)


def test_lenet_by_the_slow_way() -> None:
    torch.manual_seed(0)
    model = LeNet5((2, 19, 23), 4, channels="3, 7", activation="silu").double()
    weights = list(model.parameters())
    x = torch.randn(5, 2, 19, 23, dtype=torch.float64)
    out = F.max_pool2d(F.silu(F.conv2d(x, weights[0], weights[1])), 2)
    out = F.max_pool2d(F.silu(F.conv2d(out, weights[2], weights[3])), 2).flatten(1)
    out = F.silu(out @ weights[4].T + weights[5]) @ weights[6].T + weights[7]
    torch.testing.assert_close(model(x), out)
    assert weights[2].shape == (7, 3, 5, 5)
    assert LeNet5((1, 16, 16), 3)(torch.randn(2, 1, 16, 16)).shape == (2, 3)


def test_mlp_by_the_slow_way() -> None:
    torch.manual_seed(0)
    model = MLP((2, 5), 4, hidden="8,3,6", activation="elu").double()
    assert [tuple(p.shape) for p in model.parameters() if p.dim() > 1] == [(8, 10), (3, 8), (6, 3), (4, 6)]
    x = torch.randn(7, 2, 5, dtype=torch.float64)
    weights = list(model.parameters())
    out = x.flatten(1)
    for i in (0, 2, 4):
        out = F.elu(out @ weights[i].T + weights[i + 1])
    torch.testing.assert_close(model(x), out @ weights[6].T + weights[7])


def test_parameters_of_wide_resnets() -> None:
    for depth, width, classes in itertools.product((10, 16, 40), (1, 2, 4), (10, 100)):
        n = (depth - 4) // 6
        expected, inputs = 9 * 3 * 16, 16
        for outputs in (16 * width, 32 * width, 64 * width):
            expected += 9 * inputs * outputs + 9 * outputs**2 + 2 * inputs + 2 * outputs
            expected += inputs * outputs * (inputs != outputs)
            expected += (n - 1) * (18 * outputs**2 + 4 * outputs)
            inputs = outputs
        expected += 2 * inputs + (inputs + 1) * classes
        assert parameters(on_meta("wide_resnet", CIFAR, classes, depth=depth, width=width)) == expected


def slow_wide_resnet(model: WideResNet, x: Tensor) -> Tensor:
    """Depth 16 in evaluation mode, with functions and the names of the tensors."""
    state = model.state_dict()

    def start(name: str, x: Tensor) -> Tensor:
        norm = [state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *norm).relu()

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = conv("conv1", x)
    for k, i in itertools.product((1, 2, 3), (0, 1)):
        block = f"group{k}.{i}"
        stride = 2 if k > 1 and i == 0 else 1
        first = start(f"{block}.bn1", x)
        out = conv(f"{block}.conv2", start(f"{block}.bn2", conv(f"{block}.conv1", first, stride)))
        x = out + (conv(f"{block}.shortcut", first, stride) if f"{block}.shortcut.weight" in state else x)
    return start("bn", x).mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize("width", [1, 2])
def test_wide_resnet_by_the_slow_way(width: int) -> None:
    torch.manual_seed(0)
    model = WideResNet((1, 9, 12), 3, depth=16, width=width).double()
    model(torch.randn(6, 1, 9, 12, dtype=torch.float64))
    x = torch.randn(2, 1, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(model.eval()(x), slow_wide_resnet(model, x))


def test_dropout() -> None:
    model = GoogLeNet((3, 8, 8), 4, dropout=1.0)
    assert torch.equal(model(torch.randn(2, 3, 8, 8)), model.fc.bias.expand(2, 4))
    wide = WideResNet((3, 8, 8), 4, depth=10, width=1, dropout=0.3)
    places = [name for name, module in wide.named_modules() if isinstance(module, nn.Dropout)]
    assert places == ["group1.0.dropout", "group2.0.dropout", "group3.0.dropout"]
    x = torch.randn(2, 3, 8, 8)
    assert not torch.equal(wide(x), wide(x)) and torch.equal(wide.eval()(x), wide(x))
    for module in wide.modules():
        if isinstance(module, nn.Dropout):
            module.p = 1.0
    blocks = [module for name, module in wide.train().named_modules() if name.endswith(".0")]
    for block in blocks:
        block.conv2.register_forward_hook(lambda *args: calls.append(args[2]))  # type: ignore[union-attr]
    calls: list[Tensor] = []
    wide(x)
    assert len(calls) == 3 and not any(call.any() for call in calls), "nothing gets past the second convolution"


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("googlenet", (3,), {}, r"input_shape: \(3,\) is not \(channels, height, width\)"),
        ("googlenet", CIFAR, {"init": "he"}, "init: 'he'"),
        ("googlenet", CIFAR, {"dropout": -1}, "dropout: -1"),
        ("lenet5", (1, 15, 28), {}, "images of 15 x 28 pixels are too small; use at least 16 x 16"),
        ("lenet5", MNIST, {"channels": "20"}, "channels: '20' is not 2 whole numbers above 0 joined by commas"),
        ("lenet5", MNIST, {"channels": "20,0"}, "channels: '20,0'"),
        ("mlp", MNIST, {"hidden": ""}, "hidden: '' is not whole numbers above 0 joined by commas, like 300,100"),
        ("mlp", MNIST, {"hidden": "3,x"}, "hidden: '3,x'"),
        ("mlp", MNIST, {"activation": "rely"}, "did you mean 'relu'"),
        ("wide_resnet", CIFAR, {"depth": 27}, r"depth: 27 is not 6n \+ 4, .* did you mean 28\?"),
        ("wide_resnet", CIFAR, {"depth": 4}, "depth: 4 is out of bounds"),
        ("wide_resnet", (10,), {}, "input_shape"),
    ],
)
def test_illegal_options(name: str, shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        on_meta(name, shape, 10, **options)


@pytest.mark.parametrize("name", REGISTRY.rows)
def test_no_model_has_zero_outputs(name: str) -> None:
    with pytest.raises(UserError, match="output_size: 0 is out of bounds"):
        create(name, input_shape=(3, 16, 16), output_size=0)
