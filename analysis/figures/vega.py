"""Parts of Vega-Lite specifications that several figures have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from regx.analysis.figures.figure import WIDTH
from regx.analysis.figures.theme import STATUS_COLOURS

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
HEIGHT = 300
PERCENT, NUMBER = ".3~p", ".6~g"
_LETTER = 6.6  # pixels of a letter of a label
_LINE = 14.0  # pixels between two labels
MOST_ROOM = 0.45  # share of the width that is left to labels at the right end of lines
STATUS_SCALE = {"domain": list(STATUS_COLOURS), "range": list(STATUS_COLOURS.values())}


def single(rows: list[dict[str, Any]], layers: list[dict[str, Any]], height: Any = HEIGHT) -> dict[str, Any]:
    """One view of several layers, as wide as what it stands in."""
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "data": {"values": rows},
        "layer": layers,
    }


def panels(
    rows: list[dict[str, Any]],
    layers: list[dict[str, Any]],
    names: Sequence[str],
    height: Any = 180,
    alone: Any = HEIGHT,
) -> dict[str, Any]:
    """One view per value of the rows' `panel`.

    Args:
        rows: the data.
        layers: of each view.
        names: the panels, in order; a single one has no heading.
        height: of each of several.
        alone: of a single one.
    """
    if len(names) == 1:
        return single(rows, layers, alone)
    across, width = columns_of(len(names)), panel_width(len(names))
    header = {"title": None, "labelLimit": width + 20}
    return {
        "$schema": SCHEMA,
        "data": {"values": rows},
        "facet": {"field": "panel", "type": "nominal", "sort": list(names), "header": header},
        "columns": across,
        "spec": {"width": width, "height": height, "layer": layers},
    }


def columns_of(count: int) -> int:
    """How many panels stand beside each other."""
    return 2 if count in (2, 4) else 4 if count > 6 and count != 9 else min(count, 3)


def panel_width(count: int) -> int:
    """Width of one of so many panels."""
    across = columns_of(count)
    return WIDTH if count == 1 else int(WIDTH / across) - 20


def x_epochs(first: float, last: float, room: float = 0.0, panels: int = 1) -> dict[str, Any]:
    """The axis of epochs; `room` is the share of the width that labels take at its right end."""
    end = last + (last - first) * room / (1 - room)
    ticks = [tick for tick in _nice(first, last, 4 if columns_of(panels) < 3 else 2) if first <= tick <= last]
    return {
        "field": "epoch",
        "type": "quantitative",
        "title": "epoch",
        "scale": {"domain": [first, end], "nice": False, "zero": False},
        "axis": {"values": ticks, "format": "~s" if last >= 10_000 else "d"},
    }


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Powers of ten between two positive numbers; with few of them, 2 and 5 times these too."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    found = [float(f"{factor}e{power}") for power in powers for factor in factors]
    found = [tick for tick in found if low <= tick <= high]
    return found[:: math.ceil(len(found) / most)]


def _nice(first: float, last: float, many: int) -> list[int]:
    """About so many round numbers between two whole ones."""
    if last <= first:
        return [int(first)]
    raw = (last - first) / many
    power = 10 ** math.floor(math.log10(raw))
    step = max(int(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)), 1)
    return [int(first), *range(step * (int(first) // step + 1), int(last) + 1, step)]


def room_for(labels: Sequence[str], width: float) -> float:
    """Share of the width that labels at the right end of lines take."""
    return min((max(map(len, labels), default=0) * _LETTER + 14) / width, MOST_ROOM)


def spread(places: Sequence[float], low: float, high: float, height: float, *, log: bool = False) -> list[float]:
    """Moves labels, at `places` on an axis from `low` to `high`, up and down until none lies on another."""

    def pixel(value: float) -> float:
        low_, high_, value = (math.log(x) for x in (low, high, value)) if log else (low, high, value)
        return (value - low_) / (high_ - low_) * height

    line = min(_LINE, height / max(len(places), 1))
    order = sorted(range(len(places)), key=lambda index: places[index])
    wanted = [min(max(pixel(places[index]), 0.0), height) for index in order]
    # Neighbours that collide become a block around the mean of where its members want to be.
    blocks: list[tuple[float, int]] = []  # centre, members
    for value in wanted:
        blocks.append((value, 1))
        while len(blocks) > 1:
            (a, n), (b, m) = blocks[-2:]
            if b - a >= line * (n + m) / 2:
                break
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
            centre, count = blocks[-1]
            half = line * (count - 1) / 2
            blocks[-1] = (min(max(centre, half), height - half), count)
    found = [centre + line * (place - (count - 1) / 2) for centre, count in blocks for place in range(count)]
    result = [0.0] * len(places)
    for index, value in zip(order, found, strict=True):
        share = value / height
        result[index] = low * (high / low) ** share if log else low + (high - low) * share
    return result


def colour(field: str, names: Sequence[str], *, ordered: bool, legend: dict[str, Any] | None = None) -> dict[str, Any]:
    """Colours of a theme: of things with an order a ramp, of others one each; no legend unless one is given."""
    return {
        "field": field,
        "type": "ordinal" if ordered else "nominal",
        "sort": list(names),
        "scale": {"domain": list(names)},
        "legend": legend,
    }


def bounds(values: Sequence[float], *, log: bool = False, share: bool = False) -> tuple[float, float]:
    """Ends of an axis that holds these values with a little room."""
    low, high = min(values), max(values)
    if log:
        return low / 1.15, high * 1.15
    if share and low == high:  # nothing is beyond 0 and 1, where a line keeps its own width
        return max(low - 0.05, -0.002), min(high + 0.05, 1.002)
    pad = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    return low - pad, high + pad


def is_share(metric: str) -> bool:
    """Whether a metric is a share, to be written in percent."""
    name = metric.rpartition("/")[2]
    counts = ("sparsity/parameters", "sparsity/macs")
    return (
        name in ("acc", "top5_acc")
        or name.endswith(("_ratio", "_efficiency"))
        or (metric.startswith("sparsity/") and not metric.startswith(counts))
    )


def spelled(metric: str) -> str:
    """A metric's name in words: `validation accuracy`."""
    stage, _, name = metric.rpartition("/")
    stages = {"val": "validation ", "train": "training ", "test": "test "}
    names = {
        "acc": "accuracy",
        "r2": "R²",
        "rmse": "RMSE",
        "mae": "MAE",
        "loss": "loss",
        "JR_loss": "Jumpstart penalty",
    }
    if name in names and stage in stages:
        return stages[stage] + names[name]
    if name.endswith("_loss") and stage in stages:
        return f"{stages[stage]}{name.removesuffix('_loss')} penalty"
    if stage == "sparsity" and is_share(metric):
        unit, _, limit = name.partition("_")
        words = {"elements": "weights", "gates": "gates"}.get(unit, unit)
        if limit:
            return f"{words} below {limit}"
        return "closed gates" if unit == "gates" else f"{words} that are exactly 0"
    return metric


def cell_text(x: dict[str, Any], y: dict[str, Any], content: dict[str, Any], bright: str) -> dict[str, Any]:
    """Numbers in the cells of a map: dark where `bright` says that the cell is so, else white."""
    colour = {"condition": {"test": bright, "value": "#1b1b1b"}, "value": "#ffffff"}
    return {"mark": {"type": "text"}, "encoding": {"x": x, "y": y, "text": content, "color": colour}}
