"""Jumpstart, against the values of its paper's code and an obvious implementation with Python loops."""

import copy
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from regx.errors import UserError
from regx.models import Rectangular
from regx.regularizers import Jumpstart
from regx.regularizers.jumpstart import MODES
from regx.training.status import StatusTracker

AGGREGATIONS = ("balanced", "mean", "norm", "sum")
UNITS = torch.tensor([[1.0, 1.0, -1.0], [3.0, 4.0, -1.0], [-3.0, 4.0, -1.0]])
POINTS = torch.tensor([[1.0, 2.0, -1.0], [3.0, 4.0, 1.0], [-3.0, -4.0, -1.0]])


@pytest.fixture(scope="module")
def benchmark(from_benchmarks: Callable[[str], ModuleType]) -> ModuleType:
    return from_benchmarks("jumpstart_step")


def loss_of(matrix: Tensor, **options: Any) -> float:
    relu = nn.ReLU()
    regularizer = Jumpstart(relu, **options)
    relu(matrix)
    return regularizer.loss.item()


ORACLES = [  # mode, balanced of UNITS, of POINTS, norm of UNITS, of POINTS
    ("full", 2 / 3, 2 / 3, math.sqrt(2), math.sqrt(2)),
    ("unit", 2 / 3, 0, math.sqrt(2), 0),
    ("point", 0, 2 / 3, 0, math.sqrt(2)),
    ("unit_positive", 1 / 3, 0, 1, 0),
    ("point_positive", 0, 1 / 3, 0, 1),
    ("positive", 1 / 3, 1 / 3, 1, 1),
    ("all_but_unit_positive", 1 / 3, 2 / 3, None, None),
    ("all_but_unit_negative", 1 / 3, 2 / 3, None, None),
    ("all_but_point_positive", 2 / 3, 1 / 3, None, None),
    ("all_but_point_negative", 2 / 3, 1 / 3, None, None),
]


@pytest.mark.parametrize(("mode", "units", "points", "norm_units", "norm_points"), ORACLES)
def test_values_of_the_reference_code(
    mode: str, units: float, points: float, norm_units: float | None, norm_points: float | None
) -> None:
    assert loss_of(UNITS, mode=mode) == pytest.approx(units, abs=1e-6)
    assert loss_of(POINTS, mode=mode) == pytest.approx(points, abs=1e-6)
    if norm_units is not None:
        assert loss_of(UNITS, mode=mode, aggr="norm") == pytest.approx(norm_units, abs=1e-6)
        assert loss_of(POINTS, mode=mode, aggr="norm") == pytest.approx(norm_points, abs=1e-6)


def test_every_mode_has_a_value() -> None:
    assert [row[0] for row in ORACLES] == list(MODES)


def obvious_loss(
    layers: list[Tensor],
    mode: str,
    aggr: str,
    rho: float,
    margins: tuple[float, float],
    ties: str,
    unit_dim: int,
) -> Tensor:
    """The formula of the docstring, one unit and one point at a time."""

    def constraints(part: Tensor, positive: bool, negative: bool) -> Tensor:
        flat = part.reshape(-1)
        # max and min without a dimension share the gradient among ties, those with one give it to the first
        high = flat.amax() if ties == "average" else flat.max(0).values
        low = flat.amin() if ties == "average" else flat.min(0).values
        total = flat.new_zeros(())
        if positive:
            total = total + rho * F.relu(margins[0] - high)
        if negative:
            total = total + (1 - rho) * F.relu(low - margins[1])
        return total

    counts = {  # written out again on purpose
        "full": "ABCD",
        "unit": "AB",
        "point": "CD",
        "unit_positive": "A",
        "point_positive": "C",
        "positive": "AC",
        "all_but_unit_positive": "BCD",
        "all_but_unit_negative": "ACD",
        "all_but_point_positive": "ABD",
        "all_but_point_negative": "ABC",
    }[mode]
    kinds = []
    if "A" in counts or "B" in counts:
        parts = [a.movedim(unit_dim, 0) for a in layers]
        kinds.append(torch.stack([constraints(unit, "A" in counts, "B" in counts) for part in parts for unit in part]))
    if "C" in counts or "D" in counts:
        kinds.append(torch.stack([constraints(point, "C" in counts, "D" in counts) for a in layers for point in a]))
    if aggr == "balanced":
        means = [kind.sum() / len(kind) for kind in kinds]
        return means[0] if len(means) == 1 else means[0] + means[1]
    together = torch.cat(kinds)
    return {"mean": together.mean(), "sum": together.sum(), "norm": together.square().sum().sqrt()}[aggr]


