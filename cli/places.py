"""What people name when they look at runs: paths, or names of what lies in the parent of run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regx.errors import UserError, did_you_mean
from regx.sweeps import registry

RunDir = Annotated[Path, typer.Option("--run-dir", metavar="DIR", help="Where folders are that are given by name.")]


def is_sweep(name: str, run_dir: Path) -> bool:
    """Whether a single argument stands for a sweep: its folder, its file, or a name that is no run's."""
    path = Path(name)
    if (path / registry.KEPT).is_file() or path.is_file():
        return True
    if not path.is_dir():
        is_file = path.suffix in (".yaml", ".yml")
        return is_file or (len(path.parts) == 1 and not (run_dir / path / "config.yaml").is_file())
    return name in registry.files() and not any(path.glob("*/config.yaml")) and not (path / "config.yaml").is_file()


def folder(text: str, run_dir: Path) -> Path:
    """The folder of a path or, where there is none, the one of that name in `run_dir`.

    Raises:
        UserError: there is neither.
    """
    path = Path(text).expanduser()
    for found in (path, run_dir / path):
        if found.is_dir():
            return found
    if path.is_file():
        raise UserError(f"{text} is a file; give the folder of a run or a sweep")
    named = len(path.parts) == 1
    parent = run_dir if named else path.parent
    near = did_you_mean(path.name, [other.name for other in parent.glob("*/")]) if parent.is_dir() else ""
    where = f", neither here nor in {run_dir}" if named else ""
    raise UserError(f"there is no folder {text}{where}{near if near.endswith('?') else ''}")


def runs_in(path: Path) -> list[Path]:
    """A run folder itself, or the run folders in a folder.

    Raises:
        UserError: it is neither.
    """
    if (path / "config.yaml").is_file():
        return [path]
    if found := sorted(config.parent for config in path.glob("*/config.yaml")):
        return found
    raise UserError(f"{path} is no run folder and holds none: no config.yaml in it, nor in the folders in it")
