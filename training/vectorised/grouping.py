"""Which runs can be trained as one program, by which engine, and how many at once. Nothing heavy is imported here."""

from __future__ import annotations

import json
import os
from typing import Any

from regx.data import REGISTRY as DATASETS
from regx.data.pictures import STREAM_BYTES
from regx.data.tables import SUFFIXES
from regx.regularizers import REGISTRY as REGULARIZERS
from regx.training import identity
from regx.training.config import RunConfig
from regx.training.experiments import RectangularConfig, own_options
from regx.training.options import REGULARIZER, options_of
from regx.training.vectorised import native

# Runs of a program: more are not faster, as their activations leave the processor's caches.
MOST = 64
# The same where `modules` computes them.
MOST_MODULES = 8
# Widest convolutional networks, and largest images (16 x 16 in color), that are faster together: wider and larger ones
# keep a processor busy by themselves.
NARROW, SMALL_IMAGE = 8, 768
# Share of the machine's memory that a program may take.
MEMORY_SHARE = 0.2
# Widest layers that the native engine is compiled for; the matrix products of wider ones are faster in a BLAS.
NATIVE_WIDTH = 64

# Options that may differ between the runs of a program: numbers that an array with a run axis can hold.
_NUMBERS = {
    "seed",
    "data_seed",
    "noise",
    "lambda_",
    "target_sparsity",
    "lr",
    "lr_schedule",
    "lr_warmup",
    "lr_milestones",
    "lr_gamma",
    "lr_cycle_length",
    "lr_cycle_mult",
    "lr_cycle_mode",
    "lr_min",
    "lr_patience",
    "epochs",
    "stop_at",
    "patience",
    "pretrained",
    "regularizer",
    "optimize",
}
# Numbers of which it must be equal whether they are there.
_PRESENT = ("weight_decay", "momentum", "grad_clip", "ema", "dropout")
# Kinds of regularizers that act in the forward pass, of which batched networks compute Jumpstart alone.
_IN_FORWARD = ("activations", "gates")


def obstacle(config: RunConfig) -> str | None:
    """Why a run can only be trained by itself; None where it can be part of a program."""
    for option, wanted in (("compile", False), ("amp", "no"), ("accumulate", 1), ("log_speed", False)):
        if getattr(config, option) != wanted:
            instead = " (use --no-log-speed)" if option == "log_speed" else ""
            return f"--{option.replace('_', '-')}{instead}"
    if config.plot_status:
        return "--plot-status"
    if config.pretrained and identity.is_compact(config.pretrained):
        return "a compact network (--from, --pretrained)"
    if config.devices.startswith("cpu:") or (config.devices.isdigit() and int(config.devices) > 1):
        return f"--devices {config.devices}"
    found = _by_hand_obstacle(config) if is_by_hand(config) else _modules_obstacle(config)
    if found:
        return found
    names = [penalty.name for penalty in config.penalties()]
    for name in names:
        if name != "jumpstart" and REGULARIZERS[name].facts["kind"] in _IN_FORWARD:
            return f"regularizer {name}"
    if names.count("jumpstart") > 1:
        return "several jumpstart regularizers"
    for penalty in config.penalties():
        if penalty.name == "jumpstart" and penalty.options.get("tie_breaking") == "random":
            return "--tie-breaking random"
        if penalty.name == "jumpstart" and penalty.options.get("hook_at", config.hook_at) != config.hook_at:
            return "jumpstart and status hooked at different places"
    return None


def is_by_hand(config: RunConfig) -> bool:
    """Whether the network is a dense rectangular one, which has code of its own; others go through `modules`."""
    return isinstance(config, RectangularConfig) and not _is_images(config.dataset)


