"""Initial weights: one function for all layers of a model, one for a single tensor."""

import math

import torch
from torch import Tensor, nn


def initialize(model: nn.Module, init: str, *, gain: float, head: nn.Module) -> None:
    """Draws the weights of all linear and convolutional layers of `model` anew and sets their biases to 0.

    Args:
        model: any module.
        init: an argument of `fill`, or `pytorch`, which leaves everything as PyTorch draws it. `torchvision` leaves the
            head as PyTorch draws it.
        gain: of the weights, by the activation that follows them.
        head: the output layer, which no activation follows: its gain is 1.
    """
    if init == "pytorch":
        return
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d) or (init == "torchvision" and module is head):
            continue
        fill(module.weight, init, 1.0 if module is head else gain)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def fill(weight: Tensor, init: str, gain: float) -> None:
    """Draws one weight, (out, in) or (out, in, k, k), in place.

    Args:
        weight: the tensor.
        init: `kaiming`: He normal, fan in; `torchvision`: He normal, fan out, with ReLU's gain, as torchvision's
            ResNets; `xavier`: Glorot uniform without gain; `orthogonal`: orthonormal rows or, where there are more rows
            than columns, columns; `delta_orthogonal`: the same for the middle of each kernel, 0 around it (Xiao et al.,
            ICML 2018, arXiv:1806.05393); `zero`.
        gain: factor of `kaiming`, `orthogonal` and `delta_orthogonal`.
    """
    if init == "kaiming":
        nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))
    elif init == "torchvision":
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    elif init == "xavier":
        nn.init.xavier_uniform_(weight)
    elif init == "orthogonal" or (init == "delta_orthogonal" and weight.dim() == 2):
        nn.init.orthogonal_(weight, gain)
    elif init == "delta_orthogonal":
        middle = weight.new_empty(weight.shape[:2])
        nn.init.orthogonal_(middle, gain)
        nn.init.zeros_(weight)
        with torch.no_grad():
            weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = middle
    elif init == "zero":
        nn.init.zeros_(weight)
    else:
        raise ValueError(f"no initialization is called {init!r}")
