"""Fewer rows of a part of the data."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from regx.data.module import Split


def spread(split: Split, count: int) -> Split:
    """`count` rows of a part of the data, spread evenly, as files of one class lie beside each other.

    Args:
        split: the part.
        count: from 1 to its number of rows.
    """
    rows = torch.arange(count, device=split.y.device) * len(split) // count
    more: dict[str, Any] = {"x": split.x[rows.to(split.x.device)], "y": split.y[rows]}
    if split.streamed:
        more = {"y": more["y"], "x": split.x[:count], "files": split.files[rows.cpu().numpy()]}  # type: ignore[attr-defined]
    return dataclasses.replace(split, **more)
