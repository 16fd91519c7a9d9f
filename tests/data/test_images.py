"""The image sets that have a name, in every layout in which they may lie on a disk."""

import hashlib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets

import regx.data as data
from regx.data import pictures
from regx.errors import RunFailed, UserError
from tests.data import image_files
from tests.data.image_files import labels, pixels

NO_NETWORK = "Name or service not known"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError(NO_NETWORK)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def raw(split: Any) -> torch.Tensor:
    """The bytes of a resident split, (N, H, W, C)."""
    assert split is not None and not split.streamed and split.x.dtype == torch.uint8
    return split.x


def rows_of(module: data.DataModule, x: np.ndarray) -> tuple[list[int], list[int]]:
    """Which rows of `x`, whose images are all different, are in the training and the validation part."""
    number = {image.tobytes(): row for row, image in enumerate(x)}
    return tuple([number[image.numpy().tobytes()] for image in raw(part)] for part in (module.train, module.val))  # type: ignore[return-value]


def check(module: data.DataModule, x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> None:
    """Training and validation rows are the official training images, and the test part the official one."""
    train, val = rows_of(module, x)
    assert sorted(train + val) == list(range(len(x))) and len(val) == round(0.1 * len(x))
    assert module.train.y.tolist() == y[train].tolist() and module.val.y.tolist() == y[val].tolist()
    assert np.bincount(y[val]).max() - np.bincount(y[val]).min() <= 1
    assert module.test is not None and module.test.y.tolist() == y_test.tolist()
    assert np.array_equal(raw(module.test).numpy(), x_test.reshape(len(x_test), *raw(module.test).shape[1:]))
    assert module.task == "multiclass" and module.images and module.features == ()
    assert module.input_shape == (x.shape[3] if x.ndim == 4 else 1, *x.shape[1:3])


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files(name: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[name]
    folder = tmp_path / dataset.__name__ / "raw"
    x, x_test = pixels(40, 28, 28), pixels(10, 28, 28, seed=1)
    sums = image_files.idx(folder, x, labels(40), "train", packed=packed)
    sums += image_files.idx(folder, x_test, labels(10), "t10k", packed=packed)
    monkeypatch.setattr(dataset, "resources", sums)
    module = data.create(name, data_dir=str(tmp_path))
    check(module, x, labels(40), x_test, labels(10))
    assert len(module.classes) == 10 and any(str(tmp_path / dataset.__name__) in note for note in module.notes)
    assert data.fetch(name, tmp_path) == tmp_path / dataset.__name__


def cifar(root: Path, name: str, monkeypatch: pytest.MonkeyPatch | None) -> tuple[np.ndarray, np.ndarray]:
    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    x, y = pixels(50, 32, 32, 3), labels(50)
    files = [file for file, _ in dataset.train_list]
    key = "labels" if name == "cifar10" else "fine_labels"
    sums = []
    for file, rows in zip(
        [*files, "test"], [*np.array_split(np.arange(40), len(files)), np.arange(40, 50)], strict=True
    ):
        file = dataset.test_list[0][0] if len(rows) == 10 and rows[0] == 40 else file
        content = {"data": x[rows].transpose(0, 3, 1, 2).reshape(len(rows), -1), key: y[rows].tolist()}
        sums.append([file, image_files.pickled(root / dataset.base_folder / file, content)])
    names = [f"class {index}" for index in range(10 if name == "cifar10" else 100)]
    meta = image_files.pickled(root / dataset.base_folder / dataset.meta["filename"], {dataset.meta["key"]: names})
    if monkeypatch is not None:
        monkeypatch.setattr(dataset, "train_list", sums[:-1])
        monkeypatch.setattr(dataset, "test_list", sums[-1:])
        monkeypatch.setattr(dataset, "meta", dataset.meta | {"md5": meta})
    return x, y


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_pickles(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = cifar(tmp_path, name, monkeypatch)
    module = data.create(name, data_dir=str(tmp_path))
    check(module, x[:40], y[:40], x[40:], y[40:])
    assert module.classes[3] == "class 3" and module.output_size == (10 if name == "cifar10" else 100)


def test_rebuilt_pickles_are_refused_in_one_line_and_kept(tmp_path: Path) -> None:
    cifar(tmp_path, "cifar10", None)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(RunFailed) as error:
        data.create("cifar10", data_dir=str(tmp_path))
    line = str(error.value)
    assert f"torchvision refuses {tmp_path / 'cifar-10-batches-py'}" in line and "md5" in line and "\n" not in line
    assert f"{tmp_path / 'cifar10.npz'} with x_train, y_train, x_test, y_test" in line
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_mat_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, known = pixels(50, 32, 32, 3), labels(50), {}
    for part, rows in (("train", slice(40)), ("test", slice(40, 50))):
        path = tmp_path / f"{part}_32x32.mat"
        tens = np.where(y[rows] == 0, 10, y[rows])[:, None]  # the original writes the digit 0 as class 10
        scipy.io.savemat(path, {"X": x[rows].transpose(1, 2, 3, 0), "y": tens})
        known[part] = ["http://nowhere", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", datasets.SVHN.split_list | known)
    check(data.create("svhn", data_dir=str(tmp_path)), x[:40], y[:40], x[40:], y[40:])


def test_an_archive_with_keras_keys(tmp_path: Path) -> None:
    x, y = pixels(50, 28, 28), labels(50)
    np.savez(tmp_path / "mnist.npz", x_train=x[:40], y_train=y[:40, None], x_test=x[40:], y_test=y[40:])
    check(data.create("mnist", data_dir=str(tmp_path)), x[:40], y[:40], x[40:], y[40:])
    assert data.fetch("mnist", tmp_path) == tmp_path / "mnist.npz"


def test_an_archive_with_medmnist_keys_has_its_own_validation_part(tmp_path: Path) -> None:
    x, y = pixels(60, 8, 8, 3), labels(60)[:, None]
    parts = {"train": slice(30), "val": slice(30, 40), "test": slice(40, 60)}
    arrays = {f"{part}_images": x[rows] for part, rows in parts.items()}
    arrays |= {f"{part}_labels": y[rows] for part, rows in parts.items()}
    np.savez(tmp_path / "cifar10.npz", **arrays)  # type: ignore[arg-type]
    module = data.create("cifar10", data_dir=str(tmp_path))
    assert module.sizes() == {"train": 30, "val": 10, "test": 20}
    assert np.array_equal(raw(module.train).numpy(), x[:30]) and np.array_equal(raw(module.val).numpy(), x[30:40])
    for share in (0.3, 0.2, 0.1):
        with pytest.raises(UserError, match="val_size: cifar10 has such a part of its own; leave it out"):
            data.create("cifar10", data_dir=str(tmp_path), val_size=share)
    for share in (0.2, 0):
        with pytest.raises(UserError, match="test_size: cifar10 has such a part of its own; leave it out"):
            data.create("cifar10", data_dir=str(tmp_path), test_size=share)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y_test": None}, "it lacks y_test; wanted: x_train, y_train, x_test, y_test, or MedMNIST's"),
        (
            {"x_train": np.zeros((4, 8, 8, 3))},
            "x_train is float64 (4, 8, 8, 3); wanted: uint8 (N, H, W) or (N, H, W, C)",
        ),
        ({"y_train": np.array([0, 1, 2, 10])}, "y_train runs from 0 to 10; there are 10 classes, numbered from 0"),
        ({"y_train": np.array([0, 1])}, "y_train is int64 (2,); wanted: whole numbers, (4,)"),
        ({"y_train": np.array([None] * 4)}, "Object arrays cannot be loaded"),
    ],
)
def test_a_wrong_archive_is_one_line(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    right = {"x_train": pixels(4, 8, 8, 3), "y_train": labels(4), "x_test": pixels(4, 8, 8, 3), "y_test": labels(4)}
    arrays = {key: value for key, value in (right | change).items() if value is not None}
    np.savez(tmp_path / "cifar10.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(RunFailed) as error:
        data.create("cifar10", data_dir=str(tmp_path))
    assert str(error.value).startswith(f"cifar10: {tmp_path / 'cifar10.npz'} cannot be used: ")
    assert says in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "cifar10.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(RunFailed, match=r"cifar10\.npz cannot be used"):
        data.create("cifar10", data_dir=str(tmp_path))


def test_a_folder_of_its_name(tmp_path: Path) -> None:
    image_files.parts(tmp_path / "mnist", {"train": 10, "test": 2})
    module = data.create("mnist", data_dir=str(tmp_path), image_size=8)
    assert module.classes == image_files.CLASSES and module.sizes() == {"train": 27, "val": 3, "test": 6}
    assert module.input_shape == (3, 8, 8)


@pytest.mark.parametrize(
    "name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "imagenette", "tiny_imagenet"]
)
def test_without_network_one_line_says_what_to_place_where(name: str, tmp_path: Path) -> None:
    for call in (lambda: data.create(name, data_dir=str(tmp_path)), lambda: data.fetch(name, tmp_path)):
        with pytest.raises(RunFailed) as error:
            call()
        line = str(error.value)
        assert line.startswith(f"{name}: it is not in {tmp_path} and cannot be downloaded") and NO_NETWORK in line
        assert "; place " in line and "\n" not in line and error.value.exit_code == 1
        assert name in ("imagenette", "tiny_imagenet") or f"{name}.npz with x_train" in line


def test_a_cut_idx_file_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    for part in ("train", "t10k"):
        image_files.idx(folder, pixels(20, 28, 28), labels(20), part, packed=False)
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunFailed, match=r"mnist: torchvision refuses .*train-images-idx3-ubyte"):
        data.create("mnist", data_dir=str(tmp_path))


@pytest.fixture
def archive(tmp_path: Path) -> tuple[str, np.ndarray, np.ndarray]:
    x, y = pixels(240, 10, 12, 3), np.repeat([0, 1, 2], [120, 60, 60])
    np.savez(tmp_path / "cifar10.npz", x_train=x, y_train=y, x_test=x[::4], y_test=y[::4])
    return str(tmp_path), x, y


def test_mean_and_std_are_those_of_the_training_rows(archive: tuple[str, np.ndarray, np.ndarray]) -> None:
    root, _, _ = archive
    module, plain = data.create("cifar10", data_dir=root), data.create("cifar10", data_dir=root, standardize=False)
    pixels_of = {part: getattr(module, part).x.numpy() / 255 for part in ("train", "val", "test")}
    mean, std = pixels_of["train"].mean((0, 1, 2)), pixels_of["train"].std((0, 1, 2))
    for part, values in pixels_of.items():
        (batch,) = getattr(module, part).batches([slice(None)])
        expected = torch.from_numpy((values - mean) / std).permute(0, 3, 1, 2).float()
        torch.testing.assert_close(batch.x, expected, atol=1e-5, rtol=0)
        assert batch.skipped == 0 and torch.equal(batch.y, getattr(module, part).y)
        torch.testing.assert_close(plain.train.sample(3), plain.train.x[:3].permute(0, 3, 1, 2) / 255)
    constant = np.zeros((3, 4, 4, 2), dtype=np.uint8)
    constant[..., 1] = 51
    means, stds = pictures.scaling(constant)
    assert means == pytest.approx((0, 0.2)) and stds == (1, 1)


def test_a_subset_keeps_the_proportions_of_both_parts(archive: tuple[str, np.ndarray, np.ndarray]) -> None:
    root, x, y = archive
    module = data.create("cifar10", data_dir=root, subset=40)
    train, val = rows_of(module, x)
    assert len(set(train + val)) == 40 and np.bincount(y[train + val]).tolist() == [20, 10, 10]
    assert np.bincount(y[val]).tolist() == [2, 1, 1]
    assert module.test is not None and torch.bincount(module.test.y).tolist() == [20, 10, 10]
    again = data.create("cifar10", data_dir=root, subset=40)
    assert torch.equal(again.train.x, module.train.x) and torch.equal(again.val.x, module.val.x)
    assert not torch.equal(data.create("cifar10", data_dir=root, subset=40, seed=1).train.x, module.train.x)
    assert any("there are only 240 training" in n for n in data.create("cifar10", data_dir=root, subset=500).notes)


def test_augmentation_is_for_training_and_independent_of_the_batches(
    archive: tuple[str, np.ndarray, np.ndarray],
) -> None:
    root, _, _ = archive
    module = data.create("cifar10", data_dir=root, augment=["flip", "crop(padding=2)", "erasing"])
    train, every = module.train, torch.arange(len(module.train))
    whole = next(train.batches([every], epoch=2)).x
    shuffled = torch.randperm(len(every))
    for rows, batch in zip(shuffled.split(7), train.batches(shuffled.split(7), epoch=2), strict=True):
        assert torch.equal(batch.x, whole[rows]) and torch.equal(batch.y, train.y[rows])
    assert not torch.equal(next(train.batches([every], epoch=3)).x, whole)
    plain = next(train.batches([every])).x
    assert torch.equal(plain, train.sample(len(every))) and not torch.equal(plain, whole)
    (val,) = module.val.batches([slice(None)], epoch=2)
    assert torch.equal(val.x, module.val.sample(len(module.val)))
    assert whole.is_contiguous(memory_format=torch.channels_last) and whole.dtype == torch.float32


def test_augmentation_that_does_not_fit_the_images_is_refused(archive: tuple[str, np.ndarray, np.ndarray]) -> None:
    root, _, _ = archive
    text = "crop(padding=7, mode=reflect)"
    assert data.create("cifar10", data_dir=root, augment=[text]).input_shape == (3, 10, 12)
    assert data.create("cifar10", data_dir=root, augment=[text], image_size=8).input_shape == (3, 8, 8)
    with pytest.raises(UserError, match=r"augment: crop: padding 7 of images of 7 x 7 pixels: .*; use at most 6"):
        data.create("cifar10", data_dir=root, augment=[text], image_size=7)


def test_arrays_are_resized_and_cropped_to_a_square(archive: tuple[str, np.ndarray, np.ndarray]) -> None:
    root, _, _ = archive
    module, original = data.create("cifar10", data_dir=root, image_size=5), data.create("cifar10", data_dir=root)
    assert original.input_shape == (3, 10, 12) and module.input_shape == (3, 5, 5)
    x = original.train.x.permute(0, 3, 1, 2).float()
    # 10 x 12 becomes 5 x 6, of which the first five columns are the middle, rounded down.
    small = torch.nn.functional.interpolate(x, (5, 6), mode="bilinear", antialias=True)[..., :5]
    assert (module.train.x.permute(0, 3, 1, 2) - small).abs().max() <= 0.5


def test_fake_images_can_be_learned() -> None:
    module = data.create("fake", n_samples=600, classes=5, image_size=12)
    assert module.sizes() == {"train": 420, "val": 60, "test": 120} and module.input_shape == (3, 12, 12)
    train, val = module.train.sample(420).flatten(1), module.val.sample(60).flatten(1)
    centers = torch.stack([train[module.train.y == label].mean(0) for label in range(5)])
    assert (torch.cdist(val, centers).argmin(1) == module.val.y).double().mean() > 0.95
    assert torch.equal(data.create("fake", n_samples=600, classes=5, image_size=12).train.x, module.train.x)
    assert data.create("fake").input_shape == (3, 32, 32) and data.create("fake", test_size=0).test is None
    with pytest.raises(UserError, match=r"n_samples: 100000 images of 512 x 512 would take 78\.6 GB; take fewer"):
        data.create("fake", n_samples=100_000, image_size=512)


def test_moving_to_a_device_keeps_the_kind() -> None:
    module = data.create("fake", n_samples=50, augment=["flip"])
    moved = module.to("meta")
    assert type(moved.train) is type(module.train) and moved.train.x.device.type == moved.train.y.device.type == "meta"
    assert moved.input_shape == module.input_shape and not moved.train.streamed


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("iris", {"augment": ["flip"]}, "augment: iris is no set of images; leave it out"),
        ("mine.csv", {"image_size": 8}, "image_size: mine.csv is no set of images"),
        ("uci:53", {"corrupt": "skip"}, "corrupt: uci:53 is no set of images"),
        ("cifar10", {"n_samples": 10}, "n_samples: cifar10 is not a toy set and has no n_samples; subset takes fewer"),
        ("fake", {"noise": 0.5}, "noise: fake "),
        ("fake", {"target": "y"}, "target: the target of fake is fixed"),
        ("fake", {"task": "regression"}, "task: fake is a classification set"),
        ("fake", {"protocol": "paper"}, "protocol: the paper protocol is one for tables"),
        ("fake", {"stream": "yes"}, "stream: the images of fake are no files; leave it out"),
        ("fake", {"workers": 2}, "workers: the images of fake are no files; leave it out"),
        ("fake", {"corrupt": "skip"}, "corrupt: the images of fake are no files; leave it out"),
        ("fake", {"protocol": "paper", "val_size": 0.2}, "protocol: the paper protocol is one for tables"),
        (
            "fake",
            {"augment": ["crop(padding=8)"], "image_size": 8},
            "augment: crop: padding 8 of images of 8 x 8 pixels",
        ),
        ("fake", {"augment": ["flop"]}, "augment: unknown augmentation 'flop'; did you mean 'flip'?"),
        ("fake", {"workers": "many"}, "workers: 'many' is not a whole number 0 to 256 or 'auto'"),
        ("fake", {"subset": 5}, "fake: "),
    ],
)
def test_options_that_do_not_fit_are_one_line(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        data.create(name, **options)
    assert says in str(error.value) and "\n" not in str(error.value) and error.value.exit_code == 2


def test_defaults_of_image_options_may_be_passed_to_any_dataset() -> None:
    everything = {parameter.name: parameter.default for parameter in data.IMAGE_OPTIONS}
    for name in ("iris", "moons", "fake"):
        assert torch.equal(data.create(name, **everything).train.x, data.create(name).train.x)
    assert data.fetch("fake") == "made on the fly, nothing to fetch"
