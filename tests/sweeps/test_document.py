"""YAML 1.2 with line numbers."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from regx.errors import UserError
from regx.sweeps import document

FILE = Path("sweep.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1e5", 1e5),
        ("-.5E3", -500.0),
        ("1.", 1.0),
        ("10", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("010", 10),
        ("off", "off"),
        ("no", "no"),
        ("y", "y"),
        ("true", True),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ("'1e-5'", "1e-5"),
        ("-.inf", float("-inf")),
        ("[1, a, .5]", [1, "a", 0.5]),
        ("{off: 1}", {"off": 1}),
    ],
)
def test_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = document.parse(text, FILE).value
    assert found == value and type(found) is type(value)


def test_lines_are_remembered() -> None:
    found = document.parse("a: 1\nb:\n  - x\n  - c: 2\n    d:\n      3\n", FILE)
    assert found.lines == {(): 1, ("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 4, ("b", 1, "c"): 4, ("b", 1, "d"): 5}


def test_merges_give_way_to_own_keys() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  <<: [*a, *b]\n  x: 9\n"
    # PyYAML's own merging is the independent truth.
    assert document.parse(text, FILE).value == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: 1\nb: &b\n  - *b\n", 2, "an anchor contains itself"),
        ("a: 1\nb: 2\na: 3\n", 3, "'a' is given twice"),
        ("a: 1\nb: [1,\n", 3, "not YAML"),
        ("a:\n\t- 1\n", 2, "not YAML"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML: expected a single document"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "is not for sweeps"),
        ("a: *b\n", 1, "undefined alias"),
        ("a: 1\n? [x]\n: 2\n", 1, "a key must be a name"),
        ("a: 1\nb: {<<: 3}\n", 2, "`<<` needs a mapping"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(UserError) as error:
        document.parse(text, FILE)
    assert str(error.value).startswith(f"sweep.yaml, line {line}: ") and reason in str(error.value)


def test_many_nested_anchors_do_not_fill_the_memory() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(UserError, match="more than 200,000 values"):
        document.parse("\n".join(lines), FILE)


@pytest.mark.parametrize(
    "value",
    [
        {
            "a": 1e-5,
            "b": "1e-5",
            "c": "off",
            "d": "null",
            "e": ["~", "", "x: y", "007"],
            "f": None,
            "g": True,
            "off": 1,
        },
        {"text": "two\nlines", "unicode": "λ → 0", "float": 1e300, "tiny": 5e-324, "int": -3},
    ],
)
def test_what_is_written_is_read_back_by_both_versions(value: Any) -> None:
    text = document.dump(value)
    assert document.parse(text, FILE).value == value
    assert yaml.safe_load(text) == value


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        document.read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4\n")
    with pytest.raises(UserError, match="not UTF-8"):
        document.read(tmp_path / "latin.yaml")
