"""The text form `name(option=value, option=value)`, in which components are typed."""

import re

from regx.errors import UserError

_CLOSING = {"(": ")", "[": "]", "{": "}"}


def named(text: str, option: str) -> tuple[str, dict[str, str]]:
    """Reads `name` or `name(option=value, option=value)`: the name, and its options as they were written.

    Raises:
        UserError: the text has not this form.
    """
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", text, flags=re.DOTALL)
    if match is None:
        raise UserError(f"cannot read {text!r}; write name or name(option=value)", option)
    return match[1], options_in(match[2] or "", text, option)


def options_in(inside: str, text: str, option: str) -> dict[str, str]:
    """Reads what stands between the round brackets of `name(...)`; commas within brackets belong to a value.

    Args:
        inside: what stands there.
        text: the whole text, for messages.
        option: the option that the text is a value of, for messages.

    Raises:
        UserError: not of the form `option=value, option=value`, or an option is given twice.
    """
    given: dict[str, str] = {}
    for item in _split(inside, text, option):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value):
            raise UserError(f"cannot read {item.strip()!r} in {text!r}; write option=value", option)
        if key in given:
            raise UserError(f"{key!r} is given twice in {text!r}", option)
        given[key] = value
    return given


def _split(inside: str, text: str, option: str) -> list[str]:
    """Splits at the commas that no bracket encloses."""
    items, open_brackets, begin = [], [], 0
    for position, letter in enumerate(inside):
        if letter in _CLOSING:
            open_brackets.append(_CLOSING[letter])
        elif letter in _CLOSING.values():
            if not open_brackets or open_brackets.pop() != letter:
                raise UserError(f"cannot read {text!r}: the brackets do not match", option)
        elif letter == "," and not open_brackets:
            items.append(inside[begin:position])
            begin = position + 1
    if open_brackets:
        raise UserError(f"cannot read {text!r}: the brackets do not match", option)
    items.append(inside[begin:])
    return items if inside.strip() else []
