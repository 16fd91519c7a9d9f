"""The sweeps that regx ships are W&B's format, say what their sources say, and can be carried out."""

import json
import re
from dataclasses import fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from regx.analysis.table import TableSpec
from regx.analysis.tables import TABLES
from regx.data import REGISTRY as DATASETS
from regx.regularizers import parse
from regx.sweeps import definition, document, plan, trial
from regx.sweeps.definition import Sweep
from regx.sweeps.registry import HERE
from regx.sweeps.sidecar import beside
from regx.sweeps.trial import Trial
from regx.training import log_keys
from tests.sweeps.carried import carried_out

FILES = sorted(path for path in HERE.glob("*.yaml") if not path.name.endswith(".regx.yaml"))
NAMES = [path.stem for path in FILES]
every_sweep = pytest.mark.parametrize("name", NAMES)


@cache
def planned(name: str) -> tuple[Sweep, tuple[Trial, ...]]:
    sweep = definition.read(HERE / f"{name}.yaml")
    return sweep, tuple(plan.trials(sweep, Path("runs") / name))


def labels(name: str) -> list[str]:
    return list(dict.fromkeys(item.label for item in planned(name)[1] if item.label))


# What wandb's package `sweeps` 0.3.0 (config/schema.json) asks for, as far as these files go.
SHAPES: dict[str, set[str]] = {
    "constant": {"value"},
    "categorical": {"values"},
    "log_uniform_values": {"distribution", "min", "max"},
}
TOP = {"method", "command", "metric", "parameters", "run_cap", "early_terminate"}


def violations(value: Any) -> list[str]:
    found = [f"key {key}" for key in value.keys() - TOP]
    if value.get("method") not in ("grid", "random", "bayes"):
        found.append("method")
    if "run_cap" in value and (type(value["run_cap"]) is not int or value["run_cap"] < 1):
        found.append("run_cap")
    metric = value.get("metric", {"name": ""})
    if not metric.keys() <= {"name", "goal"} or type(metric["name"]) is not str or metric["goal"] not in ("maximize",):
        found.append("metric")
    early = value.get("early_terminate", {"type": "hyperband", "min_iter": 1})
    if early.get("type") != "hyperband" or ("min_iter" in early) == ("max_iter" in early):
        found.append("early_terminate")
    for key, spec in value["parameters"].items():
        shape = next((name for name, keys in SHAPES.items() if spec.keys() == keys), None)
        if not re.match(r"^[A-Za-z_][A-Za-z0-9_.-]*$", key) or shape is None:
            found.append(f"parameter {key}")
        if shape == "categorical" and (type(spec["values"]) is not list or not spec["values"]):
            found.append(f"values of {key}")
        if shape == "log_uniform_values" and not 0 < spec["min"] < spec["max"]:
            found.append(f"bounds of {key}")
    return found


@every_sweep
def test_the_file_is_wandbs_format(name: str) -> None:
    value = yaml.safe_load((HERE / f"{name}.yaml").read_text())
    assert violations(value) == []
    experiment = planned(name)[0].experiment
    assert value["command"] == ["${env}", "regx", "sweep", "trial", experiment, "${args_json_file}"]


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": 3},
        {"method": "sobol"},
        {"run_cap": 0},
        {"early_terminate": {"type": "hyperband"}},
        {"parameters": {"lr": {"value": 1, "values": [1]}}},
        {"parameters": {"lr": {"distribution": "log_uniform_values", "min": 0, "max": 1}}},
    ],
)
def test_the_validator_finds_what_is_wrong(change: dict[str, Any]) -> None:
    good = {"method": "grid", "parameters": {"lr": {"value": 1}}, "metric": {"name": "val/acc", "goal": "maximize"}}
    assert violations(good) == [] and len(violations(good | change)) == 1


@every_sweep
def test_wandb_reads_the_same_numbers(name: str) -> None:
    """Its YAML 1.1 takes 1e-5 for a text and yes for true."""
    path = HERE / f"{name}.yaml"
    assert json.dumps(yaml.safe_load(path.read_text())) == json.dumps(document.read(path).value)


@every_sweep
def test_every_trial_can_be_configured_and_has_the_metric(name: str) -> None:
    sweep, trials = planned(name)
    plan.check(sweep, list(trials))
    assert len({item.key for item in trials}) == len(trials)
    datasets = {item.config().dataset for item in trials}
    assert datasets <= set(DATASETS.rows)


@every_sweep
def test_labels_name_configurations_and_the_baseline_is_one(name: str) -> None:
    sweep, trials = planned(name)
    for distribution in sweep.parameters.values():
        bundles = [value for value in distribution.ends() if isinstance(value, dict)]
        given = [value["label"] for value in bundles]
        assert len(set(given)) == len(given)
    assert sweep.sidecar.baseline in (labels(name) or [None])
    assert all(item.label for item in trials) == bool(labels(name)) or sweep.method == "bayes"


