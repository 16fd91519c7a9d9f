"""One training step: forward and backward passes over the parts of a batch, penalties, clipping, optimiser."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from regx.data.mixing import mix
from regx.regularizers import Regularizer
from regx.training.config import RunConfig
from regx.training.distributed import World
from regx.training.ema import Ema
from regx.training.objective import Objective, parameter_groups
from regx.training.penalty import Penalty

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Stepper:
    """Trains a model step by step.

        for x, y in parts_of_the_batch:
            stepper.accumulate(x, y, weight, first=..., last=...)
        stepper.update()

    Args:
        config: how to train.
        model: network on its device.
        objective: the task.
        penalties: regularizers attached to the model.
        world: the processes that train it; with several, gradients are averaged over them.
    """

    def __init__(
        self, config: RunConfig, model: nn.Module, objective: Objective, penalties: Sequence[Penalty], world: World
    ) -> None:
        self.config = config
        self.model = model
        self.objective = objective
        self.world = world
        self.device = next(model.parameters()).device
        self.own = [parameter for penalty in penalties for parameter in penalty.regularizer.parameters()]
        self.optimizer = make_optimizer(config, model, self.own)
        # Averaged weights need averaged running statistics: those of the present weights are of another network.
        self._statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self.ema = Ema([*model.parameters(), *self.own, *self._statistics], config.ema) if config.ema else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        self.in_forward = [penalty for penalty in penalties if penalty.of_forward]
        # The closed form of a gradient knows nothing of clipping.
        clipped = [p for p in penalties if p.regularizer.of_parameters and p.schedule.clip is not None]
        self._clipped = clipped
        in_turn = sorted((p.regularizer for p in penalties), key=lambda regularizer: regularizer.turn)
        self._in_turn = [r for r in in_turn if type(r).step is not Regularizer.step]
        self._by_hand = [r for r in in_turn if r.of_parameters and all(r is not p.regularizer for p in clipped)]
        self.has_weight_penalties = bool(self._by_hand or clipped)
        self.follows = bool(self._in_turn or self.ema)
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.forward: Callable[[Tensor], Tensor] = torch.compile(model) if config.compile else model
        self._wrapped = self.forward
        if world.size > 1:
            kind = nn.parallel.DistributedDataParallel
            # Running statistics are averaged before they are used (`World.average_buffers`); PyTorch 2.15 renamed this.
            names = inspect.signature(kind).parameters
            buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
            self._wrapped = kind(
                self.forward,  # type: ignore[arg-type]
                device_ids=[self.device] if self.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                **{buffers: False},  # type: ignore[arg-type]
            )

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        if self.config.amp == "no":
            return nullcontext()
        return torch.autocast(self.device.type, PRECISIONS[self.config.amp])

    def laid_out(self, x: Tensor) -> Tensor:
        """Inputs in the memory format of the model's weights."""
        if x.dim() != 4:
            return x
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return x.contiguous(memory_format=layout)

    def accumulate(
        self, x: Tensor, y: Tensor, weight: float, *, first: bool, last: bool, mixing: torch.Generator | None = None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Forward and backward pass over a part of the batch.

        Args:
            x: inputs.
            y: labels or targets.
            weight: share of the part in the whole batch, times the number of processes, as their mean is taken.
            first: whether it is the first part: the gradients of the last step are dropped only now, as memory that is
                given back before the forward pass would have to be had anew in it.
            last: whether it is the last part: only then do processes exchange gradients.
            mixing: source of the random numbers of mixup and cutmix; None where neither is asked for.

        Returns:
            Task loss, losses of the penalties that depend on the forward pass, output; none with a gradient.
        """
        config = self.config
        target = y
        if mixing is not None:
            classes = self.objective.classes
            x, target = mix(x, y, classes, mixup=config.mixup, cutmix=config.cutmix, generator=mixing)
        several = isinstance(self._wrapped, nn.parallel.DistributedDataParallel)
        with self._wrapped.no_sync() if several and not last else nullcontext():  # type: ignore[union-attr]
            with self.autocast():
                output = self._wrapped(self.laid_out(x))
            output = output if config.amp == "no" else output.float()
            loss = self.objective.loss(output, target)
            total = loss if config.task_loss else loss * 0.0
            losses = []
            for penalty in self.in_forward:
                if penalty.strength > 0:
                    value = penalty.loss()
                    total = total + penalty.strength * value
                else:
                    with torch.no_grad():
                        value = penalty.loss()
                losses.append(value.detach())
            if weight != 1:
                total = total * weight
            if last and (clipped := self.clipped_loss()) is not None:
                total = total + clipped
            if first:
                self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(total).backward()
        return loss.detach(), losses, output.detach()

    def update(self) -> None:
        """The optimiser's step, and what penalties do before and after it."""
        self.world.average([parameter.grad for parameter in self.own if parameter.grad is not None])
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        self.add_penalty_gradients()
        if self.config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self._trained, self.config.grad_clip)
        scale = self.scaler.get_scale() if self.follows else 1.0  # it waits for the device
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.follows and self.scaler.get_scale() >= scale:  # else gradients were infinite: the optimiser did nothing
            self.follow()

    def add_penalty_gradients(self) -> None:
        """Adds the gradients of the penalties of weights whose closed form is used."""
        for regularizer in self._by_hand:
            regularizer.add_gradients()

    def clipped_loss(self) -> Tensor | None:
        """What the penalties of weights that are clipped, and so trained on by autograd, add to the loss."""
        found = [penalty.strength * penalty.loss() for penalty in self._clipped if penalty.strength > 0]
        return torch.stack(found).sum() if found else None

    def follow(self) -> None:
        """What penalties do after the optimiser's step (proximal steps, masks), and the averaging of weights."""
        for regularizer in self._in_turn:
            regularizer.step(self.optimizer)
        if self.ema:
            self.ema.update()

    def average_statistics(self) -> None:
        """Replaces running statistics by their means over the processes: each has seen other images."""
        averages = self.ema.average[-len(self._statistics) :] if self.ema and self._statistics else []
        self.world.average([*self._statistics, *averages])

    def weights_are_finite(self) -> bool:
        """Whether a checkpoint of the present weights would be of use."""
        return bool(torch.stack(torch._foreach_norm(self._trained)).isfinite().all())

    def state_dict(self) -> dict[str, Any]:
        """State of the optimiser, of the average and of the gradient scaler."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else {},
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self.optimizer.load_state_dict(state["optimizer"])
        # A fused step takes numbers as they lie in memory, and the checkpoint may come from another --channels-last.
        for parameter, own in self.optimizer.state.items():
            for key, value in own.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    own[key] = torch.empty_like(parameter).copy_(value)
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.scaler.load_state_dict(state["scaler"])


def make_optimizer(config: RunConfig, model: nn.Module, more: Sequence[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """The optimiser that `config` asks for; fused where the device has it (all of CPU and CUDA do).

    Args:
        config: how to train.
        model: whose parameters are trained.
        more: parameters beside the model's (gates), which are never decayed.
    """
    groups: Any = parameter_groups(model, config.weight_decay, config.decay_norms)
    if more:
        groups.append({"params": list(more), "weight_decay": 0.0})
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.lr, config.momentum, nesterov=config.nesterov, fused=True)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, config.lr, weight_decay=0.0, fused=True)
