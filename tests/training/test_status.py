"""Unit and point status, against the values of the Jumpstart paper's code and a slow count with Python loops."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regx.errors import UserError
from regx.models import Rectangular
from regx.regularizers import Jumpstart, Preactivations
from regx.training import status
from regx.training.status import ABSENT, DEAD, KEYS, LINEAR, NONLINEAR, StatusTracker


class Fed(nn.Module):
    """Activations that are fed by hand: one tensor per layer."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ReLU() for _ in range(layers))

    def forward(self, tensors: Sequence[Tensor]) -> None:
        for layer, x in zip(self.layers, tensors, strict=True):
            layer(x)


def tracker_of(batches: Sequence[Sequence[object]], **options: int | None) -> StatusTracker:
    model = Fed(len(batches[0]))
    tracker = StatusTracker(Preactivations(model), **options)
    for batch in batches:
        model([torch.as_tensor(x, dtype=torch.float32) for x in batch])
        tracker.update()
    return tracker


def numbers(tracker: StatusTracker) -> dict[str, float]:
    values = tracker.compute()
    assert tuple(values) == KEYS and len(KEYS) == 16
    assert all(value.shape == () for value in values.values())
    return {name: value.item() for name, value in values.items()}


CELLS = {DEAD: [-2.0, -1.0], LINEAR: [1.0, 2.0], NONLINEAR: [-1.0, 1.0]}


def points(rows: Sequence[Sequence[int]]) -> list[list[list[float]]]:
    """Pre-activations of two units whose point statuses are `rows` (points x layers)."""
    return [[CELLS[code] for code in column] for column in zip(*rows, strict=True)]


def test_six_points_in_four_layers() -> None:
    rows = [[1, 1, 1, 1], [-1, -1, -1, -1], [1, -1, 1, 1], [1, -1, -1, -1], [0, 1, 0, 1], [0, 0, 0, 0]]
    tracker = tracker_of([points(rows)])
    found = numbers(tracker)
    expected = {
        "point_nonlinear_ratio": 1 / 6,
        "point_linear_ratio": 1 / 6,
        "point_dead_ratio": 3 / 6,
        "nonlinearity_ratio": 10 / 24,
        "linearity_ratio": 6 / 24,
        "deathness_ratio": 8 / 24,
        "point_efficiency": 14 / 24,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    np.testing.assert_array_equal(tracker.tables().points, rows)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([-9.0, -9.0], {"dead": 1, "linear": 0, "nonlinear": 0, "efficiency": 0, "positive": 10, "negative": 0}),
        ([9.0, 9.0], {"dead": 0, "linear": 1, "nonlinear": 0, "efficiency": 1, "positive": 0, "negative": 10}),
    ],
)
def test_all_alike(value: list[float], expected: dict[str, float]) -> None:
    found = numbers(tracker_of([[[value, value], [value, value], [value, value]]]))
    for code in ("dead", "linear", "nonlinear"):
        assert found[f"unit_{code}_ratio"] == found[f"point_{code}_ratio"] == expected[code]
    assert found["deathness_ratio"] == expected["dead"] and found["linearity_ratio"] == expected["linear"]
    assert found["point_efficiency"] == expected["efficiency"]
    for sign in ("positive", "negative"):
        assert found[f"{sign}_unit_loss"] == found[f"{sign}_point_loss"] == expected[sign]
    assert found["unit_loss"] == found["point_loss"] == 5


def test_all_nonlinear() -> None:
    found = numbers(tracker_of([[[[-1.0, 1.0], [1.0, -1.0]]] * 3]))
    assert found["unit_nonlinear_ratio"] == found["point_nonlinear_ratio"] == found["nonlinearity_ratio"] == 1
    assert found["point_efficiency"] == 1 and found["unit_loss"] == found["point_loss"] == 0


