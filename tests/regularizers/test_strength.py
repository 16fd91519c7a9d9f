"""Schedules of the strength against values from elsewhere, and the controller on simulated and on real problems."""

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from statistics import NormalDist
from typing import Any

import pytest
import torch

from regx.errors import UserError
from regx.regularizers.strength import PARAMETERS, SCHEDULES, Controller, Strength

Plant = Callable[[float], float]  # strength during an epoch -> share of zero groups after it


def series(epochs: int, base: float, **options: Any) -> list[float]:
    strength = Strength(base, **options)
    return [strength.at(epoch, epochs) for epoch in range(1, epochs + 1)]


def test_agp_gives_the_values_of_distiller() -> None:
    expected = [0.05, 0.184, 0.2883, 0.3667, 0.4228, 0.4605, 0.4833, 0.4951, 0.4994, 0.5]
    assert series(10, 0.5, schedule="agp", other_end=0.05) == pytest.approx(expected, abs=5e-5)


def test_oscillating_cosine_equals_torch_cosine_annealing() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6, eta_min=0.01)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    cosine = {"schedule": "cosine", "cycle_length": 6, "other_end": 0.01}
    assert series(20, 0.1, oscillate=True, **cosine) == pytest.approx(rates, rel=1e-12)
    assert series(20, 0.1, **cosine) == pytest.approx(rates[:7] + [0.01] * 13, rel=1e-12)


def test_exponential_equals_torch_exponential() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert series(8, 0.1, schedule="exponential", gamma=0.7) == pytest.approx(rates, rel=1e-12)
    shifted = [0.2 + rate for rate in rates]
    assert series(8, 0.3, schedule="exponential", gamma=0.7, other_end=0.2) == pytest.approx(shifted, rel=1e-12)


def test_linear_moves_from_the_other_end_and_stays() -> None:
    assert series(5, 1.0, schedule="linear") == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert series(5, 0.0, schedule="linear", other_end=1.0) == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert series(5, 1.0, schedule="linear", cycle_length=2) == pytest.approx([0, 0.5, 1, 1, 1])


def test_constant_and_the_window() -> None:
    assert series(4, 0.3) == [0.3] * 4
    assert series(7, 1.0, start=3, end=5) == [0, 0, 1, 1, 1, 0, 0]
    assert series(7, 1.0, start=2, every=3) == [0, 1, 0, 0, 1, 0, 0]
    assert series(7, 1.0, schedule="linear", start=3, end=5) == pytest.approx([0, 0, 0, 0.5, 1, 0, 0])
    assert series(7, 1.0, schedule="linear", start=3, every=2) == pytest.approx([0, 0, 0, 0, 0.5, 0, 1])
    assert Strength(1.0).at(0, 5) == Strength(1.0).at(6, 5) == 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_window_of_one_epoch_has_the_strength_itself(schedule: str) -> None:
    assert series(1, 0.3, schedule=schedule) == [0.3]
    assert series(3, 0.3, schedule=schedule, start=2, end=2) == [0, 0.3, 0]


def test_warmup_multiplies_the_schedule() -> None:
    assert series(6, 1.0, warmup=4) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert series(6, 1.0, warmup=2, start=3) == pytest.approx([0, 0, 0.5, 1, 1, 1])
    plain = series(9, 0.7, schedule="cosine", start=2)
    factors = [0, 1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1]
    expected = [rate * factor for rate, factor in zip(plain, factors, strict=True)]
    assert series(9, 0.7, schedule="cosine", start=2, warmup=3) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "option", "words"),
    [
        ({"schedule": "cosin"}, "schedule", "did you mean 'cosine'"),
        ({"other_end": -1.0}, "other_end", "at least 0"),
        ({"schedule": "linear", "cycle_length": 0}, "cycle_length", "at least 1"),
        ({"schedule": "exponential", "gamma": 0.0}, "gamma", "above 0"),
        ({"schedule": "exponential", "gamma": 1.1}, "gamma", "at most 1"),
        ({"warmup": -1}, "warmup", "at least 0"),
        ({"warmup": 2.5}, "warmup", "whole number"),
        ({"start": 0}, "start", "at least 1"),
        ({"every": 0}, "every", "at least 1"),
        ({"clip": 0.0}, "clip", "above 0"),
        ({"target_sparsity": 0.0}, "target_sparsity", "above 0"),
        ({"target_sparsity": 1.0}, "target_sparsity", "at most 0.999"),
        ({"start": 5, "end": 4}, "end", "before start, 5"),
        ({"start": 5, "end": 9, "warmup": 6}, "warmup", "more than the 5"),
        ({"gamma": 0.5}, "gamma", "schedule=exponential, not constant"),
        ({"schedule": "linear", "oscillate": True}, "oscillate", "schedule=cosine, not linear"),
        ({"schedule": "exponential", "cycle_length": 4}, "cycle_length", "not exponential"),
        ({"other_end": 0.1}, "other_end", "not constant"),
        ({"target_sparsity": 0.5, "schedule": "agp"}, "schedule", "target_sparsity"),
        ({"target_sparsity": 0.5, "warmup": 3}, "warmup", "target_sparsity"),
        ({"target_sparsity": 0.5, "end": 3}, "end", "target_sparsity"),
        ({"target_sparsity": 0.5, "every": 2}, "every", "target_sparsity"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], option: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        Strength(0.1, **options)
    assert caught.value.option == option
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("base", [-1.0, math.nan, math.inf])
def test_a_bad_strength_is_named(base: float) -> None:
    with pytest.raises(UserError, match="strength"):
        Strength(base)


def test_a_target_needs_a_strength_to_begin_from() -> None:
    with pytest.raises(UserError, match="begin from"):
        Strength(0.0, target_sparsity=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"start": 11}, "start: 11"), ({"end": 11}, "end: 11"), ({"start": 4, "warmup": 8}, "warmup: 8 .* 7 from 4")],
)
def test_windows_that_do_not_fit_into_the_run(options: dict[str, Any], message: str) -> None:
    strength = Strength(0.1, **options)
    with pytest.raises(UserError, match=message):
        strength.at(1, 10)
    strength.check(20)


