"""Hooks and extremes, against slow obvious reductions and autograd's own gradients."""

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regx.errors import UserError
from regx.regularizers import Preactivations

TIES = ("single", "average", "random")


def hook_counts(model: nn.Module) -> list[int]:
    return [
        len(hooks)
        for module in model.modules()
        for name, hooks in vars(module).items()
        if name.startswith("_") and "hooks" in name and hooks is not None
    ]


def obvious(x: Tensor, unit_dim: int = 1) -> list[list[float]]:
    """Maximum and minimum of every unit and of every point, one slice at a time."""
    x = x.detach()
    units = [x.select(unit_dim, c) for c in range(x.shape[unit_dim])]
    points = list(x)
    return [
        [float(part.max()) for part in units],
        [float(part.min()) for part in units],
        [float(part.max()) for part in points],
        [float(part.min()) for part in points],
    ]


def by_layer(preactivations: Preactivations) -> dict[str, list[list[float]]]:
    extremes = preactivations.extremes()
    found = {}
    for group in extremes.groups:
        tensors = (group.unit_max, group.unit_min, group.point_max, group.point_min)
        for row, position in enumerate(group.positions):
            found[extremes.layers[position]] = [tensor[row].tolist() for tensor in tensors]
    assert set(found) == set(extremes.layers)
    return found


