"""From a configuration to everything that a run consists of, on its device."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regx.compaction.recipe import apply as apply_recipe
from regx.data import create as create_data
from regx.data.module import DataModule
from regx.errors import UserError
from regx.models import create as create_model
from regx.models import pretrained
from regx.regularizers import REGISTRY as REGULARIZERS
from regx.regularizers import Jumpstart, Preactivations, Regularizer
from regx.regularizers.preactivations import ACTIVATIONS
from regx.training import identity, penalty_config
from regx.training.config import RunConfig
from regx.training.distributed import World, from_environment
from regx.training.experiments import RectangularConfig
from regx.training.loop import Trainer
from regx.training.options import options_of
from regx.training.penalty import Penalty

# Below this many parameters an operation is all overhead, and a second CPU thread only adds to it.
SMALL_NETWORK = 200_000
# Options of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
# Lines about a penalty's layers that a person still reads.
SHOWN_LAYERS = 12


@dataclass
class Experiment:
    """Everything that a run consists of, built and on its device."""

    config: RunConfig
    data: DataModule
    model: nn.Module
    trainer: Trainer
    device: torch.device
    notes: tuple[str, ...] = ()
    recipe: list[dict[str, Any]] = field(default_factory=list)  # what was removed from the configuration's network

    def describe(self) -> list[str]:
        """What is about to be trained, and what the penalties reach, a line each."""
        data, config = self.data, self.config
        what = "images" if data.images else "rows"
        sizes = f"{len(data.train)} train / {len(data.val)} val / {len(data.test) if data.test else 0} test {what}"
        kind = f"{len(data.classes)} classes" if data.classes else f"{data.output_size} target(s)"
        count = sum(p.numel() for p in self.model.parameters())
        size = self.trainer.world.size
        where = f"{size} processes on {self.device.type}" if size > 1 else str(self.device)
        lines = [
            f"{data.name}: {sizes}, {'x'.join(map(str, data.input_shape))} inputs, {kind}",
            f"{config.experiment} {config.shape()}: {count:,} parameters on {where}",
        ]
        for penalty in self.trainer.penalties:
            lines.append(f"{penalty.describe()}: {penalty.regularizer.coverage()}")
            rows = penalty.regularizer.coverage().folded()
            if 1 < len(rows) <= SHOWN_LAYERS:  # coverage.csv has them all
                width = max(len(row[0]) for row in rows)
                lines += [f"    {layers:{width}}  {', '.join(counts)}" for layers, *counts in rows]
        return [*lines, *data.notes, *self.notes]

    def coverage(self) -> list[dict[str, Any]]:
        """What every penalty reaches, one row per penalty and layer."""
        rows = []
        for penalty in self.trainer.penalties:
            found = penalty.regularizer.coverage()
            for i, layer in enumerate(found.layers):
                counts = {"groups": found.groups, "parameters": found.parameters}
                row = {"penalty": penalty.name, "layer": layer, "unit": found.unit}
                rows.append(row | {key: of[i] if of else "" for key, of in counts.items()})
        return rows


# Options of `regx.data.create` that a run passes on.


def build(
    config: RunConfig,
    device: torch.device | None = None,
    world: World | None = None,
    *,
    resumes: bool = False,
    recipe: list[dict[str, Any]] | None = None,
) -> Experiment:
    """Seeds, then builds data, model, penalties and trainer.

    Args:
        config: what to train.
        device: where this process trains; by default what `find_device` finds.
        world: the processes that train together.
        resumes: whether a checkpoint is about to be loaded, so that no other weights are needed.
        recipe: what to remove from the network before weights are loaded into it; by default what was removed from the
            one that it begins with, or, where it resumes, nothing.

    Raises:
        UserError: the configuration asks for what cannot be.
        RunFailed: the data cannot be had.
    """
    world = world or World()
    device = device or find_device(config.devices)
    seed_everything(config)
    with world.one_after_the_other():
        data = create_data(config.dataset, **config.data_options()).to(device)
    _refuse_idle(config, data)
    torch.manual_seed(config.seed)
    model = _model(config, data)
    notes: list[str] = []
    path, digest = identity.unmarked(config.pretrained or "")
    begins: dict[str, Any] = {}
    if config.pretrained:
        if digest and not resumes and Path(path).is_file() and identity.unmarked(identity.marked(path))[1] != digest:
            raise UserError(f"{path} is no longer what it was when this run was configured", "pretrained")
        if recipe is None and not resumes:
            begins = pretrained.beside(path)
            recipe = begins.get("recipe")
    apply_recipe(model, recipe or [])
    model = model.to(device)
    _check_batches(config, data, world, model)
    if config.pretrained and not resumes:
        with world.one_after_the_other():
            notes = pretrained.load(model, path, name=config.model_name())
    if device.type == "cpu" and data.images:
        keep_memory()
    if config.channels_last and data.images:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.threads != "auto":
        torch.set_num_threads(int(config.threads))
    elif device.type == "cpu" and sum(p.numel() for p in model.parameters()) < SMALL_NETWORK:
        torch.set_num_threads(1)
    penalties = _penalties(config, model)
    if config.batch_size != "full" and data.images and int(config.batch_size) > len(data.train):
        notes.append(f"a batch of {config.batch_size} is more than there are: every epoch is one step")
    if config.log_status and not _can_be_hooked(model, config):
        notes.append("no unit and point status: the network has no activation modules to hook; --hook-at layer may do")
    trainer = Trainer(config, data, model, penalties, _preactivations(config, model, penalties), world)
    if "moments" in begins:
        notes.append(_take_over(begins["moments"], trainer))
    if world.rank:
        torch.manual_seed(config.seed + world.rank)  # dropout: other processes, other masks
    return Experiment(config, data, model, trainer, device, tuple(notes), recipe or [])


def _take_over(moments: dict[str, Any], trainer: Trainer) -> str:
    """Gives the optimiser the moments that a network was trained with before; says whether it can."""
    before, now = moments["optimizer"], trainer.config.optimizer
    if before != now:
        return f"the moments of {before} are left: this run has --optimizer {now}"
    parameters = dict(trainer.model.named_parameters())
    fitting = {
        name: state
        for name, state in moments["of"].items()
        if name in parameters and all(x.shape in ((), parameters[name].shape) for x in state.values())
    }
    for name, state in fitting.items():
        parameter = parameters[name]
        trainer.stepper.optimizer.state[parameter] = {
            key: x.to(parameter.device) if x.dim() else x.clone() for key, x in state.items()
        }
    return f"{now} goes on with its moments of {len(fitting)} of {len(parameters)} parameters"


def _model(config: RunConfig, data: DataModule) -> nn.Module:
    name = config.model_name()
    try:
        return create_model(name, input_shape=data.input_shape, output_size=data.output_size, **config.model_options())
    except UserError as error:
        if error.option == "input_shape":  # which nobody typed
            raise UserError(f"{data.name} is not for {name}: {error.message}", "dataset") from None
        if error.option not in {option.name for option in options_of(type(config))}:  # typed within --model
            raise UserError(f"{name}: {error}", "model") from None
        raise


def _penalties(config: RunConfig, model: nn.Module) -> list[Penalty]:
    """The regularizers of the configuration, attached to the model."""
    penalties: list[Penalty] = []
    wanted = config.penalties()
    for label, item in zip(penalty_config.labels(wanted), wanted, strict=True):
        measured = item.name == "jumpstart" and item.strength.peak == 0
        if measured and not (config.log_status and _can_be_hooked(model, config)):
            continue  # its hooks would cost time for nothing
        try:
            regularizer = REGULARIZERS[item.name].load()(model, **item.options)
            for strength in (item.strength.peak, item.strength.base):  # refused now, not in some later epoch
                regularizer.strength = strength
        except UserError as error:
            if error.option in {option.name for option in options_of(type(config))} - {"config"}:
                raise
            raise UserError(f"{item.text!r}: {error}", "regularizer") from None
        if item.strength.target_sparsity is not None and regularizer.zero_share() is None:
            raise UserError(
                f"{item.name} makes exact zeros with --optimize prox (or prox=true) only", "target_sparsity"
            )
        if item.strength.clip is not None and (item.options.get("prox") or not regularizer.has_loss):
            raise UserError(
                f"there is no loss of {item.name} in the training loss that could be clipped", "lambda_clip"
            )
        if measured:
            regularizer.preactivations.differentiable = False
        _refuse_double_gates(item.text, regularizer, penalties)
        penalties.append(Penalty(regularizer, item.strength, item.name, label, config.epochs))
    return penalties


def _refuse_double_gates(text: str, regularizer: Regularizer, others: list[Penalty]) -> None:
    gated = {layer for p in others if list(p.regularizer.parameters()) for layer in p.regularizer.coverage().layers}
    twice = gated.intersection(regularizer.coverage().layers) if list(regularizer.parameters()) else ()
    if twice:
        raise UserError(f"{text!r}: {min(twice)!r} has gates already; choose layers with include", "regularizer")


def _refuse_idle(config: RunConfig, data: DataModule) -> None:
    """Refuses options of images for data that is none, so that nobody believes they had an effect."""
    if len(data.input_shape) != 1:
        return
    of_images = ("kernel_size", "head", "n_maxpool", "maxpool_mode") if isinstance(config, RectangularConfig) else ()
    for item in options_of(type(config)):
        if item.name in of_images and getattr(config, item.name) != item.default:
            inputs = f"the inputs of {data.name} are {data.input_shape[0]} numbers"
            raise UserError(f"is for images; {inputs}", item.name)


def _can_be_hooked(model: nn.Module, config: RunConfig) -> bool:
    """Whether the model has modules whose pre-activations can be read; functions cannot be hooked."""
    return config.hook_at == "layer" or any(isinstance(module, ACTIVATIONS) for module in model.modules())


def _preactivations(config: RunConfig, model: nn.Module, penalties: list[Penalty]) -> Preactivations | None:
    """The hooks that status is read from: Jumpstart's own where there is one, so that nothing is reduced twice."""
    if not (config.log_status and _can_be_hooked(model, config)):
        return None
    for penalty in penalties:
        if isinstance(penalty.regularizer, Jumpstart):
            return penalty.regularizer.preactivations
    return Preactivations(
        model,
        hook_at=config.hook_at,  # type: ignore[arg-type]
        skip_last=config.skip_last,
        skip_batchnorm=config.skip_batchnorm,
        differentiable=False,
    )