def test_units_are_judged_over_batches_and_points_are_not() -> None:
    assert numbers(tracker_of([[[[1.0, 2.0]]], [[[-1.0, -2.0]]]]))["unit_nonlinear_ratio"] == 1
    dead_but_one = [-1, -1, 1, -1]
    batches = [points([[0] * 4] * 2), points([dead_but_one] * 2), points([[0] * 4] * 2)]
    found = numbers(tracker_of(batches))
    expected = {
        "point_nonlinear_ratio": 0,
        "point_linear_ratio": 2 / 3,
        "point_dead_ratio": 1 / 3,
        "deathness_ratio": 1 / 4,
        "linearity_ratio": 2 / 3,
        "nonlinearity_ratio": 2 / 24,
        "point_efficiency": 2 / 3,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("layers", "rows", "linear", "dead"),
    [
        ([[[1, 1], [-1, -1]], [[1, 1], [-1, -1]]], [[0, 0], [-1, -1]], 0.5, 0.5),
        ([[[1, 1], [-1, -1]], [[-1, -1], [-1, -1]]], [[0, -1], [-1, -1]], 0, 1),
        ([[[1, 1], [-1, -1], [1, 1]], [[0.1, -0.1], [-1, -1], [1, 1]]], [[0, 1], [-1, -1], [0, 0]], 1 / 3, 1 / 3),
    ],
)
def test_two_layers_fed_by_hand(
    layers: list[list[list[float]]], rows: list[list[int]], linear: float, dead: float
) -> None:
    tracker = tracker_of([layers])
    found = numbers(tracker)
    np.testing.assert_array_equal(tracker.tables().points, rows)
    assert found["point_linear_ratio"] == pytest.approx(linear) and found["point_dead_ratio"] == pytest.approx(dead)
    assert found["point_nonlinear_ratio"] == 0


