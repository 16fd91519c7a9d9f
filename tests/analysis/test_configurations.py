"""Rows, numbers and p values of hand-made sweeps whose answers are known."""

import dataclasses
import math
import random
from statistics import fmean, stdev

import pytest
import scipy.stats

from regx.analysis.configurations import configurations
from regx.analysis.render import display
from regx.analysis.runs import Run
from regx.analysis.table import Table, TableSpec
from regx.errors import RunFailed, UserError
from tests.analysis.runs_by_hand import run

PLAIN, PENALISED = [0.50, 0.61, 0.55], [0.70, 0.72, 0.71]


def techniques(dataset: str = "iris", shift: float = 0.0) -> list[Run]:
    values = {"Jumpstart": PENALISED, "Baseline": PLAIN}
    return [
        run(value + shift, seed=seed, label=label, best={"test/acc": value - 0.1}, dataset=dataset, depth=50)
        for label, column in values.items()
        for seed, value in enumerate(column)
    ]


def column(table: Table, name: str) -> list[object]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_one_row_per_configuration() -> None:
    table = configurations(techniques())
    assert column(table, "label") == ["Jumpstart", "Baseline"], "the best first"
    assert column(table, "n") == [3, 3]
    assert column(table, "val/acc mean") == pytest.approx([fmean(PENALISED), fmean(PLAIN)])
    assert column(table, "val/acc std") == pytest.approx([stdev(PENALISED), stdev(PLAIN)])
    assert column(table, "test/acc mean") == pytest.approx([fmean(PENALISED) - 0.1, fmean(PLAIN) - 0.1])
    interval = scipy.stats.t.interval(0.95, 2, fmean(PLAIN), scipy.stats.sem(PLAIN))
    assert (column(table, "val/acc low")[1], column(table, "val/acc high")[1]) == pytest.approx(interval)
    p = scipy.stats.ttest_rel(PENALISED, PLAIN).pvalue
    assert column(table, "p") == [pytest.approx(p), "baseline"]
    assert column(table, "difference to Baseline") == [pytest.approx(fmean(PENALISED) - fmean(PLAIN)), None]
    interval = scipy.stats.ttest_rel(PENALISED, PLAIN).confidence_interval(0.95)
    ends = [column(table, f"difference to Baseline {end}") for end in ("low", "high")]
    assert ends == [[pytest.approx(interval.low), None], [pytest.approx(interval.high), None]]
    assert "depth" not in table.columns and "everywhere: dataset iris, depth 50" in table.notes
    columns, rows = display(table)
    assert columns[:4] == ["label", "n", "val/acc", "val/acc CI"]
    assert rows[0][2] == "0.710 ± 0.010" and rows[0][-1] == f"{p:.3f}*"
    assert rows[0][columns.index("difference to Baseline CI")] == f"[{interval.low:+.3f}, {interval.high:+.3f}]"


def test_within_each_dataset_or_depth() -> None:
    runs = techniques("wine") + techniques("iris", 0.1)
    table = configurations(runs)
    assert [row[:2] for row in table.rows] == [
        ["iris", "Jumpstart"],
        ["iris", "Baseline"],
        ["wine", "Jumpstart"],
        ["wine", "Baseline"],
    ]
    # Each row against the baseline of its own dataset; two tests, so Holm doubles the smaller of two equal p.
    p = scipy.stats.ttest_rel(PENALISED, PLAIN).pvalue
    assert column(table, "p")[::2] == pytest.approx([2 * p, 2 * p])
    by_depth = [run(value + depth, seed=seed, depth=depth, lr=lr) for seed, value in enumerate(PLAIN)
                for depth in (1, 2) for lr in (0.1, 0.01)]  # fmt: skip
    table = configurations(by_depth, TableSpec(baseline="lr=1e-2"))
    assert column(table, "p") == [1.0 if row[table.columns.index("lr")] == 0.1 else "baseline" for row in table.rows]
    assert "difference to lr=0.01" in table.columns


