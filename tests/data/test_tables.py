from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import regx.data as data
from regx.data import tables
from regx.errors import UserError


def frame(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "height": rng.normal(size=n),
            "count": rng.integers(0, 50, n),
            "town": rng.choice(["Ulm", "Bonn"], n),
            "smokes": rng.random(n) < 0.5,
            "kind": rng.choice(["cat", "dog", "emu"], n),
            "price": rng.normal(100, 20, n),
        }
    )


def save(table: pd.DataFrame, path: Path, index: bool = False) -> str:
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=index)
    return str(path)


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".CSV"])
def test_every_format_gives_the_same_data(suffix: str, tmp_path: Path) -> None:
    reference = data.create(save(frame(), tmp_path / "reference.csv"), target="kind")
    module = data.create(save(frame(), tmp_path / f"table{suffix}"), target="kind")
    assert module.name == str(tmp_path / f"table{suffix}")
    assert module.task == "multiclass" and module.classes == ("cat", "dog", "emu") and module.output_size == 3
    assert module.features == ("height", "count", "town=Bonn", "town=Ulm", "smokes=False", "smokes=True", "price")
    assert torch.equal(module.train.y, reference.train.y)
    torch.testing.assert_close(module.train.x, reference.train.x)


@pytest.mark.parametrize(
    ("target", "task", "expected", "classes"),
    [
        ("kind", "auto", "multiclass", ("cat", "dog", "emu")),
        ("smokes", "auto", "binary", ("False", "True")),
        ("town", "classification", "binary", ("Bonn", "Ulm")),
        ("price", "auto", "regression", ()),
        ("count", "auto", "regression", ()),  # more than 20 distinct whole numbers
        ("price,height", "auto", "regression", ()),
        ("price, height", "regression", "regression", ()),
    ],
)
def test_the_task_follows_from_the_target(
    target: str, task: str, expected: str, classes: tuple, tmp_path: Path
) -> None:
    module = data.create(save(frame(), tmp_path / "a.csv"), target=target, task=task)
    assert module.task == expected and module.classes == classes
    assert len(module.target_mean) == (target.count(",") + 1 if expected == "regression" else 0)
    if "," in target:
        assert module.train.y.shape == (36, 2)


def test_whole_number_labels_are_ordered_by_number_and_made_contiguous(tmp_path: Path) -> None:
    table = frame().assign(kind=np.tile([10.0, 2.0, 7.0], 20))
    module = data.create(save(table, tmp_path / "a.csv"), target="kind")
    assert module.classes == ("2", "7", "10")
    assert torch.bincount(module.train.y).tolist() == [12, 12, 12]


def test_regression_targets_are_standardised_by_the_training_rows(tmp_path: Path) -> None:
    table = frame()
    module = data.create(save(table, tmp_path / "a.csv"), target="price", test_size=0)
    assert module.test is None and module.train.y.mean().abs() < 1e-5
    y = torch.cat([module.train.y, module.val.y])[:, 0].double() * module.target_std[0] + module.target_mean[0]
    np.testing.assert_allclose(np.sort(y.numpy()), np.sort(table["price"]), rtol=1e-5)


def test_semicolons_byte_order_marks_and_blanks_are_read(tmp_path: Path) -> None:
    rows = "".join(f"{i}; {i % 7},5; {'ab'[i % 2]}\n".replace(",", ".") for i in range(20))
    module = data.create(write(tmp_path / "a.csv", "\ufeffwidth; height; kind\n" + rows), target="kind")
    assert module.features == ("width", "height") and module.classes == ("a", "b")


def test_columns_that_say_nothing_are_dropped_with_a_note(tmp_path: Path) -> None:
    table = frame().assign(
        empty=np.nan, same=3, label="x", id=[f"id-{row}" for row in range(60)], when=pd.Timestamp("2026-01-01")
    )
    table["when"] += pd.to_timedelta(np.arange(60), unit="D")
    module = data.create(save(table, tmp_path / "a.parquet"), target="kind")
    assert len(module.features) == 7
    notes = "\n".join(module.notes)
    assert "dropped 'empty': all values missing" in notes
    assert "dropped 'same', 'label': constant" in notes
    assert "dropped 'id': a different text in every row" in notes
    assert "dropped 'when': datetime64" in notes


