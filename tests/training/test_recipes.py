"""Recipes: each one can be run as it is, and says what its source says."""

from typing import Any

import pytest

from regx.cli.options import resolve
from regx.errors import UserError
from regx.registry import Info
from regx.regularizers import REGISTRY as REGULARIZERS
from regx.training import recipes
from regx.training.experiments import ResNetConfig
from regx.training.recipes import RECIPES, Recipe


def config(name: str, **typed: Any) -> ResNetConfig:
    found = resolve(ResNetConfig, typed, None, recipes.find(name).options)
    assert isinstance(found, ResNetConfig)
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_recipe_is_a_configuration(recipe: Recipe) -> None:
    found = config(recipe.name)
    values = found.as_dict()
    for key, value in recipe.options.items():
        assert values[key] == value, key
    assert found.epochs > 1 and found.augment
    assert config(recipe.name, batch_size="7").batch_size == 7, "what is typed wins"


def test_aliases_are_the_same_recipes() -> None:
    assert any(recipe.alias for recipe in RECIPES)
    names = [word for recipe in RECIPES for word in (recipe.name, recipe.alias) if word]
    assert len(names) == len(set(names))
    for recipe in RECIPES:
        assert recipes.find(recipe.name) is recipe
        assert not recipe.alias or recipes.find(recipe.alias) is recipe


def assert_holds(found: ResNetConfig, **expected: Any) -> None:
    known = found.as_dict()  # with the defaults of the network
    assert {key: known[key] for key in expected} == expected


def penalties(found: ResNetConfig) -> list[tuple[str, float, dict[str, Any]]]:
    """Name, strength, and the options that matter here of each."""
    kept = ("groups", "layer_type", "noise", "droprate_init", "include", "mode", "aggr", "sign_balance", "tie_breaking")
    return [
        (p.name, p.strength.base, {key: value for key, value in p.options.items() if key in kept})
        for p in found.penalties()
    ]


def test_jumpstart_says_what_its_source_says() -> None:
    """blauigris/jumpstart, README, and the defaults of its script."""
    found = config("jumpstart-imagenet")
    assert_holds(found, depth=50, width_multiplier=2, batchnorm=False, skip_connections=False, activation="relu")
    assert_holds(found, optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=0.0, dropout=0.0, label_smoothing=0.0)
    assert_holds(found, batch_size=128, epochs=90, patience=None, unit_type="conv", amp="no", seed=42)
    options = {"mode": "full", "aggr": "balanced", "sign_balance": 0.5, "tie_breaking": "single"}
    assert penalties(found) == [("jumpstart", 1e-5, options)]


def test_group_l1_says_what_its_source_says() -> None:
    """Mohamedsalem80/GroupL1: its network without a penalty, and what its callbacks do."""
    found = config("group-l1")
    assert_holds(found, dataset="cifar10", standardize=False, batch_size=512, epochs=100, optimizer="adam", lr=1e-3)
    assert_holds(found, lr_schedule="plateau", lr_gamma=0.5, lr_patience=5, lr_min=1e-6, patience=15, seed=42)
    assert found.augment == ["flip", "translate(share=0.1)", "rotate(degrees=14.4)"]
    assert [(name, strength) for name, strength, _ in penalties(found)] == [("jumpstart", 0.0)]


def test_l0_gates_says_what_its_source_says() -> None:
    """bobondemon/l0_regularization_practice: with gates from scratch."""
    found = config("l0-gates")
    assert found.model_name() == "googlenet"
    assert_holds(found, optimizer="adamw", lr=1e-3, weight_decay=1e-4, batch_size=128, epochs=180, drop_last=True)
    assert_holds(found, decay_norms=True)
    assert_holds(found, dataset="cifar10", val_size=None)
    assert_holds(found, lr_schedule="multistep", lr_milestones="100,150", lr_gamma=0.1)
    assert found.augment == ["flip", "resized_crop(low=0.8)"]
    ((name, strength, options),) = penalties(found)
    assert (name, strength, options["noise"]) == ("l0", 0.5, "sample")
    defaults = {parameter.name: parameter.default for parameter in REGULARIZERS["l0"].parameters}
    assert (defaults | options)["droprate_init"] == 0.5


def test_torchvisions_first_recipe() -> None:
    found = config("torchvision-v1")
    assert_holds(found, optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, decay_norms=True, epochs=90)
    assert_holds(found, lr_schedule="step", lr_cycle_length=30, lr_gamma=0.1, batch_size=256, lr_warmup=0)


def test_what_is_listed_says_everything() -> None:
    rows: list[Info] = list(recipes.rows())
    assert [row.name for row in rows] == [recipe.name for recipe in RECIPES]
    for row, recipe in zip(rows, RECIPES, strict=True):
        assert row.source == recipe.source
        lines = [line.strip() for line in row.description.splitlines()]
        for key, value in recipe.options.items():
            for item in value if isinstance(value, list) else [value]:
                flag = key.replace("_", "-")
                typed = {True: f"--{flag}", False: f"--no-{flag}"} if isinstance(item, bool) else {}
                assert typed.get(item, f"--{flag} {item!r}" if "(" in str(item) else f"--{flag} {item}") in lines


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown recipe 'group-l2'; did you mean 'group-l1'\?"):
        recipes.find("group-l2")
