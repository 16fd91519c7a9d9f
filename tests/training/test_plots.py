"""What the figures say: every number and colour in them is compared with the array it was drawn from."""

import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import r2_score, root_mean_squared_error

from regx.training import plots
from regx.training.plots.status import common_prefix


def table(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, 2, (rows, columns)).astype(np.int8)


def names(count: int) -> list[str]:
    return [f"hidden.{index}" for index in range(count)]


def legend_labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def panel(figure: Figure, start: str) -> Axes:
    (found,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith(start)]
    return found


def curve(axes: Axes, label: str) -> Any:
    (found,) = [line for line in axes.get_lines() if line.get_label() == label]
    return found


def outline(area: Any) -> np.ndarray:
    return np.asarray(area.get_paths()[0].vertices)


def drawn(axes: Axes) -> np.ndarray:
    (image,) = axes.get_images()
    return np.asarray(image.get_array())


# --- status heat-map ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(4, 50), (200, 50), (1, 1)])
def test_map_holds_the_table(rows: int, columns: int) -> None:
    codes = table(rows, columns)
    cells = plots.status_heatmap(codes, names(columns), axis="unit", title="units").axes[1]
    assert (drawn(cells) == codes).all()
    assert cells.get_images()[0].get_extent() == [-0.5, columns - 0.5, rows - 0.5, -0.5]


def test_status_colours_are_the_published_ones() -> None:
    codes = np.array([[-1, 0, 1, -2]], dtype=np.int8)
    figure = plots.status_heatmap(codes, list("abcd"), axis="unit")
    (image,) = figure.axes[1].get_images()
    colours = [to_hex(colour) for colour in image.to_rgba(codes)[0]]
    assert colours[:3] == ["#db5e56", "#dbc256", "#5ea28d"]
    assert [to_hex(patch.get_facecolor()) for patch in figure.legends[0].get_patches()] == colours


def test_legend_and_bars_give_the_shares() -> None:
    codes = table(40, 7)
    codes[25:, 3:5] = -2
    figure = plots.status_heatmap(codes, names(7), axis="unit")
    there = codes[codes != -2]
    assert legend_labels(figure) == [
        f"dead {(there == -1).mean():.0%}".replace("%", " %"),
        f"linear {(there == 0).mean():.0%}".replace("%", " %"),
        f"nonlinear {(there == 1).mean():.0%}".replace("%", " %"),
        "no unit",
    ]
    heights = np.array([bar.get_height() for bar in figure.axes[0].patches]).reshape(3, 7)  # type: ignore[attr-defined]
    for column in range(7):
        cells = codes[:, column][codes[:, column] != -2]
        assert heights[:, column] == pytest.approx([(cells == state).mean() for state in (-1, 0, 1)])


def test_few_cells_are_never_rounded_away() -> None:
    codes = np.ones((500, 10), dtype=np.int8)
    codes[0, 0] = -1
    labels = legend_labels(plots.status_heatmap(codes, names(10), axis="unit"))
    assert labels == ["dead 0.1 %", "linear 0 %", "nonlinear 99.9 %"]


def test_long_table_draws_every_nth_row_and_says_so() -> None:
    codes = table(26_000, 49)
    figure = plots.status_heatmap(codes, names(49), axis="unit")
    bars, cells = figure.axes
    assert (drawn(cells) == codes[::44]).all()
    assert cells.get_ylabel() == "units (26,000, 1 in 44 shown)"
    assert cells.get_images()[0].get_extent()[2] == 25_999.5
    assert bars.patches[0].get_height() == pytest.approx((codes[:, 0] == -1).mean())  # type: ignore[attr-defined]


def test_sorted_points_are_the_same_rows_in_lexicographic_order() -> None:
    codes = table(60, 3)
    figure = plots.status_heatmap(codes, names(3), axis="point", sort=True)
    assert drawn(figure.axes[1]).tolist() == sorted(codes.tolist())
    assert drawn(plots.status_heatmap(codes, names(3), axis="point").axes[1]).tolist() == codes.tolist()


