"""Rows, numbers and p values of hand-made sweeps whose answers are known."""

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
    assert "depth" not in table.columns and "everywhere: dataset iris, depth 50" in table.notes
    columns, rows = display(table)
    assert columns[:4] == ["label", "n", "val/acc", "val/acc CI"]
    assert rows[0][2] == "0.710 ± 0.010" and rows[0][-1] == f"{p:.3f}*"


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
    assert "not in the numbers: 1 finished run whose val/r2 is NaN" in table.notes
    assert table.notes[0].startswith("one seed each")
    assert display(table)[0] == ["width", "n", "val/r2"], "nothing to say about std and intervals"


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
        (TableSpec(goal="up"), "goal: 'up' is not among maximize, minimize"),  # type: ignore[arg-type]
    ],
)
def test_mistakes(spec: TableSpec, message: str) -> None:
    with pytest.raises(UserError) as error:
        configurations(techniques(), spec)
    assert str(error.value).startswith(message)


def test_nothing_has_finished() -> None:
    with pytest.raises(RunFailed, match=r"no run has finished yet \(2 unfinished\)"):
        configurations([run(0, status="unfinished", depth=depth) for depth in (1, 2)])
    with pytest.raises(RunFailed, match="there are none"):
        configurations([])
