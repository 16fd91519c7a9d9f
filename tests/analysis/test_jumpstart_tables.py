"""The tables of techniques over datasets, worked out by hand."""

import itertools
import math

import pytest

from regx.analysis.jumpstart_tables import SYMBOLS, key_metrics, ranks, strengths, uci, win_draw_loss
from regx.analysis.render import display
from regx.analysis.runs import Run
from regx.analysis.table import Table, TableSpec
from regx.errors import RunFailed, UserError
from regx.training.log_keys import STATUS
from tests.analysis.runs_by_hand import run

# Validation accuracy and dead units, per dataset and technique.
ACCURACY = {
    "iris": {"Baseline": 0.3, "Jumpstart": 0.9, "GELU": 0.3},
    "wine": {"Baseline": 0.4, "Jumpstart": 0.8, "GELU": 0.9},
    "seeds": {"Baseline": 0.3, "Jumpstart": 0.5, "GELU": 0.4},
}
DEAD = {"Baseline": 0.5, "Jumpstart": 0.1, "GELU": 0.2}


def sweep() -> list[Run]:
    return [
        run(
            accuracy + 0.01 * (seed - 1),
            seed=seed,
            label=label,
            dataset=dataset,
            best={
                "train/jr/unit_dead_ratio": DEAD[label] + (0.1 if dataset == "wine" else 0.0),
                "train/jr/unit_linear_ratio": 0.25,
            },
        )
        for dataset, techniques in ACCURACY.items()
        for label, accuracy in techniques.items()
        for seed in range(3)
    ]


def rows_by_name(table: Table) -> dict[object, dict[str, object]]:
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_key_metrics() -> None:
    table = key_metrics(sweep())
    rows = rows_by_name(table)
    assert list(rows) == ["Jumpstart", "GELU", "Baseline"], "by convergence"
    assert rows["Baseline"]["trainability"] == 0, "the lowest everywhere"
    assert rows["GELU"]["trainability"] == pytest.approx(2 / 3), "in iris it ties with the lowest"
    assert rows["Jumpstart"]["trainability"] == 1
    assert rows["Baseline"]["convergence"] == pytest.approx((-0.6 - 0.5 - 0.2) / 3)
    assert rows["Jumpstart"]["convergence"] == pytest.approx((0 - 0.1 + 0) / 3)
    assert rows["GELU"]["dead units"] == pytest.approx((0.2 + 0.3 + 0.2) / 3)
    assert rows["GELU"]["datasets > 20 % dead"] == pytest.approx(1 / 3), "0.2 is not more than 20 %"
    assert rows["Jumpstart"]["datasets > 20 % dead"] == 0 and rows["Jumpstart"]["datasets > 20 % linear"] == 1
    assert all(row["linear units"] == pytest.approx(0.25) for row in rows.values())
    assert "best by mean" not in " ".join(table.notes), "nothing was to be chosen"


def test_a_technique_that_never_finishes_is_not_trainable() -> None:
    runs = sweep() + [
        run(0, seed=0, label=label, dataset="zoo", status=status) if status == "failed" else
        run(value, seed=0, label=label, dataset="zoo")
        for label, value, status in [("Jumpstart", 0.0, "failed"), ("GELU", 0.4, ""), ("Baseline", 0.5, "")]
    ]  # fmt: skip
    table = key_metrics(runs)
    rows = rows_by_name(table)
    assert rows["Jumpstart"]["datasets"] == 3 and rows["GELU"]["datasets"] == 4
    assert rows["Jumpstart"]["trainability"] == pytest.approx(3 / 4) and rows["Baseline"]["trainability"] == 1 / 4
    assert "the rows are not over the same datasets, as some have no finished run" in table.notes
    assert "not in the numbers: 1 of 30 runs (1 failed)" in table.notes


def test_win_draw_loss() -> None:
    table = win_draw_loss(sweep())
    assert table.columns == ["technique", "Baseline", "Jumpstart", "GELU"]
    assert table.rows == [
        ["Baseline", "-", "0-0-3", "0-1-2"],
        ["Jumpstart", "3-0-0", "-", "2-0-1"],
        ["GELU", "2-1-0", "1-0-2", "-"],
    ]
    lacking = [found for found in sweep() if (found.label, found.parameters["dataset"]) != ("GELU", "wine")]
    table = win_draw_loss(lacking)
    assert table.rows[1] == ["Jumpstart", "2-0-0", "-", "2-0-0"], "wine is left out for all"
    assert any("1 dataset left out" in note and "wine" in note for note in table.notes)


