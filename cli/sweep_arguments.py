"""What the commands of `regx sweep` have in common: their arguments, and the sweep that these stand for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from regx.cli import output
from regx.errors import UserError
from regx.sweeps import document, plan, registry
from regx.sweeps.definition import Sweep
from regx.sweeps.trial import Trial

Name = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP",
        help="Name of a sweep (`regx sweep list`), path of a YAML file, or the folder of one that was run.",
        autocompletion=lambda incomplete: [name for name in registry.names() if name.startswith(incomplete)],
    ),
]
RunDir = Annotated[Path, typer.Option("--run-dir", help="Parent of the sweep's folder.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="OPTION=VALUE",
        help="Set an option for all runs or, with a list as in 'depth=[10,50]', its grid. May be repeated.",
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", metavar="N|A,B", help="Train every configuration with N seeds (0, 1, ...), or with these."),
]
RunCap = Annotated[
    int | None, typer.Option("--run-cap", metavar="N", help="Most configurations, in the place of the file's run_cap.")
]
Format = Annotated[
    str, typer.Option("--format", "-f", metavar="table|json", help="How to print.", autocompletion=output.formats)
]


def read(name: str, changes: list[str] | None = None, seeds: str | None = None, run_cap: int | None = None) -> Sweep:
    """The sweep that a command line asks for."""
    if run_cap is not None and run_cap < 1:
        raise UserError(f"{run_cap} is not at least 1", "run_cap")
    return registry.load(name, _changes(changes or []), seeds=_seeds(seeds), run_cap=run_cap)


def _changes(texts: list[str]) -> dict[str, Any]:
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UserError(f"{text!r}: write OPTION=VALUE", "set")
        found[key.strip().lstrip("-")] = document.scalar(value)
    return found


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts) or (len(parts) == 1 and int(text) == 0):
        raise UserError(f"{text!r} is neither a number of seeds nor a list of them, as 1,2,3", "seeds")
    seeds = list(range(int(text))) if len(parts) == 1 else [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{text!r} names a seed twice", "seeds")
    return seeds


def known(sweep: Sweep, folder: Path) -> list[Trial]:
    """The sweep's trials, checked."""
    found = plan.trials(sweep, folder)
    plan.check(sweep, found)
    return found


def ran(name: str, run_dir: Path) -> tuple[Sweep, Path]:
    """A sweep as it was run last, with the changes of that command line, and its folder."""
    sweep = kept(name, run_dir)
    folder = registry.folder_of(sweep, run_dir)
    if not (folder / registry.KEPT).is_file() and folder.is_dir():
        return sweep, folder  # its runs were trained one by one
    if not (folder / registry.KEPT).is_file():
        raise UserError(f"{sweep.name} has not been run in {run_dir}; regx sweep run {name}, or another --run-dir")
    last = registry.load(str(folder))
    if sweep.document.value != last.document.value:
        print(f"{sweep.path} is not what was run last in {folder}, which is shown", file=sys.stderr)
    return last, folder


def kept(name: str, run_dir: Path) -> Sweep:
    """A sweep as it was run last, or as its file says."""
    folder = run_dir / name
    return registry.load(str(folder) if (folder / registry.KEPT).is_file() else name)
