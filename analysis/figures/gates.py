"""Hard concrete gates of L0 runs: with what probability they are open, and how many are closed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from regx.analysis.figures import vega
from regx.analysis.figures.curves import metric_curves
from regx.analysis.figures.figure import Figure
from regx.analysis.figures.study import MOST_PANELS, CannotDraw, Study, rounded
from regx.analysis.runs import Run

if TYPE_CHECKING:
    import numpy as np

_BINS = 25
_MOST_LAYERS = 40
_CLOSED = -math.log(11)  # gates with a log_alpha up to here are exactly 0 in evaluation: sigmoid(x) * 1.2 <= 0.1


def gate_probabilities(study: Study) -> list[Figure]:
    """Probability that a gate is open, at the last epoch, and the share of closed gates over epochs."""
    states = {run.name: found for run in study.runs if _has_gates(run) and (found := dict(_gates(study, run)))}
    if not states:
        raise CannotDraw("no run has gates (--regularizer l0) and a checkpoints/last.pt")
    runs = [run for run in study.runs if run.name in states]
    figures = [_of_one(states[runs[0].name])] if len(runs) == 1 else [_of_many(study, runs, states)]
    if len(study.epochs) > 1 and "sparsity/gates" in study.columns():
        gated = Study(runs, study.folder)
        figures.append(metric_curves(gated, "sparsity/gates", "gate-probabilities"))
    return figures


def _has_gates(run: Run) -> bool:
    return any(str(text).strip().startswith("l0") for text in run.config.get("regularizer") or [])


def _gates(study: Study, run: Run) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Layer, and the probability that each of its gates is not 0, and whether it is exactly 0 in evaluation mode."""
    import numpy as np

    from regx.training.experiments import from_dict
    from regx.training.folder import load_checkpoint

    path = study.path(run) / "checkpoints" / "last.pt"
    if not path.is_file():
        return
    penalties = from_dict(run.config).penalties()
    for penalty, state in zip(penalties, load_checkpoint(path)["penalties"], strict=True):
        regularizer, begin = state["regularizer"], 0
        if penalty.name != "l0" or not regularizer["awake"] or regularizer["open"]:
            continue  # a gate without a strength does nothing
        log_alpha = regularizer["log_alpha"].double().numpy()
        probability = 1 / (1 + np.exp(-(log_alpha + penalty.options.get("temperature", 2 / 3) * math.log(11))))
        for layer, size in regularizer["gates"].items():
            part = slice(begin, begin + size)
            yield layer, (probability[part], log_alpha[part] <= _CLOSED)
            begin += size


def _of_one(layers: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """A tick for every gate, layer by layer."""
    kept = list(layers)[:: math.ceil(len(layers) / _MOST_LAYERS)]
    rows = [
        {"layer": layer, "probability": rounded(p), "gate": "closed" if shut else "open"}
        for layer in kept
        for p, shut in zip(layers[layer][0].tolist(), layers[layer][1].tolist(), strict=True)
    ]
    total = sum(len(p) for p, _ in layers.values())
    closed = sum(int(shut.sum()) for _, shut in layers.values())
    few = f"; {len(kept)} of {len(layers)} layers are shown" if len(kept) < len(layers) else ""
    caption = (
        f"Last epoch: {closed:,} of {total:,} gates are closed, exactly 0 in evaluation mode. A tick is a gate{few}."
    )
    y = {"field": "layer", "type": "nominal", "sort": kept, "title": None, "axis": {"labelLimit": 240}}
    ticks = {
        "mark": {"type": "tick", "thickness": 1.2, "opacity": 0.6},
        "encoding": {
            "x": {"field": "probability", "type": "quantitative", "title": "probability that a gate is open"}
            | {"scale": {"domain": [0, 1]}, "axis": {"format": vega.PERCENT}},
            "y": y,
            "color": {"field": "gate", "type": "nominal", "scale": {"domain": ["open", "closed"]}}
            | {"legend": {"title": None, "orient": "top"}},
        },
    }
    spec = vega.single(rows, [ticks], {"step": 26})
    return Figure("gate-probabilities", "Probability that a gate is open, layer by layer", caption, spec, rows)


def _of_many(study: Study, runs: list[Run], states: dict[str, dict[str, Any]]) -> Figure:
    """A histogram per configuration."""
    import numpy as np

    chosen, note = study.chosen(MOST_PANELS, runs)
    rows = []
    edges = np.linspace(0, 1, _BINS + 1)
    for item in chosen:
        parts = [part for run in item.runs for part in states[run.name].values()]
        probability = np.concatenate([p for p, _ in parts])
        shut = np.concatenate([closed for _, closed in parts])
        below = np.zeros(_BINS)
        for kind, values in (("closed", probability[shut]), ("open", probability[~shut])):
            counts, _ = np.histogram(values, edges)
            for place, count in enumerate(counts.tolist()):
                if count:
                    low, high = below[place], below[place] + count / len(probability)
                    row = {"panel": item.name, "from": rounded(edges[place]), "to": rounded(edges[place + 1])}
                    row |= {"gate": kind, "count": count, "low": rounded(low), "high": rounded(high)}
                    rows.append(row)
                    below[place] = high
    seeds = "all seeds together" if len(runs) > len(chosen) else "one seed each"
    caption = f"Gates of the last epoch, {seeds}; closed: exactly 0 in evaluation mode.{note}"
    x = {"field": "from", "type": "quantitative", "title": "probability that a gate is open"}
    x |= {"scale": {"domain": [0, 1]}, "axis": {"format": vega.PERCENT, "tickCount": 5}}
    y = {"field": "low", "type": "quantitative", "title": "share of gates", "axis": {"format": "~%", "tickCount": 5}}
    colour = {"field": "gate", "type": "nominal", "scale": {"domain": ["open", "closed"]}}
    legend = {"legend": {"title": None, "orient": "top"}}
    encoding = {"x": x, "x2": {"field": "to"}, "y": y, "y2": {"field": "high"}, "color": colour | legend}
    spec = vega.panels(rows, [{"mark": {"type": "bar"}, "encoding": encoding}], [item.name for item in chosen], 150)
    return Figure("gate-probabilities", "Probability that a gate is open", caption, spec, rows)
