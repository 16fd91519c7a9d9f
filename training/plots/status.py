"""Heat-maps of unit and point status."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from regx.training.plots.style import (
    ABSENT,
    DPI,
    FAINT,
    INK,
    LABEL,
    LEGEND,
    SMALL,
    STATES,
    STATUS_COLOURS,
    STATUS_NAMES,
    cell_lines,
    literal,
    percent,
    set_title,
    shortened,
    style_axes,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CELL_ROWS = 600  # about the pixels of the tallest map: of a longer table every n-th row is drawn


def status_heatmap(
    table: np.ndarray,
    layers: Sequence[str],
    *,
    axis: Literal["unit", "point"],
    title: str = "",
    sort: bool = False,
) -> "Figure":
    """Draws which units (or points) are dead, linear and nonlinear in which layer.

    Above the map, one bar per layer shows the three shares, so that thousands of rows stay readable.

    Args:
        table: status codes, int8 (rows, layers): -1 dead, 0 linear, 1 nonlinear, -2 no such unit. Source of codes and
            colours: Riera Molina, Puertas, Pujol, IEEE Access 2025.
        layers: names of the columns, in the order of the network.
        axis: what a row is.
        title: what is shown.
        sort: orders the points by their pattern, first layer first, so that equal ones lie together.

    Raises:
        ValueError: `table` and `layers` disagree, unknown codes, or `sort` for units, whose row means nothing.
    """
    from matplotlib.figure import Figure

    table = checked_table(table, layers)
    if sort and axis == "unit":
        raise ValueError("row i of two layers is not the same unit, so units cannot be sorted")
    if sort:
        table = table[np.lexsort(table.T[::-1])]
    width = min(max(0.13 * len(layers) + 2.2, 5.5), 11.0)
    height = min(max(0.16 * len(table), 0.8), 4.2)
    figure = Figure(figsize=(width, height + 2.1), dpi=DPI, layout="constrained")
    bars, cells = figure.subplots(2, 1, sharex=True, height_ratios=[0.7, height])
    draw_status(bars, cells, table, layers, axis, width=width - 1.0)
    set_title(bars, title)
    figure.align_ylabels([bars, cells])
    figure.legend(handles=status_patches(table, axis), loc="outside lower center", ncols=4, **LEGEND)
    return figure


def checked_table(table: np.ndarray, layers: Sequence[str]) -> np.ndarray:
    table = np.asarray(table)
    if table.ndim != 2 or table.shape[1] != len(layers) or not table.size:
        raise ValueError(f"{len(layers)} layers need a table (rows, {len(layers)}), not {table.shape}")
    unknown = set(np.unique(table).tolist()) - set(STATUS_COLOURS)
    if unknown:
        raise ValueError(f"status codes are {sorted(STATUS_COLOURS)}, not {sorted(unknown)}")
    return table


def state_shares(table: np.ndarray) -> dict[int, float]:
    """Share of each state among the cells that are there."""
    there = max(int((table != ABSENT).sum()), 1)
    return {state: float((table == state).sum()) / there for state in STATES}


def status_patches(table: np.ndarray | None, axis: str) -> list[Any]:
    from matplotlib.patches import Patch

    share = None if table is None else state_shares(table)
    patches = [
        Patch(
            facecolor=STATUS_COLOURS[state], label=STATUS_NAMES[state] + (f" {percent(share[state])}" if share else "")
        )
        for state in STATES
    ]
    if table is not None and (table == ABSENT).any():
        patches.append(Patch(facecolor=STATUS_COLOURS[ABSENT], label=f"no {axis}"))
    return patches


def draw_status(bars: "Axes", cells: "Axes", table: np.ndarray, layers: Sequence[str], axis: str, width: float) -> None:
    from matplotlib.colors import ListedColormap

    rows, columns = table.shape
    there = np.maximum((table != ABSENT).sum(axis=0), 1)
    bottom = np.zeros(columns)
    for state in STATES:
        share = (table == state).sum(axis=0) / there
        bars.bar(range(columns), share, bottom=bottom, width=1.0, color=STATUS_COLOURS[state], linewidth=0)
        bottom += share
    bars.set(ylim=(0, 1), yticks=[0, 1])
    bars.set_yticklabels(["0", "100 %"])
    bars.set_ylabel("share", fontsize=LABEL, color=INK)
    style_axes(bars, frame=False)
    bars.tick_params(length=0, labelbottom=False)

    step = math.ceil(rows / MAX_CELL_ROWS)
    cells.imshow(
        table[::step],
        cmap=ListedColormap([STATUS_COLOURS[code] for code in sorted(STATUS_COLOURS)]),
        vmin=min(STATUS_COLOURS) - 0.5,
        vmax=max(STATUS_COLOURS) + 0.5,
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
        aspect="auto",
        interpolation="nearest",
    )
    shown = f", 1 in {step} shown" if step > 1 else ""
    cells.set_ylabel(f"{axis}s ({rows:,}{shown})" if rows > 20 else f"{axis}s", fontsize=LABEL, color=INK)
    whole_numbers(cells.yaxis, 5)
    style_axes(cells, frame=False)
    cells.tick_params(length=2, color=FAINT)
    layer_ticks(cells, layers, width)
    if rows <= 40:
        cell_lines(cells, rows, columns)
    elif columns <= 80:
        cell_lines(cells, 0, columns)
    cell_lines(bars, 0, columns)


def layer_ticks(axes: "Axes", layers: Sequence[str], width: float) -> None:
    """Names every n-th layer, with n as small as `width` inches allow; what all names share is in the axis label."""
    prefix = common_prefix([str(name) for name in layers])
    names = [literal(shortened(str(name).removeprefix(prefix), 22)) for name in layers]
    upright = max(map(len, names)) > 3
    room = max(int(width / (0.2 if upright else 0.3)), 2)
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, len(names)) if len(names) <= room * step)
    shown = range(0, len(names), every)
    axes.set_xticks(shown, [names[index] for index in shown], rotation=90 if upright else 0, fontsize=SMALL)
    label = f"layer ({literal(shortened(prefix, 40))}…)" if prefix else "layer"
    axes.set_xlabel(label, fontsize=LABEL, color=INK)


def common_prefix(names: Sequence[str]) -> str:
    """The longest start that all `names` share, cut after a dot or underscore or before each one's number.

    `hidden.activation10` and `hidden.activation11` share `hidden.activation`: a number is never cut in two.
    It is empty where there is no such start, and for a single name.
    """
    first = names[0] if len(names) > 1 else ""
    for end in range(len(first) - 1, 0, -1):
        numbered = not first[end - 1].isdigit() and all(name[end : end + 1].isdigit() for name in names)
        shared = all(name.startswith(first[:end]) and len(name) > end for name in names)
        if shared and (numbered or first[end - 1] in "._"):
            return first[:end]
    return ""
