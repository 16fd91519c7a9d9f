"""Penalties of weights: values from the code they come from, closed forms, and where training on them ends."""

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from regx.errors import UserError
from regx.regularizers import create
from regx.regularizers.elements import L1, L2, ElasticNet, L0Approx
from regx.regularizers.group_lasso import GroupLasso, GroupVariance, SparseGroupLasso
from regx.regularizers.weights import WeightPenalty

# IntelLabs/distiller, tests/test_thresholding.py (2, 3, 3, 3)
DISTILLER = torch.tensor(
    [
        [
            [[-1.2982, 0.7574, 0.7962], [-0.6695, 1.5907, 0.2659], [0.1423, 0.3165, -0.7629]],
            [[-0.5480, -1.2718, 0.8286], [-0.6427, 0.3814, -0.7988], [1.0346, 1.3023, -0.9674]],
            [[-0.7951, 1.8784, -0.5654], [0.0456, -0.2849, -0.3332], [-0.2367, 0.7467, 0.9212]],
        ],
        [
            [[1.3672, 0.2993, -0.0619], [1.8156, 0.7599, 0.1815], [0.4136, 1.8316, 1.7214]],
            [[0.5125, -1.5329, 0.9257], [0.9200, 0.4376, 0.5743], [-0.0097, 0.9473, -0.0899]],
            [[0.2372, 2.4369, -0.3410], [-1.0595, 0.8056, -0.0357], [-1.0105, -0.1451, -0.4194]],
        ],
    ]
)
MATRIX = torch.arange(1.0, 13).view(4, 3)


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data.copy_(weight)
    return layer


def conv() -> nn.Conv2d:
    layer = nn.Conv2d(3, 2, 3)
    layer.weight.data.copy_(DISTILLER)
    return layer


def test_group_l1_of_keras() -> None:
    """Mohamedsalem80/GroupL1 with l1=0.01 and axis=0; a Keras kernel is (inputs, outputs), a PyTorch one transposed."""
    penalty = create("group_lasso(groups=units)=0.01", linear(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).t()))
    assert (penalty.strength * penalty.loss).item() == pytest.approx(0.0763441, abs=1e-6)
    assert penalty.loss.item() == pytest.approx(math.sqrt(10) + math.sqrt(20), rel=1e-6)


@pytest.mark.parametrize(
    ("groups", "norms"),
    [
        ("layers", [6.89112]),
        ("filters", [4.50384, 5.21565]),
        ("units", [4.50384, 5.21565]),
        ("channels", [4.35925, 3.63948, 3.90367]),
        ("kernels", [2.57771, 2.73920, 2.47724, 3.51546, 2.39638, 3.01693]),
    ],
)
def test_group_lasso_of_distiller(groups: str, norms: list[float]) -> None:
    penalty = GroupLasso(conv(), groups=groups)
    assert penalty.levels[0].norms(penalty.tensors).flatten().tolist() == pytest.approx(norms, abs=1e-5)
    assert penalty.loss.item() == pytest.approx(sum(norms), abs=4e-5)


def test_other_penalties_of_distiller() -> None:
    assert L1(conv()).loss.item() == pytest.approx(41.0752, abs=1e-4)
    assert L1(linear(MATRIX)).loss.item() == 78
    assert GroupVariance(conv(), groups="channels").loss.item() == pytest.approx(7.54317, abs=1e-5)
    rows, cols = (GroupLasso(linear(MATRIX), groups=groups).loss.item() for groups in ("rows", "cols"))
    assert (rows, cols) == (pytest.approx(45.54998, abs=1e-5), pytest.approx(43.94451, abs=1e-5))
    assert GroupLasso(linear(MATRIX), groups="rows_cols").loss.item() == pytest.approx(rows + cols, rel=1e-6)


