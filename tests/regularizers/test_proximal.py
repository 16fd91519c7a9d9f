"""Proximal steps, against brute-force minimisation, scikit-learn's solvers and hand-made closed forms."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet, Lasso, MultiTaskLasso
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from regx.errors import UserError
from regx.regularizers import create
from regx.regularizers.groups import Level, Part, cut
from regx.regularizers.proximal import GroupNorms, proximal_step, step_sizes
from regx.regularizers.selection import select

Array = NDArray[np.float64]


def obvious_objective(
    u: Array, w: Array, t: Array, l1: float, groups: list[tuple[float, list[int]]], ridge: float
) -> float:
    """What the step minimises, from its definition; everything is flat."""
    value = ((u - w) ** 2 / (2 * t)).sum() + l1 * np.abs(u).sum() + ridge * (u**2).sum()
    return float(value + sum(weight * math.sqrt((u[members] ** 2).sum()) for weight, members in groups))


def brute_force(w: Array, t: Array, l1: float, groups: list[tuple[float, list[int]]], ridge: float) -> Array:
    """argmin of `obvious_objective` by smooth minimisation of its dual: one vector for each norm.

    min_u max_xi: with u = (w - t sum xi) / (1 + 2 ridge t), |xi_element| <= l1, ||xi_g|| <= weight_g, the dual is a
    convex quadratic over balls; projecting each ball by a parametrisation leaves nothing to constrain.
    """
    n = len(w)
    blocks = [*([(l1, [i]) for i in range(n)] if l1 else []), *groups]
    sizes = [len(members) for _, members in blocks]
    scale = t / (1 + 2 * ridge * t)

    def unpack(z: Array) -> tuple[Array, list[Array]]:
        pull, xis, at = np.zeros(n), [], 0
        for (_, members), size in zip(blocks, sizes, strict=True):
            xi = z[at : at + size]
            at += size
            xis.append(xi)
            pull[members] += xi
        return (w - t * pull) / t * scale, xis

    if not blocks:
        return unpack(np.zeros(0))[0]
    # accelerated projected gradient on the dual, long enough to be a truth to 1e-9
    z, y, momentum = np.zeros(sum(sizes)), np.zeros(sum(sizes)), 1.0
    overlap = np.zeros(n)
    for _, members in blocks:
        overlap[members] += 1
    rate = 1 / (scale * np.maximum(overlap, 1)).max()
    for _ in range(60000):
        u, _ = unpack(y)
        new, at = np.empty_like(z), 0
        for (weight, members), size in zip(blocks, sizes, strict=True):
            xi = y[at : at + size] + rate * u[members]
            norm = math.sqrt((xi**2).sum())
            new[at : at + size] = xi * min(1.0, weight / norm) if norm > 0 else xi
            at += size
        if (y - new) @ (new - z) > 0:  # restart, when the momentum points uphill
            momentum = 1.0
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        y = new + (momentum - 1) / following * (new - z)
        if np.abs(new - z).max() < 1e-13 and np.abs(new - y).max() < 1e-12:
            z = new
            break
        z, momentum = new, following
    return unpack(z)[0]


def level_of(groups: list[list[int]], shape: tuple[int, ...]) -> Level:
    """A level with one piece per element."""
    ids = torch.full((math.prod(shape),), -1)
    for number, members in enumerate(groups):
        ids[members] = number
    assert (ids >= 0).all()
    return Level([Part(shape, tuple(range(len(shape))))], ids)


ROWS, COLUMNS = 4, 6
ROW_GROUPS = [[r * COLUMNS + c for c in range(COLUMNS)] for r in range(ROWS)]
COLUMN_GROUPS = [[r * COLUMNS + c for r in range(ROWS)] for c in range(COLUMNS)]
BLOCK_GROUPS = [
    [r * COLUMNS + c for r in range(2 * i, 2 * i + 2) for c in range(3 * j, 3 * j + 3)] for i in (0, 1) for j in (0, 1)
]
ALL_GROUPS = [list(range(ROWS * COLUMNS))]
PAIRS = [[r * COLUMNS + c, r * COLUMNS + c + 1] for r in range(ROWS) for c in range(0, COLUMNS, 2)]

PENALTIES: dict[str, tuple[float, list[tuple[float, list[list[int]]]], float, bool]] = {
    # name: l1, terms from fine to coarse, ridge, nested
    "l1": (0.5, [], 0.0, True),
    "ridge": (0.0, [], 0.7, True),
    "elastic": (0.5, [], 0.7, True),
    "rows": (0.0, [(1.2, ROW_GROUPS)], 0.0, True),
    "columns": (0.0, [(1.2, COLUMN_GROUPS)], 0.0, True),
    "blocks": (0.0, [(1.4, BLOCK_GROUPS)], 0.0, True),
    "layer": (0.0, [(2.0, ALL_GROUPS)], 0.0, True),
    "group_ridge": (0.0, [(1.0, ROW_GROUPS)], 0.3, True),
    "sparse_group": (0.4, [(0.8, ROW_GROUPS)], 0.0, True),
    "sparse_group_ridge": (0.4, [(0.5, ROW_GROUPS)], 0.2, True),
    "nested": (0.0, [(0.3, PAIRS), (0.4, ROW_GROUPS), (0.6, ALL_GROUPS)], 0.0, True),
    "nested_l1": (0.2, [(0.3, PAIRS), (0.4, ROW_GROUPS), (0.6, ALL_GROUPS)], 0.1, True),
    "rows_cols": (0.0, [(0.7, ROW_GROUPS), (0.6, COLUMN_GROUPS)], 0.0, False),
    "rows_cols_l1": (0.2, [(0.6, ROW_GROUPS), (0.5, COLUMN_GROUPS)], 0.1, False),
}
STEPS: dict[str, Callable[[torch.Generator], Tensor | float]] = {
    "scalar": lambda _: 0.8,
    "tensor": lambda g: torch.rand((ROWS, COLUMNS), generator=g, dtype=torch.float64) * 1.5 + 0.05,
    "wide": lambda g: 10 ** (torch.rand((ROWS, COLUMNS), generator=g, dtype=torch.float64) * 4 - 3),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", PENALTIES)
def test_steps_are_those_of_brute_force(name: str, steps: str) -> None:
    l1, terms, ridge, nested = PENALTIES[name]
    generator = torch.Generator().manual_seed(hash_of(name + steps))
    w = torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    w[0] *= 0.3  # a row that should go
    w[2, 3] = 0.0
    t = STEPS[steps](generator)
    x = w.clone()
    norms = [GroupNorms(level_of(groups, (ROWS, COLUMNS)), weight) for weight, groups in terms]
    proximal_step([x], [t], l1=[l1], norms=norms, ridge=[ridge], nested=nested)
    flat_t = np.broadcast_to(np.asarray(t), w.shape).ravel().copy()
    groups = [(weight, members) for weight, level in terms for members in level]
    truth = brute_force(w.numpy().ravel(), flat_t, l1, groups, ridge)
    arguments = (w.numpy().ravel(), flat_t, l1, groups, ridge)
    # the tolerance of the ascent on the dual is 1e-6 of the largest weight; the others are exact
    iterative = len(terms) > 1 and (not nested or steps != "scalar")
    np.testing.assert_allclose(x.numpy().ravel(), truth, atol=2e-5 if iterative else 1e-7)
    best = obvious_objective(truth, *arguments)
    assert obvious_objective(x.numpy().ravel(), *arguments) <= best + 1e-8 * max(1, abs(best))
    zeros = np.abs(truth) < 1e-7
    assert zeros.any() or name == "ridge" or (name in ("columns", "layer", "group_ridge") and steps != "scalar")
    if not iterative and name != "ridge":
        assert ((x.numpy().ravel() == 0) == zeros).all(), "zeros are exact, and in the same places"


def hash_of(text: str) -> int:
    return sum(ord(letter) * 31**i for i, letter in enumerate(text)) % 2**31


@pytest.mark.parametrize("name", ["rows", "sparse_group", "rows_cols"])
def test_brute_force_itself_against_a_general_minimiser(name: str) -> None:
    """The truth of the test above, checked once more by a method that knows nothing of duals or zeros."""
    l1, terms, ridge, _ = PENALTIES[name]
    rng = np.random.default_rng(5)
    w, t = rng.normal(size=ROWS * COLUMNS) * 2, rng.uniform(0.2, 1.0, size=ROWS * COLUMNS)
    groups = [(weight, members) for weight, level in terms for members in level]
    truth = brute_force(w, t, l1, groups, ridge)
    found = minimize(obvious_objective, w, (w, t, l1, groups, ridge), method="L-BFGS-B", options={"maxiter": 5000})
    value = obvious_objective(truth, w, t, l1, groups, ridge)
    assert value <= found.fun + 1e-9
    assert value == pytest.approx(found.fun, rel=1e-3)


def test_groups_over_several_tensors_with_steps_of_their_own() -> None:
    torch.manual_seed(0)
    shapes = [(2, 3), (2, 2), (5,)]
    tensors = [torch.randn(*shape, dtype=torch.float64) for shape in shapes]
    parts = [Part((2, 3), (0,)), Part((2, 2), (0,)), None]
    level = Level(parts, torch.tensor([0, 1, 0, 2]))
    groups = [[0, 1, 2, 6, 7], [3, 4, 5], [8, 9]]
    weights = torch.tensor([0.7, 0.4, 0.9])
    scales: list[list[float | Tensor]] = [[0.5] * 3, [0.5, 0.2, 0.5], [torch.rand(2, 3, dtype=torch.float64), 0.3, 0.1]]
    for steps in scales:
        changed = [x.clone() for x in tensors]
        proximal_step(changed, steps, norms=[GroupNorms(level, weights)])
        flat_t = [np.broadcast_to(np.asarray(t), x.shape).ravel() for t, x in zip(steps[:2], tensors, strict=False)]
        flat_w = np.concatenate([x.numpy().ravel() for x in tensors[:2]])
        pairs = [(float(weight), members) for weight, members in zip(weights.double(), groups, strict=True)]
        truth = brute_force(flat_w, np.concatenate(flat_t), 0.0, pairs, 0.0)
        np.testing.assert_allclose(np.concatenate([x.numpy().ravel() for x in changed[:2]]), truth, atol=1e-7)
        assert torch.equal(changed[2], tensors[2]), "not reached"


def test_a_step_of_zero_changes_nothing() -> None:
    torch.manual_seed(0)
    w = torch.randn(4, 6, dtype=torch.float64)
    w[1] = 0
    for zero in (0.0, torch.zeros(4, 6, dtype=torch.float64)):
        for terms in ([ROW_GROUPS], [ROW_GROUPS, COLUMN_GROUPS]):
            x = w.clone()
            norms = [GroupNorms(level_of(groups, (4, 6)), 1.0) for groups in terms]
            proximal_step([x], [zero], l1=[1.0], norms=norms, nested=len(terms) == 1)
            torch.testing.assert_close(x, w, rtol=0, atol=1e-15)
    # In one group, one tensor stays where it is and the other moves.
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([1.0])
    level = Level([Part((2,), ()), Part((1,), ())], torch.tensor([0, 0]))
    proximal_step([a, b], [0.0, 0.5], norms=[GroupNorms(level, 2.0)])
    assert a.tolist() == [3, 4]
    # b = 1 * theta / (theta + 1) with theta^2 = 25 + b^2
    theta = math.sqrt(25 + b.item() ** 2)
    assert b.item() == pytest.approx(theta / (theta + 1), rel=1e-6)


@pytest.mark.parametrize("strength", [1e-30, 1e-12, 1e-8, 1e-4, 1e8, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_very_small_and_very_large_strengths(strength: float, dtype: torch.dtype) -> None:
    """A strength that is warmed up from nothing must not destroy the weights, and a huge one gives zeros, not NaN."""
    torch.manual_seed(0)
    w = torch.randn(8, 16).to(dtype)
    t = (10 ** (torch.rand(8, 16) * 6 - 6)).to(dtype)
    layer = nn.Linear(16, 8)
    _, (level,) = cut("rows", select(layer))
    x = w.clone()
    proximal_step([x], [t], norms=[GroupNorms(level, strength)])
    if strength < 1:
        torch.testing.assert_close(x, w, rtol=2 * strength + 1e-6, atol=2 * strength)
    else:
        assert (x == 0).all()


def test_a_nan_stays_visible() -> None:
    """A run that diverged must not look like a sparse one."""
    for steps in (0.1, torch.full((4, 6), 0.1)):
        x = torch.randn(4, 6)
        x[1, 2] = torch.nan
        proximal_step([x], [steps], l1=[0.1], norms=[GroupNorms(level_of(ROW_GROUPS, (4, 6)), 0.1)])
        assert x[1, 2].isnan() and x[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    exact = torch.randn(4, 6).to(dtype)
    for steps in (0.5, torch.rand(4, 6).to(dtype)):
        for l1, terms, _, nested in (PENALTIES["sparse_group"], PENALTIES["rows_cols"]):
            results = []
            for kind in (dtype, torch.float64):
                x = exact.clone().to(kind)
                t = steps.to(kind) if isinstance(steps, Tensor) else steps
                norms = [GroupNorms(level_of(groups, (4, 6)), weight) for weight, groups in terms]
                proximal_step([x], [t], l1=[l1], norms=norms, nested=nested)
                results.append(x.double())
            torch.testing.assert_close(*results, rtol=0, atol=0.05)


# Optimisers: does training end where the theory says?


def regression(seed: int = 0, outputs: int = 1, noise: float = 0.3) -> tuple[Array, Array]:
    """(60, 12) inputs and (60, outputs) targets of a linear truth with 4 inputs that count."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 12))
    x[:, 1] = 0.7 * x[:, 0] + 0.5 * x[:, 1]
    truth = np.zeros((12, outputs))
    truth[[0, 3, 5, 8]] = rng.normal(size=(4, outputs)) * 2
    return x, x @ truth + noise * rng.normal(size=(60, outputs))


