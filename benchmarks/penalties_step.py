"""What penalties of weights add to a training step of a ResNet-18: `python benchmarks/penalties_step.py`.

One process, one thread; torchvision's ResNet-18 (11.2 million parameters) with the stem of small images (3 x 3, no
pooling), on 32 images of 3 x 32 x 32, SGD. After every plain step each variant is timed on the same weights and
gradients, one after the other, so that whatever slows the machine slows all. Printed is the median time of what a
variant adds, in percent of the median plain step:

* autograd: the penalty written in the obvious way, layer by layer, and its backward pass;
* `add_gradients`: the closed form of regx, added to the gradients beside autograd;
* proximal step: what regx does after the optimiser's step instead, which gives exact zeros.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

from regx.regularizers import create


def matrices(model: nn.Module) -> list[Tensor]:
    """The weights that are penalised: all but biases and batch normalisation."""
    return [p for p in model.parameters() if p.ndim > 1]


def rows(x: Tensor) -> Tensor:
    """Norm of every filter or row, the obvious way (with the small number that keeps the root differentiable)."""
    return (x.flatten(1).square().sum(1) + 1e-12).sqrt()


def obvious(name: str, model: nn.Module) -> Callable[[], Tensor]:
    """The penalty as a researcher would write it."""
    weights = matrices(model)
    if name == "l1":
        return lambda: sum(w.abs().sum() for w in weights)  # type: ignore[return-value]
    if name == "l2":
        return lambda: sum(w.square().sum() for w in weights)  # type: ignore[return-value]
    if name == "group_lasso":
        return lambda: sum(rows(w).sum() for w in weights)  # type: ignore[return-value]
    blocks: dict[str, list[Tensor]] = {}
    for path, p in model.named_parameters():
        if p.ndim > 1 and path.startswith("layer"):
            blocks.setdefault(".".join(path.split(".")[:2]), []).append(p)

    def three_levels() -> Tensor:
        filters = sum(rows(w).sum() for w in weights)
        layers = sum((w.square().sum() + 1e-12).sqrt() for w in weights)
        whole = sum((sum(w.square().sum() for w in block) + 1e-12).sqrt() for block in blocks.values())  # type: ignore[operator]
        return filters + layers + whole  # type: ignore[return-value]

    return three_levels


def main() -> None:
    parser = argparse.ArgumentParser(description="What penalties of weights add to a training step of a ResNet-18.")
    parser.add_argument("--steps", type=int, default=9, help="plain steps (default 9, about half a minute)")
    parser.add_argument("--channels-last", action="store_true", help="keep weights and images in channels_last layout")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()  # type: ignore[assignment]
    x, y = torch.randn(32, 3, 32, 32), torch.arange(32) % 10
    if options.channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    names = ("l1", "l2", "group_lasso", "hierarchical")
    naive = {name: obvious(name, model) for name in names}
    ours = {name: create(f"{name}=1e-5", model) for name in names}
    proximal = {name: create(f"{name}(prox=true)=1e-9", model) for name in names}

    times: dict[tuple[str, str], list[float]] = {}

    def timed(key: tuple[str, str], call: Callable[[], object]) -> None:
        start = time.perf_counter()
        call()
        times.setdefault(key, []).append(time.perf_counter() - start)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    for i in range(options.steps + 2):
        if i == 2:
            times.clear()
        timed(("plain", "step"), step)
        for name in names:
            timed((name, "autograd"), lambda name=name: (1e-5 * naive[name]()).backward())
            timed((name, "add_gradients"), ours[name].add_gradients)
            timed((name, "proximal step"), lambda name=name: proximal[name].step(optimizer))

    plain = statistics.median(times["plain", "step"])
    layout = "channels_last" if options.channels_last else "contiguous"
    print(f"ResNet-18, batch 32, 3 x 32 x 32, {layout}, 1 thread: plain step {1000 * plain:.0f} ms; a penalty adds")
    columns = ("autograd", "add_gradients", "proximal step")
    print(f"  {'':14}" + "".join(f"{column:>16}" for column in columns))
    for name in names:
        added = [100 * statistics.median(times[name, column]) / plain for column in columns]
        print(f"  {name:14}" + "".join(f"{value:+14.2f} %" for value in added))


if __name__ == "__main__":
    main()
