"""Decision surfaces: what a classifier of two features says everywhere."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from regx.training.plots.style import (
    CLASS_COLOURS,
    DPI,
    INK,
    LABEL,
    LEGEND,
    any_letters,
    literal,
    marker_area,
    set_title,
    style_axes,
    style_bar,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID = 300  # points per side of a decision surface
MAX_RATIO = 3.0  # of the sides of the axes: data that is longer than that has a scale of its own on each axis
SPLIT_MARKERS = {"train": "o", "val": "s", "test": "^"}

Points = Mapping[str, tuple[np.ndarray, np.ndarray]]
Predict = Callable[[np.ndarray], np.ndarray]


def decision_surface(
    predict: Predict,
    points: Points,
    *,
    classes: Sequence[str],
    feature_names: Sequence[str],
    title: str = "",
) -> "Figure":
    """Draws what a classifier of two features says everywhere, and the data on it.

    Both axes have one scale, unless one side of the data is over three times as long as the other.

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

    figure = Figure(figsize=(10, 8 + 0.2 * len(classes)), dpi=DPI, layout="constrained")  # room to measure labels in
    axes = figure.subplots()
    draw_surface(axes, predict, points, classes)
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    data_ratio = (x1 - x0) / (y1 - y0)
    ratio = min(max(data_ratio, 1 / MAX_RATIO), MAX_RATIO)
    width = min(4.8 * ratio**0.5, 6.2, 6.0 * ratio)
    axes.set_xlabel(literal(feature_names[0]), fontsize=LABEL, color=INK)
    axes.set_ylabel(literal(feature_names[1]), fontsize=LABEL, color=INK)
    set_title(axes, title)
    _probability_bar(figure, axes, len(classes), width)
    handles = [*class_handles(classes), *split_handles(points)]
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = int((width + 1.7) / (0.5 + 0.07 * longest))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(max(columns, 1), 5, len(handles)), **LEGEND)
    axes.set_aspect("auto")  # so that the axes fill their slot while the labels around it are measured
    with any_letters():
        _fit(figure, axes, width, width / ratio)
    if ratio == data_ratio:
        axes.set_aspect("equal")
    else:
        axes.set_box_aspect(1 / ratio)
    return figure


def _fit(figure: "Figure", axes: "Axes", width: float, height: float) -> None:
    """Gives `axes` `width` by `height` inches and the figure what the labels take besides, so that no space is left."""
    for _ in range(2):  # other sides may have other tick labels
        figure.draw_without_rendering()
        slot = axes.get_position(original=True)
        across, up = figure.get_size_inches()
        figure.set_size_inches(across * (1 - slot.width) + width, up * (1 - slot.height) + height)
    figure.draw_without_rendering()
    across, box = figure.get_size_inches()[0], figure.get_tightbbox()
    beyond = max(box.x1 - across, 0) + max(-box.x0, 0)  # the layout leaves out how wide title and legend are
    if beyond > 0:
        axes.set_anchor("W")
        figure.set_figwidth(across + beyond + 0.05)


def draw_surface(
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
                s=marker_scale * marker_area(len(inputs)),
                marker=SPLIT_MARKERS[split],
                facecolor=_class_colour(index) if split == "train" else "white",
                edgecolor="white" if split == "train" else _class_colour(index),
                linewidths=0.5 if split == "train" else 1.0,
                zorder=2,
            )
    axes.set(xlim=(x0, x1), ylim=(y0, y1), aspect="equal")
    style_axes(axes)


def _class_colour(index: int) -> str:
    if index < len(CLASS_COLOURS):
        return CLASS_COLOURS[index]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["tab20"](index % 20))


def class_handles(classes: Sequence[str]) -> list[Any]:
    from matplotlib.patches import Patch

    return [Patch(facecolor=_class_colour(index), label=literal(str(name))) for index, name in enumerate(classes)]


def split_handles(points: Points) -> list[Any]:
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


def _probability_bar(figure: "Figure", axes: "Axes", count: int, width: float) -> None:
    """Draws the bar beside axes of `width` inches: inset, as that is always as tall as they are."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    greys = LinearSegmentedColormap.from_list("strength", ["#e8e8e8", "#777777"])
    inset = axes.inset_axes((1 + 0.18 / width, 0, 0.16 / width, 1))
    bar = figure.colorbar(ScalarMappable(Normalize(1 / count, 1), greys), cax=inset)
    style_bar(bar, "probability of the winning class")
