"""The regularizers: each is a penalty to add to the training loss, or a rule applied after every optimiser step.

    from regx.regularizers import Jumpstart, create
    regularizer = Jumpstart(model)                          # or
    regularizer = create("jumpstart(mode=unit)=0.01", model)

Importing this package or reading `REGISTRY.rows` does not import PyTorch; the first use of a class does.
"""

import importlib
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.errors import UserError
from regx.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from regx.regularizers.base import Coverage, Regularizer
    from regx.regularizers.jumpstart import Jumpstart
    from regx.regularizers.preactivations import Preactivations

__all__ = ["REGISTRY", "Coverage", "Jumpstart", "Preactivations", "Regularizer", "create", "parse"]

REGISTRY = Registry("regularizer", Path(__file__).parent, __name__)

_MODULES = {
    "Coverage": "regx.regularizers.base",
    "Jumpstart": "regx.regularizers.jumpstart",
    "Preactivations": "regx.regularizers.preactivations",
    "Regularizer": "regx.regularizers.base",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def parse(spec: str) -> tuple[str, dict[str, Any], float | None]:
    """Reads `name`, `name=1e-4` or `name(option=value, option=value)=1e-4`.

    Args:
        spec: what somebody typed.

    Returns:
        Name, options checked against the registry, and strength (`None` where none was given).

    Raises:
        UserError: the text does not have this form, or names a regularizer, option or value that does not exist, or the
            strength is not a finite number of at least 0.
    """
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*(?:=(.*))?", spec, flags=re.DOTALL)
    if match is None:
        raise UserError(f"cannot read {spec!r}; write name, name=0.01 or name(option=value)=0.01", "regularizer")
    name, inside, strength = match.groups()
    info = REGISTRY[name]
    options: dict[str, Any] = {}
    for item in inside.split(",") if inside and inside.strip() else []:
        option, equals, value = (part.strip() for part in item.partition("="))
        if not (option and equals and value):
            raise UserError(f"cannot read {item.strip()!r} in {spec!r}; write option=value", "regularizer")
        if option in options:
            raise UserError(f"{option!r} is given twice in {spec!r}", "regularizer")
        options[option] = value
    return name, info.check(options), None if strength is None else _strength(strength.strip(), spec)


def create(spec: str, model: "nn.Module") -> "Regularizer":
    """Attaches the regularizer that `spec` describes to `model`.

    Args:
        spec: as `parse` reads it, for instance `"jumpstart(mode=unit, sign_balance=0.51)=0.01"`.
        model: the model.

    Returns:
        The regularizer; its `strength` is the one of `spec`, or 1.

    Raises:
        UserError: as `parse`, or the model has nothing that this regularizer could reach.
    """
    name, options, strength = parse(spec)
    regularizer = REGISTRY[name].load()(model, **options)
    if strength is not None:
        regularizer.strength = strength
    return regularizer


def _strength(text: str, spec: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value >= 0 and math.isfinite(value)):
        raise UserError(f"strength {text!r} in {spec!r} is not a finite number of at least 0", "regularizer")
    return value
