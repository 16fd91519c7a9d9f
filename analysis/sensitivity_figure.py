"""The figure of `regx.analysis.sensitivity`: a curve per weight, coloured by depth."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regx.analysis.sensitivity import Row, by_parameter, losses, metric_of
from regx.training.folder import write_atomically
from regx.training.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of the most sensitive weights.
MARKERS = "osD^v"
NAMES_APART = 0.06  # of the height of the axes
PARTS = {"val": "validation", "test": "test"}


def figure(rows: Sequence[Row], structure: str, *, title: str = "") -> Figure:
    """Draws the metric over the share that is zeroed, a line per weight, coloured by depth.

    The most sensitive weights (see `sensitivity.losses`) have markers and are named at the right.

    Args:
        rows: of a `sensitivity.Table`, in the order of the network.
        structure: what was zeroed.
        title: what is shown.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    metric = metric_of(rows)
    curves = {name: _curve(own_rows, metric) for name, own_rows in by_parameter(rows).items()}
    # The lightest colours of the map are hard to see on white.
    colours = dict(zip(curves, colormaps["viridis"](np.linspace(0, 0.88, len(curves))), strict=True))
    named = [row["parameter"] for row in losses(rows)[: len(MARKERS)]]
    drawn = Figure(figsize=(8.2, 4.4), dpi=style.DPI, layout="constrained")
    axes = drawn.subplots()
    style.style_axes(axes, grid=True)
    for name, (x, y) in curves.items():
        look: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.6}
        if name in named:
            marker = MARKERS[named.index(name)]
            look = {"linewidth": 1.6, "marker": marker, "markersize": 4.5, "markevery": -(-len(x) // 8), "zorder": 3}
        axes.plot(x, y, color=colours[name], **look)
    first = next(iter(curves.values()))[1][0]
    axes.axhline(first, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xlim(0, max(x[-1] for x, _ in curves.values()) or 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.6g} %")
    axes.set_xlabel(f"{structure} of one weight that are zero, smallest first", fontsize=style.LABEL, color=style.INK)
    part, _, kind = metric.partition("/")
    label = f"{PARTS[part]} {'accuracy' if kind == 'acc' else 'R²'}"
    if kind == "acc":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.6g} %")
    elif min(y.min() for _, y in curves.values()) < -1:
        axes.set_ylim(-1, None)
        label += " (below -1 not shown)"
    axes.set_ylabel(label, fontsize=style.LABEL, color=style.INK)
    style.set_title(axes, title)
    _name(axes, [(name, MARKERS[k], colours[name], curves[name][1][-1]) for k, name in enumerate(named)])
    if len(curves) > len(named):
        scale = ScalarMappable(cmap=ListedColormap(list(colours.values())))
        bar = drawn.colorbar(scale, ax=axes, location="bottom", shrink=0.35, aspect=30, anchor=(1.0, 0.0), pad=0.02)
        bar.outline.set_visible(False)
        bar.set_ticks([0, 1], labels=["first", "last weight"], fontsize=style.SMALL, color=style.INK)
        bar.ax.tick_params(length=0)
    return drawn


def _curve(rows: Sequence[Row], metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A layer of few filters has the same share at several levels."""
    points = {row["zeroed"]: row[metric] for row in rows}
    return np.array(list(points)), np.array(list(points.values()))


def _name(axes: Axes, named: Sequence[tuple[str, str, Any, float]]) -> None:
    """Writes the names as near as they fit to the ends of their curves, each with its marker."""
    low, high = axes.get_ylim()
    ends = sorted(named, key=lambda item: -item[3])
    heights: list[float] = []
    for number, (*_, end) in enumerate(ends):
        above = heights[-1] - NAMES_APART if heights else 0.93
        lowest = NAMES_APART * (len(ends) - 1 - number)  # room for those that follow
        heights.append(max(min((end - low) / (high - low), above), lowest))
    for (name, marker, colour, _), height in zip(ends, heights, strict=True):
        axes.plot(1.03, height, marker, color=colour, markersize=5, transform=axes.transAxes, clip_on=False)
        _write(axes, style.shortened(name, 28), 1.05, height)
    _write(axes, "most sensitive", 1.02, heights[0] + NAMES_APART)


def _write(axes: Axes, text: str, x: float, y: float) -> None:
    place: dict[str, Any] = {"xycoords": "axes fraction", "va": "center"}
    axes.annotate(style.literal(text), (x, y), fontsize=style.SMALL, color=style.INK, **place)


def draw(rows: Sequence[Row], structure: str, path: Path, *, title: str = "") -> list[Path]:
    """Writes the figure as PNG and as SVG beside it.

    Args:
        rows: of a `sensitivity.Table`, in the order of the network.
        structure: what was zeroed.
        path: the PNG file.
        title: what is shown.
    """
    drawn, text = figure(rows, structure, title=title), io.BytesIO()
    with style.any_letters():
        drawn.savefig(text, format="svg")
    write_atomically(path.with_suffix(".svg"), text.getvalue())
    return [style.save(drawn, path), path.with_suffix(".svg")]
