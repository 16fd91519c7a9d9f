"""SGD, Adam and AdamW of R runs at once, on one flat tensor; every run has its own rate, decay and number of steps."""

from __future__ import annotations

import torch
from torch import Tensor

from regx.training.vectorised.storage import Layout

BETAS, EPS = (0.9, 0.999), 1e-8


class Optimizer:
    """The update rule of R runs: that of torch.optim, to rounding.

    Args:
        kind: `sgd`, `adam` or `adamw`.
        layout: of the flat tensors.
        weights: flat, changed in place.
        momentum: (R,) float64, of SGD; None where no run has any.
        nesterov: Nesterov momentum.

    Attributes:
        first: flat; Adam's first moments, or SGD's momentum buffer.
        second: flat; Adam's second moments.
        steps: (R,) int64, steps taken, on the CPU.
        rates: (R,) float64, learning rates; call `numbers_changed()` after a change.
        decays: (2, R) float64, decay of weights, and of biases and norms.
        clips: (R,) float64, largest norms of the gradients; None where no run has any.
    """

    def __init__(
        self, kind: str, layout: Layout, weights: Tensor, *, momentum: Tensor | None = None, nesterov: bool = False
    ) -> None:
        self.kind, self.layout, self.weights, self.nesterov = kind, layout, weights, nesterov
        device, runs = weights.device, layout.runs
        self.first = torch.zeros_like(weights)
        self.second = torch.zeros_like(weights) if kind != "sgd" else self.first[:0]
        self.steps = torch.zeros(runs, dtype=torch.int64)
        self.rates = torch.zeros(runs, dtype=torch.float64, device=device)
        self.decays = torch.zeros(2, runs, dtype=torch.float64, device=device)
        self.clips: Tensor | None = None
        self.momentum = momentum
        self._owner = layout.owner(device)
        self._is_weight = layout.is_weight(device)
        self._is_trained = layout.is_trained(device).to(weights.dtype)
        self._spread_momentum = None if momentum is None else self._spread(momentum)
        self.numbers_changed()

    def numbers_changed(self) -> None:
        """To be called when `rates` or `decays` have changed."""
        self._rate = self._spread(self.rates) * self._is_trained
        self._decay = None
        if bool(self.decays.any()):
            of_weights, of_others = (self._spread(decays) for decays in self.decays)
            self._decay = torch.where(self._is_weight, of_weights, of_others) * self._is_trained

    def _spread(self, values: Tensor) -> Tensor:
        """A number per run as one per parameter: piece by piece, which takes a tenth of the time of looking it up."""
        values = values.to(self.weights.dtype)
        flat = torch.empty_like(self.weights)
        flat[self.layout.used :] = values[0]
        for view in self.layout.views(flat).values():
            view.copy_(values.view(1, -1, *[1] * (view.dim() - 2)))
        return flat

    def step(self, gradients: Tensor) -> None:
        """Takes a step; `gradients` (flat) are changed."""
        weights = self.weights
        self.steps += 1
        if self.clips is not None:
            gradients.mul_(self._spread(self._clip_factors(gradients)))
        if self._decay is not None:
            if self.kind == "adamw":
                weights.addcmul_(weights * self._rate, self._decay, value=-1)
            else:
                gradients.addcmul_(weights, self._decay)
        if self.kind == "sgd":
            self._descend(gradients)
            return
        self.first.lerp_(gradients, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradients, gradients, value=1 - BETAS[1])
        sizes = self._spread(self.rates / self._corrections(BETAS[0])).mul_(self._is_trained)
        roots = self._spread(self._corrections(BETAS[1]).sqrt())
        weights.addcdiv_(sizes.mul_(self.first), self.second.sqrt().div_(roots).add_(EPS), value=-1)

    def _corrections(self, beta: float) -> Tensor:
        """(R,) 1 - beta^steps; by Python, as a tensor's powers depend on its size in their last digit."""
        steps = self.steps.tolist()
        found = {count: 1 - beta**count for count in set(steps)}
        return torch.tensor([found[count] for count in steps], dtype=torch.float64, device=self.rates.device)

    def _descend(self, gradients: Tensor) -> None:
        if self._spread_momentum is not None:
            self.first.mul_(self._spread_momentum).add_(gradients)
            gradients = gradients.addcmul_(self.first, self._spread_momentum) if self.nesterov else self.first
        self.weights.addcmul_(gradients, self._rate, value=-1)

    def _clip_factors(self, gradients: Tensor) -> Tensor:
        """(R,) min(1, clip / (norm + 1e-6)), as `torch.nn.utils.clip_grad_norm_`."""
        assert self.clips is not None
        squares = torch.zeros(self.layout.runs, dtype=torch.float64, device=gradients.device)
        squares.index_add_(0, self._owner, gradients.double().square())
        return (self.clips / (squares.sqrt() + 1e-6)).clamp_(max=1)
