"""From a table to a `DataModule`: subset, split, encode by the training rows, tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regx.data import splits
from regx.data.encoding import encode
from regx.errors import UserError

if TYPE_CHECKING:
    from regx.data.module import DataModule
    from regx.data.tables import Table


def assemble(
    name: str,
    table: Table,
    *,
    seed: int,
    val_size: float | None,
    test_size: float | None,
    standardize: bool,
    protocol: str,
    subset: int | None,
) -> DataModule:
    """Splits a table and turns it into tensors; the options are those of `regx.data.create`.

    Raises:
        UserError: too few rows or classes for the parts asked for.
    """
    import numpy as np
    import torch

    from regx.data.module import DataModule, Split

    paper = protocol == "paper"
    labels = table.y if table.classes else None
    notes = list(table.notes)
    n = len(table.y)
    rows = np.arange(n)
    if subset is not None and subset < n:
        rows = splits.subset(labels, n, size=subset, seed=seed)
    elif subset is not None and subset > n:
        notes.append(f"subset={subset}: there are only {n} rows, all of them are used")
    features, y = table.features.iloc[rows], table.y[rows]
    labels = y if table.classes else None
    if labels is not None:
        counts = np.bincount(labels, minlength=len(table.classes))
        rare = [f"{label!r} ({count})" for label, count in zip(table.classes, counts, strict=True) if 0 < count < 3]
        if rare:
            notes.append(f"classes with too few rows to be in every part: {', '.join(rare)}")
    if labels is not None and (labels == labels[0]).all():
        raise UserError(f"{name}: the {len(rows)} rows hold one class only ({table.classes[labels[0]]!r}); take more")
    try:
        if paper:
            parts = splits.paper_split(len(rows), table.paper_val_size)
        else:
            val_share, test_share = (splits.SHARE if size is None else size for size in (val_size, test_size))
            parts = splits.split(labels, len(rows), val_size=val_share, test_size=test_share, seed=seed)
    except UserError as error:
        raise UserError(f"{name}: {error.message}") from error
    if paper:
        notes.append(
            f"paper protocol: shuffled with random_state={splits.PAPER_SEED}, the first {table.paper_val_size:.0%} "
            "validate, no test part, not standardised"
        )
    scale = standardize and not paper
    encoded = encode(features, parts.train, standardize=scale and table.standardize)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    if labels is None:
        mean, std = (0.0,) * y.shape[1], (1.0,) * y.shape[1]
        if scale:
            spread = y[parts.train].std(axis=0)
            mean = tuple(y[parts.train].mean(axis=0).tolist())
            std = tuple(np.where(np.ptp(y[parts.train], axis=0) > 0, spread, 1.0).tolist())
        targets = torch.from_numpy(((y - np.array(mean)) / np.array(std)).astype(np.float32))
    else:
        targets = torch.from_numpy(y.astype(np.int64))
    inputs = torch.from_numpy(encoded.x)
    if table.shape:
        inputs = inputs.reshape(-1, *table.shape)

    def part(index: np.ndarray) -> Split:
        chosen = torch.from_numpy(index)
        return Split(inputs[chosen], targets[chosen])

    return DataModule(
        name=name,
        task="regression" if labels is None else "binary" if len(table.classes) == 2 else "multiclass",
        train=part(parts.train),
        val=part(parts.val),
        test=part(parts.test) if len(parts.test) else None,
        classes=table.classes,
        features=encoded.names,
        target_mean=mean,
        target_std=std,
        notes=(*notes, *encoded.notes),
    )