def trained(x: Array, y: Array, spec: str, name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    """(outputs, inputs) weights of the linear model that minimises ||y - xw||^2 / (2 n) + penalty."""
    torch.manual_seed(0)
    weight = (model := nn.Linear(x.shape[1], y.shape[1], bias=False).to(dtype)).weight
    inputs, targets = torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype)
    gram, right = inputs.T @ inputs / len(x), targets.T @ inputs / len(x)
    penalty = create(spec, model)
    make, steps, decay = OPTIMIZERS[name]
    optimizer = make([weight])
    for _ in range(steps):
        weight.grad = torch.addmm(right, weight.detach(), gram, beta=-1)
        optimizer.step()
        penalty.step(optimizer)
        optimizer.param_groups[0]["lr"] *= decay
    return weight.detach()


# Name -> optimiser, number of steps, factor of the learning rate after each.
OPTIMIZERS: dict[str, tuple[Callable[[list[Any]], Optimizer], int, float]] = {
    "sgd": (lambda p: SGD(p, 0.5), 250, 1.0),
    "momentum": (lambda p: SGD(p, 0.2, momentum=0.8), 250, 1.0),
    "nesterov": (lambda p: SGD(p, 0.2, momentum=0.8, nesterov=True), 250, 1.0),
    "dampening": (lambda p: SGD(p, 0.5, momentum=0.8, dampening=0.5), 250, 1.0),
    "adam": (lambda p: Adam(p, 0.2, betas=(0.9, 0.99)), 1000, 0.99),
    "amsgrad": (lambda p: Adam(p, 0.5, amsgrad=True), 800, 1.0),
    "adamw": (lambda p: AdamW(p, 0.2, betas=(0.9, 0.99), weight_decay=0.0), 1000, 0.99),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_ends_at_the_lasso(name: str) -> None:
    x, y = regression()
    found = trained(x, y, "l1(prox=true)=0.3", name)[0].numpy()
    lasso = Lasso(0.3, fit_intercept=False, tol=1e-12, max_iter=100000).fit(x, y[:, 0]).coef_
    np.testing.assert_allclose(found, lasso, atol=1e-5)
    assert ((found == 0) == (lasso == 0)).all() and 3 <= (lasso == 0).sum() <= 10


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_elastic_net(name: str) -> None:
    x, y = regression(1)
    found = trained(x, y, "elastic_net(l1_ratio=0.6, prox=true)=0.5", name)[0].numpy()
    truth = ElasticNet(0.5, l1_ratio=0.6, fit_intercept=False, tol=1e-12, max_iter=100000).fit(x, y[:, 0]).coef_
    np.testing.assert_allclose(found, truth, atol=1e-5)
    assert ((found == 0) == (truth == 0)).all() and (truth == 0).any()


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam"])
def test_group_lasso_over_inputs_is_the_multi_task_lasso(name: str) -> None:
    x, y = regression(2, outputs=3)
    found = trained(x, y, "group_lasso(groups=cols, prox=true)=0.5", name).numpy()
    truth = MultiTaskLasso(0.5, fit_intercept=False, tol=1e-12, max_iter=100000).fit(x, y).coef_
    np.testing.assert_allclose(found, truth, atol=1e-5)
    assert ((found == 0) == (truth == 0)).all() and (truth == 0).any()


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("group_lasso(groups=rows_cols, prox=true)=0.3", "sgd"),
        ("group_lasso(groups=rows_cols, prox=true)=0.3", "momentum"),
        ("sparse_group_lasso(groups=cols, l1_ratio=0.4, prox=true)=0.4", "momentum"),
        ("sparse_group_lasso(groups=cols, l1_ratio=0.4, prox=true)=0.4", "adam"),
        ("l2(prox=true)=0.2", "sgd"),
        ("l2(prox=true)=0.2", "adam"),
    ],
)
def test_the_end_is_a_stationary_point(spec: str, name: str) -> None:
    """No gradient step followed by a plain proximal step moves it: 0 is in the subdifferential."""
    x, y = regression(3, outputs=3)
    weight = trained(x, y, spec, name)
    model = nn.Linear(12, 3, bias=False).double()
    model.weight.data.copy_(weight)
    penalty = create(spec, model)
    (torch.from_numpy(x) @ model.weight.T - torch.from_numpy(y)).square().sum().div(2 * len(x)).backward()
    SGD(model.parameters(), 0.1).step()
    penalty.step(0.1)
    assert (model.weight - weight).abs().max() < 1e-5
    assert (spec.startswith("l2")) != bool((weight == 0).any())


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_single_precision_has_the_same_zeros(name: str) -> None:
    x, y = regression()
    found = trained(x, y, "l1(prox=true)=0.3", name, dtype=torch.float32)[0].double().numpy()
    lasso = Lasso(0.3, fit_intercept=False, tol=1e-12, max_iter=100000).fit(x, y[:, 0]).coef_
    np.testing.assert_allclose(found, lasso, atol=1e-4)
    assert ((found == 0) == (lasso == 0)).all()


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_diabetes_selects_the_features_of_scikit_learn(name: str, share: float) -> None:
    """A real data set: 442 patients, 10 measurements; alpha as a share of the largest that keeps any feature."""
    data: Any = load_diabetes()
    x, y = data.data, data.target
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    alpha = share * np.abs(x.T @ y).max() / len(y)
    lasso = Lasso(alpha, fit_intercept=False, tol=1e-12, max_iter=100000).fit(x, y).coef_
    found = trained(x, y[:, None], f"l1(prox=true)={alpha}", name)[0].numpy()
    assert ((found == 0) == (lasso == 0)).all() and 1 <= (lasso != 0).sum() < 10
    np.testing.assert_allclose(found, lasso, atol=1e-5)


