"""Runs in double precision, in which rounding hides nothing."""

import dataclasses
from typing import Any
from unittest import mock

import torch

from regx.data import DataModule, create
from regx.data.module import Split
from regx.training import build
from regx.training.build import Experiment


def _data(name: str, **options: Any) -> DataModule:
    """A dataset in double precision, images ready made."""

    def doubled(split: Split | None) -> Any:
        if split is None:
            return None
        y = split.y.double() if split.y.is_floating_point() else split.y
        return Split(next(split.batches([slice(0, len(split))])).x.double().contiguous(), y)

    found = create(name, **options)
    return dataclasses.replace(
        found,
        train=doubled(found.train),
        val=doubled(found.val),
        test=doubled(found.test),  # type: ignore[arg-type]
    )


def built(config: Any) -> tuple[Experiment, torch.Tensor]:
    """An experiment in double precision, and the state of the random numbers that it begins with."""
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(build, "create_data", _data):
            return build.build(config), torch.get_rng_state()
    finally:
        torch.set_default_dtype(torch.float32)
