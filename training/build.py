"""From a configuration to everything that a run consists of, on its device."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from regx.data import create as create_data
from regx.data.module import DataModule
from regx.errors import UserError
from regx.models import create as create_model
from regx.regularizers import REGISTRY as REGULARIZERS
from regx.regularizers import Jumpstart, Preactivations, Regularizer
from regx.training.config import RunConfig
from regx.training.loop import Trainer
from regx.training.options import options_of
from regx.training.penalty import Penalty

# Below this many parameters an operation is all overhead, and a second CPU thread only adds to it.
SMALL_NETWORK = 200_000


@dataclass
class Experiment:
    """Everything that a run consists of, built and on its device."""

    config: RunConfig
    data: DataModule
    model: nn.Module
    trainer: Trainer
    device: torch.device

    def describe(self) -> list[str]:
        """What is about to be trained, and what the penalties reach, a line each."""
        data, config = self.data, self.config
        sizes = f"{len(data.train)} train / {len(data.val)} val / {len(data.test) if data.test else 0} test rows"
        kind = f"{len(data.classes)} classes" if data.classes else f"{data.output_size} target(s)"
        count = sum(p.numel() for p in self.model.parameters())
        lines = [
            f"{data.name}: {sizes}, {'x'.join(map(str, data.input_shape))} inputs, {kind}",
            f"{config.experiment} {config.shape()}: {count:,} parameters on {self.device}",
        ]
        for penalty in self.trainer.penalties:
            lines.append(f"{penalty.describe()}: {penalty.regularizer.coverage()}")
            rows = penalty.regularizer.coverage().folded()
            if len(rows) > 1:
                width = max(len(row[0]) for row in rows)
                lines += [f"    {layers:{width}}  {', '.join(counts)}" for layers, *counts in rows]
        return lines + list(data.notes)

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


def build(config: RunConfig) -> Experiment:
    """Seeds, then builds data, model, penalties and trainer.

    Raises:
        UserError: the configuration asks for what cannot be.
        RunFailed: the data cannot be had.
    """
    device = find_device(config.devices)
    seed_everything(config)
    data = create_data(
        config.dataset,
        seed=config.seed if config.data_seed is None else config.data_seed,
        **{
            key: getattr(config, key)
            for key in (
                "n_samples",
                "noise",
                "val_size",
                "test_size",
                "standardize",
                "protocol",
                "data_dir",
                "target",
                "task",
                "subset",
            )
        },
    ).to(device)
    if config.batchnorm and _last_batch(config, data) == 1:  # type: ignore[attr-defined]
        raise UserError(
            f"{config.batch_size} leaves a last batch of one row ({len(data.train)} rows), which BatchNorm cannot use; "
            f"try --batch-size {int(config.batch_size) + 1}",
            "batch_size",
        )
    _refuse_idle(config, data)
    torch.manual_seed(config.seed)
    model = create_model(
        config.experiment,
        input_shape=data.input_shape,
        output_size=data.output_size,
        **config.model_options(),  # type: ignore[attr-defined]
    ).to(device)
    if config.threads != "auto":
        torch.set_num_threads(int(config.threads))
    elif device.type == "cpu" and sum(p.numel() for p in model.parameters()) < SMALL_NETWORK:
        torch.set_num_threads(1)
    penalties = _penalties(config, model)
    trainer = Trainer(config, data, model, penalties, _preactivations(config, model, penalties))
    return Experiment(config, data, model, trainer, device)


def _penalties(config: RunConfig, model: nn.Module) -> list[Penalty]:
    """The regularizers of the configuration, attached to the model."""
    penalties: list[Penalty] = []
    for number, item in enumerate(config.penalties(), start=1):
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
        _refuse_double_gates(item.text, regularizer, penalties)
        label = "JR_loss" if item.name == "jumpstart" else f"{item.name}_loss"
        if any(penalty.label == label for penalty in penalties):
            label = f"{label}_{number}"
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
    of_images = ("kernel_size", "head", "n_maxpool", "maxpool_mode")
    for item in options_of(type(config)):
        if item.name in of_images and getattr(config, item.name) != item.default:
            inputs = f"the inputs of {data.name} are {data.input_shape[0]} numbers"
            raise UserError(f"is for images; {inputs}", item.name)


def _preactivations(config: RunConfig, model: nn.Module, penalties: list[Penalty]) -> Preactivations | None:
    """The hooks that status is read from: Jumpstart's own where there is one, so that nothing is reduced twice."""
    if not config.log_status:
        return None
    for penalty in penalties:
        if isinstance(penalty.regularizer, Jumpstart):
            return penalty.regularizer.preactivations
    return Preactivations(
        model,
        hook_at=config.hook_at,  # type: ignore[arg-type]
        skip_last=config.skip_last,
        skip_batchnorm=config.skip_batchnorm,
    )


def _last_batch(config: RunConfig, data: DataModule) -> int:
    rows = len(data.train)
    return rows if config.batch_size == "full" else rows % int(config.batch_size) or int(config.batch_size)


def find_device(devices: str) -> torch.device:
    """The device that `--devices` names.

    Raises:
        UserError: it is not there, or is several where one can be used.
    """
    count = torch.cuda.device_count()
    if devices in ("cpu", "0") or (devices == "auto" and not count):
        return torch.device("cpu")
    if devices.isdigit() and int(devices) > 1:
        raise UserError(f"{devices} GPUs: this experiment trains on one device; use cuda:N to choose it", "devices")
    index = int(devices.partition(":")[2] or 0)
    if index >= count:
        there = (
            f"this machine has {count} CUDA device(s)"
            if count
            else "this machine has no CUDA device that PyTorch can use"
        )
        raise UserError(f"{devices!r} asks for a GPU, but {there}; use --devices cpu", "devices")
    return torch.device("cuda", index)


def seed_everything(config: RunConfig) -> None:
    """Seeds before anything is built, so that the seed decides the initial weights too."""
    torch.manual_seed(config.seed)
    if config.deterministic != torch.are_deterministic_algorithms_enabled():  # the call alone takes a second
        torch.use_deterministic_algorithms(config.deterministic)
    if config.deterministic:
        # cuBLAS reads this when CUDA starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
