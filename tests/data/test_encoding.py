import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from regx.data.encoding import encode


def table(n: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "height": rng.normal(170, 10, n),
            "sex": rng.choice(["m", "f"], n),
            "count": rng.integers(0, 9, n),
            "smokes": rng.random(n) < 0.5,
            "town": pd.Categorical(rng.choice(["Ulm", "Bonn", "Köln"], n)),
        }
    )
    frame.loc[rng.random(n) < 0.2, "height"] = np.nan
    frame["sex"] = frame["sex"].mask(rng.random(n) < 0.2)
    return frame


def test_equals_scikit_learns_pipeline_fitted_on_the_training_rows() -> None:
    frame, train = table(), np.arange(0, 60, 2)
    encoded = encode(frame, train, standardize=True)
    numbers, texts = ["height", "count"], ["sex", "smokes", "town"]
    filled = frame.astype({"smokes": str, "town": str}).assign(sex=frame["sex"].fillna("(missing)"))
    truth = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
        (OneHotEncoder(sparse_output=False, handle_unknown="ignore"), texts),
    )
    truth.fit(filled.iloc[train])
    columns = [
        "height",
        "count",
        *(
            f"{t}={c}"
            for t, cs in zip(texts, truth.named_transformers_["onehotencoder"].categories_, strict=True)
            for c in cs
        ),
    ]
    expected = pd.DataFrame(truth.transform(filled), columns=columns)
    assert set(encoded.names) == set(columns)
    np.testing.assert_allclose(encoded.x, expected[list(encoded.names)].to_numpy(), atol=1e-5)
    assert encoded.x.dtype == np.float32


def test_rows_outside_training_have_no_say() -> None:
    train = np.arange(30)
    changed = table()
    changed.loc[30:, ["height", "count"]] = [1e6, 10**6]
    changed.loc[30:, "sex"] = "x"
    before, after = encode(table(), train, standardize=True), encode(changed, train, standardize=True)
    assert before.names == after.names
    np.testing.assert_array_equal(before.x[train], after.x[train])


def test_a_category_that_training_lacks_is_all_zeros_and_is_reported() -> None:
    frame = pd.DataFrame({"a": ["x", "y", "x", "z", None]})
    encoded = encode(frame, np.arange(3), standardize=True)
    assert encoded.names == ("a=x", "a=y")
    assert encoded.x.tolist() == [[1, 0], [0, 1], [1, 0], [0, 0], [0, 0]]
    assert any("2 validation or test cells hold a category that training lacks" in note for note in encoded.notes)


def test_a_constant_column_becomes_zero_and_does_not_divide_by_zero() -> None:
    frame = pd.DataFrame({"a": [0.1] * 9 + [0.4], "b": np.arange(10.0)})
    x = encode(frame, np.arange(9), standardize=True).x
    assert (x[:9, 0] == 0).all()
    np.testing.assert_allclose(x[9, 0], 0.3, rtol=1e-6)


def test_a_column_without_a_training_value_is_dropped_and_reported() -> None:
    frame = pd.DataFrame({"a": [np.nan, np.nan, 3.0], "b": [1.0, 2.0, 3.0]})
    encoded = encode(frame, np.array([0, 1]), standardize=True)
    assert encoded.names == ("b",)
    assert encoded.notes == ("dropped 'a': no training row has a value",)


def test_missing_cells_are_counted() -> None:
    frame = pd.DataFrame({"a": [1.0, np.nan, 3.0, np.nan], "b": ["u", None, "v", "u"]})
    encoded = encode(frame, np.arange(4), standardize=False)
    assert encoded.names == ("a", "b=(missing)", "b=u", "b=v")
    assert encoded.x[:, 0].tolist() == [1, 2, 3, 2]
    assert "2 missing cells of number columns filled with the training median" in encoded.notes
    assert "1 missing cell of text columns kept as category '(missing)'" in encoded.notes


def test_nullable_columns_are_read_too() -> None:
    frame = pd.DataFrame(
        {"a": pd.array([1, None, 3], dtype="Int64"), "b": pd.array([True, None, False], dtype="boolean")}
    )
    encoded = encode(frame, np.arange(3), standardize=False)
    assert encoded.names == ("a", "b=(missing)", "b=False", "b=True")
    assert encoded.x[1].tolist() == [2, 1, 0, 0]
