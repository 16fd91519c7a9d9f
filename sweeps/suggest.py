"""Bayesian search: the next point of a sweep, from the runs that there are. Nothing is kept between two questions."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from regx.sweeps.distributions import random
from regx.sweeps.laws import Categorical, Distribution, Integers

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

STARTUP = 10  # finished runs before anything is modelled
GP_BUDGET = 200  # the time of a Gaussian process grows with the cube of the runs
_EDGE = 1e-6  # unbounded laws are infinite at 0 and 1
_TRIES = 100  # random draws before one that is known is taken again, as where all are


def suggest(
    distributions: Mapping[str, Distribution],
    finished: Sequence[tuple[dict[str, Any], float]],
    running: Sequence[dict[str, Any]],
    *,
    goal: Literal["minimize", "maximize"],
    seed: int,
    budget: int,
) -> dict[str, Any]:
    """The next point to try; the same arguments give the same one, whatever the order of the runs.

    Until `STARTUP` runs have finished with a number, a random draw that no run has yet. Then the expected improvement
    of a Gaussian process (sweeps of at most `GP_BUDGET` runs) or a tree-structured Parzen estimator, both of Optuna.
    Both take into account where runs are under way, so that parallel workers do not try the same. Numbers are searched
    in the quantiles of their distribution, so a log-uniform one by its logarithm; probabilities of categorical values
    count in the random draws only.

    Args:
        distributions: the parameters.
        finished: point and value of the metric of each run that has ended; NaN or infinite for one that failed, which
            counts as the worst so far (W&B's `impute: worst`).
        running: points of the runs that have not ended.
        goal: which values are good.
        seed: the sweep's, at least 0.
        budget: how many runs the sweep is to have.

    Raises:
        ValueError: a run's value that its parameter never takes.
        KeyError: a run without a value for a parameter.
    """
    count = len(finished) + len(running)
    known = [value for _, value in finished if math.isfinite(value)]
    searched = {name: each for name, each in distributions.items() if each.kind != "constant"}
    if len(known) < STARTUP or not searched:
        return _unseen(distributions, [point for point, _ in finished] + list(running), seed, count)

    import numpy as np
    import optuna

    axes = {name: _axis(each) for name, each in searched.items()}
    worst = max(known) if goal == "minimize" else min(known)
    trials = [_trial(searched, axes, point, value if math.isfinite(value) else worst) for point, value in finished]
    trials += [_trial(searched, axes, point, None) for point in running]
    trials.sort(key=_shuffled)
    with _quiet():
        sampler = _sampler(budget, int(np.random.SeedSequence([seed, count]).generate_state(1)[0]))
        study = optuna.create_study(direction=goal, sampler=sampler)
        study.add_trials(trials)
        found = study.ask(axes).params
    return {
        name: _value(each, found[name]) if name in searched else each.quantile(0.5)
        for name, each in distributions.items()
    }


def _unseen(
    distributions: Mapping[str, Distribution], seen: list[dict[str, Any]], seed: int, count: int
) -> dict[str, Any]:
    """The random draw number `count`, or one of the next: after a cancelled run that one may be among those `seen`."""
    point: dict[str, Any] = {}
    for index in range(count, count + _TRIES):
        point = random(distributions, seed, index)
        if point not in seen:
            break
    return point


def _axis(distribution: Distribution) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, Categorical):
        return CategoricalDistribution(range(len(distribution.choices)))
    if isinstance(distribution, Integers):
        return IntDistribution(distribution.low, distribution.high)
    return FloatDistribution(_EDGE, 1 - _EDGE)


def _coordinate(distribution: Distribution, value: Any) -> int | float:
    """Where a value lies on its axis."""
    position = distribution.position(value)  # a ValueError where it is not in the space
    if isinstance(distribution, Categorical):
        return distribution.index(value)
    if isinstance(distribution, Integers):
        return int(value)
    return min(max(position, _EDGE), 1 - _EDGE)


def _value(distribution: Distribution, coordinate: Any) -> Any:
    """The value at a place of its axis."""
    if isinstance(distribution, Categorical):
        return distribution.choices[coordinate]
    if isinstance(distribution, Integers):
        return coordinate
    return distribution.quantile(coordinate)


def _trial(
    searched: Mapping[str, Distribution], axes: dict[str, BaseDistribution], point: dict[str, Any], value: float | None
) -> Any:
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.RUNNING if value is None else TrialState.COMPLETE,
        params={name: _coordinate(each, point[name]) for name, each in searched.items()},
        distributions=axes,
        value=value,
    )


def _shuffled(trial: Any) -> str:
    """Gives trials an order of their own: the Parzen estimator weighs early ones less, and run folders have none."""
    return hashlib.sha256(json.dumps([trial.params, trial.value]).encode()).hexdigest()


def _sampler(budget: int, seed: int) -> BaseSampler:
    from optuna.samplers import GPSampler, TPESampler

    if budget <= GP_BUDGET:
        return GPSampler(seed=seed, n_startup_trials=0)
    return TPESampler(seed=seed, n_startup_trials=0)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Optuna's log lines and warnings, about itself rather than about the sweep, from the terminal."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
