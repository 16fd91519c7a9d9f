"""What figures show is what the run folders hold."""

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import altair
import numpy as np
import pandas
import pytest
import torch
from torch import nn

from regx.analysis.figures import KINDS, THEMES, Figure, figures, of_run, of_sweep, read_runs, save, save_all
from regx.analysis.figures.frontier import pareto
from regx.analysis.figures.labels import placed
from regx.analysis.figures.study import CannotDraw
from regx.analysis.figures.theme import CLASS_COLOURS, STATUS_COLOURS
from regx.analysis.figures.vega import spread
from regx.analysis.runs import Run, read
from regx.errors import RunFailed, UserError
from regx.regularizers import L0
from regx.training.experiment import run
from regx.training.experiments import RectangularConfig
from regx.training.folder import save_checkpoint, write_csv
from regx.training.plots import style
from tests.training.silent import Silent

PENALTIES = {
    "Baseline": [],
    "L1": ["l1(prox=true)=0.01"],
    "Both": ["jumpstart=0.01", "l1=0.001"],
    "L0": ["l0(droprate_init=0.9)=1"],
}


def trial(folder: Path, parameters: dict[str, Any], label: str | None = None, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"sweep": "small", "label": label, "parameters": parameters, "seed": seed}
    (folder / "trial.json").write_text(json.dumps(content))


def written(folder: Path, rows: list[dict[str, Any]], seed: int = 0, best: Any = None, **parameters: Any) -> None:
    """A finished run, by hand."""
    trial(folder, parameters, seed=seed)
    write_csv(folder / "metrics.csv", rows)
    config = {"dataset": "moons", "seed": seed, "regularizer": []} | parameters
    (folder / "config.yaml").write_text(json.dumps(config))
    result = {"status": "finished", "config": config, "best": best or rows[-1], "last": rows[-1], "monitor": "val/acc"}
    (folder / "result.json").write_text(json.dumps(result))


def drawn(folder: Path, kind: str, metric: str | None = None) -> list[Figure]:
    return figures(*read_runs([folder]), kind, metric)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    for label, regularizer in PENALTIES.items():
        for seed in range(2):
            config = RectangularConfig(
                dataset="iris", depth=2, width=6, epochs=4, seed=seed, plots=False, wandb="disabled",
                run_dir=str(folder), regularizer=regularizer, log_sparsity="yes", lr=0.01,
            )  # fmt: skip
            run(config, Silent(), argv=[])
            trial(folder / config.run_name(), {"penalty.regularizer": regularizer}, label, seed)
    return folder


def test_every_figure_is_vega_lite_of_a_modest_size_without_colours_of_a_theme(sweep: Path) -> None:
    found = of_sweep(read(sweep), sweep)
    kinds = {next(kind for kind in KINDS if figure.name.startswith(kind)) for figure in found}
    asked = {name for name, kind in KINDS.items() if kind.asked}
    assert kinds == set(KINDS) - {"heat-map"} - asked, "nothing but the technique varies"
    names = [figure.name for figure in found]
    assert len(set(names)) == len(names)
    themes = {text for theme in THEMES.values() for text in json.dumps(theme).split('"') if text.startswith("#")}
    for figure in found:
        altair.Chart.from_dict(figure.spec).to_dict()  # checks it against the schema
        text = json.dumps(figure.spec)
        assert len(text) < 200_000 and not {colour for colour in themes if colour in text} - {"#ffffff"}
        assert figure.caption.endswith(".") and figure.rows


def test_a_learning_curve_has_the_quantiles_of_the_runs(sweep: Path) -> None:
    (figure,) = drawn(sweep, "learning-curves")
    assert figure.name == "learning-curves-val-acc" and "8 runs (4 configurations, 2 seeds each)" in figure.caption
    runs = [found for found in read(sweep) if found.label == "L1"]
    table = np.stack([pandas.read_csv(sweep / found.name / "metrics.csv")["val/acc"] for found in runs])
    rows = [row for row in figure.rows if row["series"] == "L1"]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4] and {row["runs"] for row in rows} == {2}
    for key, values in (("low", table.min(0)), ("median", np.median(table, 0)), ("high", table.max(0))):
        assert [row[key] for row in rows] == pytest.approx(values, rel=1e-3)


