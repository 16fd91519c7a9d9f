"""Weights and their groups: how large they are, and in which layer how many of them are zero."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from regx.training.plots.status import layer_ticks
from regx.training.plots.style import (
    CLASS_COLOURS,
    DPI,
    FAINT,
    INK,
    LABEL,
    LEGEND,
    STATUS_COLOURS,
    TITLE,
    literal,
    percent,
    set_title,
    style_axes,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ZERO = STATUS_COLOURS[-1]  # exactly zero: the colour of what is dead
LINE = "red"
BINS = 100


def weight_histogram(
    weights: np.ndarray, norms: Mapping[str, np.ndarray], *, threshold: float = 1e-3, title: str = ""
) -> "Figure":
    """Draws how large the weights are, and how large their groups.

    Left, the weights, with logarithmic counts and those that are exactly 0 in a bar of their own. Right, the Euclidean
    norms of the groups on a logarithmic axis, the exactly zero ones in a bar of their own at its left end, and the
    threshold below which a group counts as near zero as a dashed red line.

    Args:
        weights: (N,) all weights.
        norms: what the groups are (`filters`, `rows`) -> their norms (G,), at most 7 kinds.
        threshold: norm below which a group is near zero.
        title: what is shown.

    Numbers that are not finite are left out, and the axis label says how many.

    Raises:
        ValueError: there are no finite weights or no finite norms.
    """
    from matplotlib.figure import Figure

    finite = weights[np.isfinite(weights)]
    groups = {kind: values[np.isfinite(values)] for kind, values in norms.items()}
    if not len(finite) or not any(len(values) for values in groups.values()):
        raise ValueError("there are no finite weights, or no finite norms, to draw")
    figure = Figure(figsize=(9.4, 3.5), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_weights(left, finite, len(weights) - len(finite))
    _draw_norms(right, groups, threshold, sum(map(len, norms.values())) - sum(map(len, groups.values())))
    for axes in (left, right):
        style_axes(axes, grid=True)
        axes.grid(visible=False, axis="x")
    if title:
        figure.suptitle(literal(title), fontsize=TITLE + 1, color=INK, x=0.01, ha="left")
    return figure


def sparsity_bars(table: Sequence[Mapping[str, Any]], *, unit: str = "units", title: str = "") -> "Figure":
    """Draws a bar per layer: the share of its weights that are exactly 0, and which part of it lies in zero groups.

    Args:
        table: rows of `SparsityMeter.table()`; the one called `total` goes into the title, not into a bar.
        unit: the groups: `units` (filters and rows), `kernels`, `columns`, ...; a layer without them has single zeros
            only.
        title: what is shown.

    Raises:
        ValueError: there are no layers, or no such unit in the table.
    """
    from matplotlib.figure import Figure

    layers = [row for row in table if row["name"] != "total"]
    if not layers:
        raise ValueError("the table has no layers")
    if unit not in layers[0]:
        raise ValueError(f"the table has no column {unit!r}")
    # All groups of a layer are equally large, so their share is also the share of the weights in them.
    grouped = np.array([row[unit] or 0.0 for row in layers])
    elements = np.array([row["elements"] for row in layers])
    kinds = _kinds(layers) if unit == "units" else [unit]
    width = min(max(0.16 * len(layers) + 2.6, 6.0), 11.0)
    names = [str(row["name"]).removesuffix(".weight") for row in layers]
    height = 2.9 + 0.065 * min(max(map(len, names)), 22)  # names stand upright below
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(layers))
    bar: dict[str, Any] = {"width": 0.8 if len(layers) <= 60 else 1.0, "linewidth": 0}
    axes.bar(places, grouped, color=CLASS_COLOURS[0], label=f"in {' or '.join(kinds)} of zeros", **bar)
    axes.bar(places, elements - grouped, bottom=grouped, color=CLASS_COLOURS[5], label="single zeros", **bar)
    most = elements.max()
    axes.set(ylim=(0, 1 if most > 0.4 or most == 0 else 1.25 * most), xlim=(-0.6, len(layers) - 0.4))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.6g} %")
    axes.set_ylabel("weights that are 0", fontsize=LABEL, color=INK)
    style_axes(axes, grid=True)
    axes.grid(visible=False, axis="x")
    layer_ticks(axes, names, width - 1.0)
    if most == 0:
        axes.text(0.5, 0.5, "no weight is 0", transform=axes.transAxes, ha="center", fontsize=LABEL, color=INK)
    else:
        figure.legend(loc="outside lower center", ncols=2, **LEGEND)
    facts = [
        f"zero: {percent(row['elements'])} of the weights"
        + ("" if row[unit] is None else f", {percent(row[unit])} of the {' and '.join(kinds)}")
        for row in table
        if row["name"] == "total"
    ]
    set_title(axes, "\n".join([title] * bool(title) + facts))
    return figure


def _kinds(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the units of these layers are."""
    found = [kind for kind in ("filters", "rows") if any(row.get(kind) is not None for row in layers)]
    return found or ["units"]


