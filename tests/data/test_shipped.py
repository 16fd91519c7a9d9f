from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets

import regx.data as data

LOADERS: dict[str, Any] = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}


def test_all_shipped_sets_are_tested() -> None:
    assert {n for n, row in data.REGISTRY.rows.items() if row.facts["kind"] == "scikit-learn"} == {
        *LOADERS,
        "diabetes",
        "digits_image",
    }


@pytest.mark.parametrize("name", LOADERS)
def test_rows_and_labels_are_scikit_learns(name: str) -> None:
    bunch, module, facts = LOADERS[name](), data.create(name, standardize=False), data.REGISTRY[name].facts
    assert module.test is not None
    parts = (module.train, module.val, module.test)
    rows = {(*row, int(label)) for part in parts for row, label in zip(part.x.tolist(), part.y, strict=True)}
    truth = zip(bunch.data.astype(np.float32).tolist(), bunch.target.tolist(), strict=True)
    assert rows == {(*row, label) for row, label in truth}
    assert sum(map(len, parts)) == facts["rows"] and len(module.features) == facts["features"]
    assert len(module.classes) == facts["classes"] and module.task == facts["task"]
    assert module.classes == tuple(str(label) for label in bunch.target_names)


@pytest.mark.parametrize("name", LOADERS)
def test_training_rows_are_standardised_and_the_others_by_their_statistics(name: str) -> None:
    module, raw = data.create(name), data.create(name, standardize=False)
    x = module.train.x.double()
    varying = raw.train.x.amax(0) > raw.train.x.amin(0)
    assert x.mean(0).abs().max() < 1e-5
    torch.testing.assert_close(
        x.std(0, correction=0)[varying], torch.ones(int(varying.sum())).double(), atol=1e-4, rtol=0
    )
    assert (x[:, ~varying] == 0).all()
    scale = raw.train.x.double().std(0, correction=0)
    expected = (raw.val.x.double() - raw.train.x.double().mean(0)) / torch.where(varying, scale, 1.0)
    torch.testing.assert_close(module.val.x.double(), expected, atol=1e-4, rtol=1e-4)


def test_uci_names_say_whose_copy_they_are() -> None:
    for name in ("iris", "wine", "breast_cancer"):
        assert any("scikit-learn's copy" in note for note in data.create(name).notes)
    assert any("Fisher's corrected rows 35 and 38" in note for note in data.create("iris").notes)
    # Fisher's values where UCI's file has 4.9,3.1,1.5,0.1 twice
    bunch: Any = datasets.load_iris()
    assert bunch.data[34].tolist() == [4.9, 3.1, 1.5, 0.2] and bunch.data[37].tolist() == [4.9, 3.6, 1.4, 0.1]


def test_diabetes_is_a_regression_on_standardised_targets() -> None:
    module = data.create("diabetes")
    bunch: Any = datasets.load_diabetes()
    assert module.task == "regression" and module.classes == () and module.output_size == 1
    assert module.train.y.shape == (len(module.train), 1) and module.train.y.dtype == torch.float32
    assert module.train.y.mean().abs() < 1e-5 and (module.train.y.std(correction=0) - 1).abs() < 1e-5
    assert module.test is not None
    y = torch.cat([module.train.y, module.val.y, module.test.y]).numpy() * module.target_std + module.target_mean
    np.testing.assert_allclose(np.sort(y[:, 0]), np.sort(bunch.target), rtol=1e-4)
    raw = data.create("diabetes", standardize=False)
    assert raw.target_mean == (0.0,) and raw.target_std == (1.0,) and raw.train.y.max() > 100


@pytest.mark.parametrize(("name", "train", "val"), [("wine", 143, 35), ("iris", 120, 30), ("breast_cancer", 456, 113)])
def test_paper_protocol(name: str, train: int, val: int) -> None:
    module = data.create(name, protocol="paper")
    assert (len(module.train), len(module.val), module.test) == (train, val, None)
    bunch = LOADERS[name]()
    order = np.random.RandomState(42).permutation(train + val)
    np.testing.assert_array_equal(module.val.x.numpy(), bunch.data[order[:val]].astype(np.float32))
    np.testing.assert_array_equal(module.train.y.numpy(), bunch.target[order[val:]])
    assert any("random_state=42" in note for note in module.notes)


def test_digits_image_is_digits_in_its_shape() -> None:
    images = data.create("digits_image")
    bunch: Any = datasets.load_digits()
    every = sorted(
        image.tobytes() for part in (images.train, images.val, images.test) if part for image in part.x.numpy()
    )
    expected = sorted((image / 16).astype("float32").tobytes() for image in bunch.images)
    assert images.input_shape == (1, 8, 8)
    assert images.output_size == len(set(bunch.target))
    assert every == expected
