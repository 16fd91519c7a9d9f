"""Which rows train, which validate, which test: index arrays, disjoint, shuffled and fixed by the seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from regx.errors import UserError

if TYPE_CHECKING:
    import numpy as np

PAPER_SEED = 42
SHARE = 0.2  # of all rows that validate, and that test, by default


@dataclass(frozen=True, eq=False)
class Parts:
    """Row numbers of each part, int64; `test` is empty where there is no test part."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split(labels: np.ndarray | None, n: int, *, val_size: float, test_size: float, seed: int) -> Parts:
    """Splits n rows into exactly round(val_size n) validation, round(test_size n) test, and the rest training rows.

    Stratified: a class of c rows gets val_size c and test_size c of them, rounded up or down by largest remainder, but
    always keeps a row for training; classes of one or two rows therefore go to train first, then to validation.

    Args:
        labels: class index per row, (n,); None for a plain shuffle.
        n: number of rows.
        val_size: share of validation rows, in (0, 1).
        test_size: share of test rows, in [0, 1).
        seed: seeds the permutation.

    Raises:
        UserError: the shares leave nothing to train on, or a part would have fewer than two rows.
    """
    import numpy as np

    if val_size + test_size >= 1:
        raise UserError(
            f"val_size={val_size:g} and test_size={test_size:g} leave nothing to train on; their sum must be below 1"
        )
    n_val, n_test = round(val_size * n), round(test_size * n)
    labels = np.zeros(n, dtype=np.int64) if labels is None else labels
    counts = np.bincount(labels)
    _check_sizes(n - n_val - n_test, n_val, n_test if test_size else None)
    if (np.maximum(counts - 1, 0)).sum() < n_val + n_test:
        raise UserError(
            f"{n} rows of {np.count_nonzero(counts)} classes cannot be split into {n_val} validation and {n_test} test "
            "rows with every class in training; lower val_size and test_size, or take more rows"
        )
    val_counts = _allocate(counts, n_val, room=np.maximum(counts - 1, 0))
    test_counts = _allocate(counts, n_test, room=np.maximum(counts - 1, 0) - val_counts)
    order = np.random.default_rng(seed).permutation(n)
    rank = _rank_in_class(labels, order)
    val = rank < val_counts[labels]
    test = ~val & (rank < (val_counts + test_counts)[labels])
    return Parts(order[~(val | test)[order]], order[val[order]], order[test[order]])


def paper_split(n: int, val_size: float) -> Parts:
    """The tabular split of the Jumpstart reference code: sklearn's shuffle with random_state=42, the first
    floor(val_size n) rows validate, the others train, no test part, no stratification.

    Raises:
        UserError: a part would have fewer than two rows.
    """
    import math

    import numpy as np
    from sklearn.utils import shuffle

    n_val = math.floor(val_size * n)
    _check_sizes(n - n_val, n_val, None)
    order = np.asarray(shuffle(np.arange(n), random_state=PAPER_SEED))
    return Parts(order[n_val:], order[:n_val], order[:0])


def subset(labels: np.ndarray | None, n: int, *, size: int, seed: int) -> np.ndarray:
    """Row numbers of `size` of n rows, classes in proportion, in the order of a seeded permutation."""
    import numpy as np

    labels = np.zeros(n, dtype=np.int64) if labels is None else labels
    counts = np.bincount(labels)
    order = np.random.default_rng(seed).permutation(n)
    chosen = _rank_in_class(labels, order) < _allocate(counts, size, room=counts)[labels]
    return order[chosen[order]]


def _allocate(counts: np.ndarray, seats: int, room: np.ndarray) -> np.ndarray:
    """Shares `seats` among classes in proportion to `counts` by largest remainder, never above `room`."""
    import numpy as np

    quota = seats * counts / max(counts.sum(), 1)
    given = np.minimum(np.floor(quota).astype(np.int64), room)
    # Largest remainder first; among equals the larger class, then the lower index.
    order = np.lexsort((np.arange(len(counts)), -counts, given - quota))
    while (left := seats - given.sum()) > 0:
        open_classes = [index for index in order if given[index] < room[index]]
        given[open_classes[:left]] += 1
    return given


def _rank_in_class(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """For each row, how many rows of its class come before it in `order`."""
    import numpy as np

    grouped = order[np.argsort(labels[order], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels))[:-1]])
    rank = np.empty(len(labels), dtype=np.int64)
    rank[grouped] = np.arange(len(labels)) - starts[labels[grouped]]
    return rank


def _check_sizes(train: int, val: int, test: int | None) -> None:
    for part, rows in (("training", train), ("validation", val), ("test", test)):
        if rows is not None and rows < 2:
            raise UserError(
                f"the {part} part would have {rows} of {train + val + (test or 0)} rows and needs at least 2; "
                "take more rows or change val_size and test_size"
            )
