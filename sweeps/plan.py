"""What a sweep will run: its trials in order, and what has become of them."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from regx.data import check as check_data
from regx.errors import RunFailed, UserError, did_you_mean
from regx.sweeps import distributions, trial
from regx.sweeps.definition import Sweep
from regx.sweeps.trial import Trial
from regx.training.folder import PRUNED, RunFolder

# Every how many of a long list of trials one is checked as a whole before anything runs.
CHECKED = 2000
# More runs than this are only begun after a question.
MANY = 1000

FINISHED, FAILED, UNFINISHED, NEW = "finished", "failed", "unfinished", "new"


def trials(sweep: Sweep, folder: Path) -> list[Trial]:
    """All trials of a grid or a random search, each once, in the order in which they run.

    A search by `bayes` is not known beforehand: of it, those that have been begun.

    Raises:
        UserError: no point fulfils the conditions, or one asks for what cannot be.
    """
    found: dict[str, Trial] = {}
    points = 0
    for point in _points(sweep, folder):
        made = expand(sweep, folder, point)
        points += any(item.key not in found for item in made)
        for item in made:
            same = found.setdefault(item.key, item)
            if same.label != item.label:
                raise UserError(f"{sweep.path}: {same.label!r} and {item.label!r} are the same run")
        if points == sweep.run_cap:
            break
    if not found and sweep.method != "bayes":
        raise UserError(f"{sweep.path}: no configuration fulfils the conditions of its sidecar")
    return _ordered(list(found.values()), sweep)


def expand(sweep: Sweep, folder: Path, point: dict[str, Any]) -> list[Trial]:
    """The trials of a point, one per seed.

    Raises:
        UserError: options of the point that exclude each other.
    """
    try:
        made = [trial.make(sweep, point, seed, folder) for seed in sweep.seeds()]
    except UserError as error:
        shown = ", ".join(f"{name}={value!r}" for name, value in point.items())
        raise UserError(f"{sweep.path}: {shown}: {error}") from None
    return [item for item in made if item is not None]


def _points(sweep: Sweep, folder: Path) -> Iterator[dict[str, Any]]:
    if sweep.method == "grid":
        return distributions.grid(sweep.parameters)
    if sweep.method == "random":
        draws = (distributions.random(sweep.parameters, 0, index) for index in itertools.count())
        # Of a small space with many conditions, the draws that fulfil them may never come.
        return itertools.islice(draws, 1000 * (sweep.run_cap or 1))
    # Of several seeds, each has a note of the same point.
    points = {json.dumps(note["point"], sort_keys=True): note["point"] for note in read_notes(folder, sweep.name)}
    return (point for point in points.values() if _within(sweep, point))


def _within(sweep: Sweep, parameters: dict[str, Any]) -> bool:
    """Whether a point of an earlier search lies in the space as it is now."""
    if parameters.keys() != sweep.parameters.keys():
        return False
    try:
        for name, distribution in sweep.parameters.items():
            distribution.position(parameters[name])
    except ValueError:
        return False
    return True


def _ordered(found: list[Trial], sweep: Sweep) -> list[Trial]:
    """Links trials that begin with another's weights to it, and puts them after it."""
    first = [item for item in found if trial.reference(item) is None]
    later = []
    for item in found:
        label = trial.reference(item)
        if label is None:
            continue
        same = [other for other in first if other.label == label and other.seed == item.seed and _beside(other, item)]
        if len(same) != 1:
            known = ", ".join(sorted({other.label for other in first if other.label}))
            raise UserError(f"{sweep.path}: pretrained: no trial is called {label!r}; there are: {known}")
        later.append(dataclasses.replace(item, after=same[0]))
    return first + later


def _beside(one: Trial, other: Trial) -> bool:
    """Whether two trials differ in nothing but what their labels stand for."""
    plain = [
        {key: value for key, value in item.parameters.items() if not isinstance(value, dict)} for item in (one, other)
    ]
    return plain[0] == plain[1]


def check(sweep: Sweep, found: list[Trial]) -> None:
    """Builds the configurations, as training would, and looks for the metric among what they log.

    Raises:
        UserError: with the file and the first trial that cannot be.
    """
    if sweep.method == "bayes":  # whose points are not known: one that might be
        found = [*found, *expand(sweep, Path(), distributions.random(sweep.parameters, 0, 0))]
    step = max(1, len(found) // CHECKED)
    for item in found[::step]:
        config = item.config()
        try:
            check_data(config.dataset, **config.data_options())
        except UserError as error:
            raise UserError(f"{sweep.path}: {item.describe()}: {error}") from None
        try:
            trial.check_metric(item, config)
        except UserError as error:
            sweep.document.fail(error.message, "metric", "name")
        rows = len({1, config.epochs, *range(config.log_every, config.epochs, config.log_every)})
        if sweep.early and sweep.early.bands[0] >= rows:
            first = f"first looks at row {sweep.early.bands[0]}"
            sweep.document.fail(f"hyperband {first} of a run's log, which has {rows}", "early_terminate")
    labels = {item.label for item in found}
    baseline = sweep.sidecar.baseline
    if baseline and labels != {None} and "=" not in baseline and baseline not in labels:
        known = sorted(label for label in labels if label)
        raise UserError(f"{sweep.path}: baseline: no row is called {baseline!r}{did_you_mean(baseline, known)}")


def state(item: Trial) -> tuple[str, dict[str, Any]]:
    """`finished`, `failed`, `unfinished` or `new`; and the result of one that has ended.

    A run that hyperband ended is unfinished for a sweep without hyperband.
    """
    if item.after is not None and state(item.after)[0] != FINISHED:
        return NEW, {}
    folder = RunFolder(item.place())
    result = folder.read_result()
    if result is None:
        return (UNFINISHED if folder.last.is_file() else NEW), {}
    if result.get("ended") == PRUNED and item.early is None:
        return UNFINISHED, {}
    return result["status"], result


def read_notes(folder: Path, sweep: str) -> list[dict[str, Any]]:
    """What the run folders of a sweep say of themselves.

    Raises:
        RunFailed: a file is corrupt.
    """
    found = []
    for path in sorted(folder.glob(f"*/{trial.FILE}")):
        try:
            note = json.loads(path.read_text())
        except json.JSONDecodeError:
            raise RunFailed(f"{path} is corrupt; delete it") from None
        if note.get("sweep") == sweep:
            found.append(note)
    return found


def counts(states: Iterable[str]) -> dict[str, int]:
    """How many trials are in which state."""
    return dict(Counter(states))