@pytest.mark.parametrize("count", [3, 50, 150])
def test_layer_names_do_not_overlap(count: int) -> None:
    figure = plots.status_heatmap(table(4, count), names(count), axis="unit")
    figure.draw_without_rendering()
    labels = [label for label in figure.axes[1].get_xticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert labels[0].get_text() == "0"
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))
    for label in labels:
        assert label.get_text() == f"{round(label.get_position()[0])}"


@pytest.mark.parametrize(
    ("layers", "prefix"),
    [
        (["hidden.activation0", "hidden.activation1", "hidden.activation10"], "hidden.activation"),
        (["hidden.activation10", "hidden.activation11"], "hidden.activation"),  # not hidden.activation1
        (["hidden.activation0", "hidden.pool0"], "hidden."),
        (["hidden.relu", "hidden.relu_out"], "hidden."),  # a name is never left empty
        (["net.relu1", "net.relu_out"], "net."),
        (["block_in", "block_out"], "block_"),
        (["layer1.relu", "layer1.1.relu"], "layer1."),
        (["layer1", "layer1.relu"], "layer"),
        (["relu", "layer1.0.relu", "layer1.1.relu"], ""),  # ResNet
        (["reduce", "relu"], ""),
        (["0", "1"], ""),
        (["10", "11"], ""),
        (["hidden.activation0"], ""),
    ],
)
def test_prefix_ends_where_a_word_does(layers: list[str], prefix: str) -> None:
    assert common_prefix(layers) == prefix


def layer_axis(layers: list[str]) -> tuple[str, list[str]]:
    axes = plots.status_heatmap(table(4, len(layers)), layers, axis="unit").axes[1]
    return axes.get_xlabel(), [label.get_text() for label in axes.get_xticklabels()]


def test_shared_start_of_layer_names_is_said_once() -> None:
    layers = [f"hidden.activation{index}" for index in range(12)]
    assert layer_axis(layers) == ("layer (hidden.activation…)", [str(index) for index in range(12)])
    assert layer_axis(["relu", "layer1.0.relu"]) == ("layer", ["relu", "layer1.0.relu"])
    assert layer_axis(["relu", "a.very.long.name.of.a.layer"]) == ("layer", ["relu", "a.very.lon….of.a.layer"])


def test_map_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(ValueError, match="2 layers need a table"):
        plots.status_heatmap(table(4, 3), names(2), axis="unit")
    with pytest.raises(ValueError, match=r"not \[7\]"):
        plots.status_heatmap(np.array([[7]]), names(1), axis="unit")
    with pytest.raises(ValueError, match="units cannot be sorted"):
        plots.status_heatmap(table(4, 3), names(3), axis="unit", sort=True)


# --- learning curves ------------------------------------------------------------------------------------------------


def metrics(rows: int, *, end: float = 0.01) -> pd.DataFrame:
    epoch = np.arange(rows)
    loss = np.geomspace(0.7, end, rows)
    dead, linear = np.linspace(0.6, 0.0, rows), np.linspace(0.1, 0.3, rows)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train/loss": loss,
            "val/loss": loss * 1.1,
            "train/acc": np.linspace(0.5, 1, rows),
            "val/acc": np.linspace(0.5, 0.9, rows),
            "train/JR_loss": loss,
            "train/scaled_JR_loss": loss / 100,
            "train/jr/unit_dead_ratio": dead,
            "train/jr/unit_linear_ratio": linear,
            "val/jr/unit_dead_ratio": dead,
            "lr": 1e-3,
        }
    )


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


@pytest.mark.parametrize("rows", [1, 2, 4000])
def test_curves_are_the_columns(rows: int, tmp_path: Path) -> None:
    data = metrics(rows)
    figure = plots.learning_curves(data, title="moons")
    assert titles(figure) == ["loss", "accuracy", "Jumpstart penalty times lambda", "units (train)"]
    for name, label, column in [
        ("loss", "train", "train/loss"),
        ("loss", "val", "val/loss"),
        ("accuracy", "val", "val/acc"),
        ("Jumpstart", "train", "train/scaled_JR_loss"),
    ]:
        line = curve(panel(figure, name), label)
        assert (line.get_xdata() == data["epoch"]).all()
        assert (line.get_ydata() == data[column]).all()
    plots.save(figure, tmp_path / "curves.png")


