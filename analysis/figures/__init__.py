"""Figures of many runs and of one, each defined once: for `regx plot`, which writes files, and for reports in HTML.

A figure is a Vega-Lite specification with its data inline; colours of a theme are in `THEMES`, not in the figure.
Nothing heavy is imported before a figure is made.
"""

from __future__ import annotations

from pathlib import Path

from regx.analysis.figures.figure import FORMATS, WIDTH, Figure, check_look, save, save_all, titled
from regx.analysis.figures.folders import read_runs
from regx.analysis.figures.kinds import KINDS, check_kind, figures
from regx.analysis.figures.theme import THEMES
from regx.analysis.runs import Run

__all__ = [
    "FORMATS",
    "KINDS",
    "THEMES",
    "WIDTH",
    "Figure",
    "check_kind",
    "check_look",
    "figures",
    "of_run",
    "of_sweep",
    "read_runs",
    "save",
    "save_all",
    "titled",
]


def of_sweep(runs: list[Run], folder: Path) -> list[Figure]:
    """Figures that make sense for these runs of a sweep, the most telling first.

    Args:
        runs: as `regx.analysis.runs.read(folder)` returns them.
        folder: of the sweep: a run's folder is `folder / run.name`.
    """
    return figures(runs, folder)


def of_run(folder: Path) -> list[Figure]:
    """Figures of one run, the most telling first.

    Raises:
        UserError: this is no run folder.
    """
    return figures(*read_runs([folder]))
