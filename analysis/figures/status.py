"""Dead, linear and nonlinear units and points: over layers and over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.analysis.figures import vega
from regx.analysis.figures.figure import Figure
from regx.analysis.figures.study import MOST_PANELS, CannotDraw, Configuration, Study, rounded
from regx.analysis.runs import Run
from regx.errors import RunFailed

if TYPE_CHECKING:
    import numpy as np

_CODES = {"dead": -1, "linear": 0, "nonlinear": 1}
# Columns of metrics.csv whose shares add up to 1: those of points count (point, layer) cells.
_COLUMNS = {
    "unit": {name: f"unit_{name}_ratio" for name in _CODES},
    "point": {"dead": "deathness_ratio", "linear": "linearity_ratio", "nonlinear": "nonlinearity_ratio"},
}
_MOST_ROWS = 1500


def status_layers(study: Study) -> list[Figure]:
    """Shares of dead, linear and nonlinear units and points in every layer, at the best epoch."""
    return _telling([_over_layers(study, of) for of in _COLUMNS])


def status_epochs(study: Study) -> list[Figure]:
    """Shares of dead, linear and nonlinear units and points of all layers, over epochs."""
    return _telling([_over_epochs(study, of) for of in _COLUMNS])


def _telling(figures: list[Figure]) -> list[Figure]:
    """Without a figure of points that are all nonlinear but for 1 %, as they should be; that of units stays."""
    units, points = figures
    return figures if any(row["status"] != "nonlinear" and row["share"] > 0.01 for row in points.rows) else [units]


def _over_layers(study: Study, of: str) -> Figure:
    import numpy as np

    stored = {run.name: table for run in study.runs if (table := _table(study.path(run), of))}
    chosen, note = study.chosen(MOST_PANELS, [run for run in study.runs if run.name in stored])
    shares: list[tuple[Configuration, np.ndarray]] = []
    stages = set()
    for item in chosen:
        found = [stored[run.name] for run in item.runs]
        by_depth = {table[1].shape[1] for table in found}
        if len(by_depth) != 1:
            continue  # no layer of one network is that of another
        shares.append((item, np.mean([table[1] for table in found], axis=0)))
        stages |= {table[0] for table in found}
    if not shares:
        raise CannotDraw("no run has a status.npz (log_status)")
    most = max(_MOST_ROWS // (3 * len(shares)), 1)
    rows = [row for item, table in shares for row in _layer_rows(item.name, table, most)]
    # A step ends where the next one begins: the last one needs another.
    ends = [row | {"from": row["to"]} for row in rows if row["to"] > row["layers"]]
    wide = any(table.shape[1] > most for _, table in shares)
    together = "; neighbouring layers are averaged where there are many" if wide else ""
    which = {"unit": "the units of a layer", "point": "the samples, in a layer,"}[of]
    caption = (
        f"{study.counted()}. Share of {which} that are dead, linear and nonlinear: {study.over_seeds('mean')}best"
        f" epoch, {'training' if 'train' in stages else 'validation'} split{together}.{note}"
    )
    x = {
        "field": "from",
        "type": "quantitative",
        "title": "layer",
        "scale": {"nice": False, "zero": False},
        "axis": {"format": "d", "tickMinStep": 1, "tickCount": 6},
    }
    y = {"field": "low", "type": "quantitative"} | _SHARES
    encoding = {"x": x, "y": y, "y2": {"field": "high"}} | _COLOUR
    bars = {"mark": {"type": "area", "line": False, "interpolate": "step-after"}, "encoding": encoding}
    names = [item.name for item, _ in shares]
    spec = vega.panels([*rows, *ends], [bars], names, 150) | {"resolve": {"scale": {"x": "independent"}}}
    title = {"unit": "Unit", "point": "Point"}[of] + " status over layers"
    return Figure(f"status-layers-{of}s", title, caption, spec, rows)


def _table(folder: Path, of: str) -> tuple[str, np.ndarray] | None:
    """The split, and the shares (3, L) of the statuses per layer; None where a run has stored none.

    Raises:
        RunFailed: the file is damaged.
    """
    import zipfile

    import numpy as np

    path = folder / "status.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            stage = next((stage for stage in ("train", "val") if f"{stage}_{of}s" in arrays), None)
            if stage is None:
                return None
            codes = arrays[f"{stage}_{of}s"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RunFailed(f"{path} is damaged ({error})") from None
    counts = np.array([(codes == code).sum(0) for code in _CODES.values()])
    return stage, counts / np.maximum(counts.sum(0), 1)


def _layer_rows(name: str, table: np.ndarray, most: int) -> list[dict[str, Any]]:
    """Rows of steps, at most so many per status; layer n, counted from 1, goes from n - 0.5 to n + 0.5."""
    import numpy as np

    layers = table.shape[1]
    edges = np.unique(np.linspace(0, layers, min(layers, most) + 1).round().astype(int)).tolist()
    rows = []
    for begin, end in pairwise(edges):
        high = 0.0
        for status, share in zip(_CODES, table[:, begin:end].mean(1).tolist(), strict=True):
            row = {"panel": name, "from": begin + 0.5, "to": end + 0.5, "layers": layers}
            row |= {"status": status, "share": rounded(share)}
            rows.append(row | {"low": rounded(high), "high": rounded(high + share)})
            high += share
    return rows


def _over_epochs(study: Study, of: str) -> Figure:
    import numpy as np

    stage = next((stage for stage in ("train", "val") if f"{stage}/jr/unit_dead_ratio" in study.columns()), None)
    if stage is None:
        raise CannotDraw("no metrics.csv of these runs has unit and point status (log_status)")
    if len(study.epochs) < 2:
        raise CannotDraw("a curve needs two logged epochs")
    logged = [run for run in study.runs if f"{stage}/jr/unit_dead_ratio" in study.history(run)]
    chosen, note = study.chosen(MOST_PANELS, logged)
    points = min(_MOST_ROWS // (3 * len(chosen)), len(study.epochs))
    kept = np.unique(np.linspace(0, len(study.epochs) - 1, points).round().astype(int))
    rows = []
    for item in chosen:
        for status, column in _COLUMNS[of].items():
            for epoch, share in zip(
                study.epochs[kept].tolist(), _mean(study, item.runs, f"{stage}/jr/{column}", kept), strict=True
            ):
                if share is not None:
                    rows.append({"panel": item.name, "epoch": epoch, "status": status, "share": share})
    names = [item.name for item in chosen if any(row["panel"] == item.name for row in rows)]
    x = vega.x_epochs(float(study.epochs[0]), float(study.epochs[-1]), panels=len(names))
    area = {"mark": {"type": "area", "line": False}, "encoding": {"x": x} | _STACK}
    title = {"unit": "Units", "point": "Points"}[of] + " that are dead, linear and nonlinear over epochs"
    which = {"unit": "the units of all layers", "point": "all pairs of a sample and a layer"}[of]
    early = "; a run that ended early counts on with its last value" if study.ended_early() else ""
    split = {"train": "training", "val": "validation"}[stage]
    caption = f"{study.counted()}. Share of {which}: {study.over_seeds('mean')}{split} split{early}.{note}"
    return Figure(f"status-epochs-{of}s", title, caption, vega.panels(rows, [area], names, 150), rows)


def _mean(study: Study, runs: Sequence[Run], key: str, kept: np.ndarray) -> list[float | None]:
    import numpy as np

    table = np.array([study.history(run)[key][kept] for run in runs])
    return [rounded(float(np.nanmean(column))) if np.isfinite(column).any() else None for column in table.T]


_SHARES = {
    "type": "quantitative",
    "title": None,
    "scale": {"domain": [0, 1]},
    "axis": {"format": vega.PERCENT, "tickCount": 5},
}
_COLOUR = {
    "color": {
        "field": "status",
        "type": "nominal",
        "scale": vega.STATUS_SCALE,
        "legend": {"title": None, "orient": "top", "symbolType": "square"},
    },
    "tooltip": [{"field": "status", "type": "nominal"}, {"field": "share", "type": "quantitative", "format": ".1%"}],
}
_STACK = _COLOUR | {
    "y": _SHARES | {"field": "share", "stack": "zero"},
    # From the bottom: dead, linear, nonlinear.
    "order": {"field": "status", "type": "nominal", "sort": "ascending"},
}
