"""Predictions against the truth: confusion matrix of a classification, scatter of a regression."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from regx.training.plots.style import (
    DPI,
    FAINT,
    INK,
    LABEL,
    SMALL,
    STAGE_COLOURS,
    cell_lines,
    literal,
    marker_area,
    set_title,
    style_axes,
    style_bar,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Of more classes only every n-th is named.
MAX_NAMES = 40


def _cut(name: str, most: int) -> str:
    """Keeps the beginning of a long class name."""
    return name if len(name) <= most else name[: most - 1] + "…"


def confusion_matrix(matrix: np.ndarray, classes: Sequence[str], title: str = "") -> "Figure":
    """Draws which class is taken for which; a row's colours are shares of its true class, its numbers are counts.

    Args:
        matrix: counts (K, K), rows true, columns predicted.
        classes: K names.
        title: what is shown.

    Raises:
        ValueError: `matrix` is not (K, K).
    """
    from matplotlib.figure import Figure

    matrix = np.asarray(matrix)
    count = len(classes)
    if matrix.shape != (count, count):
        raise ValueError(f"{count} classes need a matrix ({count}, {count}), not {matrix.shape}")
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)

    side = min(max(0.5 * count, 2.6), 7.0)
    figure = Figure(figsize=(side + 2.2, side + 1.4), dpi=DPI, layout="compressed")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if count <= 15:
        for row in range(count):
            for column in range(count):
                colour = "white" if shares[row, column] > 0.55 else INK
                axes.text(
                    column,
                    row,
                    f"{matrix[row, column]:,}",
                    ha="center",
                    va="center",
                    fontsize=SMALL,
                    color=colour if matrix[row, column] else FAINT,
                )
    names = [literal(_cut(str(name), 24)) for name in classes]
    upright = max(map(len, names)) * 0.075 > side / count
    shown = range(0, count, math.ceil(count / MAX_NAMES))
    axes.set_xticks(shown, [names[index] for index in shown], rotation=90 if upright else 0)
    axes.set_yticks(shown, [names[index] for index in shown])
    axes.set_xlabel("predicted", fontsize=LABEL, color=INK)
    axes.set_ylabel("true", fontsize=LABEL, color=INK)
    style_axes(axes, frame=False)
    axes.tick_params(length=0, labelsize=SMALL if count <= 20 else SMALL - 1)
    if count <= MAX_NAMES:
        cell_lines(axes, count, count)
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.03)
    style_bar(bar, "share of the true class")
    set_title(axes, textwrap.fill(title, max(24, int(8 * (side + 1)))))
    return figure


def regression_scatter(y_true: np.ndarray, y_pred: np.ndarray, *, title: str = "", unit: str = "") -> "Figure":
    """Draws predicted against true values, with R² and the root mean squared error.

    Args:
        y_true: targets (N,) or (N, 1), in the target's own unit.
        y_pred: predictions of the same shape. Pairs that are not finite are left out and counted in the plot.
        title: what is shown.
        unit: unit of the target.

    Raises:
        ValueError: shapes differ, there are several targets, or no pair is finite.
    """
    from matplotlib.figure import Figure

    true, predicted = np.asarray(y_true, float), np.asarray(y_pred, float)
    if true.shape != predicted.shape or true.size != len(true):
        raise ValueError(f"need two arrays (N,) or (N, 1), not {true.shape} and {predicted.shape}")
    true, predicted = true.ravel(), predicted.ravel()
    finite = np.isfinite(true) & np.isfinite(predicted)
    left_out = int((~finite).sum())
    true, predicted = true[finite], predicted[finite]
    if not len(true):
        raise ValueError("no pair of true and predicted value is finite")
    errors = float(((true - predicted) ** 2).sum())
    spread = float(((true - true.mean()) ** 2).sum())
    facts = [
        f"R² = {1 - errors / spread:.3f}" if spread else "R² undefined: one value",
        f"RMSE = {math.sqrt(errors / len(true)):.4g} {unit}".rstrip(),
        f"n = {len(true):,}" + (f" ({left_out:,} not finite)" if left_out else ""),
    ]

    figure = Figure(figsize=(5.2, 5.2), dpi=DPI, layout="compressed")
    axes = figure.subplots()
    low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
    pad = 0.05 * (high - low) or 1.0
    axes.plot(
        [low - pad, high + pad], [low - pad, high + pad], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1
    )
    axes.scatter(
        true, predicted, s=marker_area(len(true)), color=STAGE_COLOURS["train"], alpha=_alpha(len(true)), linewidths=0
    )
    axes.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad), aspect="equal")
    suffix = f" ({unit})" if unit else ""
    axes.set_xlabel(literal(f"true{suffix}"), fontsize=LABEL, color=INK)
    axes.set_ylabel(literal(f"predicted{suffix}"), fontsize=LABEL, color=INK)
    axes.annotate(
        literal("\n".join(facts)),
        (0.04, 0.96),
        xycoords="axes fraction",
        va="top",
        fontsize=LABEL,
        color=INK,
        linespacing=1.5,
    )
    style_axes(axes)
    set_title(axes, title)
    return figure


def _alpha(count: int) -> float:
    return float(np.clip(300 / max(count, 1), 0.15, 0.8))
