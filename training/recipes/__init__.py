"""Recipes: named sets of options of `regx resnet`, as somebody published them; a typed option wins over a recipe's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regx.registry import Info, Registry


@dataclass(frozen=True)
class Recipe:
    """A published way to train.

    Attributes:
        name: what a user types.
        summary: one line.
        source: where it was published.
        options: configuration keys and values.
        alias: another name that is understood.
    """

    name: str
    summary: str
    source: str
    options: dict[str, Any]
    alias: str = ""


RECIPES = (
    Recipe(
        "jumpstart-imagenet",
        "Plain ResNet-50 without batch normalization and skip connections, kept alive by Jumpstart",
        "blauigris/jumpstart, README; Riera Molina, Puertas, Pujol, IEEE Access 2025",
        {
            "depth": 50,
            "batchnorm": False,
            "skip_connections": False,
            "lambda": 1e-5,
            "optimizer": "sgd",
            "lr": 0.1,
            "weight_decay": 0.0,
            "lr_schedule": "constant",
            "lr_warmup": 0,
            "batch_size": 128,
            "epochs": 90,
            "dataset": "imagenet",
            "augment": ["resized_crop", "flip"],
        },
        alias="seed002",
    ),
    Recipe(
        "group-l1",
        "ResNet-18 on CIFAR-10 before any penalty: Adam, half the rate on a plateau, early stopping",
        "Mohamedsalem80/GroupL1",
        {
            "depth": 18,
            "stem": "32",
            "dataset": "cifar10",
            "augment": ["flip", "translate(share=0.1)", "rotate(degrees=14.4)"],
            "standardize": False,
            "optimizer": "adam",
            "lr": 1e-3,
            "weight_decay": 0.0,
            "lr_schedule": "plateau",
            "lr_update": "epoch",
            "lr_warmup": 0,
            "lr_gamma": 0.5,
            "lr_patience": 5,
            "lr_min": 1e-6,
            "patience": 15,
            "batch_size": 512,
            "epochs": 100,
            "log_sparsity": "yes",
        },
        alias="seed000",
    ),
    Recipe(
        "l0-gates",
        "GoogLeNet on CIFAR-10 with hard concrete gates on the outputs of its branches",
        "bobondemon/l0_regularization_practice",
        {
            "model": "googlenet",
            "dataset": "cifar10",
            "augment": ["flip", "resized_crop(low=0.8)"],
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 1e-4,
            "decay_norms": True,
            "lr_schedule": "multistep",
            "lr_update": "epoch",
            "lr_warmup": 0,
            "lr_milestones": "100,150",
            "lr_gamma": 0.1,
            "batch_size": 128,
            "drop_last": True,
            "epochs": 180,
            "regularizer": ["l0(include=blocks.*.output.conv,noise=sample)=0.5"],
        },
        alias="seed001",
    ),
    Recipe(
        "torchvision-v1",
        "torchvision's first ImageNet recipe: SGD, a tenth of the rate every 30 of 90 epochs",
        "pytorch/vision, references/classification; top-1 76.13 with ResNet-50",
        {
            "dataset": "imagenet",
            "augment": ["resized_crop", "flip"],
            "optimizer": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "decay_norms": True,
            "lr_schedule": "step",
            "lr_update": "epoch",
            "lr_warmup": 0,
            "lr_cycle_length": 30,
            "batch_size": 256,
            "epochs": 90,
        },
    ),
    Recipe(
        "rsb-a3",
        "ResNet strikes back, procedure A3: 160 pixels, 100 epochs; AdamW and cross-entropy, not LAMB and binary ones",
        "after Wightman, Touvron, Jégou 2021, arXiv:2110.00476, table 2, who report 78.1 top-1 with their losses",
        {
            "dataset": "imagenet",
            "image_size": 160,
            "augment": ["resized_crop", "flip", "trivial"],
            "mixup": 0.1,
            "cutmix": 1.0,
            "optimizer": "adamw",
            "lr": 0.003,
            "weight_decay": 0.02,
            "lr_schedule": "cosine",
            "lr_update": "step",
            "lr_warmup": 5,
            "lr_min": 1e-6,
            "batch_size": 2048,
            "epochs": 100,
        },
    ),
    Recipe(
        "cifar-fast",
        "A ResNet-18 on CIFAR-10 in few epochs: large batches, one cycle of the rate, label smoothing",
        "after Page 2018 (DAWNBench) and Jordan 2024, arXiv:2404.00498",
        {
            "depth": 18,
            "stem": "32",
            "dataset": "cifar10",
            "augment": ["flip", "crop(padding=4,mode=reflect)", "cutout(size=8)"],
            "optimizer": "sgd",
            "lr": 0.4,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,
            "label_smoothing": 0.1,
            "lr_schedule": "cosine",
            "lr_update": "step",
            "lr_warmup": 4,
            "batch_size": 512,
            "epochs": 24,
        },
    ),
)


def _typed(options: dict[str, Any]) -> str:
    """Options as they are typed, a line each."""
    lines = []
    for key, value in options.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            lines.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            lines += [f"--{flag} {item!r}" if "(" in str(item) else f"--{flag} {item}" for item in _listed(value)]
    return "\n".join(f"    {line}" for line in lines)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def rows() -> Iterable[Info]:
    """The registry's rows."""
    for recipe in RECIPES:
        text = f"{recipe.summary}.\n\n{_typed(recipe.options)}"
        yield Info(recipe.name, recipe.summary, f"{__name__}:RECIPES", (), text, recipe.source)


REGISTRY = Registry("recipe", Path(__file__).parent, __name__, more=rows)


def find(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        UserError: there is none, with the nearest name.
    """
    name = next((recipe.name for recipe in RECIPES if recipe.alias == name), name)
    known = REGISTRY[name].name
    return next(recipe for recipe in RECIPES if recipe.name == known)
