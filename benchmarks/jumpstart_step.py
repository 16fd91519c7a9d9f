"""What Jumpstart adds to a training step: `python benchmarks/jumpstart_step.py`.

Both sides of every ratio run in one process on one thread, step by step in turn, so that whatever slows the machine
slows both. Ratios of medians are printed, and beside them counts that do not depend on the machine: kernels dispatched
per step and bytes saved for the backward pass.

* Dense: 50 layers of 4 units, two moons, batch 256, fused Adam. The plain step beside that with `Jumpstart`, with the
  status of all units and points on top, and with an obvious Jumpstart that reduces layer after layer.
* Convolutional: 8 layers of 32 channels without normalisation and skip connections, images of 3 x 32 x 32, batch 32.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from regx.models import Rectangular
from regx.regularizers import Jumpstart
from regx.training.status import StatusTracker

# Neither views nor allocations: what is left is work.
_FREE = ("view", "t", "transpose", "expand", "unsqueeze", "squeeze", "select", "slice", "detach", "alias", "as_strided")
_FREE += ("unbind", "split", "split_with_sizes", "permute", "_unsafe_view", "_reshape_alias", "empty", "empty_like")
_FREE += ("empty_strided", "new_empty", "new_empty_strided")


class Kernels(TorchDispatchMode):
    """Counts the operators that reach the dispatcher within the context, views and allocations excluded."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ not in _FREE
        return func(*args, **(kwargs or {}))


def saved_bytes(step: Callable[[], object]) -> int:
    """Bytes of the distinct storages that one forward pass saves for its backward pass."""
    sizes: dict[int, int] = {}
    kept = []  # a freed storage's address could be given to the next one

    def pack(x: Tensor) -> Tensor:
        kept.append(x)
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        step()
    return sum(sizes.values())


class ObviousJumpstart:
    """Jumpstart as one writes it at first: four reductions and four constraints in the hook of every layer."""

    def __init__(self, model: nn.Module) -> None:
        self.parts: list[tuple[Tensor, Tensor]] = []
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_pre_hook(self._hook)

    def _hook(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        by_unit, by_point = x.transpose(0, 1).flatten(1), x.flatten(1)
        unit = 0.5 * F.relu(1 - by_unit.max(1)[0]) + 0.5 * F.relu(1 + by_unit.min(1)[0])
        point = 0.5 * F.relu(1 - by_point.max(1)[0]) + 0.5 * F.relu(1 + by_point.min(1)[0])
        self.parts.append((unit, point))

    @property
    def loss(self) -> Tensor:
        units, points = zip(*self.parts, strict=True)
        self.parts = []
        return torch.cat(units).mean() + torch.cat(points).mean()


class Trainer:
    """One training step of a freshly seeded rectangular network, with one of the regularizers."""

    def __init__(self, kind: str, x: Tensor, y: Tensor, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = Rectangular(tuple(x.shape[1:]), 2, **options)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)
        self.x, self.y = x, y
        self.regularizer: Jumpstart | ObviousJumpstart | None = None
        self.tracker: StatusTracker | None = None
        if kind == "obvious":
            self.regularizer = ObviousJumpstart(self.model)
        elif kind != "plain":
            self.regularizer = Jumpstart(self.model)
            self.tracker = StatusTracker(self.regularizer.preactivations) if kind == "status" else None

    def loss(self) -> Tensor:
        loss = F.cross_entropy(self.model(self.x), self.y)
        return loss if self.regularizer is None else loss + 0.01 * self.regularizer.loss

    def step(self) -> None:
        loss = self.loss()
        if self.tracker is not None:
            self.tracker.update()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def kernels(self) -> int:
        """Operators dispatched by one step."""
        self.step()
        with Kernels() as counted:
            self.step()
        return counted.count


def compare(title: str, trainers: dict[str, Trainer], steps: int) -> None:
    """Runs the trainers in turn and prints the ratio of each to the first."""
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for i in range(steps + 2):
        for name, trainer in trainers.items():
            start = time.perf_counter()
            trainer.step()
            if i >= 2:
                times[name].append(time.perf_counter() - start)
    base = next(iter(trainers))
    saved = {name: saved_bytes(trainer.loss) for name, trainer in trainers.items()}
    print(f"{title} ({steps} steps each, in turn, 1 thread)")
    print(f"  {'':38}{'step':>8}{'kernels':>9}{'saved for backward':>20}")
    for name, trainer in trainers.items():
        ratio = statistics.median(times[name]) / statistics.median(times[base])
        growth = 100 * (saved[name] / saved[base] - 1)
        print(f"  {name:38}{ratio:7.2f}x{trainer.kernels():9}{saved[name]:13,} B {growth:+5.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description="What Jumpstart adds to a training step.")
    parser.add_argument("--steps", type=int, default=30, help="steps per variant (default 30)")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kinds = {
        "no regularizer": "plain",
        "Jumpstart": "jumpstart",
        "Jumpstart and unit and point status": "status",
        "Jumpstart written layer by layer": "obvious",
    }
    angle = torch.rand(256) * torch.pi
    moon = torch.stack([angle.cos(), angle.sin()], 1)
    y = torch.arange(256) % 2
    x = torch.where(y[:, None] == 0, moon, torch.tensor([1.0, 0.5]) - moon) + 0.1 * torch.randn(256, 2)
    compare("dense, 50 x 4, batch 256", {name: Trainer(kind, x, y) for name, kind in kinds.items()}, steps)
    images, labels = torch.randn(32, 3, 32, 32), torch.arange(32) % 2
    options = {"depth": 8, "width": 32}
    trainers = {name: Trainer(kind, images, labels, **options) for name, kind in kinds.items()}
    compare("convolutional, 8 x 32 channels, batch 32", trainers, max(5, steps // 3))


if __name__ == "__main__":
    main()
