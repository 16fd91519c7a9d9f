"""The runs of a sweep, as tables see them: read from run folders, or made of what W&B has stored."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regx.errors import RunFailed, UserError, did_you_mean
from regx.training.config import RunConfig
from regx.training.experiments import from_dict
from regx.training.options import REGULARIZER, options_of

# A metric that each run has under a name of its own: the validation metric that it is judged by, and the same of test.
MONITORED, TESTED = "monitored", "tested"
# Status of a W&B run of which nothing was trained, as the sweep's conditions leave it out.
SKIPPED = "skipped by a condition"

_STATES = {
    "finished": "finished",
    "crashed": "failed",
    "failed": "failed",
    "killed": "interrupted",
    "preempted": "interrupted",
    "preempting": "interrupted",
}


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        status: finished, failed, interrupted, unfinished, not begun, or skipped by a condition.
        label: name of the technique, where the sweep names them.
        parameters: what the sweep set, nested names joined by dots, without the seed.
        seed: None where unknown.
        config: every option; of a run that has only just begun, or not even that, those that the sweep has set.
        best: row of the best epoch by `monitor`, and the test metrics of that epoch's weights; a number that could not
            be had is NaN.
        last: row of the last epoch.
        monitor: the validation metric that chose the best epoch (val/acc, val/r2); higher is better.
        ended: why it came to its end: epochs, stop_at, patience, early_terminate; None where unknown.
    """

    name: str
    status: str
    label: str | None
    parameters: dict[str, Any]
    seed: int | None
    config: dict[str, Any]
    best: dict[str, float]
    last: dict[str, float]
    monitor: str
    ended: str | None = None

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.status == "finished"

    def value(self, metric: str) -> float | None:
        """A metric at the best epoch; None where the run has none, or has NaN or infinity."""
        key = self.monitor if metric == MONITORED else metric
        if metric == TESTED:
            key = f"test/{self.monitor.partition('/')[2]}"
        value = self.best.get(key)
        return None if value is None or not math.isfinite(value) else float(value)

    def setting(self, name: str) -> Any:
        """What the run was done with: `label`, `technique`, a parameter of the sweep or an option; else None.

        Of a parameter like `technique.lambda` the last part will do, where no other parameter ends in it.
        """
        if name == "label":
            return self.label
        if name == "technique":
            return self.label or technique(self.config)
        if name in self.parameters:
            return self.parameters[name]
        ends = [key for key in self.parameters if key.endswith(f".{name}")]
        return self.parameters[ends[0]] if len(ends) == 1 else self.config.get(name)


def read(folder: Path) -> list[Run]:
    """Reads every run of a sweep, by name; a folder without trial.json belongs to no sweep and is left out.

    Raises:
        UserError: there is no such folder.
        RunFailed: a file in it is corrupt.
    """
    if not folder.is_dir():
        beside = [path.name for path in folder.parent.glob("*") if path.is_dir()]
        raise UserError(f"there is no folder {folder}{did_you_mean(folder.name, beside) if beside else ''}", "sweep")
    return [_read(path.parent) for path in sorted(folder.glob("*/trial.json"))]


