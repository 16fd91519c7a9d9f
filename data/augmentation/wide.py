"""The fourteen operations of TrivialAugment Wide (Müller & Hutter 2021) on a batch, each image with its own strength.

Every operation is done to the whole batch and each image takes its own: that costs arithmetic, and needs no loop over
images and no transfer from the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regx.data.augmentation import affine
from regx.data.augmentation.operations import blend, gray

BINS = 31
OPERATIONS = (
    "identity",
    *("shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "color", "contrast", "sharpness"),
    *("posterize", "solarize", "autocontrast", "equalize"),
)


def apply(x: Tensor, u: Tensor) -> Tensor:
    """Does to each image the operation that its numbers choose.

    Args:
        x: pixels in [0, 1], float, (B, C, H, W).
        u: operation, strength and sign, uniform in [0, 1), (B, 3).
    """
    from torchvision.transforms.v2 import functional as tv

    chosen = (u[:, 0] * len(OPERATIONS)).long()
    level = (u[:, 1] * BINS).long() / (BINS - 1)
    signed = torch.where(u[:, 2] < 0.5, -level, level)
    number = {name: index for index, name in enumerate(OPERATIONS)}
    moved = affine.resample(x, _matrices(chosen, signed, number, x), border=False)
    pixels = (x * 255).round().to(torch.uint8)
    bits = 8 - (level * 6).round().to(torch.uint8)
    kept = (torch.full_like(bits, 255) << (8 - bits))[:, None, None, None]
    factor = 1 + 0.99 * signed
    outcomes = {
        "brightness": blend(x, torch.zeros_like(x), factor),
        "color": blend(x, gray(x), factor),
        "contrast": blend(x, gray(x).mean(dim=(1, 2, 3), keepdim=True), factor),
        "sharpness": blend(x, tv.adjust_sharpness(x, 0.0), factor),
        "posterize": (pixels & kept) / 255,
        "solarize": torch.where(x >= (1 - level)[:, None, None, None], 1 - x, x),
        "autocontrast": tv.autocontrast(x),
        "equalize": tv.equalize(pixels) / 255,
    }
    result = torch.where(((chosen >= 1) & (chosen <= number["rotate"]))[:, None, None, None], moved, x)
    for name, outcome in outcomes.items():
        result = torch.where((chosen == number[name])[:, None, None, None], outcome, result)
    return result


def _matrices(chosen: Tensor, signed: Tensor, number: dict[str, int], x: Tensor) -> Tensor:
    """The geometric operations as matrices (B, 3, 3) from output to input coordinates; the identity for the others.

    Shears of up to 0.99 keep the upper left corner in its place, translations are of up to 32 whole pixels, rotations
    of up to 135 degrees.
    """
    height, width = x.shape[2:]
    zero = torch.zeros_like(signed)

    def of(name: str) -> Tensor:
        return torch.where(chosen == number[name], signed, zero)

    shear_x, shear_y = 0.99 * of("shear_x") * (height / width), 0.99 * of("shear_y") * (width / height)
    turned = affine.rotation(135 * of("rotate"), height, width)
    right, down = 2 * (32 * of("translate_x")).trunc() / width, 2 * (32 * of("translate_y")).trunc() / height
    extra = torch.stack(
        [
            torch.stack([zero, shear_x, shear_x - right], dim=1),
            torch.stack([shear_y, zero, shear_y - down], dim=1),
            torch.stack([zero, zero, zero], dim=1),
        ],
        dim=1,
    )
    return turned + extra