def test_over_datasets_by_the_signed_ranks_of_their_means() -> None:
    names = ["iris", "wine", "seeds", "glass", "heart", "zoo"]
    runs = [found for i, name in enumerate(names) for found in techniques(name, i / 10)]
    spec = TableSpec(by=["label"])
    table = configurations(runs, spec)
    assert column(table, "p") == [2 / 2**6, "baseline"], "six datasets that agree, not 18 runs"
    difference = pytest.approx(fmean(PENALISED) - fmean(PLAIN))
    assert table.rows[0][-4:-1] == [difference] * 3, "which all six datasets have"
    assert column(table, "val/acc mean")[1] == pytest.approx(fmean(PLAIN) + 0.25)
    assert column(table, "val/acc std")[1] == pytest.approx(stdev(PLAIN)), "over seeds, of the mean over datasets"
    runs += techniques("sonar")[:3]  # which has no baseline: left out for all rows
    again = configurations(runs, spec)
    assert again.rows == table.rows
    assert any("1 dataset left out" in note and "sonar" in note for note in again.notes)
    few = configurations([found for found in runs if found.parameters["dataset"] in names[:5]], spec)
    assert column(few, "p") == ["n too small", "baseline"] and "n too small: fewer than 6 datasets" in few.notes


def test_says_when_no_p_can_be_significant() -> None:
    runs = [
        run(rank / 10 + index / 100, seed=0, label=label, dataset=str(index))
        for index in range(6)
        for rank, label in enumerate(["Baseline", "A", "B"])
    ]
    table = configurations(runs, TableSpec(by=["label"]))
    assert column(table, "p") == [2 * 2 / 2**6, 2 * 2 / 2**6, "baseline"]
    assert "6 datasets and 2 tests: no corrected p can be below 0.062" in table.notes


def test_a_parameter_left_out_is_chosen_by_validation() -> None:
    accuracy = {0.01: [0.6, 0.7, 0.8], 0.1: [0.5, 0.5, 0.5], 1.0: [0.99]}
    runs = [
        run(value, seed=seed, label="Jumpstart", best={"test/acc": strength}, technique__lambda=strength)
        for strength, values in accuracy.items()
        for seed, value in enumerate(values)
    ]
    table = configurations(runs, TableSpec(by=["label"]))
    assert column(table, "test/acc mean") == [pytest.approx(0.01)], "neither the best test nor one lucky seed"
    assert column(table, "n") == [3]
    assert any(note.startswith("technique.lambda: best by mean validation metric") for note in table.notes)


def test_failed_runs_are_counted() -> None:
    runs = [*techniques(), run(0, seed=3, label="Baseline", status="failed", dataset="iris", depth=50)]
    runs += [run(0, seed=s, label="GELU", status="unfinished", dataset="iris", depth=50) for s in range(2)]
    table = configurations(runs)
    assert column(table, "label") == ["Jumpstart", "Baseline", "GELU"]
    assert column(table, "n") == [3, 3, 0] and column(table, "not finished") == [0, 1, 2]
    assert column(table, "val/acc mean")[2] is None and column(table, "p")[2] == "n too small"
    assert "not in the numbers: 3 of 9 runs (1 failed, 2 unfinished)" in table.notes


def test_nan_and_one_seed() -> None:
    runs = [run(float("nan"), seed=0, width=2, monitor="val/r2"), run(0.4, seed=0, width=4, monitor="val/r2")]
    table = configurations(runs)
    assert table.rows[0][:4] == [4, 1, 0.4, None] and table.rows[1][:4] == [2, 0, None, None]
    assert "not in the numbers: 1 finished run whose val/r2 is NaN or infinite" in table.notes
    assert table.notes[0].startswith("one seed each")
    assert display(table)[0] == ["width", "n", "val/r2"], "nothing to say about std and intervals"


