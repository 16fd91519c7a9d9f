"""What a report says: its numbers against scipy's, its sentences where there is little to say, its warnings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from regx.analysis.report import Asked, page_of, records
from regx.analysis.report.answer import Answer, answer, find_baseline
from regx.analysis.report.asked import changed, duration, facts, values_text
from regx.analysis.report.caveats import caveats
from regx.analysis.report.drawing import curves
from regx.analysis.report.records import Record
from regx.analysis.report.report import run_table
from regx.analysis.runs import Run
from regx.errors import RunFailed, UserError
from regx.training.config import RunConfig
from regx.training.experiments import EXPERIMENTS, from_dict
from regx.training.options import options_of
from tests.analysis.runs_by_hand import run

SEEDS = range(8)


def record(of: Run, **result: Any) -> Record:
    of = replace(of, config={"epochs": 10} | of.config)
    return Record(of, Path("nowhere") / of.name, {"epochs": 10, "chance": 0.5} | result)


def measured(value: float, test: float, **more: Any) -> Run:
    return run(value, best={"test/acc": test}, **more)


def of_strength(value: float) -> dict[str, Any]:
    return {"lambda": value}


def headline(found: Answer) -> str:
    return found.headline.replace("\u00a0", " ")


def drawn(centre: float, number: int) -> list[float]:
    return (centre + np.random.default_rng(number).normal(scale=0.02, size=len(SEEDS))).tolist()


def test_numbers_of_the_answer_are_those_of_scipy() -> None:
    plain, alive, other = drawn(0.6, 0), drawn(0.9, 1), drawn(0.85, 2)
    runs = [
        measured(value + 0.01, value, seed=seed, **of_strength(strength))
        for strength, values in ((0, plain), (0.01, alive), (0.1, other))
        for seed, value in zip(SEEDS, values, strict=True)
    ]
    found = answer(runs)
    assert found.spec == "lambda=0" and found.metric == "test/acc"
    low, high = stats.t.interval(0.95, len(SEEDS) - 1, np.mean(alive), stats.sem(alive))
    difference = np.subtract(alive, plain)
    from_, to = stats.t.interval(0.95, len(SEEDS) - 1, difference.mean(), stats.sem(difference))
    ps = [stats.ttest_rel(values, plain).pvalue for values in (alive, other)]
    assert max(2 * ps[0], ps[1]) < 0.001
    text = headline(found)
    assert f"lambda 0.01, with a test accuracy of {np.mean(alive):.3f}" in text
    assert f"(n = 8 seeds, 95 % CI {low:.3f} to {high:.3f})" in text
    assert (
        f"{difference.mean():+.3f} against the baseline lambda 0 (95 % CI {from_:+.3f} to {to:+.3f}, p < 0.001" in text
    )
    assert "paired over 8 seeds, corrected by Holm for 2 comparisons" in text
    beside = np.subtract(alive, other)
    from_, to = stats.t.interval(0.95, len(SEEDS) - 1, beside.mean(), stats.sem(beside))
    remarks = " ".join(found.remarks).replace("\u00a0", " ")
    assert f"the first is {beside.mean():.3f} above it (95 % CI {from_:+.3f} to {to:+.3f}" in remarks


def test_several_datasets_are_paired_and_a_p_that_cannot_be_small_says_so() -> None:
    runs: list[Run] = []
    means: dict[str, list[Any]] = {"Baseline": [], "A": [], "B": []}
    for number, dataset in enumerate("abcdef"):
        for label, centre in (("Baseline", 0.5), ("A", 0.7 + number / 100), ("B", 0.6)):
            values = drawn(centre, number)[:3]
            means[label].append(np.mean(values))
            runs += [measured(v, v, seed=seed, label=label, dataset=dataset) for seed, v in enumerate(values)]
    found = answer(runs)
    test: Any = stats.wilcoxon(means["A"], means["Baseline"], method="exact")
    p = test.pvalue
    assert p == 2**-5  # the smallest that there is
    assert f"p = {2 * p:.3f}, paired over 6 datasets" in headline(found)
    assert "6 datasets and 2 comparisons allow no p below 0.062" in headline(found)
    assert f"test accuracy of {np.mean(means['A']):.3f}, the mean over 6 datasets" in headline(found)


def test_validation_chooses_and_test_does_not() -> None:
    good = [measured(0.9, 0.7, seed=seed, label="chosen") for seed in SEEDS]
    lucky = [measured(0.8, 0.99, seed=seed, label="best on test") for seed in SEEDS]
    found = answer([*lucky, *good])
    assert headline(found).startswith("Best of 2 by validation: chosen, with a test accuracy of 0.700")
    assert "no difference is tested" in found.remarks[0]
    assert any("0.290 below it" in remark for remark in found.remarks)


def test_each_row_is_tuned_by_its_own_validation() -> None:
    scores = {(0, 0.1): 0.5, (0, 0.2): 0.6, (1, 0.1): 0.9, (1, 0.2): 0.7}
    runs = [
        measured(score + seed / 1000, score - 0.1 + seed / 1000, seed=seed, lr=lr, **of_strength(strength))
        for (strength, lr), score in scores.items()
        for seed in SEEDS
    ]
    found = answer(runs)
    assert [row.name for row in found.rows] == ["lambda 1 at lr 0.1", "lambda 0 at lr 0.2"]
    assert "every one of 8 seeds differs by the same amount, which no test can judge" in headline(found)
    assert any("its lr" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (1, "one seed, so no interval), +0.200 against the baseline lambda 0 (too few pairs for a test: 1 seed)"),
        (
            2,
            "two seeds, 0.800 and 0.820: too few for an interval), +0.200 against the baseline lambda 0 (too few pairs",
        ),
    ],
)
def test_few_seeds_have_no_interval_and_no_p(seeds: int, words: str) -> None:
    runs = [
        measured(value, value + seed / 50, seed=seed, **of_strength(strength))
        for strength, value in ((0, 0.6), (1, 0.8))
        for seed in range(seeds)
    ]
    found = answer(runs)
    assert words in headline(found) and "p " not in headline(found) and "CI" not in headline(found)


def test_a_tie_and_a_baseline_that_nothing_beats() -> None:
    same = [run(0.9, seed=seed, label=label) for label in ("Baseline", "A") for seed in SEEDS]
    found = answer(same)
    assert headline(found).startswith("Nothing beat the baseline by validation: Baseline")
    assert "By validation it ties with A" in found.remarks[0]
    assert any(
        "+0.000 against Baseline" in remark and "no difference beyond luck" in remark for remark in found.remarks
    )
    assert any("there are no test rows" in remark for remark in found.remarks)


def test_more_seeds_go_before_a_higher_mean_which_is_said() -> None:
    runs = [run(0.8, seed=seed, label="all") for seed in SEEDS] + [run(0.95, seed=0, label="lucky")]
    found = answer(runs)
    assert "all, with a validation accuracy of 0.800" in headline(found)
    assert "lucky has a higher validation mean, but of fewer finished seeds (1 against 8)" in found.remarks[-1]


def test_one_configuration_is_no_comparison() -> None:
    found = answer([measured(0.9, 0.8, seed=seed) for seed in SEEDS])
    assert headline(found).startswith("One configuration, with a test accuracy of 0.800")
    assert found.remarks == []
    assert headline(answer([measured(0.9, 0.8)])).startswith("One run, with a test accuracy of 0.800 (one seed, so")


def test_the_baseline_is_named_or_known() -> None:
    labels = [run(0.5, label="Baseline"), run(0.6, label="A")]
    assert find_baseline(labels, None) == "Baseline" and find_baseline(labels, "A") == "A"
    strengths = [run(0.5, **of_strength(strength)) for strength in (0.0, 0.1)]
    assert find_baseline(strengths, None) == "lambda=0"
    assert find_baseline([run(0.5, lr=lr) for lr in (0.1, 0.2)], None) is None
    options = from_dict({"regularizer": ["l1(prox=true)=1e-3"]}, "rectangular").as_dict()
    with_own_strength = [replace(item, config=options) for item in strengths]
    assert find_baseline(with_own_strength, None) is None, "lambda 0 leaves a strength of its own as it is"
    with pytest.raises(UserError, match="'C'"):
        answer(labels, "C")


def test_nothing_finished() -> None:
    with pytest.raises(RunFailed, match="no run has finished yet"):
        page_of(Asked("t"), [record(run(0.5, status="failed"))])


def test_a_report_is_about_one_task() -> None:
    with pytest.raises(UserError, match="1 by val/acc and 1 by val/r2"):
        page_of(Asked("t"), [record(run(0.5, a=0)), record(run(0.5, a=1, monitor="val/r2"))])


def test_no_warnings_where_all_is_well() -> None:
    runs = [measured(0.9, 0.9, seed=seed, a=a) for seed in SEEDS for a in (0, 1)]
    assert caveats([record(item) for item in runs]) == []


def test_warnings() -> None:
    good = [record(measured(0.9, 0.9, seed=seed, a=0), epochs=10) for seed in range(4)]
    bad = record(run(0.5, seed=0, a=1, status="failed"), error="Traceback\nthe loss is nan in epoch 3")
    lost = record(measured(float("nan"), 0.9, seed=1, a=1))
    early = record(measured(0.9, 0.9, seed=2, a=1, ended="patience"), epochs=7)
    early = replace(early, run=replace(early.run, config={"dataset": "moons", "epochs": 20}))
    late = record(run(0.5, seed=3, a=1, status="unfinished"))
    found = caveats([*good, bad, lost, early, late])
    text = "\n".join(found)
    for part in (
        "1 run failed and is in no mean: None-1-0: the loss is nan in epoch 3",
        "1 run is unfinished, and is in no mean: None-1-3",
        "1 run finished with a metric that is NaN or infinite: None-1-1",
        "1 configuration of 2 has fewer than 3 finished seeds, too few for a test: a 1",
        "1 configuration lacks seeds that others have: a 1 lacks 0, 3",
        "unequal budgets: 10, 20 epochs",
        "1 run of 6 ended early, after 7 epochs (1 by --patience)",
    ):
        assert part in text, part
    assert len(found) == 7


def test_runs_that_failed_alike_are_one_warning() -> None:
    failed = [run(0.5, seed=seed, a=1, status="failed") for seed in range(3)]
    errors = [f"nan at epoch 1 (checkpoint: sub/runs/{item.name}/last.pt)" for item in failed]
    good = [record(measured(0.9, 0.9, seed=seed, a=0)) for seed in range(3)]
    found = caveats([*good, *(record(item, error=error) for item, error in zip(failed, errors, strict=True))])
    assert (
        "3 runs failed and are in no mean: None-1-0, None-1-1, None-1-2: nan at epoch 1 (checkpoint: RUN/last.pt)"
        in found
    )


def test_single_seeds_are_one_warning() -> None:
    (alone,) = caveats([record(measured(0.9, 0.9))])
    assert "one run of one seed" in alone
    (each,) = caveats([record(measured(0.9, 0.9, a=a)) for a in range(3)])
    assert each.startswith("Every configuration has a single finished seed")
    (two,) = caveats([record(measured(0.9, 0.9, a=a, seed=seed)) for a in range(3) for seed in range(2)])
    assert two == "No configuration has 3 finished seeds, which a test needs."


def test_warnings_of_selection_and_of_mixed_runs() -> None:
    runs = [record(run(0.9, seed=seed, a=0), engine=f"engine{seed % 2}") for seed in range(3)]
    runs = [replace(item, env={"commit": str(place)}) for place, item in enumerate(runs)]
    found = caveats(runs)
    assert "There are no test rows" in found[0] and "3 commits" in found[1] and "engine0, engine1" in found[2]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([3, 1, 2, 0], "0 to 3"),
        ([0.1, 0.01, 0.1], "0.01, 0.1"),
        (["a", None, True], "a, none, True"),
        (list(np.linspace(0.5, 1, 20)), "20 values from 0.5 to 1"),
    ],
)
def test_values_in_few_words(values: list[Any], text: str) -> None:
    assert values_text(values) == text


def test_durations() -> None:
    assert [duration(s) for s in (0.52, 42, 200, 7500)] == ["0.5 s", "42 s", "3 min 20 s", "2 h 5 min"]


def test_options_that_are_not_their_defaults() -> None:
    config = from_dict({"depth": 7, "stop_at": None}, "rectangular")
    default = from_dict({}, "rectangular")
    assert changed(default.as_dict()) == {} and default.stop_at is not None
    assert changed(config.as_dict()) == {"depth": "7", "stop_at": "none"}


def test_head_of_a_report() -> None:
    runs = [record(run(0.9, seed=seed, a=a), seconds=2.0) for seed in (0, 1) for a in (1, 2)]
    found = facts(Asked("t", budget="an hour"), runs)
    assert found.varied == {"a": "1, 2"} and found.fixed == {"dataset": "moons", "epochs": "10"}
    assert found.rows["Runs"] == "4 (4 finished)" and found.rows["Seeds"] == "2 (0, 1)"
    assert found.rows["Training time"] == "8.0 s in all, 2.0 s a run"


def test_curves_are_thinned_and_keep_the_best_epoch_and_the_last(tmp_path: Path) -> None:
    lines = [f"{epoch},{epoch / 1000},{'' if epoch == 1 else 2.5}" for epoch in range(1, 1001)]
    (tmp_path / "metrics.csv").write_text("\n".join(["epoch,val/acc,val/loss", *lines, "1001,0.5"]))
    found = curves(tmp_path, "acc", 777)
    assert len(found["epoch"]) <= 63 and {1, 777, 1000} <= set(found["epoch"]), "the half-written row is left out"
    assert found["val/acc"] == [float(f"{e / 1000:.4g}") for e in found["epoch"] if e is not None]
    assert found["val/loss"][:2] == [None, 2.5]
    assert curves(tmp_path / "none", "acc", None) == {}
    (tmp_path / "metrics.csv").write_text("epoch,val/acc\n1,x\n")
    with pytest.raises(RunFailed, match="damaged"):
        curves(tmp_path, "acc", None)


def test_the_table_of_runs_holds_every_run_in_the_order_of_its_settings() -> None:
    found = run_table([record(run(a / 100, seed=seed, a=a)) for a in (10, 9) for seed in (11, 2)], {}, "")
    assert found.columns[:3] == ["a", "seed", "status"] and found.filters == {"a": ["9", "10"]}
    assert [row.cells[:2] for row in found.rows] == [["9", "2"], ["9", "11"], ["10", "2"], ["10", "11"]]
    assert [row.cells[3] for row in found.rows] == ["0.0900", "0.0900", "0.1000", "0.1000"]
    assert [row.index for row in found.rows] == [3, 2, 1, 0], "the number by which figures name a run"


def test_images_are_in_the_file_as_long_as_they_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from regx.analysis.report import report

    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a_b.png").write_bytes(b"\x89PNG")
    one = replace(record(run(0.5)), folder=tmp_path)
    assert report.images([one]) == ({0: [("a b", "data:image/png;base64,iVBORw==")]}, "")
    monkeypatch.setattr(report, "MOST_BYTES", 3)
    assert "1 images of the runs are not in this file (their 0.0 MB)" in report.images([one])[1]
    monkeypatch.setattr(report, "MOST_WITH_IMAGES", 0)
    assert report.images([one])[0] == {} and "(1 runs)" in report.images([one])[1]


def test_command_lines_hold_no_secrets() -> None:
    """Reports print command lines as they are: an option that takes a key must not come to be."""
    names = {option.key for kind in (RunConfig, *EXPERIMENTS.values()) for option in options_of(kind)}
    assert len(names) > 50
    assert not [name for name in names if {"key", "token", "password", "secret"} & set(name.split("_"))]


def test_folders_are_read_once_and_what_differs_is_their_parameters(tmp_path: Path) -> None:
    for depth in (1, 2):
        path = tmp_path / f"run{depth}"
        path.mkdir()
        (path / "config.yaml").write_text(from_dict({"depth": depth, "run_dir": str(path)}, "rectangular").as_yaml())
    found = records.of_folders([tmp_path, tmp_path / "run1"])
    assert [item.run.parameters for item in found] == [{"depth": 1}, {"depth": 2}]
    assert [item.run.status for item in found] == ["unfinished"] * 2
    (tmp_path / "run1" / "env.json").write_text("{")
    with pytest.raises(RunFailed, match=r"env\.json is corrupt"):
        records.of_folders([tmp_path])
    with pytest.raises(UserError, match="there is no folder"):
        records.of_folders([tmp_path / "none"])
