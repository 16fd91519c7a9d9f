"""Image files that cannot be decoded: an error that names them, or left out and counted."""

import re
from pathlib import Path

import pytest
import torch

import regx.data as data
from regx.errors import RunFailed
from tests.data.image_files import parts

STREAM = {"stream": "yes", "workers": 0, "image_size": 8}


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, Path]:
    parts(tmp_path, {"train": 5, "val": 2, "test": 2}, suffix="jpg")
    return tmp_path, cut(tmp_path / "train" / "bee" / "002.jpg")


def test_a_damaged_file_is_an_error_that_names_it(damaged: tuple[Path, Path]) -> None:
    root, bad = damaged
    with pytest.raises(RunFailed) as error:
        data.create(str(root), image_size=8)
    assert f"cannot decode {bad}: " in str(error.value) and "--corrupt skip leaves such images out" in str(error.value)
    for workers in (0, 1):
        train = data.create(str(root), **{**STREAM, "workers": workers}).train
        with pytest.raises(RunFailed, match=f"^cannot decode {re.escape(str(bad))}: [^\n]+$"):
            list(train.batches(torch.arange(15).split(4), epoch=1))
        assert len(next(train.batches([torch.arange(3)], epoch=1)).y) == 3, "the next epoch is not stuck"


def test_damaged_files_are_left_out_and_counted(damaged: tuple[Path, Path]) -> None:
    root, bad = damaged
    module = data.create(str(root), image_size=8, corrupt="skip")
    assert module.sizes() == {"train": 14, "val": 6, "test": 6} and module.train.y.bincount().tolist() == [5, 4, 5]
    assert any(f"left out 1 of 15 images that cannot be decoded, the first {bad}" in note for note in module.notes)
    train = data.create(str(root), **STREAM, corrupt="skip").train
    batches = list(train.batches([torch.tensor([6, 7, 8]), torch.tensor([7]), torch.tensor([9])]))
    assert [(len(batch.x), batch.y.tolist(), batch.skipped) for batch in batches] == [
        (2, [1, 1], 1),
        (0, [], 1),
        (1, [1], 0),
    ]
    assert batches[1].x.shape == (0, 3, 8, 8) and torch.equal(
        train.sample(9)[-2:], torch.cat([batches[0].x[1:], batches[2].x])
    )


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_whatever_the_bytes_are(content: bytes, tmp_path: Path) -> None:
    parts(tmp_path, {"train": 4, "val": 2, "test": 2})
    (tmp_path / "train" / "ant" / "000.png").write_bytes(content)
    with pytest.raises(RunFailed, match=r"cannot decode .*000\.png: \S"):
        data.create(str(tmp_path), image_size=8)
    assert len(data.create(str(tmp_path), image_size=8, corrupt="skip").train) == 11


def test_a_sample_is_of_the_first_images_that_can_be_decoded(tmp_path: Path) -> None:
    parts(tmp_path, {"train": 3, "val": 2, "test": 2}, suffix="jpg")
    files = sorted((tmp_path / "train").rglob("*.jpg"))
    for file in files[:2]:
        cut(file)
    train = data.create(str(tmp_path), **STREAM, corrupt="skip").train
    (expected,) = train.batches([torch.arange(2, 9)])
    assert torch.equal(train.sample(1), expected.x[:1]) and torch.equal(train.sample(3), expected.x[:3])
    assert torch.equal(train.sample(99), expected.x) and len(expected.x) == 7
    strict = data.create(str(tmp_path), **STREAM).train
    with pytest.raises(RunFailed, match=f"^cannot decode {re.escape(str(files[0]))}: "):
        strict.sample(1)


def test_a_part_without_any_image_that_can_be_decoded(tmp_path: Path) -> None:
    parts(tmp_path, {"train": 3, "val": 2, "test": 2}, suffix="jpg")
    for file in (tmp_path / "train").rglob("*.jpg"):
        cut(file)
    says = (
        f"^none of 9 images can be decoded, the first {re.escape(str(tmp_path / 'train' / 'ant' / '000.jpg'))}: [^\n]+$"
    )
    train = data.create(str(tmp_path), **STREAM, corrupt="skip").train
    with pytest.raises(RunFailed, match=says):
        train.sample(1)
    with pytest.raises(RunFailed, match=says):
        data.create(str(tmp_path), image_size=8, corrupt="skip")
