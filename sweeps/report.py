"""How a sweep stands, as its driver tells whoever watches. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field

from regx.sweeps.engines import Progress
from regx.sweeps.trial import Trial


@dataclass
class Report:
    """How a sweep stands.

    Attributes:
        total: trials, as far as they are known.
        finished: trials that are done.
        found: how many of these were done before.
        failed: trial -> why.
        running: worker -> its trial and how far it is.
        best: the best trial so far and its value of the metric.
        seconds_left: an estimate, from the trials of this session.
        dismissed: worker -> why it takes no more work.
        ended: why nothing more is begun: ``, `interrupted`, `target`, `metric` or `workers`.
        why: more words on `ended`.
        pruned: trials that hyperband has ended, of the finished ones.
        warnings: what runs have said, each text once -> the first trial that said so.
    """

    total: int = 0
    finished: int = 0
    found: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    running: dict[str, tuple[Trial, Progress | None]] = field(default_factory=dict)
    best: tuple[Trial, float] | None = None
    seconds_left: float | None = None
    dismissed: dict[str, str] = field(default_factory=dict)
    ended: str = ""
    why: str = ""
    pruned: int = 0
    warnings: dict[str, str] = field(default_factory=dict)
