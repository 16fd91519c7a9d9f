"""Descents in two dimensions: contours of a loss, and the ways that lead down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from regx.analysis.figures import vega
from regx.analysis.figures.figure import Figure
from regx.analysis.figures.study import rounded

Point = tuple[float, float]
_MOST_POINTS = 120  # of a way
_CORNERS = 72  # of a contour


def ways(
    name: str, title: str, caption: str, curvature: Point, optimum: Point, paths: Mapping[str, Sequence[Point]]
) -> Figure:
    """Ways over the contours of `sum c_i / 2 (w_i - o_i)^2`, with a mark where each of them ends.

    Args:
        name: of the figure.
        title: what it shows.
        caption: how it was computed.
        curvature: c.
        optimum: o.
        paths: name of a way -> its points, the start first.
    """
    start = next(iter(paths.values()))[0]
    most = sum(c / 2 * (w - o) ** 2 for c, w, o in zip(curvature, start, optimum, strict=True))
    rows: list[dict[str, Any]] = []
    for level in (most * factor**2 for factor in (0.06, 0.16, 0.3, 0.5, 0.75, 1.0)):
        for corner in range(_CORNERS + 1):
            angle = 2 * math.pi * corner / _CORNERS
            x, y = (
                o + math.sqrt(2 * level / c) * turn
                for c, o, turn in zip(curvature, optimum, (math.cos(angle), math.sin(angle)), strict=True)
            )
            rows.append({"kind": "contour", "way": f"{level:.3g}", "step": corner, "w0": rounded(x), "w1": rounded(y)})
    for way, points in paths.items():
        for step in thinned(len(points)):
            w0, w1 = points[step]
            rows.append({"kind": "way", "way": way, "step": step, "w0": rounded(w0), "w1": rounded(w1)})
        rows[-1] |= {"kind": "end", "label": f"{way} ({points[-1][0]:.3g}, {points[-1][1]:.3g})"}
    names = list(paths)
    ends = [(rounded(points[-1][0]) or 0.0, rounded(points[-1][1]) or 0.0) for points in paths.values()]
    low = min(0.0, *(y for _, y in ends)) - 0.4
    high = max(start[1], optimum[1]) + 0.3
    x = {"field": "w0", "type": "quantitative", "title": "w0"}
    x |= {"axis": {"format": vega.NUMBER, "tickCount": 9, "grid": False}}
    x |= {"scale": {"domain": [min(0.0, *(x for x, _ in ends)) - 0.4, start[0] + 0.4], "nice": False}}
    y = {"field": "w1", "type": "quantitative", "title": "w1"}
    y |= {
        "scale": {"domain": [low, high], "nice": False},
        "axis": {"format": vega.NUMBER, "tickCount": 6, "grid": False},
    }
    order = {"field": "step", "type": "quantitative"}
    colour = {"color": vega.colour("way", names, ordered=False)}
    line = {"type": "line", "clip": True}
    layers = [
        {
            "transform": [{"filter": "datum.kind == 'contour'"}],
            "mark": line | {"style": "muted", "strokeWidth": 1, "opacity": 0.55},
            "encoding": {"x": x, "y": y, "order": order, "detail": {"field": "way", "type": "nominal"}},
        },
        {
            "transform": [{"filter": "datum.kind != 'contour'"}],
            "mark": line | {"strokeWidth": 2.5},
            "encoding": {"x": x, "y": y, "order": order} | colour,
        },
        {
            "transform": [{"filter": "datum.kind == 'end'"}],
            "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
            "encoding": {"x": x, "y": y} | colour,
        },
        {
            "transform": [{"filter": "datum.kind == 'end'"}],
            "mark": {"type": "text", "align": "right", "dx": -9, "fontWeight": 600},
            "encoding": {"x": x, "y": y, "text": {"field": "label", "type": "nominal"}} | colour,
        },
    ]
    return Figure(
        name, title, caption, vega.single(rows, layers, 380), [row for row in rows if row["kind"] != "contour"]
    )


def thinned(count: int) -> list[int]:
    """At most 120 of so many steps: close together at the start, where the way is long."""
    if count <= _MOST_POINTS:
        return list(range(count))
    found = {round((count - 1) ** (place / (_MOST_POINTS - 1))) for place in range(_MOST_POINTS)}
    return sorted({0, *found, count - 1})


def near_zero(name: str, title: str, caption: str, curves: Mapping[str, Sequence[float]], first: int) -> Figure:
    """One weight over the last steps, way by way: does it reach zero?

    Args:
        name: of the figure.
        title: what it shows.
        caption: how it was computed.
        curves: name of a way -> the weight after every step; the same number of each.
        first: number of the first of these steps.
    """
    rows = [
        {"way": way, "step": step, "w0": rounded(value)}
        for way, values in curves.items()
        for step, value in enumerate(values, start=first)
    ]
    x = {
        "field": "step",
        "type": "quantitative",
        "title": "step",
        "scale": {"nice": False, "zero": False},
        "axis": {"format": "d"},
    }
    y = {"field": "w0", "type": "quantitative", "title": "w0", "axis": {"format": vega.NUMBER, "tickCount": 6}}
    names = list(curves)
    colour = {"color": vega.colour("way", names, ordered=False, legend={"title": None, "orient": "top"})}
    zero = {"mark": {"type": "rule", "style": "muted"}, "encoding": {"y": {"datum": 0, "type": "quantitative"}}}
    line = {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {"x": x, "y": y} | colour}
    return Figure(name, title, caption, vega.single(rows, [zero, line], 240), rows)