def rectangular(weight: float, bias: float) -> tuple[Rectangular, StatusTracker]:
    model = Rectangular((2,), 1, depth=10, width=5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(bias if name.endswith("bias") else weight)
    return model, StatusTracker(Preactivations(model, hook_at="layer"))


def run(weight: float, bias: float, *samples: Sequence[float]) -> tuple[dict[str, float], status.StatusTables]:
    model, tracker = rectangular(weight, bias)
    for sample in samples:
        model(torch.tensor([sample]))
        tracker.update()
    tables = tracker.tables()
    assert tables.points.shape == (2, 10) and tables.units.shape == (5, 10)
    assert tables.layers == tuple(f"hidden.layer{i}" for i in range(10))
    return numbers(tracker), tables


@pytest.mark.parametrize(("weight", "sample"), [(0, (0.3, 0.8)), (1, (1.0, -1.0))])
def test_zero_preactivations_are_dead(weight: float, sample: Sequence[float]) -> None:
    found, tables = run(weight, 0, sample, sample)
    for name in ("positive_unit", "negative_unit", "positive_point", "negative_point", "unit", "point"):
        assert found[f"{name}_loss"] == 1
    assert found["unit_dead_ratio"] == found["point_dead_ratio"] == found["deathness_ratio"] == 1
    assert found["point_efficiency"] == 0
    assert (tables.units == DEAD).all() and (tables.points == DEAD).all()


def test_ones_network_is_linear() -> None:
    samples = torch.rand(2, 2, generator=torch.Generator().manual_seed(42))
    found, tables = run(1, 1, *samples.tolist())
    assert (tables.units == LINEAR).all() and (tables.points == LINEAR).all()
    assert found["unit_linear_ratio"] == found["point_linear_ratio"] == found["linearity_ratio"] == 1
    assert found["positive_unit_loss"] == found["positive_point_loss"] == 0
    assert found["point_efficiency"] == 1
    # closed form: a_1 = s + 1 with s the sum of the inputs, a_{k+1} = 5 a_k + 1, all units alike
    negative = []
    for s in samples.double().sum(1).tolist():
        a = s + 1
        for _ in range(10):
            negative.append(1 + a)
            a = 5 * a + 1
    mean = sum(negative) / 20
    for kind in ("unit", "point"):
        assert found[f"negative_{kind}_loss"] == pytest.approx(mean, rel=1e-6)
        assert found[f"{kind}_loss"] == pytest.approx(mean / 2, rel=1e-6)


def test_one_live_and_one_dead_sample() -> None:
    found, tables = run(1, 0, (1.0, 1.0), (-1.0, -1.0))
    assert (tables.units == NONLINEAR).all()
    assert tables.points.tolist() == [[LINEAR] * 10, [DEAD] * 10]
    for name in ("point_linear_ratio", "point_dead_ratio", "linearity_ratio", "deathness_ratio", "point_efficiency"):
        assert found[name] == 0.5
    assert found["unit_nonlinear_ratio"] == 1
    positive, negative = (3 + 9) / 20, (10 + 2 * (5**10 - 1) / 4 + 9) / 20
    assert negative == pytest.approx(244141.55)
    for kind in ("unit", "point"):
        assert found[f"positive_{kind}_loss"] == pytest.approx(positive, rel=1e-6)
        assert found[f"negative_{kind}_loss"] == pytest.approx(negative, rel=1e-6)
        assert found[f"{kind}_loss"] == pytest.approx((positive + negative) / 2, rel=1e-6)


def slow_numbers(batches: list[list[Tensor]]) -> dict[str, float]:
    """The definitions, cell by cell; a batch is a list of layers (N, C, ...)."""
    layers = len(batches[0])
    relu = torch.relu

    def code(high: float, low: float) -> int:
        return DEAD if high <= 0 else LINEAR if low > 0 else NONLINEAR

    unit_codes, unit_losses = [], []
    for layer in range(layers):
        for c in range(batches[0][layer].shape[1]):
            parts = [batch[layer][:, c] for batch in batches]
            unit_codes.append(code(max(p.max().item() for p in parts), min(p.min().item() for p in parts)))
            positive = sum(relu(1 - p.max()).item() for p in parts) / len(parts)
            negative = sum(relu(1 + p.min()).item() for p in parts) / len(parts)
            unit_losses.append((positive, negative))
    rows, point_losses = [], []
    for batch in batches:
        for n in range(len(batch[0])):
            row = [batch[layer][n] for layer in range(layers)]
            rows.append([code(x.max().item(), x.min().item()) for x in row])
            point_losses += [(relu(1 - x.max()).item(), relu(1 + x.min()).item()) for x in row]
    efficient = 0
    for row in rows:
        last_dead = max((i for i, status in enumerate(row) if status == DEAD), default=-1)
        efficient += layers - 1 - last_dead
    cells = [cell for row in rows for cell in row]

    def share(things: list[bool]) -> float:
        return sum(things) / len(things)

    def mean(losses: list[tuple[float, float]], side: int) -> float:
        return sum(loss[side] for loss in losses) / len(losses)

    return {
        "positive_unit_loss": mean(unit_losses, 0),
        "negative_unit_loss": mean(unit_losses, 1),
        "positive_point_loss": mean(point_losses, 0),
        "negative_point_loss": mean(point_losses, 1),
        "unit_loss": (mean(unit_losses, 0) + mean(unit_losses, 1)) / 2,
        "point_loss": (mean(point_losses, 0) + mean(point_losses, 1)) / 2,
        "unit_dead_ratio": share([c == DEAD for c in unit_codes]),
        "unit_linear_ratio": share([c == LINEAR for c in unit_codes]),
        "unit_nonlinear_ratio": share([c == NONLINEAR for c in unit_codes]),
        "point_dead_ratio": share([DEAD in row for row in rows]),
        "point_linear_ratio": share([set(row) == {LINEAR} for row in rows]),
        "point_nonlinear_ratio": share([set(row) == {NONLINEAR} for row in rows]),
        "deathness_ratio": share([c == DEAD for c in cells]),
        "linearity_ratio": share([c == LINEAR for c in cells]),
        "nonlinearity_ratio": share([c == NONLINEAR for c in cells]),
        "point_efficiency": efficient / len(cells),
    }


def random_batches() -> list[list[Tensor]]:
    """Layers of different width and rank, in an order that grouping by shape disturbs, and a smaller last batch."""
    torch.manual_seed(5)
    shapes = [(3,), (2, 2), (3,), (5,), (2, 3), (3,)]
    units = [torch.randn(shape[0], *[1] * (len(shape) - 1)) for shape in shapes]
    units[0][0] += 8  # a linear unit
    units[3][0] -= 8  # a dead one
    batches = [[torch.randn(n, *shape) + unit for shape, unit in zip(shapes, units, strict=True)] for n in (7, 7, 4)]
    for batch in batches:
        batch[2][::3] -= 8  # dead points
        batch[4][1::3] += 8  # linear ones
    return batches


@pytest.mark.parametrize("limit", [0, 100, 2**22])
def test_random_layers_equal_a_slow_count(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every limit on what waits: reduced at once, now and then, or all together."""
    monkeypatch.setattr(status, "_WAITING_LIMIT", limit)
    batches = random_batches()
    expected = slow_numbers(batches)
    mixed = ("point_dead_ratio", "linearity_ratio", "unit_linear_ratio", "unit_dead_ratio", "point_efficiency")
    assert all(0 < expected[name] < 1 for name in mixed)
    tracker = tracker_of(batches)
    assert numbers(tracker) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert numbers(tracker) == pytest.approx(expected, rel=1e-5, abs=1e-7)  # reading changes nothing
    tables = tracker.tables()
    assert tables.units.shape == (5, 6) and tables.points.shape == (18, 6)
    assert tables.units.dtype == tables.points.dtype == np.int8
    assert [(tables.units[:, i] != ABSENT).sum() for i in range(6)] == [3, 2, 3, 5, 2, 3]
    for i in range(6):
        for n, x in enumerate(x for batch in batches for x in batch[i]):
            assert tables.points[n, i] == (DEAD if x.max() <= 0 else LINEAR if x.min() > 0 else NONLINEAR)
        for c in range(batches[0][i].shape[1]):
            x = torch.cat([batch[i][:, c].flatten() for batch in batches])
            assert tables.units[c, i] == (DEAD if x.max() <= 0 else LINEAR if x.min() > 0 else NONLINEAR)


@pytest.mark.parametrize(("max_points", "rows"), [(0, 0), (5, 5), (9, 9), (18, 18), (None, 18), (100, 18)])
def test_tables_are_bounded_and_numbers_are_not(max_points: int | None, rows: int) -> None:
    batches = random_batches()
    tracker = tracker_of(batches, max_points=max_points)
    assert np.array_equal(tracker.tables().points, tracker_of(batches, max_points=None).tables().points[:rows])
    assert numbers(tracker) == pytest.approx(slow_numbers(batches), rel=1e-5, abs=1e-7)


def test_reset_forgets_everything() -> None:
    model = Fed(1)
    tracker = StatusTracker(Preactivations(model))
    model([torch.ones(2, 3)])
    tracker.update()
    assert numbers(tracker)["unit_linear_ratio"] == 1
    tracker.reset()
    with pytest.raises(UserError, match="no status yet"):
        tracker.compute()
    model([-torch.ones(4, 2)])
    tracker.update()
    assert numbers(tracker)["unit_dead_ratio"] == 1 and tracker.tables().points.shape == (4, 1)


def test_tiny_values_are_not_rounded() -> None:
    """1 - 3e-9 is 1 in float32: a status taken from the loss would call these units dead and nonlinear."""
    found = numbers(tracker_of([[[[3e-9]]]]))
    assert found["unit_linear_ratio"] == 1 and found["unit_dead_ratio"] == 0


def test_it_keeps_no_graph_and_shares_the_extremes() -> None:
    model = Rectangular((2,), 1, depth=3, width=4)
    regularizer = Jumpstart(model)
    tracker = StatusTracker(regularizer.preactivations)
    model(torch.randn(5, 2))
    tracker.update()
    extremes = regularizer.preactivations.extremes()
    regularizer.loss.backward()
    assert regularizer.preactivations.extremes() is extremes
    assert not any(value.requires_grad for value in tracker.compute().values())


def test_errors() -> None:
    model = Fed(2)
    tracker = StatusTracker(Preactivations(model))
    with pytest.raises(UserError, match="no pre-activations yet"):
        tracker.update()
    with pytest.raises(UserError, match="no status yet"):
        tracker.tables()
    model([torch.ones(2, 3), torch.ones(4, 3)])
    with pytest.raises(UserError, match=r"different numbers of points \(2, 4\)"):
        tracker.update()
    model([torch.ones(2, 3), torch.ones(2, 3)])
    tracker.update()
    model([torch.ones(2, 3), torch.ones(2, 4)])
    with pytest.raises(UserError, match="other layers than the ones before"):
        tracker.update()
