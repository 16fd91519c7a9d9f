"""R runs as one program: their networks become windows into one flat tensor, and an epoch trains them all.

The objects of every run (its module, optimiser, penalties, schedule, trainer) stay what they are where it is trained by
itself; only the memory of their tensors is shared. So whatever is done once per epoch or less often, and every penalty
of weights, is the same code, and a checkpoint of one is a checkpoint of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regx.regularizers import Jumpstart
from regx.training.build import Experiment, keep_memory
from regx.training.experiments import RectangularConfig
from regx.training.loop import EVALUATION_ROWS, Trainer
from regx.training.vectorised import extremes
from regx.training.vectorised.assembly import assemble
from regx.training.vectorised.extremes import Found, Terms
from regx.training.vectorised.objective import Objectives
from regx.training.vectorised.optimizers import Optimizer
from regx.training.vectorised.rows import rows_of
from regx.training.vectorised.status import Statuses
from regx.training.vectorised.storage import Layout

# How the name of a batch normalisation's number of steps ends.
COUNTER = "num_batches_tracked"


@dataclass
class Member:
    """A run of a group.

    Attributes:
        experiment: the run as it would be by itself.
        generator: of its dropout.
        number: its place in the list that the group was made of.
        improved: whether the group holds weights of its best epoch that its trainer has not got yet.
    """

    experiment: Experiment
    generator: torch.Generator
    number: int
    improved: bool = False

    @property
    def trainer(self) -> Trainer:
        """Its trainer."""
        return self.experiment.trainer


@dataclass(frozen=True)
class Measured:
    """What an epoch or an evaluation found, a row per run.

    Attributes:
        losses: (R, 1) or (R, 2) float64 task loss, and Jumpstart's.
        metrics: (R, M) float64.
        status: (R, 16) float64; None where none is measured.
    """

    losses: Tensor
    metrics: Tensor
    status: Tensor | None


@dataclass
class Sums:
    """What is summed up over the batches of an epoch.

    Attributes:
        losses: (R, 1 or 2) float64, each batch as often as it has rows.
        counts: (R, ...) float64, as `Objectives.counts`.
        rows: of every run.
        statuses: of units and points.
    """

    losses: Tensor | float = 0.0
    counts: Tensor | float = 0.0
    rows: int = 0
    statuses: Statuses | None = None


class Group:
    """R runs that are trained together.

    Args:
        experiments: built, and loaded with their checkpoints where they go on from them; all alike (`likeness`).
        engine: `vectorised` or `native`.
        states: of the random numbers of each, where they are not those of this moment.
        _generic: whether dense rectangular networks too are computed as any modules are, to compare both ways.

    Raises:
        RunFailed: the data cannot be trained on in this way.
    """

    def __init__(
        self,
        experiments: Sequence[Experiment],
        engine: str = "vectorised",
        states: Sequence[Tensor] | None = None,
        *,
        _generic: bool = False,
    ) -> None:
        states = states or [torch.get_rng_state()] * len(experiments)
        self.members = [
            Member(experiment, torch.Generator().set_state(state), number)
            for number, (experiment, state) in enumerate(zip(experiments, states, strict=True))
        ]
        first = experiments[0].trainer
        self.trainer, self.config = first, experiments[0].config
        self.device = first.device
        self.step, self.steps, self.batch_size = first.step, first.steps, first.batch_size
        self.objectives = Objectives(first.objective)
        self.layers = tuple(first.status["train"].preactivations.hooked) if first.status else ()
        found = [p for p in first.penalties if isinstance(p.regularizer, Jumpstart)]
        self.measures_jumpstart = bool(found)
        self.terms = Terms.of(found[0].regularizer) if found else Terms((0.0,) * 4, (1.0, 1.0), "balanced", False)  # type: ignore[arg-type]
        self._hooked = found[0].regularizer.preactivations.hooked if found else self.layers  # type: ignore[attr-defined]
        self.taps = bool(self._hooked)
        rectangular = isinstance(self.config, RectangularConfig) and not experiments[0].data.images
        self._by_hand = rectangular and not _generic
        # Images of a pass of an evaluation are as many as where the run is trained by itself.
        self._piece = max(2 * self.batch_size, 32) if experiments[0].data.images else EVALUATION_ROWS
        self.data = {
            "train": rows_of([experiment.data.train for experiment in experiments]),
            "val": rows_of([experiment.data.val for experiment in experiments]),
        }
        if self.device.type == "cpu":
            keep_memory()
        self._bind()
        self._sums = self._partial()
        self._native: Any = None
        if engine == "native":
            from regx.training.vectorised.compiled import Compiled

            self._native = Compiled(self)  # type: ignore[arg-type]  # it is one: pyright knows two names of this module

    def __len__(self) -> int:
        return len(self.members)

    # The memory of the runs

    def _bind(self) -> None:
        """Puts the tensors of all runs into flat ones, and makes theirs windows into these."""
        self._make()
        for run, member in enumerate(self.members):
            self._fill(run, member)
        self._link()

    def _make(self) -> None:
        """Makes room for all runs."""
        config = self.config
        models = [member.experiment.model for member in self.members]
        generators = [member.generator for member in self.members]
        made = assemble(config, models, generators, self._hooked, by_hand=self._by_hand)
        self.layout, self.weights = made.layout, made.weights
        self.averages, self.statistics = made.averages, made.statistics
        self.network = made.network
        momentum = self._vector([member.experiment.config.momentum for member in self.members])
        self.optimizer = Optimizer(
            config.optimizer,
            self.layout,
            self.weights,
            momentum=momentum if config.momentum else None,
            nesterov=config.nesterov,
        )
        if config.grad_clip is not None:
            self.optimizer.clips = self._vector([member.experiment.config.grad_clip for member in self.members])
        self._best, self._best_statistics = torch.zeros_like(self.weights), torch.zeros_like(self.statistics)
        # What an optimiser of torch remembers of its steps, per run and parameter; proximal steps read it.
        self._counts = torch.zeros(len(self), len(self.layout.places), device=self.device)

    def _flats(self) -> list[tuple[Layout, Tensor]]:
        """Everything that runs have in flat tensors, and their layouts."""
        optimizer = self.optimizer
        of_weights = [self.weights, self._best, optimizer.first, *([optimizer.second] if len(optimizer.second) else [])]
        of_statistics = [self.statistics, self._best_statistics]
        return [(self.layout, x) for x in of_weights] + [(self.averages, x) for x in of_statistics]

    def _fill(self, run: int, member: Member) -> None:
        """Copies what a run has into the flat tensors."""
        model, optimizer = member.experiment.model, member.trainer.stepper.optimizer
        mine, best = self.layout.parts(self.weights, run), self.layout.parts(self._best, run)
        moments = {"momentum_buffer": self.optimizer.first}
        if self.config.optimizer != "sgd":
            moments = {"exp_avg": self.optimizer.first, "exp_avg_sq": self.optimizer.second}
        parts = {key: self.layout.parts(flat, run) for key, flat in moments.items()}
        kept = member.trainer.best.weights
        for name, parameter in model.named_parameters():
            mine[name].copy_(parameter.data)
            if name in kept:
                best[name].copy_(kept[name])
            state = optimizer.state.get(parameter, {})
            for key, part in parts.items():
                if state.get(key) is not None:
                    part[name].copy_(state[key])
        self.optimizer.steps[run] = self._counts[run] = member.trainer.epochs_done * self.steps + member.trainer.step
        statistics = self.averages.parts(self.statistics, run)
        best_statistics = self.averages.parts(self._best_statistics, run)
        for name, buffer in model.named_buffers():
            if name in statistics:
                statistics[name].copy_(buffer)
                if name in kept:
                    best_statistics[name].copy_(kept[name])

    def _link(self) -> None:
        """Makes the tensors of all runs windows into the flat ones."""
        for run, member in enumerate(self.members):
            self._link_one(run, member)
        self.optimizer.numbers_changed()
        jumpstarts = [next((p for p in m.trainer.penalties if p.of_forward), None) for m in self.members]
        self._jumpstarts = jumpstarts
        clips = [p.schedule.clip if p else None for p in jumpstarts]
        self.clips = self._vector([float("inf") if c is None else c for c in clips]) if any(clips) else None
        steppers = [member.trainer.stepper for member in self.members]
        self._penalised = [stepper for stepper in steppers if stepper.has_weight_penalties]
        self._followed = [stepper for stepper in steppers if stepper.follows]

    def _link_one(self, run: int, member: Member) -> None:
        model, optimizer = member.experiment.model, member.trainer.stepper.optimizer
        layout, sgd = self.layout, self.config.optimizer == "sgd"
        mine, gradients = layout.parts(self.weights, run), layout.parts(self.network.gradients, run)
        first = layout.parts(self.optimizer.first, run)
        second = {} if sgd else layout.parts(self.optimizer.second, run)
        for number, (name, parameter) in enumerate(model.named_parameters()):
            parameter.data = mine[name]
            if not parameter.requires_grad:
                continue
            parameter.grad = gradients[name]
            state = optimizer.state[parameter]
            if not sgd:
                state |= {"step": self._counts[run, number], "exp_avg": first[name], "exp_avg_sq": second[name]}
            elif self.config.momentum:
                state["momentum_buffer"] = first[name]
        statistics = self.averages.parts(self.statistics, run)
        for name, buffer in model.named_buffers():
            if name in statistics:
                buffer.data = statistics[name]
        optimizer._opt_called = True  # type: ignore[attr-defined] # or its schedule would warn: it takes no step itself
        decays = [group["weight_decay"] for group in optimizer.param_groups]  # of weights, and of all else
        self.optimizer.decays[:, run] = torch.tensor([decays[0], decays[-1]], dtype=torch.float64)
        member.trainer.capture = lambda: self._capture(member)

    def _release(self, member: Member) -> None:
        """Gives a run its own memory back."""
        self.sync(member)
        model, optimizer = member.experiment.model, member.trainer.stepper.optimizer
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
            parameter.grad = None
            state = optimizer.state.get(parameter, {})
            for key, value in state.items():
                if isinstance(value, Tensor):
                    state[key] = value.clone()
        for buffer in model.buffers():
            buffer.data = buffer.data.clone()

    def sync(self, member: Member) -> None:
        """Brings up to date what only this group knows, before the run's state is saved or used."""
        run, trainer = self.members.index(member), member.trainer
        model = member.experiment.model
        trainer.step = self.step
        for name, buffer in model.named_buffers():
            if name.endswith(COUNTER):
                buffer.fill_(int(self.optimizer.steps[run]))
        if self.step:
            self._share(member)
        if member.improved:
            weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
            for layout, flat in ((self.layout, self._best), (self.averages, self._best_statistics)):
                weights |= {name: value.clone() for name, value in layout.parts(flat, run).items()}
            for name, value in weights.items():
                if name.endswith(COUNTER):
                    value.fill_(trainer.best.epoch * self.steps)
            trainer.best.weights = weights
            member.improved = False
        torch.set_rng_state(member.generator.get_state())

    def dismiss(self, numbers: Collection[int]) -> list[Member]:
        """Lets runs go, and makes the others a smaller group.

        Args:
            numbers: of the runs that leave.

        Returns:
            Those, with memory of their own.
        """
        left = [member for member in self.members if member.number in numbers]
        if not left:
            return []
        stay = [run for run, member in enumerate(self.members) if member.number not in numbers]
        for member in left:
            self._release(member)
        self.members = [self.members[run] for run in stay]
        if self.members:
            runs = torch.tensor(stay, device=self.device)
            for rows in self.data.values():
                rows.keep(runs)
            before, counts, steps = self._flats(), self._counts, self.optimizer.steps
            self._make()
            for (old, x), (new, y) in zip(before, self._flats(), strict=True):
                for view, into in zip(old.views(x).values(), new.views(y).values(), strict=True):
                    torch.index_select(view, 1, runs, out=into)
            self._counts.copy_(counts[runs])
            self.optimizer.steps.copy_(steps[stay])
            self._link()
        return left

    def _capture(self, member: Member) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """What a trainer keeps of its best epoch: the weights, not yet, as all runs' are copied together."""
        member.improved = True
        return {}, [penalty.state_dict() for penalty in member.trainer.penalties]

    def keep_best(self) -> None:
        """Copies the weights of the runs whose present epoch is their best so far."""
        better = [m.improved and m.trainer.best.epoch == m.trainer.epoch for m in self.members]
        if not any(better):
            return
        mask = torch.tensor(better, device=self.device)
        flats = ((self.layout, self.weights, self._best), (self.averages, self.statistics, self._best_statistics))
        for layout, now, best in flats:
            for view, into in zip(layout.views(now).values(), layout.views(best).values(), strict=True):
                torch.where(mask.view(1, -1, *[1] * (view.dim() - 2)), view, into, out=into)

    def _vector(self, values: Sequence[Any], like: Tensor | None = None) -> Tensor:
        dtype = torch.float64 if like is None else like.dtype
        return torch.tensor(list(values), dtype=dtype, device=self.device)

    # Epochs

    def train_epoch(
        self, *, record: bool | None = None, on_step: Callable[[int], bool] = lambda step: False
    ) -> Sums | None:
        """Trains all runs for the rest of the epoch that they are in, or for a new one.

        Args:
            record: whether losses, metrics and status are summed up; by default where some run logs the epoch.
            on_step: called after every step with the number of steps done; whether to stop there.

        Returns:
            The sums; None where it was stopped within the epoch.
        """
        if not self.step:
            for member in self.members:
                member.trainer.begin_epoch()
            self._sums = Sums()
        if record is None:
            record = any(member.trainer.logged for member in self.members)
        order = torch.stack([member.trainer.order() for member in self.members]).to(self.device)
        self._read_numbers()
        if self._native is not None and not self.step:
            self._sums = self._native.train(order, record)
            self.step = self.steps
            on_step(self.step)
        plan = [order[:, i * self.batch_size : (i + 1) * self.batch_size] for i in range(self.step, self.steps)]
        for x, y in self.data["train"].batches(plan, [member.trainer.epoch for member in self.members]):
            self._train_step(x, y, record)
            self.step += 1
            if self.config.lr_update == "step":
                for member in self.members:
                    member.trainer.last_lr = member.trainer.schedule.lr
                    member.trainer.schedule.advance()
                self._read_numbers()
            if on_step(self.step) and self.step < self.steps:
                return None
        self.step = 0
        return self._sums

    def _read_numbers(self) -> None:
        """Learning rates and strengths as they are now."""
        rates = [member.trainer.schedule.lr for member in self.members]
        self.optimizer.rates.copy_(torch.tensor(rates, dtype=torch.float64))
        self.optimizer.numbers_changed()
        strengths = [penalty.strength if penalty else 0.0 for penalty in self._jumpstarts]
        self.strengths = self._vector(strengths, like=self.weights)
        self._penalises = any(strengths)
        if self.config.lr_update == "epoch":
            for member, rate in zip(self.members, rates, strict=True):
                member.trainer.last_lr = rate

    def _train_step(self, x: Tensor, y: Tensor, record: bool) -> None:
        network, sums = self.network, self._sums
        done = network.forward(x, train=True)
        loss, slope = self.objectives.loss(done.output, y)
        if not self.config.task_loss:
            slope = slope * 0.0
        found, penalty = self._penalise(done, slope, record)
        if record:
            self._add(sums, loss, penalty, done.output, y, found)
        network.backward(done, slope)
        for stepper in self._penalised:
            if (clipped := stepper.clipped_loss()) is not None:
                clipped.backward()
            stepper.add_penalty_gradients()
        self.optimizer.step(network.gradients)
        self.count_steps(1)
        for stepper in self._followed:
            stepper.follow()

    def count_steps(self, steps: int) -> None:
        """Steps that were taken, as the optimisers of the runs count them."""
        self._counts += steps

    def _penalise(self, done: Any, slope: Tensor, record: bool) -> tuple[list[Found], Tensor | None]:
        """Extremes, and Jumpstart's loss, whose gradient the network is told (`slope`, of the outputs, may change)."""
        if not self.taps or not (record or self._penalises):
            return [], None
        stacks = self.network.taps(done)
        places = self._penalises
        found = [extremes.find(x, places=places, average=self.terms.average) for x in stacks]
        if not self.measures_jumpstart:
            return found, None
        value, slopes = extremes.loss(found, self.terms)
        value, strengths = extremes.clipped(value, self.strengths, self.clips)
        if self._penalises:
            into = self.network.slopes(done, slope)
            for to, x, of, gradient in zip(into, stacks, found, slopes, strict=True):
                extremes.add_gradient(to, x, of, gradient, strengths, self.terms)
        return found, value

    def _add(
        self, sums: Sums, loss: Tensor, penalty: Tensor | None, output: Tensor, y: Tensor, found: Sequence[Found]
    ) -> None:
        rows = output.shape[2]
        losses = torch.stack([loss, *([] if penalty is None else [penalty])], 1)
        sums.losses = sums.losses + losses.double() * rows
        sums.counts = sums.counts + self.objectives.counts(output, y)
        sums.rows += rows
        if found and self.layers:
            if sums.statuses is None:
                sums.statuses = Statuses(self.network.positions, self.network.widths)
            sums.statuses.add([of.extremes for of in found])

    def evaluate(self, stage: str) -> Sums:
        """Losses, metrics and status of a part of the data in evaluation mode."""
        if self._native is not None:
            return self._native.evaluate(stage)
        rows, sums = self.data[stage], Sums()
        for begin in range(0, len(rows), self._piece):
            x, y = rows.cut(begin, min(begin + self._piece, len(rows)), len(self))
            done = self.network.forward(x, train=False)
            found, penalty = [], None
            if self.taps:
                found = [extremes.find(z, places=False) for z in self.network.taps(done)]
                if self.measures_jumpstart:
                    value, _ = extremes.loss(found, self.terms)
                    penalty, _ = extremes.clipped(value, self.strengths, self.clips)
            self._add(sums, self.objectives.loss(done.output, y)[0], penalty, done.output, y, found)
        return sums

    def measured(self, stage: str, sums: Sums) -> Measured:
        """What sums say."""
        assert isinstance(sums.losses, Tensor) and isinstance(sums.counts, Tensor)
        total, scale = self._targets(stage) if self.objectives.task == "regression" else (sums.counts, sums.counts)
        metrics = self.objectives.metrics(sums.counts, sums.rows, total, scale)
        status = sums.statuses.compute() if sums.statuses is not None else None
        return Measured(sums.losses / sums.rows, metrics, status)

    def _targets(self, stage: str) -> tuple[Tensor, Tensor]:
        """(R, T) sum of squares of the targets of a part around their mean, and their deviations."""
        ys = [m.trainer.targets() if stage == "train" else m.experiment.data.val.y for m in self.members]
        totals = [(y - y.mean(0)).double().square().sum(0) for y in ys]
        scales = [torch.tensor(m.experiment.data.target_std or (1.0,)).double() for m in self.members]
        return torch.stack(totals), torch.stack([scale.to(self.device) for scale in scales])

    # An epoch that is not yet over, as its checkpoint has it

    def _partial(self) -> Sums:
        """The sums of the epoch that the checkpoints of all runs lie in, which all of them log or none does."""
        if not self.step or not self.trainer.logged:
            return Sums()
        for member in self.members:
            if member.trainer.status:
                member.trainer.status["train"].reduce()
        states = [member.trainer.partial() for member in self.members]
        totals, statuses = [state["totals"] for state in states], [state["status"] for state in states]
        found = Sums(
            torch.stack([state["losses"] for state in totals]),
            torch.stack([state["counts"] for state in totals]),
            totals[0]["rows"],
        )
        if statuses[0]:
            found.statuses = Statuses.joined(statuses)
        return found

    def _share(self, member: Member) -> None:
        """Tells a trainer the sums of an epoch that is not yet over."""
        run, sums = self.members.index(member), self._sums
        nothing = torch.zeros(len(self), 1, dtype=torch.float64, device=self.device)
        losses, counts = (x if isinstance(x, Tensor) else nothing for x in (sums.losses, sums.counts))
        totals = {"rows": sums.rows, "skipped": 0, "losses": losses[run], "counts": counts[run]}
        status = sums.statuses.of(run, self.network.layers) if sums.statuses is not None else {}
        member.trainer.load_partial({"totals": totals, "status": status})
