"""The training loop: plain PyTorch, data resident on the device, one host sync per logged row."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from regx.data.module import DataModule, Split
from regx.errors import RunFailed
from regx.regularizers import Preactivations
from regx.training.config import RunConfig
from regx.training.ema import Ema
from regx.training.folder import CHECKPOINT_FORMAT
from regx.training.objective import Objective, parameter_groups
from regx.training.penalty import Penalty
from regx.training.schedules import Schedule
from regx.training.sparsity import SparsityMeter
from regx.training.status import StatusTracker

# Rows per forward pass of an evaluation; large enough that every tabular set is one pass.
EVALUATION_ROWS = 8192


@dataclass
class Best:
    """The best logged epoch so far by the monitored validation metric, with its row, weights and regularizers."""

    epoch: int = 0
    metric: float = -math.inf
    row: dict[str, float] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    penalties: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """One run: a model, its data, penalties, optimiser and schedule, and how far it has come.

    Args:
        config: how to train.
        data: datamodule on the device of the model.
        model: network on its device.
        penalties: regularizers attached to the model; those that never had a strength above 0 are measured but leave
            no trace in training.
        preactivations: hooks whose extremes the unit and point status is read from; None measures no status.
    """

    def __init__(
        self,
        config: RunConfig,
        data: DataModule,
        model: nn.Module,
        penalties: list[Penalty],
        preactivations: Preactivations | None,
    ) -> None:
        self.config = config
        self.data = data
        self.model = model
        self.penalties = penalties
        self.objective = Objective(data, config.label_smoothing)
        self.monitor = f"val/{self.objective.monitor}"
        own = [parameter for penalty in penalties for parameter in penalty.regularizer.parameters()]
        self.optimizer = make_optimizer(config, model, own)
        self.ema = Ema([*model.parameters(), *own], config.ema) if config.ema else None
        self.sparsity = (
            SparsityMeter(model, data.train.x[:1], blocks=config.log_blocks) if config.measures_sparsity() else None
        )
        # Before, a best epoch would be one of a network that is not yet what the penalties shall make of it.
        self.settles = max((penalty.schedule.settles(config.epochs) for penalty in penalties), default=1)
        self.schedule = Schedule(self.optimizer, config)
        self.status = (
            {stage: StatusTracker(preactivations) for stage in ("train", "val", "test")} if preactivations else {}
        )
        self.shuffle = torch.Generator().manual_seed(config.seed)
        self.device = data.train.x.device
        self.epoch = 0
        self.since_best = 0
        self.seconds = 0.0
        self.best = Best()
        self.last: dict[str, float] = {}

    def fit(
        self,
        on_row: Callable[[dict[str, float]], None],
        on_checkpoint: Callable[[], None],
        stop: Callable[[], bool],
    ) -> str:
        """Trains until the last epoch or an early end.

        Args:
            on_row: called with each logged row.
            on_checkpoint: called when `state_dict` should be saved.
            stop: asked after every epoch whether somebody interrupted the run.

        Returns:
            Why it ended: `epochs`, `stop_at`, `patience` or `interrupted`.

        Raises:
            RunFailed: the loss is no longer finite.
        """
        config = self.config
        began = time.perf_counter() - self.seconds
        saved = time.perf_counter()
        epochs = 1 if config.fast_dev_run else config.epochs
        while self.epoch < epochs:
            if self.best.row and (reason := self._ended()):
                return reason
            self.epoch += 1
            for penalty in self.penalties:
                penalty.begin(self.epoch)
            logged = self.epoch % config.log_every == 0 or self.epoch in (1, epochs)
            sums = self._train_epoch(logged)
            for penalty in self.penalties:
                penalty.end(self.epoch)
            metric = None
            if logged:
                row = self._row(sums)
                self._check_finite(row)
                self.last = row
                metric = row[self.monitor]
                self._remember_best(row, metric)
                on_row(row)
            self.schedule.advance(metric)
            self.seconds = time.perf_counter() - began
            if time.perf_counter() - saved >= config.checkpoint_every or stop():
                on_checkpoint()
                saved = time.perf_counter()
            if stop():
                return "interrupted"
        return self._ended() or "epochs"

    def evaluate(self, stage: str, split: Split) -> dict[str, Tensor]:
        """Loss, penalties, metrics and status of a split in evaluation mode, as 0-d tensors; no host sync."""
        self.model.eval()
        status = self.status.get(stage)
        if status:
            status.reset()
        totals = _Totals(self)
        with torch.no_grad():
            for begin in range(0, len(split), EVALUATION_ROWS):
                x, y = split.x[begin : begin + EVALUATION_ROWS], split.y[begin : begin + EVALUATION_ROWS]
                output = self.model(x)
                loss = self.objective.loss(output, y)
                totals.add(loss, [p.loss() for p in self.forward_penalties], output, y)
                if status:
                    status.update()
        self.model.train()
        return totals.metrics(stage, split)

    @property
    def forward_penalties(self) -> list[Penalty]:
        """The penalties whose loss depends on the forward pass."""
        return [p for p in self.penalties if p.regularizer.has_loss and not p.regularizer.of_parameters]

    def state_dict(self) -> dict[str, Any]:
        """All that decides how the run goes on: weights, optimiser, schedule, random states, the best so far."""
        state = {
            "format": CHECKPOINT_FORMAT,
            "hash": self.config.hash(),
            "epoch": self.epoch,
            "since_best": self.since_best,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "penalties": [penalty.state_dict() for penalty in self.penalties],
            "ema": self.ema.state_dict() if self.ema else {},
            "rng": {"cpu": torch.get_rng_state(), "shuffle": self.shuffle.get_state()},
            "best": vars(self.best).copy(),
            "last": self.last,
        }
        if self.device.type == "cuda":
            state["rng"]["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a state that `state_dict` gave."""
        self.epoch, self.since_best, self.seconds = state["epoch"], state["since_best"], state["seconds"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for penalty, saved in zip(self.penalties, state["penalties"], strict=True):
            penalty.load_state_dict(saved)
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        torch.set_rng_state(state["rng"]["cpu"])
        self.shuffle.set_state(state["rng"]["shuffle"])
        if self.device.type == "cuda" and "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)
        self.best = Best(**state["best"])
        self.last = state["last"]

    def weights_are_finite(self) -> bool:
        """Whether a checkpoint of the present weights would be of use."""
        return all(bool(norm.isfinite()) for norm in torch._foreach_norm(self._trained()))

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

    def _trained(self) -> list[Tensor]:
        """What the optimiser trains: the model's parameters, and gates."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def restore_best(self) -> None:
        """Puts the best weights into the model, and folds into them what a regularizer holds beside them (gates)."""
        self.model.load_state_dict(self.best.weights)
        for penalty, saved in zip(self.penalties, self.best.penalties, strict=True):
            penalty.load_state_dict(saved)
            penalty.regularizer.fold()

    def _train_epoch(self, logged: bool) -> _Totals:
        config, status = self.config, self.status.get("train") if logged else None
        if status:
            status.reset()
        totals = _Totals(self)
        # The closed form of a gradient knows nothing of clipping.
        clipped = [p for p in self.penalties if p.regularizer.of_parameters and p.schedule.clip is not None]
        in_turn = sorted((p.regularizer for p in self.penalties), key=lambda regularizer: regularizer.turn)
        by_hand = [r for r in in_turn if r.of_parameters and all(r is not p.regularizer for p in clipped)]
        trained = self._trained()
        for x, y in self._batches():
            self.optimizer.zero_grad(set_to_none=True)
            output = self.model(x)
            loss = self.objective.loss(output, y)
            total = loss if config.task_loss else loss * 0.0
            losses = []
            for penalty in self.forward_penalties:
                if penalty.strength > 0:
                    value = penalty.loss()
                    total = total + penalty.strength * value
                else:
                    with torch.no_grad():
                        value = penalty.loss()
                losses.append(value.detach())
            for penalty in clipped:
                if penalty.strength > 0:
                    total = total + penalty.strength * penalty.loss()
            total.backward()
            for regularizer in by_hand:
                regularizer.add_gradients()
            if config.grad_clip is not None:
                nn.utils.clip_grad_norm_(trained, config.grad_clip)
            self.optimizer.step()
            for regularizer in in_turn:
                regularizer.step(self.optimizer)
            if self.ema:
                self.ema.update()
            with torch.no_grad():
                totals.add(loss.detach(), losses, output.detach(), y)
                if status:
                    status.update()
        return totals

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.data.train.x, self.data.train.y
        # Shuffled on the CPU, so that the order is the same on every device.
        order = torch.randperm(len(x), generator=self.shuffle).to(self.device, non_blocking=True)
        size = len(x) if self.config.batch_size == "full" else int(self.config.batch_size)
        for begin in range(0, len(x), size):
            rows = order[begin : begin + size]
            yield x[rows], y[rows]
            if self.config.fast_dev_run:
                return

    def _row(self, sums: _Totals) -> dict[str, float]:
        values = sums.metrics("train", self.data.train)
        with self.ema.in_place() if self.ema else nullcontext():
            values |= self.evaluate("val", self.data.val) | self._zeros()
        return {
            "epoch": self.epoch,
            "lr": self.schedule.lr,
            **{key: p.strength for key, p in zip(self._strength_keys(), self.penalties, strict=True)},
            **to_floats(values),
        }

    def _zeros(self) -> dict[str, Tensor]:
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

    def _strength_keys(self) -> list[str]:
        """`lambda` for the one penalty that most runs have, else one name each."""
        return ["lambda"] if len(self.penalties) == 1 else [f"lambda/{penalty.label}" for penalty in self.penalties]

    def _check_finite(self, row: dict[str, float]) -> None:
        bad = [key for key in ("train/total_loss", "val/loss") if not math.isfinite(row[key])]
        if bad:
            raise RunFailed(
                f"{bad[0]} is {row[bad[0]]} at epoch {self.epoch}; a lower --lr, --lambda or a --grad-clip may help"
            )

    def _remember_best(self, row: dict[str, float], metric: float) -> None:
        if math.isnan(metric):  # R2 of a constant target: never better, but a first row is the best so far
            metric = -math.inf
        first = self.best.epoch < self.settles <= self.epoch
        if metric > self.best.metric or not self.best.row or first:
            with self.ema.in_place() if self.ema else nullcontext():
                weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
                penalties = copy.deepcopy([penalty.state_dict() for penalty in self.penalties])
            self.best = Best(self.epoch, metric, row, weights, penalties)
            self.since_best = 0
        else:
            self.since_best += 1

    def _ended(self) -> str | None:
        config = self.config
        if self.best.epoch < self.settles:
            return None
        if config.stop_at is not None and self.best.metric >= config.stop_at:
            return "stop_at"
        if config.patience is not None and self.since_best >= config.patience:
            return "patience"
        return None


class _Totals:
    """Sums over the batches of an epoch, on the device."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._rows = 0
        self._losses: Tensor | float = 0.0
        self._counts: Tensor | float = 0.0
        self._targets: list[Tensor] = []

    def add(self, loss: Tensor, penalties: list[Tensor], output: Tensor, y: Tensor) -> None:
        """Adds a batch: its task loss and penalties count as often as it has rows."""
        self._rows += len(y)
        self._losses = self._losses + torch.stack([loss.float(), *(p.float() for p in penalties)]).double() * len(y)
        self._counts = self._counts + self._trainer.objective.counts(output, y)
        self._targets.append(y)

    def metrics(self, stage: str, split: Split) -> dict[str, Tensor]:
        """Means and metrics of all batches under their log keys."""
        trainer = self._trainer
        assert isinstance(self._losses, Tensor) and isinstance(self._counts, Tensor)
        mean = self._losses / self._rows
        values = {f"{stage}/loss": mean[0]}
        total = mean[0] if trainer.config.task_loss else mean[0] * 0.0
        of_forward = dict(zip((p.label for p in trainer.forward_penalties), mean[1:], strict=True))
        for penalty in trainer.penalties:
            if not penalty.regularizer.has_loss:
                continue
            with torch.no_grad():  # of the weights: as they are now
                value = of_forward[penalty.label] if penalty.label in of_forward else penalty.loss().double()
            values[f"{stage}/{penalty.label}"] = value
            if penalty.schedule.peak > 0:
                values[f"{stage}/scaled_{penalty.label}"] = penalty.strength * value
                total = total + penalty.strength * value
        values[f"{stage}/total_loss"] = total
        y = split.y if self._rows == len(split) else torch.cat(self._targets)
        found = trainer.objective.metrics(self._counts, y)
        values |= {f"{stage}/{name}": value for name, value in found.items()}
        if stage in trainer.status:
            values |= {f"{stage}/jr/{key}": value for key, value in trainer.status[stage].compute().items()}
        return values


def to_floats(values: dict[str, Tensor]) -> dict[str, float]:
    """Fetches 0-d tensors from the device in one transfer."""
    packed = torch.stack([value.to(torch.float64) for value in values.values()]).tolist()
    return dict(zip(values, packed, strict=True))


def make_optimizer(config: RunConfig, model: nn.Module, more: Sequence[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """The optimiser that `config` asks for; fused where the device has it (all of CPU and CUDA do).

    Args:
        config: how to train.
        model: whose parameters are trained.
        more: parameters beside the model's (gates), which are never decayed.
    """
    groups: Any = parameter_groups(model, config.weight_decay)
    if more:
        groups.append({"params": list(more), "weight_decay": 0.0})
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.lr, config.momentum, nesterov=config.nesterov, fused=True)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, config.lr, weight_decay=0.0, fused=True)
