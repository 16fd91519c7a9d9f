"""Folders of images in every layout, in memory and streamed from their files."""

import csv
import gc
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as tv
from torchvision.transforms import v2

import regx.data as data
from regx.data import decoding, pictures, streamed
from regx.data.decoding import Box
from regx.data.module import Split
from regx.errors import RunFailed, UserError
from tests.data import image_files
from tests.data.image_files import CLASSES, folder, parts, smooth

WNIDS = ("n01440764", "n02102040", "n03126707")
STREAM = {"stream": "yes", "workers": 0, "image_size": 8}


def files_of(split: Split | None) -> set[str]:
    assert isinstance(split, streamed.StreamedSplit)
    return {os.fsdecode(file) for file in split.files}


# Layouts


@pytest.mark.parametrize("made", [("train", "val"), ("train", "test"), ("train", "valid"), ("train",), ()])
def test_validation_is_taken_from_the_training_images_and_never_from_the_test_part(
    made: tuple[str, ...], tmp_path: Path
) -> None:
    if made:
        parts(tmp_path, {part: 10 if part == "train" else 4 for part in made})
    else:
        folder(tmp_path, dict.fromkeys(CLASSES, 10))
    module = data.create(str(tmp_path), **STREAM)
    train, val, test = files_of(module.train), files_of(module.val), files_of(module.test)
    assert not train & val and not train & test and not val & test
    assert module.classes == CLASSES and module.task == "multiclass" and module.features == ()
    if len(made) == 2:
        assert (len(train), len(val), len(test)) == (27, 3, 12)
        assert test == {str(path) for path in (tmp_path / made[1]).rglob("*.png")}
    else:
        assert (len(train), len(val), len(test)) == (21, 3, 6)
        assert train | val | test == {str(path) for path in tmp_path.rglob("*.png")}
    for part in (module.train, module.val, module.test):
        assert isinstance(part, streamed.StreamedSplit)
        assert [CLASSES[label] for label in part.y] == [Path(os.fsdecode(file)).parent.name for file in part.files]


def test_three_parts_are_used_as_they_are(tmp_path: Path) -> None:
    parts(tmp_path, {"train": 5, "val": 2, "test": 3})
    module = data.create(str(tmp_path), **STREAM)
    assert module.sizes() == {"train": 15, "val": 6, "test": 9}
    assert files_of(module.val) == {str(path) for path in (tmp_path / "val").rglob("*.png")}
    for share in (0.3, 0.2):
        with pytest.raises(UserError, match=r"test_size: .* has such a part of its own"):
            data.create(str(tmp_path), test_size=share)
    small = data.create(str(tmp_path), subset=6, **STREAM)
    assert small.sizes() == {"train": 6, "val": 6, "test": 6} and small.train.y.bincount().tolist() == [2, 2, 2]


def test_files_are_found_below_subfolders_and_by_any_suffix(tmp_path: Path) -> None:
    parts(tmp_path, {"train": 4})
    (tmp_path / "train" / "ant" / "deep").mkdir()
    smooth(9, 9).save(tmp_path / "train" / "ant" / "deep" / "x.JPEG")
    smooth(9, 9).convert("L").save(tmp_path / "train" / "ant" / "deep" / "gray.bmp")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "ant" / ".hidden.png").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    module = data.create(str(tmp_path), image_size=8, val_size=0.2)
    assert sum(module.sizes().values()) == 14 and module.input_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda root: (root / "val" / "cow").rename(root / "val" / "dog"), "lacks 'cow' and has 'dog' beyond them"),
        (lambda root: (root / "val" / "bee").rename(root / "bee"), "has 3 classes, and "),
        (lambda root: (root / "train" / "owl").mkdir(), "has 4 classes, and "),
        (
            lambda root: (root / "train").rename(root / "learn"),
            "has 'learn', 'val' but no train; wanted: FOLDER/{train,",
        ),
        (lambda root: [path.unlink() for path in (root / "train" / "bee").iterdir()], "bee holds no image (.jpg, "),
    ],
)
def test_a_wrong_layout_is_one_line_that_names_it(break_it, says: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    parts(tmp_path, {"train": 3, "val": 2})
    break_it(tmp_path)
    with pytest.raises(RunFailed) as error:
        data.create(str(tmp_path))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_too_few_classes_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"has 0 class folder\(s\), two are needed"):
        data.create(str(tmp_path))
    with pytest.raises(UserError, match=r"there is no file or folder '.*nowhere'"):
        data.create(str(tmp_path / "nowhere"))
    assert data.fetch(str(tmp_path)) == "your own folder, nothing to fetch"