def test_a_run_that_ended_early_counts_on_with_its_last_value(tmp_path: Path) -> None:
    for seed, values in enumerate([[0.1, 0.2], [0.3, 0.4, 0.5, 0.6], [0.5, math.nan, 0.7, 0.8]]):
        rows = [{"epoch": epoch, "val/acc": value} for epoch, value in enumerate(values, start=1)]
        written(tmp_path / str(seed), rows, seed)
    (figure,) = drawn(tmp_path, "learning-curves")
    assert [(row["median"], row["runs"]) for row in figure.rows] == [(0.3, 3), (0.3, 2), (0.5, 3), (0.6, 3)]
    assert "ended early" in figure.caption


def test_curves_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    for seed in range(2):
        written(tmp_path / str(seed), [{"epoch": e, "val/acc": e / 1000} for e in range(1, 1001)], seed)
    (figure,) = drawn(tmp_path, "learning-curves")
    epochs = [row["epoch"] for row in figure.rows]
    assert len(epochs) == 120 and epochs[0] == 1 and epochs[-1] == 1000 and len(set(epochs)) == 120
    assert [row["median"] for row in figure.rows] == pytest.approx([epoch / 1000 for epoch in epochs], rel=1e-3)


def test_many_configurations_are_thinned_from_the_best_to_the_worst(tmp_path: Path) -> None:
    for depth in range(1, 21):
        rows = [{"epoch": e, "val/acc": depth / 100} for e in (1, 2)]
        written(tmp_path / str(depth), rows, depth=depth)
    (figure,) = drawn(tmp_path, "learning-curves")
    series = {int(row["series"]) for row in figure.rows}
    assert len(series) == 10 and {1, 20} <= series and "10 of 20 configurations" in figure.caption


def test_damaged_and_half_written_metrics(tmp_path: Path) -> None:
    written(tmp_path / "a", [{"epoch": e, "val/acc": 0.5} for e in (1, 2)])
    with (tmp_path / "a" / "metrics.csv").open("a") as file:
        file.write("3,0.")
    (figure,) = drawn(tmp_path, "learning-curves")
    assert [row["epoch"] for row in figure.rows] == [1, 2], "a row that is being written"
    (tmp_path / "a" / "metrics.csv").write_text("epoch,val/acc\n1,0.5\n2,high\n")
    with pytest.raises(RunFailed, match=r"metrics\.csv is damaged"):
        drawn(tmp_path, "learning-curves")
    (tmp_path / "a" / "metrics.csv").write_text("epoch,val/acc\nfirst,0.5\n")
    with pytest.raises(RunFailed, match="do not begin with an epoch"):
        drawn(tmp_path, "learning-curves")


def test_status_over_layers_counts_what_is_stored(tmp_path: Path) -> None:
    units = np.array([[-1, -1, 0], [1, 0, 0], [1, -2, 1]], np.int8)
    points = np.array([[-1, 1, 1], [1, 1, 1]], np.int8)
    written(tmp_path / "a", [{"epoch": 1, "val/acc": 0.5}])
    np.savez(tmp_path / "a" / "status.npz", layers=np.array(list("abc")), train_units=units, train_points=points)
    of_units, of_points = drawn(tmp_path, "status-layers")
    found = {(row["from"], row["status"]): row["share"] for row in of_units.rows}
    for layer in range(3):
        column = [code for code in units[:, layer].tolist() if code != -2]
        for code, name in ((-1, "dead"), (0, "linear"), (1, "nonlinear")):
            assert found[layer + 0.5, name] == pytest.approx(column.count(code) / len(column), rel=1e-3)
    assert {row["share"] for row in of_points.rows if row["status"] == "dead"} == {0.5, 0.0}
    (tmp_path / "a" / "status.npz").write_bytes(b"PK no archive")
    with pytest.raises(RunFailed, match=r"status\.npz is damaged"):
        drawn(tmp_path, "status-layers")


