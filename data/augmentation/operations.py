"""Augmentation of whole batches on their device, from a table of uniform numbers: no loop over images, no waiting.

Each function says by its `stage` what it makes of its columns of the table, u, (B, draws), numbers in [0, 1):

    resample  matrices (B, 3, 3) from output to input coordinates; all of them together are one bilinear resampling
    shift     source rows (B, H) and columns (B, W) of whole pixels; all of them together are one gather
    color     images of pixels in [0, 1]
    cover     images after mean and std

`draws` is the number of columns. Whatever the order in which they are named, the stages follow each other in this
order; within one they keep theirs. What makes no sense for images of that size is a `UserError` of the option augment.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor

from regx.data.augmentation import affine
from regx.errors import UserError
from regx.parameters import Bounds
from regx.registry import register

Share = Annotated[float, Bounds(0, 1)]
Fill = Literal["zero", "color"]
Edge = Literal["zero", "reflect"]

ATTEMPTS = 10  # boxes that resized_crop draws before it takes the largest one in the middle, as torchvision does
GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma


@register("rotate", stage="resample", draws=1, example="rotate(degrees=15)", source="torchvision RandomRotation")
def rotate(u: Tensor, height: int, width: int, *, degrees: Annotated[float, Bounds(0, 180)] = 15.0) -> Tensor:
    """Rotation about the centre; what comes from outside the image is 0.

    Args:
        degrees: the angle is uniform in [-degrees, degrees].
    """
    return affine.rotation((2 * u[:, 0] - 1) * degrees, height, width)


@register("resized_crop", stage="resample", draws=22, example="resized_crop(low=0.08)", source="Szegedy et al. 2015")
def resized_crop(
    u: Tensor,
    height: int,
    width: int,
    *,
    low: Annotated[float, Bounds(above=0, high=1)] = 0.08,
    ratio: Annotated[float, Bounds(1, 10)] = 1.3333333333333333,
) -> Tensor:
    """A random box of the image, stretched to the full size.

    Args:
        low: the box has at least this share of the image's area, uniform up to 1.
        ratio: width / height of the box is log-uniform in [1 / ratio, ratio].
    """
    area = low + (1 - low) * u[:, :ATTEMPTS]
    aspect = ((2 * u[:, ATTEMPTS : 2 * ATTEMPTS] - 1) * math.log(ratio)).exp() * (height / width)
    wide, high = (area * aspect).sqrt(), (area / aspect).sqrt()
    fits = (wide <= 1) & (high <= 1)
    first = fits.to(torch.int8).argmax(dim=1, keepdim=True)
    found = fits.gather(1, first)[:, 0]
    # The largest box whose aspect is within bounds, for an image that is itself out of bounds.
    own = width / height
    best = min(max(own, 1 / ratio), ratio) / own
    w = torch.where(found, wide.gather(1, first)[:, 0], min(best, 1.0))
    h = torch.where(found, high.gather(1, first)[:, 0], min(1 / best, 1.0))
    top = torch.where(found, u[:, -2], 0.5) * (1 - h)
    left = torch.where(found, u[:, -1], 0.5) * (1 - w)
    return affine.zoom(top, left, h, w)


@register("flip", stage="shift", draws=1, example="flip", source="He et al. 2016")
def flip(u: Tensor, height: int, width: int, *, p: Share = 0.5) -> tuple[Tensor, Tensor]:
    """Mirrors left and right.

    Args:
        p: probability.
    """
    rows, columns = _still(u, height), _still(u, width)
    return rows, torch.where(u[:, :1] < p, width - 1 - columns, columns)


@register("crop", stage="shift", draws=2, example="crop(padding=4)", source="He et al. 2016")
def crop(
    u: Tensor, height: int, width: int, *, padding: Annotated[int, Bounds(0, 1000)] = 4, mode: Edge = "zero"
) -> tuple[Tensor, Tensor]:
    """A window of the image's size, out of the image padded on every side.

    Args:
        padding: pixels on each side, fewer than either side of the image has.
        mode: what they hold: 0, or the image reflected.
    """
    if padding >= (side := min(height, width)):
        why = "there are not as many to reflect" if mode == "reflect" else "nothing of the image may be left"
        raise UserError(
            f"crop: padding {padding} of images of {height} x {width} pixels: {why}; use at most {side - 1}", "augment"
        )
    offset = (u * (2 * padding + 1)).long() - padding
    rows, columns = _still(u, height) + offset[:, :1], _still(u, width) + offset[:, 1:]
    if mode == "reflect":
        return affine.reflected(rows, height), affine.reflected(columns, width)
    return rows, columns


@register("translate", stage="shift", draws=2, example="translate(share=0.1)", source="torchvision RandomAffine")
def translate(u: Tensor, height: int, width: int, *, share: Share = 0.1) -> tuple[Tensor, Tensor]:
    """Moves the image by whole pixels; what comes from outside is 0.

    Args:
        share: of either side, the largest move, rounded down to pixels; below 1.
    """
    if share == 1:
        raise UserError("translate: share 1 may leave nothing of the image; use less, as 0.1", "augment")
    down, right = int(share * height), int(share * width)
    return (
        _still(u, height) - (u[:, :1] * (2 * down + 1)).long() + down,
        _still(u, width) - (u[:, 1:] * (2 * right + 1)).long() + right,
    )


@register(
    "color_jitter", stage="color", draws=3, example="color_jitter(brightness=0.4)", source="torchvision ColorJitter"
)
def color_jitter(
    x: Tensor, u: Tensor, *, brightness: Share = 0.4, contrast: Share = 0.4, saturation: Share = 0.4
) -> Tensor:
    """Changes brightness, then contrast, then saturation, each by a factor uniform in [1 - value, 1 + value].

    Args:
        brightness: blend with black.
        contrast: blend with the mean of the gray image.
        saturation: blend with the gray image; nothing happens to a gray one.
    """
    factors = 1 + (2 * u - 1) * affine.constant((brightness, contrast, saturation), u.device)
    x = blend(x, torch.zeros_like(x), factors[:, 0])
    x = blend(x, gray(x).mean(dim=(1, 2, 3), keepdim=True), factors[:, 1])
    return blend(x, gray(x), factors[:, 2])


@register("grayscale", stage="color", draws=1, example="grayscale(p=0.1)", source="torchvision RandomGrayscale")
def grayscale(x: Tensor, u: Tensor, *, p: Share = 0.1) -> Tensor:
    """Takes the color away.

    Args:
        p: probability.
    """
    return torch.where(u[:, 0, None, None, None] < p, gray(x), x)


@register("trivial", stage="color", draws=3, example="trivial", source="Müller & Hutter 2021, TrivialAugment Wide")
def trivial(x: Tensor, u: Tensor) -> Tensor:
    """One of fourteen operations at one of 31 strengths, each equally likely; resampling is bilinear, outside is 0."""
    from regx.data.augmentation import wide

    if x.shape[1] not in (1, 3):
        raise UserError(f"trivial is for images of 1 or 3 channels, not {x.shape[1]}", "augment")
    return wide.apply(x, u)


@register("cutout", stage="cover", draws=2, example="cutout(size=8)", source="DeVries & Taylor 2017")
def cutout(x: Tensor, u: Tensor, *, size: Annotated[int, Bounds(1, 10_000)] = 8) -> Tensor:
    """Sets a square to the mean; its centre is any pixel, so it may stick out.

    Args:
        size: side in pixels.
    """
    height, width = x.shape[2:]
    if size >= (side := max(height, width)):
        raise UserError(
            f"cutout: size {size} may cover all of an image of {height} x {width} pixels; use less than {side}",
            "augment",
        )
    top, left = (u[:, 0] * height).long() - size // 2, (u[:, 1] * width).long() - size // 2
    return x.masked_fill(_box(x, top, left, top + size, left + size), 0.0)


@register("erasing", stage="cover", draws=8, example="erasing(p=0.25)", source="Zhong et al. 2020")
def erasing(
    x: Tensor,
    u: Tensor,
    *,
    p: Share = 0.25,
    low: Annotated[float, Bounds(above=0, high=1)] = 0.02,
    high: Annotated[float, Bounds(above=0, high=1)] = 0.33,
    ratio: Annotated[float, Bounds(1, 10)] = 3.3,
    fill: Fill = "zero",
) -> Tensor:
    """Erases a random box. A side that would be longer than the image's is cut to it instead of drawn again.

    Args:
        p: probability.
        low: least share of the area.
        high: greatest share of the area.
        ratio: height / width is log-uniform in [1 / ratio, ratio].
        fill: the mean, or one color drawn from the standard normal distribution after mean and std.
    """
    if low > high:
        raise UserError(f"erasing: low {low:g} is above high {high:g}; give both", "augment")
    if fill == "color" and x.shape[1] > 3:
        raise UserError(f"erasing: fill color is for up to 3 channels, not {x.shape[1]}; use zero", "augment")
    height, width = x.shape[2:]
    area = (low + (high - low) * u[:, 1]) * (height * width)
    aspect = ((2 * u[:, 2] - 1) * math.log(ratio)).exp()
    h = (area * aspect).sqrt().round().long().clamp(1, height)
    w = (area / aspect).sqrt().round().long().clamp(1, width)
    top, left = (u[:, 3] * (height - h + 1)).long(), (u[:, 4] * (width - w + 1)).long()
    hit = _box(x, top, left, top + h, left + w) & (u[:, 0] < p)[:, None, None, None]
    if fill == "zero":
        return x.masked_fill(hit, 0.0)
    color = torch.special.ndtri(u[:, 5 : 5 + x.shape[1]].clamp(1e-6, 1 - 1e-6))
    return torch.where(hit, color[:, :, None, None], x)


def gray(x: Tensor) -> Tensor:
    """Luma of (B, 3, H, W) as (B, 1, H, W); images of another number of channels are gray already."""
    if x.shape[1] != 3:
        return x
    return GRAY[0] * x[:, :1] + GRAY[1] * x[:, 1:2] + GRAY[2] * x[:, 2:]


def blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor x + (1 - factor) other, one factor per image, (B,), clipped to [0, 1]."""
    factor = factor[:, None, None, None]
    return (factor * x + (1 - factor) * other).clamp(0, 1)


def _still(u: Tensor, size: int) -> Tensor:
    return torch.arange(size, device=u.device).expand(len(u), size)


def _box(x: Tensor, top: Tensor, left: Tensor, bottom: Tensor, right: Tensor) -> Tensor:
    """Which pixels lie in each image's box, (B, 1, H, W)."""
    rows, columns = (torch.arange(size, device=x.device)[None] for size in x.shape[2:])
    high = (rows >= top[:, None]) & (rows < bottom[:, None])
    wide = (columns >= left[:, None]) & (columns < right[:, None])
    return (high[:, :, None] & wide[:, None, :])[:, None]
