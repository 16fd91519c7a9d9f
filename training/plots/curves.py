"""Learning curves: a run over its epochs."""

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from regx.training.plots.style import (
    DPI,
    INK,
    LABEL,
    LEGEND,
    SMALL,
    STAGE_COLOURS,
    STATES,
    STATUS_COLOURS,
    STATUS_NAMES,
    TITLE,
    literal,
    set_title,
    style_axes,
    whole_numbers,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_PANELS = {
    "loss": r"(train|val|test)/loss",
    "accuracy": r"(train|val|test)/acc",
    "R²": r"(train|val|test)/r2",
    "scaled penalty": r"(train|val|test)/scaled_\w+_loss",
}


def learning_curves(metrics: "pd.DataFrame", *, title: str = "", best_epoch: int | None = None) -> "Figure":
    """Draws a run over its epochs: loss, accuracy (or R²), penalty, and the units' status where they were logged.

    Args:
        metrics: one row per logged epoch: `epoch` and any of `{train,val,test}/{loss,acc,r2}`, `{stage}/scaled_*_loss`,
            `{train,val}/jr/unit_{dead,linear}_ratio`. Cells that are not finite are left out.
        title: what is shown.
        best_epoch: epoch to mark.

    Raises:
        ValueError: there is no column `epoch`, or nothing to draw.
    """
    from matplotlib.figure import Figure

    if "epoch" not in metrics:
        raise ValueError("metrics have no column 'epoch'")
    panels: list[tuple[str, dict[str, tuple[np.ndarray, np.ndarray]]]] = []
    for name, pattern in _PANELS.items():
        curves = {key: _curve(metrics, key) for key in metrics.columns if re.fullmatch(pattern, key)}
        curves = {key: curve for key, curve in curves.items() if len(curve[0])}
        if curves:
            panels.append((name, curves))
    shares = _unit_shares(metrics)
    count = len(panels) + (shares is not None)
    if not count:
        raise ValueError("metrics hold no finite loss, accuracy, penalty or unit status")

    columns = 2 if count == 4 else count
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(4.2 * columns + 0.4, 3.0 * rows + 0.5), dpi=DPI, layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, curves) in zip(grid, panels, strict=False):
        _draw_curves(axes, name, curves)
    if shares is not None:
        _draw_shares(grid[-1], *shares)
    epochs = metrics["epoch"].to_numpy(float)
    pad = 0.5 if len(epochs) == 1 else 0.0
    for axes in grid:
        axes.set_xlim(epochs.min() - pad, epochs.max() + pad)
        axes.set_xlabel("epoch", fontsize=LABEL, color=INK)
        whole_numbers(axes.xaxis)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=3, label="_best")
    if best_epoch is not None:
        _mark_best(grid[0], best_epoch)
    if title:
        figure.suptitle(literal(title), fontsize=TITLE + 1, color=INK, x=0.01, ha="left")
    return figure


def _curve(metrics: "pd.DataFrame", key: str) -> tuple[np.ndarray, np.ndarray]:
    values = metrics[key].to_numpy(float)
    finite = np.isfinite(values)
    return metrics["epoch"].to_numpy(float)[finite], values[finite]


def _unit_shares(metrics: "pd.DataFrame") -> tuple[str, np.ndarray, np.ndarray, np.ndarray] | None:
    """The stage, and the epochs and shares of dead and linear units that were logged together."""
    for stage in ("train", "val"):
        dead, linear = f"{stage}/jr/unit_dead_ratio", f"{stage}/jr/unit_linear_ratio"
        if dead in metrics and linear in metrics:
            table = metrics[["epoch", dead, linear]].to_numpy(float)
            table = table[np.isfinite(table).all(axis=1)]
            if len(table):
                return stage, table[:, 0], table[:, 1], table[:, 2]
    return None


def _draw_curves(axes: "Axes", name: str, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    values = np.concatenate([curve[1] for curve in curves.values()])
    penalties = sorted({key.partition("/")[2] for key in curves})
    named: set[str] = set()
    for key, (epochs, curve) in curves.items():
        stage, _, quantity = key.partition("/")
        # Of several penalties the line style tells which; the colours are those of the other panels.
        seen = quantity in named
        named.add(quantity)
        label = stage if len(penalties) == 1 else f"_{key}" if seen else _penalty(quantity)
        axes.plot(
            epochs,
            curve,
            color=STAGE_COLOURS[stage],
            linewidth=1.4 if len(curve) <= 500 else 0.8,
            linestyle=("-", "--", ":", "-.")[penalties.index(quantity) % 4],
            marker="o" if len(curve) <= 20 else None,
            markersize=3.5,
            label=label,
        )
    if name in ("loss", "scaled penalty") and values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
        if values.max() < 1000 * values.min():  # too few powers of ten to read values from
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
    if name == "accuracy":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.6g} %")
        low = max(values.min() - 0.05, 0)
        axes.set_ylim(low, 1.0 + 0.03 * (1 - low))
    if name == "R²" and values.min() < -1:
        axes.set_ylim(-1, 1.05)
        name = "R² (below -1 not shown)"
    if name == "scaled penalty" and len(penalties) == 1:
        name = f"{_penalty(penalties[0])} penalty times lambda"
    set_title(axes, name)
    style_axes(axes, grid=True)
    _legend_above(axes)
    if len(penalties) > 1:
        legend = axes.get_legend()
        assert legend is not None
        for line in legend.get_lines():
            line.set_color(INK)


def _penalty(quantity: str) -> str:
    return {"JR": "Jumpstart"}.get(name := quantity.removeprefix("scaled_").removesuffix("_loss"), name)


def _draw_shares(axes: "Axes", stage: str, epochs: np.ndarray, dead: np.ndarray, linear: np.ndarray) -> None:
    if len(epochs) == 1:  # an area needs two ends
        epochs, dead, linear = epochs[0] + np.array([-0.5, 0.5]), dead.repeat(2), linear.repeat(2)
    parts = [dead, linear, 1 - dead - linear]
    axes.stackplot(
        epochs,
        *parts,
        colors=[STATUS_COLOURS[state] for state in STATES],
        labels=[STATUS_NAMES[state] for state in STATES],
        linewidth=0,
    )
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.6g} %")
    style_axes(axes)
    set_title(axes, f"units ({stage})")
    _legend_above(axes)


def _mark_best(axes: "Axes", epoch: int) -> None:
    low, high = axes.get_xlim()
    left = epoch > (low + high) / 2
    axes.annotate(
        f"best epoch {epoch}",
        (epoch, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if left else 4, -4),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        fontsize=SMALL,
        color=INK,
    )


def _legend_above(axes: "Axes") -> None:
    """Puts the legend on the line of the title, where it hides no data."""
    labels = axes.get_legend_handles_labels()[1]
    if len(labels) > 3 or sum(map(len, labels)) > 36:  # too long for that line
        axes.legend(loc="best", **LEGEND)
        return
    legend = axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2, ncols=max(len(labels), 1), **LEGEND
    )
    for line in legend.get_lines():
        line.set_linewidth(1.8)
