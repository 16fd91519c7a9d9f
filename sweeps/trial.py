"""One run of a sweep: its configuration, its folder, and how it is carried out, wherever that is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.errors import RunFailed, UserError
from regx.sweeps.definition import LABEL, Metric, Sweep, bundle, leaf
from regx.sweeps.hyperband import Hyperband
from regx.sweeps.sidecar import Sidecar
from regx.training import launch
from regx.training.config import RunConfig
from regx.training.experiments import EXPERIMENTS, from_dict
from regx.training.folder import PRUNED, RunFolder, to_json, write_atomically
from regx.training.options import options_of

if TYPE_CHECKING:
    from regx.training.experiment import Observer

# What a run folder of a sweep holds besides a run's own files.
FILE = "trial.json"
# Seconds between two looks at the other runs, for hyperband.
ASK_EVERY = 5.0
# Seconds between two looks at the processes of a run.
LOOK_EVERY = 0.2


@dataclass(frozen=True)
class Trial:
    """A configuration of a sweep and a seed.

    Attributes:
        sweep: name of the sweep.
        experiment: `rectangular` or `resnet`.
        label: what tables call it, where its parameters have a label.
        parameters: the sweep's parameters, without the seed.
        options: options of the run that these stand for, with the seed.
        folder: parent of its run folder.
        key: identity within the sweep, which asks for no other run's weights.
        metric: what hyperband looks at.
        early: hyperband.
        after: the trial with whose best weights it begins.
        settings: options that say where it is logged.
        telling: parameters that are not the same in all trials.
        wandb_sweep: id of the sweep on a W&B server, for runs that are tracked.
    """

    sweep: str
    experiment: str
    label: str | None
    parameters: dict[str, Any]
    options: dict[str, Any]
    folder: Path
    key: str
    metric: Metric | None = None
    early: Hyperband | None = None
    after: Trial | None = None
    settings: dict[str, Any] = field(default_factory=lambda: {"wandb": "disabled"})
    telling: tuple[str, ...] = ()
    wandb_sweep: str | None = None

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.options["seed"]

    def gpus(self) -> int:
        """The number of GPUs that the run asks for by `devices: N`."""
        devices = str(self.options.get("devices", ""))
        return int(devices) if devices.isdigit() else 0

    def config(self) -> RunConfig:
        """The run's configuration.

        Raises:
            UserError: options that exclude each other.
        """
        options = self.options | self.settings | {"run_dir": str(self.folder), "group": self.sweep}
        if self.after is not None:
            options["pretrained"] = str(self.after.place() / "checkpoints" / "best.pt")
        return from_dict(options, self.experiment)

    def place(self) -> Path:
        """Its run folder; only certain once the trial that it comes after has finished."""
        return self.folder / self.config().run_name()

    def describe(self) -> str:
        """The trial in a few words, for a line of progress."""
        words = [self.label] if self.label else []
        for key, value in ((key, self.parameters[key]) for key in self.telling if key in self.parameters):
            shown = {leaf(key): value} if not isinstance(value, dict) else {} if LABEL in value else value
            words += [f"{name}={_short(item)}" for name, item in shown.items() if name != "seed"]
        return " ".join([*words, f"seed={self.seed}"])

    def leave_note(self) -> None:
        """Writes `trial.json` into the run folder, by which the tables know the run.

        Raises:
            RunFailed: it cannot be written.
        """
        path, text = self.place() / FILE, to_json(self.note())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.read_text(encoding="utf-8") != text:  # a label may have changed
                write_atomically(path, text)
        except OSError as error:
            raise RunFailed(f"cannot write {path}: {error.strerror}") from None

    def note(self) -> dict[str, Any]:
        """What trial.json holds."""
        return {
            "sweep": self.sweep,
            "experiment": self.experiment,
            "key": self.key,
            "label": self.label,
            "parameters": {key: value for key, value in flat(self.parameters).items() if leaf(key) != "seed"},
            "seed": self.seed,
            "options": self.options,
            "point": self.parameters,
        }


def make(sweep: Sweep, parameters: dict[str, Any], seed: int | None, folder: Path) -> Trial | None:
    """The trial of a point of the sweep's space; None where a condition of the sidecar leaves it out.

    Raises:
        UserError: options that exclude each other.
    """
    telling = tuple(name for name, distribution in sweep.parameters.items() if distribution.size() != 1)
    more = {"metric": sweep.metric, "early": sweep.early, "telling": telling}
    more |= {"settings": sweep.settings, "wandb_sweep": sweep.wandb_sweep}
    return build(sweep.name, sweep.experiment, sweep.sidecar, parameters, seed, folder, **more)


def build(
    sweep: str,
    experiment: str,
    notes: Sidecar,
    parameters: dict[str, Any],
    seed: int | None,
    folder: Path,
    **more: Any,
) -> Trial | None:
    """The trial of some parameters; None where a condition leaves it out.

    Args:
        sweep: its name.
        experiment: `rectangular` or `resnet`.
        notes: with conditions.
        parameters: their values by name.
        seed: None where the parameters have one, or the default shall do.
        folder: parent of the run folder.
        more: further fields of the trial.

    Raises:
        UserError: options that exclude each other.
    """
    labels = [value[LABEL] for value in parameters.values() if isinstance(value, dict) and LABEL in value]
    named = {LABEL: " ".join(labels) or None}
    parameters = _applying(parameters, notes, experiment, named)
    options = _options(parameters) | ({} if seed is None else {"seed": seed})
    # First what the options say by themselves: a condition may leave out what would be no configuration at all.
    told = [condition for condition in notes.where if condition.names() <= {*options, LABEL}]
    if not all(condition.holds(options | named) for condition in told):
        return None
    config = from_dict(options, experiment)
    values = config.as_dict()
    if not all(condition.holds(values | named) for condition in notes.where):
        return None
    options["seed"] = values["seed"]
    key = hashlib.sha256(json.dumps(config.identity(), sort_keys=True).encode()).hexdigest()[:16]
    return Trial(sweep, experiment, named[LABEL], parameters, options, folder, key, **more)


def _applying(parameters: dict[str, Any], notes: Sidecar, experiment: str, named: dict[str, Any]) -> dict[str, Any]:
    """The parameters whose conditions hold; one that is left out may be asked for by another's condition."""
    defaults = {option.key: option.default for option in options_of(EXPERIMENTS[experiment])}
    while True:
        values = defaults | _options(parameters) | named
        kept = {
            name: value
            for name, value in parameters.items()
            if name not in notes.when or notes.when[name].holds(values)
        }
        if kept == parameters:
            return parameters
        parameters = kept


