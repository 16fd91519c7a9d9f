"""Distributions follow scipy's laws, keep within their bounds, and make W&B's grids; mistakes name their key."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from regx.errors import UserError
from regx.sweeps.distributions import KINDS, grid, random, read

GRIDS = json.loads((Path(__file__).parent / "fixtures" / "grids.json").read_text())
DRAWS = 4000
LAWS = [
    ({"min": 0.5, "max": 2.0}, stats.uniform(0.5, 1.5)),
    ({"distribution": "uniform", "min": -3, "max": 4}, stats.uniform(-3, 7)),
    ({"distribution": "log_uniform", "min": -7, "max": 2.5}, stats.loguniform(math.exp(-7), math.exp(2.5))),
    ({"distribution": "log_uniform_values", "min": 1e-5, "max": 0.1}, stats.loguniform(1e-5, 0.1)),
    ({"distribution": "inv_log_uniform", "min": 1, "max": 6}, stats.loguniform(math.exp(-6), math.exp(-1))),
    ({"distribution": "inv_log_uniform_values", "min": 2, "max": 9.5}, stats.loguniform(2, 9.5)),
    ({"distribution": "normal"}, stats.norm()),
    ({"distribution": "normal", "mu": -1, "sigma": 0.2}, stats.norm(-1, 0.2)),
    ({"distribution": "log_normal", "mu": 1.5, "sigma": 0.5}, stats.lognorm(s=0.5, scale=math.exp(1.5))),
    ({"distribution": "beta"}, stats.beta(1, 1)),
    ({"distribution": "beta", "a": 2, "b": 0.7}, stats.beta(2, 0.7)),
]
# (parameter, its law before rounding, all its values or, of an unbounded one, those that are likely)
QUANTISED = [
    ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}, stats.uniform(), [0.0, 0.25, 0.5, 0.75, 1.0]),
    ({"distribution": "q_uniform", "min": 1, "max": 7}, stats.uniform(1, 6), [1, 2, 3, 4, 5, 6, 7]),
    (
        {"distribution": "q_uniform", "min": 0.1, "max": 0.5, "q": 0.1},
        stats.uniform(0.1, 0.4),
        [0.1, 0.2, 0.3, 0.4, 0.5],
    ),
    ({"distribution": "q_log_uniform_values", "min": 10, "max": 30, "q": 8}, stats.loguniform(10, 30), [16, 24]),
    ({"distribution": "q_log_uniform", "min": 0, "max": 2}, stats.loguniform(1, math.exp(2)), [1, 2, 3, 4, 5, 6, 7]),
    ({"distribution": "q_normal", "mu": 3, "sigma": 2, "q": 1.5}, stats.norm(3, 2), [1.5 * k for k in range(-4, 9)]),
    ({"distribution": "q_log_normal", "q": 0.5}, stats.lognorm(s=1), [0.5 * k for k in range(40)]),
    ({"distribution": "q_beta", "a": 2, "b": 3, "q": 0.3}, stats.beta(2, 3), [0.0, 0.3, 0.6, 0.9]),
    ({"distribution": "q_beta"}, stats.beta(1, 1), [0, 1]),
]
DISCRETE = [
    ({"value": [1, {"a": None}]}, [[1, {"a": None}]], [1.0]),
    ({"values": ["a", None, True, 1, 0.5]}, ["a", None, True, 1, 0.5], [0.2] * 5),
    ({"values": ["a", "b", "c"], "probabilities": [0.5, 0.125, 0.375]}, ["a", "b", "c"], [0.5, 0.125, 0.375]),
    ({"min": -2, "max": 3}, [-2, -1, 0, 1, 2, 3], [1 / 6] * 6),
]
ALL = [spec for spec, *_ in (*LAWS, *QUANTISED, *DISCRETE)]


def draws(spec: dict[str, Any]) -> list[Any]:
    each = {"x": read(spec)}
    return [random(each, 0, index)["x"] for index in range(DRAWS)]


def test_every_distribution_of_the_format_is_tried() -> None:
    assert {read(spec).kind for spec in ALL} == set(KINDS)


@pytest.mark.parametrize(("spec", "law"), LAWS)
def test_quantiles_and_positions_are_those_of_scipy(spec: dict[str, Any], law: Any) -> None:
    found = read(spec)
    for u in (1e-12, 1e-4, 0.1, 0.25, 0.5, 0.9, 0.999, 1 - 1e-9):
        value = found.quantile(u)
        assert type(value) is float
        assert value == pytest.approx(law.ppf(u), rel=1e-9, abs=1e-12)
        assert found.position(value) == pytest.approx(u, rel=1e-6)
        assert found.quantile(found.position(value)) == pytest.approx(value, rel=1e-6, abs=1e-9)
    low, high = law.support()
    assert found.ends() == pytest.approx([end for end in (low, high) if math.isfinite(end)], rel=1e-12)
    assert found.values() is None


@pytest.mark.parametrize(("spec", "law"), LAWS)
def test_random_draws_follow_the_law(spec: dict[str, Any], law: Any) -> None:
    assert stats.kstest(draws(spec), law.cdf).pvalue > 1e-3


def rounded(law: Any, values: list[Any], bounded: bool) -> np.ndarray:
    """Probability that each of the values is the one nearest to a draw; the last two take what lies outside."""
    middles = [(a + b) / 2 for a, b in itertools.pairwise(values)]
    masses = np.diff([0.0, *law.cdf(middles), 1.0])
    assert bounded or min(masses[0], masses[-1]) < 0.2
    return masses


@pytest.mark.parametrize(("spec", "law", "values"), QUANTISED)
def test_rounded_draws_have_their_exact_probabilities(spec: dict[str, Any], law: Any, values: list[Any]) -> None:
    bounded = "normal" not in spec["distribution"]
    found = [min(max(value, values[0]), values[-1]) if not bounded else value for value in draws(spec)]
    counts = Counter(found)
    assert set(counts) <= set(values)  # exactly: 0.3 is not 0.30000000000000004
    expected = DRAWS * rounded(law, values, bounded)
    common = expected >= 5
    observed = np.array([counts[value] for value in values])
    observed = np.append(observed[common], observed[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    keep = expected > 0
    assert stats.chisquare(observed[keep], expected[keep]).pvalue > 1e-3


@pytest.mark.parametrize(("spec", "law", "values"), QUANTISED)
def test_rounded_values_are_plain_and_come_back_from_their_position(
    spec: dict[str, Any], law: Any, values: list
) -> None:
    found = read(spec)
    for value in values:
        again = found.quantile(found.position(value))
        assert (again, type(again)) == (value, type(value))
        assert json.loads(json.dumps(again)) == value
    if "normal" not in spec["distribution"]:
        assert found.ends() == [values[0], values[-1]]
    assert found.numeric


def test_ends_of_unbounded_laws_are_the_finite_ones() -> None:
    assert read({"distribution": "normal"}).ends() == []
    assert read({"distribution": "q_normal"}).ends() == []
    assert read({"distribution": "log_normal"}).ends() == [0.0]
    assert read({"distribution": "q_log_normal", "q": 2}).ends() == [0]


@pytest.mark.parametrize(("spec", "values", "probabilities"), DISCRETE)
def test_discrete_draws_and_positions(spec: dict[str, Any], values: list[Any], probabilities: list[float]) -> None:
    found = read(spec)
    starts = [0.0, *itertools.accumulate(probabilities)]
    for value, start, mass in zip(values, starts, probabilities, strict=False):
        assert found.position(value) == pytest.approx(start + mass / 2)
        for u in (start + 1e-9, start + mass / 2, start + mass - 1e-9):
            assert found.quantile(u) == value and type(found.quantile(u)) is type(value)
    assert found.quantile(1.0) == values[-1]
    names = Counter(json.dumps(value) for value in draws(spec))
    observed = [names[json.dumps(value)] for value in values]
    assert sum(observed) == DRAWS
    assert len(values) == 1 or stats.chisquare(observed, np.multiply(DRAWS, probabilities)).pvalue > 1e-3


def test_a_choice_of_probability_zero_is_never_drawn() -> None:
    found = read({"values": ["a", "b", "c", "d"], "probabilities": [0, 0.5, 0.5, 0]})
    assert {found.quantile(u) for u in np.linspace(0, 1, 101)} == {"b", "c"}
    with pytest.raises(ValueError, match="probability 0"):
        found.position("d")


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ({"values": [1, 2]}, True),
        ({"values": [True, False]}, 1),
        ({"values": ["1"]}, 1),
        ({"value": "adam"}, "sgd"),
        ({"min": 1, "max": 3}, 4),
        ({"min": 1, "max": 3}, 1.5),
        ({"min": 1, "max": 3}, "2"),
        ({"min": 1.0, "max": 3.0}, 0.999),
        ({"min": 0.0, "max": 3.0}, True),
        ({"min": 0.0, "max": 3.0}, math.nan),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}, 0.3),
        ({"distribution": "q_log_uniform_values", "min": 10, "max": 30, "q": 8}, 8),
        ({"distribution": "q_log_uniform_values", "min": 10, "max": 30, "q": 8}, 32),
    ],
)
def test_a_value_outside_has_no_position(spec: dict[str, Any], value: Any) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read(spec).position(value)
    assert repr(value) in str(caught.value)


def test_whole_and_real_numbers_are_the_same_choice() -> None:
    assert read({"values": [1, 2.0]}).position(1.0) == 0.25
    assert read({"values": [1, 2.0]}).position(2) == 0.75
    assert read({"min": 1, "max": 2}).position(1.0) == 0.25


@pytest.mark.parametrize("case", GRIDS, ids=["order", "integers", "nested"])
def test_grids_have_the_order_of_wandb(case: dict[str, Any]) -> None:
    space = {name: read(spec) for name, spec in case["parameters"].items()}
    points = list(grid(space))
    assert [[point[name] for name in case["names"]] for point in points] == case["points"]
    assert all(list(point) == list(space) for point in points)


@pytest.mark.parametrize(
    ("low", "high", "q", "values"),
    [
        (0, 1, 0.25, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (0, 0.9, 0.3, [0.0, 0.3, 0.6, 0.9]),
        (1, 10, 4, [1, 5, 9]),
        (0.5, 2.6, 1, [0.5, 1.5, 2.5]),
    ],
)
def test_a_grid_in_steps_reaches_its_end(low: float, high: float, q: float, values: list[float]) -> None:
    spec = {"distribution": "q_uniform", "min": low, "max": high, "q": q}
    found = [point["x"] for point in grid({"x": read(spec)})]
    assert [(value, type(value)) for value in found] == [(value, type(value)) for value in values]


@pytest.mark.parametrize("spec", [spec for spec in ALL if read(spec).values() is None])
def test_what_has_no_grid_says_so(spec: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="method: random") as caught:
        grid({"a": read({"values": [1, 2]}), "x": read(spec)})
    assert caught.value.option == "x" and read(spec).kind in str(caught.value)


def test_a_grid_over_all_seeds_is_refused_before_it_is_made() -> None:
    with pytest.raises(UserError, match="4,294,967,296 points"):
        grid({"seed": read({"min": 0, "max": 2**32 - 1})})
    with pytest.raises(UserError, match="points"):
        grid({"x": read({"distribution": "q_uniform", "min": 0, "max": 1e9, "q": 1e-3})})


def test_a_draw_depends_on_seed_and_index_alone() -> None:
    space = {f"p{index}": read(spec) for index, spec in enumerate(ALL)}
    forwards = [random(space, 7, index) for index in range(5)]
    assert forwards == [random(space, 7, index) for index in reversed(range(5))][::-1]
    lists = [json.dumps(random(space, seed, index)) for seed in range(4) for index in range(4)]
    assert len(set(lists)) == 16


@pytest.mark.parametrize(
    ("spec", "option", "words"),
    [
        ([1, 2], None, "values:"),
        ({}, None, "nothing"),
        ({True: 1, "min": 0}, "True", "is not a key"),  # `on` in YAML 1.1
        ({"vales": [1]}, "vales", "did you mean 'values'"),
        (
            {"distribution": "log_uniform_value", "min": 1, "max": 2},
            "distribution",
            "did you mean 'log_uniform_values'",
        ),
        ({"distribution": ["uniform"], "min": 1, "max": 2}, "distribution", "is not a distribution"),
        ({"distribution": "categorical"}, "values", "categorical needs values"),
        ({"distribution": "uniform", "min": 1}, "max", "uniform needs min and max"),
        ({"max": 1.0}, "min", "uniform needs min and max"),
        ({"probabilities": [1]}, None, "needs value, values"),
        ({"min": 0.0, "max": 1.0, "q": 0.1}, "q", "q_uniform"),
        ({"value": 1, "values": [1]}, "values", "constant takes only value"),
        ({"distribution": "normal", "min": 0, "max": 1}, "min", "normal takes only mu and sigma"),
        ({"min": 0, "max": 1.0}, "max", "ambiguous"),
        ({"min": 0.5, "max": 1}, "min", "ambiguous"),
        ({"min": 1, "max": 1}, "max", "value: 1"),
        ({"min": 0.1, "max": 0.01}, "max", "0.01 is not above min, 0.1"),
        ({"distribution": "int_uniform", "min": 1, "max": 2.5}, "max", "2.5 is not a whole number"),
        ({"min": "1e-5", "max": 0.1}, "min", "1.0e-5"),
        ({"min": True, "max": 3}, "min", "True is not a number"),
        ({"distribution": "uniform", "min": None, "max": 3}, "min", "None is not a number"),
        ({"min": 0.0, "max": math.inf}, "max", "inf is not a number"),
        ({"distribution": "normal", "mu": math.nan}, "mu", "nan is not a number"),
        ({"distribution": "normal", "sigma": 0}, "sigma", "0 is not above 0"),
        ({"distribution": "log_normal", "sigma": -1.0}, "sigma", "-1.0 is not above 0"),
        ({"distribution": "beta", "a": 0}, "a", "not above 0"),
        ({"distribution": "q_beta", "b": -2}, "b", "not above 0"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, "q", "not above 0"),
        ({"distribution": "q_uniform", "min": 3, "max": 7, "q": 10}, "q", "no multiple of 10 is between 3 and 7"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "min", "0 has no logarithm"),
        ({"distribution": "q_log_uniform_values", "min": -1, "max": 1}, "min", "-1 has no logarithm"),
        ({"distribution": "inv_log_uniform_values", "min": 0.0, "max": 1}, "min", "no logarithm"),
        ({"distribution": "log_uniform", "min": 1, "max": 1000}, "max", "log_uniform_values"),
        ({"distribution": "inv_log_uniform", "min": -800, "max": 10}, "min", "inv_log_uniform_values"),
        ({"values": []}, "values", "not a list of one value or more"),
        ({"values": "adam"}, "values", "'adam' is not a list"),
        ({"values": [1, 2, 1.0]}, "values", "1.0 is given twice"),
        ({"values": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]}, "values", "given twice"),
        ({"values": [1, 2], "probabilities": [1]}, "probabilities", "each of the 2 values"),
        ({"values": [1, 2], "probabilities": [0.5, 0.4]}, "probabilities", "sum to 0.9"),
        ({"values": [1, 2], "probabilities": [1.5, -0.5]}, "probabilities", "must be 0 or more"),
        ({"values": [1, 2], "probabilities": ["a", 1]}, "probabilities", "'a' is not a number"),
    ],
)
def test_a_mistake_names_its_key_and_what_would_work(spec: Any, option: str | None, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(spec)
    assert caught.value.option == option
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_bounds_hold_to_the_last_digit() -> None:
    for low, high in ((1e-5, 0.1), (3e-4, 0.7), (1.1, 1.3)):
        found = read({"distribution": "log_uniform_values", "min": low, "max": high})
        assert [found.quantile(0.0), found.quantile(1.0)] == [low, high] == found.ends()
        assert all(low <= found.quantile(u) <= high for u in (1e-17, 1e-16, 1 - 1e-16))
