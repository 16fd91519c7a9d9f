"""Whether all contenders minimise the same loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from peers import lightning_run
from peers.lightning_run import make_module
from peers.plain_loop import PlainLoop
from peers.regx_runs import Program, engines
from peers.stacked import Stacked
from peers.task import BATCH, STRENGTH, Task, task_loss
from torch import Tensor

from regx.regularizers import Jumpstart

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
SEEDS = range(3)


def check_peers(task: Task) -> None:
    """Compares the peers with `regx.regularizers.Jumpstart`: losses and gradients of the first epoch's batches.

    Raises:
        SystemExit: they differ by more than rounding.
    """
    for dtype, tolerance in TOLERANCES.items():
        found = _differences(dataclasses.replace(task, dtype=dtype))
        for name, difference in found.items():
            if not difference <= tolerance:  # NaN neither
                raise SystemExit(f"{name} does not compute the same in {dtype}: {difference:.1g} away")


def check_programs(task: Task) -> None:
    """Compares the engines of regx with the plain loop: mean losses of the first epoch, whose steps are Adam's.

    Raises:
        SystemExit: they differ by more than rounding.
    """
    x, y = task.train()
    wanted = []
    for seed, order in zip(SEEDS, task.orders(SEEDS), strict=True):
        loop = PlainLoop(task, seed)
        wanted.append(sum(loop.step(x[rows], y[rows]) * len(rows) for rows in order.split(BATCH)) / task.rows)
    for engine in engines(task)[0]:
        found = Program(task, engine, SEEDS).mean_losses()
        away = (found - torch.tensor(wanted, dtype=torch.float64)).abs().max().item()
        if not away <= TOLERANCES[torch.float32]:
            raise SystemExit(f"regx, {engine} does not compute the same: {away:.1g} away")


def _differences(task: Task) -> dict[str, float]:
    """The largest difference of each peer."""
    x, y = task.train()
    stacked = Stacked(task, len(SEEDS))
    loops = [PlainLoop(task, seed) for seed in SEEDS]
    modules = [] if lightning_run.missing() else [make_module(task, seed) for seed in SEEDS]
    models = [task.model(seed) for seed in SEEDS]
    regularizers = [Jumpstart(model) for model in models]
    names = [name for name, _ in models[0].named_parameters()]
    away: dict[str, list[Tensor]] = {}
    for rows in task.orders(SEEDS).split(BATCH, 1):
        stacked_gradients, stacked_losses = stacked.gradients(x[rows], y[rows])
        for run in SEEDS:
            batch = x[rows[run]], y[rows[run]]
            loss = task_loss(models[run](batch[0]), batch[1]) + STRENGTH * regularizers[run].loss
            wanted = [loss, *torch.autograd.grad(loss, list(models[run].parameters()))]
            found = {"torch.func.vmap": [stacked_losses[run], *(stacked_gradients[name][run] for name in names)]}
            found["plain loop"] = _with_gradients(loops[run].loss(*batch), loops[run].model.parameters())
            if modules:
                found["Lightning"] = _with_gradients(modules[run].loss(*batch)[0], modules[run].parameters())
            for name, values in found.items():
                differences = [(a - b).abs().max() for a, b in zip(values, wanted, strict=True)]
                away.setdefault(name, []).extend(differences)
    return {name: torch.stack(differences).max().item() for name, differences in away.items()}


def _with_gradients(loss: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    return [loss, *torch.autograd.grad(loss, list(parameters))]
