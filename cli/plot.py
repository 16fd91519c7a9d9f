"""`regx plot`: figures of runs and sweeps as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regx.errors import UserError, did_you_mean


def _kinds(incomplete: str) -> list[str]:
    from regx.analysis.figures import KINDS

    return [name for name in KINDS if name.startswith(incomplete)]


def plot(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[KIND] PATH...",
            help="Folder of a sweep, or folders of runs. Before it the kind of figure, else all that these runs can"
            " give: learning-curves, box-plots, heat-map, frontier, status-layers, status-epochs, loss-curves,"
            " penalty-curves, penalty-parts, sparsity-layers, weight-sizes, group-norms, gate-probabilities.",
            autocompletion=_kinds,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write (default: figures/ in the first PATH).")
    ] = None,
    theme: Annotated[str, typer.Option("--theme", metavar="light|dark|both", help="Background.")] = "light",
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
) -> None:
    """Draw runs: curves, boxes, heat-maps, frontiers, status of units, zeros, weights, gates.

    Each figure is a PNG, an SVG, and a CSV of what is drawn.
    """
    from regx.analysis.figures import FORMATS, check_look, figures, read_runs, save_all

    formats = format or FORMATS
    check_look(theme, formats)
    kind, paths = _kind(what)
    found = figures(*read_runs(paths), kind, metric)
    if not found:
        raise UserError("these runs hold nothing to draw")
    for path in save_all(found, out or paths[0] / "figures", theme, formats):
        print(path)


def _kind(what: list[str]) -> tuple[str | None, list[Path]]:
    """The kind of figure, where the first word is one, and the paths."""
    from regx.analysis.figures import KINDS, check_kind

    first, *others = what
    if Path(first).is_dir() and first not in KINDS:
        return None, [Path(text) for text in what]
    if first in KINDS and not others:
        raise UserError(f"{first} of what? Give the folder of a sweep, or of runs, after it")
    if len(Path(first).parts) > 1 or not others:  # rather a path than a word
        near = did_you_mean(first, KINDS) if len(Path(first).parts) == 1 else ""
        raise UserError(f"there is no folder {first}{near}")
    check_kind(first)
    return first, [Path(text) for text in others]
