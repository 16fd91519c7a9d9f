import math
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.utils import shuffle

from regx.data import splits
from regx.errors import UserError

ABALONE_COUNTS = [1, 1, 15, 57, 115, 259, 391, 568, 689, 634, 487, 267, 203, 126, 103, 67, 58, 42, 32, 26, 14, 6, 9, 2]
LABELS: dict[str, Any] = {
    "iris": load_iris(return_X_y=True)[1],
    "wine": load_wine(return_X_y=True)[1],
    "breast_cancer": load_breast_cancer(return_X_y=True)[1],
    "digits": load_digits(return_X_y=True)[1],
    "abalone-like": np.repeat(np.arange(24), ABALONE_COUNTS),
    "pairs": np.repeat([0, 1, 2, 3], [2, 2, 2, 60]),
    "singles": np.repeat([0, 1, 2, 3], [1, 40, 1, 58]),
    "absent class": np.repeat([0, 2, 5], [30, 30, 40]),
}


def parts_of(labels: np.ndarray, seed: int = 42, val_size: float = 0.2, test_size: float = 0.2) -> splits.Parts:
    return splits.split(labels, len(labels), val_size=val_size, test_size=test_size, seed=seed)


@pytest.mark.parametrize("seed", [0, 42])
@pytest.mark.parametrize("name", LABELS)
def test_parts_are_disjoint_complete_and_of_exact_size(name: str, seed: int) -> None:
    labels = LABELS[name]
    parts = parts_of(labels, seed)
    together = np.concatenate([parts.train, parts.val, parts.test])
    assert sorted(together) == list(range(len(labels)))
    assert len(parts.val) == round(0.2 * len(labels))
    assert len(parts.test) == round(0.2 * len(labels))


@pytest.mark.parametrize("name", LABELS)
def test_each_class_has_its_share(name: str) -> None:
    labels = LABELS[name]
    parts = parts_of(labels, val_size=0.15, test_size=0.25)
    for label in np.unique(labels):
        count = (labels == label).sum()
        assert (labels[parts.train] == label).sum() >= 1
        for rows, size in ((parts.val, 0.15), (parts.test, 0.25)):
            got = (labels[rows] == label).sum()
            if count >= 5:  # rarer classes go to train first
                assert abs(got - size * count) < 1.5
            assert got <= math.ceil(size * count) + 1


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits"])
def test_shares_are_the_rounded_quota_without_rare_classes(name: str) -> None:
    labels = LABELS[name]
    parts = parts_of(labels)
    quota = len(parts.val) * np.bincount(labels) / len(labels)
    for rows in (parts.val, parts.test):
        assert (np.abs(np.bincount(labels[rows]) - quota) < 1).all()


def test_lone_rows_train_and_pairs_never_leave_training_empty() -> None:
    for seed in range(5):
        parts = parts_of(LABELS["singles"], seed)
        assert {0, 2} <= set(LABELS["singles"][parts.train])
        assert not {0, 2} & set(LABELS["singles"][np.concatenate([parts.val, parts.test])])
        assert set(LABELS["pairs"][parts_of(LABELS["pairs"], seed).train]) == {0, 1, 2, 3}


def test_the_seed_decides() -> None:
    labels = LABELS["digits"]
    one, same, other = parts_of(labels, 1), parts_of(labels, 1), parts_of(labels, 2)
    for part in ("train", "val", "test"):
        assert np.array_equal(getattr(one, part), getattr(same, part))
        assert not np.array_equal(getattr(one, part), getattr(other, part))


def test_parts_are_shuffled() -> None:
    labels = LABELS["iris"]  # comes sorted by class
    for rows in (parts_of(labels).train, parts_of(labels).val, parts_of(labels).test):
        changes = (np.diff(labels[rows]) != 0).sum()
        assert changes > len(rows) / 3


def test_regression_is_a_plain_shuffle() -> None:
    parts = splits.split(None, 101, val_size=0.2, test_size=0.0, seed=3)
    assert len(parts.val) == 20 and len(parts.test) == 0 and len(parts.train) == 81
    assert sorted([*parts.train, *parts.val]) == list(range(101))


@pytest.mark.parametrize(
    ("n", "size", "val"), [(150, 0.2, 30), (178, 0.2, 35), (569, 0.2, 113), (322, 0.21, 67), (1000, 0.2, 200)]
)
def test_paper_split_is_sklearns_shuffle(n: int, size: float, val: int) -> None:
    parts = splits.paper_split(n, size)
    rows: Any = shuffle(np.arange(n), random_state=42)
    assert np.array_equal(parts.val, rows[:val])
    assert np.array_equal(parts.train, rows[val:])
    assert len(parts.test) == 0


@pytest.mark.parametrize("size", [7, 50, 149])
def test_subset_keeps_proportions(size: int) -> None:
    labels = LABELS["wine"]
    rows = splits.subset(labels, len(labels), size=size, seed=0)
    assert len(set(rows)) == size
    assert (np.abs(np.bincount(labels[rows], minlength=3) - size * np.bincount(labels) / len(labels)) < 1).all()
    assert np.array_equal(rows, splits.subset(labels, len(labels), size=size, seed=0))
    assert not np.array_equal(rows, splits.subset(labels, len(labels), size=size, seed=1))


@pytest.mark.parametrize(
    ("labels", "val_size", "test_size", "says"),
    [
        (np.zeros(10, dtype=int), 0.6, 0.5, "val_size=0.6 and test_size=0.5"),
        (np.zeros(10, dtype=int), 0.1, 0.2, "validation part would have 1 of 10 rows"),
        (np.zeros(10, dtype=int), 0.2, 0.1, "test part would have 1 of 10 rows"),
        (np.zeros(10, dtype=int), 0.5, 0.4, "training part would have 1 of 10 rows"),
        (np.arange(12), 0.2, 0.2, "12 rows of 12 classes"),
    ],
)
def test_impossible_splits_say_why(labels: np.ndarray, val_size: float, test_size: float, says: str) -> None:
    with pytest.raises(UserError) as error:
        parts_of(labels, val_size=val_size, test_size=test_size)
    assert says in str(error.value) and "\n" not in str(error.value)