class Residual(nn.Module):
    """Plain, shared, in-place and skip connections in one: what a network can do to a pre-activation."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace)
        self.fc1 = nn.Linear(4 * 16, 5)
        self.fc2 = nn.Linear(5, 5)
        self.act = nn.GELU()
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x) + x)
        x = self.relu(self.fc1(x.flatten(1)))
        h = self.fc2(x)
        return self.last(self.act(h) + h)  # h flows on past its activation as well

    def preactivations(self, x: Tensor) -> list[Tensor]:
        a = self.conv1(x)
        b = self.conv2(a.relu()) + a.relu()
        c = self.fc1(b.relu().flatten(1))
        return [a, b, c, self.fc2(c.relu())]


@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 53), ({"skip_last": False}, 54), ({"skip_downsample": True}, 49), ({"skip_batchnorm": False}, 106)],
)
def test_layer_hooks_of_resnet50(options: dict[str, Any], count: int) -> None:
    """Counts of the Jumpstart reference code."""
    with torch.device("meta"):
        model = torchvision.models.resnet50(weights=None)
    preactivations = Preactivations(model, hook_at="layer", **options)
    assert len(preactivations.layers) == count
    assert ("fc" in preactivations.layers) == (options == {"skip_last": False})


def test_activation_hooks_name_every_call_of_a_shared_module() -> None:
    model = torchvision.models.resnet18(weights=None)
    preactivations = Preactivations(model)
    model(torch.randn(2, 3, 32, 32))
    blocks = [f"layer{i}.{j}.relu" for i in range(1, 5) for j in range(2)]
    assert preactivations.layers == ("relu", *(name for block in blocks for name in (block, f"{block}:1")))
    assert [group.positions for group in preactivations.extremes().groups] == [
        (0, 1, 2, 3, 4),
        (5, 6, 7, 8),
        (9, 10, 11, 12),
        (13, 14, 15, 16),
    ]


def test_what_is_hooked() -> None:
    model = nn.Sequential(
        nn.Embedding(4, 3),
        nn.Linear(3, 3),
        nn.LayerNorm(3),
        nn.PReLU(),
        nn.Linear(3, 3),
        nn.RMSNorm(3),
        nn.Softmax(-1),
        nn.Linear(3, 3),
    )
    assert Preactivations(model, hook_at="layer").layers == ("1", "4")
    assert Preactivations(model, hook_at="layer", skip_last=False).layers == ("1", "4", "7")
    assert Preactivations(model, hook_at="layer", skip_batchnorm=False).layers == ("1", "2", "4", "5")
    assert Preactivations(model).layers == ("3",)


def test_a_model_that_is_one_layer() -> None:
    layer = nn.Linear(2, 3)
    preactivations = Preactivations(layer, hook_at="layer", skip_last=False)
    x = layer(torch.randn(5, 2))
    assert by_layer(preactivations) == {"Linear": obvious(x)}


@pytest.mark.parametrize("tie_breaking", TIES)
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_extremes_and_gradients_equal_the_obvious_ones(
    tie_breaking: str, inplace: bool, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    model = Residual(inplace).double().to(memory_format=memory_format)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64).to(memory_format=memory_format)
    parameters = list(model.parameters())
    expected_layers = model.preactivations(x)
    weights = [torch.randn(4, dtype=torch.float64) for _ in expected_layers]
    total = sum(
        w[0] * a.transpose(0, 1).flatten(1).amax(1).sum()
        + w[1] * a.transpose(0, 1).flatten(1).amin(1).square().sum()
        + w[2] * a.flatten(1).amax(1).square().sum()
        + w[3] * a.flatten(1).amin(1).sum()
        for w, a in zip(weights, expected_layers, strict=True)
    )
    assert isinstance(total, Tensor)
    expected_output = model(x)
    expected = torch.autograd.grad(total + expected_output.square().sum(), parameters)

    preactivations = Preactivations(model, tie_breaking=tie_breaking)  # type: ignore[arg-type]
    output = model(x)
    extremes = preactivations.extremes()
    assert extremes.layers == ("relu", "relu:1", "relu:2", "act")
    assert by_layer(preactivations) == {
        name: obvious(a) for name, a in zip(extremes.layers, expected_layers, strict=True)
    }
    found = torch.zeros((), dtype=torch.float64)
    for group in extremes.groups:
        for row, position in enumerate(group.positions):
            w = weights[position]
            found = found + w[0] * group.unit_max[row].sum() + w[1] * group.unit_min[row].square().sum()
            found = found + w[2] * group.point_max[row].square().sum() + w[3] * group.point_min[row].sum()
    torch.testing.assert_close(output, expected_output, rtol=0, atol=0)
    gradients = torch.autograd.grad(found + output.square().sum(), parameters)
    for gradient, one in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, one, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("tie_breaking", TIES)
@pytest.mark.parametrize("shape", [(3, 2), (2, 2, 3), (2, 2, 1, 2)])
def test_gradients_equal_finite_differences(tie_breaking: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    relu = nn.ReLU()
    preactivations = Preactivations(relu, tie_breaking=tie_breaking)  # type: ignore[arg-type]

    def extremes(x: Tensor) -> tuple[Tensor, ...]:
        y = relu(x.sin())
        group = preactivations.extremes().groups[0]
        return group.unit_max, group.unit_min, group.point_max, group.point_min, y

    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(extremes, (x,))
    assert torch.autograd.gradgradcheck(extremes, (x,), fast_mode=True)


def gradient_of_maximum(x: Tensor, tie_breaking: str, side: str) -> Tensor:
    x = x.clone().requires_grad_()
    relu = nn.ReLU()
    preactivations = Preactivations(relu, tie_breaking=tie_breaking)  # type: ignore[arg-type]
    relu(x)
    getattr(preactivations.extremes().groups[0], side).sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("side", ["unit_max", "unit_min"])
def test_ties_of_units(side: str) -> None:
    zeros = torch.zeros(4, 3)
    torch.testing.assert_close(gradient_of_maximum(zeros, "average", side), torch.full((4, 3), 0.25))
    first = torch.zeros(4, 3)
    first[0] = 1
    torch.testing.assert_close(gradient_of_maximum(zeros, "single", side), first)


@pytest.mark.parametrize("side", ["point_max", "point_min"])
def test_ties_of_points(side: str) -> None:
    zeros = torch.zeros(4, 3)
    torch.testing.assert_close(gradient_of_maximum(zeros, "average", side), torch.full((4, 3), 1 / 3))
    first = torch.zeros(4, 3)
    first[:, 0] = 1
    torch.testing.assert_close(gradient_of_maximum(zeros, "single", side), first)


def test_ties_of_images() -> None:
    zeros = torch.zeros(2, 3, 2, 2)
    torch.testing.assert_close(gradient_of_maximum(zeros, "average", "unit_max"), torch.full((2, 3, 2, 2), 1 / 8))
    torch.testing.assert_close(gradient_of_maximum(zeros, "average", "point_min"), torch.full((2, 3, 2, 2), 1 / 12))
    first = torch.zeros(2, 3, 2, 2)
    first[0, :, 0, 0] = 1
    torch.testing.assert_close(gradient_of_maximum(zeros, "single", "unit_min"), first)
    first = torch.zeros(2, 3, 2, 2)
    first[:, 0, 0, 0] = 1
    torch.testing.assert_close(gradient_of_maximum(zeros, "single", "point_max"), first)


@pytest.mark.parametrize("shape", [(4, 300), (2, 300, 2)])
@pytest.mark.parametrize("side", ["unit_max", "unit_min"])
def test_random_ties_are_uniform(shape: tuple[int, ...], side: str) -> None:
    """300 units with 4 equal entries each: one entry each, each place about 75 times (standard deviation 7.5)."""
    torch.manual_seed(0)
    x = torch.zeros(shape)
    gradient = gradient_of_maximum(x, "random", side).transpose(0, 1).reshape(300, 4)
    assert torch.equal(gradient.sort(1).values, torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(300, 4))
    assert ((gradient.sum(0) - 75).abs() < 30).all()


def test_random_ties_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    x = torch.zeros(50, 3)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = gradient_of_maximum(x, "random", "point_max")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(gradient_of_maximum(x, "random", "point_max"), first)
    torch.manual_seed(4)
    assert not torch.equal(gradient_of_maximum(x, "random", "point_max"), first)


def test_random_ties_continue_from_a_state() -> None:
    relu, x = nn.ReLU(), torch.zeros(50, 3)

    def step(preactivations: Preactivations) -> Tensor:
        y = x.clone().requires_grad_()
        relu(y)
        return torch.autograd.grad(preactivations.extremes().groups[0].point_max.sum(), y)[0]

    first = Preactivations(relu, tie_breaking="random")
    step(first)
    state = first.state_dict()
    expected = step(first)
    second = Preactivations(relu, tie_breaking="random")
    second.load_state_dict(state)
    assert torch.equal(step(second), expected)


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded", "channels_last"])
@pytest.mark.parametrize("tie_breaking", TIES)
def test_any_memory_layout(layout: str, tie_breaking: str) -> None:
    torch.manual_seed(0)
    base = torch.randn(3, 4, 6, 5)
    relu = nn.ReLU()
    preactivations = Preactivations(relu, tie_breaking=tie_breaking)  # type: ignore[arg-type]
    leaf = base.clone().requires_grad_()
    x = {
        "transposed": lambda: leaf.transpose(0, 2),
        "strided": lambda: leaf[:, ::2, 1:, ::3],
        "expanded": lambda: leaf[:, :1].expand(3, 4, 6, 5),
        "channels_last": lambda: leaf.contiguous(memory_format=torch.channels_last),
    }[layout]()
    relu(x)
    group = preactivations.extremes().groups[0]
    assert by_layer(preactivations) == {"ReLU": obvious(x)}
    weights = torch.randn(4, max(x.shape))
    sides = (group.unit_max[0], group.unit_min[0], group.point_max[0], group.point_min[0])
    found = sum((w[: len(side)] * side).sum() for w, side in zip(weights, sides, strict=True))
    others = [x.transpose(0, 1).flatten(1).amax(1), x.transpose(0, 1).flatten(1).amin(1)]
    others += [x.flatten(1).amax(1), x.flatten(1).amin(1)]
    expected = sum((w[: len(side)] * side).sum() for w, side in zip(weights, others, strict=True))
    assert isinstance(found, Tensor) and isinstance(expected, Tensor)
    # expanded units tie, so their sum over the expanded dimension is what single and average share
    torch.testing.assert_close(torch.autograd.grad(found, leaf), torch.autograd.grad(expected, leaf))


def test_gradient_keeps_channels_last() -> None:
    relu = nn.ReLU()
    preactivations = Preactivations(relu)
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    relu(x)
    (gradient,) = torch.autograd.grad(preactivations.extremes().groups[0].unit_max.sum(), x)
    assert gradient.stride() == x.stride()


def test_transformer_units_are_last() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
    preactivations = Preactivations(model, unit_dim=-1)
    x = torch.randn(3, 5, 4)
    model(x)
    assert by_layer(preactivations) == {"1": obvious(model[0](x), unit_dim=-1)}
    assert preactivations.extremes().groups[0].unit_max.shape == (1, 6)


def test_last_layer_first_call_and_order_across_shapes() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in ((2, 3), (3, 5), (5, 3), (3, 5))))
    preactivations = Preactivations(model)
    model(torch.randn(4, 2))
    extremes = preactivations.extremes()
    assert extremes.layers == ("0.1", "1.1", "2.1", "3.1")
    assert [(g.positions, g.unit_max.shape, g.point_max.shape) for g in extremes.groups] == [
        ((0, 2), (2, 3), (2, 4)),
        ((1, 3), (2, 5), (2, 4)),
    ]


def test_only_the_last_forward_pass_counts() -> None:
    relu = nn.ReLU()
    preactivations = Preactivations(relu)
    relu(torch.randn(7, 3))
    x = torch.randn(5, 2)
    relu(x)
    assert by_layer(preactivations) == {"ReLU": obvious(x)}
    assert preactivations.extremes() is preactivations.extremes()


def test_extremes_are_differentiable_even_when_first_read_without_gradients() -> None:
    """The status tracker may come before the loss."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    preactivations = Preactivations(model)
    model(torch.randn(4, 2))
    with torch.no_grad():
        group = preactivations.extremes().groups[0]
    assert group.unit_max.requires_grad
    with torch.no_grad():
        model(torch.randn(4, 2))
    assert not preactivations.extremes().groups[0].unit_max.requires_grad
    with torch.inference_mode():
        model(torch.randn(4, 2))
        assert preactivations.extremes().groups[0].unit_max.shape == (1, 3)