def test_infinite_numbers_are_missing() -> None:
    values = {0: 0.4, 1: 0.6, 2: -math.inf}
    runs = [
        run(value, seed=seed, width=2, best={"val/loss": -value}, monitor="val/r2") for seed, value in values.items()
    ]
    table = configurations(runs, TableSpec(by=["width"], metrics=["val/loss"]))
    assert table.rows[0][:4] == [2, 2, -0.5, stdev([0.4, 0.6])]
    assert "not in the numbers: 1 finished run whose val/r2 is NaN or infinite" in table.notes


def chosen(tests: list[float] | None = None) -> list[Run]:
    """A baseline without any choice, and a technique of two strengths, the second of which is better by validation."""
    runs = [run(value, seed=seed, label="Baseline") for seed, value in enumerate(PLAIN)]
    runs += [
        run(value + strength, seed=seed, label="Jumpstart", strength=strength)
        for strength in (0.0, 0.1)
        for seed, value in enumerate(PENALISED)
    ]
    if tests:
        best = [found.best | {"test/acc": tests[place]} for place, found in enumerate(runs)]
        return [dataclasses.replace(found, best=row) for found, row in zip(runs, best, strict=True)]
    return runs


def test_what_validation_chose_is_tested_on_test_rows() -> None:
    of_test = [0.5, 0.6, 0.4, 0.0, 0.0, 0.0, 0.6, 0.65, 0.55]
    spec = TableSpec(by=["label"])
    table = configurations(chosen(of_test), spec)
    p = scipy.stats.ttest_rel(of_test[6:], of_test[:3]).pvalue
    assert column(table, "p") == [pytest.approx(p), "baseline"]
    assert column(table, "difference to Baseline")[0] == pytest.approx(0.1)
    assert any(note.startswith("difference and p are of test/acc, as the best of several") for note in table.notes)
    without = configurations(chosen(), spec)
    assert column(without, "p") == ["chosen by validation", "baseline"]
    assert "chosen by validation: no p of the best of several configurations, as no run has test/acc" in without.notes
    apart = configurations(chosen())  # each strength a row: nothing is chosen
    assert all(isinstance(cell, float) for cell in column(apart, "p") if cell != "baseline")
    other = [run(value, seed=seed, label="GELU") for seed, value in enumerate([0.9, 0.7, 0.8])]
    p = scipy.stats.ttest_rel([0.9, 0.7, 0.8], PLAIN).pvalue
    found = dict(
        zip(column(table := configurations([*chosen(), *other], spec), "label"), column(table, "p"), strict=True)
    )
    assert found == {"Jumpstart": "chosen by validation", "GELU": pytest.approx(p), "Baseline": "baseline"}


def test_test_rows_judge_where_that_is_asked_for() -> None:
    runs = techniques()
    of_test = {"Jumpstart": [0.2, 0.25, 0.27], "Baseline": [0.3, 0.28, 0.35]}
    runs = [dataclasses.replace(r, best=r.best | {"test/acc": of_test[str(r.label)][r.seed or 0]}) for r in runs]
    assert column(configurations(runs), "label") == ["Jumpstart", "Baseline"]
    p = scipy.stats.ttest_rel(of_test["Jumpstart"], of_test["Baseline"]).pvalue
    for metrics in (None, ["val/acc"], ["val/acc", "test/acc"]):
        table = configurations(runs, TableSpec(on="test", metrics=metrics))
        assert column(table, "label") == ["Baseline", "Jumpstart"], "by test"
        assert column(table, "p") == ["baseline", pytest.approx(p)]
        assert table.columns[2:8] == [
            *("test/acc mean", "test/acc std", "test/acc low", "test/acc high", "val/acc mean", "val/acc std")
        ]
    assert configurations(runs, TableSpec(on="val")) == configurations(runs)


def test_what_is_chosen_is_chosen_by_validation_even_so() -> None:
    runs = chosen([0.5, 0.6, 0.4, 0.9, 0.9, 0.9, 0.6, 0.65, 0.55])
    table = configurations(runs, TableSpec(by=["label"], on="test"))
    assert dict(zip(column(table, "label"), column(table, "test/acc mean"), strict=True)) == {
        "Jumpstart": pytest.approx(0.6),  # of the strength that is better by validation, not 0.9
        "Baseline": pytest.approx(0.5),
    }


