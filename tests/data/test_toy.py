import numpy as np
import pytest
import torch
from sklearn.datasets import make_circles, make_moons

import regx.data as data

TOY = [name for name, row in data.REGISTRY.rows.items() if row.facts["kind"] == "toy"]


def everything(module: data.DataModule) -> tuple[np.ndarray, np.ndarray]:
    parts = [part for part in (module.train, module.val, module.test) if part is not None]
    return torch.cat([part.x for part in parts]).numpy(), torch.cat([part.y for part in parts]).numpy()


@pytest.mark.parametrize("name", TOY)
def test_every_toy_set_fits_its_row_of_the_registry(name: str) -> None:
    module, facts = data.create(name), data.REGISTRY[name].facts
    x, y = everything(module)
    assert len(x) == facts["rows"] and module.task == facts["task"]
    assert module.input_shape == (2,) and len(module.classes) == facts["classes"]
    assert module.output_size == (1 if facts["classes"] == 2 else facts["classes"])
    assert set(y) == set(range(facts["classes"]))
    assert x.dtype == np.float32 and y.dtype == np.int64
    assert np.abs(x).max() < 6  # unit scale


@pytest.mark.parametrize("name", TOY)
def test_the_seed_decides_rows_and_split(name: str) -> None:
    one, same, other = (data.create(name, seed=seed, n_samples=100) for seed in (1, 1, 2))
    assert torch.equal(one.train.x, same.train.x) and torch.equal(one.val.y, same.val.y)
    assert not torch.equal(one.train.x, other.train.x)


@pytest.mark.parametrize("name", TOY)
def test_no_row_is_in_two_parts(name: str) -> None:
    module = data.create(name, n_samples=200)
    assert module.test is not None
    rows = [{tuple(row) for row in part.x.tolist()} for part in (module.train, module.val, module.test)]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 200


@pytest.mark.parametrize("name", TOY)
def test_classes_are_balanced_and_stratified(name: str) -> None:
    module = data.create(name, n_samples=600)
    assert module.test is not None
    shares = [
        torch.bincount(part.y, minlength=len(module.classes)) / len(part)
        for part in (module.train, module.val, module.test)
    ]
    assert (shares[0] > 0.7 / len(module.classes)).all()
    for share in shares[1:]:
        assert (share - shares[0]).abs().max() < 0.02


@pytest.mark.parametrize(("name", "oracle"), [("moons", make_moons), ("circles", make_circles)])
def test_coordinates_are_scikit_learns_and_stay_raw(name: str, oracle) -> None:
    extra = {"factor": 0.5} if name == "circles" else {}
    truth, labels = oracle(50, noise=0.2, random_state=7, **extra)
    x, y = everything(data.create(name, n_samples=50, noise=0.2, seed=7))
    expected = {(*row, label) for row, label in zip(truth.astype(np.float32).tolist(), labels.tolist(), strict=True)}
    assert {(*row, label) for row, label in zip(x.tolist(), y.tolist(), strict=True)} == expected


def test_noiseless_shapes_have_their_closed_form() -> None:
    x, y = everything(data.create("xor", noise=0))
    assert np.array_equal(y == 1, x[:, 0] * x[:, 1] < 0) and np.abs(x).max() <= 1
    x, y = everything(data.create("spirals", noise=0, classes=3))
    radius = np.hypot(x[:, 0], x[:, 1])
    turn = np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) - radius - y / 3
    assert np.abs(turn - np.round(turn)).max() < 1e-4
    x, y = everything(data.create("blobs", noise=0, classes=4))
    angle = 2 * np.pi * y / 4
    np.testing.assert_allclose(x, np.stack([np.cos(angle), np.sin(angle)], axis=1), atol=1e-6)
    x, y = everything(data.create("swiss_roll", noise=0, classes=3))
    radius = np.hypot(x[:, 0], x[:, 1])  # Archimedean: radius = angle / (4.5 pi), from 1/3 to 1
    assert np.array_equal(y, np.minimum((radius - 1 / 3) / (2 / 3) * 3, 2).astype(int))
    x, y = everything(data.create("gaussian_quantiles", noise=0, classes=3))
    radius = np.hypot(x[:, 0], x[:, 1])
    assert radius[y == 0].max() < radius[y == 1].min() and radius[y == 1].max() < radius[y == 2].min()
    assert np.bincount(y).tolist() == [333, 333, 334]
