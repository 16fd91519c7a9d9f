"""Recipes: each one can be run as it is, and says what its source says."""

from typing import Any

import pytest

from regx.cli.options import resolve
from regx.errors import UserError
from regx.registry import Info
from regx.regularizers import REGISTRY as REGULARIZERS
from regx.training import recipes
from regx.training.experiments import ResNetConfig
from regx.training.recipes import CHECKPOINT, RECIPES, Recipe


def config(name: str, variant: str = "", **typed: Any) -> ResNetConfig:
    recipe = recipes.find(name)
    found = resolve(ResNetConfig, typed, None, recipe.options | recipe.variants.get(variant, {}))
    assert isinstance(found, ResNetConfig)
    return found


CASES = [(recipe, variant) for recipe in RECIPES for variant in ("", *recipe.variants)]


@pytest.mark.parametrize(("recipe", "variant"), CASES, ids=[f"{r.name} {v}".strip() for r, v in CASES])
def test_every_variant_is_a_configuration(recipe: Recipe, variant: str) -> None:
    found = config(recipe.name, variant)
    wanted = recipe.options | recipe.variants.get(variant, {})
    values = found.as_dict()
    for key, value in wanted.items():
        assert values[key] == value, key
    assert found.epochs > 1 and found.augment
    assert config(recipe.name, variant, batch_size="7").batch_size == 7, "what is typed wins"


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.variants], ids=lambda recipe: recipe.name)
def test_variants_are_different_runs(recipe: Recipe) -> None:
    assert len({config(recipe.name, variant).hash() for variant in recipe.variants}) == len(recipe.variants)
    earlier: list[str] = []
    for name, options in recipe.variants.items():
        known = [None, *(CHECKPOINT % other for other in earlier)]
        assert options.get("pretrained") in known, "weights are those of a variant that was trained before"
        earlier.append(name)


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
    found = config("jumpstart-imagenet", "jumpstart")
    assert_holds(found, depth=50, width_multiplier=2, batchnorm=False, skip_connections=False, activation="relu")
    assert_holds(found, optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=0.0, dropout=0.0, label_smoothing=0.0)
    assert_holds(found, batch_size=128, epochs=90, patience=None, unit_type="conv", amp="no", seed=42)
    options = {"mode": "full", "aggr": "balanced", "sign_balance": 0.5, "tie_breaking": "single"}
    assert penalties(found) == [("jumpstart", 1e-5, options)]
    variants = recipes.find("jumpstart-imagenet").variants
    strengths = {name: config("jumpstart-imagenet", name).penalties()[0].strength.base for name in variants}
    assert strengths == {"plain": 0, "jumpstart": 1e-5, "batchnorm": 0, "skips": 0, "standard": 0}
    assert_holds(config("jumpstart-imagenet", "standard"), batchnorm=True, skip_connections=True)


def test_group_l1_says_what_its_source_says() -> None:
    """Mohamedsalem80/GroupL1: four networks, and what its callbacks do."""
    found = config("group-l1", "baseline")
    assert_holds(found, dataset="cifar10", standardize=False, batch_size=512, epochs=100, optimizer="adam", lr=1e-3)
    assert_holds(found, lr_schedule="plateau", lr_gamma=0.5, lr_patience=5, lr_min=1e-6, patience=15, seed=42)
    assert found.augment == ["flip", "translate(share=0.1)", "rotate(degrees=14.4)"]
    strengths = {}
    for name in recipes.find("group-l1").variants:
        strengths[name] = [(penalty, strength) for penalty, strength, _ in penalties(config("group-l1", name))]
    assert strengths == {
        "baseline": [("jumpstart", 0.0)],
        "l1": [("l1", 1e-4)],
        "l2": [("l2", 1e-4)],
        "group_l1": [("group_lasso", 1e-3), ("group_lasso", 1e-3)],
    }
    convolutions, dense = penalties(config("group-l1", "group_l1"))
    assert (convolutions[2]["groups"], convolutions[2]["layer_type"]) == ("filters", "conv")
    assert dense[2]["layer_type"] == "linear"


def test_l0_gates_says_what_its_source_says() -> None:
    """bobondemon/l0_regularization_practice: without gates, with gates from scratch, and fine-tuned with gates."""
    found = config("l0-gates", "gates")
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
    assert penalties(config("l0-gates", "dense")) == []
    tuned = config("l0-gates", "fine_tuned")
    assert_holds(tuned, lr_milestones="10,60,100,130,160", lr_gamma=0.5, pretrained="{dense}", epochs=180)
    assert penalties(tuned)[0][2]["droprate_init"] == 0.05
    assert penalties(tuned)[0][1] > strength, "a larger strength than from scratch"


def test_torchvisions_first_recipe() -> None:
    found = config("torchvision-v1")
    assert_holds(found, optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, decay_norms=True, epochs=90)
    assert_holds(found, lr_schedule="step", lr_cycle_length=30, lr_gamma=0.1, batch_size=256, lr_warmup=0)


def test_what_is_listed_says_everything() -> None:
    rows: list[Info] = list(recipes.rows())
    assert [row.name for row in rows] == [recipe.name for recipe in RECIPES]
    for row, recipe in zip(rows, RECIPES, strict=True):
        assert row.facts["variants"] == ", ".join(recipe.variants)
        lines = [line.strip() for line in row.description.splitlines()]
        for key, value in recipe.options.items():
            for item in value if isinstance(value, list) else [value]:
                flag = key.replace("_", "-")
                typed = {True: f"--{flag}", False: f"--no-{flag}"} if isinstance(item, bool) else {}
                assert typed.get(item, f"--{flag} {item!r}" if "(" in str(item) else f"--{flag} {item}") in lines


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown recipe 'group-l2'; did you mean 'group-l1'\?"):
        recipes.find("group-l2")