def _options(parameters: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parameters.items():
        options |= bundle(value) if isinstance(value, dict) else {leaf(name): value}
    return options


def flat(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters with the options of a bundle under names of their own (`technique.lambda`), without its label."""
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        inside = {f"{name}.{key}": item for key, item in bundle(value).items()}
        found |= inside if isinstance(value, dict) else {name: value}
    return found


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) < 40 else text[:37] + "..."


def reference(trial: Trial) -> str | None:
    """The label of the trial with whose weights this one begins: `pretrained: "{label}"`."""
    match = re.fullmatch(r"\{(.+)\}", str(trial.options.get("pretrained", "")))
    return match[1] if match else None


def carry_out(trial: Trial, observer: Observer, argv: list[str]) -> dict[str, Any]:
    """Trains, or goes on from a checkpoint, or finds that it is done; returns `result.json`.

    Raises:
        UserError: the configuration asks for what cannot be.
        RunFailed: it cannot be carried out here; `regx.training.folder.InUse` while another process trains it.
    """
    from regx.training import experiment

    config, folder = trial.config(), _prepare(trial)
    if launch.processes(config.devices) > 1:
        return _launch(config, folder, trial)
    more: dict[str, Any] = {"end": pruner(trial)} if trial.early else {}
    more |= {"sweep": trial.wandb_sweep, "point": trial.parameters}
    return experiment.run(config, observer, argv=argv, folder=folder, **more)


def carry_out_together(
    trials: Sequence[Trial],
    observers: Sequence[Observer],
    argv: list[str],
    ended: Callable[[int, dict[str, Any] | Exception], None],
) -> None:
    """Does for several trials, trained as one program, what `carry_out` does for one.

    Args:
        trials: with an engine that trains programs.
        observers: one for each.
        argv: the command line, for env.json.
        ended: called once for each, with its number and `result.json` or why there is none, as soon as it has ended.
    """
    from regx.training.vectorised.runs import Wanted, run_together

    wanted, numbers = [], []
    for number, (trial, observer) in enumerate(zip(trials, observers, strict=True)):
        try:
            folder = _prepare(trial)
            if result := folder.read_result():
                ended(number, result)
                continue
            end = pruner(trial) if trial.early else _never
            more: dict[str, Any] = {"end": end, "sweep": trial.wandb_sweep, "point": trial.parameters}
            wanted.append(Wanted(trial.config(), folder, observer, **more))
            numbers.append(number)
        except UserError as error:
            ended(number, error)
    if wanted:
        run_together(wanted, argv=argv, ended=lambda index, how: ended(numbers[index], how))


def _never(row: dict[str, float]) -> None:
    """Ends no run."""


def _prepare(trial: Trial) -> RunFolder:
    """The run folder, with the trial's note; a run that hyperband has ended goes on where there is none."""
    folder = RunFolder(trial.place())
    trial.leave_note()
    result = folder.read_result()
    if result is not None and result.get("ended") == PRUNED and trial.early is None:
        folder.result.unlink()
    return folder


def _launch(config: RunConfig, folder: RunFolder, trial: Trial) -> dict[str, Any]:
    """Trains in several processes, which a command of its own starts: their launcher wants to be a main program."""
    if trial.early:
        raise UserError("early_terminate is for runs of one process", "devices")
    with folder.held():  # or somebody else trains it
        write_atomically(folder.config, config.as_yaml())
    command = [sys.executable, "-m", "regx", "resume", str(folder.path), "--format", "json"]
    parent = os.getppid()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors) as process,
    ):
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while process.poll() is None:
                if os.getppid() != parent:  # nobody is left to work for
                    process.terminate()
                time.sleep(LOOK_EVERY)
        finally:
            signal.signal(signal.SIGTERM, before)
        errors.seek(0)
        said = errors.read()
    if result := folder.read_result():
        return result
    if process.returncode == 130:
        return {"status": "interrupted", "run_dir": str(folder.path)}
    raise RunFailed((said.strip().splitlines() or [f"exit code {process.returncode}"])[-1])