def test_ranks() -> None:
    table = ranks(sweep())
    assert table.columns == ["dataset", "Jumpstart", "GELU", "Baseline"]
    assert table.rows[:3] == [["iris", 1, 2, 2], ["seeds", 1, 2, 3], ["wine", 2, 1, 3]]
    assert table.rows[3] == ["mean rank", *(pytest.approx(x / 3) for x in (4, 5, 8))]
    assert table.rows[4] == ["mean rank, ties shared", *(pytest.approx(x / 3) for x in (4, 5.5, 8.5))]
    assert "too few datasets for Friedman's test: 3 of at least 5" in table.notes
    two = ranks([found for found in sweep() if found.label != "GELU"])
    assert not any("Friedman" in note for note in two.notes)


def test_pairs_only_where_ranks_differ_at_all() -> None:
    names = ["Baseline", "Jumpstart", "GELU"]

    def notes(orders: list[tuple[int, ...]]) -> str:
        runs = [
            run(order[place] / 10, label=label, dataset=str(index))
            for index, order in enumerate(orders)
            for place, label in enumerate(names)
        ]
        return "\n".join(ranks(runs).notes)

    # All six orders of three techniques: their mean ranks are the same.
    alike = notes(list(itertools.permutations((1, 2, 3))))
    assert "with Iman and Davenport's F: p 1.000; so no two are said to differ" in alike and "Nemenyi" not in alike
    # The difference of five rankings that agree is 3.314 sqrt(3 * 4 / (6 * 5)) / sqrt(2), by tables of the range.
    agreed = notes([(1, 2, 3)] * 5)
    assert "F: p <0.001; by Nemenyi's test mean ranks (ties shared) more than 1.48 apart differ" in agreed
    assert "Friedman's test: 4 of at least 5" in notes([(1, 2, 3)] * 4)


def test_best_strength_by_mean_validation() -> None:
    accuracy = {0.0: [0.2, 0.2], 0.01: [0.6, 0.6], 0.1: [0.9, 0.1]}
    runs = [
        run(value, seed=seed, label="Jumpstart" if strength else "Baseline", dataset="iris", technique__lambda=strength)
        for strength, values in accuracy.items()
        for seed, value in enumerate(values)
    ]
    table = uci(runs)
    assert table.columns[:8] == [
        "dataset", "technique", "technique.lambda", "n", "rank", "val/acc mean", "val/acc std", "U_d"
    ]  # fmt: skip
    assert table.rows[0][:7] == ["iris", "Jumpstart", 0.01, 2, 1, 0.6, 0.0], "0.1 has the best run, and a worse mean"
    assert table.rows[1][:5] == ["iris", "Baseline", None, 2, 2]
    shown = strengths(runs)
    assert [(row[2], row[6]) for row in shown.rows] == [(0.0, None), (0.01, "*"), (0.1, None)]
    assert shown.columns[:7] == ["dataset", "technique", "lambda", "n", "val/acc mean", "val/acc std", "best"]


def test_best_strength_has_the_most_seeds() -> None:
    accuracy = {0.01: [0.91, 0.9, 0.9], 0.1: [0.95], 1.0: [0.5, 0.5, 0.5]}
    runs = [run(value, seed=seed, dataset="iris", technique__lambda=strength)
            for strength, values in accuracy.items() for seed, value in enumerate(values)]  # fmt: skip
    table = strengths(runs)
    assert {row[1]: row[5] for row in table.rows} == {0.01: "*", 0.1: None, 1.0: None}
    assert uci([*runs, *(run(0.1, label="GELU", dataset="iris", seed=s) for s in range(3))]).rows[0][2] == 0.01


def test_runs_that_hyperband_has_ended_are_marked() -> None:
    runs = [run(found.best["val/acc"], seed=found.seed, label=found.label, dataset=found.parameters["dataset"],
                ended="early_terminate" if (found.label, found.seed) == ("GELU", 0) else "epochs", strength=found.seed)
            for found in sweep()]  # fmt: skip
    table = uci([found for found in runs if found.seed == 0])
    marked = {row[1] for row in table.rows if row[-1] == "†"}
    assert marked == {"GELU"} and table.columns[-1] == "ended early"
    assert uci([found for found in runs if found.seed == 1]).columns == table.columns[:-1]
    shown = strengths([found for found in runs if found.label == "GELU"], TableSpec(rows="strength"))
    assert [row[-1] for row in shown.rows if row[0] == "iris"] == ["†", None, None]
    counted = "ended early by hyperband, in the numbers with the best epoch until then: 3 runs"
    assert counted in key_metrics(runs).notes and counted in win_draw_loss(runs).notes


