"""A configuration is checked when it is made, comes back from its own YAML, and names its run."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from regx.errors import UserError
from regx.training import experiments
from regx.training.experiments import RectangularConfig
from regx.training.options import options_of


def test_yaml_round_trip() -> None:
    config = RectangularConfig(lambda_=1e-5, batch_size="full", skip_connections=2, tags=["a"], stop_at=None)
    again = experiments.from_dict(yaml.safe_load(config.as_yaml()))
    assert again == config
    assert again.hash() == config.hash()


def test_every_option_has_help_and_a_legal_default() -> None:
    for item in options_of(RectangularConfig):
        assert len(item.help) > 10, item.name
        assert item.panel, item.name
        assert item.default is None or item.check(item.default) == item.default, item.name


def test_hash_ignores_defaults_and_where_things_are_written() -> None:
    base = RectangularConfig()
    assert RectangularConfig(lr=base.lr, run_dir="elsewhere", wandb="disabled", plots=False).hash() == base.hash()
    assert len({base.hash(), RectangularConfig(lr=0.1).hash(), RectangularConfig(seed=1).hash()}) == 3


def test_hash_follows_the_content_of_a_data_file(tmp_path: Path) -> None:
    file = tmp_path / "points.csv"
    file.write_text("a,b\n1,2\n")
    first = RectangularConfig(dataset=str(file), target="b").hash()
    (tmp_path / "copy.csv").write_text("a,b\n1,2\n")
    assert RectangularConfig(dataset=str(tmp_path / "copy.csv"), target="b").hash() == first
    file.write_text("a,b\n1,3\n")
    assert RectangularConfig(dataset=str(file), target="b").hash() != first


def test_penalties_take_shared_options_and_their_own_win() -> None:
    config = RectangularConfig(lambda_=0.01, mode="unit", regularizer=["jumpstart", "jumpstart(mode=point)=0.5"])
    (first, second) = config.penalties()
    assert (first.name, first.options["mode"], first.strength.base) == ("jumpstart", "unit", 0.01)
    assert (second.name, second.options["mode"], second.strength.base) == ("jumpstart", "point", 0.5)


def test_schedules_and_prox_reach_whom_they_concern() -> None:
    config = RectangularConfig(
        lambda_=0.01,
        lambda_schedule="linear",
        lambda_warmup=3,
        optimize="prox",
        regularizer=["jumpstart", "l1(schedule=agp)=0.5", "l2", "group_lasso(prox=false)"],
    )
    jumpstart, l1, l2, group_lasso = config.penalties()
    assert [p.strength.schedule for p in (jumpstart, l1, l2)] == ["linear", "agp", "linear"]
    assert {p.strength.warmup for p in config.penalties()} == {3}
    assert "prox" not in jumpstart.options and "prox" not in l2.options
    assert (l1.options["prox"], group_lasso.options["prox"]) == (True, False)


def test_a_tree_in_a_file_is_part_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("type: layerwise\ngroups: base_level\nchildren:\n- {type: global, lambda: 0.5}\nlambda: 1e-2\n")
    config = RectangularConfig(regularizer=[f"hierarchical( config = {file}, prox=true)=0.1"])
    tree = "{type: layerwise, groups: base_level, children: [{type: global, lambda: 0.5}], lambda: 1e-2}"
    assert config.regularizer == [f"hierarchical( config={tree}, prox=true)=0.1"]
    again = experiments.from_dict(yaml.safe_load(config.as_yaml()))
    assert again == config
    file.write_text("{type: global, lambda: 1}")
    assert RectangularConfig(regularizer=[f"hierarchical(config={file})=0.1"]).hash() != config.hash()
    with pytest.raises(UserError, match=r"regularizer: .*config: cannot read 'none.yaml' \(No such file"):
        RectangularConfig(regularizer=["hierarchical(config=none.yaml)=0.1"])


def test_the_run_is_named_after_its_regularizers() -> None:
    assert "-lambda0.01-" in RectangularConfig(lambda_=0.01).run_name()
    assert "-l1_0.5+l2_0.01-" in RectangularConfig(lambda_=0.01, regularizer=["l1=0.5", "l2"]).run_name()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"depth": 0}, ["depth", "0", "at least 1"]),
        ({"lambda": -1}, ["lambda", "-1", "at least 0"]),
        ({"lambda": "1e-3x"}, ["lambda", "1e-3x"]),
        ({"lr": 0}, ["lr", "above 0"]),
        ({"activation": "rely"}, ["activation", "did you mean 'relu'"]),
        ({"bacth_size": 3}, ["bacth_size", "did you mean 'batch_size'"]),
        ({"batch_size": "whole"}, ["batch_size", "'whole'", "full"]),
        ({"val_size": 0.5, "test_size": 0.5}, ["val_size"]),
        ({"lr_schedule": "multistep"}, ["lr_milestones"]),
        ({"lr_schedule": "multistep", "lr_milestones": "1,x"}, ["lr_milestones", "1,x"]),
        ({"lr_milestones": "5"}, ["lr_milestones", "multistep"]),
        ({"lr_warmup": 10, "epochs": 10}, ["lr_warmup"]),
        ({"nesterov": True}, ["nesterov", "sgd"]),
        ({"momentum": 0.9}, ["momentum", "sgd"]),
        ({"devices": "gpu"}, ["devices", "'gpu'", "cuda"]),
        ({"regularizer": ["jumpstrt"]}, ["jumpstrt", "did you mean 'jumpstart'"]),
        ({"regularizer": ["jumpstart(mod=unit)"]}, ["mod", "did you mean 'mode'"]),
        ({"regularizer": ["l1=-1"]}, ["regularizer", "'-1'", "at least 0"]),
        ({"regularizer": ["l1(start=9, end=5)"]}, ["regularizer", "end", "5 is before start"]),
        ({"lambda": 1, "lambda_start": 9, "lambda_end": 5}, ["lambda_end", "5 is before start"]),
        ({"lambda_start": 9, "epochs": 5}, ["lambda_start", "9 is after the last epoch"]),
        ({"lambda_gamma": 0.5}, ["lambda_gamma", "schedule=exponential"]),
        ({"optimize": "prox", "lambda": 1}, ["optimize", "none of this run's", "group_lasso"]),
        ({"target_sparsity": 0.5, "lambda": 1}, ["target_sparsity", "none of this run's", "l0"]),
        ({"target_sparsity": 0.5, "regularizer": ["l1(prox=true)"]}, ["lambda", "0 gives target_sparsity nothing"]),
        ({"seed": 2**32}, ["seed", "4,294,967,295"]),
        ({"experiment": ["rectangular"]}, ["experiment"]),
        ({"experiment": "rectangle"}, ["rectangle", "did you mean 'rectangular'"]),
    ],
)
def test_refuses_in_one_line(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        experiments.from_dict({"experiment": "rectangular"} | values)
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


@pytest.mark.parametrize("content", ["a: [1", "just text", "- 1\n- 2\n", "\x00"])
def test_a_file_that_is_no_configuration(tmp_path: Path, content: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=r"c\.yaml"):
        experiments.read(file)