def test_from_options_reads_text() -> None:
    text = {"schedule": "linear", "warmup": "10", "start": "5", "end": "none", "clip": "2"}
    assert Strength.from_options(1e-4, text) == Strength(1e-4, schedule="linear", warmup=10, start=5, clip=2.0)
    with pytest.raises(UserError, match="did you mean 'warmup'"):
        Strength.from_options(1e-4, {"warmpu": 3})


def test_parameters_describe_the_class() -> None:
    assert {p.name: p.default for p in PARAMETERS} == {f.name: f.default for f in fields(Strength) if f.name != "base"}
    assert all(p.help and p.check(p.default) == p.default for p in PARAMETERS)


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, regx.regularizers.strength; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def steer(controller: Controller, plant: Plant, epochs: int) -> list[float]:
    """Shares of zeros after each epoch."""
    shares = []
    for epoch in range(1, epochs + 1):
        shares.append(plant(controller.strength))
        controller.update(epoch, shares[-1])
    return shares


def probit(scale: float, width: float, lag: float, silent: int, groups: int) -> Plant:
    """Share that follows Phi(log(strength / scale) / width) with a lag, and is 0 in the first `silent` epochs."""
    share, epoch = 0.0, 0

    def step(strength: float) -> float:
        nonlocal share, epoch
        epoch += 1
        share += (1 - math.exp(-1 / lag)) * (NormalDist().cdf(math.log(strength / scale) / width) - share)
        return 0.0 if epoch <= silent else round(share * groups) / groups

    return step


