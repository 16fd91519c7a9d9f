"""The figures that are a report's own: the answer, every run, and the curves of single runs."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regx.analysis.configurations import row_names
from regx.analysis.figures import Figure
from regx.analysis.report.answer import Answer
from regx.analysis.report.asked import setting_text, shown_value
from regx.analysis.report.records import METRIC_WORDS, Record
from regx.analysis.runs import Run, identity
from regx.analysis.statistics import confidence_interval
from regx.errors import RunFailed

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
# Rows of a figure, and colours in it: more cannot be told apart.
_ROWS, _COLOURS = 24, 6
# Points of a run's curve.
POINTS = 60
# Pixels: of a row's name, and of a lane of dots below it.
_NAME, _LANE = 20, 18


def of_answer(found: Answer, records: Sequence[Record]) -> Figure | None:
    """Every candidate: its seeds, their mean and its interval; None where there is but one seed of one."""
    rows = found.rows[:_ROWS]
    if found.baseline is not None and found.baseline >= _ROWS:
        rows = [*rows[:-1], found.rows[found.baseline]]
    if sum(len(row.by_seed) for row in rows) < 2:
        return None
    base = None if found.baseline is None else found.rows[found.baseline]
    seeds, means = [], []
    for row in rows:
        role = "baseline" if row is base else "others"
        values = list(row.by_seed.values())
        interval = confidence_interval(values) if len(values) > 2 else None
        seeds += [{"row": row.name, "role": role, "value": _short(v), "seed": seed} for seed, v in row.by_seed.items()]
        low, high = interval or (None, None)
        means.append(
            {"row": row.name, "role": role, "mean": _short(row.mean), "n": len(values)}
            | {"low": _short(low), "high": _short(high)}
        )
    order = [row.name for row in rows]
    step = _NAME + _LANE
    y = _rows_axis(order, step)
    x = _across(found.words)
    colour = {"field": "role", "type": "nominal", "scale": {"domain": ["others", "baseline"]}, "legend": None}
    tip = [{"field": "row", "title": "configuration"}]
    chance = _chance(records)
    layers: list[dict[str, Any]] = [
        _row_names(order, step),
        {
            "mark": {"type": "point", "filled": True, "size": 30, "opacity": 0.35},
            "encoding": {"y": y, "x": x | {"field": "value"}, "color": colour}
            | {"tooltip": [*tip, {"field": "seed"}, {"field": "value", "title": found.words}]},
        },
        {
            "data": {"values": [mean for mean in means if mean["low"] is not None]},
            "mark": {"type": "rule", "strokeWidth": 3},
            "encoding": {"y": y, "x": x | {"field": "low"}, "x2": {"field": "high"}, "color": colour},
        },
        {
            "data": {"values": means},
            "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1},
            "encoding": {"y": y, "x": x | {"field": "mean"}, "color": colour}
            | {"tooltip": [*tip, {"field": "mean"}, {"field": "n"}, {"field": "low"}, {"field": "high"}]},
        },
    ]
    if chance is not None:
        rule = {"type": "rule", "strokeDash": [3, 3], "style": "muted"}
        layers.append(
            {"data": {"values": [{"chance": chance}]}, "mark": rule, "encoding": {"x": x | {"field": "chance"}}}
        )
    spec = _single(layers, seeds, step)
    left = len(found.rows) - len(rows)
    over = " (the mean over datasets)" if len(rows[0].group.entries) > 1 else ""
    caption = (
        f"Small dots: {found.words} of every seed{over}; large dot and bar: mean and its 95 % interval "
        "(Student's t, from three seeds on)."
        + (" The second colour is the baseline." if base else "")
        + (f" Dashed: chance, {chance:g}." if chance is not None else "")
        + (f" {left} more configurations, worse by validation, are left out." if left else "")
    )
    return Figure("answer", f"{found.words[:1].upper()}{found.words[1:]} by configuration", caption, spec, means)


def of_all(found: Answer, records: Sequence[Record]) -> Figure | None:
    """Every finished run, to be filtered; None where there is nothing to compare."""
    shown = [
        (i, r.run) for i, r in enumerate(records) if r.run.finished and _short(r.run.best.get(found.metric)) is not None
    ]
    row_by, colour_by = _told_apart(found, [run for _, run in shown])
    if len(shown) < 3 or row_by is None:
        return None
    shown.sort(key=lambda pair: _sortable(pair[1].setting(row_by)))
    rows: list[dict[str, Any]] = [
        {
            "run": index,
            "row": setting_text(row_by, run.setting(row_by)),
            "value": _short(run.best[found.metric]),
            "name": run.name,
        }
        | ({"colour": shown_value(run.setting(colour_by))} if colour_by else {})
        for index, run in shown
    ]
    order = list(dict.fromkeys(row["row"] for row in rows))
    x = _across(found.words)
    more: dict[str, Any] = {}
    lanes = 1
    if colour_by:
        colours = sorted({row["colour"] for row in rows}, key=_sortable)
        lanes = len(colours)
        colour = {"field": "colour", "type": "nominal", "sort": colours, "scale": {"domain": colours}}
        legend = {"orient": "top", "symbolStrokeWidth": 0, "columns": 3}
        more["yOffset"] = {"field": "colour", "type": "nominal", "sort": colours}
        more["color"] = colour | {"title": colour_by, "legend": legend}
    step = _NAME + _LANE * lanes
    y = _rows_axis(order, step)
    layers = [
        _row_names(order, step),
        {
            "mark": {"type": "point", "filled": True, "size": 28, "opacity": 0.45},
            "encoding": {"y": y, "x": x | {"field": "value"}}
            | {"tooltip": [{"field": "name", "title": "run"}, {"field": "value", "title": found.words}]}
            | more,
        },
        {
            "mark": {"type": "tick", "thickness": 3, "size": 14},
            "encoding": {"y": y, "x": x | {"field": "value", "aggregate": "mean"}} | more,
        },
    ]
    caption = (
        f"One dot per finished run: its {found.words} at the epoch that is best by validation. "
        "Bars: means of the dots shown. The filters act on it."
    )
    spec = _single(layers, rows, step)
    return Figure("every-run", f"Every run: {found.words}", caption, spec, rows)


def _told_apart(found: Answer, runs: list[Run]) -> tuple[str | None, str | None]:
    """The setting that makes the rows, which the answer has too where possible, and the one that makes colours."""
    names = row_names(runs, None) if runs else []
    count = {name: len({identity(run.setting(name)) for run in runs}) for name in names}
    rows = [name for name in names if 1 < count[name] <= _ROWS]
    rows.sort(key=lambda name: (name not in found.table.columns, name == "dataset"))
    if not rows:
        return None, None
    colours = [name for name in names if name != rows[0] and count[name] <= _COLOURS]
    return rows[0], next(iter(sorted(colours, key=lambda name: name == "dataset")), None)


def curve_specs(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Specifications of a run's curves of metric and loss, to be filled with rows `epoch`, `series`, `value`."""
    metric = next((r.run.monitor.partition("/")[2] for r in records if r.run.best), "acc")
    return [
        {"metric": metric, "title": METRIC_WORDS.get(metric, metric), "spec": _curve(METRIC_WORDS.get(metric, metric))},
        {"metric": "loss", "title": "loss", "spec": _curve("loss")},
    ]


