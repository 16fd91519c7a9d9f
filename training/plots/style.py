"""The look that all figures share: palette, fonts, axes without clutter, names made to fit, and writing the file."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEAD, LINEAR, NONLINEAR, ABSENT = -1, 0, 1, -2
STATES = (DEAD, LINEAR, NONLINEAR)
STATUS_NAMES = {DEAD: "dead", LINEAR: "linear", NONLINEAR: "nonlinear"}
# Riera Molina, Puertas, Pujol, IEEE Access 2025.
STATUS_COLOURS = {DEAD: "#db5e56", LINEAR: "#dbc256", NONLINEAR: "#5ea28d", ABSENT: "#ececec"}

# Okabe & Ito's palette: told apart with every common form of colour blindness.
CLASS_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
STAGE_COLOURS = {"train": "#0072b2", "val": "#d55e00", "test": "#009e73"}

DPI = 150
TITLE, LABEL, SMALL = 11.0, 9.0, 8.0  # font sizes in points
INK, FAINT = "#333333", "#b5b5b5"
LEGEND: dict[str, Any] = {"fontsize": SMALL, "frameon": False, "labelcolor": INK, "handlelength": 1.4}


def save(figure: "Figure", path: Path) -> Path:
    """Writes `figure` as a PNG of 150 dpi; `path` never holds half a file."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with any_letters():
            figure.savefig(temporary, format="png", dpi=DPI)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def any_letters() -> Iterator[None]:
    """Class names may be written in letters that the shipped font lacks: they show as boxes, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def style_axes(axes: "Axes", *, frame: bool = True, grid: bool = False) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(frame and side in ("left", "bottom"))
        spine.set(color=FAINT, linewidth=0.8)
    axes.tick_params(which="both", labelsize=SMALL, labelcolor=INK, color=FAINT, width=0.8, length=3)
    axes.tick_params(which="minor", length=0)
    if grid:
        axes.grid(color="#ebebeb", linewidth=0.8)
        axes.set_axisbelow(True)


def style_bar(bar: Any, label: str) -> None:
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=SMALL, color=INK)
    bar.ax.tick_params(labelsize=SMALL, labelcolor=INK, length=0)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def set_title(axes: "Axes", text: str) -> None:
    if text:
        axes.set_title(literal(text), fontsize=TITLE, color=INK, loc="left", pad=8)


def cell_lines(axes: "Axes", rows: int, columns: int) -> None:
    """Draws thin white lines between the cells of a map."""
    low, high = sorted(axes.get_ylim())
    axes.vlines(np.arange(1, columns) - 0.5, low, high, color="white", linewidth=0.5)
    if rows:
        axes.hlines(np.arange(1, rows) - 0.5, -0.5, columns - 0.5, color="white", linewidth=0.5)


def whole_numbers(axis: Any, most: int = 6) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def marker_area(count: int) -> float:
    """Area of a marker in square points: smaller where there are many."""
    return float(np.clip(6000 / max(count, 1), 5, 24))


def percent(share: float) -> str:
    """Writes a share as `37 %`; tenths only next to 0 and 100, which stand for none and all."""
    if 0 < share < 0.01 or 0.99 < share < 1:
        return f"{min(max(100 * share, 0.1), 99.9):.1f} %"
    return f"{100 * share:.0f} %"


def shortened(name: str, most: int) -> str:
    """Cuts the middle out of a long name: names of layers differ in the number of a block or at their end."""
    if len(name) <= most:
        return name
    kept = most - 1
    return f"{name[: kept // 2]}…{name[-(kept - kept // 2) :]}"


def literal(text: str) -> str:
    """Takes the dollar signs of a user's own names literally, not as mathematics."""
    return text.replace("$", r"\$")
