"""Every augmentation of a batch equals the same thing done to one image at a time by somebody else's code."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv
from torchvision.transforms.autoaugment import TrivialAugmentWide, _apply_op

import regx.data as data
from regx.data.augmentation import wide
from regx.data.augmentation.pipeline import Pipeline, parse, try_out
from regx.errors import UserError
from regx.text import options_in

HEIGHT, WIDTH, BATCH = 12, 18, 40


def pipeline(*texts: str, mean: tuple[float, ...] = (0.0,) * 3, std: tuple[float, ...] = (1.0,) * 3) -> Pipeline:
    return Pipeline(mean, std, 7, parse(texts))


def images(count: int = BATCH, channels: int = 3, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def smooth(count: int, height: int, width: int) -> Tensor:
    noise = np.random.default_rng(0).random((count, 3, height, width))
    blurred = ndimage.gaussian_filter(noise, (0, 0, 2, 2), mode="wrap")
    low, high = blurred.min(), blurred.max()
    return torch.from_numpy(np.round((blurred - low) / (high - low) * 255).astype(np.uint8))


def run(made: Pipeline, x: Tensor) -> tuple[Tensor, Tensor]:
    uniforms = made.uniforms(len(x), epoch=1)
    assert uniforms is not None
    return made(x, uniforms), uniforms


def assert_same(made: Tensor, expected: Tensor) -> None:
    """Equal but for rounding."""
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=0)


def test_evaluation_is_pixels_minus_mean_by_std() -> None:
    made = pipeline("flip", "erasing", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    x = images()
    assert made.uniforms(BATCH, None) is None and pipeline().uniforms(BATCH, 1) is None
    out = made(x, None)
    expected = tv.normalize(x.double() / 255, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    assert out.dtype == torch.float32 and out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=0)


def test_flip_mirrors_half_of_the_images() -> None:
    x = images(400)
    out, u = run(pipeline("flip(p=0.4)"), x)
    expected = torch.stack([tv.hflip(image) if u[i, 0] < 0.4 else image for i, image in enumerate(x)]) / 255
    assert_same(out, expected)
    assert 100 < (u[:, 0] < 0.4).sum() < 220


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_crop_is_a_window_of_the_padded_image(mode: str) -> None:
    x = images()
    out, u = run(pipeline(f"crop(padding=3, mode={mode})"), x)
    offsets = (u * 7).floor().int()
    assert set(offsets.flatten().tolist()) == set(range(7))
    for image, made, (top, left) in zip(x, out, offsets.tolist(), strict=True):
        padded = tv.pad(image, [3], padding_mode="constant" if mode == "zero" else "reflect")
        assert_same(made, tv.crop(padded, top, left, HEIGHT, WIDTH) / 255)


def test_flip_and_crop_together_are_one_after_the_other() -> None:
    x = images()
    out, u = run(pipeline("flip", "crop(padding=2)"), x)
    for i, image in enumerate(x):
        turned = tv.hflip(image) if u[i, 0] < 0.5 else image
        top, left = (u[i, 1:] * 5).int().tolist()
        assert_same(out[i], tv.crop(tv.pad(turned, [2]), top, left, HEIGHT, WIDTH) / 255)


def test_translate_moves_by_whole_pixels() -> None:
    x = images()
    out, u = run(pipeline("translate(share=0.2)"), x)
    for i, image in enumerate(x):
        down, right = int(u[i, 0] * 5) - 2, int(u[i, 1] * 7) - 3
        moved = ndimage.shift(image.numpy(), (0, down, right), order=0)
        assert_same(out[i], torch.from_numpy(moved) / 255)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
def test_rotate_is_torchvisions(height: int, width: int) -> None:
    x = images(height=height, width=width)
    out, u = run(pipeline("rotate(degrees=50)"), x)
    for i, image in enumerate(x.float() / 255):
        angle = float(2 * u[i, 0] - 1) * 50
        expected = tv.rotate(image, angle, interpolation=InterpolationMode.BILINEAR)
        torch.testing.assert_close(out[i], expected, atol=2e-4, rtol=0)


def test_resized_crop_samples_a_box_of_the_image() -> None:
    x = images()
    out, u = run(pipeline("resized_crop(low=0.2, ratio=1.5)"), x)
    drawn = 0
    for i, image in enumerate(x.double().numpy() / 255):
        for attempt in range(10):
            area = (0.2 + 0.8 * float(u[i, attempt])) * HEIGHT * WIDTH
            ratio = 1.5 ** (2 * float(u[i, 10 + attempt]) - 1)
            w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if w <= WIDTH and h <= HEIGHT:
                top, left = float(u[i, 20]) * (HEIGHT - h), float(u[i, 21]) * (WIDTH - w)
                drawn += 1
                break
        else:
            w, h, top, left = WIDTH, HEIGHT, 0.0, 0.0
        rows = top + (np.arange(HEIGHT) + 0.5) * h / HEIGHT - 0.5
        columns = left + (np.arange(WIDTH) + 0.5) * w / WIDTH - 0.5
        grid = np.meshgrid(rows, columns, indexing="ij")
        expected = np.stack([ndimage.map_coordinates(c, grid, order=1, mode="nearest") for c in image])
        np.testing.assert_allclose(out[i].numpy(), expected, atol=1e-5)
    assert drawn > 35


def test_resized_crop_of_a_long_image_takes_the_middle() -> None:
    x = images(height=4, width=40)
    out, _ = run(pipeline("resized_crop(low=1, ratio=1)"), x)
    expected = torch.nn.functional.interpolate(x[..., 18:22].float() / 255, (4, 40), mode="bilinear")
    torch.testing.assert_close(out[..., 5:-5], expected[..., 5:-5], atol=1e-5, rtol=0)


def test_resampling_goes_first_and_is_done_once() -> None:
    x = smooth(BATCH, 16, 16)
    both, u = run(pipeline("rotate(degrees=20)", "resized_crop(low=0.5)", "flip"), x)
    turned = pipeline("rotate(degrees=20)")(x, u[:, :1])
    cropped = pipeline("resized_crop(low=0.5)", "flip")((turned * 255).round().to(torch.uint8), u[:, 1:])
    assert (both - cropped)[..., 2:-2, 2:-2].abs().mean() < 0.02
    assert (both - turned).abs().mean() > 0.05


def test_color_jitter_is_torchvisions_three() -> None:
    x = images()
    out, u = run(pipeline("color_jitter(brightness=0.5, contrast=0.3, saturation=0.9)"), x)
    for i, image in enumerate(x.float() / 255):
        bright, contrast, saturation = (1 + (2 * u[i] - 1) * torch.tensor([0.5, 0.3, 0.9])).tolist()
        expected = tv.adjust_contrast(tv.adjust_brightness(image, bright), contrast)
        torch.testing.assert_close(out[i], tv.adjust_saturation(expected, saturation), atol=1e-5, rtol=0)


def test_grayscale_of_color_and_of_gray_images() -> None:
    x = images()
    out, u = run(pipeline("grayscale(p=0.5)"), x)
    for i, image in enumerate(x.float() / 255):
        expected = tv.rgb_to_grayscale(image, 3) if u[i, 0] < 0.5 else image
        torch.testing.assert_close(out[i], expected, atol=1e-6, rtol=0)
    gray = images(channels=1)
    made = pipeline("grayscale(p=1)", "color_jitter(saturation=1, brightness=0, contrast=0)", mean=(0.0,), std=(1.0,))
    torch.testing.assert_close(run(made, gray)[0], gray / 255)


@pytest.mark.parametrize("operation", range(14), ids=wide.OPERATIONS)
def test_trivial_does_what_torchvisions_operations_do(operation: int) -> None:
    x = smooth(2, 40, 48)
    space: dict[str, Any] = TrivialAugmentWide()._augmentation_space(31)
    name, (magnitudes, signed) = list(space.items())[operation]
    for level in (0, 4, 17, 30):
        for sign in (0.2, 0.9):
            u = torch.tensor([[(operation + 0.5) / 14, (level + 0.5) / 31, sign]] * 2)
            made = pipeline("trivial")(x, u)
            magnitude = float(magnitudes[level]) if magnitudes.ndim else 0.0
            magnitude = -magnitude if signed and sign < 0.5 else magnitude
            # Those that are defined by bytes are compared on bytes.
            exact = name in ("Posterize", "Solarize", "Equalize")
            expected = _apply_op(x if exact else x / 255, name, magnitude, InterpolationMode.BILINEAR, None)
            torch.testing.assert_close(made, expected / 255 if exact else expected, atol=2e-4, rtol=0)


def test_trivial_draws_every_operation_equally() -> None:
    u = torch.rand(5000, 1, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount((u[:, 0] * len(wide.OPERATIONS)).long(), minlength=14)
    assert len(wide.OPERATIONS) == 14 and counts.min() > 290 and counts.max() < 430
    x = images(8, height=32, width=32)
    out, u = run(pipeline("trivial"), x)
    alone = torch.cat([pipeline("trivial")(x[i : i + 1], u[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(out, alone)


@pytest.mark.parametrize("size", [5, 6])
def test_cutout_is_a_square_of_the_mean(size: int) -> None:
    x = images()
    out, u = run(pipeline(f"cutout(size={size})", mean=(0.4,) * 3), x)
    for i, image in enumerate(x.float() / 255 - 0.4):
        top, left = int(u[i, 0] * HEIGHT) - size // 2, int(u[i, 1] * WIDTH) - size // 2
        image[:, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
        torch.testing.assert_close(out[i], image)


@pytest.mark.parametrize("fill", ["zero", "color"])
def test_erasing_is_a_box_of_the_drawn_area(fill: str) -> None:
    x = images(200)
    out, u = run(pipeline(f"erasing(p=0.5, fill={fill})"), x)
    colors = []
    for i, image in enumerate(x.float() / 255):
        area = (0.02 + 0.31 * float(u[i, 1])) * HEIGHT * WIDTH
        ratio = 3.3 ** (2 * float(u[i, 2]) - 1)
        h = min(max(round(math.sqrt(area * ratio)), 1), HEIGHT)
        w = min(max(round(math.sqrt(area / ratio)), 1), WIDTH)
        top, left = int(u[i, 3] * (HEIGHT - h + 1)), int(u[i, 4] * (WIDTH - w + 1))
        changed = ((out[i] - image).abs() > 1e-6).any(0)
        inside = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        if u[i, 0] < 0.5:
            inside[top : top + h, left : left + w] = True
            box = out[i][:, inside]
            assert torch.equal(box, box[:, :1].expand_as(box)) and (fill == "color" or not box.any())
            colors.append(box[:, 0])
        assert not changed[~inside].any()
    assert 70 < len(colors) < 130
    if fill == "color":
        values = torch.stack(colors)
        assert abs(values.mean()) < 0.2 and abs(values.std() - 1) < 0.2


def test_numbers_depend_on_seed_epoch_and_row_alone() -> None:
    x, made = images(30), pipeline("flip", "crop", "erasing")
    u = made.uniforms(30, 3)
    assert u is not None
    whole = made(x, u)
    for part in torch.randperm(30).split(7):
        assert torch.equal(made(x[part], u[part]), whole[part])
    other_epoch, other_seed = made.uniforms(30, 4), Pipeline((0.0,), (1.0,), 8, made.steps).uniforms(30, 3)
    assert other_epoch is not None and other_seed is not None
    assert not torch.equal(u, other_epoch) and not torch.equal(u, other_seed)
    assert len(torch.unique(u, dim=0)) == 30


def test_the_order_of_different_stages_does_not_matter() -> None:
    first, second = parse(["cutout", "flip"]), parse(["flip", "cutout"])
    x, u = images(), torch.rand(BATCH, 3)
    made = Pipeline((0.1,) * 3, (1.0,) * 3, 0, first)(x, u)
    assert torch.equal(made, Pipeline((0.1,) * 3, (1.0,) * 3, 0, second)(x, u[:, [2, 0, 1]]))


def test_rows_say_what_the_pipeline_needs() -> None:
    for row in data.AUGMENTATIONS.rows.values():
        assert row.facts["stage"] in ("resample", "shift", "color", "cover") and row.facts["draws"] > 0
        assert row.summary and row.source and parse([row.example])[0].info is row
        out, _ = run(pipeline(row.name), images())
        assert out.shape == (BATCH, 3, HEIGHT, WIDTH) and torch.isfinite(out).all()


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["flipp"], "augment: unknown augmentation 'flipp'; did you mean 'flip'?"),
        (["crop(pad=4)"], "augment: 'crop(pad=4)': crop has no option 'pad'; did you mean 'padding'?"),
        (["crop(padding=-1)"], "augment: 'crop(padding=-1)': padding: -1 is out of bounds; use a whole number 0 to"),
        (["crop(mode=wrap)"], "mode: 'wrap' is not among its choices; known: zero, reflect"),
        (["flip", "flip(p=1)"], "augment: flip is given twice"),
        (["flip)"], "augment: cannot read 'flip)'"),
        (["crop(4)"], "augment: cannot read '4' in 'crop(4)'; write option=value"),
        (["crop(padding=4,padding=5)"], "augment: 'padding' is given twice in 'crop(padding=4,padding=5)'"),
    ],
)
def test_bad_text_is_one_line_that_names_it(texts: list[str], says: str) -> None:
    with pytest.raises(UserError) as error:
        parse(texts)
    assert says in str(error.value) and "\n" not in str(error.value) and error.value.option == "augment"


@pytest.mark.parametrize(
    ("text", "shape", "says"),
    [
        (
            "crop(padding=8, mode=reflect)",
            (3, 8, 9),
            "crop: padding 8 of images of 8 x 9 pixels: there are not as many",
        ),
        ("crop(padding=9)", (3, 12, 9), "nothing of the image may be left; use at most 8"),
        ("translate(share=1)", (3, 8, 8), "translate: share 1 may leave nothing of the image"),
        ("cutout(size=9)", (3, 8, 9), "cutout: size 9 may cover all of an image of 8 x 9 pixels; use less than 9"),
        ("erasing(low=0.5)", (3, 8, 8), "erasing: low 0.5 is above high 0.33; give both"),
        ("erasing(fill=color)", (4, 8, 8), "erasing: fill color is for up to 3 channels, not 4; use zero"),
        ("trivial", (2, 8, 8), "trivial is for images of 1 or 3 channels, not 2"),
    ],
)
def test_what_makes_no_sense_for_images_of_that_size_is_refused(
    text: str, shape: tuple[int, int, int], says: str
) -> None:
    with pytest.raises(UserError) as error:
        try_out(parse(["flip", text]), *shape)
    assert says in str(error.value) and "\n" not in str(error.value) and error.value.option == "augment"


@pytest.mark.parametrize(
    "text", ["crop(padding=7, mode=reflect)", "crop(padding=7)", "translate(share=0.12)", "cutout(size=8)", "erasing"]
)
def test_what_leaves_something_of_every_image_is_not_refused(text: str) -> None:
    x = torch.full((400, 3, 8, 9), 255, dtype=torch.uint8)
    try_out(parse([text]), 3, 8, 9)
    assert (run(pipeline(text), x)[0].amax((1, 2, 3)) == 1).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("color", [False, True])
def test_mean_and_std_with_and_without_color_and_in_any_strides(color: bool, channels: int) -> None:
    mean, std = (0.1, 0.5, 0.3, 0.7)[:channels], (0.2, 1.0, 0.02, 0.4)[:channels]
    made = Pipeline(mean, std, 0, parse(["flip(p=1)", *(["grayscale(p=0)"] if color else [])]))
    x = images(5, channels=channels, height=7, width=5)
    before = x.clone()
    expected = tv.normalize(tv.hflip(x).double() / 255, list(mean), list(std))
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        out, u = run(made, given)
        torch.testing.assert_close(out.double(), expected, atol=4e-6, rtol=0)  # 50 deviations, in float32
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(torch.cat([made(given[i : i + 1], u[i : i + 1]) for i in range(5)]), out)
    assert torch.equal(x, before), "images are left as they were"


def test_options_keep_commas_within_brackets() -> None:
    assert options_in("a=f(1,2), b = [3,{4,5}]", "t", "o") == {"a": "f(1,2)", "b": "[3,{4,5}]"}
    assert options_in("", "t", "o") == {}
    with pytest.raises(UserError, match="o: cannot read 't': the brackets do not match"):
        options_in("a=(1]", "t", "o")
    with pytest.raises(UserError, match="o: 'a' is given twice in 't'"):
        options_in("a=1,a=2", "t", "o")
