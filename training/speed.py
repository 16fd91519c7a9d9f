"""How fast a run trains, what its regularizers cost, how much memory it takes: a row of speed.csv per logged epoch.

Kept apart from metrics.csv, so that a repeated or resumed run has the same metrics to the last bit.
"""

from __future__ import annotations

import copy
import resource
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from regx.training.penalty import Penalty
from regx.training.step import Stepper

# Pairs of passes, with and without regularizers, whose times are compared, after one that is not timed.
PAIRS = 4
# Samples of such a pass on a CPU, at most, so that the comparison takes no longer than two steps or three.
SAMPLES = 32


class Speedometer:
    """Times the epochs of a run.

    `regularizer_share` is the share of a forward and backward pass that hooks, penalties and their gradients take: the
    fastest of `PAIRS` passes with them beside the fastest of as many without, in turn, on a batch of the first epoch
    (of `SAMPLES` at most on a CPU), once per process. On a busy machine it is off by some percent, even below 0. The
    passes leave no trace in the run. Proximal steps and masks, which come after the optimiser's step, are not in it.

    Args:
        stepper: what trains; nothing is measured where its configuration has `log_speed` off.
        penalties: all penalties of the run.
    """

    def __init__(self, stepper: Stepper, penalties: Sequence[Penalty]) -> None:
        self._stepper = stepper
        self._penalties = penalties
        self._on = stepper.config.log_speed
        self._images = 0
        self._seconds = 0.0
        self._evaluation = 0.0
        self._pause = 0.0
        self._share: float | None = None
        self._wants_share = self._on and bool(penalties) and not stepper.config.compile

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Times the training steps of an epoch, without evaluation."""
        self._images, self._pause = 0, 0.0
        if self._on and self._stepper.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._stepper.device)
        began = self._now()
        yield
        self._seconds = self._now() - began - self._pause

    def count(self, x: Tensor, y: Tensor, *, last: bool) -> None:
        """Takes note of a batch trained on; `last`: there is no other in this epoch."""
        # Not the very first one, which also pays for the allocation of its memory.
        if self._wants_share and (self._images or last):
            most = SAMPLES if self._stepper.device.type == "cpu" else len(y)
            self._measure_share(x[:most], y[:most])
        self._images += len(y)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Times the evaluation of an epoch."""
        began = self._now()
        yield
        self._evaluation = self._now() - began

    def row(self, epoch: int) -> dict[str, float]:
        """What was measured in the epoch that is over, of this process (samples: of all)."""
        images = self._images * self._stepper.world.size
        row = {
            "epoch": epoch,
            "speed/samples_per_second": images / self._seconds if self._seconds else 0.0,
            "speed/train_seconds": self._seconds,
            "speed/val_seconds": self._evaluation,
            "speed/peak_memory_mb": _peak_memory(self._stepper.device) / 2**20,
        }
        if self._share is not None:
            row["speed/regularizer_share"] = self._share
        return row

    def _measure_share(self, x: Tensor, y: Tensor) -> None:
        """Compares passes with and without regularizers; gradients, buffers and random states stay as they are."""
        self._wants_share = False
        began = self._now()
        model, penalties, device = self._stepper.model, self._penalties, self._stepper.device
        parameters = [*model.parameters(), *self._stepper.own]
        grads = [parameter.grad for parameter in parameters]
        buffers = [buffer.clone() for buffer in model.buffers()]
        states = copy.deepcopy([penalty.regularizer.state_dict() for penalty in penalties])
        times: dict[bool, list[float]] = {True: [], False: []}
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(cuda):
            for pair in range(PAIRS + 1):
                for regularized in (True, False) if pair % 2 else (False, True):
                    for parameter in parameters:
                        parameter.grad = None
                    start = self._now()
                    self._pass(x, y, regularized)
                    times[regularized].append(self._now() - start)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)
        for penalty, state in zip(penalties, states, strict=True):
            penalty.regularizer.load_state_dict(state)
        # The fastest of each: what slows a pass down is the rest of the machine.
        self._share = 1 - min(times[False][1:]) / min(times[True][1:])
        self._pause += self._now() - began

    def _pass(self, x: Tensor, y: Tensor, regularized: bool) -> None:
        """One forward and backward pass of the bare model, so that no gradient is exchanged."""
        stepper = self._stepper
        with _unhooked(stepper.model, not regularized):
            with stepper.autocast():
                output = stepper.model(stepper.laid_out(x))
            loss = stepper.objective.loss(output.float(), y)
            for penalty in stepper.in_forward if regularized else ():
                loss = loss + penalty.strength * penalty.loss()
            loss.backward()
        for penalty in self._penalties if regularized else ():
            if penalty.regularizer.of_parameters:
                penalty.regularizer.add_gradients()

    def _now(self) -> float:
        if self._on and self._stepper.device.type == "cuda":
            torch.cuda.synchronize(self._stepper.device)
        return time.perf_counter()


@contextmanager
def _unhooked(model: nn.Module, really: bool) -> Iterator[None]:
    """A block in which no module of the model calls its forward hooks."""
    kept = [(m, m._forward_pre_hooks, m._forward_hooks) for m in model.modules()] if really else []
    for module, _, _ in kept:
        module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, before, after in kept:
            module._forward_pre_hooks, module._forward_hooks = before, after


def _peak_memory(device: torch.device) -> float:
    """Bytes: of the allocator on a GPU since the epoch began, else of the process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