@pytest.mark.parametrize(("end", "scale"), [(0.0763, "log"), (0.0777, "linear"), (0.6, "linear")])
def test_loss_is_logarithmic_beyond_one_decade(end: float, scale: str) -> None:
    # validation starts at 1.1 * 0.7 = 0.77, so a decade lower is 0.077
    assert panel(plots.learning_curves(metrics(50, end=end)), "loss").get_yscale() == scale


def test_loss_that_touches_zero_stays_linear() -> None:
    data = metrics(50)
    data.loc[49, "train/loss"] = 0.0
    assert panel(plots.learning_curves(data), "loss").get_yscale() == "linear"


def test_cells_that_are_not_finite_are_left_out() -> None:
    data = metrics(50)
    data.loc[data["epoch"] % 5 > 0, ["val/loss", "train/jr/unit_dead_ratio"]] = np.nan
    data.loc[49, "train/loss"] = np.inf
    figure = plots.learning_curves(data)
    assert curve(panel(figure, "loss"), "val").get_xdata().tolist() == list(range(0, 50, 5))
    assert curve(panel(figure, "loss"), "train").get_xdata().tolist() == list(range(49))
    (dead, *_) = panel(figure, "units").collections
    assert set(outline(dead)[:, 0]) == set(range(0, 50, 5))


def test_panels_exist_for_what_was_logged() -> None:
    data = metrics(5)
    assert titles(plots.learning_curves(data.loc[:, ["epoch", "train/loss"]])) == ["loss"]
    r2 = data[["epoch", "train/loss"]].assign(**{"val/r2": [-40.0, -1, 0, 0.5, 0.9]})
    figure = plots.learning_curves(r2)
    assert titles(figure) == ["loss", "R² (below -1 not shown)"]
    assert figure.axes[1].get_ylim()[0] == -1
    assert titles(plots.learning_curves(data.assign(**{"val/loss": np.nan, "train/loss": np.nan})))[0] == "accuracy"
    with pytest.raises(ValueError, match="no finite"):
        plots.learning_curves(data.loc[:, ["epoch", "lr"]])
    with pytest.raises(ValueError, match="no column 'epoch'"):
        plots.learning_curves(data.loc[:, ["train/loss"]])


def test_status_areas_stack_to_one_in_the_status_colours() -> None:
    data = metrics(30)
    areas: Any = panel(plots.learning_curves(data), "units").collections
    assert [to_hex(area.get_facecolor()[0]) for area in areas] == ["#db5e56", "#dbc256", "#5ea28d"]
    dead, linear = data["train/jr/unit_dead_ratio"], data["train/jr/unit_linear_ratio"]
    for area, low, high in zip(areas, [0, dead, dead + linear], [dead, dead + linear, 1], strict=True):
        path = outline(area)  # along the bottom, then back along the top
        for epoch in (0, 17, 29):
            reached = path[path[:, 0] == epoch][:, 1]
            want = [np.broadcast_to(side, 30)[epoch] for side in (low, high)]
            assert [reached.min(), reached.max()] == pytest.approx(want)


def test_best_epoch_is_marked_in_every_panel() -> None:
    figure = plots.learning_curves(metrics(100), best_epoch=73)
    for axes in figure.axes:
        assert list(curve(axes, "_best").get_xdata()) == [73, 73]
    assert [text.get_text() for text in figure.axes[0].texts] == ["best epoch 73"]
    unmarked = plots.learning_curves(metrics(100))
    assert not [line for axes in unmarked.axes for line in axes.get_lines() if line.get_label() == "_best"]


# --- decision surface -----------------------------------------------------------------------------------------------


def two_sides() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    x = np.random.default_rng(0).uniform(-1, 1, (60, 2))
    x[:2] = [[-1, -2], [1, 2]]
    y = (x[:, 0] > 0.25).astype(np.int64)
    return {"train": (x[:40], y[:40]), "val": (x[40:], y[40:])}


def step_at(threshold: float) -> plots.Predict:
    def predict(inputs: np.ndarray) -> np.ndarray:
        right = 1 / (1 + np.exp(-8 * (inputs[:, 0] - threshold)))
        return np.stack([1 - right, right], axis=1)

    return predict


