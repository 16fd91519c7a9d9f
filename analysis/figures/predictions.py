"""What trained networks answer: confusion matrices, and decision surfaces over two inputs. Both run the networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from regx.analysis.figures import vega
from regx.analysis.figures.figure import Figure
from regx.analysis.figures.study import CannotDraw, Study, rounded

if TYPE_CHECKING:
    from regx.training.trained import Trained

_MOST_RUNS = 6
_MOST_NUMBERS = 12  # classes, up to which the cells of a matrix hold numbers
_CELLS = 48  # of a surface, along each side
_MOST_POINTS = 200


def confusion(study: Study) -> list[Figure]:
    """How often each class is taken for each other, by the weights of the best epoch."""
    import torch

    rows, names, stage = [], [], "validation"
    for name, trained in _networks(study):
        data = trained.data
        if data.task == "regression":
            raise CannotDraw(f"{data.name} is a regression; a confusion matrix needs classes")
        split, stage = (data.test, "test") if data.test else (data.val, "validation")
        classes = [str(c) for c in data.classes] if len(data.classes) > 1 else ["0", "1"]
        predicted, true = trained.predictions(split), split.y.cpu()
        counts = torch.bincount(true * len(classes) + predicted, minlength=len(classes) ** 2)
        matrix = counts.reshape(len(classes), -1)
        names.append(name)
        for i, of in enumerate(matrix.tolist()):
            for j, count in enumerate(of):
                share = rounded(count / max(sum(of), 1))
                rows.append(
                    {"panel": name, "true": classes[i], "predicted": classes[j], "count": count, "share": share}
                )
    order = list(dict.fromkeys(row["true"] for row in rows))
    x = {"field": "predicted", "type": "nominal", "sort": order, "title": "predicted", "axis": {"labelAngle": 0}}
    if max(map(len, order)) > 3:
        x["axis"] = {"labelAngle": -45}
    y = {"field": "true", "type": "nominal", "sort": order, "title": "true class"}
    colour = {"field": "share", "type": "quantitative", "scale": {"domain": [0, 1], "reverse": True}}
    colour |= {"legend": {"title": "of the class", "format": ".0%", "gradientLength": 90}}
    cells = {"mark": {"type": "rect"}, "encoding": {"x": x, "y": y, "color": colour}}
    numbers = vega.cell_text(x, y, {"field": "count", "type": "quantitative"}, "datum.share < 0.38")
    layers = [
        layer | {"transform": [{"filter": "datum.count > 0"}]}
        for layer in ([cells, numbers] if len(order) <= _MOST_NUMBERS else [cells])
    ]
    side = max(24 * len(order), 120)
    spec = vega.panels(rows, layers, names, min(side, 260), min(side, 420))
    caption = f"Best weights by validation, on the {stage} rows; a row of the matrix is a class. Numbers: samples."
    return [Figure("confusion", "What is taken for what", caption, spec, rows)]


def decision_surface(study: Study) -> list[Figure]:
    """The class that a network gives to every place of a plane, and how sure it is of it."""
    import torch

    rows, names = [], []
    for name, trained in _networks(study):
        data = trained.data
        if data.input_shape != (2,) or data.task == "regression":
            raise CannotDraw(f"a decision surface needs two inputs and classes, which {data.name} does not have")
        x, classes = data.val.x.cpu(), [str(c) for c in data.classes] if len(data.classes) > 1 else ["0", "1"]
        low, high = x.amin(0), x.amax(0)
        low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
        step = (high - low) / _CELLS
        axes = [low[k] + step[k] * (torch.arange(_CELLS) + 0.5) for k in (0, 1)]
        sure, of = trained.probabilities(torch.cartesian_prod(*axes)).max(1)
        names.append(name)
        for (a, b), p, k in zip(torch.cartesian_prod(*axes).tolist(), sure.tolist(), of.tolist(), strict=True):
            edges = {"left": a - float(step[0]) / 2, "right": a + float(step[0]) / 2}
            edges |= {"bottom": b - float(step[1]) / 2, "top": b + float(step[1]) / 2}
            edges = {key: rounded(value) for key, value in edges.items()}
            rows.append({"panel": name, "what": "cell", **edges, "class": classes[k], "sure": rounded(p)})
        for (a, b), k in zip(x[:_MOST_POINTS].tolist(), data.val.y[:_MOST_POINTS].tolist(), strict=True):
            rows.append({"panel": name, "what": "point", "left": rounded(a), "bottom": rounded(b), "class": classes[k]})
    order = list(dict.fromkeys(row["class"] for row in sorted(rows, key=lambda row: row["class"])))
    hue = vega.colour("class", order, ordered=False, legend={"title": "class", "orient": "top"})
    across, up = ({"field": key, "type": "quantitative", "title": title, "scale": {"zero": False, "nice": False}}
                  for key, title in (("left", "first input"), ("bottom", "second input")))  # fmt: skip
    opacity = {
        "field": "sure",
        "type": "quantitative",
        "scale": {"domain": [0.5, 1], "range": [0.1, 0.55]},
        "legend": None,
    }
    cells = {
        "transform": [{"filter": "datum.what == 'cell'"}],
        "mark": {"type": "rect"},
        "encoding": {"x": across, "x2": {"field": "right"}, "y": up, "y2": {"field": "top"}, "color": hue}
        | {"opacity": opacity},
    }
    points = {
        "transform": [{"filter": "datum.what == 'point'"}],
        "mark": {"type": "point", "filled": True, "size": 22, "opacity": 1, "stroke": "white", "strokeWidth": 0.5},
        "encoding": {"x": across, "y": up, "color": hue},
    }
    spec = vega.panels(rows, [cells, points], names, 240, 380)
    points_of = f"up to {_MOST_POINTS} validation rows"
    caption = f"Best weights by validation. Background: the class, the paler the less sure; points: {points_of}."
    return [Figure("decision-surface", "What is decided where", caption, spec, rows)]


def _networks(study: Study) -> Iterator[tuple[str, Trained]]:
    """The trained networks of the runs, with a name for each."""
    from regx.training import trained

    runs = study.runs
    if len(runs) > _MOST_RUNS:
        raise CannotDraw(f"{len(runs)} runs are too many to run again; give at most {_MOST_RUNS} run folders")
    for run in runs:
        name = study.name_of({axis: run.setting(axis) for axis in study.axes})
        seeds = len({other.seed for other in runs}) > 1
        label = f"{name}, seed {run.seed}" if seeds and study.axes else f"seed {run.seed}" if seeds else name
        yield label, trained.load(study.path(run), devices="cpu")
