"""Means, intervals, paired tests and ranks over a handful of seeds and datasets."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

# Values that differ by less are the same: means over seeds of the same numbers differ in their last digits.
DIGITS = 10
# A p below this is called significant.
LEVEL = 0.05
# Fewer pairs say nothing: a t test of two has one degree of freedom; 5 signed ranks have no p below 2 / 2^5 = 0.06.
LEAST_SEEDS, LEAST_DATASETS = 3, 6
# Iman and Davenport's F is an approximation, which for fewer datasets is a bad one.
LEAST_RANKED = 5


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1 in the denominator; None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def confidence_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


@dataclass(frozen=True)
class Paired:
    """What pairs of values say of their difference, values minus baseline.

    Attributes:
        n: pairs.
        difference: its mean.
        interval: Student's 95 % interval of that mean; None for one pair.
        signed_rank: exact two-sided p of Wilcoxon's test (`signed_rank`), for pairs that are datasets; None for fewer
            than `LEAST_DATASETS`.
        t: two-sided p of Student's paired test (`paired_t`), for pairs that are seeds of one dataset; None for fewer
            than `LEAST_SEEDS`, or without spread.
    """

    n: int
    difference: float
    interval: tuple[float, float] | None
    signed_rank: float | None
    t: float | None


def paired(values: Mapping[Key, float], baseline: Mapping[Key, float]) -> Paired | None:
    """Compares what has the same key, a seed or a dataset; what only one side has is left out.

    Returns:
        None where no key is shared.
    """
    differences = [value - baseline[key] for key, value in values.items() if key in baseline]
    if not differences:
        return None
    interval = confidence_interval(differences)
    return Paired(len(differences), fmean(differences), interval, signed_rank(differences), paired_t(differences))


def paired_t(differences: Sequence[float]) -> float | None:
    """Two-sided p of Student's paired t test: differences of the same seeds, in one dataset.

    With 3 to 10 seeds it is the test that can say something at all: rank and permutation tests have no p below 0.05 for
    fewer than 6 pairs. It takes differences to be about normal, which holds best for a metric that many rows enter.

    Returns:
        1 where nothing differs at all; None for fewer than `LEAST_SEEDS` pairs, or where all differ by the very same
        amount: without spread there is no test.
    """
    if len(differences) < LEAST_SEEDS:
        return None
    differences = [round(value, DIGITS) for value in differences]
    if not any(differences):
        return 1.0
    if len(set(differences)) == 1:
        return None
    from scipy.stats import t

    statistic = fmean(differences) / (stdev(differences) / math.sqrt(len(differences)))
    return float(2 * t.sf(abs(statistic), len(differences) - 1))


def signed_rank(differences: Sequence[float]) -> float | None:
    """Two-sided exact p of Wilcoxon's signed-rank test: one difference per dataset.

    What J. Demšar (JMLR 7, 2006) recommends for two methods over several datasets, whose differences are not
    commensurable. Ties share their mean rank; differences of zero are ranked and then take no side (Pratt 1959). The
    distribution is that of all signs of these very ranks, so it is exact with ties too, where tables are not.

    Returns:
        None for fewer than `LEAST_DATASETS` pairs, whose smallest p is above 0.05.
    """
    if len(differences) < LEAST_DATASETS:
        return None
    differences = [round(value, DIGITS) for value in differences]
    sizes = [-abs(value) for value in differences]
    signed = [(round(2 * rank), value > 0) for rank, value in zip(mean_ranks(sizes), differences, strict=True) if value]
    counts = {0: 1}  # how many of the choices of signs have this sum of (doubled) positive ranks
    for rank, _ in signed:
        added = dict(counts)
        for total, count in counts.items():
            added[total + rank] = added.get(total + rank, 0) + count
        counts = added
    positive = sum(rank for rank, is_positive in signed if is_positive)
    extreme = max(positive, sum(rank for rank, _ in signed) - positive)
    return min(1.0, 2 * sum(count for total, count in counts.items() if total >= extreme) / 2 ** len(signed))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p values that may be compared with the level all together, in the given order."""
    corrected = [0.0] * len(ps)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[index]))
        corrected[index] = highest
    return corrected


def min_ranks(values: Sequence[float]) -> list[int]:
    """Ranks from 1, the highest value first; ties all have the best of their ranks (1, 1, 3)."""
    rounded = [round(value, DIGITS) for value in values]
    return [1 + sum(other > value for other in rounded) for value in rounded]


def mean_ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, the highest value first; ties share the mean of their ranks (1.5, 1.5, 3)."""
    rounded = [round(value, DIGITS) for value in values]
    return [rank + (rounded.count(value) - 1) / 2 for rank, value in zip(min_ranks(values), rounded, strict=True)]


def iman_davenport(scores: Sequence[Sequence[float]]) -> float | None:
    """p that all methods are alike, by Friedman's test of their ranks with Iman and Davenport's F.

    F = (N - 1) chi2 / (N (k - 1) - chi2) of Friedman's statistic, corrected for ties, of k methods and N datasets, has
    about the F distribution with k - 1 and (k - 1)(N - 1) degrees of freedom. Friedman's own chi2 rejects too seldom
    (Iman & Davenport, Communications in Statistics A9, 1980; Demšar 2006, section 3.2.2).

    Args:
        scores: a row per dataset, a column per method.

    Returns:
        None for fewer than three methods or `LEAST_RANKED` datasets, or where every dataset ties all of them.
    """
    datasets, ranks = len(scores), [mean_ranks(row) for row in scores]
    if datasets < LEAST_RANKED or len(ranks[0]) < 3 or not any(len(set(row)) > 1 for row in ranks):
        return None
    from scipy.stats import f, friedmanchisquare

    free = len(ranks[0]) - 1
    statistic = float(friedmanchisquare(*zip(*ranks, strict=True)).statistic)
    rest = datasets * free - statistic
    if rest < 10**-DIGITS:  # all datasets agree
        return 0.0
    return float(f.sf((datasets - 1) * statistic / rest, free, free * (datasets - 1)))


def critical_difference(methods: int, datasets: int) -> float:
    """Mean ranks further apart differ at the level 0.05, by Nemenyi's test (Demšar 2006, section 3.2.2)."""
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(1 - LEVEL, methods, math.inf)) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * datasets))
