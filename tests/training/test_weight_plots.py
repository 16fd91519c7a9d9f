"""What the figures of the weights say: their bars, titles and lines against the numbers they were drawn from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from regx.models import Rectangular
from regx.training import plots
from regx.training.plots.style import CLASS_COLOURS
from regx.training.sparsity import SparsityMeter


def bars(axes: Axes, label: str) -> list[Any]:
    """The bars under `label`, without the lines and outlines."""
    (found,) = [container for container in axes.containers if container.get_label() == label]
    return list(found)


def heights(axes: Axes, label: str) -> list[float]:
    return [bar.get_height() for bar in bars(axes, label)]


# --- histogram ------------------------------------------------------------------------------------------------------


def sample(zeros: int = 300, dead: int = 12) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    weights = np.concatenate([np.zeros(zeros), rng.normal(0, 0.3, 1000)]).astype(np.float32)
    filters = np.concatenate([np.zeros(dead), [1e-4, 2e-4], rng.uniform(0.1, 3, 50)]).astype(np.float32)
    return weights, {"filters": filters, "rows": rng.uniform(0.5, 2, 20).astype(np.float32)}


def test_weights_are_counted_and_zeros_have_their_own_bar() -> None:
    weights, norms = sample()
    axes = plots.weight_histogram(weights, norms).axes[0]
    counts, edges, _ = next(patch for patch in axes.patches if hasattr(patch, "get_data")).get_data()  # type: ignore[attr-defined]
    rest = weights[weights != 0]
    assert counts.sum() == 1000
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        last = high == edges[-1]
        assert count == ((rest >= low) & ((rest <= high) if last else (rest < high))).sum()
    assert heights(axes, "exactly 0") == [300]
    assert axes.get_yscale() == "log"
    assert axes.get_title(loc="left") == "1,300 weights, 23 % exactly 0"


def test_norms_are_counted_by_kind_with_zeros_at_the_left_end() -> None:
    weights, norms = sample()
    axes = plots.weight_histogram(weights, norms).axes[1]
    assert sum(heights(axes, "filters")) == 52
    assert sum(heights(axes, "rows")) == 20
    edge = axes.get_xlim()[0]
    at_zero = [bar for group in axes.containers for bar in group if bar.get_x() < edge + 0.3 and bar.get_height()]
    assert [bar.get_height() for bar in at_zero] == [12]
    low = [bar for bar in bars(axes, "filters") if bar.get_height() and bar.get_x() < -3]
    assert sum(bar.get_height() for bar in low) == 2
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[0] == "0"
    assert axes.get_xticks()[0] == pytest.approx(at_zero[0].get_x() + at_zero[0].get_width() / 2)
    assert axes.get_title(loc="left") == "84 filters and rows, 14 % exactly 0, 17 % below 0.001"


@pytest.mark.parametrize("threshold", [1e-3, 1e-2])
def test_threshold_is_a_dashed_red_line(threshold: float) -> None:
    axes = plots.weight_histogram(*sample(), threshold=threshold).axes[1]
    (line,) = [line for line in axes.get_lines() if line.get_label() == f"threshold {threshold:g}"]
    assert list(np.asarray(line.get_xdata())) == pytest.approx([np.log10(threshold)] * 2)
    assert (line.get_color(), line.get_linestyle()) == ("red", "--")
    ticks = dict(zip([label.get_text() for label in axes.get_xticklabels()], axes.get_xticks(), strict=True))
    assert ticks["$10^{-3}$"] == -3


def test_bars_of_two_kinds_stand_on_each_other() -> None:
    axes = plots.weight_histogram(*sample()).axes[1]
    for first, second in zip(bars(axes, "filters"), bars(axes, "rows"), strict=True):
        assert second.get_y() == first.get_height()
        assert to_hex(second.get_facecolor()) == CLASS_COLOURS[1]


def test_a_model_without_zeros_and_one_of_zeros() -> None:
    figure = plots.weight_histogram(*sample(zeros=0, dead=0))
    assert figure.axes[0].get_legend() is None
    assert figure.axes[0].get_title(loc="left") == "1,000 weights, 0 % exactly 0"
    figure = plots.weight_histogram(np.zeros(7), {"rows": np.zeros(3)})
    figure.draw_without_rendering()
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "7 weights, 100 % exactly 0",
        "3 rows, 100 % exactly 0",
    ]


def test_what_is_not_finite_is_left_out_and_said() -> None:
    weights, norms = np.array([0.0, 1.0, np.nan, np.inf]), {"rows": np.array([1.0, np.nan])}
    left, right = plots.weight_histogram(weights, norms).axes
    assert left.get_title(loc="left") == "2 weights, 50 % exactly 0"
    assert left.get_xlabel() == "weight (2 not finite, left out)"
    assert right.get_xlabel() == "Euclidean norm (1 not finite, left out)"
    with pytest.raises(ValueError, match="no finite"):
        plots.weight_histogram(np.array([np.nan]), {"rows": np.ones(1)})
    with pytest.raises(ValueError, match="no finite"):
        plots.weight_histogram(np.ones(1), {})


# --- bars -----------------------------------------------------------------------------------------------------------


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    units = rng.uniform(0, 0.5, count)
    made: list[dict[str, Any]] = [
        {"name": f"net.{i}.weight", "units": u, "rows": u, "filters": None, "columns": None, "elements": u + e}
        for i, (u, e) in enumerate(zip(units, rng.uniform(0, 0.5, count), strict=True))
    ]
    return [*made, {"name": "total", "units": 0.25, "rows": 0.25, "filters": None, "columns": 0.5, "elements": 0.625}]


@pytest.mark.parametrize("count", [1, 3, 50, 150])
def test_bars_are_the_shares_of_the_table(count: int) -> None:
    table = rows(count)
    figure = plots.sparsity_bars(table, title="moons")
    (axes,) = figure.axes
    grouped, single = bars(axes, "in rows of zeros"), bars(axes, "single zeros")
    assert [bar.get_height() for bar in grouped] == [row["units"] for row in table[:-1]]
    assert [bar.get_y() + bar.get_height() for bar in single] == pytest.approx([row["elements"] for row in table[:-1]])
    assert axes.get_title(loc="left") == "moons\nzero: 62 % of the weights, 25 % of the rows"
    for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        assert label.get_text() == (f"{tick:.0f}" if count > 1 else "net.0")


def test_zero_groups_are_part_of_the_zero_weights_of_a_real_model() -> None:
    torch.manual_seed(0)
    model = Rectangular((3, 8, 8), 10, depth=3, width=6)
    for index, parameter in enumerate(model.parameters()):
        if parameter.ndim > 1:
            parameter.data[: 1 + index // 2] = 0
            parameter.data[torch.rand_like(parameter) < 0.2] = 0
    table = SparsityMeter(model, None).table()
    (axes,) = plots.sparsity_bars(table).axes
    assert min(heights(axes, "single zeros")) > 0
    assert heights(axes, "in filters or rows of zeros") == [row["units"] for row in table[:-1]]


def test_other_units_and_layers_without_them() -> None:
    table = rows(2)
    table[0]["columns"] = 0.125
    (axes,) = plots.sparsity_bars(table, unit="columns").axes
    assert heights(axes, "in columns of zeros") == [0.125, 0.0]
    assert axes.get_title(loc="left").endswith("50 % of the columns")


def test_scale_follows_small_shares_and_no_zeros_are_said() -> None:
    table = rows(3)
    for row in table:
        row.update(units=0.0, elements=0.04)
    assert plots.sparsity_bars(table).axes[0].get_ylim() == pytest.approx((0, 0.05))
    for row in table:
        row["elements"] = 0.0
    figure = plots.sparsity_bars(table)
    assert [text.get_text() for text in figure.axes[0].texts] == ["no weight is 0"]
    assert not figure.legends


def test_bars_refuse_what_they_cannot_draw() -> None:
    with pytest.raises(ValueError, match="no layers"):
        plots.sparsity_bars(rows(0))
    with pytest.raises(ValueError, match="no column 'blocks'"):
        plots.sparsity_bars(rows(2), unit="blocks")


# --- files ----------------------------------------------------------------------------------------------------------


def test_nothing_lies_outside_the_picture(tmp_path: Path) -> None:
    for index, figure in enumerate(
        [plots.weight_histogram(*sample(), title="t"), *(plots.sparsity_bars(rows(n), title="t") for n in (1, 50))]
    ):
        plots.save(figure, tmp_path / f"{index}.png")
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
