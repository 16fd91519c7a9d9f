"""Runs side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from regx.training.plots.status import checked_table, draw_status, state_shares, status_patches
from regx.training.plots.style import DPI, INK, LABEL, LEGEND, STATES, STATUS_NAMES, TITLE, literal, percent
from regx.training.plots.surface import Points, Predict, class_handles, draw_surface, split_handles

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RunPicture:
    """What `comparison` shows of one run.

    Attributes:
        title: name of the run (`plain training`).
        table: status codes of its units, int8 (rows, layers).
        layers: names of the columns.
        predict: inputs (M, 2) -> probabilities (M, K).
        points: split -> inputs (N, 2) and labels (N,).
        accuracy: share of right answers, 0 to 1, on the data named by `accuracy_of`.
        accuracy_of: the data of `accuracy`.
        classes: K names.
    """

    title: str
    table: np.ndarray
    layers: Sequence[str]
    predict: Predict
    points: Points
    accuracy: float
    accuracy_of: str = "validation"
    classes: Sequence[str] = ("0", "1")


def comparison(runs: Sequence[RunPicture]) -> "Figure":
    """Draws runs side by side: each one's decision surface above the status of its units.

    Raises:
        ValueError: no runs, or a run that its own figure would refuse.
    """
    from matplotlib.figure import Figure

    if not runs:
        raise ValueError("no runs to compare")
    width = 5.0
    figure = Figure(dpi=DPI, layout="constrained")
    grid = figure.subplots(3, len(runs), squeeze=False)
    for (surface, bars, cells), run in zip(grid.T, runs, strict=True):
        draw_surface(surface, run.predict, run.points, run.classes, marker_scale=0.7)
        surface.set(xticks=[], yticks=[])
        surface.set_title(literal(run.title), fontsize=TITLE + 1, color=INK, fontweight="bold", pad=20)
        surface.annotate(
            f"{run.accuracy_of} accuracy {percent(run.accuracy)}", (0.5, 1.0), xytext=(0, 6), xycoords="axes fraction",
            textcoords="offset points", ha="center", fontsize=LABEL, color=INK,
        )  # fmt: skip
        table = checked_table(run.table, run.layers)
        bars.sharex(cells)
        draw_status(bars, cells, table, run.layers, "unit", width=width - 1.0)
        figure.align_ylabels([bars, cells])
        share = state_shares(table)
        text = ", ".join(f"{STATUS_NAMES[state]} {percent(share[state])}" for state in STATES)
        bars.set_title(f"units: {text}", fontsize=LABEL, color=INK, loc="left")
    surface_height = min(max((width - 0.65) * surface.get_data_ratio() for surface in grid[0]), 3.7)
    grid[0, 0].get_gridspec().set_height_ratios([surface_height, 0.55, 1.1])
    figure.set_size_inches(width * len(runs), surface_height + 3.05)
    handles = [*class_handles(runs[0].classes), *split_handles(runs[0].points), *status_patches(None, "unit")]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), **LEGEND)
    return figure
