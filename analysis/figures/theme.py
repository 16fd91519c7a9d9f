"""The look of figures, light and dark, as configurations of Vega: figures name no colours but those with a meaning."""

from __future__ import annotations

from typing import Any

# As in `regx.training.plots.style`, which cannot be imported here: it imports numpy.
STATUS_COLOURS = {"dead": "#db5e56", "linear": "#dbc256", "nonlinear": "#5ea28d"}
# Those of a run's figures, and three of Paul Tol's muted ones.
CLASS_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"]
_MORE = ["#882255", "#999933", "#332288"]
CATEGORIES = len(CLASS_COLOURS) + len(_MORE)  # things without an order that colours tell apart
SCHEME = "viridis"  # of heat-maps, on both backgrounds
_FONT = "DejaVu Sans, Helvetica Neue, Arial, sans-serif"


def _theme(
    background: str, ink: str, muted: str, grid: str, categories: list[str], ramp: list[float]
) -> dict[str, Any]:
    """A configuration of Vega.

    Args:
        background: behind all.
        ink: of text and lines that are read.
        muted: of what is there to be compared with.
        grid: of grid lines.
        categories: colours of things without an order.
        ramp: part of the scheme that things with an order are coloured by: without what the background swallows.
    """
    text = {"labelColor": ink, "titleColor": ink, "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal"}
    return {
        "background": background,
        "font": _FONT,
        "view": {"stroke": None},
        "title": {
            "anchor": "start",
            "color": ink,
            "fontSize": 14,
            "fontWeight": 600,
            "subtitleColor": muted,
            "subtitleFontSize": 10.5,
            "subtitlePadding": 5,
            "offset": 12,
        },
        "axis": text
        | {"domainColor": muted, "tickColor": muted, "gridColor": grid, "tickSize": 4, "labelPadding": 4}
        | {"titlePadding": 8},
        "axisX": {"grid": False},
        "axisY": {"domain": False, "ticks": False},
        "header": text | {"labelFontWeight": 600, "labelPadding": 6},
        "legend": text | {"symbolStrokeWidth": 3},
        "mark": {"color": categories[0]},
        "text": {"color": ink, "fontSize": 11},
        "rule": {"color": muted},
        "tick": {"color": ink},
        "boxplot": {
            "box": {"color": muted, "opacity": 0.35},
            "rule": {"color": muted},
            "median": {"fill": ink, "thickness": 3, "opacity": 1},
        },
        "style": {
            "muted": {"color": muted},
            "threshold": {"color": categories[1], "strokeDash": [5, 4], "strokeWidth": 1.5},
            "accent": {"color": categories[1]},
        },
        "range": {
            "category": categories,
            "ordinal": {"scheme": SCHEME, "extent": ramp},
            "ramp": {"scheme": SCHEME},
            "heatmap": {"scheme": SCHEME},
        },
    }


# Okabe and Ito's palette; on the dark background its lighter colours come first.
THEMES: dict[str, dict[str, Any]] = {
    "light": _theme(
        "#ffffff",
        "#333333",
        "#8a8a8a",
        "#ebebeb",
        [*CLASS_COLOURS, *_MORE],
        [0.0, 0.85],
    ),
    "dark": _theme(
        "#16181d",
        "#e4e6ea",
        "#8d939e",
        "#2b2f37",
        ["#56b4e9", "#e69f00", "#1fbf8f", "#cc79a7", "#f0e442", "#e8743b", "#a8a8a8", "#dd88b5", "#bbbb66", "#9c92ff"],
        [0.2, 1.0],
    ),
}
