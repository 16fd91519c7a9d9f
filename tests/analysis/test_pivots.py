"""Accuracy beside sparsity, and two parameters against each other."""

import pytest

from regx.analysis.pivots import frontier, pivot
from regx.analysis.table import Table, TableSpec
from regx.analysis.tables import TABLES, make, summary
from regx.errors import RunFailed, UserError
from tests.analysis.runs_by_hand import run


def column(table: Table, name: str) -> list[object]:
    return [row[table.columns.index(name)] for row in table.rows]


# Of louizos' L0 on CIFAR-10 as reported by a reproduction: strength, validation accuracy, sparsity.
POINTS = [(0.5, 0.869, 0.22), (0.25, 0.8866, 0.06), (1.0, 0.832, 0.55), (20.0, 0.888, 0.39), (10.0, 0.9044, 0.10)]


def test_frontier_is_sorted_by_sparsity() -> None:
    runs = [run(accuracy, strength=lam, best={"sparsity/gates": zeros}) for lam, accuracy, zeros in POINTS]
    table = frontier([*runs, run(0.9012, strength=0.0)])
    assert column(table, "strength") == [0.0, 0.25, 10.0, 0.5, 20.0, 1.0], "without zeros first"
    assert column(table, "sparsity/gates mean")[0] is None
    assert column(table, "frontier") == [None, None, "*", None, "*", "*"]


def test_frontier_of_each_dataset_and_of_what_is_left() -> None:
    runs = [
        run(accuracy, dataset=dataset, strength=lam, best={"sparsity/parameters_left": 1000 * (1 - zeros)})
        for dataset, lam, accuracy, zeros in [("a", 1, 0.5, 0.1), ("a", 2, 0.4, 0.2), ("b", 1, 0.9, 0.0)]
    ]
    table = frontier(runs, TableSpec(metrics=["sparsity/parameters_left"]))
    assert [row[:2] for row in table.rows] == [["a", 1], ["a", 2], ["b", 1]]
    assert column(table, "frontier") == ["*"] * 3
    with pytest.raises(UserError, match="no finished run counts zeros; train with --log-sparsity yes"):
        frontier(runs)


def test_frontier_marks_runs_that_hyperband_has_ended() -> None:
    runs = [run(0.5 + lam / 10, strength=lam, best={"sparsity/elements": 0.1}, ended=("epochs", "early_terminate")[lam])
            for lam in (0, 1)]  # fmt: skip
    assert column(frontier(runs), "ended early") == [None, "†"]


def test_frontier_of_equals() -> None:
    runs = [run(0.5, strength=lam, best={"sparsity/elements": 0.1}) for lam in (1, 2)]
    assert column(frontier(runs), "frontier") == ["*", "*"]


def test_pivot() -> None:
    runs = [
        run(depth / 100 + width / 10 + seed / 50, seed=seed, lr=0.1, width=width, depth=depth)
        for width in (4, 2)
        for depth in (50, 5)
        for seed in range(3)
        if (depth, width) != (50, 2)
    ]
    table = pivot(runs)
    assert table.columns == ["depth", "width 2 mean", "width 2 std", "width 4 mean", "width 4 std"]
    assert table.rows[0] == [5, *(pytest.approx(x) for x in (0.27, 0.02, 0.47, 0.02))]
    assert table.rows[1] == [50, None, None, pytest.approx(0.92), pytest.approx(0.02)]
    assert table.title == "val/acc over depth and width"
    turned = pivot(runs, TableSpec(rows="width"))
    assert turned.columns[0] == "width" and turned.rows[1][-2] == pytest.approx(0.92)


def test_pivot_chooses_the_rest_by_validation_and_averages_datasets() -> None:
    runs = [
        run(accuracy, depth=depth, width=width, lr=lr, dataset=dataset, best={"val/loss": lr})
        for dataset, shift in (("a", 0.0), ("b", 0.2))
        for depth in (1, 2)
        for width in (1, 2)
        for lr, accuracy in ((0.1, 0.5 + shift), (1.0, 0.3 + shift))
    ]
    assert all(cell in (None, pytest.approx(0.6)) for row in pivot(runs).rows for cell in row[1:])
    loss = pivot(runs, TableSpec(metric="val/loss"))
    assert loss.rows[0][1] == pytest.approx(0.1)
    assert any(note.startswith("lr: best by mean validation") for note in loss.notes)
    assert any("mean over 2 datasets" in note for note in loss.notes)


def test_pivot_without_a_shared_dataset() -> None:
    runs = [run(0.5, depth=depth, width=depth, dataset=str(depth)) for depth in (1, 2)]
    with pytest.raises(RunFailed, match="no dataset has a finished run of every cell"):
        pivot(runs)
    assert pivot(runs, TableSpec(columns="dataset")).rows == [[1, 0.5, None, None, None], [2, None, None, 0.5, None]]


def test_pivot_needs_two_parameters() -> None:
    runs = [run(0.5, depth=depth, width=4) for depth in (1, 2)]
    with pytest.raises(UserError, match="rows: fewer than two parameters vary"):
        pivot(runs)
    assert pivot(runs, TableSpec(columns="width")).columns == ["depth", "width 4 mean", "width 4 std"]
    with pytest.raises(UserError, match="columns: depth cannot be both"):
        pivot(runs, TableSpec(rows="depth", columns="depth"))


def test_tables_by_name() -> None:
    assert all(summary(name) and len(summary(name)) < 110 for name in TABLES)
    assert make("configurations", [run(0.5, depth=1), run(0.6, depth=2)]).rows[0][0] == 2
    with pytest.raises(UserError, match="table: there is no table 'rank'; did you mean 'ranks'"):
        make("rank", [])