def test_uci_has_every_ratio() -> None:
    assert set(SYMBOLS.values()) <= set(STATUS)
    ratios = {f"train/jr/{key}": index / 10 for index, key in enumerate(SYMBOLS.values())}
    runs = [run(value, label=label, dataset="iris", best=ratios) for label, value in (("A", 0.5), ("B", 0.5))]
    table = uci(runs)
    assert table.columns[-9:] == list(SYMBOLS)
    assert [row[-9:] for row in table.rows] == [pytest.approx([index / 10 for index in range(9)])] * 2
    assert [row[3] for row in table.rows] == [1, 1], "equals share the best rank"


def test_uci_shows_what_is_missing() -> None:
    runs = [*sweep(), run(0, label="Baseline", dataset="zoo", status="failed"), run(0.5, label="GELU", dataset="zoo")]
    rows = uci(runs).rows[-2:]
    assert [row[:4] for row in rows] == [["zoo", "GELU", 1, 1], ["zoo", "Baseline", 0, None]]
    nan = run(math.nan, label="Jumpstart", dataset="zoo")
    assert uci([*runs, nan]).rows[-1][:4] == ["zoo", "Jumpstart", 0, None]


def test_compares_any_parameter() -> None:
    runs = [run(depth / 100, seed=0, dataset=dataset, depth=depth) for dataset in ("a", "b") for depth in (5, 50)]
    table = win_draw_loss(runs, TableSpec(rows="depth"))
    assert display(table)[1] == [["5", "-", "0-0-2"], ["50", "2-0-0", "-"]]


def test_mistakes() -> None:
    with pytest.raises(UserError, match="rows: no run has 'dept'"):
        key_metrics(sweep(), TableSpec(rows="dept"))
    with pytest.raises(UserError, match="rows: there is nothing to compare: technique is GELU in all runs"):
        ranks([found for found in sweep() if found.label == "GELU"])
    with pytest.raises(UserError, match="rows: no run has 'lambda'"):
        strengths(sweep())
    apart = [run(0.5, label="A", dataset="a"), run(0.5, label="B", dataset="b")]
    with pytest.raises(RunFailed, match="no dataset has a finished run of every technique"):
        win_draw_loss(apart)


def test_test_rows_judge_at_the_epoch_and_strength_that_validation_chose() -> None:
    """By validation A is better in every dataset; on the test rows B is, but for a strength that validation has not."""
    runs = [
        run(value, label=label, dataset=dataset, strength=strength, best={"test/acc": test})
        for dataset in ("iris", "wine")
        for label, strength, value, test in (("A", 1, 0.9, 0.2), ("A", 2, 0.8, 0.99), ("B", 1, 0.7, 0.6))
    ]
    by_val, by_test = (win_draw_loss(runs, TableSpec(on=on)) for on in (None, "test"))  # type: ignore[arg-type]
    assert by_val.rows == [["A", "-", "2-0-0"], ["B", "0-0-2", "-"]] == win_draw_loss(runs, TableSpec(on="val")).rows
    assert by_test.rows == [["A", "-", "0-0-2"], ["B", "2-0-0", "-"]]
    assert "row against column, by test/acc" in by_test.notes
    table = ranks(runs, TableSpec(on="test"))
    assert table.columns == ["dataset", "B", "A"] and table.rows[:2] == [["iris", 1, 2], ["wine", 1, 2]]
    found = rows_by_name(key_metrics(runs, TableSpec(on="test")))
    assert found["A"]["convergence"] == pytest.approx(-0.4) and found["B"]["trainability"] == 1
    half = [*runs[:3], *(run(r.best["val/acc"], label=r.label, **r.parameters) for r in runs[3:])]
    assert [row[0] for row in ranks(half, TableSpec(on="test")).rows] == ["iris", "mean rank", "mean rank, ties shared"]
    with pytest.raises(UserError, match="on: no finished run has a test metric"):
        ranks(half[3:], TableSpec(on="test"))
