"""Intervals, tests and ranks against scipy, published tables, and every choice of signs written out."""

import itertools
import math
import random
from statistics import fmean

import pytest
import scipy.stats

from regx.analysis import statistics


def numbers(count: int, seed: int, shift: float = 0.0) -> list[float]:
    source = random.Random(seed)
    return [source.gauss(shift, 1) for _ in range(count)]


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262)])
def test_interval_has_the_half_width_of_the_t_table(count: int, quantile: float) -> None:
    values = numbers(count, count)
    interval = statistics.confidence_interval(values)
    spread = statistics.spread(values)
    assert interval and spread
    mean = fmean(values)
    assert spread == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / (count - 1)))
    assert sum(interval) / 2 == pytest.approx(mean)
    assert (interval[1] - interval[0]) / 2 == pytest.approx(quantile * spread / math.sqrt(count), rel=3e-4)


def test_one_value_has_no_spread() -> None:
    assert statistics.spread([0.5]) is None and statistics.confidence_interval([0.5]) is None


@pytest.mark.parametrize("count", [3, 5, 10])
def test_paired_t_is_scipys(count: int) -> None:
    first, second = numbers(count, 1, 0.8), numbers(count, 2)
    differences = [a - b for a, b in zip(first, second, strict=True)]
    assert statistics.paired_t(differences) == pytest.approx(scipy.stats.ttest_rel(first, second).pvalue)


def test_paired_t_without_a_test() -> None:
    assert statistics.paired_t([0.1, 0.2]) is None, "too few"
    assert statistics.paired_t([0.3 - 0.1, 0.2, 0.2]) is None, "no spread but that of floating point"
    assert statistics.paired_t([0.0, 0.0, 1e-16]) == 1.0


def test_paired_compares_what_both_have() -> None:
    values = dict(enumerate(numbers(12, 4, 0.6)))
    baseline = {key: value for key, value in enumerate(numbers(15, 5)) if key > 2}
    shared = sorted(values.keys() & baseline.keys())
    first, second = [values[key] for key in shared], [baseline[key] for key in shared]
    found = statistics.paired(values, baseline)
    assert found and found.n == len(shared) == 9
    test = scipy.stats.ttest_rel(first, second)
    interval = test.confidence_interval(0.95)
    assert found.difference == pytest.approx(fmean(first) - fmean(second))
    assert found.interval == pytest.approx((interval.low, interval.high))
    assert found.t == pytest.approx(test.pvalue)
    assert found.signed_rank == pytest.approx(scipy.stats.wilcoxon(first, second, method="exact")[1])


def test_paired_of_few() -> None:
    assert statistics.paired({"iris": 1.0}, {"wine": 1.0}) is None
    assert statistics.paired({"iris": 0.75}, {"iris": 0.5}) == statistics.Paired(1, 0.25, None, None, None)
    five = statistics.paired({i: i**2 for i in range(5)}, {i: 0.0 for i in range(5)})
    assert five and five.signed_rank is None and five.t is not None and five.interval is not None


