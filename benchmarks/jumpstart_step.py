"""What Jumpstart adds to a training step: `python benchmarks/jumpstart_step.py`.

Both sides of every ratio run in one process on one thread, step by step in turn, so that whatever slows the machine
slows both. Ratios of medians are printed, and beside them counts that do not depend on the machine: kernels dispatched
per step and bytes saved for the backward pass.

* Dense: 50 layers of 4 units, two moons, batch 256, fused Adam. The plain step beside that with `Jumpstart`, with the
  status of all units and points on top, and with an obvious Jumpstart that reduces layer after layer.
* Convolutional: the 17 convolutions of a ResNet-18 for small images (64 to 512 channels) with in-place ReLU, all of
  them regularized, without normalisation and skip connections; images of 3 x 32 x 32, batch 32, in both layouts.

Four minutes; `--steps 24` takes less than half of that.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from kernels import Kernels
from torch import Tensor, nn
from torch.nn import functional as F

from regx.models import Rectangular
from regx.regularizers import Jumpstart
from regx.training.status import StatusTracker


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


def deep_net() -> nn.Module:
    """50 layers of 4 units."""
    return Rectangular((2,), 2)


def plain_resnet() -> nn.Sequential:
    """The 17 convolutions of a ResNet-18 with a stem for small images, without normalisation and skip connections."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(inplace=True)]
    channels = 64
    for width in (64, 128, 256, 512):
        for _ in range(4):
            stride = 1 if width == channels else 2
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))


class Trainer:
    """One training step of a freshly seeded network, with one of the regularizers."""

    def __init__(self, kind: str, make_model: Callable[[], nn.Module], x: Tensor, y: Tensor) -> None:
        torch.manual_seed(0)
        self.model = make_model()
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            self.model = self.model.to(memory_format=torch.channels_last)
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
    """Runs the trainers in turn and prints the ratio of each to the first, after two steps to warm up."""
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
    parser.add_argument(
        "--steps", type=int, default=60, help="dense steps per variant (default 60); a sixth for images"
    )
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
    compare("dense, 50 x 4, batch 256", {name: Trainer(kind, deep_net, x, y) for name, kind in kinds.items()}, steps)
    del kinds["Jumpstart and unit and point status"]
    images, labels = torch.randn(32, 3, 32, 32), torch.arange(32) % 2
    for layout, memory_format in (("NCHW", torch.contiguous_format), ("channels_last", torch.channels_last)):
        x = images.contiguous(memory_format=memory_format)
        trainers = {name: Trainer(kind, plain_resnet, x, labels) for name, kind in kinds.items()}
        compare(f"ResNet-18 without skips, {layout}, batch 32", trainers, max(3, steps // 6))


if __name__ == "__main__":
    main()
