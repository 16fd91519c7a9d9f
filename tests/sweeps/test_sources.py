"""Sweeps of ResNets and of gates: every run says what the repository that it comes from says."""

from pathlib import Path
from typing import Any

import pytest

from regx.regularizers import REGISTRY as REGULARIZERS
from regx.sweeps import definition, plan, trial
from regx.sweeps.registry import HERE
from regx.sweeps.trial import Trial
from regx.training import recipes
from regx.training.config import RunConfig


def runs(name: str) -> dict[str, Trial]:
    found = plan.trials(definition.read(HERE / f"{name}.yaml"), Path("runs") / name)
    labelled = {item.label: item for item in found if item.label}
    assert len(labelled) == len(found)
    return labelled


def configs(name: str) -> dict[str, RunConfig]:
    return {label: item.config() for label, item in runs(name).items()}


def assert_holds(found: RunConfig, **expected: Any) -> None:
    known = found.as_dict()  # with the defaults of the network
    assert {key: known[key] for key in expected} == expected


def penalties(found: RunConfig, *kept: str) -> list[tuple[str, float, dict[str, Any]]]:
    """Name, strength and some options of each, with the defaults of those."""
    rows = []
    for penalty in found.penalties():
        defaults = {parameter.name: parameter.default for parameter in REGULARIZERS[penalty.name].parameters}
        rows.append((penalty.name, penalty.strength.base, {key: (defaults | penalty.options)[key] for key in kept}))
    return rows


def test_jumpstart_on_imagenet() -> None:
    """blauigris/jumpstart, README, and the defaults of its script."""
    found = configs("imagenet")
    for config in found.values():
        assert_holds(config, depth=50, width_multiplier=2, activation="relu", dataset="imagenet", seed=42)
        assert_holds(config, optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=0.0, lr_schedule="constant")
        assert_holds(config, batch_size=128, epochs=90, patience=None, dropout=0.0, label_smoothing=0.0, amp="no")
        assert config.augment == ["resized_crop", "flip"] and config.lr_warmup == 0
        options = {"mode": "full", "aggr": "balanced", "sign_balance": 0.5, "tie_breaking": "single"}
        ((name, _, said),) = penalties(config, *options)
        assert (name, said, config.as_dict()["unit_type"]) == ("jumpstart", options, "conv")
    told = {
        label: (
            config.penalties()[0].strength.base,
            *(config.as_dict()[key] for key in ("batchnorm", "skip_connections")),
        )
        for label, config in found.items()
    }
    assert told == {
        "Baseline": (0, False, False),
        "Jumpstart": (1e-5, False, False),
        "BatchNorm": (0, True, False),
        "Skip connections": (0, False, True),
        "ResNet": (0, True, True),
    }


def test_group_l1() -> None:
    """Mohamedsalem80/GroupL1: four networks, and what its callbacks do."""
    found = configs("group-l1")
    for config in found.values():
        assert_holds(config, depth=18, dataset="cifar10", standardize=False, batch_size=512, epochs=100, seed=42)
        assert_holds(config, optimizer="adam", lr=1e-3, weight_decay=0.0, patience=15)
        assert_holds(config, lr_schedule="plateau", lr_gamma=0.5, lr_patience=5, lr_min=1e-6)
        assert config.augment == ["flip", "translate(share=0.1)", "rotate(degrees=14.4)"]
    assert {label: penalties(config) for label, config in found.items() if label != "Group L1"} == {
        "Baseline": [("jumpstart", 0.0, {})],
        "L1": [("l1", 1e-4, {})],
        "L2": [("l2", 1e-4, {})],
    }
    assert penalties(found["Group L1"], "groups", "layer_type") == [
        ("group_lasso", 1e-3, {"groups": "filters", "layer_type": "conv"}),
        ("group_lasso", 1e-3, {"groups": "rows", "layer_type": "linear"}),
    ]


def test_gates() -> None:
    """bobondemon/l0_regularization_practice: without gates, with gates from scratch, and fine-tuned with gates."""
    found = configs("l0-frontier")
    for config in found.values():
        assert config.model_name() == "googlenet"
        assert_holds(config, optimizer="adamw", lr=1e-3, weight_decay=1e-4, decay_norms=True, lr_schedule="multistep")
        assert_holds(config, dataset="cifar10", val_size=None, batch_size=128, epochs=180, drop_last=True)
        assert config.augment == ["flip", "resized_crop(low=0.8)"]
    strengths = {}
    for label, item in runs("l0-frontier").items():
        tuned = label.startswith("Fine-tuned")
        rate = {"lr_milestones": "10,60,100,130,160", "lr_gamma": 0.5}
        assert_holds(found[label], **(rate if tuned else {"lr_milestones": "100,150", "lr_gamma": 0.1}))
        assert trial.reference(item) == ("No gates" if tuned else None)
        assert (item.after.label if item.after else None) == trial.reference(item)
        if label == "No gates":
            assert penalties(found[label]) == []
            continue
        ((name, strengths[label], options),) = penalties(found[label], "include", "noise", "droprate_init")
        wanted = {"include": "blocks.*.output.conv", "noise": "sample", "droprate_init": 0.05 if tuned else 0.5}
        assert (name, options) == ("l0", wanted)
    scratch = {"Gates 0.25": 0.25, "Gates 0.5": 0.5, "Gates 1": 1}
    assert strengths == scratch | {f"Fine-tuned {strength}": strength for strength in (10, 20, 30, 50)}


@pytest.mark.parametrize(
    ("recipe", "sweep", "label"),
    [
        ("jumpstart-imagenet", "imagenet", "Jumpstart"),
        ("group-l1", "group-l1", "Baseline"),
        ("l0-gates", "l0-frontier", "Gates 0.5"),
    ],
)
def test_a_recipe_is_a_row_of_its_sweep(recipe: str, sweep: str, label: str) -> None:
    """But for how often it is logged and drawn."""
    given = {key: value for key, value in runs(sweep)[label].options.items() if key not in ("seed", "plots")}
    free = {"log_every", "log_sparsity"}
    options = recipes.find(recipe).options
    assert {k: v for k, v in given.items() if k not in free} == {k: v for k, v in options.items() if k not in free}