def test_level_of_the_test_of_what_was_chosen() -> None:
    """Techniques that are all alike: p below 0.05 in 5 % of sweeps, where validation itself would say so more often."""
    source = random.Random(0)
    sweeps, strengths, by_test, by_validation = 300, 16, 0, 0
    for _ in range(sweeps):
        runs = [
            run(source.gauss(0, 1), seed=seed, label=label, strength=strength, best={"test/acc": source.gauss(0, 1)})
            for label, count in (("Baseline", 1), ("Jumpstart", strengths))
            for strength in range(count)
            for seed in range(5)
        ]
        table = configurations(runs, TableSpec(by=["label"]))
        row = table.rows[column(table, "label").index("Jumpstart")]
        by_test += row[-1] < 0.05  # type: ignore[operator]
        means = {s: [found.best["val/acc"] for found in runs[5 + 5 * s : 10 + 5 * s]] for s in range(strengths)}
        baseline = [found.best["val/acc"] for found in runs[:5]]
        by_validation += scipy.stats.ttest_rel(max(means.values(), key=fmean), baseline).pvalue < 0.05
    # 0.05 and three standard errors of a share of 300.
    assert abs(by_test / sweeps - 0.05) < 0.038
    assert by_validation / sweeps > 0.088


def test_survivors_get_no_star() -> None:
    p = scipy.stats.ttest_rel(PENALISED, PLAIN).pvalue
    assert display(configurations(techniques()))[1][0][-1] == f"{p:.3f}*"
    failed = [*techniques(), run(0, seed=3, label="Jumpstart", status="failed", dataset="iris", depth=50)]
    table = configurations(failed)
    assert display(table)[1][0][-1] == f"{p:.3f} (survivors)"
    assert "survivors only, no star: 1 of 4 seeds of Jumpstart failed" in table.notes
    nan = [*techniques(), run(math.nan, seed=3, label="Baseline", dataset="iris", depth=50)]
    assert column(configurations(nan), "p")[0] == f"{p:.3f} (survivors)", "of the baseline too; NaN is no end"
    going_on = run(0, seed=3, label="Jumpstart", status="unfinished", dataset="wine", depth=50)
    both = configurations([*failed, *techniques("wine"), going_on])
    assert column(both, "p")[::2] == [f"{2 * p:.3f} (survivors)", pytest.approx(2 * p)]
    assert "survivors only, no star: 1 of 4 seeds of iris, Jumpstart failed" in both.notes


def test_runs_that_hyperband_has_ended_are_marked() -> None:
    assert "ended early" not in configurations(techniques()).columns
    runs = [run(0.1 * width, seed=seed, width=width, ended="early_terminate" if width == seed == 1 else "epochs")
            for width in (1, 2) for seed in range(2)]  # fmt: skip
    table = configurations(runs)
    assert column(table, "ended early") == [None, "†"] and column(table, "n") == [2, 2]
    assert "ended early by hyperband, in the numbers with the best epoch until then: 1 run" in table.notes
    assert display(table)[0] == ["width", "n", "val/acc", "val/acc CI", "ended early"]


def test_a_run_that_is_starting_changes_nothing() -> None:
    runs = [dataclasses.replace(r, parameters={"depth": 50}, config={"dataset": "iris"}) for r in techniques()]
    starting = dataclasses.replace(runs[0], seed=9, status="unfinished", config={}, best={}, last={})
    before, after = configurations(runs), configurations([starting, *runs])
    assert after.columns == [*before.columns[:2], "not finished", *before.columns[2:]]
    assert [[*row[:2], *row[3:]] for row in after.rows] == before.rows
    assert [note for note in after.notes if note not in before.notes] == [
        "not in the numbers: 1 of 7 runs (1 unfinished)"
    ]
    unknown = configurations([*runs, dataclasses.replace(starting, status="finished", best={"val/acc": 0.5})])
    assert unknown.rows == before.rows
    assert "not in the numbers: 1 finished run of an unknown dataset" in unknown.notes
    nowhere = configurations([dataclasses.replace(r, config={}) for r in runs])
    assert nowhere.rows == before.rows, "where nobody knows the dataset, it is one"


