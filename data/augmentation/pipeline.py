"""From the text of augmentations to one callable: uint8 images in, normalised and augmented float images out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regx.data import AUGMENTATIONS
from regx.data.augmentation import affine
from regx.errors import UserError
from regx.registry import Info
from regx.text import named


@dataclass(frozen=True)
class Step:
    """An augmentation with its options."""

    info: Info
    options: dict[str, Any] = field(default_factory=dict)


def parse(texts: Sequence[str]) -> tuple[Step, ...]:
    """Reads augmentations in text form: `flip`, `crop(padding=4)`.

    Raises:
        UserError: an unknown name, option or value, or an augmentation given twice.
    """
    steps: list[Step] = []
    for text in texts:
        name, given = named(text, "augment")
        try:
            info = AUGMENTATIONS[name]
        except UserError as error:
            raise UserError(error.message, "augment") from None
        if any(step.info.name == name for step in steps):
            raise UserError(f"{name} is given twice", "augment")
        try:
            options = {parameter.name: parameter.default for parameter in info.parameters} | info.check(given)
        except UserError as error:
            raise UserError(f"{text!r}: {error}", "augment") from None
        steps.append(Step(info, options))
    return tuple(steps)


@dataclass(frozen=True)
class Pipeline:
    """What happens to a batch on its device.

    Attributes:
        mean: per channel, of pixels in [0, 1].
        std: per channel.
        seed: the dataset's seed, that augmentation is drawn from.
        steps: augmentations, in training only.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    steps: tuple[Step, ...] = ()

    def uniforms(self, rows: int, epoch: int | None) -> Tensor | None:
        """The random numbers of every row in an epoch, (rows, draws), on the CPU; None where nothing is drawn."""
        draws = sum(step.info.facts["draws"] for step in self.steps)
        if epoch is None or draws == 0:
            return None
        mixed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint64)[0])
        return torch.rand(rows, draws, generator=torch.Generator().manual_seed(mixed))

    def __call__(self, images: Tensor, uniforms: Tensor | None) -> Tensor:
        """Turns images into inputs.

        Args:
            images: uint8, (B, C, H, W).
            uniforms: their rows of `uniforms`, on the same device; None for evaluation.

        Returns:
            float32, (B, C, H, W), in channels-last strides.
        """
        chosen: dict[str, list[tuple[Step, Tensor]]] = {"resample": [], "shift": [], "color": [], "cover": []}
        if uniforms is not None:
            columns = uniforms.split([step.info.facts["draws"] for step in self.steps], dim=1)
            for step, u in zip(self.steps, columns, strict=True):
                chosen[step.info.facts["stage"]].append((step, u))
        size = images.shape[2], images.shape[3]
        if chosen["shift"] and not chosen["resample"]:
            images = _shift(images, chosen["shift"], size)  # four times less to move than as floats
        x = images.to(torch.float32, memory_format=torch.channels_last)
        white = 255.0
        if chosen["resample"]:
            matrix = torch.eye(3, device=x.device)
            for step, u in chosen["resample"]:
                matrix = matrix @ step.info.load()(u, *size, **step.options)
            border = all(step.info.name != "rotate" for step, _ in chosen["resample"])
            x = affine.resample(x, matrix, border=border)
            x = _shift(x, chosen["shift"], size) if chosen["shift"] else x
        if chosen["color"]:
            x, white = x.div_(white), 1.0
        for step, u in chosen["color"]:
            x = step.info.load()(x, u, **step.options)
        x = self._standardized(x, white)
        for step, u in chosen["cover"]:
            x = step.info.load()(x, u, **step.options)
        return x.contiguous(memory_format=torch.channels_last)

    def _standardized(self, x: Tensor, white: float) -> Tensor:
        """(x / white - mean) / std in one pass, in the place of x where that lies in channels-last strides."""
        count, channels, height, width = x.shape
        # By whole rows of pixels, (W C,), as three channels at a time are too short a loop for a CPU.
        factor = affine.constant(tuple(1 / (white * std) for std in self.std) * width, x.device)
        summand = affine.constant(
            tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True)) * width, x.device
        )
        rows = x.permute(0, 2, 3, 1).reshape(count * height, width * channels)
        torch.addcmul(summand, rows, factor, out=rows)
        return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def _shift(images: Tensor, steps: list[tuple[Step, Tensor]], size: tuple[int, int]) -> Tensor:
    """All moves of whole pixels in one gather."""
    rows, columns = (torch.arange(side, device=images.device).expand(len(images), side) for side in size)
    for step, u in steps:
        down, right = step.info.load()(u, *size, **step.options)
        rows, columns = affine.chain(rows, down), affine.chain(columns, right)
    return affine.gather(images, rows, columns)


def try_out(steps: tuple[Step, ...], channels: int, height: int, width: int) -> None:
    """Does the steps to one black image, so that those that do not fit such images say so before training.

    Raises:
        UserError: one does not.
    """
    draws = sum(step.info.facts["draws"] for step in steps)
    blank = torch.zeros(1, channels, height, width, dtype=torch.uint8)
    Pipeline((0.0,) * channels, (1.0,) * channels, 0, steps)(blank, torch.zeros(1, draws))