def mixed_net() -> nn.Sequential:
    """Image and dense layers of several shapes, some with exact ties."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 1),
        nn.LeakyReLU(),
        nn.Conv2d(4, 3, 1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.ReLU(),
        nn.Linear(5, 5),
        nn.ReLU(inplace=True),
        nn.Linear(5, 2),
    ).double()
    with torch.no_grad():
        net.get_parameter("9.weight")[2] = 0  # a unit that is the same for every point: only ties
    return net


def inputs_of_activations(net: nn.Sequential, x: Tensor) -> list[Tensor]:
    found = []
    for module in net:
        if isinstance(module, nn.ReLU | nn.LeakyReLU | nn.Tanh):
            found.append(x)
            x = x.relu() if isinstance(module, nn.ReLU) else module(x)
        else:
            x = module(x)
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aggr", AGGREGATIONS)
@pytest.mark.parametrize("tie_breaking", ["single", "average"])
def test_loss_and_gradient_equal_the_obvious_ones(mode: str, aggr: str, tie_breaking: str) -> None:
    net = mixed_net()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    rho, margins = 0.3, (0.7, -0.4)
    expected = obvious_loss(inputs_of_activations(net, x), mode, aggr, rho, margins, tie_breaking, 1)
    parameters = list(net.parameters())[:-2]
    with Jumpstart(
        net,
        mode=mode,  # type: ignore[arg-type]
        aggr=aggr,  # type: ignore[arg-type]
        tie_breaking=tie_breaking,  # type: ignore[arg-type]
        sign_balance=rho,
        positive_margin=margins[0],
        negative_margin=margins[1],
    ) as regularizer:
        net(x)
        loss = regularizer.loss
    assert loss.shape == () and loss.item() > 0
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), rtol=1e-10, atol=1e-14
    )


def test_transformer_shapes() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
    regularizer = Jumpstart(net, unit_dim=-1)
    x = torch.randn(3, 5, 4)
    net(x)
    expected = obvious_loss([net[0](x)], "full", "balanced", 0.5, (1, -1), "single", -1)
    torch.testing.assert_close(regularizer.loss, expected)


def test_hooks_at_layers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    regularizer = Jumpstart(net, hook_at="layer")
    x = torch.randn(5, 2)
    net(x)
    torch.testing.assert_close(
        regularizer.loss, obvious_loss([net[0](x)], "full", "balanced", 0.5, (1, -1), "single", 1)
    )


@pytest.mark.parametrize("options", [{}, {"skip_connections": 2}, {"batchnorm": True}])
def test_gradient_equals_finite_differences(options: dict[str, Any]) -> None:
    """Through a whole network; the skip connections would show a gradient that is edited in place."""
    torch.manual_seed(0)
    model = Rectangular((2,), 1, depth=5, width=3, activation="tanh", **options).double()
    regularizer = Jumpstart(model, sign_balance=0.4)
    x = torch.randn(4, 2, dtype=torch.float64)
    names, values = zip(*[(name, p.detach().requires_grad_()) for name, p in model.named_parameters()], strict=True)

    def total(*parameters: Tensor) -> Tensor:
        y = torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))
        return y.square().sum() + regularizer.loss

    assert torch.autograd.gradcheck(total, values)


def test_gradient_of_an_image_network_equals_finite_differences() -> None:
    torch.manual_seed(0)
    model = Rectangular((1, 4, 4), 1, depth=3, width=2, skip_connections=1, activation="silu").double()
    regularizer = Jumpstart(model)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    names, values = zip(*[(name, p.detach().requires_grad_()) for name, p in model.named_parameters()], strict=True)

    def total(*parameters: Tensor) -> Tensor:
        y = torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))
        return y.square().sum() + regularizer.loss

    assert torch.autograd.gradcheck(total, values)


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
def test_zero_network_needs_an_unbalanced_sign(shape: tuple[int, ...]) -> None:
    model = Rectangular(shape, 2, depth=4, width=3, init="zero")
    x = torch.randn(5, *shape)
    for rho, moves in ((0.5, False), (0.51, True)):
        with Jumpstart(model, sign_balance=rho) as regularizer:
            model(x)
            loss = regularizer.loss
        assert loss.item() == pytest.approx(2)
        gradients = torch.autograd.grad(loss, list(model.hidden.parameters()))
        assert any((gradient != 0).any().item() for gradient in gradients) == moves


def test_a_met_constraint_has_no_gradient() -> None:
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], requires_grad=True)
    relu = nn.ReLU()
    regularizer = Jumpstart(relu)
    relu(x)
    regularizer.loss.backward()
    assert regularizer.loss.item() == 0
    assert x.grad is not None and x.grad.count_nonzero() == 0
    regularizer = Jumpstart(relu, aggr="norm")
    relu(x)
    assert torch.equal(torch.autograd.grad(regularizer.loss, x)[0], torch.zeros(2, 2))


def test_strength_zero_trains_bit_for_bit_like_no_regularizer() -> None:
    x, y = torch.randn(32, 2, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 2

    def train(regularized: str | None) -> list[Tensor]:
        torch.manual_seed(0)
        model = Rectangular((2,), 2, depth=4, width=5, dropout=0.2, batchnorm=True)
        regularizer = Jumpstart(model, tie_breaking=regularized) if regularized else None  # type: ignore[arg-type]
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(5):
            loss = F.cross_entropy(model(x), y)
            if regularizer:
                loss = loss + 0.0 * regularizer.loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return list(model.parameters())

    plain = train(None)
    for tie_breaking in ("single", "average", "random"):
        assert all(torch.equal(a, b) for a, b in zip(plain, train(tie_breaking), strict=True))


def test_it_brings_dead_units_back() -> None:
    torch.manual_seed(0)
    model = Rectangular((2,), 1, depth=8, width=4)
    with torch.no_grad():
        model.get_submodule("hidden.layer3").bias.fill_(-10)  # type: ignore[union-attr, operator]
    regularizer = Jumpstart(model)
    tracker = StatusTracker(regularizer.preactivations)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    x = torch.randn(64, 2)
    dead = []
    for step in range(300):
        model(x)
        if step in (0, 299):
            tracker.reset()
            tracker.update()
            dead.append(tracker.compute()["unit_dead_ratio"].item())
        optimizer.zero_grad()
        regularizer.loss.backward()
        optimizer.step()
    assert dead[0] >= 1 / 8 and dead[1] == 0


def test_autocast_and_eval() -> None:
    torch.manual_seed(0)
    model = Rectangular((1, 6, 6), 2, depth=3, width=4)
    regularizer = Jumpstart(model)
    x = torch.randn(4, 1, 6, 6)
    model(x)
    expected = regularizer.loss.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
        loss = regularizer.loss
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, rel=0.02)
    loss.backward()
    model.eval()
    with torch.no_grad():
        model(x)
    assert not regularizer.loss.requires_grad and regularizer.loss.item() == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # from the compiler's own look
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")  # and of that version
def test_compiled_model() -> None:
    torch.manual_seed(0)
    model = Rectangular((2,), 2, depth=3, width=4)
    regularizer = Jumpstart(model)
    x = torch.randn(4, 2)
    model(x)
    expected = regularizer.loss
    gradients = torch.autograd.grad(expected, list(model.hidden.parameters()))
    compiled = torch.compile(model, backend="eager")
    compiled(torch.randn(4, 2))
    compiled(x)
    torch.testing.assert_close(regularizer.loss, expected)
    torch.testing.assert_close(torch.autograd.grad(regularizer.loss, list(model.hidden.parameters())), gradients)


def test_coverage_and_repr() -> None:
    model = Rectangular((2,), 2, depth=3, width=4)
    regularizer = Jumpstart(model)
    assert str(regularizer.coverage()) == "3 layers (hidden.activation0 ... hidden.activation2)"
    model(torch.randn(4, 2))
    coverage = regularizer.coverage()
    assert coverage.groups == (4, 4, 4) and coverage.parameters == ()
    assert str(coverage) == "3 layers (hidden.activation0 ... hidden.activation2), 12 units"
    assert "mode='full'" in repr(regularizer) and "layers=3" in repr(regularizer)
    regularizer.step(0.1)
    regularizer.load_state_dict(regularizer.state_dict())


def test_detached_and_unused() -> None:
    model = Rectangular((2,), 2, depth=3, width=4)
    with Jumpstart(model) as regularizer:
        with pytest.raises(UserError, match="call the model first"):
            _ = regularizer.loss
        model(torch.randn(4, 2))
        assert regularizer.loss.isfinite()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(UserError, match="detached"):
        _ = regularizer.loss


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "units"}, "mode: 'units' is not among its choices; did you mean 'unit'"),
        ({"aggr": "max"}, "aggr: 'max'"),
        ({"tie_breaking": "all"}, "tie_breaking: 'all'"),
        ({"sign_balance": 1.5}, "sign_balance: 1.5 is out of bounds; use a number 0 to 1"),
        ({"positive_margin": float("nan")}, "positive_margin"),
        ({"unit_dim": 0}, "unit_dim"),
    ],
)
def test_illegal_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Jumpstart(nn.ReLU(), **options)


class PreactivationResidual(nn.Module):
    """Pre-activations that flow on past their activation, the skip connections of a pre-activation ResNet."""

    def __init__(self, image: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) if image else nn.Linear(3, 3) for _ in range(5))
        self.activations = nn.ModuleList(nn.ReLU() for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        for activation, layer in zip(self.activations, self.layers, strict=True):
            x = layer(activation(x)) + x
        return x.flatten(1)


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("kind", ["preactivation", "rectangular", "batchnorm"])
def test_skip_connections_have_the_gradient_of_autograd(benchmark: ModuleType, kind: str, image: bool) -> None:
    """To scatter into a gradient in place would reach the other branch as well: wrong by more than half, in silence."""
    torch.manual_seed(0)
    shape = (3, 6, 6) if image else (3,)
    model: nn.Module = (
        PreactivationResidual(image)
        if kind == "preactivation"
        else Rectangular(shape, 3, depth=6, width=3, skip_connections=1, batchnorm=kind == "batchnorm")
    )
    model = model.double()
    x, y = torch.randn(8, *shape, dtype=torch.float64), torch.arange(8) % 3

    def gradients(make: Callable[[nn.Module], Any]) -> tuple[Tensor, ...]:
        hooked = copy.deepcopy(model)
        regularizer = make(hooked)
        trained = [p for p in hooked.parameters() if p.requires_grad]
        return torch.autograd.grad(F.cross_entropy(hooked(x), y) + regularizer.loss, trained)

    torch.testing.assert_close(gradients(Jumpstart), gradients(benchmark.ObviousJumpstart), rtol=1e-10, atol=1e-14)


def test_loss_follows_its_options_and_the_mode_of_the_caller() -> None:
    """Constants are kept from step to step: neither other options nor inference mode may be caught in them."""
    relu = nn.ReLU()
    regularizer = Jumpstart(relu, positive_margin=5.0)
    x = torch.zeros(3, 2)
    with torch.inference_mode():
        relu(x)
        assert regularizer.loss.item() == pytest.approx(0.5 * (5 + 1) * 2)
    y = x.clone().requires_grad_()
    relu(y)
    regularizer.loss.backward()
    assert y.grad is not None
    regularizer.positive_margin, regularizer.sign_balance = 2.0, 0.25
    assert regularizer.loss.item() == pytest.approx((0.25 * 2 + 0.75 * 1) * 2)


def test_kernels_per_step_of_the_deep_net(benchmark: ModuleType) -> None:
    """Kernels dispatched by a training step of the 50 x 4 net: 50 of Jumpstart's add its gradients to the others."""
    x, y = torch.randn(256, 2), torch.arange(256) % 2
    kinds = ("plain", "jumpstart", "status", "obvious")
    count = {kind: benchmark.Trainer(kind, benchmark.deep_net, x, y).kernels() for kind in kinds}
    assert 300 <= count["plain"] <= 330  # the counter counts
    assert 50 < count["jumpstart"] - count["plain"] <= 80
    assert count["status"] <= count["jumpstart"] + 10
    assert count["obvious"] - count["plain"] >= 1900


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bytes_that_a_conv_net_saves_for_backward(benchmark: ModuleType, memory_format: torch.memory_format) -> None:
    x, y = torch.randn(8, 3, 32, 32).contiguous(memory_format=memory_format), torch.arange(8) % 2
    trainers = {k: benchmark.Trainer(k, benchmark.plain_resnet, x, y) for k in ("plain", "jumpstart")}
    saved = {kind: benchmark.saved_bytes(trainer.loss) for kind, trainer in trainers.items()}
    assert saved["plain"] < saved["jumpstart"] <= 1.01 * saved["plain"]
    trainers["jumpstart"].step()  # in-place activations do not disturb the backward pass


def test_saved_bytes_of_a_resnet(benchmark: ModuleType) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None)
    x = torch.randn(2, 3, 64, 64)
    plain = benchmark.saved_bytes(lambda: model(x).sum())
    regularizer = Jumpstart(model)

    def step() -> Tensor:
        return model(x).sum() + regularizer.loss

    assert plain < benchmark.saved_bytes(step) <= 1.02 * plain
