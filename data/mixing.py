"""Mixup and CutMix: training on blends of two images and of their labels."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def mix(
    x: Tensor, y: Tensor, classes: int, *, mixup: float, cutmix: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Blends every image with the one before it in the batch, the first with the last.

    Mixup (Zhang et al. 2018): lam x + (1 - lam) partner. CutMix (Yun et al. 2019): a box of (1 - lam) of the area is
    the partner's, and lam is then set to the share of pixels that stayed. lam ~ Beta(alpha, alpha), one per batch, and
    where both are on, either is chosen with equal probability.

    Args:
        x: images, float32, (B, C, H, W).
        y: class indices, int64, (B,).
        classes: number of classes.
        mixup: alpha of Mixup; 0 turns it off.
        cutmix: alpha of CutMix; 0 turns it off.
        generator: on the CPU; exactly one number is drawn from it, whatever is chosen.

    Returns:
        Images, and targets (B, classes), float32, each row of which sums to 1.
    """
    targets = F.one_hot(y, classes).to(torch.float32)
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    coin, row, column = rng.random(3)
    if mixup == 0 and cutmix == 0:
        return x, targets
    cut = cutmix > 0 and (mixup == 0 or coin < 0.5)
    alpha = cutmix if cut else mixup
    share = float(rng.beta(alpha, alpha))
    partner = x.roll(1, 0)
    if cut:
        height, width = x.shape[2:]
        top, bottom = _side(row, height, share)
        left, right = _side(column, width, share)
        x = x.clone()
        x[:, :, top:bottom, left:right] = partner[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        x = x * share + partner * (1 - share)
    return x, targets * share + targets.roll(1, 0) * (1 - share)


def _side(center: float, size: int, share: float) -> tuple[int, int]:
    """Where a box of sqrt(1 - share) of a side begins and ends, cut off at the image's edge."""
    middle, half = int(center * size), int(0.5 * (1 - share) ** 0.5 * size)
    return max(middle - half, 0), min(middle + half, size)
