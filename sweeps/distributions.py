"""The distributions of a sweep's parameters, read as they stand in W&B's sweep files; grids and random draws over them.

Laws and defaults are those of `config/schema.json` in wandb's package `sweeps` 0.3.0. Where that engine leaves a
parameter's own bounds (it rounds a `q_log_uniform_values` from 10 to 30 in steps of 8 to 8 and 32), this one does not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from regx.errors import UserError, did_you_mean
from regx.sweeps.laws import (
    Beta,
    Categorical,
    Continuous,
    Distribution,
    Integers,
    Law,
    LogNormal,
    LogUniform,
    Normal,
    Quantised,
    Uniform,
    identity,
)

MOST_GRID_POINTS = 1_000_000
KINDS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "inv_log_uniform": ("min", "max"),
    "inv_log_uniform_values": ("min", "max"),
    "q_log_uniform": ("min", "max", "q"),
    "q_log_uniform_values": ("min", "max", "q"),
    "normal": ("mu", "sigma"),
    "q_normal": ("mu", "sigma", "q"),
    "log_normal": ("mu", "sigma"),
    "q_log_normal": ("mu", "sigma", "q"),
    "beta": ("a", "b"),
    "q_beta": ("a", "b", "q"),
}
_DEFAULTS = {"q": 1, "mu": 0, "sigma": 1, "a": 1, "b": 1}
_POSITIVE = ("q", "sigma", "a", "b")


def read(spec: Mapping[str, Any]) -> Distribution:
    """Reads a parameter as it stands in a sweep's file, as `{min: 0.1, max: 0.9}`.

    Without `distribution` it is what the keys say: `value` a constant, `values` categorical (with `probabilities`
    too), `min` and `max` both whole `int_uniform`, both with a point `uniform`. Defaults: mu 0, sigma 1, q 1, a 1, b 1.

    Args:
        spec: the parameter's mapping.

    Raises:
        UserError: an unknown, missing or superfluous key, an unknown distribution, or a value that makes no sense (as
            min not below max); its `option` is the key at fault, or None where it is no single one.
    """
    if not isinstance(spec, Mapping):
        raise UserError(f"{spec!r} says not whether it is `value:`, `values:` or `min:` and `max:`")
    known = {"distribution": None} | dict.fromkeys(key for keys in KINDS.values() for key in keys)
    for key in spec:
        if key not in known:
            raise UserError(f"is not a key of a parameter{did_you_mean(str(key), known)}", str(key))
    kind = _kind(spec)
    keys = KINDS[kind]
    for key in spec:
        if key not in (*keys, "distribution"):
            others = [other for other, theirs in KINDS.items() if set(spec) - {"distribution"} <= set(theirs)]
            hint = f"; name a distribution that does: {', '.join(others)}" if others else ""
            raise UserError(f"{kind} takes only {' and '.join(keys)}{hint}", key)
    for key in keys:
        if key not in spec and key not in _DEFAULTS:
            raise UserError(f"{kind} needs {' and '.join(keys)}", key)
    if "value" in keys:
        return Categorical(kind, (spec["value"],), (1.0,))
    if "values" in keys:
        return _categorical(kind, spec)
    return _numeric(kind, {key: _number(key, spec.get(key, _DEFAULTS.get(key))) for key in keys})


def grid(distributions: Mapping[str, Distribution]) -> Iterator[dict[str, Any]]:
    """All combinations of the parameters' grid points, in W&B's order: sorted by name, the last varying fastest.

    A dot in a name stands for nesting, which W&B sorts level by level.

    Raises:
        UserError: a parameter has no grid, or there are more than `MOST_GRID_POINTS` combinations.
    """
    names = sorted(distributions, key=lambda name: name.split("."))
    total = 1
    for name in names:
        size = distributions[name].size()
        if size is None:
            kind = distributions[name].kind
            raise UserError(f"a grid needs values, int_uniform or q_uniform, not {kind}; or use method: random", name)
        total *= size
        if total > MOST_GRID_POINTS:
            raise UserError(f"makes a grid of {total:,} points or more; use fewer values, or method: random", name)
    columns = [distributions[name].values() or [] for name in names]
    rows = (dict(zip(names, row, strict=True)) for row in itertools.product(*columns))
    return ({name: row[name] for name in distributions} for row in rows)


def random(distributions: Mapping[str, Distribution], seed: int, index: int) -> dict[str, Any]:
    """The `index`-th random draw of a sweep: the same wherever, and in whatever order, it is asked for.

    Args:
        distributions: the parameters; their order counts.
        seed: the sweep's, at least 0.
        index: number of the draw, from 0.
    """
    import numpy as np

    rng = np.random.default_rng([seed, index])
    # A normal is infinite at 0, which is a float that rng.random() may return.
    return {name: each.quantile(max(rng.random(), 2**-53)) for name, each in distributions.items()}


def _kind(spec: Mapping[str, Any]) -> str:
    if "distribution" in spec:
        kind = spec["distribution"]
        if kind not in list(KINDS):
            raise UserError(f"{kind!r} is not a distribution{did_you_mean(str(kind), KINDS)}", "distribution")
        return kind
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    bounds = {key: _number(key, spec[key]) for key in ("min", "max") if key in spec}
    whole = {isinstance(bound, int) for bound in bounds.values()}
    if len(whole) == 2:
        point = next(key for key, bound in bounds.items() if isinstance(bound, float))
        raise UserError(
            f"min {bounds['min']} and max {bounds['max']} are ambiguous; write both with a point for real numbers, or "
            "neither for whole ones",
            point,
        )
    if bounds:
        return "int_uniform" if whole == {True} else "uniform"
    raise UserError(f"needs value, values, min and max, or distribution; it has {', '.join(spec) or 'nothing'}")


def _categorical(kind: str, spec: Mapping[str, Any]) -> Categorical:
    values = spec["values"]
    if not isinstance(values, list | tuple) or not values:
        raise UserError(f"{values!r} is not a list of one value or more", "values")
    names = [identity(value) for value in values]
    for index, value in enumerate(values):
        if names[index] in names[:index]:
            raise UserError(f"{value!r} is given twice", "values")
    if kind == "categorical":
        return Categorical(kind, tuple(values), (1 / len(values),) * len(values))
    given = spec["probabilities"]
    if not isinstance(given, list | tuple) or len(given) != len(values):
        raise UserError(f"{given!r} is not one number for each of the {len(values)} values", "probabilities")
    probabilities = [_number("probabilities", each) for each in given]
    total = math.fsum(probabilities)
    if min(probabilities) < 0 or abs(total - 1) > 1e-6:
        raise UserError(f"must be 0 or more and sum to 1; {given!r} sum to {total:g}", "probabilities")
    return Categorical(kind, tuple(values), tuple(each / total for each in probabilities))


def _numeric(kind: str, numbers: dict[str, int | float]) -> Distribution:
    for key in _POSITIVE:
        if key in numbers and numbers[key] <= 0:
            raise UserError(f"{numbers[key]} is not above 0", key)
    if "min" in numbers:
        low, high = numbers["min"], numbers["max"]
        if low >= high:
            raise UserError(f"{high} is not above min, {low}; for a single value write value: {low}", "max")
        if kind == "int_uniform":
            for key, bound in (("min", low), ("max", high)):
                if not isinstance(bound, int):
                    raise UserError(f"{bound} is not a whole number; use distribution: uniform for others", key)
            return Integers(kind, int(low), int(high))
        if kind.endswith("log_uniform"):
            # The bounds are exponents of e, and those of the inverse are of 1 / value.
            exponents = (-high, -low) if kind == "inv_log_uniform" else (low, high)
            if max(abs(low), abs(high)) > 700:
                key = "max" if abs(high) > 700 else "min"
                raise UserError(f"is an exponent of e, from -700 to 700; {kind}_values takes values themselves", key)
            law: Law = LogUniform(math.exp(exponents[0]), math.exp(exponents[1]))
        elif kind.endswith("log_uniform_values"):
            if low <= 0:
                raise UserError(f"{low} has no logarithm; use a number above 0", "min")
            law = LogUniform(float(low), float(high))
        else:
            law = Uniform(float(low), float(high))
    elif "mu" in numbers:
        law = (LogNormal if "log" in kind else Normal)(float(numbers["mu"]), float(numbers["sigma"]))
    else:
        law = Beta(float(numbers["a"]), float(numbers["b"]))
    if "q" not in numbers:
        return Continuous(kind, law)
    found = Quantised(kind, law, numbers["q"])
    lowest, highest = found.multiples()
    if lowest > highest:
        raise UserError(f"no multiple of {numbers['q']} is between {law.low:g} and {law.high:g}", "q")
    return found


def _number(key: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        hint = ""
        if isinstance(value, str) and "e" in value.lower():  # YAML 1.1 reads 1e-5 as text
            hint = "; YAML wants a point and a sign in it, as 1.0e-5"
        raise UserError(f"{value!r} is not a number{hint}", key)
    return value
