"""How curves over epochs look: lines with bands and, in the place of a legend, their names at their end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regx.analysis.figures import vega
from regx.analysis.figures.study import log_spaced, rounded


@dataclass(frozen=True)
class Axis:
    """The vertical axis of curves.

    Attributes:
        title: what is drawn.
        share: whether it is written in percent.
        log: whether it is logarithmic where the values are spread so.
        floor: what is below is not shown.
    """

    title: str
    share: bool = False
    log: bool = False
    floor: float = -math.inf


def lines(
    rows: list[dict[str, Any]],
    names: Sequence[str],
    series: Sequence[str],
    axis: Axis,
    *,
    ordered: bool,
    band: bool,
) -> dict[str, Any]:
    """Lines with a band and, at their right end, their names.

    Args:
        rows: `panel`, `series`, `epoch`, `median`, `runs` and, with a band, `low` and `high`.
        names: the panels.
        series: the lines.
        axis: the vertical axis.
        ordered: whether the lines have an order.
        band: whether to draw it.
    """
    count = len(names)
    width, height = vega.panel_width(count), vega.HEIGHT if count == 1 else 180
    values = [row[end] for row in rows for end in (("low", "high") if band else ("median",))]
    log = axis.log and log_spaced(values)
    clipped = min(values) < axis.floor
    low, high = vega.bounds([max(value, axis.floor) for value in values], log=log, share=axis.share)
    labelled = _with_labels(rows, names, series, low, high, height, log=log)
    nested = _nested(labelled, names, series, low, high)
    room = vega.room_for(series, width) if len(series) > 1 else 0.0
    epochs = [row["epoch"] for row in rows]
    x = vega.x_epochs(min(epochs), max(epochs), room, count)
    colour = vega.colour("series", series, ordered=ordered)
    ticks = {"format": vega.PERCENT if axis.share else vega.NUMBER, "tickCount": 6}
    if log:
        ticks |= {"values": vega.log_ticks(low, high)}
    title = axis.title + (f" (below {axis.floor:g} not shown)" if clipped else "")
    scale = {"type": "log", "domain": [low, high], "nice": False, "clamp": clipped}
    if not log:
        scale |= {"type": "linear", "zero": False}
    y = {"type": "quantitative", "title": title, "scale": scale, "axis": ticks}
    fields = [field for field in _FIELDS if field in rows[0] and (field != "series" or len(series) > 1)]
    tooltip = [{"field": field, "type": _FIELDS[field]} for field in fields]
    encoding = {"x": x, "color": colour}
    bands = [
        {
            "mark": {"type": "area", "opacity": 0.18 if len(series) <= 3 else 0.12, "line": False, "clip": True},
            "encoding": encoding | {"y": y | {"field": "low"}, "y2": {"field": "high"}},
        }
    ]
    middle = {
        "mark": {"type": "line", "clip": True},
        "encoding": encoding | {"y": y | {"field": "median"}, "tooltip": tooltip},
    }
    if nested:
        width_ = {"field": "width", "type": "quantitative", "scale": None, "legend": None}
        middle["encoding"]["strokeWidth"] = width_
    labels = {
        "transform": [{"filter": "isValid(datum.at)"}],
        "mark": {"type": "text", "align": "left", "dx": 6, "fontWeight": 600},
        "encoding": encoding | {"y": y | {"field": "at"}, "text": {"field": "series", "type": "nominal"}},
    }
    if room == vega.MOST_ROOM:  # a name that is longer still is cut
        labels["mark"]["limit"] = {"expr": f"{room} * width"}
    layers = [*(bands if band else []), middle, *([labels] if len(series) > 1 else [])]
    return vega.panels(labelled, layers, names)


# Pixels: of a line, of what a line under others juts out on both sides together; of how many it does so; and how much
# of the height apart lines still lie on each other.
_LINE, _RIM, _MOST_RIMS, _APART = 2, 3, 3, 0.004


def _nested(rows: list[dict[str, Any]], names: Sequence[str], series: Sequence[str], low: float, high: float) -> bool:
    """Gives rows a `width`, larger for lines that others cover from end to end; whether there are any."""
    found = False
    for panel in names:
        of = {item: [row for row in rows if row["panel"] == panel and row["series"] == item] for item in series}
        for place, item in enumerate(series):
            mine = {row["epoch"]: row["median"] for row in of[item]}
            above = sum(_alike(mine, of[other], _APART * (high - low)) for other in series[place + 1 :])
            found = found or above > 0
            for row in of[item]:
                row["width"] = _LINE + _RIM * min(above, _MOST_RIMS)
    return found


def _alike(mine: dict[int, float], others: list[dict[str, Any]], apart: float) -> bool:
    together = [(mine[row["epoch"]], row["median"]) for row in others if row["epoch"] in mine]
    return bool(together) and all(abs(a - b) <= apart for a, b in together)


def covers(spec: dict[str, Any]) -> bool:
    """Whether a line of this specification lies on another from end to end."""
    return any(row["width"] > _LINE for row in spec["data"]["values"])


_FIELDS = {"series": "nominal"} | dict.fromkeys(("epoch", "median", "low", "high", "runs"), "quantitative")


def _with_labels(
    rows: list[dict[str, Any]],
    names: Sequence[str],
    series: Sequence[str],
    low: float,
    high: float,
    height: float,
    *,
    log: bool,
) -> list[dict[str, Any]]:
    """The rows with the height of its label, `at`, in the last one of every line."""
    labelled = [dict(row) for row in rows]
    for panel in names:
        last = {row["series"]: row for row in labelled if row["panel"] == panel}
        ends = [last[item] for item in series if item in last]
        places = vega.spread([min(max(row["median"], low), high) for row in ends], low, high, height, log=log)
        for row, place in zip(ends, places, strict=True):
            row["at"] = rounded(place)
    return labelled
