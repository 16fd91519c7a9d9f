"""What is left of the weights: how large they and their groups are, zeros layer by layer, and gates."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.analysis.figures import vega
from regx.analysis.figures.figure import Figure
from regx.analysis.figures.study import MOST_PANELS, CannotDraw, Study, rounded
from regx.analysis.runs import Run
from regx.errors import RunFailed

if TYPE_CHECKING:
    import numpy as np

THRESHOLD = 1e-3  # what `regx sparsity` counts as near zero, and the figures of a run draw
_BINS = 48
_MOST_SEEDS = 4  # whose checkpoints are read, of a configuration
_MOST_CELLS = 2000
_UNITS = {"filters": "filters", "rows": "rows", "units": "units"}


def weight_sizes(study: Study) -> list[Figure]:
    """Histogram of the absolute values of all weights, exact zeros beside it."""
    title, axis = "How large the weights are", "absolute value"
    return [_histogram(study, "weight-sizes", title, axis, "weights", lambda w: abs(w).flatten())]


def group_norms(study: Study) -> list[Figure]:
    """Histogram of the Euclidean norms of units (rows and filters), exact zeros beside it."""

    def norms(w: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.linalg.norm(w.reshape(len(w), -1), axis=1)

    title, axis = "How large the units' weights are", "Euclidean norm"
    return [_histogram(study, "group-norms", title, axis, "units", norms)]


def _histogram(study: Study, name: str, title: str, axis: str, things: str, measure: Any) -> Figure:
    import numpy as np

    stored = [run for run in study.runs if (study.path(run) / "checkpoints" / "best.pt").is_file()]
    if not stored:
        raise CannotDraw("no run has a checkpoints/best.pt")
    chosen, note = study.chosen(MOST_PANELS, stored)
    sizes: dict[str, np.ndarray] = {}
    read = 0
    for item in chosen:
        runs = item.runs[:_MOST_SEEDS]
        read += len(runs)
        found = [measure(w) for run in runs for w in _weights(study.path(run))]
        values = np.concatenate(found) if found else np.zeros(0)
        if len(values := values[np.isfinite(values)]):
            sizes[item.name] = values
    if not sizes:
        raise CannotDraw("no checkpoint has weights of two and more dimensions")
    above = np.concatenate([values[values > 0] for values in sizes.values()])
    # The few smallest, which rounding has left, would be most of the axis: they are counted in the first bar.
    low = min(float(np.quantile(above, 0.002)), THRESHOLD) / 1.5 if len(above) else THRESHOLD / 1.5
    high = max(float(above.max(initial=0)), THRESHOLD) * 1.5
    low = max(low, high * 1e-7)
    edges = np.geomspace(low, high, _BINS + 1)
    rows = []
    for panel, values in sizes.items():
        zeros, others = int((values == 0).sum()), values[values > 0]
        rows.append({"panel": panel, "from": 0.0, "to": 0.0, "count": zeros, "share": rounded(zeros / len(values))})
        counts, _ = np.histogram(np.maximum(others, low), edges)
        for begin, end, count in zip(edges.tolist(), edges[1:].tolist(), counts.tolist(), strict=False):
            if count:
                row = {"panel": panel, "from": rounded(begin), "to": rounded(end), "count": count}
                rows.append(row | {"share": rounded(count / len(others))})
    seeds = f"{read} runs, at most {_MOST_SEEDS} seeds of a configuration" if len(stored) > 1 else "1 run"
    caption = (
        f"Weights of the best epoch ({seeds}), biases and normalisation left out. Bars: {things} that are not 0."
        f" Dashed: {THRESHOLD:g}, below which they count as near zero.{note}"
    )
    return Figure(name, title, caption, _histogram_spec(rows, list(sizes), axis, things, (low, high)), rows)


def _histogram_spec(
    rows: list[dict[str, Any]], names: list[str], axis: str, things: str, ends: tuple[float, float]
) -> dict[str, Any]:
    x = {
        "field": "from",
        "type": "quantitative",
        "title": axis,
        "scale": {"type": "log", "domain": list(ends), "nice": False},
        "axis": {"values": vega.log_ticks(*ends, 7 if vega.columns_of(len(names)) < 3 else 4), "format": vega.NUMBER},
    }
    y = {"field": "share", "type": "quantitative", "title": f"share of {things}"}
    y |= {"axis": {"format": "~%", "tickCount": 5}}
    tooltip = [{"field": field, "type": "quantitative"} for field in ("from", "to", "count")]
    bars = {
        "transform": [{"filter": "datum.from > 0"}],
        "mark": {"type": "bar"},
        "encoding": {"x": x, "x2": {"field": "to"}, "y": y, "y2": {"datum": 0}, "tooltip": tooltip},
    }
    zeros = {
        "transform": [
            {"filter": "datum.from == 0 && datum.count > 0"},
            {"calculate": "format(datum.share, '.1~%') + ' exactly 0'", "as": "text"},
        ],
        "mark": {"type": "text", "align": "left", "baseline": "top", "fontWeight": 600, "style": "accent"},
        "encoding": {"x": {"value": 2}, "y": {"value": 2}, "text": {"field": "text", "type": "nominal"}},
    }
    # It begins below the line of text.
    line = {"x": {"datum": THRESHOLD, "type": "quantitative"}, "y": {"value": 18}, "y2": {"value": "height"}}
    threshold = {"mark": {"type": "rule", "style": "threshold"}, "encoding": line}
    return vega.panels(rows, [bars, threshold, zeros], names, 150)


def _weights(folder: Path) -> list[np.ndarray]:
    """The weights of the best epoch, gates folded in: all of two and more dimensions."""
    from regx.training.folder import load_checkpoint

    model = load_checkpoint(folder / "checkpoints" / "best.pt")["model"]
    return [tensor.float().numpy() for tensor in model.values() if tensor.ndim > 1 and tensor.is_floating_point()]


def sparsity_layers(study: Study) -> list[Figure]:
    """How many weights, units, filters, ... of every layer are exactly zero."""
    tables = {run.name: table for run in study.runs if (table := _table(study.path(run) / "weights.csv"))}
    if not tables:
        raise CannotDraw("no run has a weights.csv (--log-sparsity yes)")
    with_table = [run for run in study.runs if run.name in tables]
    if len(with_table) == 1:
        return [_layers_of_one(tables[with_table[0].name])]
    return _layers_of_many(study, with_table, tables)


def _layers_of_one(table: list[dict[str, Any]]) -> Figure:
    """Dense numbers of every layer, what is left of them, and the shares that are zero."""
    layers = table[:-1]
    rows = []
    for row in layers:
        unit = next((row[name] for name in _UNITS if row.get(name) is not None), None)
        share = f"{row['nnz']:,} of {row['dense']:,}"
        words = f"{share}; {unit:.0%} of units are 0" if unit is not None else share
        rows.append({"layer": row["name"], "dense": row["dense"], "left": row["nnz"], "units": unit, "text": words})
    names = [row["layer"] for row in rows]
    y = {
        "field": "layer",
        "type": "nominal",
        "sort": names,
        "title": None,
        "axis": {"labelLimit": 220, "labelOverlap": True},
    }
    size = {"type": "quantitative", "title": "numbers in a layer's weight", "axis": {"format": "~s", "tickCount": 6}}
    scale = {"scale": {"domain": [0, max(row["dense"] for row in rows) * 1.55], "nice": False}}
    dense = {
        "mark": {"type": "bar", "style": "muted", "opacity": 0.3},
        "encoding": {"y": y, "x": size | scale | {"field": "dense"}},
    }
    left = {"mark": {"type": "bar"}, "encoding": {"y": y, "x": size | scale | {"field": "left"}}}
    words = {
        "mark": {"type": "text", "align": "left", "dx": 5},
        "encoding": {"y": y, "x": size | scale | {"field": "dense"}, "text": {"field": "text", "type": "nominal"}},
    }
    total = table[-1]
    left_of = f"{total['nnz']:,} of {total['dense']:,} are not exactly 0"
    caption = f"Weights of the best epoch: {left_of}. Grey: what the dense layer has."
    spec = vega.single(
        rows, [dense, left, *([words] if len(rows) <= 40 else [])], {"step": max(8, min(22, 900 // len(rows)))}
    )
    return Figure(
        "sparsity-layers",
        "What is left of every layer",
        caption,
        spec,
        [{k: v for k, v in row.items() if k != "text"} for row in rows],
    )


def _layers_of_many(study: Study, runs: list[Run], tables: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    """Configuration x layer: the share of zeros, of single numbers and of units."""
    from statistics import median

    chosen, note = study.chosen(24, runs)
    figures = []
    for name, title, columns in (
        ("weights", "Weights that are exactly 0, layer by layer", ("elements",)),
        ("units", "Units that are exactly 0, layer by layer", tuple(_UNITS)),
    ):
        rows = []
        for item in chosen:
            found: dict[tuple[int, str], list[float]] = {}
            for run in item.runs:
                for place, row in enumerate(tables[run.name][:-1], start=1):
                    value = next((row[column] for column in columns if row.get(column) is not None), None)
                    if value is not None:
                        found.setdefault((place, row["name"]), []).append(value)
            for (place, layer), values in found.items():
                row = {"configuration": item.name, "place": place, "layer": layer}
                rows.append(row | {"share": rounded(median(values)), "runs": len(values)})
        if rows and len(rows) <= _MOST_CELLS and any(row["share"] for row in rows):
            over = study.over_seeds("median")
            caption = f"Weights of the best epoch: {over}{study.counted()}.{note}"
            spec = _cells(rows, [item.name for item in chosen], max(row["place"] for row in rows))
            figures.append(Figure(f"sparsity-layers-{name}", title, caption, spec, rows))
    if not figures:
        raise CannotDraw("no weight of these runs is exactly 0")
    return figures


def _cells(rows: list[dict[str, Any]], names: list[str], layers: int) -> dict[str, Any]:
    few = layers <= 14
    labels = {row["layer"] for row in rows}
    named = few and len(labels) == layers and max(map(len, labels)) <= 24
    x = {"field": "layer" if named else "place", "type": "ordinal", "title": None if named else "layer"}
    x |= {
        "sort": {"field": "place"},
        "axis": {"labelAngle": -35 if named else 0, "labelOverlap": True, "labelLimit": 160},
    }
    y = {"field": "configuration", "type": "nominal", "sort": names, "title": None, "axis": {"labelLimit": 240}}
    share = {"field": "share", "type": "quantitative"}
    scale = {"domain": [0, 1]}
    colour = share | {"scale": scale, "legend": {"title": "zero", "format": vega.PERCENT, "gradientLength": 120}}
    tooltip = [{"field": "configuration"}, {"field": "layer"}, share | {"format": ".1%"}, {"field": "runs"}]
    tooltip = [{"type": "nominal"} | field for field in tooltip]
    cells = {"mark": {"type": "rect"}, "encoding": {"x": x, "y": y, "color": colour, "tooltip": tooltip}}
    words = vega.cell_text(x, y, share | {"format": vega.PERCENT}, "datum.share > 0.6")
    return vega.single(rows, [cells, *([words] if few else [])], {"step": 26})


def _table(path: Path) -> list[dict[str, Any]]:
    """Rows of weights.csv, the last of which is the total; none where there is no such file.

    Raises:
        RunFailed: it is damaged.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            rows: list[dict[str, Any]] = [
                row | {key: float(row[key]) if row[key] else None for key in row if key not in ("name", "shape")}
                for row in csv.DictReader(file, strict=True)
            ]
        whole = len(rows) > 1 and rows[-1]["name"] == "total"
        rows = [row | {key: int(row[key]) for key in ("dense", "nnz")} for row in rows]
    except (ValueError, LookupError, TypeError, csv.Error):
        whole, rows = False, []
    if not whole:
        raise RunFailed(f"{path} is damaged: it is no complete table")
    return rows
