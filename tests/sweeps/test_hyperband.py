"""The rule of early stopping decides as W&B's engine does, whose decisions the fixture holds."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from regx.errors import UserError
from regx.sweeps.hyperband import Hyperband

CASES = json.loads((Path(__file__).parent / "fixtures" / "hyperband.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_same_runs_are_stopped(case: dict[str, Any]) -> None:
    rule = Hyperband.read(case["early_terminate"])
    runs = [[math.nan if value is None else value for value in history] for history in case["histories"]]
    stopped = [i for i, own in enumerate(runs) if rule.stops(own, runs[:i] + runs[i + 1 :], case["goal"])]
    assert stopped == case["stopped"]


def test_the_fixture_has_both_decisions_for_every_spelling() -> None:
    for key in ("min_iter", "max_iter"):
        for strict in (True, False, None):
            cases = [c for c in CASES if key in c["early_terminate"] and c["early_terminate"].get("strict") is strict]
            assert any(c["stopped"] for c in cases) and any(len(c["stopped"]) < len(c["histories"]) for c in cases)


@pytest.mark.parametrize(
    ("spec", "bands"),
    [  # the examples of W&B's documentation, then fractions and the end of the downward bands
        ({"min_iter": 3}, (3, 9, 27, 81)),
        ({"max_iter": 27, "s": 2}, (3, 9)),
        ({"min_iter": 2, "eta": 1.5}, (2, 3, 4, 6)),
        ({"max_iter": 20, "s": 9, "eta": 2}, (1, 2, 5, 10)),
    ],
)
def test_bands(spec: dict[str, Any], bands: tuple[int, ...]) -> None:
    assert Hyperband.read({"type": "hyperband", **spec}).bands[:4] == bands


def test_many_bands_end() -> None:
    assert len(Hyperband.read({"type": "hyperband", "min_iter": 1, "eta": 1e200}).bands) == 1
    assert len(Hyperband.read({"type": "hyperband", "min_iter": 1, "eta": 1.001}).bands) == 100


@pytest.mark.parametrize(
    ("spec", "option", "words"),
    [
        ("hyperband", "early_terminate", "is not a section"),
        ({"min_iter": 3}, "type", "type: hyperband"),
        ({"type": "median", "min_iter": 3}, "type", "'median'"),
        ({"type": "hyperband"}, "min_iter", "either min_iter, or max_iter and s"),
        ({"type": "hyperband", "min_iter": 1, "max_iter": 9, "s": 2}, "min_iter", "either"),
        ({"type": "hyperband", "min_iter": 1, "s": 2}, "s", "goes with max_iter"),
        ({"type": "hyperband", "max_iter": 9}, "s", "is missing"),
        ({"type": "hyperband", "max_iter": 9, "s": 1.5}, "s", "1.5 is not a whole number"),
        ({"type": "hyperband", "min_iter": 0}, "min_iter", "0 is not a whole number, at least 1"),
        ({"type": "hyperband", "min_iter": "3"}, "min_iter", "'3' is not a whole number"),
        ({"type": "hyperband", "max_iter": 2, "s": 1}, "max_iter", "less than one iteration"),
        ({"type": "hyperband", "min_iter": 1, "eta": 1}, "eta", "above 1"),
        ({"type": "hyperband", "min_iter": 1, "eta": math.inf}, "eta", "above 1"),
        ({"type": "hyperband", "min_iter": 1, "strict": "yes"}, "strict", "true or false"),
        ({"type": "hyperband", "min_itr": 1}, "min_itr", "did you mean 'min_iter'"),
    ],
)
def test_a_mistake_names_its_key(spec: Any, option: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        Hyperband.read(spec)
    assert caught.value.option == option and words in str(caught.value)