def _by_hand_obstacle(config: RunConfig) -> str | None:
    assert isinstance(config, RectangularConfig)
    # What a --regularizer says of itself goes before the options of the run.
    skips = [p.options["skip_batchnorm"] for p in config.penalties() if p.name == "jumpstart"]
    if config.hook_at == "layer" and config.batchnorm and not all([config.skip_batchnorm, *skips]):
        return "--hook-at layer with --no-skip-batchnorm"
    return None


def _modules_obstacle(config: RunConfig) -> str | None:
    name = config.model_name()
    if ":" in name:
        return f"{name} is a model of another library"
    if config.model_options().get("dropout"):
        return f"dropout in {name}"
    for option in ("mixup", "cutmix"):
        if getattr(config, option):
            return f"--{option}"
    if _is_images(config.dataset):
        if config.corrupt == "skip":
            return "--corrupt skip"
        if _may_stream(config):
            return "images that may be streamed from their files (use --stream no)"
    for penalty in config.penalties():
        if penalty.name != "jumpstart":
            continue
        if penalty.options.get("tie_breaking") == "average" and _is_images(config.dataset):
            return "--tie-breaking average of images"
        if penalty.options.get("unit_dim", 1) != 1:
            return "jumpstart(unit_dim=...)"
    return None


def _may_stream(config: RunConfig) -> bool:
    """Whether images might stay in their files, as far as is known without looking for them."""
    if config.stream != "auto":
        return config.stream == "yes"
    if config.dataset not in DATASETS:
        return True
    return DATASETS[config.dataset].facts["rows"] * _features(config) > STREAM_BYTES


def pays(config: RunConfig) -> bool:
    """Whether runs are faster as a program than one by one, by what was measured on one core.

    Dense rectangular networks are (by far), and narrow convolutional ones on small images (1.3 to 2 times). Others are
    not: LeNets, ResNets and wide ResNets take as long or 1.4 times as long, as their matrix products are large enough
    for a core, and grouped convolutions slower than plain ones.
    """
    if is_by_hand(config):
        return True
    return isinstance(config, RectangularConfig) and config.width <= NARROW and _features(config) <= SMALL_IMAGE


def native_obstacle(config: RunConfig) -> str | None:
    """Why the native engine cannot train a run on any machine; None where it can."""
    found = obstacle(config)
    if found:
        return found
    if not isinstance(config, RectangularConfig):
        return f"{config.model_name()} is no rectangular network"
    if _is_images(config.dataset):
        return f"{config.dataset} has images"
    if config.width > NATIVE_WIDTH:
        return f"width {config.width} is more than {NATIVE_WIDTH}"
    if config.activation not in native.ACTIVATIONS:
        return f"--activation {config.activation}"
    if config.devices != "cpu" and config.devices != "auto":
        return f"--devices {config.devices}"
    for option in ("batchnorm", "skip_connections", "dropout", "ema", "label_smoothing", "fast_dev_run"):
        if getattr(config, option):
            return f"--{option.replace('_', '-')}"
    if config.lr_update == "step":
        return "--lr-update step"
    if config.hook_at != "activation":
        return "--hook-at layer"
    for penalty in config.penalties():
        if penalty.name != "jumpstart":
            return f"regularizer {penalty.name}"
        if penalty.options.get("aggr", "balanced") != "balanced":
            return f"--aggr {penalty.options['aggr']}"
        if penalty.options.get("tie_breaking", "single") != "single":
            return f"--tie-breaking {penalty.options['tie_breaking']}"
    return None