def test_boundary_lies_where_the_classes_are_equally_likely() -> None:
    figure = plots.decision_surface(step_at(0.25), two_sides(), classes=("no", "yes"), feature_names=("a", "b"))
    axes = figure.axes[0]
    assert axes.get_xlim() == pytest.approx((-1.2, 1.2))  # 10 % margin
    assert axes.get_ylim() == pytest.approx((-2.4, 2.4))
    assert axes.get_aspect() == 1.0
    line = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert line[:, 0] == pytest.approx(np.full(len(line), 0.25), abs=1e-3)
    assert (line[:, 1].min(), line[:, 1].max()) == pytest.approx((-2.4, 2.4))


def test_surface_shows_the_winning_class_and_how_sure_it_is() -> None:
    figure = plots.decision_surface(step_at(0.25), two_sides(), classes=("no", "yes"), feature_names=("a", "b"))
    image = drawn(figure.axes[0])
    assert image.shape == (300, 300, 3)
    paleness = image.min(axis=-1)[150]  # along x
    assert 175 < paleness.argmax() < 190  # x = 0.25 is column 181
    assert paleness[0] < paleness[150] < paleness[175]
    assert image[0, 0].argmax() == 2  # blue
    assert image[0, -1].argmax() == 0  # vermilion


def test_surface_is_the_right_way_up() -> None:
    def upper(inputs: np.ndarray) -> np.ndarray:
        above = (inputs[:, 1] > 0).astype(float)
        return np.stack([1 - above, above], axis=1)

    axes = plots.decision_surface(upper, two_sides(), classes=("no", "yes"), feature_names=("a", "b")).axes[0]
    (image,) = axes.get_images()
    top = drawn(axes)[-1 if image.origin == "lower" else 0, 150]
    assert image.get_extent() == pytest.approx([*axes.get_xlim(), *axes.get_ylim()])
    assert top.argmax() == 0  # vermilion, the colour of "yes"


def test_every_point_is_drawn_once_in_its_class_and_split() -> None:
    points = two_sides()
    figure = plots.decision_surface(step_at(0.25), points, classes=("no", "yes"), feature_names=("a", "b"))
    groups = figure.axes[0].collections[1:]
    wanted = [(split, label) for split in ("train", "val") for label in (0, 1)]
    for group, (split, label) in zip(groups, wanted, strict=True):
        x, y = points[split]
        assert np.asarray(group.get_offsets()) == pytest.approx(x[y == label])
        own = group.get_facecolor() if split == "train" else group.get_edgecolor()  # type: ignore[attr-defined]
        assert to_hex(own[0]) == plots.CLASS_COLOURS[label]  # type: ignore[arg-type]
    assert legend_labels(figure) == ["no", "yes", "train", "val"]


def test_surface_of_a_constant_classifier_has_no_boundary(tmp_path: Path) -> None:
    def predict(inputs: np.ndarray) -> np.ndarray:
        return np.tile([0.2, 0.5, 0.3], (len(inputs), 1))

    figure = plots.decision_surface(predict, two_sides(), classes=list("abc"), feature_names=("a", "b"))
    assert len(figure.axes[0].collections) == 6  # markers of 2 splits x 3 classes
    plots.save(figure, tmp_path / "surface.png")


@pytest.mark.parametrize("spread", [(2.0, 1.0), (1.0, 1.0), (1.0, 2.0), (9.0, 1.0), (0.01, 10.0)])
def test_surface_fills_its_figure(spread: tuple[float, float]) -> None:
    points = {split: (x * spread, y) for split, (x, y) in two_sides().items()}
    points["train"][0][:2] = [[-spread[0], -spread[1]], spread]  # sides are 2.4 times the spread
    figure = plots.decision_surface(
        step_at(0), points, classes=("no", "yes"), feature_names=("a", "b"), title="a table, rectangular 50x4, lambda 0"
    )
    figure.draw_without_rendering()
    (axes,) = figure.axes
    box, (bar,) = axes.get_window_extent(), axes.child_axes
    ratio = min(max(spread[0] / spread[1], 1 / 3), 3)
    assert box.width / box.height == pytest.approx(ratio, rel=0.01)
    assert axes.get_aspect() == (1.0 if ratio == spread[0] / spread[1] else "auto")
    tall = bar.get_window_extent()
    assert (tall.y0, tall.y1) == pytest.approx((box.y0, box.y1), abs=1)
    outside, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    for margin in (outside.x0, outside.y0, width - outside.x1, height - outside.y1):
        assert 0 <= margin < 0.15  # inches
    below = figure.legends[0].get_window_extent().y1
    labelled = axes.get_tightbbox()
    assert labelled is not None
    assert 0 <= labelled.y0 - below < 0.15 * figure.dpi


