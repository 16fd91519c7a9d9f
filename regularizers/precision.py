"""Half precision: sums and norms over many numbers are taken in float32."""

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def widened(x: Tensor) -> Tensor:
    """Half precision as float32; anything else as it is."""
    return x.float() if x.dtype in HALF else x