def curves(folder: Path, metric: str, best: float | None, points: int = POINTS) -> dict[str, list[float | None]]:
    """Columns of metrics.csv thinned to about `points` rows, the best epoch and the last among them.

    Raises:
        RunFailed: the file is damaged.
    """
    path = folder / "metrics.csv"
    if not path.is_file():
        return {}
    wanted = ["epoch", *(f"{stage}/{key}" for key in (metric, "loss") for stage in ("train", "val"))]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            text = file.read()
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last row may be half written
        if len(lines) < 2:
            return {}
        columns = next(csv.reader(lines[:1]))
        places = {name: columns.index(name) for name in wanted if name in columns}
        step = max(1, -(-(len(lines) - 1) // points))
        kept = {*range(1, len(lines), step), len(lines) - 1}
        if best is not None:
            kept |= {i for i in range(1, len(lines)) if lines[i].partition(",")[0] == f"{best:.0f}"}
        rows = [lines[i].split(",") for i in sorted(kept)]
        return {name: [_short(float(cells[place] or "nan")) for cells in rows] for name, place in places.items()}
    except (OSError, ValueError, LookupError):
        raise RunFailed(f"{path} is damaged: it is no table of numbers") from None


def overlaid(pair: Sequence[Record], names: Sequence[str]) -> list[Figure]:
    """The curves of two runs in one figure each: the metric and the loss, validation and training."""
    found = []
    for entry in curve_specs(pair):
        rows = [
            {"epoch": epoch, "series": name, "stage": {"val": "validation", "train": "training"}[stage], "value": value}
            for record, name in zip(pair, names, strict=True)
            for columns in [curves(record.folder, entry["metric"], record.run.best.get("epoch"), 300)]
            for stage in ("val", "train")
            if f"{stage}/{entry['metric']}" in columns
            for epoch, value in zip(columns["epoch"], columns[f"{stage}/{entry['metric']}"], strict=True)
        ]
        if not rows:
            continue
        spec = _curve(entry["title"], height=260)
        spec["encoding"]["color"] |= {"scale": {"domain": list(names)}, "sort": list(names)}
        spec["encoding"]["strokeDash"] = {
            "field": "stage",
            "type": "nominal",
            "scale": {"domain": ["validation", "training"], "range": [[1, 0], [4, 3]]},
            "title": None,
            "legend": {"orient": "top", "symbolType": "stroke"},
        }
        spec["data"] = {"values": rows}
        caption = "Solid: validation rows; dashed: training rows. At most 300 epochs of each run are drawn."
        title = f"{entry['title'][:1].upper()}{entry['title'][1:]} over epochs"
        found.append(Figure(f"curves-{entry['metric']}", title, caption, spec, rows))
    return found


def _curve(title: str, height: int = 170) -> dict[str, Any]:
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "data": {"values": []},
        "mark": {"type": "line", "strokeWidth": 1.6},
        "encoding": {
            "x": {"field": "epoch", "type": "quantitative", "title": "epoch", "axis": {"tickCount": 5}},
            "y": {"field": "value", "type": "quantitative", "title": title, "scale": {"zero": False}},
            "color": {"field": "series", "type": "nominal", "title": None, "legend": {"orient": "top"}},
        },
    }


def _single(layers: list[dict[str, Any]], rows: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """One view as wide as what it stands in, and `step` pixels high for every row."""
    height = {"step": step, "for": "position"}
    spec = {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
    }
    return spec | {"data": {"values": rows}, "layer": layers}


def _rows_axis(order: Sequence[str], step: int) -> dict[str, Any]:
    """Rows without labels beside them, which would leave no room on a phone: names stand above the dots."""
    gap = _NAME / step
    scale = {"type": "band", "paddingInner": gap, "paddingOuter": gap}
    axis = {"labels": False, "ticks": False, "domain": False, "grid": False, "title": None}
    return {"field": "row", "type": "nominal", "sort": list(order), "axis": axis, "scale": scale}


def _across(words: str) -> dict[str, Any]:
    """The axis of a metric; dots at its ends are drawn in full."""
    scale = {"zero": False, "nice": False, "padding": 10}
    return {"type": "quantitative", "scale": scale, "title": words, "axis": {"tickCount": 6, "grid": True}}


def _row_names(order: Sequence[str], step: int) -> dict[str, Any]:
    """The name of every row that there are data of, at its upper left."""
    text = {
        "type": "text",
        "align": "left",
        "baseline": "bottom",
        "dy": -2,
        "limit": {"expr": "width"},
        "fontWeight": 600,
    }
    return {
        "transform": [{"aggregate": [], "groupby": ["row"]}],
        "mark": text,
        "encoding": {
            "y": _rows_axis(order, step) | {"bandPosition": 0},
            "x": {"value": 0},
            "text": {"field": "row"},
        },
    }


def _sortable(value: Any) -> tuple[bool, float, str]:
    try:
        return False, float(value), ""
    except (TypeError, ValueError):
        return True, 0.0, str(value)


def _chance(records: Sequence[Record]) -> float | None:
    """What guessing reaches, where that is the same for all runs."""
    values = {record.result.get("chance") for record in records if record.run.finished}
    value = values.pop() if len(values) == 1 else None
    return round(float(value), 4) if value is not None else None


def _short(value: float | None) -> float | None:
    """Five digits are what can be seen; NaN and infinity are gaps."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None