def test_long_title_widens_the_figure_alone() -> None:
    def boxes(title: str) -> tuple[float, Any]:
        points = {split: (x * [0.5, 1], y) for split, (x, y) in two_sides().items()}
        names = {"classes": ("no", "yes"), "feature_names": ("a", "b")}
        figure = plots.decision_surface(step_at(0), points, **names, title=title)
        figure.draw_without_rendering()
        width = figure.get_size_inches()[0]
        assert figure.get_tightbbox().x1 <= width
        return width, figure.axes[0].get_window_extent()

    (narrow, short), (wide, long) = boxes("t"), boxes("a long title " * 8)
    assert wide > narrow + 1
    assert (long.width, long.height) == pytest.approx((short.width, short.height), rel=0.01)


@pytest.mark.parametrize("count", [2, 40])
def test_surface_takes_any_class_names(count: int, tmp_path: Path) -> None:
    def predict(inputs: np.ndarray) -> np.ndarray:
        return np.full((len(inputs), count), 1 / count)

    classes = [f"種類 {index} with a name of many, many letters that costs $5 or $6" for index in range(count)]
    figure = plots.decision_surface(predict, two_sides(), classes=classes, feature_names=("日", "b"))
    plots.save(figure, tmp_path / "surface.png")
    box = figure.axes[0].get_window_extent()
    assert box.width / box.height == pytest.approx(0.5, rel=0.01)
    with warnings.catch_warnings(action="ignore"):  # of measuring letters that the font lacks
        legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.width


def test_surface_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"predict gave \(90000, 2\)"):
        plots.decision_surface(step_at(0), two_sides(), classes=list("abc"), feature_names=("a", "b"))
    with pytest.raises(ValueError, match=r"needs inputs \(N, 2\)"):
        wide = {"train": (np.zeros((5, 3)), np.zeros(5))}
        plots.decision_surface(step_at(0), wide, classes=("a", "b"), feature_names=("a", "b"))


# --- regression and confusion ---------------------------------------------------------------------------------------


def test_regression_facts_equal_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(10, 3, (200, 1))
    predicted = true + rng.normal(0, 1, (200, 1))
    figure = plots.regression_scatter(true, predicted, title="abalone", unit="rings")
    (axes,) = figure.axes
    assert axes.texts[0].get_text() == (
        f"R² = {r2_score(true, predicted):.3f}\nRMSE = {root_mean_squared_error(true, predicted):.4g} rings\nn = 200"
    )
    assert np.asarray(axes.collections[0].get_offsets()) == pytest.approx(np.hstack([true, predicted]))
    identity = axes.get_lines()[0]
    across, up = np.asarray(identity.get_xdata()), np.asarray(identity.get_ydata())
    assert list(across) == list(up) == list(axes.get_xlim()) == list(axes.get_ylim())


def test_regression_counts_what_is_not_finite() -> None:
    figure = plots.regression_scatter(np.array([1.0, 1.0, 2.0]), np.array([1.0, 3.0, np.nan]))
    assert figure.axes[0].texts[0].get_text() == "R² undefined: one value\nRMSE = 1.414\nn = 2 (1 not finite)"
    with pytest.raises(ValueError, match="no pair"):
        plots.regression_scatter(np.array([1.0]), np.array([np.inf]))
    with pytest.raises(ValueError, match="need two arrays"):
        plots.regression_scatter(np.zeros((3, 2)), np.zeros((3, 2)))


