"""What somebody gives as paths: run folders, the folder of a sweep, or several of both."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from regx.analysis import runs as sweeps
from regx.analysis.runs import Run
from regx.errors import RunFailed, UserError
from regx.training.config import RunConfig
from regx.training.folder import RunFolder
from regx.training.options import options_of


def read_runs(paths: Sequence[Path]) -> tuple[list[Run], Path]:
    """The runs of these folders, and the folder that their names are relative to.

    A run of no sweep has all options as its parameters that say what is trained.

    Raises:
        UserError: a path is no folder of runs.
        RunFailed: a file in it is corrupt.
    """
    found: list[tuple[Path, Run]] = []
    for path in paths:
        if not path.is_dir():
            raise UserError(f"there is no folder {path}")
        if (path / "config.yaml").is_file() or (path / "trial.json").is_file():
            found.append((path, _run(path)))
            continue
        beneath = [run for run in sorted(path.iterdir()) if (run / "config.yaml").is_file()]
        if not beneath:
            raise UserError(f"{path} is no run folder (it has no config.yaml) and holds none")
        known = {run.name: run for run in sweeps.read(path)}
        found += [(folder, known.get(folder.name) or _run(folder)) for folder in beneath]
    unique = {folder.resolve(): run for folder, run in found}
    base = Path(os.path.commonpath([folder.parent for folder in unique]))
    return [replace(run, name=os.path.relpath(folder, base)) for folder, run in unique.items()], base


def _run(folder: Path) -> Run:
    """A run by itself, of a sweep or not."""
    run = RunFolder(folder)
    done = run.read_result() or {}
    config: dict[str, Any] = done.get("config") or run.read_config().as_dict()
    unimportant = {option.key for option in options_of(RunConfig) if not option.identity} | {"seed"}
    options = {key: value for key, value in config.items() if key not in unimportant}
    try:
        trial = json.loads((folder / "trial.json").read_text()) if (folder / "trial.json").is_file() else {}
        return Run(
            name=folder.name,
            status=done.get("status", "unfinished"),
            label=trial.get("label"),
            parameters=dict(trial.get("parameters", options)),
            seed=config.get("seed"),
            config=config,
            best=_numbers(done.get("best", {}) | done.get("test", {})),
            last=_numbers(done.get("last", {})),
            monitor=done.get("monitor", "val/acc"),
            ended=done.get("ended"),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise RunFailed(f"{folder} holds something else than regx writes: {error!r}; delete it") from error


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: math.nan if value is None else float(value) for key, value in row.items()}
