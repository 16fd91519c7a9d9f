"""Quality against size: the points of runs, and the line of what no configuration beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

from regx.analysis.figures import vega
from regx.analysis.figures.figure import WIDTH, Figure
from regx.analysis.figures.labels import placed
from regx.analysis.figures.study import CannotDraw, Study, log_spaced, rounded
from regx.analysis.figures.theme import CATEGORIES
from regx.training.log_keys import rises

_MOST_POINTS = 1000
# Name of the figure -> what is on its horizontal axis, the columns of which it is the quotient, and whether it costs.
_SIZES = {
    "sparsity": ("weights that are exactly 0", "sparsity/elements", None, False),
    "parameters": ("parameters left", "sparsity/parameters_left", "sparsity/parameters", True),
    "macs": ("multiply-adds left", "sparsity/macs_left", "sparsity/macs", True),
}


def frontier(study: Study) -> list[Figure]:
    """Quality against sparsity, parameters and multiply-adds left, with the Pareto line."""
    study.check_one_metric()
    figures = [figure for name in _SIZES if (figure := _frontier(study, name))]
    if not figures:
        raise CannotDraw("no finished run has counted its zeros (--log-sparsity yes), or all have the same")
    return figures


def _frontier(study: Study, name: str) -> Figure | None:
    title, part, whole, costs = _SIZES[name]
    metric = study.judged_by()
    key = study.title_of(metric)
    rows, medians = [], []
    for item in study.configurations:
        points = []
        for run in item.runs:
            size, dense = run.value(part), 1.0 if whole is None else run.value(whole)
            value = run.value(metric)
            if size is not None and dense and value is not None:
                points.append((size / dense, value))
                row = {"configuration": item.name, "kind": "run", "seed": run.seed}
                rows.append(row | {"size": rounded(size / dense), "value": rounded(value)})
        if points:
            x, y = (median(values) for values in zip(*points, strict=True))
            row = {"configuration": item.name, "kind": "median", "size": rounded(x), "value": rounded(y)}
            medians.append(row | {"runs": len(points)})
    places = [(row["size"], row["value"]) for row in medians]
    if len({x for x, _ in places}) < 2:
        return None
    best = pareto(places, low_x=costs, low_y=not rises(key))
    medians = [row | {"pareto": index in best} for index, row in enumerate(medians)]
    low, high = _fences([row["value"] for row in medians], rises=rises(key))
    shown = [row for row in medians if low <= row["value"] <= high]
    drawn = [row for row in rows if low <= row["value"] <= high]
    far = [row["configuration"] for row in medians if row not in shown]
    far_note = f"; far off and not drawn: {', '.join(far[:3])}{' and others' if len(far) > 3 else ''}" if far else ""
    points = drawn[:: max(1, math.ceil(len(drawn) / _MOST_POINTS))]
    fewer = f"; {len(points)} of {len(drawn)} runs are drawn" if len(points) < len(drawn) else ""
    each = "Small: a run; large: median over seeds" if len(rows) > len(medians) else "A point is a run"
    caption = (
        f"{study.counted()}{far_note}{fewer}. {each}; line: configurations that no other one beats in both. Size and"
        f" metric are of the epoch with the best {study.title_of('monitored')}."
    )
    heading = f"{vega.spelled(key)} against {title}"
    spec = _spec([*points, *shown], title, key, costs=costs)
    return Figure(f"frontier-{name}", heading[0].upper() + heading[1:], caption, spec, [*rows, *medians])


def _fences(values: Sequence[float], *, rises: bool) -> tuple[float, float]:
    """Tukey's fence towards the bad side: beyond it are runs that have collapsed, and would be most of the figure."""
    if len(values) < 5:
        return -math.inf, math.inf
    first, _, third = quantiles(values, n=4, method="inclusive")
    reach = 3 * (third - first) or 1e-9
    return (first - reach, math.inf) if rises else (-math.inf, third + reach)


def pareto(points: Sequence[tuple[float, float]], *, low_x: bool, low_y: bool) -> set[int]:
    """Numbers of the points that no other one beats in one coordinate without being worse in the other.

    Args:
        points: x and y.
        low_x: whether less x is better.
        low_y: whether less y is better.
    """
    signed = [(-x if low_x else x, -y if low_y else y) for x, y in points]
    return {
        index
        for index, (x, y) in enumerate(signed)
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in signed)
    }


