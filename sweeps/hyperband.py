"""Stopping runs early by the rule that W&B's sweeps call hyperband: at certain iterations only the best go on.

Rule of `hyperband_stopping.py` in wandb's package `sweeps` 0.3.0, after Li et al. 2018 (Hyperband, JMLR 18).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from regx.errors import UserError, did_you_mean

_KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")
_MOST_BANDS = 100
_LAST_ITERATION = 2**53


@dataclass(frozen=True)
class Hyperband:
    """The section `early_terminate` of a sweep.

    An iteration is one logged value of the metric, whatever the epoch. NaN and infinities are not counted.

    Attributes:
        bands: iterations, rising, at which runs are compared.
        eta: at a band about one run in `eta` is good enough to go on.
        strict: a run has to be good enough at the band itself; otherwise its best value until now has to be.
    """

    bands: tuple[int, ...]
    eta: float
    strict: bool = True

    @classmethod
    def read(cls, spec: Mapping[str, Any]) -> Hyperband:
        """Reads `{type: hyperband, min_iter: 3}` or `{type: hyperband, max_iter: 27, s: 2}`.

        The first has its bands at min_iter times 1, eta, eta², ...; the second has `s` of them, at max_iter / eta,
        max_iter / eta², ... and so on downwards. Defaults: eta 3, strict true (as in W&B's schema).

        Raises:
            UserError: `option` is the key at fault.
        """
        if not isinstance(spec, Mapping):
            raise UserError(f"{spec!r} is not a section; write type: hyperband and min_iter", "early_terminate")
        for key in spec:
            if key not in _KEYS:
                raise UserError(f"is not a key of early_terminate{did_you_mean(str(key), _KEYS)}", str(key))
        if spec.get("type") != "hyperband":
            raise UserError(f"{spec.get('type')!r} is not a way to stop early; write type: hyperband", "type")
        eta = spec.get("eta", 3)
        if isinstance(eta, bool) or not isinstance(eta, int | float) or not 1 < eta < math.inf:
            raise UserError(f"{eta!r} is not a number above 1", "eta")
        strict = spec.get("strict", True)
        if not isinstance(strict, bool):
            raise UserError(f"{strict!r} is not true or false", "strict")
        if ("min_iter" in spec) == ("max_iter" in spec):
            raise UserError("hyperband needs either min_iter, or max_iter and s", "min_iter")
        if "min_iter" in spec:
            if "s" in spec:
                raise UserError("goes with max_iter, not with min_iter", "s")
            bands = _upwards(_whole(spec, "min_iter"), eta)
        else:
            bands = _downwards(_whole(spec, "max_iter"), _whole(spec, "s"), eta)
            if not bands:
                raise UserError(f"{spec['max_iter']} / eta {eta} is less than one iteration; use more", "max_iter")
        return cls(bands, eta, strict)

    def stops(
        self, history: Sequence[float], others: Sequence[Sequence[float]], goal: Literal["minimize", "maximize"]
    ) -> bool:
        """Whether a run should stop now, by the last band that it has reached.

        Args:
            history: the run's values of the metric, in the order of logging.
            others: those of every other run of the sweep, running or not.
            goal: which values are good.
        """
        own, *rest = ([_loss(value, goal) for value in each if math.isfinite(value)] for each in (history, *others))
        reached = [band for band in self.bands if band <= len(own)]
        if not reached:
            return False
        band = reached[-1]
        losses = sorted(each[band - 1] for each in (own, *rest) if len(each) >= band)
        # As in W&B: of 3 runs and eta 3 this is the second best, so that ties and small sweeps are spared.
        threshold = losses[int(1 / self.eta * len(losses))]
        return (own[band - 1] if self.strict else min(own)) > threshold


def _loss(value: float, goal: str) -> float:
    return -value if goal == "maximize" else value


def _whole(spec: Mapping[str, Any], key: str) -> int:
    value = spec.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        given = "is missing; give" if value is None else f"{value!r} is not"
        raise UserError(f"{given} a whole number, at least 1", key)
    return value


def _upwards(first: int, eta: float) -> tuple[int, ...]:
    bands: list[int] = []
    band: float = first
    while len(bands) < _MOST_BANDS and band < _LAST_ITERATION:
        bands.append(int(band))
        band *= eta
    return tuple(bands)


def _downwards(last: int, count: int, eta: float) -> tuple[int, ...]:
    bands: list[int] = []
    band: float = last / eta
    while len(bands) < count and band >= 1:
        bands.append(int(band))
        band /= eta
    return tuple(reversed(bands))