def all_signs(differences: list[float]) -> float:
    """p of the signed-rank statistic by writing out every choice of signs."""
    ranks = scipy.stats.rankdata([abs(d) for d in differences])
    kept = [(rank, d > 0) for rank, d in zip(ranks, differences, strict=True) if d]
    observed = abs(sum(rank if positive else -rank for rank, positive in kept))
    sums = [
        abs(sum(sign * rank for sign, (rank, _) in zip(signs, kept, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(kept))
    ]
    return sum(total >= observed - 1e-9 for total in sums) / len(sums)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("digits", [9, 0], ids=["no ties", "ties and zeros"])
def test_signed_rank_is_exact(seed: int, digits: int) -> None:
    differences = [round(d, digits) for d in numbers(9, seed, 0.7)]
    assert statistics.signed_rank(differences) == pytest.approx(all_signs(differences))
    if digits:
        exact = scipy.stats.wilcoxon(differences, method="exact")[1]
        assert statistics.signed_rank(differences) == pytest.approx(exact)


def test_signed_rank_of_many_is_scipys() -> None:
    differences = numbers(100, 3, 0.2)
    exact = scipy.stats.wilcoxon(differences, method="exact")[1]
    assert statistics.signed_rank(differences) == pytest.approx(exact)


def test_signed_rank_of_few_and_of_equals() -> None:
    assert statistics.signed_rank([1, 2, 3, 4, 5]) is None
    assert statistics.signed_rank([1, 2, 3, 4, 5, 6]) == 2 / 2**6
    assert statistics.signed_rank([0.0] * 6) == 1.0


def test_holm() -> None:
    # The example of Holm's step-down: 0.005 * 4, 0.01 * 3, 0.03 * 2, and never less than the one before.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_ranks_of_equals() -> None:
    values = [0.9, 0.1 + 0.2, 0.9, 0.3, 0.5]
    negative = [-round(value, 10) for value in values]
    assert statistics.min_ranks(values) == [1, 4, 1, 4, 3] == list(scipy.stats.rankdata(negative, method="min"))
    assert statistics.mean_ranks(values) == [1.5, 4.5, 1.5, 4.5, 3] == list(scipy.stats.rankdata(negative))


def test_critical_difference_is_demsars() -> None:
    # Demsar 2006, section 3.2.3: four classifiers on 14 datasets; table 5: q of 2 and of 10 classifiers.
    assert statistics.critical_difference(4, 14) == pytest.approx(1.25, abs=0.01)
    assert statistics.critical_difference(2, 1) == pytest.approx(1.960, abs=1e-3)
    assert statistics.critical_difference(10, 1) == pytest.approx(3.164 * math.sqrt(110 / 6), abs=5e-3)


@pytest.mark.parametrize("digits", [9, 0], ids=["no ties", "ties"])
def test_iman_davenport_is_the_analysis_of_variance_of_ranks(digits: int) -> None:
    scores = [[round(score, digits) for score in numbers(4, seed, 0.5)] for seed in range(8)]
    ranks = [scipy.stats.rankdata([-score for score in row]) for row in scores]
    means = [fmean(column) for column in zip(*ranks, strict=True)]
    between = 8 * sum((mean - 2.5) ** 2 for mean in means)
    within = sum((rank - 2.5) ** 2 for row in ranks for rank in row) - between  # datasets do not differ in ranks
    p = scipy.stats.f.sf((between / 3) / (within / 21), 3, 21)
    assert statistics.iman_davenport(scores) == pytest.approx(p)


def test_iman_davenport_of_demsars_example() -> None:
    # Demsar 2006, section 3.2.3: chi2 9.28 of four classifiers on 14 datasets is F 3.69, which rejects at 0.05.
    # The accuracies of its table 6: C4.5, with its parameter m, cf, and both tuned; in the last but one set the ranks
    # of cf and of both are 2 and 3, which the three digits of the table (0.975) do not show.
    scores = [
        *([0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967]),
        *([0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931]),
        *([0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875]),
        *([1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669]),
        *([0.972, 0.981, 0.9752, 0.9748], [0.957, 0.978, 0.946, 0.970]),
    ]
    means = [fmean(column) for column in zip(*(statistics.mean_ranks(row) for row in scores), strict=True)]
    assert means == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert 12 * 14 / 20 * (sum(mean**2 for mean in means) - 25) == pytest.approx(9.28, abs=0.005)
    # It does not correct for the ties, and so has a little more than ours.
    p, reference = statistics.iman_davenport(scores), scipy.stats.f.sf(3.69, 3, 39)
    assert p and 0.5 * reference < p < reference


def test_iman_davenport_of_few_and_of_equals() -> None:
    assert statistics.iman_davenport([[1.0, 2.0]] * 5) is None, "two methods have Wilcoxon's test"
    assert statistics.iman_davenport([[1.0, 1.0, 1.0]] * 5) is None
    assert statistics.iman_davenport([[1.0, 2.0, 3.0]] * 4) is None
    assert statistics.iman_davenport([[1.0, 2.0, 3.0]] * 5) == 0.0
    alike = [list(map(float, order)) for order in itertools.permutations((1, 2, 3))]
    assert statistics.iman_davenport(alike) == 1.0