def _check_batches(config: RunConfig, data: DataModule, world: World, model: nn.Module) -> None:
    """Refuses batches that cannot be trained on."""
    if len(data.val) < world.size:
        raise UserError(f"{len(data.val)} rows validate, which are fewer than the {world.size} processes", "val_size")
    rows, batch = len(data.train), config.batch_size
    parts = world.size * config.accumulate
    if batch == "full":
        sizes = [rows]
    else:
        default = next(item.default for item in options_of(type(config)) if item.name == "batch_size")
        if data.images and int(batch) > rows and batch != default:
            raise UserError(
                f"{batch} is more than the {rows} images to train on; use at most that, or full", "batch_size"
            )
        sizes = [min(int(batch), rows)] + ([rows % int(batch)] if rows % int(batch) and not config.drop_last else [])
    smallest = min(sizes)
    if smallest < parts:
        raise UserError(
            f"{batch} leaves a batch of {smallest} of {rows} rows for {parts} parts (processes x --accumulate); "
            "use another, or --drop-last",
            "batch_size",
        )
    normalized = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if normalized and smallest // parts == 1:
        raise UserError(
            f"{batch} leaves a batch of one row ({rows} rows, {parts} part(s)), which BatchNorm cannot use; "
            f"use another, or --drop-last",
            "batch_size",
        )
    if (config.mixup or config.cutmix) and not (data.images and data.task == "multiclass"):
        raise UserError(f"is for images of several classes, not {data.name}", "mixup" if config.mixup else "cutmix")


