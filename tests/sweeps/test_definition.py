"""Sweeps are checked before anything runs: what is wrong is told with file, line, reason and what would work."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from regx.errors import UserError
from regx.sweeps import definition, document, plan, sidecar
from regx.sweeps.conditions import Condition

HEAD = """\
method: grid
command: ["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]
metric: {name: val/acc, goal: maximize}
parameters:
  dataset: {value: iris}
"""


def write(folder: Path, text: str, beside: str = "") -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    if beside:
        sidecar.beside(path).write_text(beside)
    return path


def trials(path: Path, **more: Any) -> list[plan.Trial]:
    sweep = definition.read(path, **more)
    found = plan.trials(sweep, path.parent / "runs")
    plan.check(sweep, found)
    return found


BAD = [
    (
        "unknown key",
        HEAD + "  depth: {values: [1, 2]}\nmetod: grid\n",
        7,
        "unknown key 'metod'; did you mean 'method'?",
    ),
    (
        "misspelt parameter",
        HEAD + "  dept: {values: [1, 2]}\n",
        6,
        "'dept' is no option of the experiment; did you mean 'depth'?",
    ),
    ("mixed bounds", HEAD + "  lr: {min: 0, max: 0.1}\n", 6, "lr: max: min 0 and max 0.1 are ambiguous"),
    ("empty grid", HEAD + "  depth: {values: []}\n", 6, "depth: values: "),
    ("no parameters", "method: grid\ncommand: [regx, rectangular, '${args}']\n", 1, "parameters: there are none"),
    (
        "metric never logged",
        HEAD.replace("val/acc", "val/accuracy"),
        3,
        "never logs 'val/accuracy'; did you mean 'val/acc'?",
    ),
    ("metric with a blank", HEAD.replace("val/acc", "'val/acc '"), 3, "never logs 'val/acc '"),
    ("metric of the test rows", HEAD.replace("val/acc", "test/acc"), 3, "search by a metric of validation rows"),
    ("R2 of a classification", HEAD.replace("val/acc", "val/r2"), 3, "never logs 'val/r2'"),
    ("goal left out", HEAD.replace(", goal: maximize", ""), 3, "write goal: maximize"),
    ("endless grid", HEAD + "  lr: {distribution: log_uniform_values, min: 1.0e-5, max: 0.1}\n", 1, "no grid of them"),
    ("endless random", HEAD.replace("grid", "random") + "  lr: {min: 0.1, max: 0.2}\n", 1, "with run_cap"),
    ("cyclic anchor", HEAD + "  depth: &a {values: [*a]}\n", 6, "an anchor contains itself"),
    ("given twice", HEAD + "  depth: {value: 1}\n  depth: {value: 2}\n", 7, "'depth' is given twice"),
    ("wrong type", HEAD + "  depth:\n    values: [1, two]\n", 7, "depth: 'two' is not a whole number"),
    ("out of bounds", HEAD + "  depth:\n    values: [1, 0]\n", 7, "depth: 0 is out of bounds"),
    ("bound of the option", HEAD + "  dropout: {min: 0.5, max: 1.5}\n", 6, "dropout: 1.5 is out of bounds"),
    (
        "wrong choice",
        HEAD + "  optimizer: {values: [adam, sdg]}\n",
        6,
        "'sdg' is not among its choices; did you mean 'sgd'?",
    ),
    (
        "fractions of a whole number",
        HEAD.replace("grid", "random") + "  depth: {min: 1.0, max: 9.0}\nrun_cap: 3\n",
        6,
        "int_uniform",
    ),
    ("a value without its key", HEAD + "  depth: 5\n", 6, "write depth: {value: 5}"),
    ("a list without its key", HEAD + "  depth: [1, 2]\n", 6, "write depth: {values: [1, 2]}"),
    (
        "unknown distribution",
        HEAD + "  lr: {distribution: unifrom, min: 0.1, max: 0.2}\n",
        6,
        "did you mean 'uniform'?",
    ),
    ("set twice", HEAD + "  depth: {values: [1]}\n  a: {values: [{depth: 2}]}\n", 7, "'depth' is also set by 'depth'"),
    ("bundle with a misspelt option", HEAD + "  a:\n    values:\n      - {lamda: 1}\n", 8, "did you mean 'lambda'?"),
    ("a label twice", HEAD + "  a: {values: [{label: x}, {label: x, lr: 1}]}\n", 6, "given to several values"),
    (
        "what would be ignored",
        HEAD.replace("maximize}", "maximize, impute: best}"),
        3,
        "a failed run counts as the worst",
    ),
    (
        "hyperband after the last row",
        HEAD + "  epochs: {value: 4}\nearly_terminate: {type: hyperband, min_iter: 4}\n",
        7,
        "first looks at row 4 of a run's log, which has 4",
    ),
    ("no command", "method: grid\nparameters: {depth: {value: 1}}\n", 1, "a sweep says what it runs"),
    (
        "another program",
        "method: grid\ncommand: [python, train.py, '${args}']\nparameters: {}\n",
        2,
        "does not run regx",
    ),
    ("unknown experiment", HEAD.replace("rectangular", "rectangle"), 2, "did you mean 'rectangular'?"),
    ("flag in the command", HEAD.replace("rectangular,", "rectangular, --depth=3,"), 2, "depth: {value: ...}"),
    (
        "bundle through ${args}",
        HEAD.replace("_json_file", "") + "  a: {values: [{depth: 1}]}\n",
        2,
        "${args_json_file}",
    ),
    ("method", HEAD.replace("grid", "gird"), 1, "did you mean 'grid'?"),
    ("run_cap", HEAD + "run_cap: 0\n", 6, "run_cap: 0 is not a whole number of at least 1"),
    ("sidecar's key", HEAD + "seeds: 3\n", 6, "it belongs into mine.regx.yaml"),
    ("scheduler", HEAD + "scheduler: {engine: optuna}\n", 6, "use method grid, random or bayes"),
    ("hyperband", HEAD + "early_terminate: {type: hyperban, min_iter: 3}\n", 6, "early_terminate: type: 'hyperban'"),
    (
        "early end without a metric",
        HEAD.replace("metric: {name: val/acc, goal: maximize}\n", "")
        + "early_terminate: {type: hyperband, min_iter: 3}\n",
        5,
        "needs a metric",
    ),
    ("what does not count", HEAD + "  threads: {values: [1, 2]}\n", 6, "would be the same run"),
    ("what regx sets", HEAD + "  run_dir: {value: here}\n", 6, "set by `regx sweep` itself"),
    (
        "options that exclude each other",
        HEAD + "  momentum: {value: 0.9}\n",
        None,
        "momentum=0.9: momentum: is for --optimizer sgd",
    ),
]


@pytest.mark.parametrize(("text", "line", "reason"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_files(text: str, line: int | None, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        trials(path)
    assert str(error.value).startswith(f"{path}, line {line}: " if line else f"{path}: ")
    assert reason in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("beside", "line", "reason"),
    [
        ("sumary: x\n", 1, "unknown key 'sumary'; did you mean 'summary'?"),
        ("seeds: [1, 1]\n", 1, "list of different ones"),
        ("seeds: 0\n", 1, "neither a number of seeds"),
        ("summary: x\nwhere: dept < 3\n", 2, "'dept' is no option; did you mean 'depth'?"),
        ("summary: x\nwhere:\n  - depth < 3\n  - __import__('os')\n", 4, "call is not for conditions"),
        ("where: depth <\n", 1, "is no condition"),
        ("when: {momentun: depth > 1}\n", 1, "'momentun' is no parameter"),
        ("where: depth > 99\n", None, "no configuration fulfils the conditions"),
        ("retries: many\n", 1, "not a whole number"),
    ],
)
def test_bad_sidecars(beside: str, line: int | None, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "  depth: {values: [1, 2]}\n", beside)
    with pytest.raises(UserError) as error:
        trials(path)
    assert str(error.value).startswith(f"{sidecar.beside(path)}, line {line}: " if line else f"{path}: ")
    assert reason in str(error.value), str(error.value)


def test_seeds_are_not_given_twice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave one out"):
        trials(write(tmp_path, HEAD + "  seed: {values: [1, 2]}\n", "seeds: 2\n"))


def test_numbers_are_numbers(tmp_path: Path) -> None:
    (found,) = trials(write(tmp_path, HEAD + "  lr: {value: 1e-5}\n  epochs: {value: 1e2}\n"))
    assert found.config().as_dict()["lr"] == 1e-5 and found.config().epochs == 100


def test_bundles_and_nested_parameters_are_options(tmp_path: Path) -> None:
    text = (
        HEAD
        + """
  technique: {values: [{label: plain}, {label: alive, lambda: 0.1}, {label: norm, batchnorm: true}]}
  optim: {parameters: {lr: {values: [0.1, 0.2]}, more: {parameters: {lambda_warmup: {value: 0}}}}}
"""
    )
    found = trials(write(tmp_path, text))
    seen = [
        (item.label, item.options.get("lambda"), item.options.get("batchnorm"), item.options["lr"]) for item in found
    ]
    assert sorted(seen, key=str) == sorted(
        [
            *[("plain", None, None, lr) for lr in (0.1, 0.2)],
            *[("alive", 0.1, None, lr) for lr in (0.1, 0.2)],
            *[("norm", None, True, lr) for lr in (0.1, 0.2)],
        ],
        key=str,
    )
    assert found[0].parameters.keys() == {"dataset", "technique", "optim.lr", "optim.more.lambda_warmup"}


def test_seeds_conditions_and_dependent_parameters(tmp_path: Path) -> None:
    text = (
        HEAD
        + """
  depth: {values: [1, 2, 4]}
  width: {values: [2, 4]}
  optimizer: {values: [adam, sgd]}
  momentum: {values: [0, 0.9]}
"""
    )
    beside = "seeds: [3, 5]\nwhere: depth * width <= 8\nwhen: {momentum: optimizer == 'sgd'}\n"
    # Without a momentum, adam is refused before the condition of the parameter is asked.
    found = trials(write(tmp_path, text.replace("[0, 0.9]", "[0, 0.9]"), beside))
    wanted = {
        (depth, width, optimizer, momentum, seed)
        for depth in (1, 2, 4)
        for width in (2, 4)
        for optimizer in ("adam", "sgd")
        for momentum in ((0, 0.9) if optimizer == "sgd" else (None,))
        for seed in (3, 5)
        if depth * width <= 8
    }
    keys = ("depth", "width", "optimizer", "momentum", "seed")
    assert {tuple(item.options.get(key) for key in keys) for item in found} == wanted
    assert len(found) == len(wanted)


def test_changes_from_the_command_line(tmp_path: Path) -> None:
    text = (
        HEAD
        + "  depth: {values: [1, 2, 4]}\n  a: {parameters: {lr: {values: [0.1, 0.2]}}}\n  b: {values: [{width: 2}]}\n"
    )
    path = write(tmp_path, text)
    assert len(trials(path)) == 6
    found = trials(path, changes={"depth": 3, "lr": [0.5], "epochs": 7, "regularizer": ["l1=1e-3"]})
    assert [item.options for item in found] == [
        {"dataset": "iris", "lr": 0.5, "width": 2, "depth": 3, "epochs": 7, "regularizer": ["l1=1e-3"], "seed": 42}
    ]
    assert {item.seed for item in trials(path, seeds=[1, 2])} == {1, 2}
    assert len(trials(path, run_cap=4)) == 4
    for changes, reason in [
        ({"dept": 1}, "did you mean 'depth'?"),
        ({"depth": "x"}, "not a whole number"),
        ({"width": 3}, "is what the values of 'b' differ in"),
    ]:
        with pytest.raises(UserError, match=reason.replace("?", r"\?")):
            definition.read(path, changes=changes)


def test_random_search_is_the_same_everywhere(tmp_path: Path) -> None:
    text = HEAD.replace("grid", "random") + "  depth: {min: 1, max: 9}\n  lr: {min: 0.001, max: 0.1}\nrun_cap: 5\n"
    path = write(tmp_path, text, "where: depth != 5\n")
    first, again = trials(path), trials(path)
    assert [item.key for item in first] == [item.key for item in again] and len({item.key for item in first}) == 5
    more = trials(path, run_cap=8)
    assert [item.key for item in more][:5] == [item.key for item in first]


def test_what_is_kept_is_what_was_read(tmp_path: Path) -> None:
    from regx.sweeps import registry

    path = write(tmp_path, HEAD + "  depth: {values: [1, 2]}\n  lr: {value: 1e-5}\n", "seeds: 2\nwhere: depth < 9\n")
    sweep = definition.read(path, changes={"epochs": 3})
    registry.keep(sweep, tmp_path / "kept")
    kept = registry.load(str(tmp_path / "kept"))
    again = plan.trials(kept, tmp_path / "runs")
    assert [item.options for item in again] == [item.options for item in plan.trials(sweep, tmp_path / "runs")]
    assert yaml.safe_load((tmp_path / "kept" / ".sweep.yaml").read_text()) == kept.document.value
    assert kept.name == "kept" and registry.folder_of(kept, Path("x")) == tmp_path / "kept"


def test_weights_of_another_trial(tmp_path: Path) -> None:
    text = (
        HEAD
        + '  a: {values: [{label: tuned, pretrained: "{dense}", lr: 0.1}, {label: dense}]}\n  depth: {values: [1, 2]}\n'
    )
    found = trials(write(tmp_path, text, "seeds: 2\n"))
    assert [item.label for item in found] == ["dense"] * 4 + ["tuned"] * 4
    for item in found[4:]:
        assert item.after is not None and item.after.label == "dense"
        assert (item.after.options["depth"], item.after.seed) == (item.options["depth"], item.seed)
    with pytest.raises(UserError, match="no trial is called 'dens'; there are: dense"):
        trials(write(tmp_path, text.replace("{dense}", "{dens}")))


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("depth * width <= 8", True),
        ("depth + 1 == 3 and not batchnorm", True),
        ("optimizer in ['adam', 'sgd'] or depth > 100", True),
        ("lambda > 0", False),
        ("skip_connections is None", True),
        ("skip_connections < 3", False),
        ("1 < depth < 3", True),
        ("-depth % 2 == 0", True),
        ("label == 'x'", False),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    values = {"depth": 2, "width": 4, "batchnorm": False, "optimizer": "adam", "lambda": 0.0, "skip_connections": None}
    assert Condition(text).holds(values | {"label": None}) is holds


@pytest.mark.parametrize("text", ["f(1)", "depth.real", "[x for x in y]", "lambda: 3", "a := 1", "depth ** 9", "x[0]"])
def test_conditions_run_no_code(text: str) -> None:
    with pytest.raises(UserError):
        Condition(text).names()


def test_a_scalar_of_the_command_line() -> None:
    assert [document.scalar(text) for text in ("1e-3", "[1, 2]", "off", "true")] == [1e-3, [1, 2], "off", True]
