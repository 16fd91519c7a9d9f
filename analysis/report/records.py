"""What a report knows of a run: what tables know, and what else is in its folder."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from regx.analysis.runs import Run, identity
from regx.errors import RunFailed, UserError
from regx.training import experiments
from regx.training.folder import RunFolder
from regx.training.options import options_of

# What a metric is called in a sentence.
METRIC_WORDS = {"acc": "accuracy", "r2": "R²"}


@dataclass(frozen=True)
class Record:
    """A run and what its folder says beyond tables.

    Attributes:
        run: as tables see it.
        folder: its folder, which need not exist.
        result: of result.json, without the options; empty while there is none.
        env: of env.json: versions, commit, command line.
    """

    run: Run
    folder: Path
    result: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """How long it trained."""
        return self.result.get("seconds")

    @property
    def error(self) -> str:
        """Why it failed: the last line of what was written down."""
        return (str(self.result.get("error") or "").strip().splitlines() or [""])[-1]

    def last(self) -> float | None:
        """The validation metric of the last epoch."""
        value = self.run.last.get(self.run.monitor, math.nan)
        return value if math.isfinite(value) else None


def of_sweep(runs: Iterable[Run], folder: Path) -> list[Record]:
    """The records of a sweep's runs.

    Raises:
        RunFailed: a file is corrupt.
    """
    return [_record(run, folder / run.name) for run in runs]


def of_folders(paths: Sequence[Path]) -> list[Record]:
    """The records of run folders, and of all run folders within other folders; each is read once.

    What varies among them, of the options that decide what is computed, stands for a sweep's parameters.

    Raises:
        UserError: a path is neither.
        RunFailed: a file is corrupt.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"there is no folder {path}")
        inside = [path] if (path / "config.yaml").is_file() else sorted(p.parent for p in path.glob("*/config.yaml"))
        if not inside:
            raise UserError(f"{path} is no run folder and holds none: no config.yaml in it, nor in the folders in it")
        found |= {folder.resolve(): folder for folder in inside}
    records = [_record(_read(folder), folder) for folder in found.values()]
    names = _varying([record.run.config for record in records])
    return [
        replace(r, run=replace(r.run, parameters={key: r.run.config[key] for key in names if key in r.run.config}))
        for r in records
    ]


def check_one_task(records: Sequence[Record]) -> None:
    """Raises `UserError` where runs of classification and of regression would stand in one table."""
    count = Counter(record.run.monitor for record in records if record.run.best)
    if len(count) > 1:
        listed = " and ".join(f"{runs} by {monitor}" for monitor, runs in count.items())
        raise UserError(f"the runs have no metric in common: {listed}; classification and regression are two reports")


def _record(run: Run, folder: Path) -> Record:
    result = RunFolder(folder).read_result() or {}
    return Record(run, folder, {key: value for key, value in result.items() if key != "config"}, _environment(folder))


def _environment(folder: Path) -> dict[str, Any]:
    path = folder / "env.json"
    return _json(path) if path.is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):  # JSON and Unicode errors are ValueErrors
        raise RunFailed(f"{path} is corrupt; delete it") from None


def _read(path: Path) -> Run:
    folder = RunFolder(path)
    result = folder.read_result() or {}
    config = result.get("config") or experiments.read(folder.config)
    note = _json(path / "trial.json") if (path / "trial.json").is_file() else {}
    best = {key: _number(value) for key, value in (result.get("best", {}) | result.get("test", {})).items()}
    return Run(
        name=path.resolve().name,
        status=result.get("status", "unfinished"),
        label=note.get("label"),
        parameters={},
        seed=config.get("seed"),
        config=config,
        best=best,
        last={key: _number(value) for key, value in result.get("last", {}).items()},
        monitor=result.get("monitor", "val/acc"),
        ended=result.get("ended"),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _varying(configs: list[dict[str, Any]]) -> list[str]:
    """Options that decide what is computed and are not the same in all runs, in the order of `--help`."""
    kinds = dict.fromkeys(str(config.get("experiment")) for config in configs)
    options = [
        o for kind in kinds if kind in experiments.EXPERIMENTS for o in options_of(experiments.EXPERIMENTS[kind])
    ]
    names = [*(["experiment"] if len(kinds) > 1 else []), *dict.fromkeys(o.key for o in options if o.identity)]
    return [name for name in names if name != "seed" and len({identity(c.get(name)) for c in configs}) > 1]
