"""Which trials are trained together: a program is R runs that one worker trains as one, batched.

How a run is trained is its engine: `single` is the usual loop, run after run; `vectorised` trains programs in PyTorch,
`native` in C++. Runs that are alike but for numbers and seeds can be one program.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from regx.training.vectorised import grouping

if TYPE_CHECKING:
    from regx.sweeps.trial import Trial
    from regx.training.config import RunConfig

SINGLE, VECTORISED, NATIVE, AUTO = "single", "vectorised", "native", "auto"
# How `regx sweep plan` says that runs have a simpler engine than the one asked for.
INSTEAD = {SINGLE: "train one by one", VECTORISED: "train vectorised, not native"}


@dataclass(frozen=True)
class Program:
    """Trials that one worker trains together.

    Attributes:
        trials: at least one; more than one only if `engine` is not `single`.
        engine: `single`, `vectorised` or `native`.
    """

    trials: tuple[Trial, ...]
    engine: str = SINGLE

    def describe(self) -> str:
        """The program in a few words, for a line of progress."""
        first, last = self.trials[0].describe(), self.trials[-1].describe()
        return first if len(self.trials) == 1 else f"{len(self.trials)} runs: {first} ... {last}"

    def gpus(self) -> int:
        """The number of GPUs that a run of it asks for by `devices: N`."""
        return max(item.gpus() for item in self.trials)

    def without(self, key: str) -> Program:
        """The program of the other trials, which may be none."""
        return replace(self, trials=tuple(item for item in self.trials if item.key != key))


@dataclass(frozen=True)
class Choice:
    """How a trial is trained.

    Attributes:
        engine: `single`, `vectorised` or `native`.
        likeness: trials with the same can be one program; None: it is one alone.
        most: trials of such a program.
        reason: why it has not the engine that was asked for.
    """

    engine: str
    likeness: str | None = None
    most: int = 1
    reason: str = ""


@dataclass
class Planner:
    """Chooses engines, and puts trials together.

    Attributes:
        asked: `single`, `vectorised`, `native`, or `auto`: the fastest that can train a run, where its own options do
            not name an engine; None: what its options say, and alone.
    """

    asked: str | None = SINGLE
    _choices: dict[str, Choice] = field(default_factory=dict, repr=False)
    _most: dict[str, int] = field(default_factory=dict, repr=False)
    _seconds: dict[str, float | None] = field(default_factory=dict, repr=False)
    _no_native: str | None = field(default=None, repr=False)

    def choice(self, item: Trial) -> Choice:
        """How a trial is trained."""
        if item.key not in self._choices:
            self._choices[item.key] = self._choose(item)
        return self._choices[item.key]

    def _choose(self, item: Trial) -> Choice:
        wanted = self.asked
        if wanted in (AUTO, None):
            wanted = str(item.options.get("engine", AUTO if self.asked else SINGLE))
        if wanted == SINGLE:
            return Choice(SINGLE)
        config = item.config()
        engine, reason = self._engine(config, wanted)
        if engine == SINGLE or self.asked is None:
            return Choice(engine, reason=reason)
        likeness = grouping.likeness(config)
        if likeness not in self._most:
            self._most[likeness] = grouping.most_runs(config)
        self._seconds[item.key] = grouping.seconds(config, engine)
        return Choice(engine, likeness, self._most[likeness], reason)

    def _engine(self, config: RunConfig, wanted: str) -> tuple[str, str]:
        """The engine of a run, and why it is not the one that was wanted."""
        if wanted == AUTO and not grouping.pays(config):
            return SINGLE, ""
        reason = ""
        if wanted != VECTORISED:
            reason = grouping.native_obstacle(config) or ("" if self.asked is None else self._missing())
            if not reason:
                return NATIVE, ""
        alone = grouping.obstacle(config)
        return (SINGLE, alone) if alone else (VECTORISED, reason)

    def _missing(self) -> str:
        """Why this machine has no native engine, which is only found out where it matters: it may be built now."""
        if self._no_native is None:
            from regx.training.vectorised import native

            self._no_native = native.obstacle() or ""
        return self._no_native

    def programs(
        self, trials: Iterable[Trial], workers: int, apart: Callable[[Trial], Hashable] = lambda item: None
    ) -> list[Program]:
        """Puts trials together so that all workers are busy about equally long, in the order of the first of each.

        Args:
            trials: what is to be trained.
            workers: how many there are.
            apart: only trials with the same are put together.
        """
        found: list[Program] = []
        groups: dict[Hashable, list[Trial]] = {}
        order: dict[str, int] = {}
        for item in trials:
            order[item.key] = len(order)
            choice = self.choice(item)
            if choice.likeness is None:
                found.append(Program((self._with_engine(item, choice.engine),), choice.engine))
            else:
                groups.setdefault((choice.engine, choice.likeness, item.after is None, apart(item)), []).append(item)
        costs = self._costs(groups.values())
        for group, cost in zip(groups.values(), costs, strict=True):
            choice = self.choice(group[0])
            # A part for every worker's share; each in as many rounds as its runs take that fit at once.
            parts = min(len(group), math.ceil(workers * cost / sum(costs) - 1e-9))
            count = min(len(group), parts * math.ceil(len(group) / (parts * choice.most)))
            for piece in _pieces(group, count):
                found.append(Program(tuple(self._with_engine(item, choice.engine) for item in piece), choice.engine))
        return sorted(found, key=lambda program: order[program.trials[0].key])

    def _with_engine(self, item: Trial, engine: str) -> Trial:
        own = item.options.get("engine", SINGLE)
        # What auto is on another machine, that machine finds out.
        if own == engine or (self.asked is None and own == AUTO and engine != SINGLE):
            return item
        return replace(item, settings=item.settings | {"engine": engine})

    def _costs(self, groups: Collection[list[Trial]]) -> list[float]:
        """What groups take: seconds, or numbers of trials where the seconds of one are not known."""
        seconds = [self.seconds(group) for group in groups]
        known = [each for each in seconds if each is not None]
        return known if len(known) == len(groups) else [float(len(group)) for group in groups]

    def seconds(self, trials: Iterable[Trial]) -> float | None:
        """Rough estimate of how long these take on one core; None where nothing is known of one."""
        total = 0.0
        for item in trials:
            engine = self.choice(item).engine
            if item.key not in self._seconds:  # it is one alone
                self._seconds[item.key] = grouping.seconds(item.config(), engine)
            one = self._seconds[item.key]
            if one is None:
                return None
            total += one
        return total

    def reasons(self, trials: Iterable[Trial]) -> dict[str, int]:
        """Why trials have a simpler engine than the one asked for -> how many."""
        choices = [self.choice(item) for item in trials]
        return dict(Counter(f"{INSTEAD[choice.engine]}: {choice.reason}" for choice in choices if choice.reason))

    def summary(self, trials: Collection[Trial], workers: int) -> dict[str, Any]:
        """What programs trials are trained in, and roughly how long that takes.

        Returns:
            workers; seconds, on all workers; engines, each with its programs, runs, the runs of its smallest and
            largest program, and seconds on one core; reasons, as `reasons`. Seconds are None where nothing is known.
        """
        found = self.programs(trials, workers)
        times = [self.seconds(program.trials) for program in found]
        rows = []
        for engine in (NATIVE, VECTORISED, SINGLE):
            sizes = [len(program.trials) for program in found if program.engine == engine]
            if sizes:
                took = [each for program, each in zip(found, times, strict=True) if program.engine == engine]
                row = {"engine": engine, "programs": len(sizes), "runs": sum(sizes)}
                row |= {"smallest": min(sizes), "largest": max(sizes), "seconds": makespan(took, 1)}
                rows.append(row)
        counts = {"workers": workers, "seconds": makespan(times, workers)}
        return counts | {"engines": rows, "reasons": self.reasons(trials)}


def _pieces(group: list[Trial], count: int) -> list[list[Trial]]:
    """The group in so many pieces, of which none has two trials more than another."""
    size, more = divmod(len(group), count)
    ends = [size * number + min(number, more) for number in range(count + 1)]
    return [group[begin:end] for begin, end in itertools.pairwise(ends)]


def makespan(seconds: list[float | None], workers: int) -> float | None:
    """How long programs take that workers take on one after the other; None where one is not known."""
    ends = [0.0] * workers
    for each in seconds:
        if each is None:
            return None
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)
