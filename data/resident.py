"""Images that are held on the device as bytes, and made into inputs there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from regx.data.augmentation.pipeline import Pipeline
from regx.data.module import Batch, Split


@dataclass(frozen=True, eq=False)
class ImageSplit(Split):
    """One part of a set of images, resident on its device.

    Attributes:
        x: uint8, (N, H, W, C): a batch of rows is then in channels-last order without a copy.
        y: class indices, int64, (N,).
        pipeline: how they become inputs.
    """

    pipeline: Pipeline = dataclasses.field(kw_only=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        height, width, channels = self.x.shape[1:]
        return channels, height, width

    def batches(self, rows: Iterable[Tensor | slice], epoch: int | None = None) -> Iterator[Batch]:
        """Yields one batch per entry of `rows`; see `Split.batches`."""
        uniforms = self.pipeline.uniforms(len(self), epoch)
        uniforms = None if uniforms is None else uniforms.to(self.x.device)
        for index in rows:
            where = index if isinstance(index, slice) else index.to(self.x.device, non_blocking=True)
            images = self.x[where].permute(0, 3, 1, 2)
            yield Batch(self.pipeline(images, None if uniforms is None else uniforms[where]), self.y[where])
