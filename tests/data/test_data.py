import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
import torch

import regx.data as data
from regx.errors import UserError


def test_listing_imports_nothing_heavy() -> None:
    heavy = "('torch', 'numpy', 'pandas', 'sklearn', 'ucimlrepo', 'platformdirs', 'http.client', 'torchvision', 'PIL')"
    code = (
        f"import sys, regx.data as d; assert len(d.REGISTRY.rows) > 20 and len(d.AUGMENTATIONS.rows) > 5;"
        f"found = [m for m in {heavy} if m in sys.modules];"
        "assert not found, found; d.DataModule; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_row_has_the_columns_of_the_list() -> None:
    kinds = set()
    for name, row in data.REGISTRY.rows.items():
        kinds.add(row.facts["kind"])
        assert row.name == name and row.summary and row.source and callable(row.load())
        assert row.facts["task"] in ("binary", "multiclass", "regression")
        assert row.facts["rows"] > 0 and row.facts["features"] > 0 and "uci_id" in row.facts
        assert (row.facts["classes"] == 2) == (row.facts["task"] == "binary")
    assert kinds == {"toy", "scikit-learn", "UCI", "image"}


def test_options_of_toy_sets_are_those_of_create() -> None:
    known = {parameter.name: parameter for parameter in data.OPTIONS}
    toys = [row for row in data.REGISTRY.rows.values() if row.facts["kind"] == "toy"]
    for row in toys:
        for parameter in row.parameters:
            if parameter.name in known:
                twin = known[parameter.name]
                assert (parameter.type, parameter.default, parameter.bounds) == (twin.type, twin.default, twin.bounds)
        assert {"n_samples", "noise", "seed"} <= {parameter.name for parameter in row.parameters}


def test_the_public_names() -> None:
    module = data.create("moons", n_samples=50)
    assert isinstance(module, data.DataModule) and isinstance(module.train, data.Split)
    assert len(module.train) == 30 and module.input_shape == (2,) and module.output_size == 1
    with pytest.raises(AttributeError):
        _ = data.Nothing
    with pytest.raises(AttributeError):
        module.name = "other"  # type: ignore[misc]


def test_moving_to_a_device_moves_every_part() -> None:
    module = data.create("moons", n_samples=50)
    for test in (module.to("meta"), data.create("moons", test_size=0).to("meta")):
        parts = [part for part in (test.train, test.val, test.test) if part is not None]
        assert all(part.x.device.type == part.y.device.type == "meta" for part in parts)
        assert test.classes == module.classes


def test_values_from_a_command_line_are_converted() -> None:
    module = data.create("moons", n_samples="60", noise="0", standardize="false", subset="null", test_size="0")
    assert len(module.train) == 48 and module.test is None


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mons", {}, "unknown dataset 'mons'; did you mean 'moons'?"),
        ("moons", {"nois": 0.1}, "dataset moons has no option 'nois'; did you mean 'noise'?"),
        ("iris", {"classes": 3}, "dataset iris has no option 'classes'"),
        ("moons", {"noise": -1}, "noise: -1 is out of bounds; use a number 0 to 100"),
        ("moons", {"n_samples": 2}, "n_samples: 2 is out of bounds"),
        ("moons", {"val_size": 0}, "val_size: 0 is out of bounds"),
        ("moons", {"seed": -1}, "seed: -1 is out of bounds"),
        ("moons", {"protocol": "papr"}, "protocol: 'papr' is not among its choices; did you mean 'paper'?"),
        ("moons", {"subset": 0}, "subset: 0 is out of bounds"),
        ("moons", {"val_size": 0.6, "test_size": 0.5}, "val_size=0.6 and test_size=0.5 leave nothing to train on"),
        ("moons", {"protocol": "paper", "test_size": 0.1}, "test_size: the paper protocol fixes the split"),
        ("moons", {"protocol": "paper", "val_size": 0.2}, "val_size: the paper protocol fixes the split"),
        ("moons", {"target": "y"}, "target: the target of moons is fixed"),
        ("moons", {"task": "regression"}, "task: moons is a classification set"),
        ("diabetes", {"task": "classification"}, "task: diabetes is a regression set"),
        ("iris", {"n_samples": 10}, "n_samples: iris is not a toy set"),
        ("uci:900", {"noise": 0.3}, "noise: uci:900 is not a toy set"),
        ("iris", {"data_dir": __file__}, "data_dir: "),
        ("data.xlsx/", {}, "there is no file or folder 'data.xlsx/'"),
        ("iris", {"subset": 3}, "iris: the training part would have 1 of 3 rows"),
    ],
)
def test_bad_input_is_one_line_that_names_it(name: str, options: dict, says: str) -> None:
    with pytest.raises(UserError) as error:
        data.create(name, **options)
    assert says in str(error.value) and "\n" not in str(error.value) and error.value.exit_code == 2


def test_defaults_may_be_passed_to_any_dataset() -> None:
    everything = {parameter.name: parameter.default for parameter in data.OPTIONS}
    assert torch.equal(data.create("iris", **everything).train.x, data.create("iris").train.x)
    assert torch.equal(data.create("moons", **everything).train.x, data.create("moons").train.x)


def test_a_fifth_validates_and_a_fifth_tests_by_default() -> None:
    for name in ("iris", "moons"):
        module, typed = data.create(name), data.create(name, val_size=0.2, test_size=0.2)
        for part in ("train", "val", "test"):
            assert torch.equal(getattr(module, part).x, getattr(typed, part).x)
    assert data.create("moons", val_size="none", test_size=0.3).sizes() == {"train": 500, "val": 200, "test": 300}


def test_a_subset_is_stratified_seeded_and_split_like_a_set_of_its_own() -> None:
    module = data.create("digits", subset=200)
    assert module.test is not None
    assert (len(module.train), len(module.val), len(module.test)) == (120, 40, 40)
    counts = torch.bincount(torch.cat([module.train.y, module.val.y, module.test.y]), minlength=10)
    assert counts.min() >= 19 and counts.max() <= 21
    assert torch.equal(module.train.x, data.create("digits", subset=200).train.x)
    assert not torch.equal(module.train.x, data.create("digits", subset=200, seed=1).train.x)
    assert any("subset=500: there are only 150 rows" in note for note in data.create("iris", subset=500).notes)
    assert len(data.create("diabetes", subset=100).train) == 60


def test_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGX_DATA", raising=False)
    assert data.data_folder() == platformdirs.user_cache_path("regx")
    monkeypatch.setenv("REGX_DATA", str(tmp_path / "environment"))
    assert data.data_folder() == tmp_path / "environment"
    assert data.data_folder(tmp_path / "option") == tmp_path / "option"
    assert data.data_folder("~/x") == Path.home() / "x"


@pytest.mark.parametrize(
    ("name", "says"), [("moons", "made on the fly"), ("iris", "comes with scikit-learn"), ("mine.csv", "your own file")]
)
def test_fetching_what_needs_no_fetching_says_so(name: str, says: str, tmp_path: Path) -> None:
    line = data.fetch(name, tmp_path)
    assert isinstance(line, str) and says in line
    assert list(tmp_path.iterdir()) == []


def test_fetching_an_unknown_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'abalone'"):
        data.fetch("abalon", tmp_path)