def _draw_weights(axes: "Axes", weights: np.ndarray, left_out: int) -> None:
    zeros = int((weights == 0).sum())
    others = weights[weights != 0]
    reach = float(np.abs(others).max()) if len(others) else 1.0
    edges = np.linspace(-reach, reach, BINS + 2)  # an odd number of bins: one is around 0
    counts, _ = np.histogram(others, edges)
    axes.stairs(counts, edges, fill=True, color=CLASS_COLOURS[0])
    if zeros:
        axes.bar(0, zeros, 0.6 * (edges[1] - edges[0]), color=ZERO, linewidth=0, label="exactly 0")
        axes.legend(loc="upper right", **LEGEND)
    _log_counts(axes, max(counts.max(), zeros))
    axes.set_xlabel("weight" + _left_out(left_out), fontsize=LABEL, color=INK)
    axes.set_ylabel("number of weights", fontsize=LABEL, color=INK)
    set_title(axes, f"{len(weights):,} weights, {percent(zeros / len(weights))} exactly 0")


def _draw_norms(axes: "Axes", groups: Mapping[str, np.ndarray], threshold: float, left_out: int) -> None:
    together = np.concatenate(list(groups.values()))
    above = together[together > 0]
    low = min(np.log10(above.min()) if len(above) else 0.0, np.log10(threshold)) - 0.3
    high = max(np.log10(above.max()) if len(above) else 0.0, np.log10(threshold)) + 0.3
    edges = np.linspace(low, high, 51)
    step = edges[1] - edges[0]
    at_zero = low - 3 * step
    bottom, zeros_below = np.zeros(len(edges) - 1), 0
    for (kind, values), colour in zip(groups.items(), CLASS_COLOURS, strict=False):
        counts, _ = np.histogram(np.log10(values[values > 0]), edges)
        axes.bar(edges[:-1], counts, step, bottom=bottom, align="edge", color=colour, linewidth=0, label=kind)
        zeros = int((values == 0).sum())
        axes.bar(at_zero, zeros, 2 * step, bottom=zeros_below, color=colour, linewidth=0)
        bottom, zeros_below = bottom + counts, zeros_below + zeros
    axes.axvline(np.log10(threshold), color=LINE, linestyle="--", linewidth=1.2, label=f"threshold {threshold:g}")
    axes.axvline(low, color=FAINT, linewidth=0.8)
    powers = np.arange(np.ceil(low), np.floor(high) + 1)
    powers = powers[:: max(int(np.ceil(len(powers) / 7)), 1)]
    axes.set_xticks([at_zero, *powers], ["0", *(f"$10^{{{power:.0f}}}$" for power in powers)])
    axes.set_xlim(at_zero - 2 * step, high)
    axes.set_xlabel("Euclidean norm" + _left_out(left_out), fontsize=LABEL, color=INK)
    axes.set_ylabel("number of groups", fontsize=LABEL, color=INK)
    whole_numbers(axes.yaxis)
    axes.set_ylim(0, 1.2 * max(bottom.max(), zeros_below))  # room for the legend
    axes.legend(loc="upper right", ncols=3, **LEGEND)
    exact, near = (percent(share.mean()) for share in (together == 0, together < threshold))
    text = f"{len(together):,} {' and '.join(groups)}, {exact} exactly 0"
    set_title(axes, text + (f", {near} below {threshold:g}" if near != exact else ""))


def _log_counts(axes: "Axes", most: int) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.set_ylim(0.7, 2.0 * most)
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _left_out(count: int) -> str:
    return f" ({count:,} not finite, left out)" if count else ""
