"""What the image models and the plain network share: the activation option and checks of their sizes."""

from typing import ClassVar, Literal

from torch import nn

from regx.errors import UserError
from regx.models import REGISTRY


class Network(nn.Module):
    """A model for samples of one shape.

    Args:
        input_shape: shape of one sample.
        output_size: number of outputs.
        activation: activation function of the hidden layers; `identity` leaves them linear.

    Raises:
        UserError: an option is not legal.
    """

    registered_name: ClassVar[str]

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        *,
        activation: Literal[
            "relu", "gelu", "leaky_relu", "elu", "selu", "silu", "tanh", "sigmoid", "mish", "identity"
        ] = "relu",
    ) -> None:
        super().__init__()
        REGISTRY[self.registered_name].check({"activation": activation})
        if not input_shape or min(input_shape) < 1:
            raise UserError(f"{tuple(input_shape)} is no shape of a sample", "input_shape")
        if output_size < 1:
            raise UserError(f"{output_size} is out of bounds; use at least 1", "output_size")
        self.input_shape = tuple(input_shape)
        self.activation_name: str = activation


def check_images(input_shape: tuple[int, ...], least: int = 1) -> None:
    """Raises `UserError` unless the shape is (C, H, W) with sides of `least` pixels or more."""
    if len(input_shape) != 3:
        raise UserError(
            f"{tuple(input_shape)} is not (channels, height, width), but the model is for images only", "input_shape"
        )
    if min(input_shape[1:]) < least:
        raise UserError(
            f"images of {input_shape[1]} x {input_shape[2]} pixels are too small; use at least {least} x {least}",
            "input_shape",
        )


def widths(text: str, option: str, count: int | None = None) -> list[int]:
    """The numbers of `300,100`.

    Args:
        text: positive whole numbers, joined by commas.
        option: the option it comes from.
        count: how many there must be; None for one or more.

    Raises:
        UserError: it is something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts) or (count is not None and len(parts) != count):
        needed = "whole numbers above 0" if count is None else f"{count} whole numbers above 0"
        raise UserError(
            f"{text!r} is not {needed} joined by commas, like {'300,100' if count is None else '20,50'}", option
        )
    return [int(part) for part in parts]