def test_points_that_are_all_nonlinear_are_no_figure(sweep: Path, tmp_path: Path) -> None:
    status = np.ones((4, 2), np.int8)
    written(tmp_path / "a", [{"epoch": 1, "val/acc": 0.5}])
    np.savez(tmp_path / "a" / "status.npz", layers=np.array(list("ab")), train_units=status, train_points=status)
    assert [figure.name for figure in drawn(tmp_path, "status-layers")] == ["status-layers-units"]


def test_status_over_epochs_adds_up(sweep: Path) -> None:
    units = drawn(sweep, "status-epochs")[0]
    for name in PENALTIES:
        for epoch in range(1, 5):
            rows = [row["share"] for row in units.rows if (row["panel"], row["epoch"]) == (name, epoch)]
            assert len(rows) == 3 and sum(rows) == pytest.approx(1, abs=1e-3)


def test_heat_map_holds_medians_over_seeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth: dict[tuple[float, int], list[float]] = {}
    for lam in (0.0, 0.01, 0.1):
        for depth in (5, 50):
            for seed in range(3):
                value = float(rng.uniform())
                truth.setdefault((lam, depth), []).append(value)
                rows = [{"epoch": 1, "val/acc": value}]
                written(tmp_path / f"{lam}-{depth}-{seed}", rows, seed, **{"lambda": lam, "depth": depth})
    (figure,) = drawn(tmp_path, "heat-map")
    assert figure.name == "heat-map-lambda-depth"
    assert {(row["x"], row["y"]): (row["value"], row["runs"]) for row in figure.rows} == {
        key: (pytest.approx(float(np.median(values)), rel=1e-3), 3) for key, values in truth.items()
    }
    boxes = drawn(tmp_path, "box-plots")
    assert {figure.name for figure in boxes} >= {"box-plots-lambda", "box-plots-depth"}
    assert all(len(figure.rows) == 18 for figure in boxes)


def test_pareto_is_what_a_sweep_from_the_best_finds() -> None:
    rng = np.random.default_rng(1)
    for low_x in (True, False):
        points = [(float(x), float(y)) for x, y in rng.integers(0, 12, (40, 2))]
        order = sorted(range(40), key=lambda i: ((1 if low_x else -1) * points[i][0], -points[i][1]))
        kept, best = set(), (-math.inf, math.nan)
        for index in order:
            x, y = points[index]
            if y > best[0] or (y, x) == best:
                kept.add(index)
                best = (y, x)
        assert pareto(points, low_x=low_x, low_y=False) == kept


def test_frontier_leaves_collapsed_runs_out_of_the_picture_but_not_of_the_table(tmp_path: Path) -> None:
    for lam, (left, value) in enumerate([(100, 0.9), (80, 0.91), (60, 0.9), (50, 0.89), (40, 0.87), (1, 0.1)]):
        best = {"val/acc": value, "sparsity/parameters": 100, "sparsity/parameters_left": left}
        written(tmp_path / str(lam), [{"epoch": 1} | best], lam=lam)
    (figure,) = drawn(tmp_path, "frontier")
    medians = {row["configuration"]: row for row in figure.rows if row["kind"] == "median"}
    assert {name for name, row in medians.items() if row["pareto"]} == {f"lam {n}" for n in (1, 2, 3, 4, 5)}
    assert medians["lam 5"]["size"] == 0.01 and "far off and not drawn: lam 5" in figure.caption
    shown = {row["configuration"] for row in figure.spec["data"]["values"]}
    assert shown == {f"lam {n}" for n in range(5)}


def test_zeros_layer_by_layer_are_those_of_weights_csv(sweep: Path) -> None:
    weights, units = drawn(sweep, "sparsity-layers")
    tables = [pandas.read_csv(sweep / found.name / "weights.csv") for found in read(sweep) if found.label == "L1"]
    for layer in tables[0]["name"][:-1]:
        for figure, column in ((weights, "elements"), (units, "rows")):
            (share,) = (r["share"] for r in figure.rows if (r["configuration"], r["layer"]) == ("L1", layer))
            truth = np.median([table.set_index("name").loc[layer, column] for table in tables])
            assert share == pytest.approx(truth, rel=1e-3)


