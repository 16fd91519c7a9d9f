"""Learning rates over epochs, by name, on torch.optim.lr_scheduler. Nothing heavy is imported until one is built.

A schedule's clock ticks once per epoch, or, with --lr-update step, after every step: `per_epoch` times in an epoch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.errors import UserError
from regx.registry import Registry, register
from regx.training.options import options_of

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from regx.training.config import RunConfig

REGISTRY = Registry("schedule", Path(__file__).parent, "regx.training")


@register("constant")
def constant(optimizer: Optimizer, config: RunConfig, per_epoch: int) -> LRScheduler:
    """Stays at --lr."""
    from torch.optim.lr_scheduler import ConstantLR

    return ConstantLR(optimizer, factor=1.0)


@register("step", source="torch.optim.lr_scheduler.StepLR")
def step(optimizer: Optimizer, config: RunConfig, per_epoch: int) -> LRScheduler:
    """Multiplies by --lr-gamma every --lr-cycle-length epochs."""
    from torch.optim.lr_scheduler import StepLR

    return StepLR(optimizer, cycle_length(config, per_epoch), config.lr_gamma)


@register("multistep", source="torch.optim.lr_scheduler.MultiStepLR")
def multistep(optimizer: Optimizer, config: RunConfig, per_epoch: int) -> LRScheduler:
    """Multiplies by --lr-gamma at each of --lr-milestones."""
    from torch.optim.lr_scheduler import MultiStepLR

    return MultiStepLR(optimizer, [epoch * per_epoch for epoch in milestones(config)], config.lr_gamma)


@register("exponential", source="torch.optim.lr_scheduler.ExponentialLR")
def exponential(optimizer: Optimizer, config: RunConfig, per_epoch: int) -> LRScheduler:
    """Multiplies by --lr-gamma every epoch."""
    from torch.optim.lr_scheduler import ExponentialLR

    return ExponentialLR(optimizer, config.lr_gamma ** (1 / per_epoch))


@register("cosine", source="Loshchilov & Hutter 2017; torch.optim.lr_scheduler.CosineAnnealingLR")
def cosine(optimizer: Optimizer, config: RunConfig, per_epoch: int) -> LRScheduler:
    """Falls from --lr to --lr-min along half a cosine of --lr-warmup + --lr-cycle-length epochs, then rises again."""
    from torch.optim.lr_scheduler import CosineAnnealingLR

    return CosineAnnealingLR(optimizer, cycle_length(config, per_epoch) + warmup(config, per_epoch), config.lr_min)


@register("restarts", source="Loshchilov & Hutter 2017 (SGDR); torch.optim.lr_scheduler.CosineAnnealingWarmRestarts")
def restarts(optimizer: Optimizer, config: RunConfig, per_epoch: int) -> LRScheduler:
    """Half a cosine to --lr-min, restarted every --lr-cycle-length epochs, each cycle --lr-cycle-mult times longer."""
    from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

    return CosineAnnealingWarmRestarts(optimizer, cycle_length(config, per_epoch), config.lr_cycle_mult, config.lr_min)


@register("cyclic", source="Smith 2017; torch.optim.lr_scheduler.CyclicLR")
def cyclic(optimizer: Optimizer, config: RunConfig, per_epoch: int) -> LRScheduler:
    """Rises from --lr-min to --lr in --lr-cycle-length epochs and falls back, shaped by --lr-cycle-mode."""
    from torch.optim.lr_scheduler import CyclicLR

    return CyclicLR(
        optimizer,
        base_lr=config.lr_min,
        max_lr=config.lr,
        step_size_up=cycle_length(config, per_epoch),
        mode=config.lr_cycle_mode,  # type: ignore[arg-type]
        gamma=config.lr_gamma ** (1 / per_epoch) if config.lr_cycle_mode == "exp_range" else 1.0,
        cycle_momentum=False,
    )


@register("plateau", source="torch.optim.lr_scheduler.ReduceLROnPlateau")
def plateau(optimizer: Optimizer, config: RunConfig, per_epoch: int) -> Any:
    """Multiplies by --lr-gamma after --lr-patience logged epochs without a better validation metric."""
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    return ReduceLROnPlateau(optimizer, "max", config.lr_gamma, config.lr_patience, min_lr=config.lr_min)


def cycle_length(config: RunConfig, per_epoch: int) -> int:
    """Ticks of a cycle: as asked for, else all that follow the warm-up."""
    if config.lr_cycle_length:
        return config.lr_cycle_length * per_epoch
    return max(1, config.epochs * per_epoch - warmup(config, per_epoch))


def warmup(config: RunConfig, per_epoch: int) -> int:
    """Ticks of warm-up: `auto` is 5 epochs, or a tenth of a shorter run."""
    if config.lr_warmup == "auto":
        return min(50, config.epochs) * per_epoch // 10
    return int(config.lr_warmup) * per_epoch


def milestones(config: RunConfig) -> list[int]:
    """The epochs of --lr-milestones, ascending."""
    return sorted(int(part) for part in str(config.lr_milestones).split(","))


# Option -> the schedules that it has an effect on.
_USED_BY = {
    "lr_gamma": ("multistep", "step", "exponential", "plateau", "cyclic"),
    "lr_cycle_length": ("cosine", "restarts", "cyclic", "step"),
    "lr_cycle_mult": ("restarts",),
    "lr_cycle_mode": ("cyclic",),
    "lr_min": ("cosine", "restarts", "cyclic", "plateau"),
    "lr_patience": ("plateau",),
}


def check(config: RunConfig) -> None:
    """Raises `UserError` where a schedule lacks something or an option has no use."""
    if config.lr_schedule == "multistep":
        if config.lr_milestones is None:
            raise UserError("is needed by --lr-schedule multistep, as 100,150", "lr_milestones")
        if not all(part.strip().isdigit() for part in config.lr_milestones.split(",")):
            raise UserError(f"{config.lr_milestones!r} is not a list of epochs as 100,150", "lr_milestones")
    elif config.lr_milestones is not None:
        raise UserError(f"is for --lr-schedule multistep, not {config.lr_schedule}", "lr_milestones")
    if config.lr_update == "step" and config.lr_schedule == "plateau":
        raise UserError("plateau looks at whole epochs; use --lr-update epoch", "lr_update")
    if config.lr_warmup != "auto" and 0 < int(config.lr_warmup) >= config.epochs:
        raise UserError(f"{config.lr_warmup} leaves nothing of {config.epochs} epochs", "lr_warmup")
    for name, users in _USED_BY.items():
        default = next(item.default for item in options_of(type(config)) if item.name == name)
        if getattr(config, name) != default and config.lr_schedule not in users:
            raise UserError(f"is for --lr-schedule {', '.join(users)}, not {config.lr_schedule}", name)
    if config.lr_min > config.lr:
        raise UserError(f"{config.lr_min:g} is above --lr {config.lr:g}", "lr_min")


class Schedule:
    """The learning rate of a run: `advance` once per tick.

    Args:
        optimizer: whose rates are set.
        config: names the schedule and its options. During the first `lr_warmup` epochs the rate is multiplied by a
            factor that rises linearly from 1e-5 to 1.
        per_epoch: ticks per epoch: 1, or the number of steps.
    """

    def __init__(self, optimizer: Optimizer, config: RunConfig, per_epoch: int = 1) -> None:
        self._optimizer = optimizer
        self._warmup = warmup(config, per_epoch)
        self._on_metric = config.lr_schedule == "plateau"
        self._inner = REGISTRY[config.lr_schedule].load()(optimizer, config, per_epoch)
        self._tick = 0
        self._rate = self.lr
        self._set(self._rate * self._factor())

    @property
    def lr(self) -> float:
        """The current rate."""
        return self._optimizer.param_groups[0]["lr"]

    def advance(self, metric: float | None = None) -> None:
        """Moves to the next tick; `metric` is the validation metric of this epoch, if it was measured."""
        # The inner schedule reads the rate it set last, so it must not see the warm-up's factor.
        self._set(self._rate)
        if not self._on_metric:
            self._inner.step()
        elif metric is not None:
            self._inner.step(metric)
        self._tick += 1
        self._rate = self.lr
        self._set(self._rate * self._factor())

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule is; plain numbers only."""
        inner = self._inner.state_dict().items()
        plain = {key: value for key, value in inner if isinstance(value, int | float | list | None)}
        return {"tick": self._tick, "rate": self._rate, "inner": plain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken; the optimiser's own state must be loaded too."""
        self._tick, self._rate = state["tick"], state["rate"]
        self._inner.load_state_dict(self._inner.state_dict() | state["inner"])
        self._set(self._rate * self._factor())

    def _factor(self) -> float:
        return 1e-5 + (1 - 1e-5) * min(self._tick / self._warmup, 1) if self._warmup else 1.0

    def _set(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