def test_l0_approx_of_group_loss() -> None:
    """avdosev/group_loss: convolution (2, 1, 1, 1) and linear layer (2, 4) of ones, by unit: 2 * 1 + 2 * 4^0.1."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Linear(4, 2))
    for module in model:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        nn.init.ones_(module.weight)
    assert L0Approx(model).loss.item() == pytest.approx(2 + 8, rel=1e-6), "element by element"
    assert L0Approx(model, p=0.5, eps=3.0).loss.item() == pytest.approx(20, rel=1e-6)


def test_closed_forms() -> None:
    layer = linear(torch.tensor([[3.0, -4.0], [0.0, 12.0], [-5.0, 0.0]]))
    values = {
        L1: (19 + 5, {}),
        L2: (9 + 16 + 144 + 25, {}),
        ElasticNet: (0.25 * 24 + 0.75 * 194 / 2, {"l1_ratio": 0.25}),
        GroupLasso: (5 + 12 + 5, {}),
        SparseGroupLasso: (0.2 * 24 + 0.8 * 22, {"l1_ratio": 0.2}),
        GroupVariance: (1 / torch.tensor([5.0, 12, 5]).var().item(), {}),
    }
    for kind, (expected, options) in values.items():
        assert kind(layer, **options).loss.item() == pytest.approx(expected, rel=1e-6), kind.__name__  # type: ignore
    assert L2(layer, half=True).loss.item() == pytest.approx(97, rel=1e-6)
    assert GroupLasso(layer, scaled=True).loss.item() == pytest.approx(22 * math.sqrt(2), rel=1e-6)
    assert SparseGroupLasso(layer, scaled=True, l1_ratio=0.0).loss.item() == pytest.approx(22 * math.sqrt(2), rel=1e-6)
    assert L1(layer, biases=True).loss.item() == pytest.approx(24 + layer.bias.abs().sum().item(), rel=1e-6)


def test_l2_is_weight_decay() -> None:
    for optimizer_of in (torch.optim.SGD, torch.optim.Adam):
        results = []
        for decay, strength in ((0.1, 0.0), (0.0, 0.1)):
            torch.manual_seed(0)
            model = nn.Linear(5, 3, bias=False).double()
            x = torch.randn(20, 5, dtype=torch.float64)
            penalty = L2(model, half=True)
            penalty.strength = strength
            optimizer = optimizer_of(model.parameters(), 0.01, weight_decay=decay)
            for _ in range(10):
                optimizer.zero_grad()
                model(x).exp().mean().backward()
                penalty.add_gradients()
                optimizer.step()
                penalty.step(optimizer)
            results.append(model.weight.detach())
        torch.testing.assert_close(*results, rtol=1e-12, atol=1e-14)


def toy(spec: str | None, optimum: float = 3.0, way: str = "add_gradients") -> list[tuple[float, float]]:
    """Steps of gradient descent on (w0 - optimum)^2 / 2 + 2.5 (w1 - 2)^2 from (8, 5), as in Distiller's L1 notebook."""
    model = nn.Linear(2, 1, bias=False).double()
    model.weight.data.copy_(torch.tensor([[8.0, 5.0]]))
    penalty = None if spec is None else create(spec, model)
    optimizer = torch.optim.SGD(model.parameters(), 0.04)
    end, slopes = torch.tensor([[optimum, 2.0]]), torch.tensor([[1.0, 5.0]])
    path = []
    for _ in range(1000):
        model.weight.grad = slopes * (model.weight.detach() - end)
        if penalty and way == "loss":
            (penalty.strength * penalty.loss).backward()
        if penalty and way == "add_gradients":
            penalty.add_gradients()
        optimizer.step()
        if penalty:
            penalty.step(optimizer)
        path.append((model.weight[0, 0].item(), model.weight[0, 1].item()))
    return path


@pytest.mark.parametrize("way", ["loss", "add_gradients"])
def test_where_the_toy_of_distiller_ends(way: str) -> None:
    ends = {
        None: (3, 2),
        "l1=0.75": (2.25, 1.85),
        "l2=0.75": (1.2, 1.538462),
        "l2(half=true)=1.5": (1.2, 1.538462),
        "elastic_net(l1_ratio=0.5)=1": (2.5 / 1.5, 9.5 / 5.5),  # gradient (1 + w) / 2
    }
    for spec, end in ends.items():
        assert toy(spec, way=way)[-1] == pytest.approx(end, abs=1e-6), spec