def test_histograms_count_every_weight(sweep: Path) -> None:
    name = next(found.name for found in read(sweep) if found.label == "L1")
    model = torch.load(sweep / name / "checkpoints" / "best.pt")["model"]
    weights = [tensor for tensor in model.values() if tensor.ndim > 1]
    norms = torch.cat([tensor.flatten(1).norm(dim=1) for tensor in weights])
    every = torch.cat([tensor.flatten() for tensor in weights])
    for kind, values in (("weight-sizes", every), ("group-norms", norms)):
        (figure,) = drawn(sweep / name, kind)
        zeros = sum(row["count"] for row in figure.rows if row["to"] == 0)
        assert zeros == int((values == 0).sum())
        assert sum(row["count"] for row in figure.rows) == len(values)
        above = sum(row["count"] for row in figure.rows if row["from"] > 0.5)
        assert int((values.abs() > 0.5).sum()) >= above


def test_gates_are_as_open_as_the_regularizer_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 2))
    regularizer = L0(model, temperature=0.5)
    regularizer.strength = 1.0
    regularizer.log_alpha.data.normal_(0, 3)
    model(torch.zeros(1, 3))
    folder = tmp_path / "a"
    written(folder, [{"epoch": 1, "val/acc": 0.5}], regularizer=["l0(temperature=0.5)=1"])
    config = RectangularConfig(dataset="moons", regularizer=["l0(temperature=0.5)=1"]).as_dict()
    result = json.loads((folder / "result.json").read_text()) | {"config": config}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "checkpoints").mkdir()
    state = {"regularizer": regularizer.state_dict(), "strength": 1.0, "controller": {}}
    save_checkpoint(folder / "checkpoints" / "last.pt", {"epoch": 1, "penalties": [state]})
    (figure,) = drawn(folder, "gate-probabilities")
    assert [row["probability"] for row in figure.rows] == pytest.approx(
        regularizer.open_probability().tolist(), rel=1e-3, abs=1e-6
    )
    closed = torch.cat(list(regularizer.gates().values())) == 0
    assert [row["gate"] == "closed" for row in figure.rows] == closed.tolist()
    assert 0 < int(closed.sum()) < 50 and f"{int(closed.sum())} of 50 gates are closed" in figure.caption


def test_parts_of_the_penalty(sweep: Path) -> None:
    several, jumpstart = drawn(sweep, "penalty-parts")
    assert several.title.endswith(": Both") and {row["series"] for row in several.rows} == {"loss", "Jumpstart", "l1"}
    (name, *_) = (found.name for found in read(sweep) if found.label == "Both")
    history = pandas.read_csv(sweep / name / "metrics.csv")
    alone = {figure.name: figure for figure in of_run(sweep / name)}
    values = [row["median"] for row in alone["penalty-parts"].rows if row["series"] == "l1"]
    assert values == pytest.approx(history["train/scaled_l1_loss"], rel=1e-3)
    values = [row["median"] for row in alone["penalty-parts-jumpstart"].rows if row["series"] == "negative units"]
    assert values == pytest.approx(history["train/jr/negative_unit_loss"], rel=1e-3)
    assert {row["panel"] for row in jumpstart.rows} == {"Both"}


def test_one_run_has_training_and_validation_in_one_figure(sweep: Path) -> None:
    name = read(sweep)[0].name
    found = {figure.name: figure for figure in of_run(sweep / name)}
    assert {row["series"] for row in found["loss-curves-loss"].rows} == {"training", "validation"}
    assert not {"box-plots", "frontier", "heat-map"} & {name.rpartition("-")[0] for name in found}


def of_values(folder: Path, values: dict[tuple[str, int], list[float]], metric: str = "val/acc") -> None:
    """Runs of labels and seeds with these values of a metric in their epochs."""
    for (label, seed), curve in values.items():
        place = folder / f"{label}-{seed}"
        written(place, [{"epoch": n, metric: value} for n, value in enumerate(curve, 1)], seed, {metric: max(curve)})
        trial(place, {}, label, seed)