def test_learning_rates_of_parameter_groups() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False))
    first, second = model.get_parameter("0.weight"), model.get_parameter("1.weight")
    for weight in (first, second):
        nn.init.ones_(weight)
    optimizer = SGD([{"params": [first], "lr": 0.5}, {"params": [second]}], 0.1)
    penalty = create("l1(prox=true)=1", model)
    penalty.step(optimizer)
    assert first.tolist() == [[0.5] * 3] * 3
    torch.testing.assert_close(second, torch.full((2, 3), 0.9))
    group = create("group_lasso(groups=layers, prox=true)=1", model)
    group.step(optimizer)  # norms 1.5 and 0.9 * sqrt 6
    torch.testing.assert_close(first, torch.full((3, 3), 0.5 * (1 - 0.5 / 1.5)))
    torch.testing.assert_close(second, torch.full((2, 3), 0.9 * (1 - 0.1 / (0.9 * 6**0.5))))
    optimizer.param_groups[0]["lr"] = 0.0
    before = first.clone()
    group.step(optimizer)
    torch.testing.assert_close(first, before, rtol=0, atol=1e-7)


def test_step_sizes_are_what_a_constant_gradient_of_one_moves() -> None:
    makers: list[Callable[[list[Any]], Optimizer]] = [
        lambda p: SGD(p, 0.1),
        lambda p: SGD(p, 0.1, momentum=0.9),
        lambda p: SGD(p, 0.1, momentum=0.7, nesterov=True),
        lambda p: SGD(p, 0.1, momentum=0.7, dampening=0.3),
        lambda p: Adam(p, 0.1, eps=1e-3),
        lambda p: Adam(p, torch.tensor(0.1), betas=(0.8, 0.9), amsgrad=True),
        lambda p: AdamW(p, 0.1, weight_decay=0.0),
    ]
    for make in makers:
        x = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
        optimizer = make([x])
        before = x.detach().clone()
        gradient = torch.tensor([[1.0, 2.0], [-0.5, 4.0]], dtype=torch.float64)
        for step in range(200):
            x.grad = gradient * (1 if step else 10)  # which amsgrad remembers
            before = x.detach().clone()
            optimizer.step()
        (t,) = step_sizes(optimizer, [x])
        torch.testing.assert_close(x.detach(), before - torch.as_tensor(t) * gradient, rtol=1e-9, atol=1e-12)


