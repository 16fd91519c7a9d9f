"""What regx raises when the fault is not in its code: each is one line that a person can act on."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A value that somebody typed cannot be used. Exit code 2.

    Args:
        message: what is wrong and what would work, in one line.
        option: name of the option or configuration key at fault, in Python spelling (`batch_size`).
    """

    exit_code = 2

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message if option is None else f"{option}: {message}")
        self.message = message
        self.option = option


class RunFailed(UserError):
    """The request was fine but could not be carried out (no network, corrupt file, NaN loss). Exit code 1."""

    exit_code = 1


class LostContact(RunFailed):
    """Another process of the run has died; the run goes on from its checkpoint. Exit code 75 (a temporary failure)."""

    exit_code = 75


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'moons'?"`, or the known names where none is near, or nothing where there are many."""
    known = list(known)
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if len(known) <= 12 else ""
