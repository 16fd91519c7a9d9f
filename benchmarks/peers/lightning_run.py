"""One run in the way of blauigris/jumpstart: PyTorch Lightning, torchmetrics, hooks, tables of all units and points.

It needs `pip install 'regx[bench]'`. Other than there, the tables are emptied after every epoch, and what is
logged of them is computed once per epoch: there they grow until the run ends.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import tempfile
import warnings
from typing import Any

import torch
from peers.task import BATCH, KINDS, LR, STRENGTH, HookedJumpstart, Task, now, task_loss
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

DEAD, LINEAR, NONLINEAR = -1, 0, 1


def missing() -> str | None:
    """One line that says what to install, where something is missing."""
    packages = [name for name in ("lightning", "torchmetrics") if not importlib.util.find_spec(name)]
    return f"Lightning: `pip install {' '.join(packages)}`" if packages else None


def status_metric() -> Any:
    """A torchmetrics metric with tables of the constraints and the status of all units and points, on the CPU."""
    metric: Any = importlib.import_module("torchmetrics").Metric

    class Status(metric):
        def __init__(self) -> None:
            super().__init__()
            for name in ("unit", "point", *("_".join(kind) for kind in KINDS)):
                self.add_state(name, default=[], dist_reduce_fx=None)

        def update(self, parts: dict[tuple[str, str], list[Tensor]]) -> None:
            """Takes the constraints of a batch, per kind a list of vectors, one per layer."""
            tables = {kind: torch.stack(vectors, 1).detach().cpu() for kind, vectors in parts.items()}
            for kind, table in tables.items():
                getattr(self, "_".join(kind)).append(table)
            for axis, states in (("unit", self.unit), ("point", self.point)):
                state = torch.full_like(tables["positive", axis], NONLINEAR)
                state[tables["negative", axis] > 1] = LINEAR
                state[tables["positive", axis] >= 1] = DEAD
                if axis == "unit" and states:
                    states[0][states[0] != state] = NONLINEAR
                else:
                    states.append(state)

        def compute(self) -> dict[str, Tensor]:
            """Losses and ratios over all batches."""
            values = {f"{sign}_{axis}_loss": torch.cat(getattr(self, f"{sign}_{axis}")).mean() for sign, axis in KINDS}
            for axis in ("unit", "point"):
                values[f"{axis}_loss"] = (values[f"positive_{axis}_loss"] + values[f"negative_{axis}_loss"]) / 2
            units, points = self.unit[0], torch.cat(self.point)
            dead = points == DEAD
            cut_off = dead.flip(1).long().cummax(1).values.bool()  # before the last layer in which the point is dead
            return values | {
                "unit_dead_ratio": (units == DEAD).float().mean(),
                "unit_linear_ratio": (units == LINEAR).float().mean(),
                "unit_nonlinear_ratio": (units == NONLINEAR).float().mean(),
                "point_dead_ratio": dead.any(1).float().mean(),
                "point_linear_ratio": (points == LINEAR).all(1).float().mean(),
                "point_nonlinear_ratio": (points == NONLINEAR).all(1).float().mean(),
                "deathness_ratio": dead.float().mean(),
                "linearity_ratio": (points == LINEAR).float().mean(),
                "nonlinearity_ratio": (points == NONLINEAR).float().mean(),
                "point_efficiency": 1 - cut_off.float().mean(),
            }

    return Status()


def make_module(task: Task, seed: int) -> Any:
    """The LightningModule; `loss(x, y)` gives what it minimises, and the parts of that."""
    lightning: Any = importlib.import_module("lightning.pytorch")
    torchmetrics: Any = importlib.import_module("torchmetrics")

    class Experiment(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = task.model(seed)
            self.jumpstart = HookedJumpstart(self.model)
            self.accuracy = nn.ModuleDict({s: torchmetrics.Accuracy(task="binary") for s in ("on_train", "on_val")})
            self.status = nn.ModuleDict({stage: status_metric() for stage in ("on_train", "on_val")})

        def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            """Sum, cross-entropy, penalty and output of a batch."""
            output = self.model(x)
            loss, penalty = task_loss(output, y), self.jumpstart.loss
            return loss + STRENGTH * penalty, loss, penalty, output

        def _step(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
            total, loss, penalty, output = self.loss(*batch)
            accuracy = self.accuracy[f"on_{stage}"]
            accuracy(output.squeeze(1), batch[1].long())
            values = {"loss": loss, "JR_loss": penalty, "scaled_JR_loss": STRENGTH * penalty, "acc": accuracy}
            named = {f"{stage}/{key}": value for key, value in values.items()}
            self.log_dict(named, on_step=False, on_epoch=True, batch_size=len(batch[1]))
            status: Any = self.status[f"on_{stage}"]
            status.update(self.jumpstart.parts)
            return total

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return self._step("train", batch)

        def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return self._step("val", batch)

        def _log_status(self, stage: str) -> None:
            status: Any = self.status[f"on_{stage}"]
            self.log_dict({f"{stage}/jr/{key}": value for key, value in status.compute().items()})
            status.reset()

        def on_train_epoch_end(self) -> None:
            self._log_status("train")

        def on_validation_epoch_end(self) -> None:
            self._log_status("val")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=LR)

    return Experiment().to(task.device)


class LightningRun:
    """A run that validates, logs to a CSV file and keeps the best checkpoint after every epoch.

    Args:
        task: what to learn.
        seed: of the weights.
    """

    runs = 1

    def __init__(self, task: Task, seed: int = 0) -> None:
        logging.disable(logging.INFO)  # its advice: more workers, other loggers
        warnings.simplefilter("ignore")
        self.device = task.device
        self.module = make_module(task, seed)
        self.loaders = [
            DataLoader(TensorDataset(x.cpu(), y.cpu()), BATCH, shuffle=shuffle)
            for (x, y), shuffle in ((task.train(), True), (task.val(), False))
        ]

    def seconds(self, epochs: int) -> float:
        """Seconds of so many epochs of a `fit`, after its first one."""
        lightning: Any = importlib.import_module("lightning.pytorch")
        device, starts = self.device, []

        class Clock(lightning.Callback):
            def on_train_epoch_start(self, *args: Any) -> None:
                starts.append(now(device))

        with tempfile.TemporaryDirectory() as folder:
            best = lightning.callbacks.ModelCheckpoint(folder, "best", monitor="val/acc", mode="max")
            trainer = lightning.Trainer(
                max_epochs=epochs + 2,
                devices=1,
                accelerator="gpu" if device.type == "cuda" else "cpu",
                logger=lightning.loggers.CSVLogger(folder),
                callbacks=[Clock(), best],
                num_sanity_val_steps=0,
                **dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False),
            )
            trainer.fit(self.module, *self.loaders)
        return starts[epochs + 1] - starts[1]
