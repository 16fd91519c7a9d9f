"""A trial carried out in this process."""

from regx.sweeps import work
from regx.sweeps.programs import Program
from regx.sweeps.trial import Trial
from regx.sweeps.work import Outcome


def carried_out(item: Trial) -> Outcome:
    """The outcome of a trial in a program of its own."""
    found: list[Outcome] = []
    work.carry_out(Program((item,)), "w", found.append)
    (only,) = found
    return only
