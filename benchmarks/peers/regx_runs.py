"""Runs of regx: one by its `Trainer`, and many as one program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peers.task import BATCH, LR, STRENGTH, Task
from torch import Tensor

from regx.training.build import build
from regx.training.config import RunConfig
from regx.training.experiments import from_dict
from regx.training.loop import Trainer
from regx.training.vectorised import native
from regx.training.vectorised.group import Group
from regx.training.vectorised.grouping import native_obstacle

FOREVER = 10**9


def configure(task: Task, seed: int, **more: Any) -> RunConfig:
    """The configuration of a run of the task; `more` are other options, spelled as in files."""
    options: dict[str, Any] = {"dataset": task.data.name, "val_size": 0.25, "test_size": 0.0, "data_seed": 0}
    if task.data.name == "moons":
        options["n_samples"] = len(task.data.train) + len(task.data.val)
    options |= {"depth": task.depth, "width": task.width, "lambda": STRENGTH, "lr": LR, "batch_size": BATCH}
    options |= {"epochs": FOREVER, "stop_at": None, "seed": seed, "devices": task.device.type, "threads": 1}
    return from_dict({"experiment": "rectangular"} | options | more)


def engines(task: Task) -> tuple[tuple[str, ...], str | None]:
    """The engines that can train the task here, and why one cannot."""
    obstacle = native_obstacle(configure(task, 0)) or native.obstacle()
    return (("vectorised",), f"regx, native: {obstacle}") if obstacle else (("vectorised", "native"), None)


class SingleRun:
    """One run as `regx rectangular` trains it, without files.

    Args:
        task: what to learn.
    """

    runs = 1

    def __init__(self, task: Task) -> None:
        self.bare, self.logged = (
            build(configure(task, 0, log_every=every), task.device).trainer for every in (FOREVER, 1)
        )
        _train_epoch(self.bare)  # the first one is logged in any case

    def train_epoch(self) -> None:
        """Trains an epoch, nothing else."""
        _train_epoch(self.bare)

    def logged_epoch(self) -> None:
        """Trains and validates an epoch, with metrics and status."""
        _train_epoch(self.logged)


def _train_epoch(trainer: Trainer) -> None:
    last = trainer.epoch + 1
    trainer.fit(lambda row: None, lambda: None, lambda: trainer.epoch >= last and not trainer.step)


class Program:
    """Runs that are trained together.

    Args:
        task: what to learn.
        engine: `vectorised` or `native`.
        seeds: of the runs.
        more: other options, spelled as in files.
    """

    def __init__(self, task: Task, engine: str, seeds: Sequence[int], **more: Any) -> None:
        self.runs = len(seeds)
        experiments = [build(configure(task, seed, **more), task.device) for seed in seeds]
        self.group = Group(experiments, engine=engine)

    def train_epoch(self) -> None:
        """Trains an epoch, nothing else."""
        self.group.train_epoch(record=False)

    def logged_epoch(self) -> None:
        """Trains and validates an epoch, with metrics and status."""
        trained = self.group.train_epoch(record=True)
        assert trained is not None
        for stage, sums in (("train", trained), ("val", self.group.evaluate("val"))):
            self.group.measured(stage, sums)

    def mean_losses(self) -> Tensor:
        """Trains an epoch; the mean of what every run minimised in it, (R,) float64 on the CPU."""
        sums = self.group.train_epoch(record=True)
        assert sums is not None and isinstance(sums.losses, Tensor)
        task, penalty = (sums.losses / sums.rows).cpu().unbind(1)
        return task + STRENGTH * penalty
