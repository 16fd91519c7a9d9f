"""One description of a value that a user may set: its type, default, bounds, choices and help.

Experiment configurations, regularizers, datasets, models and schedules all describe their options this way, and the
command line, the configuration files, `regx show` and the README tables are made from the descriptions.
"""

import math
from dataclasses import dataclass
from typing import Any

from regx.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Bounds:
    """Closed interval of allowed numbers, used as `Annotated[float, Bounds(0, 1)]`; `None` leaves a side open.

    `above` is an exclusive lower bound: `Bounds(above=0)` means x > 0.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{_short(self.low)} to {_short(self.high)}"
        sides = []
        if self.above is not None:
            sides.append(f"above {_short(self.above)}")
        if self.low is not None:
            sides.append(f"at least {_short(self.low)}")
        if self.high is not None:
            sides.append(f"at most {_short(self.high)}")
        return ", ".join(sides)

    def hold(self, value: float) -> bool:
        """Whether `value` lies within the bounds (NaN never does)."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        ) and not math.isnan(value)


def _short(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:g}"


@dataclass(frozen=True)
class Parameter:
    """A value that a user may set.

    Attributes:
        name: Python name (`batch_size`); the command line shows it as `--batch-size`.
        type: `int`, `float`, `bool`, `str`, or `list` (of strings).
        default: value when nothing is set; `None` where that is allowed.
        help: one sentence for a researcher.
        choices: the allowed strings, if only some are.
        bounds: the allowed numbers, if only some are.
        optional: whether `None` is a legal value.
        words: strings that are legal beside numbers (`full` for a batch size).
    """

    name: str
    type: str
    default: Any = None
    help: str = ""
    choices: tuple[str, ...] | None = None
    bounds: Bounds | None = None
    optional: bool = False
    words: tuple[str, ...] = ()

    def check(self, value: Any) -> Any:
        """Returns `value` in the parameter's type.

        Strings from a command line or a configuration file are converted where that loses nothing.

        Raises:
            UserError: wrong type, out of bounds, or not among the choices; it names the value and what would work.
        """
        if self.optional and self.type != "str" and isinstance(value, str) and value.lower() in ("none", "null"):
            return None
        if value is None:
            if self.optional:
                return None
            raise UserError(f"needs a value ({self.allowed()})", self.name)
        if isinstance(value, str) and value in self.words:
            return value
        given, value = value, self._converted(value)
        if self.choices and value not in self.choices:
            raise UserError(f"{value!r} is not among its choices{did_you_mean(str(value), self.choices)}", self.name)
        if self.bounds and not isinstance(value, str | list) and not self.bounds.hold(value):
            raise UserError(f"{given} is out of bounds; use {self.allowed()}", self.name)
        return value

    def allowed(self) -> str:
        """Says in words which values are legal."""
        if self.choices:
            return " | ".join(self.choices)
        noun = {
            "int": "a whole number",
            "float": "a number",
            "bool": "true or false",
            "str": "text",
            "list": "a list of text",
        }[self.type]
        text = f"{noun} {self.bounds}" if self.bounds else noun
        words = [*(repr(word) for word in self.words), *(["none"] if self.optional and self.type != "str" else [])]
        return " or ".join([text, *words])

    def _converted(self, value: Any) -> Any:
        wrong = UserError(f"{value!r} is not {self.allowed()}", self.name)
        if self.type == "bool":
            if isinstance(value, bool):
                return value
            if isinstance(value, str) and value.lower() in ("true", "false"):
                return value.lower() == "true"
            raise wrong
        if self.type == "list":
            if isinstance(value, str):
                return [value]
            if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
                return list(value)
            raise wrong
        if self.type == "str":
            if isinstance(value, str):
                return value
            raise wrong
        if isinstance(value, bool):
            raise wrong
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise wrong from None
        if self.type == "int":
            if not number.is_integer():
                raise wrong
            return int(value) if isinstance(value, str) and value.lstrip("+-").isdigit() else int(number)
        if not math.isfinite(number):
            raise wrong
        return number


def check_options(owner: str, parameters: tuple[Parameter, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Returns `options` checked against `parameters`.

    Raises:
        UserError: an option that `owner` does not have (with the nearest name), or a value that is not legal.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for name in options:
        if name not in known:
            raise UserError(f"{owner} has no option {name!r}{did_you_mean(name, known)}")
    return {name: known[name].check(value) for name, value in options.items()}