@pytest.mark.parametrize("target", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("needed", [0.1, 1.0, 100.0, 1000.0])
@pytest.mark.parametrize("epochs", [20, 60, 200, 500])
def test_controller_reaches_its_target_on_simulated_plants(epochs: int, needed: float, target: float) -> None:
    for width in (0.5, 1.0, 2.0):
        for lag in (0.01, 0.04 * epochs):
            plant = probit(1e-4 * needed, width, lag, silent=epochs // 20, groups=1000)
            final = steer(Controller(target, epochs, 1e-4), plant, epochs)[-1]
            # In 20 epochs there is no time for the last corrections.
            assert abs(final - target) <= (0.06 if epochs == 20 else 0.04), (width, lag)


def lasso(features: int, correlation: float, seed: int, steps: int) -> Plant:
    """Proximal gradient descent (ISTA) on a random least-squares problem; one epoch is `steps` steps."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(2 * features, 1, generator=generator)
    x = torch.randn(2 * features, features, generator=generator) + correlation * common
    truth = torch.randn(features, generator=generator) * torch.logspace(-2, 1, features)
    y = x @ truth + torch.randn(2 * features, generator=generator)
    hessian, linear = x.T @ x / len(x), x.T @ y / len(x)
    rate = 1 / torch.linalg.matrix_norm(hessian, 2)
    weights = torch.randn(features, generator=generator)

    def step(strength: float) -> float:
        nonlocal weights
        for _ in range(steps):
            moved = weights - rate * (hessian @ weights - linear)
            weights = moved.sign() * (moved.abs() - rate * strength).clamp_min(0)
        return (weights == 0).float().mean().item()

    return step


@pytest.mark.parametrize("target", [0.5, 0.8, 0.95])
@pytest.mark.parametrize(("epochs", "steps"), [(20, 50), (100, 20), (300, 5)])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_controller_reaches_its_target_on_a_lasso(epochs: int, steps: int, correlation: float, target: float) -> None:
    for base in (1e-4, 1e-2):
        for seed in (0, 1):
            shares = steer(Controller(target, epochs, base), lasso(400, correlation, seed, steps), epochs)
            assert abs(shares[-1] - target) <= (0.06 if epochs == 20 else 0.03), (base, seed, shares[-1])
            # The strength that the controller does not touch is far from the target, so it had something to do.
            assert abs(shares[0] - target) > 0.1


def test_controller_lowers_a_strength_that_is_too_high() -> None:
    controller = Controller(0.3, 60, 1.0)
    shares = steer(controller, probit(1e-3, 1.0, lag=2.0, silent=0, groups=1000), 60)
    assert max(shares) > 0.35
    assert abs(shares[-1] - 0.3) <= 0.02
    assert controller.strength < 1e-2


def collapse(scale: float, decay: float, groups: int) -> Plant:
    """Groups of nearly one size shrink at a rate that rises with the strength, unseen until they are gone for good."""
    sizes = [1 + 0.5 * i / groups for i in range(groups)]

    def step(strength: float) -> float:
        sizes[:] = [max(0.0, size - decay * strength / scale) for size in sizes]
        return sizes.count(0.0) / groups

    step.sizes = sizes  # type: ignore[attr-defined]
    return step


def test_controller_slows_down_before_zeros_that_do_not_come_back() -> None:
    finals = {}
    for sees_size in (True, False):
        plant, controller = collapse(1e-2, 0.02, 200), Controller(0.5, 80, 1e-3)
        for epoch in range(1, 81):
            finals[sees_size] = plant(controller.strength)
            controller.update(epoch, finals[sees_size], sum(plant.sizes) if sees_size else 0.0)  # type: ignore[attr-defined]
    assert abs(finals[True] - 0.5) <= 0.05
    assert finals[True] < finals[False], "the size of the penalty shows what is coming"


def test_controller_does_not_run_away_where_nothing_reacts() -> None:
    controller = Controller(0.5, 500, 1e-4)
    steer(controller, lambda strength: 0.0, 500)
    assert controller.strength <= 1e-4 * 1e6 * (1 + 1e-9)
    controller = Controller(0.5, 500, 1e-4)
    steer(controller, lambda strength: 1.0, 500)
    assert 1e-4 / 1e6 * (1 - 1e-9) <= controller.strength < 1e-4


def test_controller_waits_for_its_start() -> None:
    controller = Strength(1e-3, target_sparsity=0.6, start=11).controller(80)
    assert controller is not None
    used = []
    plant = probit(0.1, 1.0, lag=1.0, silent=0, groups=1000)

    def step(strength: float) -> float:
        used.append(strength)
        return plant(strength) if strength else 0.0

    assert abs(steer(controller, step, 80)[-1] - 0.6) <= 0.02
    assert used[:11] == [0.0] * 10 + [pytest.approx(1e-3)]
    assert Strength(1e-3).controller(80) is None


def test_controller_continues_from_its_state_and_is_deterministic() -> None:
    whole, half = Controller(0.7, 40, 1e-3), Controller(0.7, 40, 1e-3)
    shares = steer(whole, probit(0.1, 1.0, lag=2.0, silent=1, groups=300), 40)
    for epoch in range(1, 18):
        half.update(epoch, shares[epoch - 1])
    state = half.state_dict()
    assert all(isinstance(value, float | bool) for value in state.values())
    resumed = Controller(0.7, 40, 1e-3)
    resumed.load_state_dict(state)
    for epoch in range(18, 41):
        resumed.update(epoch, shares[epoch - 1])
    assert resumed.strength == whole.strength
    with pytest.raises(UserError, match="state of a controller"):
        resumed.load_state_dict({"epoch": 3})


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ((0.0, 10, 1e-3), "target_sparsity"),
        ((1.0, 10, 1e-3), "target_sparsity"),
        ((0.5, 10, 0.0), "strength"),
        ((0.5, 10, math.nan), "strength"),
        ((0.5, 10, 1e-3, 11), "start"),
    ],
)
def test_controller_refuses_bad_arguments(arguments: tuple[Any, ...], option: str) -> None:
    with pytest.raises(UserError) as caught:
        Controller(*arguments)
    assert caught.value.option == option


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_controller_refuses_what_is_not_a_share(share: float) -> None:
    with pytest.raises(UserError, match="within 0 and 1"):
        Controller(0.5, 10, 1e-3).update(1, share)