def test_planned_and_skipped_runs_are_counted() -> None:
    runs = [
        *techniques(),
        *(run(0, seed=s, label="GELU", status="not begun", dataset="iris", depth=50) for s in range(3)),
    ]
    runs += [run(0, label="Baseline", status="skipped by a condition", dataset="wine", lr=0.1)]
    table = configurations(runs)
    assert column(table, "label") == ["Jumpstart", "Baseline", "GELU"] and column(table, "not finished") == [0, 0, 3]
    assert "not in the numbers: 4 of 10 runs (3 not begun, 1 skipped by a condition)" in table.notes
    assert "dataset" not in table.columns and "lr" not in table.columns, "what was skipped is no row"


def test_what_the_label_decides_has_no_column() -> None:
    runs = [
        run(0.1 * seed, seed=seed, label=label, **{f"technique__{key}": value})  # type: ignore[arg-type]
        for seed in range(2)
        for label, key, value in [("Jumpstart", "lambda", 0.1), ("Jumpstart", "lambda", 0.2), ("GELU", "act", "gelu")]
    ]
    table = configurations(runs)
    assert table.columns[:2] == ["label", "technique.lambda"] and "technique.act" not in table.columns
    assert "the label stands for: technique.act" in table.notes


def test_order() -> None:
    runs = [run(0.1 * w, width=w, best={"val/loss": abs(w - 3)}) for w in (4, 2, 3)]
    assert column(configurations(runs), "width") == [4, 3, 2]
    assert column(configurations(runs, TableSpec(sort="width")), "width") == [2, 3, 4]
    assert column(configurations(runs, TableSpec(goal="minimize")), "width") == [2, 3, 4]
    by_loss = TableSpec(metrics=["val/acc", "val/loss"], sort="val/loss")
    assert column(configurations(runs, by_loss), "width") == [3, 4, 2], "a low loss is better; equals as they came"


def test_same_difference_of_all_seeds() -> None:
    runs = [run(0.25 * (label == "A") + seed / 8, seed=seed, label=label) for label in ("A", "Baseline")
            for seed in range(3)]  # fmt: skip
    table = configurations(runs)
    assert column(table, "p") == ["no spread", "baseline"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TableSpec(baseline="Basline"), "baseline: no configuration is 'Basline'; did you mean 'Baseline'?"),
        (TableSpec(baseline="depht=3"), "baseline: 'depht' of 'depht=3' makes no rows here"),
        (TableSpec(metrics=["val/ac"]), "metrics: no finished run has 'val/ac'; did you mean 'val/acc'?"),
        (TableSpec(by=["dataste"]), "by: no run has 'dataste'; did you mean 'dataset'?"),
        (TableSpec(sort="val/loss"), "sort: there is no column 'val/loss'"),
        (TableSpec(on="tset"), "on: 'tset' is not among val, test"),  # type: ignore[arg-type]
        (TableSpec(goal="up"), "goal: 'up' is not among maximize, minimize"),  # type: ignore[arg-type]
    ],
)
def test_mistakes(spec: TableSpec, message: str) -> None:
    with pytest.raises(UserError) as error:
        configurations(techniques(), spec)
    assert str(error.value).startswith(message)


def test_no_test_rows() -> None:
    with pytest.raises(UserError, match="on: no finished run has a test metric; train with test rows, or use val"):
        configurations([run(0.5, width=width) for width in (1, 2)], TableSpec(on="test"))


def test_nothing_has_finished() -> None:
    with pytest.raises(RunFailed, match=r"no run has finished yet \(2 unfinished\)"):
        configurations([run(0, status="unfinished", depth=depth) for depth in (1, 2)])
    with pytest.raises(RunFailed, match="there are none"):
        configurations([])
