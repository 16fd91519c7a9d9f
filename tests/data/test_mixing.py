"""Mixup and CutMix: one blend of two images, and the same blend of their labels."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from regx.data.mixing import mix

BATCH, CLASSES = 6, 4


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, 3, 12, 16, generator=generator)
    return x, torch.tensor([0, 1, 2, 3, 0, 2])


def mixed(number: int, **alphas: float) -> tuple[Tensor, Tensor]:
    return mix(*batch(), CLASSES, generator=torch.Generator().manual_seed(number), **alphas)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_equals_torchvision_given_the_same_share(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's share, and the corner of its box, are set to those that are found in regx's result."""
    x, y = batch()
    for number in range(10):
        made, targets = mixed(number, **({"mixup": 0.0, "cutmix": 0.0} | {kind: 0.8}))
        if kind == "cutmix":
            box = (made != x).any(1)[0]
            rows, columns = box.any(1).nonzero().flatten(), box.any(0).nonzero().flatten()
            sides = (0, 0, 0, 0)
            if len(rows):
                sides = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            lam = 1 - (sides[2] - sides[0]) * (sides[3] - sides[1]) / (12 * 16)
            params = {"labels": y, "batch_size": BATCH, "box": sides, "lam_adjusted": lam}
            theirs = v2.CutMix(num_classes=CLASSES)
        else:
            # Row 1 is of class 1 and its partner, row 0, of class 0.
            params = {"labels": y, "batch_size": BATCH, "lam": float(targets[1, 1])}
            theirs = v2.MixUp(num_classes=CLASSES)
        monkeypatch.setattr(theirs, "make_params", lambda inputs, params=params: params)
        expected_x, expected_y = theirs(x, y)
        torch.testing.assert_close(made, expected_x)
        torch.testing.assert_close(targets, expected_y)


def test_targets_sum_to_one_and_follow_the_pixels() -> None:
    y = torch.arange(4)
    x = y[:, None, None, None].float().expand(4, 1, 8, 8)
    for number in range(20):
        for alphas in ({"mixup": 1.0, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}):
            made, targets = mix(x, y, 4, generator=torch.Generator().manual_seed(number), **alphas)
            torch.testing.assert_close(targets.sum(1), torch.ones(4))
            # The mean pixel is the expected class, as the pixels of a class hold its number.
            torch.testing.assert_close(made.mean((1, 2, 3)), targets @ torch.arange(4.0))


def test_the_share_has_the_moments_of_beta() -> None:
    shares = torch.stack([mixed(number, mixup=0.4, cutmix=0.0)[1][1, 1] for number in range(2000)])
    assert abs(shares.mean() - 0.5) < 0.04
    assert abs(shares.var() - 1 / (4 * (2 * 0.4 + 1))) < 0.01


def test_either_is_chosen_half_of_the_time_and_none_leaves_all_as_it_is() -> None:
    x, y = batch()
    cut = sum(bool((mixed(number, mixup=1.0, cutmix=1.0)[0] == x).any()) for number in range(400))
    assert 150 < cut < 250
    same, targets = mixed(0, mixup=0.0, cutmix=0.0)
    assert torch.equal(same, x) and torch.equal(targets, torch.nn.functional.one_hot(y, CLASSES).float())


def test_the_generator_alone_decides_and_is_moved_by_one_number() -> None:
    assert torch.equal(mixed(3, mixup=1.0, cutmix=1.0)[0], mixed(3, mixup=1.0, cutmix=1.0)[0])
    states = []
    for alphas in ({"mixup": 1.0, "cutmix": 0.0}, {"mixup": 0.3, "cutmix": 1.0}):
        generator = torch.Generator().manual_seed(0)
        mix(*batch(), CLASSES, generator=generator, **alphas)
        states.append(generator.get_state())
    generator = torch.Generator().manual_seed(0)
    torch.randint(2**62, (), generator=generator)
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], generator.get_state())