def test_a_bare_name_is_the_registered_set_and_a_path_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts(tmp_path / "here" / "imagenette", {"train": 2, "val": 1})
    for part in ("train", "val"):
        for label, wnid in zip(CLASSES, WNIDS, strict=True):
            (tmp_path / "here" / "imagenette" / part / label).rename(tmp_path / "here" / "imagenette" / part / wnid)
    parts(tmp_path / "imagenette", {"train": 3})
    parts(tmp_path / "mine", {"train": 3})
    options = {"data_dir": str(tmp_path / "here"), "val_size": 0.34, **STREAM}
    assert data.create("imagenette", **options).classes == ("tench", "English springer", "n03126707")
    assert data.create("./imagenette", **options).classes == CLASSES
    assert data.create("mine", **options).classes == CLASSES


# ImageNet


def plain(root: Path, train: int = 10, val: int = 2) -> Path:
    for part, count in (("train", train), ("val", val)):
        folder(root / part, dict.fromkeys(WNIDS, count), suffix="JPEG")
    return root


def kaggle(root: Path, labels: str) -> Path:
    base = plain(root / "ILSVRC" / "Data" / "CLS-LOC")
    known = {}
    for number, path in enumerate(sorted((base / "val").rglob("*.JPEG"))):
        known[f"ILSVRC2012_val_{number:08}"] = path.parent.name
        path.rename(base / "val" / f"ILSVRC2012_val_{number:08}.JPEG")
    for wnid in WNIDS:
        (base / "val" / wnid).rmdir()
    if labels == "json":
        (root / "ILSVRC2012_val_labels.json").write_text(json.dumps({f"{k}.JPEG": wnid for k, wnid in known.items()}))
    if labels == "csv":
        with (root / "LOC_val_solution.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["ImageId", "PredictionString"])
            rows.writerows([key, f"{wnid} 1 2 3 4 {wnid} 5 6 7 8 "] for key, wnid in reversed(known.items()))
    (root / "LOC_synset_mapping.txt").write_text(
        "n01440764 tench, Tinca tinca\nn02102040 crane, bird\nn03126707 crane\nn04000000 unused\n"
    )
    return root


@pytest.mark.parametrize("where", ["imagenet", "."])
@pytest.mark.parametrize("layout", ["plain", "meta", "index", "json", "csv"])
def test_imagenet_in_its_layouts(layout: str, where: str, tmp_path: Path) -> None:
    root = tmp_path / where
    if layout in ("json", "csv"):
        kaggle(root, layout)
    else:
        plain(root)
    names = WNIDS
    if layout == "meta":
        words = {wnid: (f"{wnid} first", "second") for wnid in (*WNIDS, "n09999999")}
        torch.save((words, ["n01440764"]), root / "meta.bin")
        names = tuple(f"{wnid} first" for wnid in WNIDS)
    elif layout == "index":
        index = {str(number): [wnid, f"great_{number}"] for number, wnid in enumerate(WNIDS)}
        (root / "imagenet_class_index.json").write_text(json.dumps(index))
        names = ("great 0", "great 1", "great 2")
    elif layout in ("json", "csv"):
        names = ("tench", "crane (n02102040)", "crane (n03126707)")
    module = data.create("imagenet", data_dir=str(tmp_path), **STREAM)
    assert module.sizes() == {"train": 27, "val": 3, "test": 6} and module.classes == names
    assert isinstance(module.test, streamed.StreamedSplit) and module.test.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.fetch("imagenet", tmp_path) == root / ("ILSVRC/Data/CLS-LOC" if layout in ("json", "csv") else ".")
    if layout in ("json", "csv", "meta"):
        assert data.create(f"{root}{os.sep}", **STREAM).classes == names, "the layout of a path is detected"


def test_imagenet_that_is_not_there_or_wrong(tmp_path: Path) -> None:
    def line() -> str:
        with pytest.raises(RunFailed) as error:
            data.create("imagenet", data_dir=str(tmp_path))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "must be obtained by hand" in line() and "{train,val}/<wnid>/*.JPEG, or Kaggle's" in line()
    (tmp_path / "imagenet" / "ILSVRC2012_img_train").mkdir(parents=True)
    assert f"{tmp_path / 'imagenet'} holds 'ILSVRC2012_img_train'; wanted there: {{train,val}}" in line()
    root = kaggle(tmp_path / "imagenet", "none")
    assert "has neither LOC_val_solution.csv nor ILSVRC2012_val_labels.json" in line()
    labels = root / "ILSVRC2012_val_labels.json"
    labels.write_text(json.dumps({"ILSVRC2012_val_00000000.JPEG": WNIDS[0]}))
    assert f"{labels} has no label for " in line()
    labels.write_text("[1]")
    assert f"{labels} is not ImageNet's" in line()
    known = {f"ILSVRC2012_val_{number:08}.JPEG": WNIDS[number % 2] for number in range(6)}
    labels.write_text(json.dumps(known))
    assert "lacks 'n03126707'" in line()
    (root / "LOC_synset_mapping.txt").unlink()
    (root / "meta.bin").write_bytes(b"no torch file")
    labels.write_text(json.dumps(known | {"ILSVRC2012_val_00000000.JPEG": WNIDS[2]}))
    assert "meta.bin cannot be read" in line()


def test_tiny_imagenet_labels_its_flat_validation_images_by_a_file(tmp_path: Path) -> None:
    root = tmp_path / "tiny-imagenet-200"
    for wnid in WNIDS:
        folder(root / "train" / wnid, {"images": 4}, suffix="JPEG", size=(64, 64))
    folder(root / "val", {"images": 3}, suffix="JPEG", size=(64, 64))
    rows = zip(("000.JPEG", "001.JPEG", "002.JPEG"), reversed(WNIDS), strict=True)
    (root / "val" / "val_annotations.txt").write_text("".join(f"{file}\t{wnid}\t0\t0\t9\t9\n" for file, wnid in rows))
    module = data.create("tiny_imagenet", data_dir=str(tmp_path), val_size=0.25)
    assert module.input_shape == (3, 64, 64) and module.sizes() == {"train": 9, "val": 3, "test": 3}
    assert module.test is not None and module.test.y.tolist() == [2, 1, 0] and not module.test.streamed


# Decoding


def test_the_middle_is_torchvisions(tmp_path: Path) -> None:
    for number, size in enumerate([(40, 31), (31, 47), (20, 20), (90, 13)]):
        smooth(*size, seed=number).save(tmp_path / "x.png")
        resize, crop = v2.Resize(16, antialias=True), v2.CenterCrop(14)
        with Image.open(tmp_path / "x.png") as image:
            expected = np.asarray(crop(resize(image)))
        assert np.array_equal(decoding.centered(str(tmp_path / "x.png"), 14, margin=16 / 14), expected)


def test_a_random_box_is_cut_and_resized_and_draft_changes_little(tmp_path: Path) -> None:
    image = smooth(240, 180)
    image.save(tmp_path / "x.png")
    image.save(tmp_path / "x.jpg", quality=95)
    box = Box(low=0.1, ratio=4 / 3)
    drawn = set()
    for number in range(12):
        x, y, w, h = decoding.draw_box(240, 180, box, np.random.default_rng(number))
        drawn.add((x, y, w, h))
        expected = np.asarray(image.crop((x, y, x + w, y + h)).resize((24, 24), Image.Resampling.BILINEAR)).astype(int)
        for suffix, most in (("png", 6), ("jpg", 12)):
            made = decoding.boxed(str(tmp_path / f"x.{suffix}"), 24, box, np.random.default_rng(number))
            assert np.abs(made.astype(int) - expected)[2:-2, 2:-2].max() <= most, suffix
    assert len(drawn) == 12


def test_boxes_lie_in_the_image_and_have_the_bounds_asked_for() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(500):
        x, y, w, h = decoding.draw_box(200, 160, Box(low=0.2, ratio=1.5), rng)
        assert x >= 0 and y >= 0 and x + w <= 200 and y + h <= 160 and 1.45**-1 * 0.95 < w / h < 1.55
        shares.append(w * h / (200 * 160))
    assert min(shares) > 0.19 and 0.5 < np.mean(shares) < 0.65
    # As torchvision, the largest box of a legal shape in the middle, where none of ten fits.
    assert decoding.draw_box(40, 10, Box(low=1, ratio=1), rng) == (15, 0, 10, 10)
    assert decoding.draw_box(10, 40, Box(low=1, ratio=2), rng) == (0, 10, 10, 20)


def test_images_in_memory_are_the_middle_of_each_file(tmp_path: Path) -> None:
    parts(tmp_path, {"train": 4, "test": 2})
    smooth(30, 12).convert("L").save(tmp_path / "test" / "ant" / "000.png")
    module = data.create(str(tmp_path), image_size=10, val_size=0.25)
    assert module.test is not None and not module.test.streamed
    for row, path in enumerate(sorted((tmp_path / "test").rglob("*.png"))):
        with Image.open(path) as image:
            expected = np.asarray(v2.CenterCrop(10)(v2.Resize(10, antialias=True)(image.convert("RGB"))))
        assert np.array_equal(module.test.x[row].numpy(), expected)


# Streaming


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parts(tmp_path_factory.mktemp("jpeg"), {"train": 10, "test": 2}, suffix="jpg")


def epoch_of(split: Split, number: int | None, rows: list[Tensor]) -> Tensor:
    """Inputs of an epoch in the order of the rows."""
    made = torch.cat([batch.x for batch in split.batches(rows, epoch=number)])
    return made[torch.cat(rows).argsort()]


def test_inputs_depend_on_seed_epoch_and_row_alone(root: Path) -> None:
    options = {**STREAM, "augment": ["resized_crop(low=0.3)", "flip", "erasing"]}
    here, other = data.create(str(root), **options), data.create(str(root), **{**options, "workers": 1})
    every = torch.arange(len(here.train))
    first = epoch_of(here.train, 1, [every])
    second = epoch_of(here.train, 2, [every])
    assert first.shape == (27, 3, 8, 8) and first.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(first, second)
    before = torch.get_rng_state()
    next(other.train.batches(every.split(2), epoch=1))  # left before its end
    assert torch.equal(epoch_of(other.train, 2, list(every.flip(0).split(5))), second)
    assert torch.equal(epoch_of(other.train, 1, list(torch.randperm(27, generator=torch.Generator()).split(7))), first)
    assert torch.equal(torch.get_rng_state(), before), "the run's own random numbers are left alone"
    assert not torch.equal(epoch_of(data.create(str(root), **options, seed=1).train, 1, [every]), first)


def test_evaluation_is_the_middle_by_imagenets_mean_and_std(root: Path) -> None:
    module = data.create(str(root), **STREAM, augment=["resized_crop", "flip"])
    assert module.test is not None and module.train.streamed and len(module.test) == 6
    expected = []
    for path in sorted((root / "test").rglob("*.jpg")):
        with Image.open(path) as image:
            small = v2.CenterCrop(8)(v2.Resize(9, antialias=True)(image))
        expected.append(tv.normalize(tv.to_tensor(small), mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]))
    (batch,) = module.test.batches([slice(None)])
    torch.testing.assert_close(batch.x, torch.stack(expected), atol=1e-5, rtol=0)
    assert batch.y.tolist() == [0, 0, 1, 1, 2, 2] and batch.skipped == 0
    assert torch.equal(module.test.sample(4), batch.x[:4]) and torch.equal(module.test.sample(99), batch.x)
    assert torch.equal(epoch_of(module.test, 1, [torch.arange(6)]), batch.x), "only training images are augmented"
    plain = data.create(str(root), **STREAM, standardize=False)
    assert plain.train.sample(9).min() >= 0 and plain.train.sample(9).max() <= 1
    assert torch.equal(epoch_of(plain.train, 1, [torch.arange(27)]), plain.train.sample(27)), "nothing to augment"
    assert any("mean and std are ImageNet's" in note for note in module.notes)


