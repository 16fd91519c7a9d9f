"""What Weights & Biases forbids in a sweep's file, in a file beside it: NAME.regx.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regx.errors import UserError, did_you_mean
from regx.sweeps import document
from regx.sweeps.conditions import Condition

SUFFIX = ".regx.yaml"


@dataclass(frozen=True)
class Sidecar:
    """Repeats, constraints and tables of a sweep.

    Attributes:
        summary: one line for `regx sweep list`.
        description: what it is for.
        source: where the table was published.
        budget: how long it takes, on what.
        seeds: every configuration is trained once with each of these.
        where: conditions that every configuration fulfils; others are left out.
        when: parameter -> condition under which it is set; else it has its default.
        retries: how often a run is tried again after its process or machine failed.
        baseline: label of the configuration that others are compared with.
        tables: what `regx sweep results` prints, each a name of `regx sweep results --help` and its options.
    """

    summary: str = ""
    description: str = ""
    source: str = ""
    budget: str = ""
    seeds: list[int] = field(default_factory=list)
    where: list[Condition] = field(default_factory=list)
    when: dict[str, Condition] = field(default_factory=dict)
    retries: int = 1
    baseline: str | None = None
    tables: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a file; what is not set is left out."""
        found = vars(self) | {
            "where": [condition.text for condition in self.where],
            "when": {name: condition.text for name, condition in self.when.items()},
        }
        return {key: value for key, value in found.items() if value not in ("", [], {}, None)}


def conditions(where: list[str], when: list[str]) -> dict[str, Any]:
    """The fields `where` and `when` of conditions as they stand in a command: `depth < 3`, `momentum: lr > 0.1`."""
    pairs = [text.partition(":") for text in when]
    return {
        "where": [Condition(text) for text in where],
        "when": {name.strip(): Condition(text.strip()) for name, _, text in pairs},
    }


def beside(path: Path) -> Path:
    """The sidecar of a sweep's file."""
    return path.with_name(path.name.removesuffix(path.suffix) + SUFFIX)


def read(path: Path) -> Sidecar:
    """Reads a sidecar; an empty one where there is no such file.

    Raises:
        UserError: an unknown key or a value of another kind, with its line.
    """
    if not path.is_file():
        return Sidecar()
    found = document.read(path)
    values = found.value or {}
    if not isinstance(values, dict):
        found.fail("holds no `key: value` lines")
    known = Sidecar.__dataclass_fields__
    for key in values:
        if key not in known:
            found.fail(f"unknown key {key!r}{did_you_mean(key, known)}", key)
    checked = {key: _CHECKS[key](found, key, value) for key, value in values.items()}
    return Sidecar(**checked)


def _text(found: document.Document, key: str, value: Any) -> str:
    if not isinstance(value, str):
        found.fail(f"{key}: {value!r} is not text", key)
    return " ".join(value.split()) if key != "description" else value.strip()


def _seeds(found: document.Document, key: str, value: Any) -> list[int]:
    seeds: list[Any] = list(range(value)) if type(value) is int else value if isinstance(value, list) else []
    good = seeds and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not good or len(set(seeds)) < len(seeds):
        found.fail(f"seeds: {value!r} is neither a number of seeds nor a list of different ones, as [1, 2, 3]", key)
    return seeds


def _conditions(found: document.Document, key: str, value: Any) -> list[Condition]:
    texts = value if isinstance(value, list) else [value]
    return [
        _condition(found, text, key, *([index] if isinstance(value, list) else [])) for index, text in enumerate(texts)
    ]


def _condition(found: document.Document, text: Any, *place: str | int) -> Condition:
    if not isinstance(text, str):
        found.fail(f"{text!r} is no condition; write one such as depth * width <= 400", *place)
    condition = Condition(text)
    try:
        condition.names()
    except UserError as error:
        found.fail(error.message, *place)
    return condition


def _when(found: document.Document, key: str, value: Any) -> dict[str, Condition]:
    if not isinstance(value, dict):
        found.fail("when: write `parameter: condition` lines", key)
    return {name: _condition(found, text, key, name) for name, text in value.items()}


def _retries(found: document.Document, key: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 100:
        found.fail(f"retries: {value!r} is not a whole number from 0 to 100", key)
    return value


def _tables(found: document.Document, key: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) and "table" in item for item in value):
        found.fail("tables: write a list of `table: NAME` entries", key)
    return value


_CHECKS = {
    "summary": _text,
    "description": _text,
    "source": _text,
    "budget": _text,
    "seeds": _seeds,
    "where": _conditions,
    "when": _when,
    "retries": _retries,
    "baseline": _text,
    "tables": _tables,
}
