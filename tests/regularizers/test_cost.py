"""Costs of layers, against PyTorch's own operator counter, and a dry run that leaves no mark."""

import random
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from regx.errors import UserError
from regx.regularizers import Jumpstart
from regx.regularizers.cost import LayerCost, count, trace


class Mixed(nn.Module):
    """Grouped, dilated, strided, transposed, 1-d and 3-d convolutions, a layer run twice and one never run."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, stride=2, groups=2, dilation=2)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2, bias=False)
        self.line = nn.Conv1d(6, 5, 2)
        self.volume = nn.Conv3d(1, 2, (1, 2, 2))
        self.twice = nn.Linear(7, 7)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.conv(x))
        x = self.line(x.mean(3))
        x = self.volume(x[:, None, None])
        x = x.flatten(1)[:, : 7 * (x.flatten(1).shape[1] // 7)].unflatten(1, (-1, 7))
        return self.twice(self.twice(x))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (torchvision.models.resnet18(), (2, 3, 64, 64)),
        (torchvision.models.mobilenet_v2(), (3, 3, 32, 32)),
        (torchvision.models.swin_t(), (2, 3, 64, 64)),  # its linear layers see windows, not samples, in dimension 0
        (Mixed(), (3, 4, 15, 15)),
    ],
    ids=["resnet18", "mobilenet_v2", "swin_t", "mixed"],
)
def test_macs_are_half_the_flops_of_pytorch(model: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    costs = count(model, x)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(x)
    by_module = counter.get_flop_counts()
    root = type(model).__name__
    for name, cost in costs.items():
        assert 2 * cost.macs * shape[0] == sum(by_module.get(f"{root}.{name}", {}).values()), name
        parameters = model.get_submodule(name).parameters()
        assert cost.parameters == sum(p.numel() for p in parameters)


def test_values_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2880, 10))
    assert count(model, torch.randn(7, 1, 28, 28)) == {
        "0": LayerCost(520, 20 * 25 * 24 * 24, 24 * 24),
        "3": LayerCost(28810, 28800, 1),
    }
    assert count(nn.Linear(3, 2), torch.randn(5, 4, 3)) == {"Linear": LayerCost(8, 24, 4)}


def test_layers_that_do_not_run_cost_nothing() -> None:
    assert count(Mixed(), torch.randn(1, 4, 15, 15))["unused"] == LayerCost(12, 0, 0)


def test_attention_is_not_counted() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    costs = count(layer, torch.randn(3, 5, 8))
    assert {name: cost.positions for name, cost in costs.items()} == {"linear1": 5, "linear2": 5}


def test_lazy_layers_are_refused() -> None:
    with pytest.raises(UserError, match="lazy"):
        count(nn.Sequential(nn.LazyLinear(3)), torch.randn(2, 4))


class Restless(nn.Module):
    """Draws random numbers and writes into buffers and inputs even in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.replaced = nn.Buffer(torch.zeros(2))
        self.fc = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.seen: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.training)
        self.calls += 1
        self.replaced = self.replaced + 1
        return self.norm(self.fc(x.add_(1))) + torch.rand(3)


@pytest.mark.parametrize("mode", ["eager", "inference", "autocast"])
def test_a_dry_run_leaves_no_mark(mode: str) -> None:
    model = Restless()
    model.norm.eval()
    regularizer = Jumpstart(nn.Sequential(nn.ReLU()))
    hooked = nn.Sequential(model, nn.ReLU(), nn.Linear(3, 2))
    regularizer = Jumpstart(hooked)
    hooked(torch.randn(4, 3))
    before = regularizer.loss.item()
    state = {name: value.clone() for name, value in hooked.state_dict().items()}
    flags = [module.training for module in hooked.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in hooked.modules()]
    x = torch.randn(4, 3)
    kept, rng, python = x.clone(), torch.get_rng_state(), random.getstate()
    context: Any = {
        "eager": torch.enable_grad(),
        "inference": torch.inference_mode(),
        "autocast": torch.autocast("cpu", torch.bfloat16),
    }[mode]
    with context:
        count(hooked, x)
    assert model.seen[-1] is False and len(model.seen) == 2  # it did run, in evaluation mode
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), rng) and random.getstate() == python
    assert all(torch.equal(value, state[name]) for name, value in hooked.state_dict().items())
    assert [module.training for module in hooked.modules()] == flags
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in hooked.modules()] == hooks
    assert regularizer.loss.item() == before
    assert len(regularizer.preactivations.layers) == 1


def test_a_dry_run_that_fails_leaves_no_mark_either() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(4, 2)).train()
    regularizer = Jumpstart(model)
    with pytest.raises(RuntimeError, match="shapes"):
        count(model, torch.randn(2, 3))
    assert all(module.training for module in model.modules())
    assert not model[0]._forward_hooks and torch.is_autocast_cache_enabled()
    model[2] = nn.Linear(3, 2)
    model(torch.randn(2, 3))
    assert regularizer.loss.item() > 0


def batch_norms(*modules: nn.Module, shape: tuple[int, ...] = (2, 3, 8, 8)) -> dict[str, str]:
    return trace(nn.Sequential(*modules), (torch.randn(shape),), {}).batch_norms


def test_batch_normalisation_behind_every_convolution_of_a_resnet() -> None:
    model = torchvision.models.resnet18()
    expected = {}  # torchvision's names, by its own convention
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            expected[name] = (
                name.replace("conv", "bn") if "conv" in name else name.replace("downsample.0", "downsample.1")
            )
    assert len(expected) == 20
    x = torch.randn(2, 3, 32, 32)
    assert trace(model, (x,), {}).batch_norms == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert trace(model, (x,), {}).batch_norms == expected
    with torch.inference_mode():
        assert trace(model, (x,), {}).batch_norms == expected


def test_only_direct_batch_normalisation_counts() -> None:
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    assert batch_norms(conv, norm) == {"0": "1"}
    assert batch_norms(conv, nn.ReLU(), norm) == {}
    assert batch_norms(conv, nn.ReLU(inplace=True), norm) == {}  # the same tensor, but no longer the same values
    assert batch_norms(conv, nn.Identity(), norm) == {"0": "2"}  # does nothing
    assert batch_norms(norm.__class__(3), conv) == {}
    assert batch_norms(conv, nn.InstanceNorm2d(4)) == {}
    assert batch_norms(nn.Linear(3, 4), nn.BatchNorm1d(4), shape=(2, 3)) == {"0": "1"}
    # (N, T, C) is normalised over T, which are not the units.
    assert batch_norms(nn.Linear(3, 4), nn.BatchNorm1d(4), shape=(2, 4, 3)) == {}
    # One layer run twice with one normalisation is unambiguous; one normalisation of two layers is not.
    assert batch_norms(nn.Linear(4, 4), shared := nn.BatchNorm1d(4), nn.Linear(4, 4), shared, shape=(2, 4)) == {}
    layer = nn.Linear(4, 4)
    assert batch_norms(layer, shared, layer, shared, shape=(2, 4)) == {"0": "1"}
    assert batch_norms(layer, shared, layer, nn.BatchNorm1d(4), shape=(2, 4)) == {}
    assert batch_norms(layer, shared, layer, shape=(2, 4)) == {}


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return self.norm(x) + x


class Tapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.fc(x)
        return self.norm(x), x


def test_a_layer_with_another_reader_does_not_count() -> None:
    assert trace(Skip(), (torch.randn(3, 4),), {}).batch_norms == {}
    assert trace(Tapped(), (torch.randn(3, 4),), {}).batch_norms == {}