def find_device(devices: str) -> torch.device:
    """The device of this process among those that `--devices` names.

    Raises:
        UserError: it is not there.
    """
    count = torch.cuda.device_count()
    world = from_environment()
    if (devices in ("0", "auto") and not count) or devices == "0" or devices.startswith("cpu"):
        return torch.device("cpu")
    several = devices.isdigit() and int(devices) > 1
    index = world.local_rank if world.size > 1 or several else int(devices.partition(":")[2] or 0)
    needed = int(devices) if several and world.size == 1 else index + 1
    if needed > count:
        there = (
            f"this machine has {count} CUDA device(s)"
            if count
            else "this machine has no CUDA device that PyTorch can use"
        )
        instead = f"cpu:{needed}" if needed > 1 else "cpu"
        raise UserError(f"{devices!r} asks for a GPU, but {there}; use --devices {instead}", "devices")
    return torch.device("cuda", index)


def keep_memory() -> None:
    """Lets glibc keep the memory that a step frees for the next one.

    It gives it back to the system otherwise, which hands out the same pages anew, zeroed: some 10,000 in a step of a
    ResNet-18, 3 % of its time. Elsewhere than on glibc this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, size in ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 256 << 20)):
            mallopt(option, size)


def seed_everything(config: RunConfig) -> None:
    """Seeds before anything is built, so that the seed decides the initial weights too."""
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision(config.matmul)
    torch.backends.cudnn.benchmark = not config.deterministic
    if config.deterministic != torch.are_deterministic_algorithms_enabled():  # the call alone takes a second
        torch.use_deterministic_algorithms(config.deterministic)
    if config.deterministic:
        # cuBLAS reads this when CUDA starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
