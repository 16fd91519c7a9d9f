"""Laws of real random numbers, and the distributions of parameters that are made of them or of a few values."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from decimal import Decimal
from statistics import NormalDist
from typing import Any, ClassVar, Protocol


class Law(Protocol):
    """A law of real numbers between `low` and `high`, which may be infinite."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...

    def quantile(self, u: float) -> float:
        """The number that a share `u` in [0, 1] of draws lies below."""
        ...

    def cdf(self, x: float) -> float:
        """The share of draws below `x`, which may be any finite number."""
        ...


@dataclass(frozen=True)
class Uniform:
    """All numbers from `low` to `high` equally often."""

    low: float
    high: float

    def quantile(self, u: float) -> float:
        return min(max((1 - u) * self.low + u * self.high, self.low), self.high)

    def cdf(self, x: float) -> float:
        return min(max((x - self.low) / (self.high - self.low), 0.0), 1.0)


@dataclass(frozen=True)
class LogUniform:
    """Numbers from `low` > 0 to `high` with a uniform logarithm; so is the logarithm of their inverse."""

    low: float
    high: float

    def quantile(self, u: float) -> float:
        if u <= 0 or u >= 1:  # exp(log(x)) is not always x
            return self.low if u <= 0 else self.high
        exponent = (1 - u) * math.log(self.low) + u * math.log(self.high)
        return min(max(math.exp(exponent), self.low), self.high)

    def cdf(self, x: float) -> float:
        if x <= self.low:
            return 0.0
        return min(math.log(x / self.low) / math.log(self.high / self.low), 1.0)


@dataclass(frozen=True)
class Normal:
    """The normal law of mean `mu` and standard deviation `sigma`."""

    mu: float
    sigma: float
    low = -math.inf
    high = math.inf

    def quantile(self, u: float) -> float:
        if u <= 0 or u >= 1:
            return self.low if u <= 0 else self.high
        return NormalDist(self.mu, self.sigma).inv_cdf(u)

    def cdf(self, x: float) -> float:
        # NormalDist.cdf has no digits left in the lower tail.
        return 0.5 * math.erfc((self.mu - x) / (self.sigma * math.sqrt(2)))


@dataclass(frozen=True)
class LogNormal:
    """Numbers whose logarithm is normal with mean `mu` and standard deviation `sigma`."""

    mu: float
    sigma: float
    low = 0.0
    high = math.inf

    def quantile(self, u: float) -> float:
        try:
            return math.exp(Normal(self.mu, self.sigma).quantile(u))
        except OverflowError:
            return math.inf

    def cdf(self, x: float) -> float:
        return Normal(self.mu, self.sigma).cdf(math.log(x)) if x > 0 else 0.0


@dataclass(frozen=True)
class Beta:
    """The beta law with exponents `a` and `b`, between 0 and 1."""

    a: float
    b: float
    low = 0.0
    high = 1.0

    def quantile(self, u: float) -> float:
        from scipy.special import betaincinv

        return float(betaincinv(self.a, self.b, u))

    def cdf(self, x: float) -> float:
        from scipy.special import betainc

        return float(betainc(self.a, self.b, min(max(x, 0.0), 1.0)))


@dataclass(frozen=True)
class Distribution:
    """What values a parameter takes, and how often.

    Attributes:
        kind: W&B's name of it, a key of `distributions.KINDS`.
        numeric: whether its values are numbers in an order.
    """

    kind: str
    numeric: ClassVar[bool] = True

    def quantile(self, u: float) -> Any:
        """The value at `u` in [0, 1]; plain Python, within the bounds. An unbounded law is infinite at 0 or 1."""
        raise NotImplementedError

    def position(self, value: Any) -> float:
        """A `u` with `quantile(u) == value` (to rounding), the middle of its mass where it has one.

        Raises:
            ValueError: the distribution never takes the value.
        """
        raise NotImplementedError

    def size(self) -> int | None:
        """Number of grid points; `None` where there is no grid."""
        return None

    def values(self) -> list[Any] | None:
        """The grid points in W&B's order; `None` where there is no grid."""
        return None

    def ends(self) -> list[Any]:
        """The values that stand for all in a check of bounds: the finite extremes, or every choice."""
        return [value for value in (self.quantile(0.0), self.quantile(1.0)) if math.isfinite(value)]


