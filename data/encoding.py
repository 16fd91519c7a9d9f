"""Columns to numbers: imputation, one-hot encoding and scaling, with every statistic from the training rows alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MISSING = "(missing)"
MANY_CATEGORIES = 20


@dataclass(frozen=True, eq=False)
class Encoded:
    """Inputs of all rows, float32 (N, F), the name of each input, and what was done to get there."""

    x: np.ndarray
    names: tuple[str, ...]
    notes: tuple[str, ...]


def is_text(column: pd.Series) -> bool:
    """Whether a column is one-hot encoded: text, category, bool and mixed columns are, numbers are not."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return is_bool_dtype(column) or not is_numeric_dtype(column)


def encode(features: pd.DataFrame, train: np.ndarray, *, standardize: bool) -> Encoded:
    """Turns columns into inputs.

    Numbers: a missing cell takes the median of the training rows; with `standardize`, minus the training mean, divided
    by the training standard deviation (population, ddof=0), where a column constant in training is divided by 1.
    Text: one 0/1 input per category seen in training, in sorted order and never standardised; missing is a category of
    its own; a category that training lacks is all zeros.

    Args:
        features: one row per sample, any mix of columns, (N, columns).
        train: row numbers of the training rows.
        standardize: whether number columns are standardised.
    """
    import numpy as np
    import pandas as pd

    blocks: list[np.ndarray] = []
    names: list[str] = []
    notes: list[str] = []
    imputed = categories_missing = unseen = 0
    for name, column in features.items():
        if is_text(column):
            text = np.array(
                [MISSING if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]
            )
            categories = np.unique(text[train])
            codes = pd.Index(categories).get_indexer(pd.Index(text))
            if len(categories) > MANY_CATEGORIES:
                notes.append(f"{name!r} is text with {len(categories)} categories, an input for each")
            block = np.zeros((len(text), len(categories)), dtype=np.float32)
            seen = codes >= 0
            block[np.flatnonzero(seen), codes[seen]] = 1.0
            categories_missing += int(column.isna().sum())
            unseen += int((~seen).sum())
            blocks.append(block)
            names += [f"{name}={category}" for category in categories]
            continue
        values = column.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
        missing = np.isnan(values)
        known = values[train][~missing[train]]
        if not len(known):
            notes.append(f"dropped {name!r}: no training row has a value")
            continue
        values[missing] = np.median(known)
        imputed += int(missing.sum())
        if standardize:
            training = values[train]
            constant = training.min() == training.max()
            # The mean of equal numbers can differ from them by rounding; a constant column must become exactly 0.
            values = values - training[0] if constant else (values - training.mean()) / training.std()
        blocks.append(values.astype(np.float32)[:, None])
        names.append(str(name))
    if imputed:
        notes.append(f"{_cells(imputed)} of number columns filled with the training median")
    if categories_missing:
        notes.append(f"{_cells(categories_missing)} of text columns kept as category {MISSING!r}")
    if unseen:
        notes.append(f"{unseen} validation or test cells hold a category that training lacks: all their inputs are 0")
    x = np.concatenate(blocks, axis=1) if blocks else np.zeros((len(features), 0), dtype=np.float32)
    return Encoded(x, tuple(names), tuple(notes))


def _cells(count: int) -> str:
    return f"{count} missing cell{'s' if count > 1 else ''}"