def test_what_is_streamed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not data.create(str(root), image_size=8).train.streamed
    monkeypatch.setattr(pictures, "STREAM_BYTES", 36 * 8 * 8 * 3)
    assert not data.create(str(root), image_size=8).train.streamed
    monkeypatch.setattr(pictures, "STREAM_BYTES", 36 * 8 * 8 * 3 - 1)
    assert data.create(str(root), image_size=8).train.streamed
    assert not data.create(str(root), image_size=8, stream="no").train.streamed
    with pytest.raises(UserError, match=r"workers: the images of .* are decoded once, before training; leave it out"):
        data.create(str(root), image_size=8, stream="no", workers=1)


def test_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, siblings, expected in (
        (1, "1", 0),
        (2, "1", 0),
        (3, "1", 2),
        (8, "1", 7),
        (64, "1", 16),
        (64, "8", 7),
        (4, "8", 0),
    ):
        monkeypatch.setattr(decoding, "cores", lambda cores=cores: cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", siblings)
        assert streamed.worker_count("auto") == expected
    assert streamed.worker_count(0) == 0 and streamed.worker_count("5") == 5


def test_moving_a_streamed_part_keeps_its_files(root: Path) -> None:
    module = data.create(str(root), **STREAM)
    moved = module.to("meta")
    assert files_of(moved.train) == files_of(module.train) and moved.train.y.device.type == "meta"
    assert moved.train.streamed and moved.input_shape == (3, 8, 8) and len(moved.train) == 27


def test_workers_end_at_once_even_where_the_garbage_collector_ends_them(root: Path) -> None:
    before = set(multiprocessing.active_children())
    cycle: list[object] = [data.create(str(root), **{**STREAM, "workers": 1}).train]
    cycle.append(cycle)
    assert len(list(cycle[0].batches([torch.arange(4)]))) == 1  # type: ignore[attr-defined]
    (worker,) = set(multiprocessing.active_children()) - before
    begin = time.perf_counter()
    del cycle
    gc.collect()
    assert time.perf_counter() - begin < 4 and not worker.is_alive()


def test_fixture_images_are_all_different() -> None:
    assert len({image_files.smooth(20, 16, seed=number).tobytes() for number in range(30)}) == 30


def test_one_image_per_class_still_gives_a_validation_part(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for part in ("train", "test"):
        for number in range(10):
            (root / part / f"class{number}").mkdir(parents=True)
            smooth(8, 8, number).save(root / part / f"class{number}" / "a.png")
    module = data.create(str(root), image_size=8, val_size=0.2)
    assert (len(module.train), len(module.val), len(module.test or ())) == (8, 2, 10)
    assert not set(module.train.y.tolist()) & set(module.val.y.tolist())
    assert any("split without regard to classes" in note for note in module.notes)
