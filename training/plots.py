"""Figures of a run, drawn from plain arrays: no window, no global state, nothing remembered between calls.

Every function returns a `matplotlib.figure.Figure`; `save` writes it. matplotlib is imported where a figure is drawn,
as its import takes longer than a short command.
"""

import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEAD, LINEAR, NONLINEAR, ABSENT = -1, 0, 1, -2
STATUS_COLOURS = {DEAD: "#db5e56", LINEAR: "#dbc256", NONLINEAR: "#5ea28d", ABSENT: "#ececec"}
STATUS_NAMES = {DEAD: "dead", LINEAR: "linear", NONLINEAR: "nonlinear"}
STATES = (DEAD, LINEAR, NONLINEAR)

# Okabe & Ito's palette: told apart with every common form of colour blindness.
CLASS_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
STAGE_COLOURS = {"train": "#0072b2", "val": "#d55e00", "test": "#009e73"}
SPLIT_MARKERS = {"train": "o", "val": "s", "test": "^"}

DPI = 150
TITLE, LABEL, SMALL = 11.0, 9.0, 8.0  # font sizes in points
INK, FAINT = "#333333", "#b5b5b5"
MAX_CELL_ROWS = 600  # about the pixels of the tallest map: of a longer table every n-th row is drawn
GRID = 300  # points per side of a decision surface

Points = Mapping[str, tuple[np.ndarray, np.ndarray]]
Predict = Callable[[np.ndarray], np.ndarray]