def test_missing_cells_are_filled_and_reported(tmp_path: Path) -> None:
    table = frame()
    table.loc[:4, "height"] = np.nan
    table.loc[:2, "town"] = "?"
    module = data.create(save(table, tmp_path / "a.csv"), target="kind")
    assert all(torch.isfinite(part.x).all() for part in (module.train, module.val))
    assert "5 missing cells of number columns filled with the training median" in module.notes
    assert "3 missing cells of text columns kept as category '(missing)'" in module.notes


def test_a_written_index_is_no_feature(tmp_path: Path) -> None:
    module = data.create(save(frame(), tmp_path / "a.csv", index=True), target="kind")
    assert len(module.features) == 7
    assert "dropped the nameless first column: it counts the rows" in module.notes


def test_mixed_and_category_columns_are_text(tmp_path: Path) -> None:
    table = frame().assign(size=pd.Categorical(np.tile(["s", "m", "l"], 20)))
    module = data.create(save(table, tmp_path / "a.parquet"), target="kind")
    assert {"size=s", "size=m", "size=l"} <= set(module.features)


NUMBERS = "".join(f"{i},{i % 7},{'ab'[i % 2]}\n" for i in range(20))
BAD = {
    "missing.csv": (None, {"target": "kind"}, "no such file"),
    "empty.csv": (b"", {"target": "kind"}, "is empty"),
    "blank.csv": (b"\n\n", {"target": "kind"}, "is empty, or its first line is"),
    "header.csv": (b"a,b,kind\n", {"target": "kind"}, "has no rows"),
    "binary.csv": (b"\x89PNG\r\n\x1a\n\x00\x00", {"target": "kind"}, "is not a csv table"),
    "nul.csv": (b"a\x00b,kind\n1,2\n", {"target": "kind"}, "NUL bytes"),
    "latin.csv": ("h\xf6he,kind\n1,2\n".encode("latin-1"), {"target": "kind"}, "is not a csv table"),
    "ragged.csv": (b"a,kind\n1,2\n1,2,3\n", {"target": "kind"}, "is not a csv table"),
    "surplus.csv": (b"a,kind\n1,2,3\n1,2,3\n", {"target": "kind"}, "more cells in its rows than the 2 names"),
    "twice.csv": (b"a,a,kind\n1,2,3\n", {"target": "kind"}, "2 columns called 'a'"),
    "none.parquet": (b"PAR0", {"target": "kind"}, "is not a parquet table"),
    "notarget.csv": (
        "a,b,kind\n" + NUMBERS,
        {},
        "{} needs the column to predict; its columns: 'a', 'b', 'kind'",
    ),
    "typo.csv": ("a,b,kind\n" + NUMBERS, {"target": "kid"}, "target: {} has no column 'kid'; did you mean 'kind'?"),
    "case.csv": ("a,b,Kind\n" + NUMBERS, {"target": "kind"}, "did you mean 'Kind'?"),
    "second.csv": ("a,b,kind\n" + NUMBERS, {"target": "a,z"}, "has no column 'z'"),
    "gaps.csv": ("a,b,kind\n" + NUMBERS + "1,2,\n3,4,?\n", {"target": "kind"}, "has no value in 2 of 22 rows"),
    "inf.csv": ("a,b,kind\n" + NUMBERS + "1,inf,a\n1,-inf,b\n", {"target": "kind"}, "'b' is infinite"),
    "large.csv": ("a,b,kind\n" + NUMBERS + "1,1e60,a\n", {"target": "kind"}, "beyond 32-bit floats in 1 of 21 rows"),
    "inftarget.csv": ("a,b,kind\n" + NUMBERS + "inf,1,a\n", {"target": "a"}, "'a' is infinite"),
    "oneclass.csv": ("a,kind\n" + "1,x\n2,x\n" * 9, {"target": "kind"}, "holds one class only ('x')"),
    "constant.csv": ("a,kind\n" + "1,5\n2,5\n" * 9, {"target": "kind", "task": "regression"}, "'kind' is constant"),
    "labels.csv": ("a,kind\n" + "".join(f"{i},l{i}\n" for i in range(9)), {"target": "kind"}, "9 classes in 9 rows"),
    "floats.csv": (
        "a,kind\n" + "".join(f"{i},{i}.5\n" for i in range(9)),
        {"target": "kind", "task": "classification"},
        "use task regression",
    ),
    "text.csv": ("a,b,kind\n" + NUMBERS, {"target": "kind", "task": "regression"}, "task: regression needs a numeric"),
    "two.csv": ("a,b,kind\n" + NUMBERS, {"target": "a,kind"}, "has 2 targets ('a', 'kind')"),
    "twoclass.csv": ("a,b,kind\n" + NUMBERS, {"target": "a,b", "task": "classification"}, "classification takes one"),
    "alone.csv": ("kind\n" + "a\nb\n" * 9, {"target": "kind"}, "no column left to learn from"),
    "useless.csv": (
        "a,kind\n" + "1,x\n1,y\n" * 9,
        {"target": "kind"},
        "to learn from; dropped 'a': constant",
    ),
    "short.csv": ("a,kind\n1,x\n2,y\n3,x\n4,y\n", {"target": "kind"}, "validation part would have 1 of 4 rows"),
    "folder.csv": ("FOLDER", {"target": "kind"}, "is not a file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_one_clear_line(name: str, tmp_path: Path) -> None:
    content, options, says = BAD[name]
    path = tmp_path / name
    if content == "FOLDER":
        path.mkdir()
    elif content is not None:
        write(path, content)
    with pytest.raises(UserError) as error:
        data.create(str(path), **options)
    text = str(error.value)
    assert says.format(path) in text and "\n" not in text and error.value.exit_code == 2
    assert name in text or error.value.option or says.startswith("validation")


def test_objects_in_a_column_are_refused(tmp_path: Path) -> None:
    path = save(frame().assign(box=[[1, 2]] * 60), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="column 'box' holds lists or objects"):
        data.create(path, target="kind")


def test_a_subset_of_one_class_is_refused(tmp_path: Path) -> None:
    table = frame(40).assign(kind=["a"] * 38 + ["b"] * 2)
    with pytest.raises(UserError, match="the 10 rows hold one class only"):
        data.create(save(table, tmp_path / "a.csv"), target="kind", subset=10)


def test_two_columns_of_one_name_are_refused_in_parquet_too(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["a", "a"]), path)
    with pytest.raises(UserError) as error:
        data.create(str(path), target="a")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_decimal_commas_go_with_semicolons(tmp_path: Path) -> None:
    file = tmp_path / "comma.csv"
    lines = [f"{i},5;{i}cm;{'yes' if i % 2 else 'no'}" for i in range(30)]
    file.write_text("\n".join(["length;text;y", *lines]))
    frame = tables.read(file)
    assert frame["length"].tolist() == [i + 0.5 for i in range(30)]
    assert frame["text"].tolist()[:2] == ["0cm", "1cm"]


def test_what_auto_decides_is_said(tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    file.write_text("\n".join(["a,y", *(f"{i % 7},{i % 40}" for i in range(200))]))
    made = data.create(str(file), target="y")
    assert made.task == "regression"
    assert any("40 different numbers" in note for note in made.notes)
    assert data.create(str(file), target="y", task="classification").task == "multiclass"


def test_rare_classes_and_many_categories_are_said(tmp_path: Path) -> None:
    file = tmp_path / "rare.csv"
    rows = [f"{i % 2},t{i % 24},{'once' if i == 0 else 'yes' if i % 2 else 'no'}" for i in range(480)]
    file.write_text("\n".join(["a,b,y", *rows]))
    notes = " ".join(data.create(str(file), target="y").notes)
    assert "classes with too few rows to be in every part: 'once' (1)" in notes
    assert "'b' is text with 24 categories" in notes
