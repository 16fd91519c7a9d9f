"""The task that all peers learn, and Jumpstart as one writes it at first."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regx.data import create
from regx.data.module import DataModule
from regx.models import Rectangular

LR, STRENGTH, BATCH = 1e-3, 0.01, 256
KINDS = tuple((sign, axis) for sign in ("positive", "negative") for axis in ("unit", "point"))  # of constraints


@dataclass(frozen=True)
class Task:
    """A binary classification by a deep dense network.

    Attributes:
        data: rows to learn from, in float32 on the device.
        depth: hidden layers of the network.
        width: their units.
        dtype: precision of weights and inputs.
    """

    data: DataModule
    depth: int
    width: int
    dtype: torch.dtype = torch.float32

    @property
    def device(self) -> torch.device:
        """Where it is learned."""
        return self.data.train.y.device

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.data.train)

    @property
    def steps(self) -> int:
        """Steps of an epoch; the last one may have a smaller batch."""
        return -(-self.rows // BATCH)

    def train(self) -> tuple[Tensor, Tensor]:
        """Inputs (n, F) and labels (n,) to train on."""
        return self.data.train.x.to(self.dtype), self.data.train.y.to(self.dtype)

    def val(self) -> tuple[Tensor, Tensor]:
        """Inputs (n, F) and labels (n,) to validate on."""
        return self.data.val.x.to(self.dtype), self.data.val.y.to(self.dtype)

    def model(self, seed: int) -> nn.Module:
        """The network with the weights of a seed, as a run of regx begins with them."""
        torch.manual_seed(seed)
        model = Rectangular(self.data.input_shape, self.data.output_size, depth=self.depth, width=self.width)
        return model.to(self.device, self.dtype)

    def orders(self, seeds: Iterable[int]) -> Tensor:
        """Row numbers in the order of the first epoch of each seed, as regx draws them, (R, n)."""
        orders = [torch.randperm(self.rows, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(orders).to(self.device)


@dataclass(frozen=True)
class Setting:
    """A task in words, for another process to make.

    Attributes:
        dataset: a binary one of regx.
        depth, width: of the network.
        device: where it is learned.
        rows: of two moons, a quarter of them to validate.
    """

    dataset: str
    depth: int
    width: int
    device: str = "cpu"
    rows: int = 1000

    def task(self) -> Task:
        """Makes it."""
        size = {"n_samples": self.rows} if self.dataset == "moons" else {}
        data = create(self.dataset, seed=0, val_size=0.25, test_size=0.0, **size)
        return Task(data.to(self.device), self.depth, self.width)


def now(device: torch.device) -> float:
    """Seconds of a clock: processor time, which other work on the machine disturbs little; real time of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def task_loss(output: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, 1) and labels (N,)."""
    return F.binary_cross_entropy_with_logits(output.squeeze(-1), y)


def hits(output: Tensor, y: Tensor) -> Tensor:
    """How many of the logits (N, 1) tell the labels (N,)."""
    return ((output.squeeze(-1) > 0) == (y > 0)).sum()


class HookedJumpstart:
    """Balanced Jumpstart by a hook per hidden layer, which keeps the layer's constraints in lists.

    Args:
        model: a network of `nn.Linear` layers, the last of which is left out.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parts: dict[tuple[str, str], list[Tensor]] = {}
        model.register_forward_pre_hook(self._forget)
        for layer in [module for module in model.modules() if isinstance(module, nn.Linear)][:-1]:
            layer.register_forward_hook(self._keep)

    def _forget(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.parts = {kind: [] for kind in KINDS}

    def _keep(self, module: nn.Module, args: tuple[Tensor, ...], a: Tensor) -> None:
        for axis, dim in (("unit", 0), ("point", 1)):
            self.parts["positive", axis].append(F.relu(1 - a.max(dim).values))
            self.parts["negative", axis].append(F.relu(1 + a.min(dim).values))

    @property
    def loss(self) -> Tensor:
        """Penalty of the last forward pass, 0-d."""
        means = [torch.cat(parts).mean() for parts in self.parts.values()]
        return 0.5 * torch.stack(means).sum()