def save(figure: "Figure", path: Path) -> Path:
    """Writes `figure` as a PNG of 150 dpi; `path` never holds half a file."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with warnings.catch_warnings():
            # Class names may be written in letters that the shipped font lacks: they show as boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(temporary, format="png", dpi=DPI)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


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

    table = _checked_table(table, layers)
    if sort and axis == "unit":
        raise ValueError("row i of two layers is not the same unit, so units cannot be sorted")
    if sort:
        table = table[np.lexsort(table.T[::-1])]
    width = min(max(0.13 * len(layers) + 2.2, 5.5), 11.0)
    height = min(max(0.16 * len(table), 0.8), 4.2)
    figure = Figure(figsize=(width, height + 2.1), dpi=DPI, layout="constrained")
    bars, cells = figure.subplots(2, 1, sharex=True, height_ratios=[0.7, height])
    _draw_status(bars, cells, table, layers, axis, width=width - 1.0)
    _title(bars, title)
    figure.align_ylabels([bars, cells])
    figure.legend(handles=_status_patches(table, axis), loc="outside lower center", ncols=4, **_LEGEND)
    return figure


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
        _whole_numbers(axes.xaxis)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=3, label="_best")
    if best_epoch is not None:
        _mark_best(grid[0], best_epoch)
    if title:
        figure.suptitle(_text(title), fontsize=TITLE + 1, color=INK, x=0.01, ha="left")
    return figure


def decision_surface(
    predict: Predict,
    points: Points,
    *,
    classes: Sequence[str],
    feature_names: Sequence[str],
    title: str = "",
) -> "Figure":
    """Draws what a classifier of two features says everywhere, and the data on it.

    Args:
        predict: inputs (M, 2) -> probabilities (M, K).
        points: split (`train`, `val`, `test`) -> inputs (N, 2) and labels (N,).
        classes: K names.
        feature_names: names of the two features.
        title: what is shown.

    Raises:
        ValueError: inputs do not have two features, or `predict` does not give (M, K).
    """
    from matplotlib.figure import Figure

    figure = Figure(dpi=DPI, layout="compressed")
    axes = figure.subplots()
    _draw_surface(axes, predict, points, classes)
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    ratio = float(np.clip((x1 - x0) / (y1 - y0), 0.4, 2.5))
    width, height = 4.8 * min(ratio**0.5, 1.3), 4.8 / max(ratio**0.5, 0.8)
    figure.set_size_inches(width + 1.7, height + 1.2)
    axes.set_xlabel(_text(feature_names[0]), fontsize=LABEL, color=INK)
    axes.set_ylabel(_text(feature_names[1]), fontsize=LABEL, color=INK)
    _title(axes, title)
    _probability_bar(figure, axes, len(classes))
    handles = [*_class_handles(classes), *_split_handles(points)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), **_LEGEND)
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
        true, predicted, s=_marker_area(len(true)), color=STAGE_COLOURS["train"], alpha=_alpha(len(true)), linewidths=0
    )
    axes.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad), aspect="equal")
    suffix = f" ({unit})" if unit else ""
    axes.set_xlabel(_text(f"true{suffix}"), fontsize=LABEL, color=INK)
    axes.set_ylabel(_text(f"predicted{suffix}"), fontsize=LABEL, color=INK)
    axes.annotate(
        _text("\n".join(facts)),
        (0.04, 0.96),
        xycoords="axes fraction",
        va="top",
        fontsize=LABEL,
        color=INK,
        linespacing=1.5,
    )
    _style(axes)
    _title(axes, title)
    return figure


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
    names = [_text(_shortened(str(name), 18)) for name in classes]
    upright = max(map(len, names)) * 0.075 > side / count
    axes.set_xticks(range(count), names, rotation=90 if upright else 0)
    axes.set_yticks(range(count), names)
    axes.set_xlabel("predicted", fontsize=LABEL, color=INK)
    axes.set_ylabel("true", fontsize=LABEL, color=INK)
    _style(axes, frame=False)
    axes.tick_params(length=0, labelsize=SMALL if count <= 20 else SMALL - 1)
    _cell_lines(axes, count, count)
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.03)
    _style_bar(bar, "share of the true class")
    _title(axes, title)
    return figure


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
    figure = Figure(figsize=(width * len(runs), 6.6), dpi=DPI, layout="constrained")
    grid = figure.subplots(3, len(runs), squeeze=False, height_ratios=[3.7, 0.55, 1.1])
    for (surface, bars, cells), run in zip(grid.T, runs, strict=True):
        _draw_surface(surface, run.predict, run.points, run.classes, marker_scale=0.7)
        surface.set(xticks=[], yticks=[])
        surface.set_title(_text(run.title), fontsize=TITLE + 1, color=INK, fontweight="bold", pad=20)
        surface.annotate(
            f"{run.accuracy_of} accuracy {_percent(run.accuracy)}", (0.5, 1.0), xytext=(0, 6), xycoords="axes fraction",
            textcoords="offset points", ha="center", fontsize=LABEL, color=INK,
        )  # fmt: skip
        table = _checked_table(run.table, run.layers)
        bars.sharex(cells)
        _draw_status(bars, cells, table, run.layers, "unit", width=width - 1.0)
        figure.align_ylabels([bars, cells])
        share = _shares(table)
        text = ", ".join(f"{STATUS_NAMES[state]} {_percent(share[state])}" for state in STATES)
        bars.set_title(f"units: {text}", fontsize=LABEL, color=INK, loc="left")
    handles = [*_class_handles(runs[0].classes), *_split_handles(runs[0].points), *_status_patches(None, "unit")]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), **_LEGEND)
    return figure


# --- status ---------------------------------------------------------------------------------------------------------


def _checked_table(table: np.ndarray, layers: Sequence[str]) -> np.ndarray:
    table = np.asarray(table)
    if table.ndim != 2 or table.shape[1] != len(layers) or not table.size:
        raise ValueError(f"{len(layers)} layers need a table (rows, {len(layers)}), not {table.shape}")
    unknown = set(np.unique(table).tolist()) - set(STATUS_COLOURS)
    if unknown:
        raise ValueError(f"status codes are {sorted(STATUS_COLOURS)}, not {sorted(unknown)}")
    return table


def _shares(table: np.ndarray) -> dict[int, float]:
    """Share of each state among the cells that are there."""
    there = max(int((table != ABSENT).sum()), 1)
    return {state: float((table == state).sum()) / there for state in STATES}


def _status_patches(table: np.ndarray | None, axis: str) -> list[Any]:
    from matplotlib.patches import Patch

    share = None if table is None else _shares(table)
    patches = [
        Patch(
            facecolor=STATUS_COLOURS[state], label=STATUS_NAMES[state] + (f" {_percent(share[state])}" if share else "")
        )
        for state in STATES
    ]
    if table is not None and (table == ABSENT).any():
        patches.append(Patch(facecolor=STATUS_COLOURS[ABSENT], label=f"no {axis}"))
    return patches


def _draw_status(
    bars: "Axes", cells: "Axes", table: np.ndarray, layers: Sequence[str], axis: str, width: float
) -> None:
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
    _style(bars, frame=False)
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
    cells.set_xlabel("layer", fontsize=LABEL, color=INK)
    _whole_numbers(cells.yaxis, 5)
    _style(cells, frame=False)
    cells.tick_params(length=2, color=FAINT)
    _layer_ticks(cells, layers, width)
    if rows <= 40:
        _cell_lines(cells, rows, columns)
    elif columns <= 80:
        _cell_lines(cells, 0, columns)
    _cell_lines(bars, 0, columns)


def _layer_ticks(axes: "Axes", layers: Sequence[str], width: float) -> None:
    """Names every n-th layer, with n as small as `width` inches allow."""
    names = [_text(_shortened(str(name), 22)) for name in layers]
    upright = max(map(len, names)) > 3
    room = max(int(width / (0.2 if upright else 0.3)), 2)
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, len(names)) if len(names) <= room * step)
    shown = range(0, len(names), every)
    axes.set_xticks(shown, [names[index] for index in shown], rotation=90 if upright else 0, fontsize=SMALL)


def _cell_lines(axes: "Axes", rows: int, columns: int) -> None:
    """Draws thin white lines between the cells of a map."""
    low, high = sorted(axes.get_ylim())
    axes.vlines(np.arange(1, columns) - 0.5, low, high, color="white", linewidth=0.5)
    if rows:
        axes.hlines(np.arange(1, rows) - 0.5, -0.5, columns - 0.5, color="white", linewidth=0.5)


# --- curves ---------------------------------------------------------------------------------------------------------

_PANELS = {
    "loss": r"(train|val|test)/loss",
    "accuracy": r"(train|val|test)/acc",
    "R²": r"(train|val|test)/r2",
    "scaled penalty": r"(train|val|test)/scaled_\w+_loss",
}


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
    for key, (epochs, curve) in curves.items():
        stage, _, quantity = key.partition("/")
        label = stage if len(penalties) == 1 else f"{stage} {_penalty(quantity)}"
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
    _title(axes, name)
    _style(axes, grid=True)
    _legend_above(axes)


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
    _style(axes)
    _title(axes, f"units ({stage})")
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


# --- surfaces -------------------------------------------------------------------------------------------------------


def _draw_surface(
    axes: "Axes", predict: Predict, points: Points, classes: Sequence[str], marker_scale: float = 1.0
) -> None:
    from matplotlib.colors import to_rgb

    inputs = np.concatenate([np.asarray(x, float) for x, _ in points.values()])
    if inputs.ndim != 2 or inputs.shape[1] != 2:
        raise ValueError(f"a decision surface needs inputs (N, 2), not {inputs.shape}")
    low, high = inputs.min(axis=0), inputs.max(axis=0)
    pad = 0.1 * np.where(high > low, high - low, 1.0)
    (x0, y0), (x1, y1) = low - pad, high + pad
    across, up = np.linspace(x0, x1, GRID), np.linspace(y0, y1, GRID)
    grid = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2).astype(np.float32)
    answer = np.asarray(predict(grid), float)
    count = len(classes)
    if answer.shape != (GRID * GRID, count):
        raise ValueError(f"predict gave {answer.shape} for {GRID * GRID} inputs and {count} classes")
    answer = answer.reshape(GRID, GRID, count)

    colours = np.array([to_rgb(_class_colour(index)) for index in range(count)])
    best = answer.max(axis=-1)
    strength = 0.12 + 0.43 * ((best - 1 / count) / (1 - 1 / count)).clip(0, 1)[..., None]
    image = 1 - strength * (1 - colours[answer.argmax(axis=-1)])
    axes.imshow(image, extent=(x0, x1, y0, y1), origin="lower", interpolation="bilinear", zorder=0)
    for index in range(count if count > 2 else 1):
        others = np.delete(answer, index, axis=-1).max(axis=-1)
        margin = answer[..., index] - others
        if margin.min() < 0 < margin.max():
            axes.contour(across, up, margin, levels=[0], colors=INK, linewidths=1.1, zorder=1)

    for split in sorted(points, key=lambda split: list(SPLIT_MARKERS).index(split)):
        x, y = np.asarray(points[split][0], float), np.asarray(points[split][1]).ravel().astype(int)
        for index in range(count):
            mine = x[y == index]
            axes.scatter(
                mine[:, 0],
                mine[:, 1],
                s=marker_scale * _marker_area(len(inputs)),
                marker=SPLIT_MARKERS[split],
                facecolor=_class_colour(index) if split == "train" else "white",
                edgecolor="white" if split == "train" else _class_colour(index),
                linewidths=0.5 if split == "train" else 1.0,
                zorder=2,
            )
    axes.set(xlim=(x0, x1), ylim=(y0, y1), aspect="equal")
    _style(axes)


def _class_colour(index: int) -> str:
    if index < len(CLASS_COLOURS):
        return CLASS_COLOURS[index]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["tab20"](index % 20))


def _class_handles(classes: Sequence[str]) -> list[Any]:
    from matplotlib.patches import Patch

    return [Patch(facecolor=_class_colour(index), label=_text(str(name))) for index, name in enumerate(classes)]


def _split_handles(points: Points) -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D(
            [],
            [],
            linestyle="",
            marker=marker,
            markersize=5,
            markerfacecolor=INK if split == "train" else "white",
            markeredgecolor=INK,
            label=split,
        )
        for split, marker in SPLIT_MARKERS.items()
        if split in points
    ]


def _probability_bar(figure: "Figure", axes: "Axes", count: int) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    greys = LinearSegmentedColormap.from_list("strength", ["#e8e8e8", "#777777"])
    bar = figure.colorbar(ScalarMappable(Normalize(1 / count, 1), greys), ax=axes, fraction=0.04, pad=0.03)
    _style_bar(bar, "probability of the winning class")


# --- typography -----------------------------------------------------------------------------------------------------

_LEGEND: dict[str, Any] = {"fontsize": SMALL, "frameon": False, "labelcolor": INK, "handlelength": 1.4}


def _style(axes: "Axes", *, frame: bool = True, grid: bool = False) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(frame and side in ("left", "bottom"))
        spine.set(color=FAINT, linewidth=0.8)
    axes.tick_params(which="both", labelsize=SMALL, labelcolor=INK, color=FAINT, width=0.8, length=3)
    axes.tick_params(which="minor", length=0)
    if grid:
        axes.grid(color="#ebebeb", linewidth=0.8)
        axes.set_axisbelow(True)


def _style_bar(bar: Any, label: str) -> None:
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=SMALL, color=INK)
    bar.ax.tick_params(labelsize=SMALL, labelcolor=INK, length=0)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def _title(axes: "Axes", text: str) -> None:
    if text:
        axes.set_title(_text(text), fontsize=TITLE, color=INK, loc="left", pad=8)


def _legend_above(axes: "Axes") -> None:
    """Puts the legend on the line of the title, where it hides no data."""
    count = len(axes.get_legend_handles_labels()[1])
    legend = axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2, ncols=min(count, 3), **_LEGEND
    )
    for line in legend.get_lines():
        line.set_linewidth(1.8)


def _whole_numbers(axis: Any, most: int = 6) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _marker_area(count: int) -> float:
    """Area of a marker in square points: smaller where there are many."""
    return float(np.clip(6000 / max(count, 1), 5, 24))


def _alpha(count: int) -> float:
    return float(np.clip(300 / max(count, 1), 0.15, 0.8))


def _percent(share: float) -> str:
    """Writes a share as `37 %`; tenths only next to 0 and 100, which stand for none and all."""
    if 0 < share < 0.01 or 0.99 < share < 1:
        return f"{min(max(100 * share, 0.1), 99.9):.1f} %"
    return f"{100 * share:.0f} %"


def _shortened(name: str, most: int) -> str:
    """Keeps the end of a long name, as that is where the names of layers differ."""
    return name if len(name) <= most else "…" + name[-most + 1 :]


def _text(text: str) -> str:
    """Takes the dollar signs of a user's own names literally, not as mathematics."""
    return text.replace("$", r"\$")
