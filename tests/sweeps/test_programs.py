"""Which trials are trained together, by which engine, and roughly how long that takes."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from regx.sweeps import definition, plan
from regx.sweeps.programs import Planner, Program, makespan
from regx.sweeps.trial import Trial
from regx.training.vectorised import grouping, native

SWEEP = """\
method: grid
command: ["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]
parameters:
  dataset: {value: iris}
  epochs: {value: 10}
"""


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every machine has a compiler."""
    monkeypatch.setattr(native, "obstacle", lambda: None)


def trials(folder: Path, more: str, **changes: Any) -> list[Trial]:
    (folder / "mine.yaml").write_text(SWEEP + more)
    return plan.trials(definition.read(folder / "mine.yaml", **changes), folder / "runs")


def sizes(programs: list[Program]) -> list[int]:
    return [len(program.trials) for program in programs]


def test_like_trials_are_spread_evenly_over_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = trials(tmp_path, "  lr: {values: [0.1, 0.2]}\n", seeds=list(range(80)))
    monkeypatch.setattr(grouping, "most_runs", lambda config: 64)
    for workers, wanted in ((1, [54, 53, 53]), (2, [40] * 4), (3, [54, 53, 53]), (160, [1] * 160), (500, [1] * 160)):
        programs = Planner("vectorised").programs(found, workers)
        assert sizes(programs) == wanted
        assert [item.key for program in programs for item in program.trials] == [item.key for item in found]
    assert sizes(Planner("single").programs(found, 2)) == [1] * 160


def test_programs_hold_what_is_alike_and_everything_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "most_runs", lambda config: 5)
    more = "  depth: {values: [1, 2]}\n  lambda: {values: [0, 0.1]}\n  compile: {values: [false, true]}\n"
    found = trials(tmp_path, more, seeds=[0, 1, 2, 3])
    random.Random(0).shuffle(found)
    programs = Planner("vectorised").programs(found, 2)
    assert sorted(item.key for program in programs for item in program.trials) == sorted(item.key for item in found)
    assert len({program.trials[0].key for program in programs}) == len(programs)
    order = [item.key for item in found]
    assert [order.index(program.trials[0].key) for program in programs] == sorted(
        order.index(program.trials[0].key) for program in programs
    )
    for program in programs:
        assert len(program.trials) <= 5
        assert len({(item.options["depth"], item.options["compile"]) for item in program.trials}) == 1
        keys = [item.key for item in program.trials]
        alone = next(item.options["compile"] for item in found if item.key == keys[0])
        assert (program.engine, len(keys) == 1) == ("single" if alone else "vectorised", alone)
    # 8 alike, at most 5 at once, of which each worker should have its share.
    assert [len(p.trials) for p in programs if p.engine == "vectorised"] == [4] * 4


def test_what_takes_longest_is_divided_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "seconds", lambda config, engine: 9.0 if config.depth == 2 else 1.0)
    found = trials(tmp_path, "  depth: {values: [1, 2]}\n", seeds=list(range(8)))
    programs = Planner("vectorised").programs(found, 4)
    assert [len(p.trials) for p in programs if p.trials[0].options["depth"] == 1] == [8]
    assert [len(p.trials) for p in programs if p.trials[0].options["depth"] == 2] == [2] * 4
    monkeypatch.setattr(grouping, "seconds", lambda config, engine: 9.0 if config.depth == 2 else None)
    assert sizes(Planner("vectorised").programs(found, 4)) == [4] * 4, "by numbers, where one is not known"


def test_apart_stays_apart_and_weights_are_waited_for(tmp_path: Path) -> None:
    more = '  a: {values: [{label: dense}, {label: tuned, pretrained: "{dense}"}]}\n'
    found = trials(tmp_path, more, seeds=[0, 1, 2, 3])
    programs = Planner("vectorised").programs(found, 1)
    assert [{item.label for item in program.trials} for program in programs] == [{"dense"}, {"tuned"}]
    odd = Planner("vectorised").programs(found[:4], 1, lambda item: item.seed % 2)
    assert [[item.seed for item in program.trials] for program in odd] == [[0, 2], [1, 3]]


