"""What L0 gates add to a training step: `python benchmarks/gates_step.py`.

MLP 784-300-100-10, batch 100, gates on the 300 and the 100 hidden units. All variants run in one process on one thread,
step by step in turn, and processor time is taken, so that other work on the machine disturbs little. Ratios of medians
are printed, and beside them the kernels dispatched per step, which do not depend on the machine. The base matters: a
fused Adam makes the plain step itself a good deal faster, so each L0 variant stands beside the plain step with the same
optimiser.

"Layer by layer" is L0 as in AMLab-Amsterdam/L0_regularization: every layer has a log_alpha of its own, draws its own
gates, multiplies them into its weights and adds its own penalty. The same units are gated, and its penalty, too, has no
squared weights and no average of the parameters. All gates are clamped after the step.
"""

import argparse
import math
import statistics
import time

import torch
from kernels import Kernels
from torch import Tensor, nn
from torch.nn import functional as F

from regx.regularizers.gates import L0


class LayerwiseL0(nn.Linear):
    """A linear layer with one gate per output unit, on its weights and bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.log_alpha = nn.Parameter(torch.empty(outputs).normal_(0, 0.01))

    def forward(self, input: Tensor) -> Tensor:
        u = torch.empty_like(self.log_alpha).uniform_(1e-6, 1 - 1e-6)
        s = torch.sigmoid((torch.log(u) - torch.log(1 - u) + self.log_alpha) / (2 / 3))
        z = torch.clamp(s * 1.2 - 0.1, 0, 1)
        return F.linear(input, self.weight * z[:, None], self.bias * z)

    def penalty(self) -> Tensor:
        """Sum of the probabilities that a gate is open."""
        odds = math.log(0.1 / 1.1)
        return torch.sum(1 - torch.clamp(torch.sigmoid(2 / 3 * odds - self.log_alpha), 1e-6, 1 - 1e-6))


class Trainer:
    """One training step of a freshly seeded network with random images."""

    def __init__(self, kind: str, fused: bool, batch: int) -> None:
        torch.manual_seed(0)
        layer = LayerwiseL0 if kind == "layerwise" else nn.Linear
        self.model = nn.Sequential(layer(784, 300), nn.ReLU(), layer(300, 100), nn.ReLU(), nn.Linear(100, 10))
        self.gated = [module for module in self.model if isinstance(module, LayerwiseL0)]
        self.regularizer = L0(self.model) if kind == "l0" else None
        if self.regularizer is not None:
            self.regularizer.strength = 0.1
        parameters = [*self.model.parameters(), *(self.regularizer.parameters() if self.regularizer else ())]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=fused or None)
        self.x, self.y = torch.randn(batch, 784), torch.arange(batch) % 10

    def step(self) -> None:
        loss = F.cross_entropy(self.model(self.x), self.y)
        if self.gated:
            loss = loss + 0.1 / 400 * sum(layer.penalty() for layer in self.gated)
        self.optimizer.zero_grad()
        loss.backward()
        if self.regularizer is not None:
            self.regularizer.add_gradients()
        self.optimizer.step()
        if self.regularizer is not None:
            self.regularizer.step(self.optimizer)
        for layer in self.gated:
            layer.log_alpha.data.clamp_(min=math.log(0.01), max=math.log(100))

    def kernels(self) -> int:
        """Operators dispatched by one step."""
        self.step()
        with Kernels() as counted:
            self.step()
        return counted.count


def main() -> None:
    parser = argparse.ArgumentParser(description="What L0 gates add to a training step.")
    parser.add_argument("--steps", type=int, default=300, help="steps per variant (default 300)")
    parser.add_argument("--batch", type=int, default=100, help="batch size (default 100)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds = {
        "dense, Adam": ("plain", False),
        "L0, Adam": ("l0", False),
        "L0 layer by layer, Adam": ("layerwise", False),
        "dense, fused Adam": ("plain", True),
        "L0, fused Adam": ("l0", True),
        "L0 layer by layer, fused Adam": ("layerwise", True),
    }
    trainers = {name: Trainer(kind, fused, options.batch) for name, (kind, fused) in kinds.items()}
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for i in range(options.steps + 10):
        for name, trainer in trainers.items():
            start = time.process_time()
            trainer.step()
            if i >= 10:
                times[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"MLP 784-300-100-10, batch {options.batch} ({options.steps} steps each, in turn, 1 thread)")
    print(f"  {'':32}{'step':>10}{'of dense, same Adam':>21}{'of dense, Adam':>16}{'kernels':>9}")
    for name, trainer in trainers.items():
        base = "dense, fused Adam" if kinds[name][1] else "dense, Adam"
        own, plain = medians[name] / medians[base], medians[name] / medians["dense, Adam"]
        print(f"  {name:32}{1e3 * medians[name]:7.2f} ms{own:20.2f}x{plain:15.2f}x{trainer.kernels():9}")


if __name__ == "__main__":
    main()
