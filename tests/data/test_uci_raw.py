"""UCI's raw files: synthetic ones in the right format, with UCI's published numbers of rows per class."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import regx.data as data
from regx.data import uci
from regx.errors import RunFailed

# abalone.names: rings 1 to 27 and 29
RINGS = [1, 1, 15, 57, 115, 259, 391, 568, 689, 634, 487, 267, 203, 126, 103, 67, 58, 42, 32, 26, 14, 6, 9, 2, 1, 1, 2]
ABALONE = {**{str(ring): count for ring, count in enumerate(RINGS, start=1)}, "29": 1}

# UCI's class counts, label in the file -> rows, in the order of the class index
COUNTS = {
    "abalone": ABALONE,
    "credit_approval": {"-": 383, "+": 307},
    "cylinder_bands": {"noband": 312, "band": 228},
    "dermatology": {"1": 112, "2": 61, "3": 72, "4": 49, "5": 52, "6": 20},
    "heart_disease": {"0": 164, "1": 55, "2": 36, "3": 35, "4": 13},
    "diabetic": {"0": 540, "1": 611},
    "dishonest_users": {"trustworthy": 225, "untrustworthy": 97},
    "early_stage_diabetes_risk": {"Negative": 200, "Positive": 320},
    "fertility": {"N": 88, "O": 12},
    "haberman": {"1": 225, "2": 81},
    "hayes_roth": {"1": 51, "2": 51, "3": 30},
    "hcv": {
        "0=Blood Donor": 533,
        "0s=suspect Blood Donor": 7,
        "1=Hepatitis": 24,
        "2=Fibrosis": 21,
        "3=Cirrhosis": 30,
    },
    "uci:53": {"Iris-setosa": 50, "Iris-versicolor": 50, "Iris-virginica": 50},
    "uci:109": {"1": 59, "2": 71, "3": 48},
    "uci:17": {"M": 212, "B": 357},
}


def cells(row: int, count: int) -> str:
    """`count` number cells that differ between rows."""
    return ",".join(f"{(row * 7 + column * 3) % 23}.5" for column in range(count))


def band_record(row: int, label: str) -> str:
    """40 cells, spelled as UCI does: the ink color (cell 5) and the cylinder division (cell 8) are constant."""
    texts = [("YES", "yes", "NO", "no")[(row + i) % 4] for i in range(4, 19)]
    texts[1], texts[4] = ("KEY", "key")[row % 2], ("GALLATIN", "gallatin")[row % 2]
    numbers = [str(row % (5 + i)) for i in range(20)]
    return ",".join([f"1991{row}", f"X{row % 300}", f"c{row % 3}", f"{row % 200}", *texts, *numbers, label])


HEADS = {
    "early_stage_diabetes_risk": "Age,Gender," + ",".join(f"sign {i}" for i in range(14)) + ",class\r\n",
    "hcv": '"","Category","Age","Sex",' + ",".join(f'"B{i}"' for i in range(10)) + "\n",
    "diabetic": "@relation dr\n\n"
    + "".join(f"@attribute {i} numeric\n" for i in range(19))
    + "@attribute Class {0,1}\n\n@data\n",
}
LINES: dict[str, Callable[[int, str], str]] = {
    "abalone": lambda row, label: f"{'MFI'[row % 3]},{cells(row, 7)},{label}\n",
    "credit_approval": lambda row, label: f"{'ab?'[row % 3]},{'?' if row < 12 else row % 9},{cells(row, 13)},{label}\n",
    "cylinder_bands": lambda row, label: band_record(row, label) + "\n",
    "dermatology": lambda row, label: f"{cells(row, 33)},{'?' if row % 50 == 0 else row % 60},{label}\n",
    "heart_disease": lambda row, label: (
        f"{cells(row, 12)},{'?' if row % 60 == 0 else '3.0'},{label}\n"
        if row % 2
        else f"{cells(row, 12)},6.0,{label}\n"
    ),
    "diabetic": lambda row, label: f"{cells(row, 19)},{label}\n",
    "dishonest_users": lambda row, label: (
        f"CT_range_{row % 4} CU_range_{row % 3} LT_range_{row % 5} sport{row % 2} {label} \r\n"
    ),
    "early_stage_diabetes_risk": lambda row, label: (
        f"{20 + row % 50},{['Male', 'Female'][row % 2]},"
        + ",".join("Yes" if (row + i) % 3 else "No" for i in range(14))
        + f",{label}\r\n"
    ),
    "fertility": lambda row, label: f"{cells(row, 9)},{label}\r\n",
    "haberman": lambda row, label: f"{cells(row, 3)},{label}\n",
    "hayes_roth": lambda row, label: f"{row},{cells(row, 4)},{label}\n",
    "hcv": lambda row, label: (
        f'"{row + 1}","{label}",{30 + row % 40},"{"mf"[row % 2]}",'
        + f"{'NA' if row % 100 == 0 else row % 7},{cells(row, 9)}\n"
    ),
    "uci:53": lambda row, label: f"{cells(row, 4)},{label}\n",
    "uci:109": lambda row, label: f"{label},{cells(row, 13)}\n",
    "uci:17": lambda row, label: f"{800000 + row},{label},{cells(row, 30)}\n",
}


def definition(name: str) -> uci.UciSet:
    return next(item for item in uci.SETS if name in (item.name, f"uci:{item.uci_id}"))


def place(name: str, root: Path, text: str | None = None) -> Path:
    """Writes a raw file of the set where regx looks for it."""
    path = definition(name).raw_path(root)
    path.parent.mkdir(parents=True)
    if text is None:
        labels = [label for label, count in COUNTS[name].items() for _ in range(count)]
        order = np.random.default_rng(0).permutation(len(labels))
        text = HEADS.get(name, "") + "".join(LINES[name](row, labels[index]) for row, index in enumerate(order))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("BM_10%.txt", "CT_range_1 CU_range_1 LT_range_1 sport trustworthy fair\r\n")
            archive.writestr("Dishonest Internet users dataset.txt", text)
    else:
        path.write_text(text, newline="")
    return path


def labels_of(module: data.DataModule) -> torch.Tensor:
    return torch.cat([part.y for part in (module.train, module.val, module.test) if part is not None])


def test_the_fifteen_sets_are_all_here() -> None:
    assert len(uci.SETS) == len(COUNTS) == len(LINES) == 15


@pytest.mark.parametrize("name", COUNTS)
def test_rows_classes_and_features_are_the_documented_ones(name: str, tmp_path: Path) -> None:
    path, item = place(name, tmp_path), definition(name)
    module = data.create(name, data_dir=str(tmp_path))
    counts = list(COUNTS[name].values())
    assert torch.bincount(labels_of(module)).tolist() == counts
    assert sum(counts) == item.rows and list(item.labels) == list(COUNTS[name])
    assert module.classes == tuple(item.labels.values())
    assert len({feature.split("=")[0] for feature in module.features}) == item.features
    assert module.test is not None
    for part in (module.train, module.val, module.test):
        assert torch.isfinite(part.x).all()
    assert any(str(path) in note for note in module.notes)
    assert not any("documented" in note for note in module.notes)
    assert data.fetch(name, tmp_path) == path


def test_abalone_labels_have_no_gap(tmp_path: Path) -> None:
    place("abalone", tmp_path)
    module = data.create("abalone", data_dir=str(tmp_path))
    assert sorted(labels_of(module).unique().tolist()) == list(range(28))
    assert module.classes[26:] == ("27", "29")
    torch.nn.functional.cross_entropy(torch.zeros(4177, 28), labels_of(module))


def test_abalone_is_a_regression_if_asked(tmp_path: Path) -> None:
    place("abalone", tmp_path)
    module = data.create("abalone", data_dir=str(tmp_path), task="regression")
    y = labels_of(module) * module.target_std[0] + module.target_mean[0]
    assert module.task == "regression" and module.classes == ()
    np.testing.assert_allclose(y.mean(), sum(int(ring) * count for ring, count in ABALONE.items()) / 4177, rtol=1e-5)


def test_dishonest_users_keeps_its_first_record(tmp_path: Path) -> None:
    place("dishonest_users", tmp_path)
    module = data.create("dishonest_users", data_dir=str(tmp_path), protocol="paper")
    assert (len(module.train), len(module.val)) == (322 - 67, 67)  # 0.21, not 0.2
    assert {feature.split("=")[0] for feature in module.features} == {"CT", "CU", "LT", "TC"}


def test_a_broken_record_of_cylinder_bands_is_joined(tmp_path: Path) -> None:
    labels = ["band", "noband"] * 20
    records = [band_record(row, label) for row, label in enumerate(labels)]
    head, tail = records[7].split(",")[:17], records[7].split(",")[17:]
    broken = [*records[:7], ",".join(head) + ",", ",".join(tail), *records[8:]]
    place("cylinder_bands", tmp_path / "whole", "\n".join(records))
    place("cylinder_bands", tmp_path / "broken", "\n".join(broken) + "\n\n")
    whole, joined = (data.create("cylinder_bands", data_dir=str(tmp_path / name)) for name in ("whole", "broken"))
    assert len(labels_of(joined)) == 40 and torch.equal(whole.train.x, joined.train.x)
    assert any("this copy has 40 rows, 540 are documented" in note for note in joined.notes)


def test_cylinder_bands_spells_each_value_one_way_and_leaves_identifiers_out(tmp_path: Path) -> None:
    place("cylinder_bands", tmp_path)
    module = data.create("cylinder_bands", data_dir=str(tmp_path))
    assert not any(feature != feature.lower() for feature in module.features if "=" in feature)
    assert not any(
        feature.startswith(("timestamp", "cylinder number", "customer", "job")) for feature in module.features
    )


def test_missing_cells_never_reach_the_net(tmp_path: Path) -> None:
    place("credit_approval", tmp_path)
    module = data.create("credit_approval", data_dir=str(tmp_path))
    assert "A1=(missing)" in module.features and "A2" in module.features
    assert any(note.startswith("12 missing cells of number columns") for note in module.notes)


def test_identifiers_are_no_features(tmp_path: Path) -> None:
    for name, identifier in (("hcv", "Unnamed: 0"), ("hayes_roth", "name"), ("uci:17", "ID")):
        place(name, tmp_path)
        module = data.create(name, data_dir=str(tmp_path))
        assert identifier not in module.features
        assert any(repr(identifier) in note for note in module.notes)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("haberman", "1,2,3,1\n1,2,1\n", "record 2 has 3 cells instead of 4"),
        ("haberman", "", "holds no rows"),
        ("haberman", "<html>\n<body>Not found</body>\n</html>\n", "record 1 has 1 cells instead of 4"),
        ("diabetic", "1,2,3\n", "no line @data"),
        ("cylinder_bands", "1,2,3\n", "the last record has 3 of 40 cells"),
    ],
)
def test_a_file_that_is_not_the_original_is_named(name: str, text: str, says: str, tmp_path: Path) -> None:
    path = place(name, tmp_path, text)
    with pytest.raises(RunFailed) as error:
        data.create(name, data_dir=str(tmp_path))
    assert str(path) in str(error.value) and says in str(error.value) and "\n" not in str(error.value)


def test_a_zip_that_is_none_is_named(tmp_path: Path) -> None:
    path = place("dishonest_users", tmp_path)
    path.write_bytes(b"<html>")
    with pytest.raises(RunFailed, match=r"DataSet\.zip is not UCI's DataSet\.zip"):
        data.create("dishonest_users", data_dir=str(tmp_path))


def test_an_unknown_label_is_named(tmp_path: Path) -> None:
    place("haberman", tmp_path, "".join(f"{row},2,{row % 5},{1 + row % 3}\n" for row in range(30)))
    with pytest.raises(RunFailed, match="haberman: 'survival_status' holds '3', which is none of 1, 2"):
        data.create("haberman", data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["dishonest_users", "uci:453", "uci:Dishonest Internet users Dataset"])
def test_a_set_that_the_api_does_not_serve_says_where_to_place_the_file(name: str, tmp_path: Path) -> None:
    for call in (lambda: data.create(name, data_dir=str(tmp_path)), lambda: data.fetch(name, tmp_path)):
        with pytest.raises(RunFailed) as error:
            call()
        assert str(tmp_path / "uci" / "dishonest-users" / "DataSet.zip") in str(error.value)
        assert "\n" not in str(error.value)