@pytest.mark.parametrize("image", [False, True])
def test_activations_are_released_and_memory_does_not_grow(image: bool) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3) if image else nn.Linear(2, 3), nn.ReLU())
    seen: list[weakref.ref[Tensor]] = []
    model[1].register_forward_pre_hook(lambda _, args: seen.append(weakref.ref(args[0])))
    preactivations = Preactivations(model)
    x = torch.randn(4, 2, 5, 5) if image else torch.randn(4, 2)

    def step() -> int:
        model(x)
        sum(group.unit_max.sum() for group in preactivations.extremes().groups)
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    step()
    assert seen[0]() is None
    gc.collect()
    counts = [step() for _ in range(5)]
    assert max(counts) == counts[0]


def test_detach_leaves_no_trace() -> None:
    model = Residual()
    before = hook_counts(model)
    preactivations = Preactivations(model)
    layers = Preactivations(model, hook_at="layer")
    assert hook_counts(model) != before
    preactivations.detach()
    preactivations.detach()
    layers.detach()
    assert hook_counts(model) == before and sum(before) == 0
    model(torch.randn(1, 2, 4, 4))
    with pytest.raises(UserError, match="detached"):
        preactivations.extremes()


def test_a_copy_of_the_model_does_not_speak_to_the_original_hooks() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    preactivations = Preactivations(model)
    x = torch.randn(4, 2)
    model(x)
    others = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    expected = model(x)
    for other in others:
        torch.testing.assert_close(other(x), expected)
        other(torch.randn(9, 2))
        assert by_layer(preactivations) == {"1": obvious(model[0](x))}