def test_lines_that_are_the_same_are_nested(tmp_path: Path) -> None:
    dead = [0.5, 0.5, 0.5]
    of_values(tmp_path, {("a", 0): dead, ("b", 0): dead, ("c", 0): [0.5, 0.7, 0.9], ("d", 0): dead})
    (figure,) = drawn(tmp_path, "learning-curves")
    widths = {row["series"]: row["width"] for row in figure.spec["data"]["values"]}
    assert widths["a"] > widths["b"] > widths["d"] == widths["c"] and "A wide line lies under others" in figure.caption
    of_values(tmp_path, {("b", 0): [0.5, 0.6, 0.5], ("d", 0): [0.5, 0.5, 0.6]})
    (figure,) = drawn(tmp_path, "learning-curves")
    assert len({row["width"] for row in figure.spec["data"]["values"]}) == 1 and "wide" not in figure.caption


@pytest.mark.parametrize(
    ("seeds", "marks", "words"),
    [
        (1, {"point"}, "(2 configurations, one seed each). Point: a run, at the epoch"),
        (3, {"tick", "point"}, "Point: a run; bar: median over seeds, at"),
        (5, {"boxplot", "point"}, "Box: quartiles and median over seeds;"),
    ],
)
def test_few_runs_are_no_box(tmp_path: Path, seeds: int, marks: set[str], words: str) -> None:
    of_values(tmp_path, {(label, seed): [0.5 + seed / 10] for label in "ab" for seed in range(seeds)})
    (figure,) = drawn(tmp_path, "box-plots")
    assert {layer["mark"]["type"] for layer in figure.spec["layer"]} == marks and words in figure.caption


def test_a_share_that_never_changes_has_an_axis_of_shares(tmp_path: Path) -> None:
    of_values(tmp_path, {("a", 0): [0.0, 0.0]})
    (figure,) = drawn(tmp_path, "learning-curves")
    low, high = figure.spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert -0.01 < low < 0 < high < 0.1


def test_runs_that_are_judged_differently_are_not_in_one_box(tmp_path: Path) -> None:
    of_values(tmp_path, {("a", 0): [0.5], ("b", 0): [0.6]})
    result = json.loads((tmp_path / "b-0" / "result.json").read_text())
    (tmp_path / "b-0" / "result.json").write_text(json.dumps(result | {"monitor": "val/r2"}))
    for kind in ("box-plots", "frontier"):
        with pytest.raises(CannotDraw, match="judged by val/acc and by val/r2; give --metric"):
            drawn(tmp_path, kind)


def test_line_ends_of_unicode_in_a_name(tmp_path: Path) -> None:
    of_values(tmp_path, {("a\u2028b", seed): [0.5, 0.6 + seed / 10] for seed in range(2)} | {("c", 0): [0.5, 0.7]})
    for kind in ("learning-curves", "box-plots"):
        (figure,) = drawn(tmp_path, kind)
        (path,) = save(figure, tmp_path / "figures", "light", ["svg"])
        assert "a b" in path.read_text()


def test_runs_of_no_sweep_and_of_several_folders(tmp_path: Path) -> None:
    for place, depth in (("one/a", 1), ("two/b", 2)):
        written(tmp_path / place, [{"epoch": e, "val/acc": depth / 10} for e in (1, 2)], depth=depth)
        (tmp_path / place / "trial.json").unlink()
    runs, base = read_runs([tmp_path / "one" / "a", tmp_path / "two"])
    assert base == tmp_path and [found.name for found in runs] == ["one/a", "two/b"]
    (figure,) = figures(runs, base, "learning-curves")
    assert {row["series"] for row in figure.rows} == {"1", "2"}
    with pytest.raises(UserError, match="is no run folder"):
        read_runs([tmp_path])


