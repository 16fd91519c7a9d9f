"""Metrics over epochs, with a band over seeds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from regx.analysis.figures import vega
from regx.analysis.figures.figure import Figure, slug
from regx.analysis.figures.lines import Axis, covers, lines
from regx.analysis.figures.study import (
    MOST_LINES,
    MOST_PANELS,
    CannotDraw,
    Configuration,
    Study,
    numeric,
    rounded,
    text,
    values_of,
)
from regx.analysis.figures.theme import CATEGORIES
from regx.analysis.runs import Run
from regx.errors import did_you_mean

if TYPE_CHECKING:
    import numpy as np

_MOST_ROWS = 1500  # of a figure, which keeps its specification below 200 kB
_MANY_SEEDS = 8  # from so many on, a band leaves out the outer ones


def learning_curves(study: Study) -> list[Figure]:
    """The metric that runs are judged by, over epochs."""
    monitors = [study.metric] if study.metric else sorted({run.monitor for run in study.runs})
    return [figure for key in monitors for figure in _stages(study, key, "learning-curves", ("val",))]


def loss_curves(study: Study) -> list[Figure]:
    """Training and validation loss over epochs."""
    return _stages(study, "val/loss", "loss-curves", ("train", "val"))


def _stages(study: Study, key: str, name: str, stages: Sequence[str]) -> list[Figure]:
    """A metric of these splits in a figure each; of a single run, training and validation in one."""
    stage, _, metric = key.rpartition("/")
    if stage != "val" or (study.metric == key and len(study.runs) > 1):
        return [metric_curves(study, key, name)]
    if len(study.runs) > 1:
        keys = [f"{stage}/{metric}" for stage in stages]
        return [metric_curves(study, key, name) for key in keys if key in study.columns()] or [
            metric_curves(study, key, name)
        ]
    both = [f"{stage}/{metric}" for stage in ("train", "val") if f"{stage}/{metric}" in study.columns()]
    return [_of_one(study, both, metric, name)] if len(both) > 1 else [metric_curves(study, key, name)]


def _of_one(study: Study, keys: list[str], metric: str, name: str) -> Figure:
    """Several columns of one run as lines."""
    if len(study.epochs) < 2:
        raise CannotDraw("a curve needs two logged epochs")
    history = study.history(study.runs[0])
    names = {"train": "training", "val": "validation"}
    rows = [
        {"panel": "", "series": names[key.partition("/")[0]], "epoch": epoch, "median": rounded(value), "runs": 1}
        for key in keys
        for epoch, value in zip(study.epochs.tolist(), history[key].tolist(), strict=True)
        if math.isfinite(value)
    ]
    if not rows:
        raise CannotDraw(f"{' and '.join(keys)} have no finite value")
    title = vega.spelled(f"val/{metric}").removeprefix("validation ")
    series = list(dict.fromkeys(row["series"] for row in rows))
    spec = lines(rows, [""], series, _axis(title, keys[0]), ordered=False, band=False)
    return Figure(f"{name}-{slug(metric)}", f"{title[0].upper()}{title[1:]} over epochs", "1 run.", spec, rows)


def _axis(title: str, key: str) -> Axis:
    return Axis(title, share=vega.is_share(key), log="loss" in key, floor=-1.0 if key.endswith("/r2") else -math.inf)


def metric_curves(study: Study, key: str, name: str) -> Figure:
    """One column of metrics.csv over epochs.

    Raises:
        CannotDraw: no run has that column, or only one epoch of it.
    """
    columns = study.columns()
    if key not in columns:
        raise CannotDraw(f"no metrics.csv of these runs has {key!r}{did_you_mean(key, columns)}")
    name = f"{name}-{slug(key)}"
    return figure(study, lambda run: study.history(run).get(key), key, name)


def figure(study: Study, curve: Callable[[Run], np.ndarray | None], key: str, name: str) -> Figure:
    """A figure of one curve per run.

    Args:
        study: the runs.
        curve: its values at `study.epochs`; None for a run without.
        key: what it is.
        name: of the figure.
    """
    import numpy as np

    if len(study.epochs) < 2:
        raise CannotDraw("a curve needs two logged epochs")
    layout = _layout(study)
    points = max(_MOST_ROWS // len(layout.configurations), 2)
    kept = np.unique(np.linspace(0, len(study.epochs) - 1, min(points, len(study.epochs))).round().astype(int))
    quartiles = max(len(item.runs) for item in layout.configurations) >= _MANY_SEEDS
    ends = (0.25, 0.75) if quartiles else (0.0, 1.0)
    rows: list[dict[str, Any]] = []
    for item in layout.configurations:
        curves = [found[kept] for run in item.runs if (found := curve(run)) is not None]
        if not curves:
            continue
        for epoch, low, middle, high, count in zip(study.epochs[kept].tolist(), *quantiles(curves, ends), strict=True):
            if count:
                row = {"panel": layout.panel_of(item), "series": layout.series_of(item), "epoch": epoch}
                rows.append(
                    row | {"median": rounded(middle), "low": rounded(low), "high": rounded(high), "runs": count}
                )
    rows = [row for row in rows if row["median"] is not None]
    if not rows:
        raise CannotDraw(f"{key} has no finite value")
    drawn = set(row["panel"] for row in rows)
    names = [panel for panel in layout.panels if panel in drawn]
    many = any(row["runs"] > 1 for row in rows)
    early = "; a run that ended early counts on with its last value" if study.ended_early() else ""
    inner = "their middle half" if quartiles else "from the least to the largest"
    caption = (
        f"{study.counted()}. Line: median over seeds; band: {inner}{early}.{layout.note}"
        if many
        else f"{study.counted()}.{layout.note}"
    )
    title = vega.spelled(key)
    axis = _axis(title, key)
    spec = lines(rows, names, layout.series, axis, ordered=layout.ordered, band=many)
    caption += " A wide line lies under others that are the same." if covers(spec) else ""
    by = f" by {layout.title}" if len(layout.series) > 1 and layout.title else ""
    return Figure(name, f"{title[0].upper()}{title[1:]} over epochs{by}", caption, spec, rows)


def quantiles(
    curves: Sequence[np.ndarray], ends: tuple[float, float] = (0.0, 1.0)
) -> tuple[list[float], list[float], list[float], list[int]]:
    """Lower end, median and upper end over runs, and the number of runs with a finite value, at every epoch."""
    import numpy as np

    table = np.where(np.isfinite(curves), curves, np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered")
        low, middle, high = np.nanquantile(table, [ends[0], 0.5, ends[1]], axis=0)
    return low.tolist(), middle.tolist(), high.tolist(), np.isfinite(table).sum(0).tolist()


class _Layout:
    """Which configurations are lines, and of which panel.

    Attributes:
        configurations: what is drawn.
        panels: headings, in order; one empty one where there is a single panel.
        series: names of lines, in order.
        ordered: whether the lines' parameter is a number, so that their colours have an order.
        title: what the lines differ in.
        note: a sentence where configurations are left out.
    """

    def __init__(self, study: Study, line: str | None, panel: str | None, most: int) -> None:
        self._study, self._line, self._panel = study, line, panel
        self.configurations, self.note = study.chosen(most)
        self.panels = list(dict.fromkeys(self.panel_of(item) for item in self.configurations))
        self.series = list(dict.fromkeys(self.series_of(item) for item in self.configurations))
        self.ordered = line is not None and numeric(study.runs, line)
        self.title = "" if line is None else "technique" if line == "label" else line.rpartition(".")[2]

    def panel_of(self, item: Configuration) -> str:
        return "" if self._panel is None else self._study.name_of({self._panel: item.setting[self._panel]})

    def series_of(self, item: Configuration) -> str:
        return item.name if self._line is None else text(item.setting[self._line])


def _layout(study: Study) -> _Layout:
    """One parameter becomes lines and a second one panels if they have few values; else configurations are lines."""
    counts = {name: len(values_of(study.runs, name)) for name in study.axes}
    if len(counts) == 1:
        (line,) = counts
        return _Layout(study, line, None, CATEGORIES)
    if len(counts) == 2:
        for line, panel in (list(counts), list(counts)[::-1]):
            rather = line == "label" or counts[line] >= counts[panel]
            if rather and counts[line] <= MOST_LINES and counts[panel] <= MOST_PANELS:
                return _Layout(study, line, panel, len(study.configurations))
    return _Layout(study, None, None, MOST_LINES)
