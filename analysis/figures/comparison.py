"""Runs compared by one number: maps of two parameters, and boxes over seeds."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from statistics import median
from typing import Any

from regx.analysis.figures import vega
from regx.analysis.figures.figure import Figure, slug
from regx.analysis.figures.study import (
    MOST_PANELS,
    CannotDraw,
    Study,
    numeric,
    rounded,
    short,
    text,
    values_of,
)
from regx.analysis.runs import check_metric, identity
from regx.training.log_keys import rises

_MOST_POINTS = 1000
_MOST_BOXES = 24
_MOST_MAPS = 3
_LEAST_IN_BOX = 5  # runs, of which quartiles tell something


def heat_maps(study: Study) -> list[Figure]:
    """Every two numeric parameters that vary: the median metric in a cell; techniques in panels."""
    names = [name for name in study.axes if name != "label" and numeric(study.runs, name)]
    pairs = list(combinations(names, 2))
    if not pairs:
        raise CannotDraw("a heat-map needs two numeric parameters that vary")
    size = {name: len(values_of(study.runs, name)) for name in names}
    pairs.sort(key=lambda pair: -size[pair[0]] * size[pair[1]])
    maps = [_heat_map(study, *pair) for pair in pairs]
    telling = [figure for figure in maps if len({row["value"] for row in figure.rows}) > 1]
    return (telling or maps)[:_MOST_MAPS]


def _heat_map(study: Study, first: str, second: str) -> Figure:
    metric = _metric(study)
    # The one with more values goes along the horizontal axis.
    across, down = sorted((first, second), key=lambda name: -len(values_of(study.runs, name)))
    labels = values_of(study.runs, "label") if "label" in study.axes else [None]
    by_label = 1 < len(labels) <= MOST_PANELS
    axes = [*(["label"] if by_label else []), down, across]
    rows = []
    for item in study.grouped(study.runs, axes):
        found = [value for run in item.runs if (value := run.value(metric)) is not None]
        if found:
            row = {"panel": text(item.setting["label"]) if by_label else "", "x": item.setting[across]}
            rows.append(row | {"y": item.setting[down], "value": rounded(median(found)), "runs": len(found)})
    if not rows:
        raise CannotDraw(f"no finished run has {metric!r}")
    others = [short(name) for name in study.axes if name not in axes]
    key = study.title_of(metric)
    over = [*(["seeds"] if study.most_seeds > 1 else []), *others]
    middle = f" Median over {_listed(over)}, at" if over else " At"
    caption = f"{study.counted()}.{middle} the epoch with the best {study.title_of('monitored')}."
    names = list(dict.fromkeys(row["panel"] for row in rows))
    spec = _map_spec(rows, names, short(across), short(down), key)
    heading = f"{vega.spelled(key)} over {short(across)} and {short(down)}"
    name = f"heat-map-{slug(short(across))}-{slug(short(down))}"
    return Figure(name, heading[0].upper() + heading[1:], caption, spec, rows)


def _map_spec(rows: list[dict[str, Any]], names: list[str], across: str, down: str, key: str) -> dict[str, Any]:
    values = [row["value"] for row in rows]
    low, high = min(values), max(values)
    share = vega.is_share(key)
    form = ".1%" if share and high - low < 0.05 else ".0%" if share else ".3~g"
    many = max(len({row["x"] for row in rows}) * vega.columns_of(len(names)), 1)
    # A ramp that is bright where the metric is good.
    good_high = rises(key)
    colour = {"field": "value", "type": "quantitative"}
    colour |= {"scale": {"domain": [low, high], "nice": False, "reverse": not good_high}}
    colour |= {"legend": {"title": None, "format": form, "gradientLength": 90}}
    x = {
        "field": "x",
        "type": "ordinal",
        "title": across,
        "axis": {"labelAngle": 0, "labelOverlap": True, "format": vega.NUMBER},
    }
    y = {"field": "y", "type": "ordinal", "title": down, "sort": "descending", "axis": {"format": vega.NUMBER}}
    tooltip = [
        {"field": field, "type": "quantitative", "title": title} for field, title in (("x", across), ("y", down))
    ]
    tooltip += [{"field": "value", "type": "quantitative", "format": ".4~g"}, {"field": "runs", "type": "quantitative"}]
    cells = {"mark": {"type": "rect"}, "encoding": {"x": x, "y": y, "color": colour, "tooltip": tooltip}}
    edge = low + (0.62 if good_high else 0.38) * (high - low)
    content = {"field": "value", "type": "quantitative", "format": form}
    words = vega.cell_text(x, y, content, f"datum.value {'>' if good_high else '<'} {edge}")
    height = max(len({row["y"] for row in rows}) * 34, 100)
    return vega.panels(rows, [cells, *([words] if many <= 14 else [])], names, height, height)


def box_plots(study: Study) -> list[Figure]:
    """A box per technique, and one per value of every parameter that varies, with the runs as points."""
    found = []
    by_label = {run.name: run.setting("technique") for run in study.runs}
    if len(set(by_label.values())) > 1:
        found.append(_boxes(study, "technique"))
    for name in study.axes:
        if name != "label" and 1 < len(values_of(study.runs, name)) <= _MOST_BOXES and not _is_named(study, name):
            found.append(_boxes(study, name))
    if not found:
        raise CannotDraw("boxes need something that varies beside the seed")
    return found


def _is_named(study: Study, name: str) -> bool:
    """Whether the technique says no less than this setting."""
    values = {(run.setting("technique"), identity(run.setting(name))) for run in study.runs}
    return len(values) == len({technique for technique, _ in values}) and any(run.label for run in study.runs)


def _boxes(study: Study, name: str) -> Figure:
    metric = _metric(study)
    others = [other for other in study.axes if other != name and not (name == "technique" and other == "label")]
    panel = next((other for other in others if 1 < len(values_of(study.runs, other)) <= 4), None)
    panel = panel if len(others) == 1 else None
    rows = []
    for run in study.runs:
        value = run.value(metric)
        if value is not None:
            row = {
                "panel": study.name_of({panel: run.setting(panel)}) if panel else "",
                "group": text(run.setting(name)),
            }
            rows.append(row | {"value": rounded(value), "seed": run.seed, "run": run.name})
    if not rows:
        raise CannotDraw(f"no finished run has {metric!r}")
    groups = list(dict.fromkeys(text(value) for value in values_of(study.runs, name)))
    if not numeric(study.runs, name):  # the best one above
        middle = {group: median(row["value"] for row in rows if row["group"] == group) for group in groups}
        groups.sort(key=lambda group: middle[group], reverse=rises(study.title_of(metric)))
    groups = groups[:_MOST_BOXES]
    rows = [row for row in rows if row["group"] in groups]
    panels = [study.name_of({panel: value}) for value in values_of(study.runs, panel)] if panel else [""]
    over = [*(["seeds"] if study.most_seeds > 1 else []), *(short(other) for other in others if other != panel)]
    key = study.title_of(metric)
    most = max(Counter((row["panel"], row["group"]) for row in rows).values())
    marks = "Point: a run"
    if most >= _LEAST_IN_BOX:
        marks = f"Box: quartiles and median over {_listed(over)}; whiskers: to the least and the largest; point: a run"
    elif most > 1:
        marks = f"Point: a run; bar: median over {_listed(over)}"
    caption = f"{study.counted()}. {marks}, at the epoch with the best {study.title_of('monitored')}."
    spec = _box_spec(rows, groups, panels, short(name), key, most)
    heading = f"{vega.spelled(key)} by {short(name)}"
    figure = f"box-plots-{slug(short(name))}"
    return Figure(figure, heading[0].upper() + heading[1:], caption, spec, rows)


def _listed(things: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(things[:-1]), things[-1])))


def _box_spec(
    rows: list[dict[str, Any]], groups: list[str], panels: list[str], name: str, key: str, most: int
) -> dict[str, Any]:
    """Boxes over points; with at most `most` runs in one, which are few, bars at the medians or points alone."""
    step = 34 if len(groups) <= 12 else 24
    drawn = rows[:: max(1, -(-len(rows) // _MOST_POINTS))]
    counts: Counter[tuple[str, str]] = Counter()
    points = []
    for row in drawn:
        place = counts[row["panel"], row["group"]] = counts[row["panel"], row["group"]] + 1
        # The golden ratio scatters points evenly, however many there are, and the same ones at each drawing.
        jitter = place * 0.618 % 1 if most > 1 else 0.5
        points.append({field: row[field] for field in ("panel", "group", "value", "seed")} | {"jitter": jitter})
    low, high = vega.bounds([row["value"] for row in rows], share=vega.is_share(key))
    x = {"field": "value", "type": "quantitative", "title": vega.spelled(key)}
    x |= {"scale": {"domain": [low, high], "nice": False, "zero": False}}
    x |= {"axis": {"format": vega.PERCENT if vega.is_share(key) else vega.NUMBER, "tickCount": 6, "grid": True}}
    title = None if name in ("technique", "label") else name
    y = {
        "field": "group",
        "type": "nominal",
        "sort": groups,
        "title": title,
        "axis": {"labelLimit": 240, "grid": False},
    }
    few = most < _LEAST_IN_BOX
    boxes = {"mark": {"type": "boxplot", "extent": "min-max", "size": step * 0.6}, "encoding": {"x": x, "y": y}}
    bars = {
        "mark": {"type": "tick", "thickness": 3, "size": step * 0.6},
        "encoding": {"x": x | {"aggregate": "median"}, "y": y},
    }
    offset = {"field": "jitter", "type": "quantitative", "scale": {"domain": [-0.6, 1.6]}}
    tooltip = [{"field": "seed", "type": "ordinal"}, {"field": "value", "type": "quantitative"}]
    scatter = {
        "mark": {"type": "point", "filled": True, "size": 44 if few else 14, "opacity": 0.8 if few else 0.55},
        "encoding": {"x": x, "y": y, "yOffset": offset, "tooltip": tooltip},
    }
    layers = [scatter, boxes] if not few else [bars, scatter] if most > 1 else [scatter]
    return vega.panels(points, layers, panels, {"step": step}, {"step": step})


def _metric(study: Study) -> str:
    study.check_one_metric()
    metric = study.judged_by()
    check_metric(study.runs, metric, "metric")
    return metric