@dataclass(frozen=True)
class Categorical(Distribution):
    """Some values with a probability each: `constant`, `categorical` and `categorical_w_probabilities`."""

    choices: tuple[Any, ...]
    probabilities: tuple[float, ...]
    numeric: ClassVar[bool] = False

    def quantile(self, u: float) -> Any:
        """The choice whose share of [0, 1] holds `u`; never one of probability 0."""
        total = 0.0
        chosen = None
        for choice, probability in zip(self.choices, self.probabilities, strict=True):
            if probability > 0:
                chosen = choice
                total += probability
                if u < total:
                    break
        return chosen

    def position(self, value: Any) -> float:
        """The middle of the choice's share of [0, 1]."""
        index = self.index(value)
        if self.probabilities[index] == 0:
            raise ValueError(f"{value!r} has probability 0")
        return sum(self.probabilities[:index]) + self.probabilities[index] / 2

    def index(self, value: Any) -> int:
        """Which choice `value` is; 1 and 1.0 are the same, 1 and true are not.

        Raises:
            ValueError: it is none.
        """
        names = [identity(choice) for choice in self.choices]
        if identity(value) not in names:
            raise ValueError(f"{value!r} is not among {list(self.choices)}")
        return names.index(identity(value))

    def size(self) -> int | None:
        """Number of choices; a grid knows no probabilities, so with them there is none."""
        return None if self.kind == "categorical_w_probabilities" else len(self.choices)

    def values(self) -> list[Any] | None:
        """The choices, in their order."""
        return None if self.size() is None else list(self.choices)

    def ends(self) -> list[Any]:
        """Every choice."""
        return list(self.choices)


@dataclass(frozen=True)
class Integers(Distribution):
    """Whole numbers from `low` to `high`, both included, equally often: `int_uniform`."""

    low: int
    high: int

    def quantile(self, u: float) -> int:
        """The number whose share of [0, 1] holds `u`."""
        return min(self.low + int(u * (self.high - self.low + 1)), self.high)

    def position(self, value: Any) -> float:
        """The middle of the number's share of [0, 1]."""
        number = _as_number(value)
        if number != int(number) or not self.low <= number <= self.high:
            raise ValueError(f"{value!r} is not a whole number from {self.low} to {self.high}")
        return (int(number) - self.low + 0.5) / (self.high - self.low + 1)

    def size(self) -> int:
        """How many numbers there are."""
        return self.high - self.low + 1

    def values(self) -> list[Any]:
        """All of them, rising."""
        return list(range(self.low, self.high + 1))


@dataclass(frozen=True)
class Continuous(Distribution):
    """Real numbers of a law."""

    law: Law

    def quantile(self, u: float) -> float:
        """The law's quantile."""
        return self.law.quantile(u)

    def position(self, value: Any) -> float:
        """The law's cumulative probability."""
        number = _as_number(value)
        if not self.law.low <= number <= self.law.high:
            raise ValueError(f"{value!r} is not between {self.law.low:g} and {self.law.high:g}")
        return self.law.cdf(number)


@dataclass(frozen=True)
class Quantised(Distribution):
    """Multiples of `q`: the one nearest to a draw of a law, among those within the law's bounds.

    They are whole numbers where `q` is, and else the floats that one would type (0.3, not 0.30000000000000004).
    """

    law: Law
    q: int | float

    def quantile(self, u: float) -> int | float:
        """The multiple nearest to the law's quantile."""
        x = self.law.quantile(u)
        if math.isinf(x):
            return x
        lowest, highest = self.multiples()
        return self._number(_exact(self.q) * min(max(round(x / self.q), lowest), highest))  # type: ignore[arg-type]

    def position(self, value: Any) -> float:
        """The middle of the multiple's share of [0, 1]."""
        multiple = _exact(_as_number(value)) / _exact(self.q)
        lowest, highest = self.multiples()
        if multiple != int(multiple) or not lowest <= multiple <= highest:
            raise ValueError(f"{value!r} is not a multiple of {self.q} within the bounds of its {self.kind}")
        below = 0.0 if multiple == lowest else self.law.cdf((int(multiple) - 0.5) * self.q)
        above = 1.0 if multiple == highest else self.law.cdf((int(multiple) + 0.5) * self.q)
        return (below + above) / 2

    def multiples(self) -> tuple[int | float, int | float]:
        """The lowest and the highest number of `q`s within the law's bounds; infinite where those are."""
        low, high, q = self.law.low, self.law.high, _exact(self.q)
        return (
            low if math.isinf(low) else math.ceil(_exact(low) / q),
            high if math.isinf(high) else math.floor(_exact(high) / q),
        )

    def size(self) -> int | None:
        """Number of steps of `q` from `min` to `max`; only `q_uniform` has a grid."""
        if self.kind != "q_uniform":
            return None
        return int((_exact(self.law.high) - _exact(self.law.low)) / _exact(self.q)) + 1

    def values(self) -> list[Any] | None:
        """From `min` in steps of `q`, `max` included where they meet it (W&B's engine leaves it out).

        As in W&B a grid counts from `min`, while draws are multiples of `q`; the two are the same where `min` is one.
        """
        size = self.size()
        if size is None:
            return None
        return [self._number(_exact(self.law.low) + step * _exact(self.q)) for step in range(size)]

    def _number(self, exact: Decimal) -> int | float:
        return int(exact) if float(self.q).is_integer() and exact == int(exact) else float(exact)


def identity(value: Any) -> str:
    """A text that two values share only if they are the same; in Python 1 == True, in a configuration it is not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True, default=repr)


def _as_number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return value


def _exact(number: int | float) -> Decimal:
    """The decimal number that was typed: 0.1 is a tenth."""
    return Decimal(repr(number))
