"""Tables: the user's own csv, tsv and parquet files, and the one path from a table to inputs and targets.

A file is read with its first line as column names. `?`, empty cells and pandas' usual marks (NA, NaN, null, ...) are
missing values. Text, bool and category columns are one-hot encoded, numbers are kept.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.data.encoding import is_text
from regx.errors import RunFailed, UserError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SUFFIXES = (".csv", ".tsv", ".parquet")
FEW_INTEGERS = 20  # a whole-number target with at most this many distinct values is taken for classes
LARGEST = 3e38  # what float32 can hold


@dataclass(frozen=True, eq=False)
class Table:
    """A dataset before it is split.

    Attributes:
        features: one row per sample.
        y: class indices, int64, (N,), or regression targets, float64, (N, T).
        classes: class names in index order; empty for regression.
        notes: what the user must be told.
        standardize: False where the inputs are meant to keep their scale (toy sets).
        paper_val_size: share of validation rows in the Jumpstart reference code.
        shape: shape of a sample where its features are an image, (C, H, W).
    """

    features: pd.DataFrame
    y: np.ndarray
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    standardize: bool = True
    paper_val_size: float = 0.2
    shape: tuple[int, ...] | None = None


def load(name: str, *, target: str | None, task: str) -> Table:
    """Reads the user's table file.

    Args:
        name: path of a .csv, .tsv or .parquet file.
        target: column to predict, or several numeric ones separated by commas.
        task: `auto`, `classification` or `regression`.

    Raises:
        UserError: no such file, not a table, no or unknown target, or a table that cannot be learned from.
    """
    frame = read(Path(name).expanduser())
    if target is None:
        raise UserError(f"{name} needs the column to predict; its columns: {_some(frame.columns)}", "target")
    frame, notes = _without_index(frame)
    return prepare(frame, columns_of(target, frame, name), name=name, task=task, notes=notes)


def read(path: Path) -> pd.DataFrame:
    """The table in a file, by its suffix.

    Raises:
        UserError: the file is missing, empty, or not such a table.
    """
    import pandas as pd

    if not path.exists():
        raise UserError(f"no such file: {path}")
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    try:
        frame = pd.read_parquet(path) if path.suffix.lower() == ".parquet" else _read_text(path)
    except (ValueError, OSError, NotImplementedError) as error:  # pandas' and pyarrow's errors are among these
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a {path.suffix.lower()[1:]} table: {_one_line(error)}") from error
    frame.columns = [str(column) for column in frame.columns]
    _refuse_twins(path, list(frame.columns))
    if frame.empty:
        raise UserError(f"{path} has no {'rows' if len(frame.columns) else 'columns'}")
    return frame


def columns_of(target: str, frame: pd.DataFrame, name: str) -> list[str]:
    """The column or columns that `target` names.

    Raises:
        UserError: a column that the table lacks.
    """
    if target in frame.columns:
        return [target]
    columns = [column.strip() for column in target.split(",")]
    for column in columns:
        if column not in frame.columns:
            raise UserError(f"{name} has no column {column!r}{_nearest(column, frame.columns)}", "target")
    return list(dict.fromkeys(columns))


def prepare(
    frame: pd.DataFrame,
    targets: Sequence[str],
    *,
    name: str,
    task: str,
    labels: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    standardize: bool = True,
    paper_val_size: float = 0.2,
) -> Table:
    """Separates a table into features and targets and drops columns that say nothing.

    Args:
        frame: the table.
        targets: columns to predict.
        name: the dataset, for messages.
        task: `auto` takes text, bool and few-valued whole numbers for classes, anything else for regression.
        labels: label in the table -> class name, in class order, where the classes are known beforehand.
        notes: notes to begin with.
        standardize: see `Table`.
        paper_val_size: see `Table`.

    Raises:
        UserError: infinite or missing values where they cannot be used, a constant target, no features left.
        RunFailed: a label that is not in `labels`.
    """
    for target in targets:
        missing = int(frame.loc[:, target].isna().sum())
        if missing:
            raise UserError(
                f"{name}: column {target!r} has no value in {missing} of {len(frame)} rows; remove those rows", "target"
            )
    if _is_classification(frame, targets, name, task, labels):
        y, classes = _classes(frame.loc[:, targets[0]], name, labels)
    else:
        y, classes = _regression(frame, targets, name, task), ()
        if task == "auto" and len(targets) == 1:
            kinds = frame.loc[:, targets[0]].nunique()
            notes = [*notes, f"{targets[0]!r} has {kinds} different numbers, so this is a regression (task auto)"]
    features, dropped = _features(frame.drop(columns=list(targets)), name)
    return Table(features, y, classes, (*notes, *dropped), standardize, paper_val_size)


def label_text(value: Any) -> str:
    """A label as text, the same for 1, 1.0, "1" and " 1 "."""
    if isinstance(value, str):
        return value.strip()
    number = float(value) if not isinstance(value, bool) and hasattr(value, "__float__") else None
    return str(int(number)) if number is not None and number.is_integer() else str(value)


def _is_classification(
    frame: pd.DataFrame, targets: Sequence[str], name: str, task: str, labels: Mapping[str, str] | None
) -> bool:
    texts = [target for target in targets if is_text(frame.loc[:, target])]
    if len(targets) > 1:
        if texts or task == "classification":
            raise UserError(
                f"{name} has {len(targets)} targets ({_some(targets)}) and classification takes one; choose it",
                "target",
            )
        return False
    if task != "auto":
        if task == "regression" and texts:
            raise UserError(
                f"regression needs a numeric target and {targets[0]!r} of {name} is not; use classification", "task"
            )
        return task == "classification"
    if labels is not None or texts:
        return True
    column = frame.loc[:, targets[0]]
    # The remainder of a float tells whole numbers apart without a conversion that could overflow.
    return bool((column % 1 == 0).all()) and column.nunique() <= FEW_INTEGERS


def _classes(column: pd.Series, name: str, labels: Mapping[str, str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    import numpy as np

    texts = [label_text(value) for value in column]
    found = set(texts)
    if labels is not None:
        if strange := sorted(found - set(labels)):
            raise RunFailed(f"{name}: {column.name!r} holds {strange[0]!r}, which is none of {', '.join(labels)}")
        order, classes = list(labels), tuple(labels.values())
    else:
        order = sorted(found) if is_text(column) else [label_text(value) for value in sorted(column.unique())]
        classes = tuple(order)
    if len(found) < 2:
        raise UserError(f"{name}: column {column.name!r} holds one class only ({texts[0]!r})", "target")
    if labels is None and len(found) > len(texts) // 2:
        raise UserError(
            f"{name}: column {column.name!r} has {len(found)} classes in {len(texts)} rows, too many to learn"
            f"{'' if is_text(column) else '; use task regression'}",
            "target",
        )
    index = {label: position for position, label in enumerate(order)}
    return np.array([index[text] for text in texts], dtype=np.int64), classes


def _regression(frame: pd.DataFrame, targets: Sequence[str], name: str, task: str) -> np.ndarray:
    import numpy as np

    for target in targets:
        _refuse_infinite(frame.loc[:, target], name)
        if frame.loc[:, target].nunique() < 2:
            raise UserError(f"{name}: column {target!r} is constant, there is nothing to predict", "target")
    return np.stack([frame[target].to_numpy(dtype=np.float64) for target in targets], axis=1)


def _features(frame: pd.DataFrame, name: str) -> tuple[pd.DataFrame, list[str]]:
    """The columns that can be learned from, and notes on the others."""
    from pandas.api.types import is_bool_dtype, is_complex_dtype, is_datetime64_any_dtype, is_timedelta64_dtype

    dropped: dict[str, list[str]] = {}
    for column_name, column in frame.items():
        reason = None
        try:
            distinct = column.nunique(dropna=False)
        except TypeError:
            raise UserError(f"{name}: column {column_name!r} holds lists or objects, not numbers or text") from None
        if column.isna().all():
            reason = "all values missing"
        elif distinct < 2:
            reason = "constant"
        elif is_datetime64_any_dtype(column) or is_timedelta64_dtype(column) or is_complex_dtype(column):
            reason = f"{column.dtype} is neither number nor text"
        elif is_text(column):
            if not is_bool_dtype(column) and len(column) > 2 and distinct == len(column):
                reason = "a different text in every row"
        else:
            _refuse_infinite(column, name)
        if reason:
            dropped.setdefault(reason, []).append(str(column_name))
    notes = [f"dropped {_some(columns)}: {reason}" for reason, columns in dropped.items()]
    features = frame.drop(columns=[column for columns in dropped.values() for column in columns])
    if not len(features.columns):
        raise UserError(f"{name} has no column left to learn from{'; ' + '; '.join(notes) if notes else ''}")
    return features, notes


def _refuse_infinite(column: pd.Series, name: str) -> None:
    import numpy as np

    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = int((np.abs(values) > LARGEST).sum())
    if bad:
        raise UserError(
            f"{name}: column {column.name!r} is infinite or beyond 32-bit floats in {bad} of {len(values)} rows"
        )


def _read_text(path: Path) -> pd.DataFrame:
    import pandas as pd

    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline(1_000_000)
    if "\0" in first:
        raise UserError(f"{path} is not a text table: it holds NUL bytes")
    if not first.strip():
        raise UserError(f"{path} is empty, or its first line is; it must name the columns")
    # Spreadsheets of many countries write ";" into .csv files.
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    names = [cell.strip() for cell in next(csv.reader([first], delimiter=separator))]
    _refuse_twins(path, [name for name in names if name])  # pandas would rename the second `a` to `a.1`
    frame = pd.read_csv(
        path, sep=separator, na_values=["?"], skipinitialspace=True, encoding="utf-8-sig", low_memory=False
    )
    # pandas turns surplus leading cells into an index without a word.
    if not isinstance(frame.index, pd.RangeIndex):
        raise UserError(f"{path} has more cells in its rows than the {len(names)} names in its first line")
    frame.columns = [str(column).strip() for column in frame.columns]
    return _with_decimal_points(frame) if separator == ";" else frame


def _with_decimal_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Reads columns of numbers with decimal commas, which go with ";" between the cells."""
    for name in frame.columns:
        column = frame.loc[:, name]
        if is_text(column) and column.dropna().astype(str).str.fullmatch(r"\s*[+-]?\d+(,\d+)?\s*").all():
            frame[name] = column.str.replace(",", ".").astype(float)
    return frame


def _refuse_twins(path: Path, names: list[str]) -> None:
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise UserError(f"{path} has {count} columns called {name!r}; rename them")


def _without_index(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Drops a nameless first column that only counts the rows, as `DataFrame.to_csv` writes it."""
    import numpy as np

    first = frame.columns[0]
    if first != "Unnamed: 0" or is_text(frame.loc[:, first]):
        return frame, []
    values = frame[first].to_numpy()
    if any(np.array_equal(values, np.arange(start, start + len(values))) for start in (0, 1)):
        return frame.drop(columns=first), ["dropped the nameless first column: it counts the rows"]
    return frame, []


def _nearest(column: str, columns: Sequence[str] | pd.Index) -> str:
    lowered = {str(known).lower(): str(known) for known in columns}
    if column.lower() in lowered:
        return f"; did you mean {lowered[column.lower()]!r}?"
    return did_you_mean(column, [str(known) for known in columns]) or f"; its columns: {_some(columns)}"


def _some(names: Sequence[str] | pd.Index) -> str:
    shown = ", ".join(repr(str(name)) for name in names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