def test_a_part_called_on_its_own_is_not_collected() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    preactivations = Preactivations(model)
    model[1](torch.randn(4, 3))
    assert not preactivations.has_run
    x = torch.randn(4, 2)
    model(x)
    model[1](torch.randn(4, 3))
    assert by_layer(preactivations) == {"1": obvious(model[0](x))}


@pytest.mark.parametrize("image", [False, True])
def test_activation_checkpoints(image: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(2, 3, 1) if image else nn.Linear(2, 3), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.body, x, use_reentrant=False)

    model = Checkpointed()
    preactivations = Preactivations(model)
    x = torch.randn(4, 2, 3, 3) if image else torch.randn(4, 2)
    parameters = list(model.parameters())
    found = model(x).sum() + preactivations.extremes().groups[0].unit_max.sum()
    gradients = torch.autograd.grad(found, parameters)
    assert preactivations.layers == ("body.1",)
    a = model.body[0](x)
    expected = torch.autograd.grad(a.relu().sum() + a.transpose(0, 1).flatten(1).amax(1).sum(), parameters)
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("tie_breaking", TIES)
@pytest.mark.parametrize("image", [False, True])
def test_half_precision_gives_float32_extremes(tie_breaking: str, image: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3) if image else nn.Linear(2, 3), nn.ReLU())
    preactivations = Preactivations(model, tie_breaking=tie_breaking)  # type: ignore[arg-type]
    x = torch.randn(4, 2, 5, 5) if image else torch.randn(4, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
        group = preactivations.extremes().groups[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a = model[0](x)
    assert a.dtype == torch.bfloat16 and group.unit_max.dtype == torch.float32
    assert by_layer(preactivations) == {"1": obvious(a)}
    gradients = torch.autograd.grad(group.unit_max.sum(), list(model.parameters()))
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


def test_nan_is_not_hidden() -> None:
    relu = nn.ReLU()
    preactivations = Preactivations(relu)
    for shape in ((3, 2), (3, 2, 4)):
        x = torch.zeros(shape)
        x[1] = float("nan")
        relu(x)
        group = preactivations.extremes().groups[0]
        assert group.unit_max.isnan().all() and group.point_min[0].isnan().tolist() == [False, True, False]


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu_()


def test_functional_activations_need_layer_hooks() -> None:
    model = Functional()
    with pytest.raises(UserError, match="hook_at='layer'"):
        Preactivations(model)
    preactivations = Preactivations(model, hook_at="layer", skip_last=False)
    x = torch.randn(4, 2)
    model(x)  # overwrites the layer's output
    assert by_layer(preactivations) == {"layer": obvious(model.layer(x))}


def test_an_unforeseen_overwrite_is_an_error() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = x + 1
            y = self.act(x)
            x += 1
            return x + y

    model = Overwriting()
    preactivations = Preactivations(model)
    model(torch.randn(4, 2))
    with pytest.raises(UserError, match=r"'act' was changed in place"):
        preactivations.extremes()


def test_errors() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    with pytest.raises(UserError, match="call the model first"):
        Preactivations(model).extremes()
    with pytest.raises(UserError, match="hook_at: 'layers' is not among its choices; did you mean 'layer'"):
        Preactivations(model, hook_at="layers")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="tie_breaking"):
        Preactivations(model, tie_breaking="first")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unit_dim"):
        Preactivations(model, unit_dim=0)
    with pytest.raises(UserError, match="no layers to hook"):
        Preactivations(model, hook_at="layer")
    preactivations = Preactivations(model)
    with pytest.raises(UserError, match=r"tensor of shape \(3,\)"):
        model(torch.randn(2))
    preactivations.detach()
    relu = nn.ReLU()
    Preactivations(relu, unit_dim=3)
    with pytest.raises(UserError, match=r"3 is no unit dimension of \(2, 3, 4\)"):
        relu(torch.randn(2, 3, 4))