def likeness(config: RunConfig) -> str:
    """Two runs with the same text can be one program, where their data turn out to have the same shape."""
    options = [item for item in options_of(type(config)) if item.identity or item.name in ("engine", "devices")]
    kept: dict[str, Any] = {item.name: getattr(config, item.name) for item in options if item.panel != REGULARIZER}
    kept = {name: value for name, value in kept.items() if name not in _NUMBERS}
    kept |= {name: bool(kept[name]) for name in _PRESENT if name in kept}
    if config.dataset in DATASETS and DATASETS[config.dataset].facts["kind"] == "toy":
        kept["dataset"] = "toy"
    if not isinstance(config, RectangularConfig):  # whose own defaults are those of its model
        kept = {name: value for name, value in kept.items() if name not in own_options(config)}
        kept["model"] = (config.model_name(), config.model_options())
    penalties = config.penalties()
    if not config.log_status:  # then one without strength does not even measure
        penalties = [p for p in penalties if p.name != "jumpstart" or p.strength.peak > 0]
    kept["penalties"] = [(p.name, p.options, bool(p.strength.clip)) for p in penalties]
    kept |= {"hook_at": config.hook_at, "skip_last": config.skip_last, "task_loss": config.task_loss}
    kept |= {"skip_batchnorm": config.skip_batchnorm, "experiment": config.experiment}
    return json.dumps(kept, sort_keys=True, default=str)


def most_runs(config: RunConfig) -> int:
    """How many such runs one program should hold, by what is fast, and as many as fit into memory, roughly."""
    rows = _rows(config) or 10_000
    batch = rows if config.batch_size == "full" else min(int(config.batch_size), rows)
    # Pre-activations, activations and gradients of a batch; those of a validation pass; the data.
    features = _features(config)
    layers = config.width * config.depth if isinstance(config, RectangularConfig) else 50
    if is_by_hand(config):
        most, numbers = MOST, layers * (4 * batch + 2 * min(rows // 4, 8192)) + 2 * rows * features
    else:  # every layer keeps some numbers for each of the input, and images are bytes
        most, numbers = MOST_MODULES, 6 * layers * features * batch + rows * features // 4
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (os.cpu_count() or 1)
    return max(1, min(most, int(MEMORY_SHARE * memory / (4 * numbers))))


def seconds(config: RunConfig, engine: str) -> float | None:
    """Roughly how long a run takes on a core; None where its data's size is not known, or for other models.

    Of the multiplications of a step, and of what was measured of small and of large networks on one core.
    """
    rows = _rows(config)
    if not isinstance(config, RectangularConfig) or rows is None or _is_images(config.dataset):
        return None
    batch = rows if config.batch_size == "full" else min(int(config.batch_size), rows)
    steps = -(-rows // batch)
    weights = _features(config) * config.width + (config.depth - 1) * config.width**2 + 2 * config.width
    values = config.depth * config.width
    # Seconds of an operation without any data, of one multiply-add, and of one activation.
    overhead, per_product, per_value = {
        "single": (60e-6 * config.depth + 1e-3, 1e-10, 4e-9),
        "vectorised": (3e-6 * config.depth, 1e-10, 8e-9),
        "native": (1e-7 * config.depth, 5e-11, 1.5e-9),
    }[engine]
    per_epoch = steps * (overhead + batch * (3 * weights * per_product + values * per_value)) * 1.3
    return config.epochs * per_epoch + (3.0 if config.plots else 0.15)  # its files and figures


def _is_images(dataset: str) -> bool:
    if dataset in DATASETS:
        facts = DATASETS[dataset].facts
        return facts["kind"] == "image" or "shape" in facts
    return not dataset.startswith("uci:") and not dataset.lower().endswith(SUFFIXES)


def _rows(config: RunConfig) -> int | None:
    """Rows to train on, as far as the registry knows."""
    if config.dataset not in DATASETS:
        return None
    facts = DATASETS[config.dataset].facts
    rows = config.n_samples if facts["kind"] == "toy" else facts.get("rows")
    if rows is None:
        return None
    rows = min(rows, config.subset or rows)
    return max(
        1, round(rows * (1 - sum(0.2 if size is None else size for size in (config.val_size, config.test_size))))
    )


def _features(config: RunConfig) -> int:
    if _is_images(config.dataset) and (config.image_size or config.dataset not in DATASETS):
        return 3 * (config.image_size or 224) ** 2
    return DATASETS[config.dataset].facts.get("features") or 100 if config.dataset in DATASETS else 100
