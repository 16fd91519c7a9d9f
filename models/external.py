"""Classifiers of other libraries: `torchvision:NAME` and `timm:NAME`, with weights drawn anew."""

import importlib
from typing import Any

import torch
from torch import nn

from regx.errors import UserError, did_you_mean
from regx.models.base import check_images

# They would return several outputs in training, and warn that they draw their weights.
AUXILIARY = ("googlenet", "inception_v3")


def build(name: str, input_shape: tuple[int, ...], output_size: int) -> nn.Module:
    """Builds a classifier of torchvision or of timm, without auxiliary outputs.

    Args:
        name: `torchvision:NAME` or `timm:NAME`.
        input_shape: shape of one sample, (3, H, W); timm's models take any number of channels.
        output_size: number of classes.

    Raises:
        UserError: there is no such library or model, or it does not take such images.
    """
    check_images(input_shape)
    if output_size < 1:
        raise UserError(f"{output_size} is out of bounds; use at least 1", "output_size")
    library, _, own_name = name.partition(":")
    make = _torchvision if library == "torchvision" else _timm
    model = make(own_name, input_shape, output_size)
    _try(model, name, input_shape)
    return model


def _torchvision(name: str, input_shape: tuple[int, ...], output_size: int) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        others = torchvision.models.list_models()
        if name in others:
            raise UserError(f"torchvision's {name} is no classifier of images; only those are trained", "model")
        raise UserError(f"torchvision has no classifier {name!r}{did_you_mean(name, known)}", "model")
    if input_shape[0] != 3:
        raise UserError(
            f"torchvision's {name} takes images of 3 channels, not {input_shape[0]}; use one of regx's own models",
            "model",
        )
    options: dict[str, Any] = {"aux_logits": False, "init_weights": True} if name in AUXILIARY else {}
    return torchvision.models.get_model(name, weights=None, num_classes=output_size, **options)


def _timm(name: str, input_shape: tuple[int, ...], output_size: int) -> nn.Module:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise UserError(f"timm:{name} needs timm, which cannot be imported; pip install timm", "model") from error
    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}{did_you_mean(name, timm.list_models())}", "model")
    return timm.create_model(name, pretrained=False, num_classes=output_size, in_chans=input_shape[0])


def _try(model: nn.Module, name: str, input_shape: tuple[int, ...]) -> None:
    """Refuses a model that does not take such images, by a forward pass of shapes without numbers."""
    shapes = {key: value.to("meta") for key, value in [*model.named_parameters(), *model.named_buffers()]}
    training = model.training
    try:
        torch.func.functional_call(model.eval(), shapes, (torch.empty(2, *input_shape, device="meta"),))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())
        height, width = input_shape[1:]
        raise UserError(f"{name} does not take images of {height} x {width} pixels: {reason}", "model") from error
    finally:
        model.train(training)
