"""The training loop: plain PyTorch, one host sync per logged row, resumable after any step."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from regx.data.module import DataModule, Split
from regx.errors import RunFailed
from regx.regularizers import Preactivations
from regx.training.config import RunConfig
from regx.training.distributed import World
from regx.training.folder import CHECKPOINT_FORMAT
from regx.training.objective import Objective
from regx.training.penalty import Penalty
from regx.training.schedules import Schedule
from regx.training.sparsity import SparsityMeter
from regx.training.speed import Speedometer
from regx.training.status import StatusTracker
from regx.training.step import Stepper
from regx.training.totals import Totals, to_floats

# Rows of a table per forward pass of an evaluation: large enough that nearly every set is one pass.
EVALUATION_ROWS = 8192
# Points whose status is kept, of images.
STATUS_POINTS = 5000
# Steps between two questions to the other processes whether somebody wants to stop; a GPU would have to wait for each.
ASK_EVERY = {"cpu": 1, "cuda": 20}


@dataclass
class Best:
    """The best logged epoch so far by the monitored validation metric, with its row, weights and regularizers."""

    epoch: int = 0
    metric: float = -math.inf
    row: dict[str, float] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    penalties: list[dict[str, Any]] = field(default_factory=list)


class Diverged(RunFailed):
    """The loss is no longer finite, in all processes."""


class Trainer:
    """One run: a model, its data, penalties, optimiser and schedule, and how far it has come.

    Args:
        config: how to train.
        data: datamodule on the device of the model.
        model: network on its device.
        penalties: regularizers attached to the model; those that never had a strength above 0 are measured but leave
            no trace in training.
        preactivations: hooks whose extremes the unit and point status is read from; None measures no status.
        world: the processes that train together; each takes its share of every batch and of every evaluation.
    """

    def __init__(
        self,
        config: RunConfig,
        data: DataModule,
        model: nn.Module,
        penalties: list[Penalty],
        preactivations: Preactivations | None,
        world: World | None = None,
    ) -> None:
        self.config = config
        self.data = data
        self.model = model
        self.penalties = penalties
        self.world = world or World()
        self.objective = Objective(data, config.label_smoothing)
        self.monitor = f"val/{self.objective.monitor}"
        self.stepper = Stepper(config, model, self.objective, penalties, self.world)
        self.sparsity = (
            SparsityMeter(model, data.train.sample(1), blocks=config.log_blocks) if config.measures_sparsity() else None
        )
        # Before, a best epoch would be one of a network that is not yet what the penalties shall make of it.
        self.settles = max((penalty.schedule.settles(config.epochs) for penalty in penalties), default=1)
        size = len(data.train) if config.batch_size == "full" else int(config.batch_size)
        self.batch_size = min(size, len(data.train))
        self.steps = len(data.train) // self.batch_size if config.drop_last else -(-len(data.train) // self.batch_size)
        self.epochs = config.epochs
        if config.fast_dev_run:
            self.epochs = self.steps = 1
        self.schedule = Schedule(self.stepper.optimizer, config, self.steps if config.lr_update == "step" else 1)
        points = STATUS_POINTS if data.images else None
        self.status = (
            {stage: StatusTracker(preactivations, points) for stage in ("train", "val", "test")}
            if preactivations
            else {}
        )
        self.speed = Speedometer(self.stepper, penalties)
        self.shuffle = torch.Generator().manual_seed(config.seed)
        self.device = data.train.y.device
        self.epoch = 0
        self.step = 0  # steps done of an epoch that is not yet over
        self._order_state = self.shuffle.get_state()
        self._totals = self._new_totals()
        self.since_best = 0
        self.seconds = 0.0
        self.best = Best()
        self.last: dict[str, float] = {}
        self.last_lr = config.lr
        self.capture = self._captured  # what a best epoch keeps
        self.ended_by: str | None = None  # what somebody outside ends the run with, after the present row

    def fit(
        self,
        on_row: Callable[[dict[str, float]], None],
        on_checkpoint: Callable[[], None],
        stop: Callable[[], bool],
        on_step: Callable[[int], None] = lambda step: None,
    ) -> str:
        """Trains until the last epoch or an early end.

        Args:
            on_row: called with each logged row.
            on_checkpoint: called, by all processes at the same step, when `state_dict` should be saved.
            stop: asked after every step whether somebody interrupted the run.
            on_step: called after every step with the number of steps done of the epoch.

        Returns:
            Why it ended: `epochs`, `stop_at`, `patience`, `interrupted`, or the word in `ended_by`.

        Raises:
            RunFailed: the loss is no longer finite, or an image cannot be read.
        """
        config = self.config
        began = time.perf_counter() - self.seconds
        saved = time.perf_counter()

        def ask(*, in_epoch: bool) -> bool:
            """Saves where it is time to; whether to stop."""
            nonlocal saved
            due = (config.checkpoint_every > 0 or not in_epoch) and (
                time.perf_counter() - saved >= config.checkpoint_every
            )
            save, ends = self.world.agree(due, stop())
            self.seconds = time.perf_counter() - began
            if save or ends:
                on_checkpoint()
                saved = time.perf_counter()
            return ends

        while self.step or self.epoch < self.epochs:
            if not self.step:
                if self.best.row and (reason := self.ended()):
                    return reason
                self.begin_epoch()
            for _ in self._train_steps():
                on_step(self.step)
                asks = self.world.size == 1 or self.step % ASK_EVERY[self.device.type] == 0
                if asks and self.step < self.steps and ask(in_epoch=True):
                    return "interrupted"
            self._end_epoch(on_row)
            if ask(in_epoch=False):
                return "interrupted"
        return self.ended() or "epochs"

    def alone(self) -> None:
        """Leaves the other processes, at the end of training: what is measured from now on, this one measures alone."""
        self.world = World()

    @property
    def epochs_done(self) -> int:
        """Epochs that are over."""
        return self.epoch - (self.step > 0)

    @property
    def logged(self) -> bool:
        """Whether the present epoch becomes a row."""
        return self.epoch % self.config.log_every == 0 or self.epoch in (1, self.epochs)

    def _new_totals(self) -> Totals:
        config = self.config
        return Totals(self.objective, self.penalties, task_loss=config.task_loss, skips=config.corrupt == "skip")

    def begin_epoch(self) -> None:
        """What comes before the first step of an epoch."""
        self.epoch += 1
        self._order_state = self.shuffle.get_state()
        self._totals = self._new_totals()
        for penalty in self.penalties:
            penalty.begin(self.epoch)
        if self.status:
            self.status["train"].reset()

    def _end_epoch(self, on_row: Callable[[dict[str, float]], None]) -> None:
        self.close_epoch()
        self.advance(self.judge(self._row(), on_row) if self.logged else None)

    def close_epoch(self) -> None:
        """What comes after the last step of an epoch, before it is measured."""
        self.step = 0
        self.stepper.average_statistics()
        for penalty in self.penalties:
            penalty.end(self.epoch)

    def judge(self, row: dict[str, float], on_row: Callable[[dict[str, float]], None]) -> float:
        """Takes in the row of an epoch; returns its monitored metric.

        Raises:
            Diverged: its loss is not finite.
        """
        self._check_finite(row)
        self.last = row
        metric = row[self.monitor]
        self._remember_best(row, metric)
        on_row(row)
        return metric

    def advance(self, metric: float | None) -> None:
        """Sets the learning rate for the next epoch; `metric` is the monitored one, where the epoch was measured."""
        if self.config.lr_update == "epoch":
            self.schedule.advance(metric)

    def _train_steps(self) -> Iterator[None]:
        """Trains the rest of the epoch; yields after every step."""
        config, stepper = self.config, self.stepper
        status = self.status.get("train") if self.logged else None
        order = self.order()
        if not self.data.train.streamed:
            order = order.to(self.device, non_blocking=True)
        plan = [self._parts(order, step) for step in range(self.step, self.steps)]
        batches = self.data.train.batches([part for parts in plan for part in parts], self.epoch)
        mixes = config.mixup > 0 or config.cutmix > 0
        with self.speed.epoch():
            for parts in plan:
                whole = min(self.batch_size, len(order) - self.step * self.batch_size)
                for number, part in enumerate(parts):
                    batch = next(batches)
                    if not len(batch.y):
                        raise RunFailed("none of the images of a batch can be decoded")
                    loss, losses, output = stepper.accumulate(
                        batch.x,
                        batch.y,
                        len(part) * self.world.size / whole,
                        first=number == 0,
                        last=number == len(parts) - 1,
                        mixing=self._mixing(number) if mixes else None,
                    )
                    with torch.no_grad():
                        self._totals.add(loss, losses, output, batch.y, batch.skipped)
                        if status:
                            status.update()
                    self.speed.count(batch.x, batch.y, last=parts is plan[-1])
                stepper.update()
                self.step += 1
                self.last_lr = self.schedule.lr
                if config.lr_update == "step":
                    self.schedule.advance()
                yield

    def order(self) -> Tensor:
        """Rows in the order of the present epoch, on the CPU: the same on every device, in any number of processes."""
        self.shuffle.set_state(self._order_state)
        return torch.randperm(len(self.data.train), generator=self.shuffle)

    def targets(self) -> Tensor:
        """Targets that the epoch was trained on, whichever process had them: R2 depends on which ones those are."""
        y = self.data.train.y
        rows = self.batch_size * self.steps
        if self.objective.task != "regression" or rows >= len(y):
            return y
        return y[self.order()[:rows].to(y.device)]

    def _parts(self, order: Tensor, step: int) -> list[Tensor]:
        """Rows of this process in a step, one tensor per forward and backward pass."""
        rows = order[step * self.batch_size : (step + 1) * self.batch_size]
        # Parts first, then processes: each part of all processes together is that of one process.
        parts = [rows] if self.config.accumulate == 1 else list(rows.tensor_split(self.config.accumulate))
        size, rank = self.world.size, self.world.rank
        return parts if size == 1 else [part.tensor_split(size)[rank] for part in parts]

    def _mixing(self, part: int) -> torch.Generator:
        """Random numbers of mixup and cutmix, another source for every pass, so that a resumed run draws the same."""
        place = (self.config.seed, self.epoch, self.step, self.world.rank, part)
        return torch.Generator().manual_seed(hash(place) % 2**63)

    def evaluate(self, stage: str, split: Split) -> dict[str, Tensor]:
        """Loss, penalties, metrics and status of a split in evaluation mode, as 0-d tensors; no host sync."""
        self.model.eval()
        status = self.status.get(stage)
        if status:
            status.reset()
        totals = self._new_totals()
        with torch.no_grad():
            for output, y, skipped in self.outputs(split):
                loss = self.objective.loss(output, y)
                totals.add(loss, [p.loss() for p in self.stepper.in_forward], output, y, skipped)
                if status:
                    status.update()
        self.model.train()
        totals.merge(self.world)
        values = totals.metrics(stage, split.y)
        if status:
            status.merge(self.world)
            values |= {f"{stage}/jr/{key}": value for key, value in status.compute().items()}
        return values

    def outputs(self, split: Split) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Outputs, labels and left out images of this process's share of a split, in the mode that the model is in."""
        size = EVALUATION_ROWS
        if self.data.images:
            size = max(2 * -(-self.batch_size // (self.world.size * self.config.accumulate)), 32)
        begin, end = (len(split) * (self.world.rank + i) // self.world.size for i in (0, 1))
        rows = [slice(first, min(first + size, end)) for first in range(begin, end, size)]
        for batch in split.batches(rows):
            if not len(batch.y):
                continue
            with self.stepper.autocast():
                output = self.stepper.forward(self.stepper.laid_out(batch.x))
            yield output if self.config.amp == "no" else output.float(), batch.y, batch.skipped

    def state_dict(self) -> dict[str, Any]:
        """All that decides how the run goes on; all processes must ask for it together."""
        if self.step:  # at the end of an epoch that was done already
            self.stepper.average_statistics()
        state = {
            "format": CHECKPOINT_FORMAT,
            "hash": self.config.hash(),
            "epoch": self.epoch,
            "step": self.step,
            "since_best": self.since_best,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            **self.stepper.state_dict(),
            "schedule": self.schedule.state_dict(),
            "penalties": [penalty.state_dict() for penalty in self.penalties],
            "rng": {"cpu": torch.get_rng_state(), "order": self._order_state, "shuffle": self.shuffle.get_state()},
            "best": vars(self.best).copy(),
            "last": self.last,
        }
        if self.step:
            state |= self.partial()
        if self.device.type == "cuda":
            state["rng"]["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def partial(self) -> dict[str, Any]:
        """The sums of an epoch that is not yet over."""
        status = self.status.get("train") if self.logged else None
        return {
            "totals": self._totals.state_dict(self.world),
            "status": status.state_dict(self.world) if status else {},
        }

    def load_partial(self, state: dict[str, Any]) -> None:
        """Restores `partial()`."""
        self._totals.load_state_dict(state["totals"], self.device)
        if state["status"]:
            self.status["train"].load_state_dict(state["status"], self.device)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a state that `state_dict` gave, in whatever number of processes."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.since_best, self.seconds = state["since_best"], state["seconds"]
        self.model.load_state_dict(state["model"])
        self.stepper.load_state_dict(state)
        self.schedule.load_state_dict(state["schedule"])
        for penalty, saved in zip(self.penalties, state["penalties"], strict=True):
            penalty.load_state_dict(saved)
        self._order_state = state["rng"]["order"]
        self.shuffle.set_state(state["rng"]["shuffle"])
        if self.world.writes:
            torch.set_rng_state(state["rng"]["cpu"])
            if self.device.type == "cuda" and "cuda" in state["rng"]:
                torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)
            # The sums are those of all processes, so one alone goes on from them.
            if self.step:
                self.load_partial(state)
        else:
            torch.manual_seed(hash((self.config.seed, self.epoch, self.step, self.world.rank)) % 2**63)
        self.best = Best(**state["best"])
        self.last = state["last"]

    def missed_targets(self) -> list[str]:
        """Says which wanted sparsity the present weights are more than 0.05 away from."""
        found = []
        for penalty in self.penalties:
            share, target = penalty.regularizer.zero_share(), penalty.schedule.target_sparsity
            if target is not None and share is not None and abs(float(share) - target) > 0.05:
                found.append(
                    f"{penalty.name}: {float(share):.1%} of its {penalty.regularizer.coverage().unit} are zero, not the"
                    f" wanted {target:.1%}; more --epochs, or a lower strength to begin from, may help"
                )
        return found

    def restore_best(self) -> None:
        """Puts the best weights into the model, and folds into them what a regularizer holds beside them (gates)."""
        self.model.load_state_dict(self.best.weights)
        for penalty, saved in zip(self.penalties, self.best.penalties, strict=True):
            penalty.load_state_dict(saved)
            penalty.regularizer.fold()

    def _row(self) -> dict[str, float]:
        """The row of the epoch that is over."""
        totals = self._totals
        totals.merge(self.world)
        values = totals.metrics("train", self.targets())
        if self.status:
            status = self.status["train"]
            status.merge(self.world)
            values |= {f"train/jr/{key}": value for key, value in status.compute().items()}
        with self.speed.evaluation(), self.averaged():
            values |= self.evaluate("val", self.data.val) | self.zeros()
        return {
            "epoch": self.epoch,
            "lr": self.last_lr,
            **{key: p.strength for key, p in zip(self.strength_keys(), self.penalties, strict=True)},
            **to_floats(values),
        }

    def averaged(self) -> Any:
        """A block in which the model has its averaged weights, where they are averaged."""
        return self.stepper.ema.in_place() if self.stepper.ema else nullcontext()

    def zeros(self) -> dict[str, Tensor]:
        """Shares of zeros, by unit."""
        if not self.sparsity:
            return {}
        shares = {p.regularizer.coverage().unit: p.regularizer.zero_share() for p in self.penalties}
        with self._folded():
            values = self.sparsity.row()
        # What the weights alone do not tell: gates, and blocks, heads or groups that span layers.
        more = {f"sparsity/{unit}": share for unit, share in shares.items() if share is not None}
        return more | values

    @contextmanager
    def _folded(self) -> Iterator[None]:
        """Gates folded into the weights, which are put back at the end."""
        gated = [p.regularizer for p in self.penalties if list(p.regularizer.parameters())]
        weights, states = {}, []
        if gated:
            weights = {name: value.clone() for name, value in self.model.state_dict().items()}
            states = [regularizer.state_dict() for regularizer in gated]
            for regularizer in gated:
                regularizer.fold()
        try:
            yield
        finally:
            if gated:
                self.model.load_state_dict(weights)
                for regularizer, state in zip(gated, states, strict=True):
                    regularizer.load_state_dict(state)

    def strength_keys(self) -> list[str]:
        """`lambda` for the one penalty that most runs have, else one name each."""
        return ["lambda"] if len(self.penalties) == 1 else [f"lambda/{penalty.label}" for penalty in self.penalties]

    def _check_finite(self, row: dict[str, float]) -> None:
        bad = [key for key in ("train/total_loss", "val/loss") if not math.isfinite(row[key])]
        if bad:
            raise Diverged(
                f"{bad[0]} is {row[bad[0]]} at epoch {self.epoch}; a lower --lr, --lambda or a --grad-clip may help"
            )

    def _remember_best(self, row: dict[str, float], metric: float) -> None:
        if math.isnan(metric):  # R2 of a constant target: never better, but a first row is the best so far
            metric = -math.inf
        first = self.best.epoch < self.settles <= self.epoch
        if metric > self.best.metric or not self.best.row or first:
            self.best = Best(self.epoch, metric, row, *self.capture())
            self.since_best = 0
        else:
            self.since_best += 1

    def _captured(self) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Copies of the weights, averaged where they are, and of the state of the penalties."""
        with self.averaged():
            weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            return weights, copy.deepcopy([penalty.state_dict() for penalty in self.penalties])

    def ended(self) -> str | None:
        """Why the run shall end before its last epoch, or None."""
        config = self.config
        if self.ended_by:
            return self.ended_by
        if self.best.epoch < self.settles:
            return None
        if config.stop_at is not None and self.best.metric >= config.stop_at:
            return "stop_at"
        if config.patience is not None and self.since_best >= config.patience:
            return "patience"
        return None