def test_engines_are_chosen_and_reasons_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, gelu, compiled = trials(tmp_path, "  a: {values: [{}, {activation: gelu}, {compile: true}]}\n")
    several = dataclasses.replace(plain, key="several", options=plain.options | {"devices": "cpu:2"})
    found = [plain, gelu, compiled, several]
    for asked, wanted in (
        ("single", ["single", "single", "single", "single"]),
        ("vectorised", ["vectorised", "vectorised", "single", "single"]),
        ("native", ["native", "vectorised", "single", "single"]),
        ("auto", ["native", "vectorised", "single", "single"]),
        (None, ["single", "single", "single", "single"]),
    ):
        planner = Planner(asked)
        programs = planner.programs(found, 1)
        assert [program.engine for program in programs] == wanted
        assert [item.config().engine for program in programs for item in program.trials] == wanted
        more = {} if "native" not in wanted else {"train vectorised, not native: --activation gelu": 1}
        alone = {"train one by one: --compile": 1, "train one by one: --devices cpu:2": 1}
        assert planner.reasons(found) == ({} if asked in ("single", None) else more | alone)
    monkeypatch.setattr(native, "obstacle", lambda: "there is no C++ compiler")
    assert [program.engine for program in Planner("auto").programs(found[:2], 1)] == ["vectorised", "vectorised"]
    assert Planner("native").reasons([plain]) == {"train vectorised, not native: there is no C++ compiler": 1}


def test_an_engine_in_the_file_is_kept_where_the_command_line_names_none(tmp_path: Path) -> None:
    named = ("single", "vectorised", "native", "auto")
    (item,) = trials(tmp_path, "  engine: {value: single}\n")
    found = [dataclasses.replace(item, key=name, options=item.options | {"engine": name}) for name in named]
    assert {other.config().run_name() for other in found} == {item.config().run_name()}, "the same run by any engine"

    def engines(asked: str | None) -> list[tuple[str, str]]:
        programs = Planner(asked).programs(found, 1)
        return [(program.engine, other.config().engine) for program in programs for other in program.trials]

    assert engines("auto") == [("single",) * 2, ("vectorised",) * 2, ("native",) * 2, ("native",) * 2]
    assert engines("single") == [("single",) * 2] * 4
    # On a cluster, what auto is can only be known there; and every run is alone.
    assert engines(None) == [("single",) * 2, ("vectorised",) * 2, ("native",) * 2, ("native", "auto")]
    assert sizes(Planner(None).programs(found, 1)) == [1] * 4


def test_a_program_in_a_few_words(tmp_path: Path) -> None:
    found = trials(tmp_path, "  lr: {values: [0.1, 0.2, 0.3]}\n  seed: {value: 1}\n")
    assert Program(tuple(found)).describe() == "3 runs: lr=0.1 seed=1 ... lr=0.3 seed=1"
    assert Program((found[1],)).describe() == "lr=0.2 seed=1"
    assert Program(tuple(found)).without(found[0].key).trials == tuple(found[1:])


def test_makespan_is_that_of_workers_who_take_the_next_program() -> None:
    dice = random.Random(0)
    for workers in (1, 2, 5):
        seconds = [float(dice.randrange(1, 20)) for _ in range(30)]
        busy, queue, clock = [0.0] * workers, list(seconds), 0.0
        while queue or any(busy):  # second by second
            for index in range(workers):
                if not busy[index] and queue:
                    busy[index] = queue.pop(0)
            busy = [max(0.0, each - 1) for each in busy]
            clock += 1
        assert makespan(list(seconds), workers) == clock
    assert makespan([1.0, None], 2) is None and makespan([], 3) == 0


def test_the_summary_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        grouping, "seconds", lambda config, engine: {"single": 30.0, "vectorised": 20.0, "native": 10.0}[engine]
    )
    found = trials(tmp_path, "  a: {values: [{}, {activation: gelu}, {compile: true}]}\n", seeds=[0, 1, 2])
    summary = Planner("auto").summary(found, 2)
    rows = {row.pop("engine"): row for row in summary["engines"]}
    assert list(rows) == ["native", "vectorised", "single"]
    assert rows["native"] == {"programs": 1, "runs": 3, "smallest": 3, "largest": 3, "seconds": 30.0}
    assert rows["vectorised"] == {"programs": 2, "runs": 3, "smallest": 1, "largest": 2, "seconds": 60.0}
    assert rows["single"] == {"programs": 3, "runs": 3, "smallest": 1, "largest": 1, "seconds": 90.0}
    # In order: 30 s | 40 s; 20 s after the 30; then three of 30 s: 40-70, 50-80, 70-100.
    assert summary["seconds"] == 100.0 and summary["workers"] == 2