def test_what_runs_cannot_give_is_said(tmp_path: Path) -> None:
    written(tmp_path / "a", [{"epoch": 1, "val/acc": 0.5}])
    for kind in KINDS:
        with pytest.raises(UserError if KINDS[kind].asked else CannotDraw) as failure:
            drawn(tmp_path, kind)
        assert failure.value.exit_code == (1 if KINDS[kind].asked else 2) and len(failure.value.message) > 10
    with pytest.raises(UserError, match=r"'heatmap' is no kind of figure; did you mean 'heat-map'; there are"):
        drawn(tmp_path, "heatmap")
    with pytest.raises(UserError, match=r"no run has 'val/ac'; did you mean 'val/acc'"):
        drawn(tmp_path, "learning-curves", "val/ac")
    failed: Run = read(tmp_path)[0]
    assert figures([failed], tmp_path) == []


@pytest.mark.parametrize("theme", THEMES)
def test_files_are_what_they_are_called(tmp_path: Path, theme: str) -> None:
    values = [{"epoch": 1, "series": "a, b", "median": 0.25}, {"epoch": 2, "series": "c", "median": None}]
    spec = {
        "width": "container",
        "data": {"values": values},
        "mark": "point",
        "encoding": {"x": {"field": "epoch", "type": "quantitative"}},
    }
    figure = Figure("plain", "What it shows", "How it was computed.", spec, values)
    png, svg, table = save(figure, tmp_path / "new", theme)
    assert png.name == {"light": "plain.png", "dark": "plain-dark.png"}[theme] and table.name == "plain.csv"
    assert png.read_bytes().startswith(b"\x89PNG\r\n")
    text = svg.read_text()
    assert "What it shows" in text and "How it was computed." in text and THEMES[theme]["background"] in text
    assert pandas.read_csv(table).replace({np.nan: None}).to_dict("records") == values
    assert spec["width"] == "container", "the figure itself is as it was"
    assert {path.name for path in (tmp_path / "new").iterdir()} == {png.name, svg.name, table.name}


def test_looks_that_do_not_exist(tmp_path: Path) -> None:
    figure = Figure("plain", "", "", {}, [])
    with pytest.raises(UserError, match="did you mean 'dark'"):
        save(figure, tmp_path, "drak")
    with pytest.raises(UserError, match="did you mean 'png'"):
        list(save_all([figure], tmp_path, "both", ["pgn"]))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="choose another --out"):
        save(figure, tmp_path / "file", "light", ["csv"])


def test_labels_lie_on_nothing() -> None:
    rng = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in rng.uniform(0, 1, (30, 2)) * [640, 300]]
    names = [f"configuration {n}" for n in range(30)]
    found = placed(names, points, 640, 300)
    assert len(found) > 10
    boxes = [
        (x, label.y - 7, x + 7 * len(names[index]), label.y + 7)
        for index, label in found.items()
        for x in [label.x if label.side == "right" else label.x - 7 * len(names[index])]
    ]
    for index, (a, b, c, d) in enumerate(boxes):
        assert a >= 0 and c <= 640
        assert not any(a < px < c and b < py < d for px, py in points)
        assert not any(a < g and e < c and b < h and f < d for e, f, g, h in boxes[:index])


def test_labels_at_the_end_of_lines_keep_their_distance_and_order() -> None:
    places = [0.5, 0.51, 0.9, 0.1, 0.505, 0.0]
    for log in (False, True):
        low = 0.01 if log else 0.0
        found = spread([max(place, low) for place in places], low, 1.0, 200, log=log)
        pixels = sorted((math.log(x / low) / math.log(1 / low) if log else x) * 200 for x in found)
        assert all(b - a >= 14 - 1e-6 for a, b in pairwise(pixels))
        assert sorted(range(6), key=lambda i: found[i]) == sorted(range(6), key=lambda i: places[i])
        assert min(pixels) >= -1e-6 and max(pixels) <= 200 + 1e-6


def test_the_look_is_that_of_a_runs_figures() -> None:
    assert tuple(CLASS_COLOURS) == style.CLASS_COLOURS
    assert {name: style.STATUS_COLOURS[code] for code, name in style.STATUS_NAMES.items()} == STATUS_COLOURS
    assert set(THEMES["light"]) == set(THEMES["dark"])


def test_importing_figures_is_light() -> None:
    code = "import sys, regx.analysis.figures; print({'torch', 'numpy', 'vl_convert', 'altair'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
