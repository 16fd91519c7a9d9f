"""Geometry of a batch of images: whole-pixel moves in one gather, everything else in one bilinear resampling."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor


@functools.lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers as a float32 tensor that stays on its device, as copying them for each batch would wait for it."""
    return torch.tensor(values, device=device)


def gather(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Output pixel (i, j) of image b is input pixel (rows[b, i], columns[b, j]), and 0 where either is negative.

    Args:
        x: images, (B, C, H, W), any type.
        rows: int64, (B, H), from -1 to H - 1.
        columns: int64, (B, W), from -1 to W - 1.

    Returns:
        Images in channels-last strides.
    """
    pixels = x.permute(0, 2, 3, 1)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    moved = pixels[image, rows.clamp(min=0)[:, :, None], columns.clamp(min=0)[:, None, :]]
    inside = (rows >= 0)[:, :, None, None] & (columns >= 0)[:, None, :, None]
    return (moved * inside).permute(0, 3, 1, 2)


def chain(first: Tensor, second: Tensor) -> Tensor:
    """The position map of doing `first` and then `second`; positions outside the image are -1, and stay so.

    Args:
        first: source position of each output position, int64, (B, L).
        second: the same for the move that follows.
    """
    inside = (second >= 0) & (second < first.shape[1])
    return torch.where(inside, first.gather(1, second.clamp(0, first.shape[1] - 1)), -1)


def reflected(position: Tensor, size: int) -> Tensor:
    """Positions outside [0, size) folded back at the edge pixel, which is not repeated."""
    position = position.abs()
    return (size - 1) - (size - 1 - position).abs()


def rotation(angle: Tensor, height: int, width: int) -> Tensor:
    """Matrices (B, 3, 3) of counter-clockwise rotations about the image's centre, in `grid_sample`'s coordinates.

    Args:
        angle: degrees, (B,).
        height: of the image, pixels.
        width: of the image, pixels.
    """
    angle = angle * (math.pi / 180)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # Coordinates run from -1 to 1 over either side, so a turn must undo the aspect ratio.
    first = torch.stack([cosine, -sine * (height / width), zero], dim=1)
    second = torch.stack([sine * (width / height), cosine, zero], dim=1)
    return torch.stack([first, second, torch.stack([zero, zero, zero + 1], dim=1)], dim=1)


def zoom(top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that stretch a box over the image, in `grid_sample`'s coordinates.

    Args:
        top: upper edge of the box, share of the image's height, (B,).
        left: left edge, share of its width.
        height: of the box, share of the image's height.
        width: of the box, share of its width.
    """
    zero = torch.zeros_like(top)
    first = torch.stack([width, zero, 2 * left + width - 1], dim=1)
    second = torch.stack([zero, height, 2 * top + height - 1], dim=1)
    return torch.stack([first, second, torch.stack([zero, zero, zero + 1], dim=1)], dim=1)


def resample(x: Tensor, matrix: Tensor, *, border: bool) -> Tensor:
    """Bilinear resampling of float images (B, C, H, W) by matrices (B, 3, 3) from output to input coordinates.

    Args:
        x: images.
        matrix: one per image.
        border: whether what lies outside repeats the edge; else it is 0.
    """
    grid = F.affine_grid(matrix[:, :2], list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border" if border else "zeros", align_corners=False)