def test_only_proximal_steps_make_zeros() -> None:
    """At an optimum of 0.3 the penalty wants w0 = 0: its gradient never gets there, its proximal step does."""
    gradient = [w0 for w0, _ in toy("l1=0.75", 0.3)]
    assert all(w0 != 0 for w0 in gradient) and 0.001 < max(map(abs, gradient[-100:])) < 0.045
    proximal = [w0 for w0, _ in toy("l1(prox=true)=0.75", 0.3)]
    assert all(w0 == 0 for w0 in proximal[-900:])
    assert toy("l1(prox=true)=0.75")[-1] == pytest.approx((2.25, 1.85), abs=1e-6)
    assert toy("l2(prox=true)=0.75")[-1] == pytest.approx((1.2, 1.538462), abs=1e-6)
    assert toy("elastic_net(l1_ratio=0.5, prox=true)=1")[-1] == pytest.approx((2.5 / 1.5, 9.5 / 5.5), abs=1e-6)


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 3)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "spec",
    [
        *("l1", "l2", "elastic_net", "l0_approx", "l0_approx(p=0.5, eps=0.1)"),
        *(
            "group_lasso(groups=" + groups + ")"
            for groups in ("units", "layers", "blocks(2,2)", "heads(2)", "elements")
        ),
        "group_lasso(scaled=true)",
        "sparse_group_lasso(l1_ratio=0.3, scaled=true)",
    ],
)
def test_closed_gradients_are_those_of_autograd(spec: str, last: bool, layer: nn.Module) -> None:
    layer = layer.double()
    if last and layer.weight.ndim == 4:  # type: ignore[union-attr]
        layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        layer.weight[1, 2] = 0.0  # type: ignore[index, union-attr]
    penalty = create(spec, layer)
    assert isinstance(penalty, WeightPenalty) and penalty.closed_form
    (expected,) = torch.autograd.grad(penalty.value(penalty.tensors), penalty.tensors)
    (found,) = torch.autograd.grad(3 * penalty.loss, penalty.tensors)
    torch.testing.assert_close(found, 3 * expected.nan_to_num(0.0), rtol=1e-9, atol=1e-12)


def test_large_weights_are_summed_in_pieces_alike() -> None:
    """More numbers than one piece of the closed form of l1, dense and as a part of a larger tensor."""
    torch.manual_seed(0)
    for weight in (
        torch.randn(300, 301),
        torch.randn(302, 301)[1:301],
        torch.randn(301, 300).t(),
        torch.randn(300, 400),
    ):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = nn.Parameter(weight)
        penalty = L1(layer)
        penalty.strength = 0.5
        penalty.add_gradients()
        assert layer.weight.grad is not None
        torch.testing.assert_close(layer.weight.grad, 0.5 * weight.sign())


def test_proximal_training_adds_no_gradient() -> None:
    layer = linear(MATRIX)
    penalty = L1(layer, prox=True)
    penalty.add_gradients()
    assert layer.weight.grad is None
    other = L1(layer)
    other.step(0.1)
    torch.testing.assert_close(layer.weight.data, MATRIX)


def test_zero_share_counts_groups() -> None:
    layer = linear(MATRIX)
    with torch.no_grad():
        layer.weight[1] = 0
        layer.weight[0, 0] = 0
        layer.weight[3] = 1e-30  # its square is zero in single precision
    shares = {
        "l1": 4 / 12,
        "group_lasso(groups=rows": 1 / 4,
        "group_lasso(groups=cols": 0,
        "group_lasso(groups=rows_cols": 1 / 7,
        "group_lasso(groups=layers": 0,
        "sparse_group_lasso(groups=blocks(1,3)": 1 / 4,
    }
    for text, share in shares.items():
        spec = f"{text}, prox=true)" if "(" in text else f"{text}(prox=true)"
        found = create(spec, layer).zero_share()
        assert found is not None and found.item() == pytest.approx(share), spec
        assert create(spec.replace("prox=true", "prox=false"), layer).zero_share() is None