def _spec(rows: list[dict[str, Any]], title: str, key: str, *, costs: bool) -> dict[str, Any]:
    medians = [row for row in rows if row["kind"] == "median"]
    names = [row["configuration"] for row in medians]
    few = len(names) <= CATEGORIES
    log = costs and log_spaced(row["size"] for row in rows)
    left, right = vega.bounds([row["size"] for row in rows], log=log)
    bottom, top = vega.bounds([row["value"] for row in rows])
    scale = {"type": "log" if log else "linear", "domain": [left, right], "nice": False, "reverse": costs}
    ticks = {"values": vega.log_ticks(left, right)} if log else {"tickCount": 6}
    x = {"field": "size", "type": "quantitative", "title": title, "scale": scale}
    x |= {"axis": ticks | {"format": ".2~p", "grid": True}}
    y = {"field": "value", "type": "quantitative", "title": vega.spelled(key)}
    y |= {"scale": {"domain": [bottom, top], "nice": False}}
    y |= {"axis": {"format": ".3~p" if vega.is_share(key) else vega.NUMBER, "tickCount": 6}}
    colour: dict[str, Any] = {"color": vega.colour("configuration", names, ordered=False)} if few else {}
    tooltip: list[dict[str, Any]] = [{"field": "configuration", "type": "nominal"}]
    tooltip += [{"field": field, "type": "quantitative"} for field in ("size", "value", "runs")]
    line = {
        "transform": [{"filter": "datum.kind == 'median' && datum.pareto"}],
        # What can be had at a size: the quality of the next smaller one.
        "mark": {"type": "line", "style": "muted", "strokeWidth": 1.5}
        | {"interpolate": "step-after" if costs else "step-before"},
        "encoding": {"x": x, "y": y, "order": {"field": "size", "type": "quantitative"}},
    }
    small = {
        "transform": [{"filter": "datum.kind == 'run'"}],
        "mark": {"type": "point", "filled": True, "size": 18, "opacity": 0.4} | ({} if few else {"style": "muted"}),
        "encoding": {"x": x, "y": y} | colour,
    }
    large = {
        "transform": [{"filter": "datum.kind == 'median'"}],
        "mark": {"type": "point", "filled": True, "size": 75, "opacity": 1},
        "encoding": {"x": x, "y": y, "tooltip": tooltip} | colour,
    }
    labels = [
        {
            "transform": [{"filter": f"datum.side == '{side}'"}],
            "mark": {"type": "text", "align": "left" if side == "right" else "right", "fontWeight": 600},
            "encoding": {"x": x | {"field": "label_x"}, "y": y | {"field": "label_y"}}
            | {"text": {"field": "configuration", "type": "nominal"}}
            | colour,
        }
        for side in ("right", "left")
    ]
    rows = _with_labels(rows, (left, right), (bottom, top), costs=costs, log=log)
    return vega.single(rows, [line, small, large, *labels])


def _with_labels(
    rows: list[dict[str, Any]], x: tuple[float, float], y: tuple[float, float], *, costs: bool, log: bool
) -> list[dict[str, Any]]:
    """The rows with the place of its name in every median that has room for one, those of the Pareto line first."""

    def share(value: float) -> float:
        low, high, value = (math.log(v) if log else v for v in (*x, value))
        along = (value - low) / (high - low)
        return 1 - along if costs else along

    def size(along: float) -> float:
        along = 1 - along if costs else along
        return x[0] * (x[1] / x[0]) ** along if log else x[0] + (x[1] - x[0]) * along

    named = [index for index, row in enumerate(rows) if row["kind"] == "median"]
    named.sort(key=lambda index: not rows[index]["pareto"])
    points = [
        (share(row["size"]) * WIDTH, (y[1] - row["value"]) / (y[1] - y[0]) * vega.HEIGHT)
        for row in (rows[index] for index in named)
    ]
    found = placed([rows[index]["configuration"] for index in named], points, WIDTH, vega.HEIGHT)
    labelled = [dict(row) for row in rows]
    for place, label in found.items():
        height = y[1] - label.y / vega.HEIGHT * (y[1] - y[0])
        more = {"label_x": rounded(size(label.x / WIDTH), 6), "label_y": rounded(height, 6), "side": label.side}
        labelled[named[place]] |= more
    return labelled