def pruner(trial: Trial) -> Callable[[dict[str, float]], str | None]:
    """Decides after every row whether hyperband ends the run: it reads what the other runs of the sweep have logged."""
    metric, early = trial.metric, trial.early
    assert metric is not None and early is not None
    own = trial.place()
    asked = 0.0

    def end(row: dict[str, float]) -> str | None:
        nonlocal asked
        history = read_history(own, metric.name)
        # As W&B does, which asks again and again: the others may have come to this band only now.
        if len(history) not in early.bands and time.monotonic() - asked < ASK_EVERY:
            return None
        asked = time.monotonic()
        others = [path.parent for path in trial.folder.glob("*/metrics.csv") if path.parent != own]
        histories = [read_history(path, metric.name) for path in others if _peers(path, trial)]
        return PRUNED if early.stops(history, histories, metric.goal) else None

    return end


def _peers(folder: Path, trial: Trial) -> bool:
    """Whether a run has what all runs of the sweep have in common: an earlier definition may have been another's."""
    try:
        point = json.loads((folder / FILE).read_text(encoding="utf-8"))["point"]
    except (OSError, ValueError, KeyError):
        return False
    return all(point.get(key) == value for key, value in trial.parameters.items() if key not in trial.telling)


def read_history(folder: Path, key: str) -> list[float]:
    """What a run has logged of a number so far; a line that is still being written is left out."""
    import csv

    try:
        with (folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        return []
    return [float(row[key]) for row in rows if row.get(key) and None not in row.values()]


def check_metric(trial: Trial, config: RunConfig) -> None:
    """Raises `UserError` where the run would never log the sweep's metric."""
    from regx.errors import did_you_mean
    from regx.training import log_keys

    if trial.metric is None:
        return
    known = log_keys.logged(config)
    if trial.metric.name not in known:
        stage = trial.metric.name.partition("/")[0]
        if stage == "test":
            raise UserError(f"{trial.metric.name} is measured once, at the end; search by a metric of validation rows")
        near = did_you_mean(trial.metric.name, known) or "; known: val/acc, val/loss, ..."
        raise UserError(f"{trial.describe()} never logs {trial.metric.name!r}{near}")