def test_confusion_colours_are_row_shares_and_numbers_are_counts() -> None:
    matrix = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]])  # no example of the last class
    axes = plots.confusion_matrix(matrix, ["a", "b", "c"], "test").axes[0]
    assert drawn(axes) == pytest.approx(np.array([[0.8, 0.2, 0], [0.25, 0.75, 0], [0, 0, 0]]))
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert shown == {(column, row): str(matrix[row, column]) for row in range(3) for column in range(3)}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_confusion_of_many_classes_drops_the_numbers() -> None:
    assert len(plots.confusion_matrix(np.eye(15, dtype=int), names(15)).axes[0].texts) == 225
    assert len(plots.confusion_matrix(np.eye(16, dtype=int), names(16)).axes[0].texts) == 0
    with pytest.raises(ValueError, match=r"need a matrix \(3, 3\)"):
        plots.confusion_matrix(np.eye(2), ["a", "b", "c"])


# --- comparison -----------------------------------------------------------------------------------------------------


def test_comparison_shows_each_run_in_its_own_column(tmp_path: Path) -> None:
    runs = [
        plots.RunPicture("plain training", table(4, 10, 0), names(10), step_at(-0.5), two_sides(), 0.5),
        plots.RunPicture("with Jumpstart", np.ones((4, 10), np.int8), names(10), step_at(0.25), two_sides(), 0.97),
    ]
    figure = plots.comparison(runs)
    surfaces, bars, cells = np.array(figure.axes).reshape(3, 2)
    assert [axes.get_title() for axes in surfaces] == ["plain training", "with Jumpstart"]
    assert [axes.texts[0].get_text() for axes in surfaces] == ["validation accuracy 50 %", "validation accuracy 97 %"]
    for axes, run in zip(cells, runs, strict=True):
        assert (drawn(axes) == run.table).all()
    assert bars[1].get_title(loc="left") == "units: dead 0 %, linear 0 %, nonlinear 100 %"
    dead = (runs[0].table == -1).mean()
    assert bars[0].get_title(loc="left").startswith(f"units: dead {100 * dead:.0f} %")
    plots.save(figure, tmp_path / "comparison.png")
    with pytest.raises(ValueError, match="no runs"):
        plots.comparison([])


# --- files ----------------------------------------------------------------------------------------------------------


def test_nothing_lies_outside_the_picture() -> None:
    surface = plots.decision_surface(
        step_at(0), two_sides(), classes=("no", "yes"), feature_names=("a", "b"), title="t"
    )
    for figure in [
        plots.status_heatmap(table(4, 50), names(50), axis="unit", title="t"),
        plots.learning_curves(metrics(50), title="t", best_epoch=3),
        surface,
        plots.confusion_matrix(np.eye(30, dtype=int), names(30), "t"),
        plots.confusion_matrix(np.eye(3, dtype=int), ["setosa", "versicolor", "virginica"], "t"),
    ]:
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def test_save_writes_150_dpi_and_leaves_nothing_else(tmp_path: Path) -> None:
    figure = plots.status_heatmap(table(4, 3), names(3), axis="unit", title="costs $5 or $6, 日本")
    path = plots.save(figure, tmp_path / "units.png")
    width, height = figure.get_size_inches()
    with Image.open(path) as image:
        assert image.size == (int(width * 150), int(height * 150))
        assert image.format == "PNG"
    assert os.listdir(tmp_path) == ["units.png"]


def test_failed_save_keeps_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "units.png"
    path.write_bytes(b"before")

    def half(self: Figure, target: Path, **options: Any) -> None:
        Path(target).write_bytes(b"\x89PNG half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        plots.save(plots.status_heatmap(table(4, 3), names(3), axis="unit"), path)
    assert os.listdir(tmp_path) == ["units.png"]
    assert path.read_bytes() == b"before"


def test_drawing_needs_no_pyplot_and_importing_no_matplotlib(tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom regx.training import plots\n"
        "print('matplotlib' in sys.modules)\n"
        "figure = plots.status_heatmap(np.ones((2, 2), np.int8), ['a', 'b'], axis='unit')\n"
        "plots.save(figure, Path('a.png'))\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert output.stdout.split() == ["False", "False"]