@every_sweep
def test_the_sidecar_says_what_it_is(name: str) -> None:
    notes = planned(name)[0].sidecar
    assert beside(HERE / f"{name}.yaml").is_file()
    assert notes.summary and "\n" not in notes.summary and len(notes.summary) < 120 and notes.budget
    assert name in ("quickstart", "smoke") or (notes.source and notes.description and notes.tables)


@every_sweep
def test_tables_ask_for_what_the_runs_log(name: str) -> None:
    sweep, trials = planned(name)
    logged = {key for item in trials for key in log_keys.logged(item.config())}
    logged |= {key.replace("val/", "test/") for key in logged if key.startswith("val/")}
    settings = {*sweep.parameters, *sweep.options, "label", "technique"}
    for entry in sweep.sidecar.tables:
        spec = dict(entry)
        assert spec.pop("table") in TABLES
        assert spec.keys() <= {item.name for item in fields(TableSpec)}
        TableSpec(**spec)
        named = [*spec.get("by", []), *(spec[key] for key in ("rows", "columns") if key in spec)]
        assert set(named) <= settings
        if trials:
            assert {*spec.get("metrics", []), *([spec["metric"]] if "metric" in spec else [])} <= logged


# Rows of the published tables and grids; of the searches, their cap.
COUNTS = {
    "cifar10-depth": 3 * 7 * 2 * 5,
    "cifar100-depth": 8 * 2 * 5,
    "collapse": 10 * 32,
    "distiller-ssl": 5,
    "early-stopping": 24,
    "group-l1": 4,
    "group-loss": 2 * (1 + 3 + 3 + 3),
    "imagenet": 5,
    "imagenet-width": 2 * 2,
    "jumpstart-bayes": 0,
    "jumpstart-lambda": 24,
    "l0-frontier": 8,
    "mnist-depth": 3 * 3 * 10,
    "moons-depth": 3 * 9 * 13,
    "quickstart": 3 * 3,
    "regularizers-digits": 9 * 3,
    "smoke": 4,
    "uci": 15 * (4 + 4) * 3,
}


@every_sweep
def test_as_many_runs_as_the_source_has(name: str) -> None:
    assert len(planned(name)[1]) == COUNTS[name]


