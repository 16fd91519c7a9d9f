"""`regx plot`: figures of runs and sweeps as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regx.analysis.figures.kinds import KINDS, check_kind
from regx.cli import places
from regx.cli.places import RunDir
from regx.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from regx.analysis.runs import Run

_ASKED = [name for name, kind in KINDS.items() if kind.asked]
_DESCRIBED = [f"  {name}: {kind.about}{' *' * kind.asked}" for name, kind in KINDS.items()]
EPILOG = "\n\n".join(
    ["Kinds of figures:", *_DESCRIBED, "* drawn only where they are asked for, as the networks are run again"]
)


def _kinds(incomplete: str) -> list[str]:
    return [name for name in KINDS if name.startswith(incomplete)]


def plot(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[KIND] FOLDER...",
            help="Folder or name of a sweep, or run folders. Before it the kind of figure, else all that these runs can"
            f" give (but for {' and '.join(_ASKED)}): {', '.join(KINDS)}.",
            autocompletion=_kinds,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to write (default: figures/ in FOLDER; of several, here)."),
    ] = None,
    theme: Annotated[
        str | None, typer.Option("--theme", metavar="light|dark|both", help="Background (default: light).")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="KEY",
            help="What runs are judged by, as metrics.csv calls it (default: the test or validation metric).",
        ),
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", metavar="png|svg|csv", help="What to write; may be repeated (default: all)."),
    ] = None,
    animate: Annotated[
        bool,
        typer.Option(
            "--animate", help="Instead, join the pictures that a run with --plot-status has drawn to animated GIFs."
        ),
    ] = False,
    run_dir: RunDir = Path("runs"),
) -> None:
    """Draw runs: curves, boxes, heat-maps, frontiers, status of units, zeros, weights, gates.

    Each figure is a PNG, an SVG, and a CSV of what is drawn.
    """
    kind, folders = _kind(what, run_dir)
    target = out or (folders[0] / "figures" if len(folders) == 1 else Path("figures"))
    if animate:
        _check_alone({"theme": theme, "metric": metric, "format": format}, kind, folders)
        from regx.analysis.figures.animation import animate as joined

        written: Iterator[Path] = joined(folders[0], target)
    else:
        from regx.analysis.figures import FORMATS, check_look, figures, read_runs, save_all

        theme, formats = theme or "light", format or FORMATS
        check_look(theme, formats)
        runs, base = read_runs(folders)
        found = figures(_in_order(runs, base, folders), base, kind, metric)
        if not found:
            raise UserError("these runs hold nothing to draw")
        written = save_all(found, target, theme, formats)
    for path in written:
        print(path)


def _in_order(runs: list[Run], base: Path, folders: list[Path]) -> list[Run]:
    """The runs of a sweep in its order, the baseline first; others as they are."""
    from regx.cli.sweep_results import names_of_runs
    from regx.sweeps import registry

    names = [
        (folder / name).resolve()
        for folder in folders
        if (folder / registry.KEPT).is_file()
        for name in names_of_runs(registry.load(str(folder)), folder)
    ]
    order = {name: place for place, name in enumerate(names)}
    return sorted(runs, key=lambda run: order.get((base / run.name).resolve(), len(order)))


def _check_alone(options: dict[str, object], kind: str | None, folders: list[Path]) -> None:
    """Raises `UserError` for what has no meaning beside --animate."""
    given = [f"--{name}" for name, value in options.items() if value] + ([kind] if kind else [])
    if given:
        raise UserError(f"joins pictures as they are and takes no {given[0]}", "animate")
    if len(folders) > 1 or not (folders[0] / "config.yaml").is_file():
        raise UserError("takes the folder of one run", "animate")


def _kind(what: list[str], run_dir: Path) -> tuple[str | None, list[Path]]:
    """The kind of figure, where the first word is one, and the folders."""
    first, *others = what
    if first in KINDS and others:
        return first, [places.folder(text, run_dir) for text in others]
    if len(Path(first).parts) == 1 and not any((parent / first).is_dir() for parent in (Path(), run_dir)):
        if first in KINDS:
            raise UserError(f"{first} of what? Give the folder of a sweep, or of runs, after it")
        if others:  # rather a word than a path
            check_kind(first)
        if (near := did_you_mean(first, KINDS)).endswith("?"):
            raise UserError(f"there is no folder {first}{near}")
    return None, [places.folder(text, run_dir) for text in what]