def test_group_variance_needs_groups_that_vary() -> None:
    model = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 4))
    penalty = GroupVariance(model)
    assert penalty.coverage().layers == ("1.weight",)
    with pytest.raises(UserError, match="one group per layer, whose norm has no variance"):
        GroupVariance(model, groups="layers")
    with pytest.raises(UserError, match="'rows_cols' overlap"):
        GroupVariance(model, groups="rows_cols")
    with pytest.raises(UserError, match=r"'heads\(2\)' overlap or span layers"):
        GroupVariance(nn.MultiheadAttention(4, 2), groups="heads(2)")


def test_prox_without_a_proximal_step_is_refused() -> None:
    for kind in (L0Approx, GroupVariance):
        with pytest.raises(UserError, match=f"{kind.registered_name} has no option 'prox'"):  # type: ignore[attr-defined]
            kind(linear(MATRIX), prox=True)


def test_coverage_counts_groups_and_parameters() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2))
    coverage = GroupLasso(model, groups="rows_cols").coverage()
    assert coverage.layers == ("3.weight", "4.weight")
    assert (coverage.groups, coverage.parameters, coverage.total) == ((21, 7), (80, 10), 28)
    assert str(coverage) == "2 layers (3.weight ... 4.weight), 28 rows_cols, 90 parameters"
    heads = GroupLasso(nn.MultiheadAttention(8, 2), groups="heads(2)").coverage()
    assert (heads.groups, heads.parameters, heads.total) == ((2, 2), (192, 64), 2), "each head spans two weights"
    assert str(L1(model).coverage()) == "3 layers (0.weight ... 4.weight), 198 elements, 198 parameters"


def test_tied_weights_count_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert L1(model).loss.item() == pytest.approx(model.get_parameter("0.weight").abs().sum().item(), rel=1e-6)


@pytest.mark.parametrize(
    "spec", ["l2=0.3", "l0_approx(p=0.5, eps=0.1)=0.3", "group_lasso=0.3", "sparse_group_lasso=0.3"]
)
def test_second_derivatives(spec: str) -> None:
    """A gradient penalty or a Hessian may go through the loss, although its first gradient is a closed form."""
    layer = linear(MATRIX).double()
    penalty = create(spec, layer)
    assert isinstance(penalty, WeightPenalty)
    direction = torch.randn_like(layer.weight)

    def product(loss: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, layer.weight, create_graph=True)
        return torch.autograd.grad((gradient * direction).sum(), layer.weight)[0]

    found = product(penalty.loss)
    torch.testing.assert_close(found, product(penalty.value(penalty.tensors)))
    shift = 1e-5 * direction
    gradients = []
    for sign in (1, -2):
        layer.weight.data.add_(shift, alpha=sign)
        gradients.append(torch.autograd.grad(penalty.loss, layer.weight)[0])
    torch.testing.assert_close(found, (gradients[0] - gradients[1]) / 2e-5, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("spec", "most"),
    [("l1=1", 2), ("l2=1", 1), ("group_lasso=1", 9), ("group_lasso(groups=kernels)=1", 9), ("hierarchical=1", 20)],
)
def test_no_loop_over_groups(spec: str, most: int, from_benchmarks: Callable[[str], ModuleType]) -> None:
    """Kernels of `add_gradients` depend on the number of layers, not on their width; `most` is for one layer."""

    def kernels(width: int, layers: int) -> int:
        penalty = create(spec, nn.Sequential(*(nn.Conv2d(width, width, 1) for _ in range(layers))))
        penalty.add_gradients()
        with from_benchmarks("kernels").Kernels() as counted:
            penalty.add_gradients()
        return counted.count

    assert kernels(4, 1) == kernels(64, 1) <= most
    assert kernels(64, 3) - kernels(64, 2) == kernels(4, 3) - kernels(4, 2) <= 4
