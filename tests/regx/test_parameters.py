"""A parameter takes what it says it takes, and refuses the rest in one line."""

import math
from typing import Any

import pytest

from regx.errors import UserError, did_you_mean
from regx.parameters import Bounds, Parameter, check_options


@pytest.mark.parametrize(
    ("parameter", "given", "result"),
    [
        (Parameter("depth", "int"), "50", 50),
        (Parameter("depth", "int"), 50.0, 50),
        (Parameter("seed", "int"), "12345678901234567890", 12345678901234567890),
        (Parameter("lr", "float"), "1e-5", 1e-5),
        (Parameter("lr", "float"), 1, 1.0),
        (Parameter("flag", "bool"), "true", True),
        (Parameter("flag", "bool"), False, False),
        (Parameter("batch_size", "int", words=("full",)), "full", "full"),
        (Parameter("skip", "int", optional=True), None, None),
        (Parameter("skip", "int", optional=True), "None", None),
        (Parameter("names", "list"), "a", ["a"]),
        (Parameter("mode", "str", choices=("full", "unit")), "unit", "unit"),
    ],
)
def test_takes(parameter: Parameter, given: Any, result: Any) -> None:
    assert parameter.check(given) == result
    assert type(parameter.check(given)) is type(result)


@pytest.mark.parametrize(
    ("parameter", "given", "words"),
    [
        (Parameter("depth", "int", bounds=Bounds(1)), 0, ["depth", "0", "at least 1"]),
        (Parameter("depth", "int"), "2.5", ["depth", "2.5", "whole number"]),
        (Parameter("depth", "int"), True, ["depth", "True"]),
        (Parameter("lr", "float", bounds=Bounds(above=0)), 0, ["lr", "above 0"]),
        (Parameter("lr", "float", bounds=Bounds(0)), math.nan, ["lr", "nan"]),
        (Parameter("lr", "float"), "inf", ["lr", "inf"]),
        (Parameter("lr", "float"), "fast", ["lr", "'fast'", "a number"]),
        (Parameter("rho", "float", bounds=Bounds(0, 1)), 1.5, ["rho", "1.5", "0 to 1"]),
        (Parameter("flag", "bool"), "maybe", ["flag", "'maybe'"]),
        (Parameter("mode", "str", choices=("full", "unit")), "ful", ["mode", "did you mean 'full'"]),
        (Parameter("lr", "float"), None, ["lr", "needs a value"]),
        (Parameter("batch_size", "int", words=("full",)), "all", ["'all'", "'full'"]),
    ],
)
def test_refuses(parameter: Parameter, given: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parameter.check(given)
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UserError, match="jumpstart has no option 'sign_balanc'; did you mean 'sign_balance'"):
        check_options("jumpstart", (Parameter("sign_balance", "float"),), {"sign_balanc": 0.5})


def test_did_you_mean_lists_few_and_hides_many() -> None:
    assert did_you_mean("xyz", ["adam", "sgd"]) == "; known: adam, sgd"
    assert did_you_mean("xyz", [f"name{i}" for i in range(50)]) == ""
    assert did_you_mean("MOONS", ["moons", "blobs"]) == "; did you mean 'moons'?"