# Constants of the sources: options of every run.
CONSTANTS: dict[str, dict[str, Any]] = {
    "moons-depth": {"n_samples": 100, "lr": 0.01, "batch_size": 85, "epochs": 5000, "optimizer": "adam"},
    "mnist-depth": {"lr": 0.001, "batch_size": 1024, "epochs": 50, "kernel_size": 3, "head": "flatten"},
    "cifar10-depth": {"batch_size": 128, "epochs": 400, "optimizer": "adam", "skip_last": False, "hook_at": "layer"},
    "cifar100-depth": {"batch_size": 128, "epochs": 400, "optimizer": "adam", "head": "pool"},
    "uci": {"depth": 50, "width": 4, "epochs": 4000, "batch_size": 256, "protocol": "paper", "stop_at": 1.0},
    "imagenet": {"depth": 50, "lr": 0.1, "batch_size": 128, "epochs": 90, "weight_decay": 0.0, "momentum": 0.0},
    "imagenet-width": {"depth": 50, "lr": 3e-5, "optimizer": "adamw", "batch_size": 128, "weight_decay": 0.0},
    "l0-frontier": {"epochs": 180, "lr": 1e-3, "weight_decay": 1e-4, "batch_size": 128, "optimizer": "adamw"},
    "group-l1": {"epochs": 100, "batch_size": 512, "lr": 1e-3, "lr_gamma": 0.5, "lr_patience": 5, "patience": 15},
    "distiller-ssl": {"depth": 20, "epochs": 180, "batch_size": 256, "momentum": 0.9, "weight_decay": 1e-4},
    "group-loss": {"epochs": 20, "batch_size": 64, "lr": 1e-4, "optimizer": "adam", "augment": []},
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_what_the_source_fixes(name: str) -> None:
    for item in planned(name)[1]:
        values = item.config().as_dict()
        assert {key: values[key] for key in CONSTANTS[name]} == CONSTANTS[name]


def test_strengths_of_jumpstart_are_those_of_the_grids() -> None:
    for name in ("cifar10-depth", "cifar100-depth"):
        found = {(item.options["lambda"], item.options["aggr"]) for item in planned(name)[1] if item.label != "ReLU"}
        assert found == {(0.001, "norm"), (0.1, "norm"), (0.1, "mean"), (1.0, "mean")}
    pairs = {(item.options["depth"], item.options["width"]) for item in planned("cifar100-depth")[1]}
    assert pairs == {(20, 8), (10, 16), (20, 32), (10, 64), (20, 16), (10, 32), (20, 64), (10, 8)}
    for name, strength in (("moons-depth", 1e-4), ("mnist-depth", 1e-8)):
        used = {(item.label, item.config().as_dict()["lambda"]) for item in planned(name)[1]}
        assert used == {("ReLU", 0), ("BatchNorm", 0), ("Jumpstart", strength)}


def test_only_jumpstart_has_a_strength_in_the_uci_comparison() -> None:
    per_dataset: dict[str, list[Any]] = {}
    for item in planned("uci")[1]:
        if item.seed == 0:
            per_dataset.setdefault(item.options["dataset"], []).append((item.label, item.options["lambda"]))
    plain = [(label, 0) for label in ("Baseline", "Skip connections", "BatchNorm", "GELU")]
    for found in per_dataset.values():
        assert sorted(found) == sorted([*plain, *(("Jumpstart", strength) for strength in (0.001, 0.01, 0.1, 1))])


def test_fine_tuned_gates_begin_with_the_weights_of_the_run_without() -> None:
    found = {item.label: item.after.label if item.after else None for item in planned("l0-frontier")[1]}
    dense, scratch = "No gates", [f"Gates {strength}" for strength in ("0.25", "0.5", "1")]
    assert found == dict.fromkeys([dense, *scratch]) | {f"Fine-tuned {s}": dense for s in (10, 20, 30, 50)}


# reg_regims of examples/ssl in IntelLabs/distiller.
DISTILLER = {
    "Layers": dict.fromkeys(
        [f"layer1.{block}.conv{conv}" for block in (0, 1) for conv in (1, 2)]
        + ["layer1.2.conv2", "layer2.1.conv2", "layer2.2.conv2", "layer3.1.conv2", "layer3.2.conv2"],
        0.004,
    ),
    "Channels": dict.fromkeys(
        [f"layer1.{block}.conv2" for block in (0, 1, 2)]
        + ["layer2.0.conv2", "layer2.1.conv2", "layer3.0.conv2", "layer3.1.conv2"],
        0.0008,
    ),
    "Channels, stronger": {
        "layer1.0.conv2": 0.0014,
        "layer1.1.conv2": 0.0014,
        "layer1.2.conv2": 0.0012,
        "layer2.0.conv2": 0.0008,
        "layer2.1.conv2": 0.0014,
        "layer2.2.conv2": 0.0014,
        "layer3.0.conv2": 0.0008,
        "layer3.1.conv2": 0.0014,
    },
    "Filters": {
        "layer1.0.conv1": 0.0008,
        "layer1.1.conv1": 0.0008,
        "layer1.2.conv1": 0.0006,
        "layer2.0.conv1": 0.0008,
        "layer2.1.conv1": 0.0002,
        "layer2.2.conv1": 0.0008,
        "layer3.0.conv1": 0.0012,
        "layer3.1.conv1": 0.0010,
        "layer3.2.conv1": 0.0002,
    },
}


@pytest.mark.parametrize("regularizer", ["group_lasso", "threshold"])
def test_layers_and_strengths_are_distillers(regularizer: str) -> None:
    layers = [f"layer{stage}.{block}.conv{conv}" for stage in (1, 2, 3) for block in (0, 1, 2) for conv in (1, 2)]
    for item in planned("distiller-ssl")[1]:
        found: dict[str, float | None] = {}
        for spec in map(parse, item.options["regularizer"]):
            if spec.name == regularizer:
                globs = str(spec.options["include"]).split("|")
                reached = [layer for layer in layers if any(fnmatchcase(layer, glob) for glob in globs)]
                assert not found.keys() & reached, "penalised once"
                found |= dict.fromkeys(reached, spec.strength)
        assert found == DISTILLER.get(item.label or "", {})


TINY = {"dataset": "fake", "n_samples": 60, "subset": 40, "batch_size": 12, "epochs": 1, "log_status": False}


@pytest.mark.parametrize(
    ("name", "changes", "wanted"),
    [
        ("uci", {"dataset": "iris", "epochs": 1}, ["Jumpstart", "Skip connections", "BatchNorm", "GELU"]),
        ("l0-frontier", TINY, ["No gates", "Fine-tuned 10"]),
        ("distiller-ssl", TINY, ["Layers", "Channels, stronger", "Filters"]),
        ("regularizers-digits", {"epochs": 1, "subset": 200}, ["L1", "L0 gates", "Pruning"]),
    ],
)
def test_runs_cut_short_finish(name: str, changes: dict[str, Any], wanted: list[str], tmp_path: Path) -> None:
    sweep = definition.read(HERE / f"{name}.yaml", changes, seeds=[0] if planned(name)[0].sidecar.seeds else None)
    chosen = {item.label: item for item in plan.trials(sweep, tmp_path)}
    for label in wanted:
        outcome = carried_out(chosen[label])
        assert (outcome.status, outcome.message) == ("finished", "")
        assert "val/acc" in outcome.row
    notes = plan.read_notes(tmp_path, name)
    assert sorted(note["label"] for note in notes) == sorted(wanted)
    assert all(plan.state(chosen[label])[0] == plan.FINISHED for label in wanted)
    assert trial.reference(chosen[wanted[0]]) is None