def test_adam_at_its_first_steps() -> None:
    """The bias correction is part of the step."""
    x = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = Adam([x], 0.1)
    for _ in range(3):
        x.grad = torch.tensor([1.0, -2.0, 0.01], dtype=torch.float64)
        before = x.detach().clone()
        optimizer.step()
        (t,) = step_sizes(optimizer, [x])
        torch.testing.assert_close(x.detach(), before - torch.as_tensor(t) * x.grad, rtol=1e-9, atol=1e-12)


def test_a_parameter_without_gradient() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    first, second = model.get_parameter("0.weight"), model.get_parameter("1.weight")
    penalty = create("group_lasso(prox=true)=0.1", model)
    optimizer = Adam(model.parameters(), 0.1)
    first.sum().backward()
    optimizer.step()
    unused = second.detach().clone()
    penalty.step(optimizer)
    torch.testing.assert_close(second.detach(), unused, rtol=0, atol=0)
    assert second not in optimizer.state, "asking leaves no trace"
    assert penalty.zero_share() is not None and first.isfinite().all()


def test_unsuitable_optimisers() -> None:
    model = nn.Linear(2, 2)
    penalty = create("l1(prox=true)=0.1", model)
    with pytest.raises(UserError, match="know SGD, Adam and AdamW, not RMSprop; use prox=false"):
        penalty.step(RMSprop(model.parameters()))
    with pytest.raises(UserError, match="does not train a parameter that the penalty reaches"):
        penalty.step(SGD([model.bias], 0.1))
    with pytest.raises(UserError, match="maximize"):
        penalty.step(SGD(model.parameters(), 0.1, maximize=True))


def test_a_learning_rate_instead_of_an_optimiser() -> None:
    model = nn.Linear(2, 2)
    nn.init.ones_(model.weight)
    create("l1(prox=true)=2", model).step(0.1)
    assert model.weight.tolist() == [[pytest.approx(0.8)] * 2] * 2


def test_closed_form_of_convolutions_in_channels_last() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3)
    last = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    last.load_state_dict(layer.state_dict())
    for kind in ("filters", "channels", "kernels", "blocks(2,2)"):
        for model in (layer, last):
            model.weight.data.mul_(1.0)
            create(f"group_lasso(groups={kind}, prox=true)=1", model).step(0.05)
        torch.testing.assert_close(layer.weight, last.weight.contiguous())
    assert last.weight.is_contiguous(memory_format=torch.channels_last)