def _read(folder: Path) -> Run:
    trial = _json(folder / "trial.json", "delete its folder and run the sweep again")
    done = {}
    if (folder / "result.json").is_file():
        done = _json(folder / "result.json", f"delete it and run `regx resume {folder}`")
    config = done.get("config") or _config(folder / "config.yaml")
    try:
        config = config or _planned(trial)
        return Run(
            name=folder.name,
            status=done.get("status", "unfinished"),
            label=trial.get("label"),
            parameters=dict(trial["parameters"]),
            seed=trial.get("seed", config.get("seed")),
            config=config,
            best=_numbers(done.get("best", {}) | done.get("test", {})),
            last=_numbers(done.get("last", {})),
            monitor=done.get("monitor", "val/acc"),
            ended=done.get("ended"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFailed(f"{folder} holds something else than regx writes: {error!r}; delete it") from error


def _json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        found = None
    except OSError as error:
        raise RunFailed(f"cannot read {path}: {error.strerror}") from None
    if not isinstance(found, dict):
        raise RunFailed(f"{path} is corrupt; {remedy}")
    return found


def _config(path: Path) -> dict[str, Any]:
    """Options of a run that has not ended: all that is needed is what it was done with, so they are not checked."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (yaml.YAMLError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise RunFailed(f"{path} is corrupt; delete its folder and run the sweep again")
    return found


def _planned(trial: dict[str, Any]) -> dict[str, Any]:
    """Options of a run without any file of its own: those that the sweep has set, and where possible all others."""
    options = dict(trial.get("options") or {})
    try:
        return from_dict(options, trial.get("experiment")).as_dict()
    except UserError:  # another version's, or of an experiment that nobody has noted
        return options


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """A row of metrics; JSON has no NaN, so null, or W&B's word, stands for it."""
    return {key: math.nan if value is None else float(value) for key, value in row.items()}


def from_wandb(rows: list[dict[str, Any]]) -> list[Run]:
    """Makes runs of what W&B has stored.

    The best row is that of the summary's `best/epoch`; without one, the first with the highest monitored metric. Test
    metrics are those of the summary. As W&B does not say what a sweep set, the parameters are all options that say what
    is trained (not where it is written). A finished run that has logged nothing was skipped by a condition.

    Args:
        rows: one mapping per run: `name`, `state`, `config`, `history` (rows as logged) and `summary`.
    """
    return [_from_wandb(row) for row in rows]


def _from_wandb(row: dict[str, Any]) -> Run:
    history = [_numbers(_only_numbers(entry)) for entry in row["history"]]
    summary = _only_numbers(row.get("summary") or {})
    config = {key: value for key, value in row["config"].items() if not key.startswith("_")}
    labels = [value["label"] for value in config.values() if isinstance(value, dict) and "label" in value]
    monitor = "val/acc" if any("val/acc" in entry for entry in history) else "val/r2"
    judged = [entry for entry in history if math.isfinite(entry.get(monitor, math.nan))]
    known = [entry for entry in history if "epoch" in entry and entry["epoch"] == summary.get("best/epoch")]
    best = known[0] if known else max(judged, key=lambda entry: entry[monitor], default={})
    test = {key: value for key, value in summary.items() if key.startswith("test/")}
    status = _STATES.get(row["state"], "unfinished")
    status = SKIPPED if status == "finished" and not history else status
    return Run(
        name=row["name"],
        status=status,
        label=" ".join(labels) or None,
        parameters={key: value for key, value in _what_is_trained(_flat(config)).items() if not key.endswith(".label")},
        seed=config.get("seed"),
        config=config,
        best=best | _numbers(test) if best else {},
        last=history[-1] if history else {},
        monitor=monitor,
        ended=(row.get("summary") or {}).get("ended"),
    )


def _only_numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Metrics of a row, without pictures and texts; where W&B sums up as {"max": x}, x."""
    plain = {
        key: next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else value
        for key, value in row.items()
    }
    return {
        key: value
        for key, value in plain.items()
        if isinstance(value, int | float) or value is None or value in ("NaN", "Infinity", "-Infinity")
    }


def _flat(config: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat


def _what_is_trained(config: dict[str, Any]) -> dict[str, Any]:
    unimportant = {option.name for option in options_of(RunConfig) if not option.identity} | {"seed"}
    return {key: value for key, value in config.items() if key not in unimportant}


def technique(config: dict[str, Any]) -> str:
    """Names the technique of a run that has no label, as Jumpstart's tables (IEEE Access 2025) do.

    Baseline, Jumpstart, Skip connections, BatchNorm, GELU; another regularizer by its own name. One whose strength is 0
    in every epoch is none: gates and masks too leave a network as it is without a strength. Where those tables leave
    out runs with several techniques, here they are named together: `Jumpstart + BatchNorm`.
    """
    asked = {key: config[key] for key in _penalty_options() if key in config}
    names = list(_acting(json.dumps(asked, default=str))) if config.get("regularizer") else []
    if config.get("skip_connections"):
        names.append("Skip connections")
    if config.get("batchnorm"):
        names.append("BatchNorm")
    if config.get("activation") == "gelu":
        names.append("GELU")
    return " + ".join(names) or "Baseline"


@functools.cache
def _penalty_options() -> list[str]:
    """Options that say which regularizers act, and how strongly."""
    return ["epochs", *(option.key for option in options_of(RunConfig) if option.panel == REGULARIZER)]


@functools.lru_cache(maxsize=4096)
def _acting(options: str) -> tuple[str, ...]:
    """Names of the regularizers that come to a strength above 0; a text that cannot be read stands for itself."""
    values = json.loads(options)
    try:
        penalties = from_dict(values, "rectangular").penalties()
    except UserError:
        return tuple(map(str, values["regularizer"]))
    names = [penalty.name for penalty in penalties if penalty.strength.peak > 0]
    return tuple("Jumpstart" if name == "jumpstart" else name for name in names)


def identity(value: Any) -> str:
    """What makes two values of a parameter the same: 0 is 0.0, and lists are compared by what they hold."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return json.dumps(value, sort_keys=True, default=str)


def placed(runs: Iterable[Run]) -> list[Run]:
    """The runs that make rows: none that a condition has skipped and, beside others, none of an unknown dataset."""
    runs = [run for run in runs if run.status != SKIPPED]
    return [run for run in runs if run.setting("dataset") is not None] or runs


def varying(runs: Iterable[Run]) -> list[str]:
    """Names of the parameters that are not the same in all runs, in the order of the sweep; `label` comes first."""
    runs = placed(runs)
    names = list(dict.fromkeys(["label", *(name for run in runs for name in run.parameters)]))
    return [name for name in names if len({identity(run.setting(name)) for run in runs}) > 1]


def check_setting(runs: list[Run], name: str, option: str) -> None:
    """Raises `UserError` for a name that no run has as a parameter or option."""
    if name not in ("label", "technique") and all(run.setting(name) is None for run in runs):
        known = dict.fromkeys(["technique", *varying(runs), *(key for run in runs for key in run.config)])
        raise UserError(f"no run has {name!r}{did_you_mean(name, known)}", option)


def check_metric(runs: list[Run], metric: str, option: str) -> None:
    """Raises `UserError` for a metric that no finished run has."""
    known = list(dict.fromkeys(key for run in runs if run.finished for key in run.best))
    if metric not in (MONITORED, TESTED, *known):
        raise UserError(f"no finished run has {metric!r}{did_you_mean(metric, known)}", option)


def title_of(runs: Iterable[Run], metric: str) -> str:
    """Name of a metric in a table: what `monitored` and `tested` stand for in these runs."""
    names = dict.fromkeys(run.monitor for run in runs if run.best)
    if metric == TESTED:
        names = dict.fromkeys(f"test/{name.partition('/')[2]}" for name in names)
    return " or ".join(names) if metric in (MONITORED, TESTED) and names else metric
