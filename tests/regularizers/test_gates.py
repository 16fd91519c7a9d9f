"""L0 gates, against the values of the paper's formulas, finite differences and slow obvious versions."""

import copy
import io
import itertools
import math
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from regx.errors import UserError
from regx.models import Rectangular
from regx.regularizers import REGISTRY, create
from regx.regularizers.base import Coverage
from regx.regularizers.gates import L0

THRESHOLD = math.log(11)  # 2.39790: sigmoid(-THRESHOLD) = 1/12


@pytest.fixture(scope="module")
def benchmark(from_benchmarks: Callable[[str], ModuleType]) -> ModuleType:
    return from_benchmarks("gates_step")


def mlp(*sizes: int) -> Any:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolutional(affine: bool = True) -> Any:
    """Every kind of layer and of place for a gate."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3),
        nn.BatchNorm2d(6, affine=affine),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.ConvTranspose2d(4, 6, 2, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, groups=2, bias=False),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(4 * 36, 5),
        nn.BatchNorm1d(5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.5
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model


def set_alpha(regularizer: L0, values: Any) -> None:
    with torch.no_grad():
        regularizer.log_alpha.copy_(torch.as_tensor(values, dtype=torch.float64))


def scatter(regularizer: L0, spread: float = 3.0) -> None:
    """Gates of all sorts: closed, open and between."""
    random = torch.Generator().manual_seed(1)
    set_alpha(regularizer, torch.randn(len(regularizer.log_alpha), generator=random) * spread)
    gates = torch.cat(list(regularizer.gates().values()))
    assert spread < 3 or ((gates == 0).any() and (gates == 1).any())


# droprate_init, log_alpha, P(z != 0), gate in evaluation, mean, P(z = 0) and P(z = 1) in training
ORACLES = [
    (0.5, 0.0, 0.83182, 0.5, 0.5001, 0.1682, 0.1679),
    (0.3, 0.84730, 0.92026, 0.74, 0.6781, 0.0796, 0.3209),
    (0.2, 1.38629, 0.95189, 0.86, 0.7735, 0.0484, 0.4474),
    (0.05, 2.94444, 0.98947, 1.0, 0.9365, 0.0105, 0.7931),
]


@pytest.mark.parametrize(("droprate", "log_alpha", "probability", "mode", "mean", "zeros", "ones"), ORACLES)
def test_values(
    droprate: float, log_alpha: float, probability: float, mode: float, mean: float, zeros: float, ones: float
) -> None:
    n = 200_000
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Conv1d(1, n, 1), nn.Flatten(), nn.Linear(n, 1, bias=False))
    nn.init.zeros_(model[0].weight)
    nn.init.ones_(model[0].bias)
    regularizer = L0(model, droprate_init=droprate)
    # The initial values: N(log((1 - d) / d), 0.01^2).
    assert regularizer.log_alpha.mean().item() == pytest.approx(log_alpha, abs=2e-4)
    assert regularizer.log_alpha.std().item() == pytest.approx(0.01, rel=0.02)
    set_alpha(regularizer, torch.full((n,), math.log((1 - droprate) / droprate)))
    assert regularizer.loss.item() == pytest.approx(probability, abs=1e-5)
    assert regularizer.gates()["0"].unique().tolist() == pytest.approx([mode], abs=1e-6)
    seen = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(output[0].detach()))
    model(torch.zeros(1, 1, 1))
    # 200,000 samples: the standard error is below 0.5 * n^-0.5 = 0.0011 for each; both figures are such estimates.
    z = seen[0] if len(seen) == 1 else seen[-1]
    assert z.mean().item() == pytest.approx(mean, abs=0.004)
    assert (z == 0).float().mean().item() == pytest.approx(zeros, abs=0.004)
    assert (z == 1).float().mean().item() == pytest.approx(ones, abs=0.004)
    assert (z != 0).float().mean().item() == pytest.approx(probability, abs=0.004)


def test_thresholds_of_the_deterministic_gate() -> None:
    regularizer = L0(mlp(2, 5, 2).double())
    set_alpha(regularizer, [-THRESHOLD - 1e-9, -THRESHOLD + 1e-9, 0, THRESHOLD - 1e-9, THRESHOLD + 1e-9])
    gates = regularizer.gates()["0"].tolist()
    assert gates[0] == 0 and 0 < gates[1] < 1e-8
    assert gates[2] == pytest.approx(0.5, abs=1e-12)
    assert 1 - 1e-8 < gates[3] < 1 and gates[4] == 1
    assert regularizer.zero_share().item() == pytest.approx(1 / 5)
    assert regularizer.open_probability()[0].item() == pytest.approx(0.3102, abs=1e-4)


@pytest.mark.parametrize("noise", ["batch", "sample"])
def test_gradient_by_finite_differences(noise: Any) -> None:
    torch.manual_seed(1)
    model = mlp(3, 6, 4, 2).double()
    regularizer = L0(model, noise=noise, cost="parameters", l2=0.3)
    x = torch.randn(5, 3, dtype=torch.float64)
    model(x)
    scatter(regularizer, 1.0)
    state = regularizer.state_dict()["rng"]

    def total(log_alpha: Tensor) -> Tensor:
        set_alpha(regularizer, log_alpha)
        regularizer._random.load_state_dict(state)  # the same noise every time
        return model(x).square().sum() + 0.7 * regularizer.loss

    start = regularizer.log_alpha.detach().clone()
    total(start).backward()
    grad = regularizer.log_alpha.grad
    assert grad is not None and (grad != 0).all()
    for i in range(len(start)):
        step = torch.zeros_like(start)
        step[i] = 1e-6
        with torch.no_grad():
            slope = (total(start + step) - total(start - step)) / 2e-6
        assert grad[i].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-8)


def test_every_sample_or_the_whole_batch_has_its_gates() -> None:
    model: Any = nn.Sequential(nn.Conv2d(1, 50, 1), nn.Flatten(2), nn.Linear(4, 3), nn.Linear(3, 1))
    nn.init.zeros_(model[0].weight)
    nn.init.ones_(model[0].bias)
    seen: list[Tensor] = []
    model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    x = torch.randn(8, 1, 2, 2)
    regularizer = L0(model)
    model(x)
    z = seen[-1]
    assert torch.equal(z, z[:1, :, :1, :1].expand_as(z)) and len(z[0, :, 0, 0].unique()) > 10
    regularizer.detach()
    regularizer = L0(model, noise="sample")
    model(x)
    z = seen[-1]
    assert torch.equal(z, z[:, :, :1, :1].expand_as(z)) and len(z.unique()) > 100
    model.eval()
    model(x)
    assert torch.equal(seen[-1], regularizer.gates()["0"].view(1, -1, 1, 1).expand_as(z))


def test_units_of_a_transformer_are_in_the_last_dimension() -> None:
    model = mlp(4, 6, 2)
    regularizer = L0(model, noise="sample")
    nn.init.zeros_(model[0].weight)
    nn.init.ones_(model[0].bias)
    seen: list[Tensor] = []
    model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    model(torch.randn(3, 7, 4))
    z = seen[-1]
    assert z.shape == (3, 7, 6)
    assert torch.equal(z, z[:, :1].expand_as(z)) and not torch.equal(z[0], z[1])
    assert regularizer.log_alpha.shape == (6,)


def test_samples_that_are_mixed_into_rows_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(0, 1), nn.Linear(4, 6), nn.Linear(6, 2))
    regularizer = L0(model, noise="sample")
    with pytest.raises(UserError, match="noise='batch'"):
        model(torch.randn(3, 7, 4))
    regularizer.detach()
    with L0(model):
        assert model(torch.randn(3, 7, 4)).shape == (21, 2)


def test_a_layer_that_runs_twice_has_one_gate() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(20, 20)
            self.out = nn.Linear(20, 2)
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen = [self.fc(x), self.fc(x)]
            return self.out(self.seen[0] + self.seen[1])

    model = Twice()
    L0(model)
    model(torch.randn(3, 20))
    assert torch.equal(*model.seen)
    assert (model.seen[0] == 0).all(0).any()
    first = model.seen[0]
    model(torch.randn(3, 20))
    assert not torch.equal((first == 0).all(0), (model.seen[0] == 0).all(0))


COSTS = {
    "gates": [1, 1, 1, 1],
    # Weights, bias, and weight and bias of batch normalisation where it follows directly.
    "parameters": [9 + 1 + 2, 6 * 9 + 1, 2 * 4 + 1, 3 * 4 + 2, 144 + 1 + 2],
    "macs": [9 * 36, 54 * 16, 8 * 16, 12 * 25, 144],
}


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("normalize", [True, False])
def test_penalty_by_hand(cost: Any, normalize: bool) -> None:
    torch.manual_seed(0)
    model = convolutional()
    regularizer = L0(model, cost=cost, normalize=normalize)
    model(torch.randn(2, 3, 8, 8))
    scatter(regularizer)
    each = COSTS[cost] if cost != "gates" else [1] * 5
    total = full = 0.0
    alphas = regularizer.log_alpha.tolist()
    for units, value in zip((6, 4, 6, 4, 5), each, strict=True):
        for _ in range(units):
            total += value / (1 + math.exp(-(alphas.pop(0) + 2 / 3 * math.log(11))))
            full += value
    assert not alphas
    assert regularizer.loss.item() == pytest.approx(total / full if normalize else total, rel=1e-5)


def obvious_l2(regularizer: L0) -> float:
    """One weight at a time; which channel a weight belongs to is found by asking autograd."""
    probabilities = regularizer.open_probability().tolist()
    total, first = 0.0, 0
    for layer in regularizer.layers.values():
        dims = 0 if isinstance(layer, nn.Linear) else layer.weight.dim() - 2
        inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        output = F.linear if isinstance(layer, nn.Linear) else None
        x = torch.ones(1, inputs, *[3] * dims)
        y = output(x, layer.weight) if output else layer(x)
        units = y.shape[1]
        for c in range(units):
            (touched,) = torch.autograd.grad(y[:, c].sum(), layer.weight, retain_graph=True)
            total += probabilities[first + c] * 0.5 * sum(w * w for w in layer.weight[touched != 0].tolist())
            if layer.bias is not None:
                total += 0.5 * layer.bias[c].item() ** 2
        first += units
    return total


def test_squared_weights_are_weighted_by_the_open_probability() -> None:
    torch.manual_seed(0)
    regularizer = L0(convolutional(), l2=0.01)
    scatter(regularizer, 1.0)
    loss = regularizer.loss.item()
    gates = regularizer.open_probability().mean().item()
    regularizer.detach()  # the obvious version runs the layers by themselves
    assert loss == pytest.approx(gates + 0.01 * obvious_l2(regularizer), rel=1e-5)


@pytest.mark.parametrize("cost", COSTS)
def test_added_gradients_are_those_of_the_loss(cost: Any) -> None:
    torch.manual_seed(0)
    model = convolutional()
    regularizer = L0(model, cost=cost, l2=0.2)
    regularizer.strength = 0.3
    model(torch.randn(2, 3, 8, 8))
    scatter(regularizer, 1.0)
    parameters = [*model.parameters(), regularizer.log_alpha]
    for parameter in parameters[::2]:
        parameter.grad = torch.ones_like(parameter)
    expected = torch.autograd.grad(0.3 * regularizer.loss, parameters, allow_unused=True)
    before = [0 if parameter.grad is None else parameter.grad.clone() for parameter in parameters]
    regularizer.add_gradients()
    reached = 0
    for parameter, old, new in zip(parameters, before, expected, strict=True):
        if new is None:
            assert parameter.grad is None or torch.equal(parameter.grad, torch.ones_like(parameter))
        else:
            reached += 1
            torch.testing.assert_close(parameter.grad, old + new)
    assert reached == 5 + 4 + 1


def test_costs_need_a_forward_pass() -> None:
    model = convolutional()
    for cost in ("macs", "parameters"):
        with L0(model, cost=cost) as regularizer, pytest.raises(UserError, match="call the model once"):
            _ = regularizer.loss
    with L0(model) as regularizer:
        assert regularizer.loss.item() == pytest.approx(0.83182, abs=2e-3)
        with pytest.raises(UserError, match="call the model once"):
            regularizer.fold()


def test_gates_stand_after_batch_normalisation() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    regularizer = L0(model)
    outputs: dict[str, Tensor] = {}
    x = torch.randn(2, 3, 32, 32)
    model(x)
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, args, output, name=name: outputs.update({name: output.clone()}))
    assert len(regularizer.layers) == 20
    scatter(regularizer)
    model.eval()(x)
    for name, gate in regularizer.gates().items():
        norm = name.replace("conv", "bn") if "conv" in name else name.replace("downsample.0", "downsample.1")
        closed = (outputs[norm] == 0).flatten(2).all(2).all(0)
        assert torch.equal(closed, gate == 0), name
        assert not (outputs[name] == 0).flatten(2).all(2).all(0).any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_gate_multiplies_where_it_stands(place: int, training: bool) -> None:
    """Without, right behind, and behind an activation before batch normalisation."""
    torch.manual_seed(0)
    between = [[nn.ReLU()], [nn.BatchNorm2d(40)], [nn.ReLU(), nn.BatchNorm2d(40)]][place]
    model = nn.Sequential(nn.Conv2d(3, 40, 3), *between, nn.Flatten(), nn.Linear(40 * 4, 2))
    regularizer = L0(model)
    x = torch.randn(6, 3, 4, 4)
    outputs: list[Any] = []
    at = 1 if place == 1 else 0
    model(x)
    plain = copy.deepcopy(model)  # its hooks do nothing
    model[at].register_forward_hook(lambda module, args, output: outputs.append(output))
    model.train(training)(x)
    expected = plain[: at + 1].train(training)(x)
    ratio = (outputs[0] / expected).detach()
    gate = ratio[0, :, 0, 0]
    torch.testing.assert_close(ratio, gate.view(1, -1, 1, 1).expand_as(ratio))
    assert gate.min() >= 0 and gate.max() <= 1.0001 and len(gate.unique()) > 10
    if not training:
        torch.testing.assert_close(gate, regularizer.gates()["0"])


def train(model: nn.Module, regularizer: L0 | None, steps: int = 4, optimizer: Any = None) -> list[Tensor]:
    """Losses; dropout and shuffled data use the global random state."""
    parameters = list(model.parameters()) if optimizer is None else []
    if regularizer is not None and optimizer is None:
        parameters += list(regularizer.parameters())
    optimizer = torch.optim.Adam(parameters, 0.05) if optimizer is None else optimizer
    losses = []
    for _ in range(steps):
        loss = F.dropout(model(torch.randn(6, 3, 8, 8)), 0.3).square().sum()
        if regularizer is not None:
            loss = loss + regularizer.strength * regularizer.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if regularizer is not None:
            regularizer.step(optimizer)
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize("cost", ["gates", "macs"])
def test_strength_zero_is_bit_identical(cost: Any) -> None:
    torch.manual_seed(0)
    plain = convolutional()
    gated = copy.deepcopy(plain)
    torch.manual_seed(3)
    expected = train(plain, None)
    end = torch.get_rng_state()
    torch.manual_seed(3)
    regularizer = L0(gated, cost=cost)
    regularizer.strength = 0.0
    model_losses = []
    optimizer = torch.optim.Adam([*gated.parameters(), *regularizer.parameters()], 0.05)
    before = regularizer.state_dict()
    for _ in range(4):
        loss = F.dropout(gated(torch.randn(6, 3, 8, 8)), 0.3).square().sum()
        model_losses.append(loss.detach())
        loss = loss + regularizer.strength * regularizer.loss
        optimizer.zero_grad()
        loss.backward()
        regularizer.add_gradients()
        optimizer.step()
        regularizer.step(optimizer)
    assert [a.item() for a in model_losses] == [b.item() for b in expected]
    assert torch.equal(torch.get_rng_state(), end)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), gated.state_dict().values(), strict=True))
    after = regularizer.state_dict()
    assert torch.equal(before["log_alpha"], after["log_alpha"])
    assert torch.equal(before["rng"]["cpu"], after["rng"]["cpu"])
    assert not regularizer.awake and regularizer.zero_share() == 0
    assert all((gate == 1).all() for gate in regularizer.gates().values())


def test_gates_stay_awake() -> None:
    model = mlp(3, 30, 2)
    x = torch.randn(4, 3)
    plain = model(x)
    regularizer = L0(model)
    regularizer.strength = 0.0
    assert torch.equal(model(x), plain)
    regularizer.strength = 0.1
    assert not torch.equal(model(x), plain)
    regularizer.strength = 0.0
    assert not torch.equal(model(x), plain) and regularizer.awake
    other = L0(twin := mlp(3, 30, 2))
    other.strength = 0.0
    other.load_state_dict(regularizer.state_dict())
    twin.load_state_dict(model.state_dict())
    assert other.awake and torch.equal(twin(x), model(x)) and not torch.equal(twin(x), plain)


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    model = mlp(3, 30, 2)
    state = torch.get_rng_state()
    regularizer = L0(model, noise="sample")
    x = torch.zeros(4, 3)
    first, second = model(x), model(x)
    regularizer.reset(0.2)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, second)
    torch.manual_seed(5)  # the seed decides what the gates draw
    again = mlp(3, 30, 2)
    L0(again, noise="sample")
    assert torch.equal(again(x), first)
    torch.manual_seed(6)
    L0(other := copy.deepcopy(model), noise="sample")
    assert not torch.equal(other(x), first)


def test_two_sets_of_gates_draw_differently() -> None:
    model = mlp(3, 30, 30, 2)
    first, second = L0(model, include="0"), L0(model, include="2")
    assert not torch.equal(first.log_alpha, second.log_alpha)
    model(torch.randn(4, 3))
    assert first._sample is not None and second._sample is not None
    assert torch.corrcoef(torch.stack([first._sample, second._sample]).detach())[0, 1].abs() < 0.7


@pytest.mark.parametrize("noise", ["batch", "sample"])
def test_resumed_run_is_bit_identical(noise: Any) -> None:
    torch.manual_seed(0)
    model = convolutional()
    regularizer = L0(model, noise=noise, cost="macs", l2=0.001)
    optimizer = torch.optim.Adam([*model.parameters(), *regularizer.parameters()], 0.05)
    train(model, regularizer, 3, optimizer)
    file = io.BytesIO()
    torch.save([model.state_dict(), regularizer.state_dict(), optimizer.state_dict(), torch.get_rng_state()], file)
    expected = train(model, regularizer, 3, optimizer)

    torch.manual_seed(77)
    resumed = convolutional()
    other = L0(resumed, noise=noise, cost="macs", l2=0.001)
    twin = torch.optim.Adam([*resumed.parameters(), *other.parameters()], 0.05)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    resumed.load_state_dict(states[0])
    other.load_state_dict(states[1])
    twin.load_state_dict(states[2])
    other.loss.item()  # where the gates stand is part of the state: no forward pass needed
    torch.set_rng_state(states[3])
    assert train(resumed, other, 3, twin) == expected
    assert torch.equal(other.log_alpha, regularizer.log_alpha)
    assert torch.equal(other.state_dict()["rng"]["cpu"], regularizer.state_dict()["rng"]["cpu"])


def test_a_state_of_something_else_is_refused() -> None:
    regularizer = L0(mlp(3, 5, 2))
    with pytest.raises(UserError, match=r"6 gates on 1 layers, not 5 on 1"):
        regularizer.load_state_dict(L0(mlp(3, 6, 2)).state_dict())
    with pytest.raises(UserError, match="not the state of l0"):
        regularizer.load_state_dict({"masks": 1})
    with pytest.raises(UserError, match="empty"):
        regularizer.load_state_dict({})


def test_folding_changes_nothing_but_the_weights() -> None:
    torch.manual_seed(0)
    model = convolutional().double()
    regularizer = L0(model)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    model(x)
    scatter(regularizer)
    gates = regularizer.gates()
    before = model.eval()(x)
    share = regularizer.zero_share()
    kept = copy.deepcopy(model)
    regularizer.fold()
    assert regularizer.folded and regularizer.zero_share() == share > 0
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)
    model.train()(x)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    regularizer.fold()  # once is enough
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    # Behind batch normalisation the gate is in its weight and bias, else in those of the layer.
    for name, norm in (("0", 1), ("8", 9), ("11", 12)):
        torch.testing.assert_close(model[norm].weight, kept[norm].weight * gates[name])
        torch.testing.assert_close(model[norm].bias, kept[norm].bias * gates[name])
    torch.testing.assert_close(model[3].weight, kept[3].weight * gates["3"].view(-1, 1, 1, 1))
    torch.testing.assert_close(model[6].bias, kept[6].bias * gates["6"])
    # A transposed convolution (in, out / groups, k, k) with 2 groups: outputs 0-2 from inputs 0-1, 3-5 from 2-3.
    for c in range(6):
        rows = slice(0, 2) if c < 3 else slice(2, 4)
        torch.testing.assert_close(model[6].weight[rows, c % 3], kept[6].weight[rows, c % 3] * gates["6"][c])
    for name, gate in gates.items():
        layer = model[int(name)]
        for c in (gate == 0).nonzero().flatten().tolist():
            if isinstance(layer, nn.ConvTranspose2d):
                of_group = len(gate) // 2
                rows = layer.weight.chunk(2)[c // of_group][:, c % of_group]
            else:
                rows = layer.weight[c]
            assert bool((rows == 0).all())
            assert layer.bias is None or layer.bias[c] == 0


def test_folding_a_resnet() -> None:
    torch.manual_seed(0)
    model: Any = torchvision.models.resnet18()
    x = torch.randn(2, 3, 32, 32)
    with L0(model) as regularizer:
        model(x)
        scatter(regularizer)
        before = model.eval()(x)
        regularizer.fold()
        folded = model(x)
    assert torch.equal(model(x), folded)  # the plain model
    torch.testing.assert_close(folded, before, rtol=1e-6, atol=1e-6)
    assert (model.bn1.weight == 0).any() and before.abs().max() > 1e-3


def test_folded_gates_stay_folded() -> None:
    torch.manual_seed(0)
    model = mlp(3, 20, 2)
    regularizer = L0(model)
    x = torch.randn(5, 3)
    model(x)
    regularizer.fold()
    assert not regularizer.loss.requires_grad
    regularizer.add_gradients()
    assert regularizer.log_alpha.grad is None
    L0(twin := mlp(3, 20, 2)).load_state_dict(regularizer.state_dict())
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x), model(x))
    regularizer.reset(0.05)  # a fine-tuning starts over, with gates that are nearly open
    assert not regularizer.folded and regularizer.loss.requires_grad
    assert regularizer.loss.item() == pytest.approx(0.98947, abs=1e-3)


def test_folding_says_what_it_cannot_fold() -> None:
    x = torch.randn(4, 3, 8, 8)
    model = convolutional(affine=False)
    with L0(model) as regularizer:
        model(x)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(UserError, match="affine=True"):
            regularizer.fold()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model = convolutional()
    nn.utils.parametrizations.weight_norm(model[3])
    with L0(model) as regularizer:
        model(x)
        with pytest.raises(UserError, match="parametrization"):
            regularizer.fold()
    tied = mlp(4, 4, 4, 2)
    tied[2].weight = tied[0].weight
    with L0(tied, include="0") as regularizer:
        tied(x[0, 0, :, :4])
        with pytest.raises(UserError, match="shares"):
            regularizer.fold()


def test_gates_that_change_nothing_fold_into_nothing() -> None:
    model = mlp(3, 20, 2)
    x = torch.randn(5, 3)
    plain = copy.deepcopy(model.state_dict())
    regularizer = L0(model)
    regularizer.fix_open()
    regularizer.fold()
    regularizer.fix_open(False)
    regularizer.strength = 0.0
    regularizer.fold()
    assert not regularizer.folded
    assert all(torch.equal(value, plain[name]) for name, value in model.state_dict().items())
    regularizer.strength = 1.0
    model(x)
    regularizer.fold()
    assert regularizer.folded and not torch.equal(model[0].weight, plain["0.weight"])


def test_fixed_open_gates_are_the_identity() -> None:
    model = mlp(3, 20, 2)
    x = torch.randn(5, 3)
    plain = model(x)
    regularizer = L0(model)
    regularizer.fix_open()
    assert torch.equal(model(x), plain) and torch.equal(model.eval()(x), plain)
    assert regularizer.loss.item() == pytest.approx(1) and not regularizer.loss.requires_grad
    assert bool((regularizer.gates()["0"] == 1).all()) and regularizer.zero_share() == 0
    state = regularizer.state_dict()
    regularizer.fix_open(False)
    assert not torch.equal(model(x), plain)
    regularizer.load_state_dict(state)
    assert torch.equal(model(x), plain)


def test_step_clamps() -> None:
    for clamp in (True, False):
        regularizer = L0(mlp(2, 3, 2), clamp=clamp)
        set_alpha(regularizer, [-9.0, 0.25, 9.0])
        regularizer.step(0.1)
        expected = [-4.605170, 0.25, 4.605170] if clamp else [-9.0, 0.25, 9.0]
        assert regularizer.log_alpha.tolist() == pytest.approx(expected)


def test_training_closes_gates_of_useless_units() -> None:
    torch.manual_seed(0)
    model = mlp(4, 32, 1)
    regularizer = create("l0(droprate_init=0.2)=0.3", model)
    assert isinstance(regularizer, L0)
    groups = [{"params": model.parameters()}, {"params": regularizer.parameters(), "lr": 0.1}]
    optimizer = torch.optim.Adam(groups, 0.01)
    x = torch.randn(256, 4)
    y = x[:, :1].relu()  # one unit is enough
    for _ in range(300):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        regularizer.add_gradients()
        optimizer.step()
        regularizer.step(optimizer)
    share = regularizer.zero_share().item()
    assert 0.5 < share < 1
    assert F.mse_loss(model.eval()(x), y).item() < 0.2 * y.var().item()
    regularizer.fold()
    assert (model[0].weight == 0).all(1).float().mean().item() == pytest.approx(share)


def test_selection() -> None:
    model = torchvision.models.resnet18()
    assert len(L0(model, include="layer3.*").layers) == 5
    assert len(L0(model, include="layer3.*|layer4.*", exclude="*downsample*").layers) == 8
    assert len(L0(model, skip_last=False).layers) == 21
    assert "fc" not in L0(model, exclude="fc").layers
    with pytest.raises(UserError, match=r"include: 'laye3.0.conv1'.*did you mean 'layer3.0.conv1'\?"):
        L0(model, include="laye3.0.conv1")
    with pytest.raises(UserError, match="skip_last=True leaves out the last one"):
        L0(model, include="fc")
    with pytest.raises(UserError, match="exclude: 'head"):
        L0(model, include="layer1*", exclude="head|conv1")
    with pytest.raises(UserError, match="no layers to gate"):
        L0(nn.Sequential(nn.Linear(2, 2)))
    assert L0(nn.Sequential(nn.Linear(2, 3)), skip_last=False).sizes == (3,)
    assert L0(nn.Linear(2, 3), skip_last=False).gates().keys() == {"Linear"}


@pytest.mark.parametrize(
    ("option", "value"),
    [("droprate_init", 0.0), ("temperature", 0.0), ("noise", "pixel"), ("cost", "flops"), ("l2", -1.0)],
)
def test_options_are_checked(option: str, value: Any) -> None:
    with pytest.raises(UserError, match=option):
        L0(mlp(2, 3, 2), **{option: value})
    assert option in {parameter.name for parameter in REGISTRY["l0"].parameters}


def test_coverage() -> None:
    regularizer = L0(convolutional())
    assert regularizer.coverage() == Coverage(
        ("0", "3", "6", "8", "11"),
        groups=(6, 4, 6, 4, 5),
        parameters=(6 * 9 + 6, 4 * 54 + 4, 4 * 3 * 4 + 6, 6 * 2 * 4, 145 * 5),
        unit="gates",
    )
    assert "layers=5, gates=25" in repr(regularizer)


def test_a_layer_that_does_not_run_is_named() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary, self.fc, self.out = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.fc(x)) + (self.auxiliary(x) if self.training else 0)

    model = Half()
    with L0(model), pytest.raises(UserError, match=r"did not run.*auxiliary.*exclude"):
        model(torch.randn(2, 3))
    with L0(model, exclude="auxiliary"):
        model(torch.randn(2, 3))


def test_detach_and_copies() -> None:
    model = mlp(3, 30, 2)
    x = torch.randn(4, 3)
    plain = model(x)
    regularizer = L0(model)
    gated = model(x)
    assert not torch.equal(gated, plain)
    assert torch.equal(copy.deepcopy(model)(x), plain)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), plain)
    regularizer.detach()
    regularizer.detach()
    assert torch.equal(model(x), plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._forward_hooks_with_kwargs for m in model.modules())
    regularizer.load_state_dict(regularizer.state_dict())
    assert torch.equal(model(x), plain)


def test_layers_called_by_themselves() -> None:
    model = mlp(3, 30, 2)
    regularizer = L0(model)
    model(torch.randn(4, 3))
    x = torch.randn(4, 3)
    model.eval()
    whole = model(x)
    set_alpha(regularizer, torch.full((30,), 9.0))
    assert not torch.equal(model[2](model[1](model[0](x))), whole)  # the gates of now, not those of the last pass
    assert torch.equal(model[2](model[1](model[0](x))), model(x))


def test_activation_checkpoints_see_the_same_gates() -> None:
    class Block(nn.Module):
        def __init__(self, again: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body, self.out, self.again = mlp(3, 20, 20), nn.Linear(20, 2), again

        def forward(self, x: Tensor) -> Tensor:
            return self.out(checkpoint(self.body, x, use_reentrant=False) if self.again else self.body(x))

    grads = []
    for again in (False, True):
        model = Block(again)
        torch.manual_seed(0)
        regularizer = L0(model)
        model(torch.ones(4, 3)).square().sum().backward()
        grads.append([regularizer.log_alpha.grad, *(p.grad for p in model.parameters())])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("noise", ["batch", "sample"])
def test_autocast_keeps_its_precision_and_its_gradients(noise: Any) -> None:
    torch.manual_seed(0)
    model = convolutional()
    regularizer = L0(model, noise=noise)
    dtypes: list[torch.dtype] = []
    model[2].register_forward_pre_hook(lambda module, args: dtypes.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        plain = copy.deepcopy(model)
        plain(torch.randn(4, 3, 8, 8))
        wanted = dtypes.pop()
        output = model(torch.randn(4, 3, 8, 8))  # the first pass, with its dry run
    output.float().square().sum().backward()
    assert dtypes[-1] == wanted == torch.bfloat16
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert regularizer.log_alpha.grad is not None and regularizer.log_alpha.grad.dtype == torch.float32
    assert regularizer.log_alpha.grad.abs().sum() > 0


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients(context: Any) -> None:
    torch.manual_seed(0)
    model = convolutional()
    regularizer = L0(model)
    x = torch.randn(4, 3, 8, 8)
    with context():
        model(x)
        first = model.eval()(x)
    torch.testing.assert_close(model(x), first)
    model.train()(x).sum().backward()
    assert regularizer.log_alpha.grad is not None


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_step_is_the_eager_step() -> None:
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
        regularizer = L0(model)
        optimizer = torch.optim.SGD([*model.parameters(), *regularizer.parameters()], 0.1)
        torch._dynamo.reset()
        run: Any = torch.compile(model, backend="aot_eager") if compiled else model
        losses = []
        for _ in range(3):
            loss = run(torch.randn(4, 3, 8, 8)).square().mean() + regularizer.loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss)
        model.eval()
        results.append([*losses, run(torch.ones(1, 3, 8, 8)), regularizer.log_alpha, *model.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_kernels_do_not_grow_with_the_number_of_layers(benchmark: ModuleType) -> None:
    extra = []
    for depth in (2, 10):
        model = mlp(*[8] * (depth + 2))
        x = torch.randn(4, 8)
        counts = []
        for kind in ("plain", "gated"):
            regularizer = L0(model, cost="macs") if kind == "gated" else None
            model(x).sum().backward()
            with benchmark.Kernels() as forward:
                y = model(x).sum()
            with benchmark.Kernels() as backward:
                y.backward()
            if regularizer is not None:
                regularizer.add_gradients()
                with benchmark.Kernels() as penalty:
                    regularizer.add_gradients()
                    regularizer.step(0.1)
                counts[0].append(0)
                counts.append([forward.count, backward.count, penalty.count])
            else:
                counts.append([forward.count, backward.count])
        plain, gated = counts
        # One multiplication per layer; in the backward pass two, and a sum over the samples.
        extra.append([gated[0] - plain[0] - depth, gated[1] - plain[1] - 3 * depth, gated[2]])
    assert extra[0] == extra[1]
    assert extra[0][0] <= 7 and extra[0][1] <= 6 and extra[0][2] <= 5


def test_benchmark_compares_like_with_like(benchmark: ModuleType) -> None:
    trainers = [benchmark.Trainer(kind, True, 20) for kind in ("plain", "l0", "layerwise")]
    for trainer in trainers:
        trainer.step()
    kernels = [trainer.kernels() for trainer in trainers]
    assert kernels[0] < kernels[1] < kernels[2]
    assert [sum(layer.log_alpha.numel() for layer in trainers[2].gated), trainers[1].regularizer.log_alpha.numel()] == [
        400,
        400,
    ]


def test_rectangular_network() -> None:
    model = Rectangular((2,), 2, depth=5, width=4)
    regularizer = L0(model)
    model(torch.randn(6, 2)).sum().backward()
    assert regularizer.log_alpha.grad is not None and regularizer.coverage().unit == "gates"
