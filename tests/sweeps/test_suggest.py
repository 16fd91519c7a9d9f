"""Bayesian search beats random draws, keeps parallel workers apart, and depends on its arguments alone."""

import logging
import math
import random as python_random
import warnings
from typing import Any, Literal

import numpy as np
import pytest

from regx.sweeps.distributions import random, read
from regx.sweeps.suggest import GP_BUDGET, STARTUP, suggest

SPACE = {
    "lr": read({"distribution": "log_uniform_values", "min": 1e-5, "max": 1.0}),
    "optimizer": read({"values": ["sgd", "adam", "adamw"]}),
    "layers": read({"min": 1, "max": 8}),
    "epochs": read({"value": 3}),
}
BUDGETS = pytest.mark.parametrize("budget", [GP_BUDGET, GP_BUDGET + 1], ids=["gp", "tpe"])


def loss(point: dict[str, Any]) -> float:
    """Least, 0, at lr 10^-2.5, adam and 5 layers."""
    wrong = {"sgd": 0.5, "adam": 0.0, "adamw": 0.2}[point["optimizer"]]
    return (math.log10(point["lr"]) + 2.5) ** 2 + wrong + 0.1 * (point["layers"] - 5) ** 2


def history(count: int, seed: int = 3) -> list[tuple[dict[str, Any], float]]:
    return [(point, loss(point)) for point in (random(SPACE, seed, index) for index in range(count))]


def search(seed: int, runs: int, goal: Literal["minimize", "maximize"] = "minimize") -> list[float]:
    sign = 1 if goal == "minimize" else -1
    finished: list[tuple[dict[str, Any], float]] = []
    for _ in range(runs):
        point = suggest(SPACE, finished, [], goal=goal, seed=seed, budget=runs)
        finished.append((point, sign * loss(point)))
    return [sign * value for _, value in finished]


def test_finds_a_better_point_than_more_random_draws() -> None:
    wins = [min(search(seed, 22)) < min(loss(random(SPACE, seed, index)) for index in range(40)) for seed in range(5)]
    assert sum(wins) >= 4


def test_maximizing_is_minimizing_the_negative() -> None:
    assert search(0, STARTUP + 3, "maximize") == pytest.approx(search(0, STARTUP + 3), rel=1e-6)


def test_begins_with_random_draws() -> None:
    finished = history(STARTUP - 1)
    wanted = random(SPACE, 5, STARTUP - 1)
    assert suggest(SPACE, finished, [], goal="minimize", seed=5, budget=40) == wanted
    failed = [(point, math.nan) for point, _ in history(30)]
    assert suggest(SPACE, failed, [], goal="minimize", seed=5, budget=40) == random(SPACE, 5, 30)


def test_a_random_draw_that_still_runs_is_not_proposed_again() -> None:
    # Draws 0 to 3 were proposed and draw 1 was cancelled: three runs are left, so that the next would be draw 3.
    running = [random(SPACE, 5, index) for index in (0, 2, 3)]
    assert suggest(SPACE, [], running, goal="minimize", seed=5, budget=40) == random(SPACE, 5, 4)
    few = {"x": read({"values": [1, 2]})}
    assert suggest(few, [], [{"x": 1}, {"x": 2}], goal="minimize", seed=0, budget=40)["x"] in (1, 2)


@BUDGETS
def test_parallel_workers_get_points_of_their_own(budget: int) -> None:
    finished, running = history(20), []
    for _ in range(8):
        running.append(suggest(SPACE, finished, running, goal="minimize", seed=0, budget=budget))
    assert not [(a, b) for i, a in enumerate(running) for b in running[:i] if a == b]


@BUDGETS
def test_a_run_under_way_changes_the_proposal(budget: int) -> None:
    finished = history(20)
    arguments: dict[str, Any] = {"goal": "minimize", "seed": 0, "budget": budget}
    # One run each time, so that the sampler's seed is the same.
    here = suggest(SPACE, finished, [random(SPACE, 8, 0)], **arguments)
    there = suggest(SPACE, finished, [here], **arguments)
    assert here != there


@BUDGETS
def test_the_same_runs_in_any_order_give_the_same_proposal(budget: int) -> None:
    finished, running = history(30), [random(SPACE, 9, index) for index in range(3)]
    arguments: dict[str, Any] = {"goal": "minimize", "seed": 1, "budget": budget}
    first = suggest(SPACE, finished, running, **arguments)
    python_random.Random(0).shuffle(finished)
    assert suggest(SPACE, finished, running[::-1], **arguments) == first
    arguments["seed"] = 2
    assert suggest(SPACE, finished, running, **arguments) != first


@BUDGETS
def test_a_failed_run_counts_as_the_worst(budget: int) -> None:
    finished = history(20)
    worst = max(value for _, value in finished)
    failed = random(SPACE, 6, 0)
    arguments: dict[str, Any] = {"goal": "minimize", "seed": 1, "budget": budget}
    imputed = suggest(SPACE, [*finished, (failed, worst)], [], **arguments)
    for value in (math.nan, math.inf, -math.inf):
        assert suggest(SPACE, [*finished, (failed, value)], [], **arguments) == imputed
    negative = [(point, -value) for point, value in finished]
    arguments["goal"] = "maximize"
    imputed = suggest(SPACE, [*negative, (failed, -worst)], [], **arguments)
    assert suggest(SPACE, [*negative, (failed, math.nan)], [], **arguments) == imputed


@BUDGETS
def test_every_kind_of_parameter_is_searched_within_its_bounds(budget: int) -> None:
    specs: dict[str, dict[str, Any]] = {
        "weighted": {"values": ["a", "b"], "probabilities": [0.9, 0.1]},
        "q": {"distribution": "q_log_uniform_values", "min": 10, "max": 30, "q": 8},
        "normal": {"distribution": "normal"},
        "beta": {"distribution": "beta", "a": 2},
        "step": {"distribution": "q_normal", "q": 0.1},
        "constant": {"value": [1, 2]},
        "single": {"values": ["only"]},
    }
    space = {name: read(spec) for name, spec in specs.items()}
    finished = [(point, float(index % 7)) for index, point in enumerate(random(space, 0, index) for index in range(15))]
    for _ in range(3):
        point = suggest(space, finished, [], goal="minimize", seed=0, budget=budget)
        assert list(point) == list(space)
        for name, value in point.items():
            assert 0 <= space[name].position(value) <= 1
            assert not isinstance(value, np.generic)
        finished.append((point, 0.0))


def test_only_constants() -> None:
    space = {"a": read({"value": 1})}
    assert suggest(space, [({"a": 1}, 0.5)] * 20, [], goal="minimize", seed=0, budget=40) == {"a": 1}


def test_a_run_of_another_space_is_an_error() -> None:
    finished = history(20)
    finished[4][0]["lr"] = 7.0
    with pytest.raises(ValueError, match=r"7\.0"):
        suggest(SPACE, finished, [], goal="minimize", seed=0, budget=40)


def test_leaves_logging_warnings_and_chance_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    import optuna
    import torch

    level, filters = optuna.logging.get_verbosity(), list(warnings.filters)
    root, threads = logging.getLogger().level, torch.get_num_threads()
    states = python_random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    suggest(SPACE, history(20), [random(SPACE, 4, 0)], goal="minimize", seed=0, budget=40)
    assert (level, filters) == (optuna.logging.get_verbosity(), list(warnings.filters))
    assert (root, threads) == (logging.getLogger().level, torch.get_num_threads())
    now = python_random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    assert now == states
    assert capfd.readouterr() == ("", "")
