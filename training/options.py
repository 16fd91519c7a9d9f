"""How a configuration class says what its options are: a dataclass field each, with type, default, bounds and help."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

from regx.parameters import Bounds, Parameter


@dataclass(frozen=True)
class Option(Parameter):
    """A configuration field.

    Attributes:
        panel: heading under which `--help` shows it.
        identity: whether it changes what is computed, and so the run's hash.
        means: what None, the default, stands for, where a component has a default of its own.
    """

    panel: str = ""
    identity: bool = True
    means: Any = None

    @property
    def key(self) -> str:
        """Spelling in files (`lambda_`, a Python keyword, is `lambda`)."""
        return self.name.rstrip("_")

    @property
    def flag(self) -> str:
        """Spelling on the command line."""
        return "--" + self.key.replace("_", "-")


DATA, MODEL, REGULARIZER = "Data", "Model", "Regularizer"
OPTIMISATION, OUTPUT, HARDWARE = "Optimisation", "Output", "Hardware and reproducibility"


def option(
    default: Any,
    help: str,
    panel: str,
    *,
    choices: tuple[str, ...] | None = None,
    bounds: Bounds | None = None,
    words: tuple[str, ...] = (),
    identity: bool = True,
) -> Any:
    """A dataclass field that users may set; its type is the field's annotation."""
    meta = {"help": help, "panel": panel, "choices": choices, "bounds": bounds, "words": words, "identity": identity}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


def borrowed(parameters: tuple[Parameter, ...], panel: str, name: str, *, identity: bool = True) -> Any:
    """A field that passes a component's own parameter on: default, bounds and help come from the component."""
    p = next(parameter for parameter in parameters if parameter.name == name)
    text = p.help[0].upper() + p.help[1:]
    return option(p.default, text, panel, choices=p.choices, bounds=p.bounds, words=p.words, identity=identity)


def passed_on(parameters: tuple[Parameter, ...], panel: str, name: str) -> Any:
    """A field that passes a component's own parameter on only where it is set: other components may have it too."""
    p = next(parameter for parameter in parameters if parameter.name == name)
    text = p.help[0].upper() + p.help[1:]
    found = option(None, text, panel, choices=p.choices, bounds=p.bounds)
    return dataclasses.field(default=None, metadata=dict(found.metadata) | {"means": p.default})


def redefined(config: type[Any], name: str, default: Any) -> Any:
    """A field of a base class with another default."""
    item = next(item for item in dataclasses.fields(config) if item.name == name)
    return dataclasses.field(default=default, metadata=item.metadata)


@functools.cache
def options_of(config: type[Any]) -> tuple[Option, ...]:
    """The options of an experiment in the order of `--help`: the model first, and its weights last of it."""
    found = []
    for item in dataclasses.fields(config):
        note = str(item.type)
        default = item.default if item.default is not dataclasses.MISSING else item.default_factory()  # type: ignore[misc]
        meta = dict(item.metadata)
        kind = note.partition(" | ")[0]
        found.append(
            Option(
                item.name, "list" if kind == "list[str]" else kind, default, optional=note.endswith(" | None"), **meta
            )
        )
    panels = [MODEL, REGULARIZER, DATA, OPTIMISATION, OUTPUT, HARDWARE]
    return tuple(sorted(found, key=lambda o: (panels.index(o.panel), o.name == "pretrained")))
