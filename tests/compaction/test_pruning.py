"""Zeros made after training: what goes is the smallest, and the cost that was asked for is what is left."""

import copy

import pytest
import torch
from torch import nn

from regx.compaction import observed, pruning
from regx.compaction.removal import compact, difference
from regx.errors import UserError
from regx.models import create
from regx.regularizers import cost
from tests.compaction.patterns import Everything, scatter
from tests.compaction.test_compact import built, outputs, size


def macs(model: nn.Module, x: torch.Tensor) -> int:
    return sum(layer.macs for layer in cost.count(model, x).values())


@pytest.mark.parametrize("name", ["resnet", "googlenet", "torchvision:mobilenet_v3_small", "torchvision:densenet121"])
def test_as_many_multiply_adds_are_left_as_asked_for(name: str) -> None:
    options = {"depth": 20} if name == "resnet" else {}
    model, x = built(name, (3, 64, 64), torch.float64, **options)
    before = macs(model, x)
    pruning.to_macs(model, 0.5, x)
    small = compact(model, x).model
    assert 0.47 * before < macs(small, x) <= 0.5 * before
    assert difference(outputs(model, x), outputs(small, x)) <= 1e-12


def test_the_smallest_channels_go_first() -> None:
    """Of a chain of layers: what goes are the units with the least squares of their weights, in and out."""
    torch.manual_seed(0)
    first, last = nn.Linear(3, 40, bias=False).double(), nn.Linear(40, 2).double()
    model = nn.Sequential(first, nn.ReLU(), last)
    x = torch.randn(4, 3).double()
    magnitude = first.weight.square().sum(1) + last.weight.square().sum(0)
    count = pruning.to_macs(model, 0.5, x)
    assert count == 20
    gone = first.weight.abs().sum(1) == 0
    assert set(gone.nonzero().flatten().tolist()) == set(magnitude.argsort()[:20].tolist())
    assert macs(compact(model, x).model, x) == 20 * 5


def test_whole_channels_go_and_nothing_else() -> None:
    model, x = built("lenet5", (3, 32, 32), torch.float64)
    before = copy.deepcopy(model)
    pruning.to_macs(model, 0.5, x)
    (conv1, conv2, hidden), after = [list(cost.layers(of).values())[:3] for of in (before, model)]
    gone = [layer.weight.flatten(1).abs().sum(1) == 0 for layer in after]
    assert all(0 < int(of.sum()) < len(of) for of in gone)
    positions = hidden.weight.shape[1] // len(conv2.weight)
    with torch.no_grad():
        for layer, of in zip((conv1, conv2, hidden), gone, strict=True):
            layer.weight[of] = 0
        conv2.weight[:, gone[0]] = 0
        hidden.weight[:, gone[1].repeat_interleave(positions)] = 0
        list(cost.layers(before).values())[3].weight[:, gone[2]] = 0
    for one, other in zip(cost.layers(before).values(), cost.layers(model).values(), strict=True):
        assert torch.equal(one.weight, other.weight)


def test_a_tenth_of_every_layer_stays() -> None:
    model, x = built("lenet5", (1, 28, 28), torch.float64)
    with pytest.raises(UserError, match=r"0\.001 is out of reach"):
        pruning.to_macs(model, 0.001, x)


def test_threshold() -> None:
    torch.manual_seed(0)
    conv, norm, last = nn.Conv2d(3, 6, 3).double(), nn.BatchNorm2d(6).double(), nn.Linear(6 * 16, 4).double()
    model = scatter(nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), last), 0)
    norms = conv.weight.detach().flatten(1).norm(dim=1)
    limit = float(norms.sort().values[2])
    norm.weight.data[5] = -limit / 2
    kept = conv.weight[norms > limit].clone()
    rows = int((last.weight.norm(dim=1) <= limit).sum())
    scales = int((norm.weight.abs() <= limit).sum())
    assert pruning.by_threshold(model, limit) == 3 + scales + rows
    assert torch.equal(conv.weight[norms > limit], kept)
    assert conv.bias is not None
    assert not conv.weight[norms <= limit].any() and not conv.bias[norms <= limit].any()
    assert norm.weight[5] == 0


def test_units_that_are_dead_on_the_data() -> None:
    """What never fires on the data goes; on the data nothing changes, elsewhere it may."""
    torch.manual_seed(0)
    model = create("rectangular", input_shape=(2,), output_size=3, depth=3, width=30, batchnorm=True).double().eval()
    scatter(model, 2)
    data = torch.rand(200, 2).double()
    batches = [data[:120], data[120:]]
    active: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda m, a, y, name=name: active.__setitem__(name, (y > 0).any(0)))  # type: ignore[misc]
        for name, module in model.named_modules()
        if isinstance(module, nn.ReLU)
    ]
    before = outputs(model, data)
    for handle in handles:
        handle.remove()
    masked = copy.deepcopy(model)
    dead = observed.zero_dead(masked, batches)
    wanted = sum(int((~fired).sum()) for fired in active.values())
    assert dead == wanted > 5
    assert torch.equal(outputs(masked, data), before)
    small = compact(masked, data).model
    assert difference(before, outputs(small, data)) <= 1e-12
    widths = [m.out_features for m in small.modules() if isinstance(m, nn.Linear)][:-1]
    assert widths == [int(fired.sum()) for fired in active.values()]
    assert difference(outputs(model, -30 * data), outputs(small, -30 * data)) > 1e-6


def test_ranges_are_those_of_all_batches() -> None:
    model, x = scatter(Everything().double(), 1), Everything.sample()
    whole, parts = observed.ranges(model, [x]), observed.ranges(model, [x[:2], x[2:]])
    assert len(whole) == len(parts) == 4
    for first, second in zip(whole, parts, strict=True):
        torch.testing.assert_close(first.low, second.low)
        torch.testing.assert_close(first.high, second.high)
    assert size(model) == size(scatter(Everything(), 1))
