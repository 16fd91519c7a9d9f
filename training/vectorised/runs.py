"""Many configurations go in, trained together; as many run folders come out, each as if it had been trained alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from regx.errors import RunFailed, UserError
from regx.training import build
from regx.training.build import Experiment
from regx.training.config import RunConfig
from regx.training.distributed import from_environment
from regx.training.folder import RunFolder, load_checkpoint
from regx.training.log_keys import STATUS
from regx.training.loop import Trainer
from regx.training.session import End, Observer, Session
from regx.training.vectorised import grouping
from regx.training.vectorised.group import Group, Member, Sums

Ended = Callable[[int, dict[str, Any] | Exception], None]


@dataclass
class Wanted:
    """A run that shall be trained with others.

    Attributes:
        config: what to train.
        folder: where; a run with a checkpoint goes on from it.
        observer: told what happens.
        end: asked after every logged row whether the run shall end there, and why.
        sweep: id of the W&B sweep that the run belongs to.
        point: what the sweep has set, under its own names, for W&B's columns.
    """

    config: RunConfig
    folder: RunFolder
    observer: Observer
    end: End = lambda row: None
    sweep: str | None = None
    point: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Run:
    """A run that is built, with what is open for it."""

    number: int
    experiment: Experiment
    session: Session
    state: torch.Tensor
    opened: ExitStack


def engine_of(config: RunConfig) -> str:
    """The engine that trains a run here: `single`, `vectorised` or `native`.

    Raises:
        UserError: the configuration asks for one that cannot.
    """
    if config.engine == "single" or (config.engine == "auto" and not grouping.pays(config)):
        return "single"
    obstacle = "several processes train it" if from_environment().size > 1 else grouping.obstacle(config)
    if obstacle is not None:
        if config.engine == "auto":
            return "single"
        raise UserError(f"{config.engine} cannot train this run: {obstacle}; use auto or single", "engine")
    if config.engine == "vectorised":
        return "vectorised"
    obstacle = grouping.native_obstacle(config)
    if obstacle is None:
        from regx.training.vectorised import native

        obstacle = native.obstacle()
    if obstacle is None:
        return "native"
    if config.engine == "native":
        raise UserError(f"native cannot train this run: {obstacle}; use auto or vectorised", "engine")
    return "vectorised"


def run_together(wanted: Sequence[Wanted], *, argv: list[str], ended: Ended) -> None:
    """Trains runs of one `likeness` as one program, or as few as their data allow.

    Args:
        wanted: the runs.
        argv: the command line, for env.json.
        ended: called once per run, as soon as it has ended, with its number and its result (status `finished`,
            `failed` or `interrupted`), or with the error that kept it from being trained.
    """
    from regx.training.experiment import interruptible

    with interruptible() as stop:
        programs: dict[Any, list[_Run]] = {}
        for number, item in enumerate(wanted):
            if (found := _begin(number, item, argv, ended)) is not None:
                programs.setdefault(_shape(found.experiment), []).append(found)
        for runs in programs.values():
            _train(runs, engine_of(runs[0].experiment.config), stop, ended)


def _begin(number: int, wanted: Wanted, argv: list[str], ended: Ended) -> _Run | None:
    """Builds a run and opens what it writes to; None where it has ended, or cannot begin."""
    opened = ExitStack()
    folder, config = wanted.folder, wanted.config
    try:
        opened.enter_context(folder.held())
        if result := folder.read_result():
            ended(number, result)
            opened.close()
            return None
        resumed = folder.last.is_file()
        engine = engine_of(config)
        device = torch.device("cpu") if engine == "native" else build.find_device(config.devices)
        experiment = build.build(config, device, resumes=resumed)
        if resumed:
            experiment.trainer.load_state_dict(load_checkpoint(folder.last, config.hash()))
        state = torch.get_rng_state()
        more: dict[str, Any] = {"end": wanted.end, "sweep": wanted.sweep, "point": wanted.point}
        session = Session(experiment, folder, wanted.observer, argv, resumed=resumed, engine=engine, **more)
        opened.callback(session.close)
        if not resumed:
            session.checkpoint()
        return _Run(number, experiment, session, state, opened)
    except Exception as error:
        opened.close()
        ended(number, _told(error, folder))
        return None


def _shape(experiment: Experiment) -> Any:
    """What must be equal for one program, beside what the configurations say of themselves."""
    data, trainer = experiment.data, experiment.trainer
    parts = [tuple(split.x.shape) + tuple(split.y.shape) for split in (data.train, data.val)]
    # Of an epoch that is half done, only those have sums to go on from that log it.
    half = (trainer.step, trainer.step > 0 and trainer.logged)
    return (*parts, data.task, len(data.classes), data.output_size, *half, experiment.device)


def _train(runs: list[_Run], engine: str, stop: Callable[[], bool], ended: Ended) -> None:
    """Trains runs as one program until all have ended."""
    left = dict(enumerate(runs))
    try:
        group = Group([run.experiment for run in runs], engine, [run.state for run in runs])
        saved = clock = time.perf_counter()
        every = min(run.experiment.config.checkpoint_every for run in runs)

        def checkpoint() -> None:
            for member in group.members:
                if member.number in broken:  # its last checkpoint is a better one
                    continue
                group.sync(member)
                try:
                    left[member.number].session.checkpoint()
                except Exception as failure:
                    broken[member.number] = failure

        def ask(step: int) -> bool:
            """After a step: saves where it is time to; whether to stop."""
            nonlocal saved
            for member in group.members:
                left[member.number].session.step(step)
            if step < group.steps and every > 0 and time.perf_counter() - saved >= every:
                checkpoint()
                saved = time.perf_counter()
            return stop()

        broken: dict[int, Exception] = {}
        while True:
            reasons = {m.number: why for m in group.members if (why := _over(m)) is not None}
            reasons |= dict.fromkeys(broken, "")
            for member in group.dismiss(reasons):
                why, failure = reasons[member.number], broken.pop(member.number, None)
                _conclude(left.pop(member.number), member, why, failure, ended)
            if not group.members:
                return
            sums = group.train_epoch(on_step=ask)
            if sums is not None:
                broken |= _close_epoch(group, sums, {number: run.session for number, run in left.items()})
            now = time.perf_counter()
            for member in group.members:  # its share of the time of all
                member.trainer.seconds += (now - clock) / len(group)
            clock = now
            if stop():
                checkpoint()
                for member in group.dismiss(list(left)):
                    failure = broken.pop(member.number, None)
                    _conclude(left.pop(member.number), member, "interrupted", failure, ended)
                return
            if now - saved >= every:
                checkpoint()
                saved = time.perf_counter()
    except Exception as error:
        for run in left.values():
            if not isinstance(error, OSError):
                run.session.broke(error)
            run.opened.close()
            ended(run.number, _told(error, run.session.folder))
    finally:
        for run in left.values():  # of an interruption that does not wait
            run.opened.close()


def _over(member: Member) -> str | None:
    """Why a run is over; None where it goes on."""
    trainer = member.trainer
    if trainer.step:
        return None
    over = trainer.ended() if trainer.best.row else None
    return over or ("epochs" if trainer.epoch >= trainer.epochs else None)


def _conclude(run: _Run, member: Member, why: str, failure: Exception | None, ended: Ended) -> None:
    """Ends a run as it would have ended by itself; `failure` is an error of this run alone."""
    session = run.session
    torch.set_rng_state(member.generator.get_state())
    try:
        with run.opened:
            try:
                if failure:
                    raise failure
                result = session.conclude(why)
            except RunFailed as error:
                result = session.fail(error)
            except OSError:  # a full disk, say: the folder stays as it is, to be resumed
                raise
            except Exception as error:
                session.broke(error)
                raise
        ended(run.number, result)
    except Exception as error:
        ended(run.number, _told(error, session.folder))


def _told(error: Exception, folder: RunFolder) -> Exception:
    """An error as a single run tells it."""
    if isinstance(error, OSError):
        place = error.filename or folder.path
        return RunFailed(f"cannot write {place}: {error.strerror}; then `regx resume {folder.path}`")
    return error


def _close_epoch(group: Group, sums: Sums, sessions: dict[int, Session]) -> dict[int, Exception]:
    """Measures an epoch that is over, and logs it; returns the runs that cannot go on."""
    for member in group.members:
        member.trainer.close_epoch()
    logging = [member for member in group.members if member.trainer.logged]
    metrics: dict[int, float] = {}
    failed: dict[int, Exception] = {}
    if logging:
        penalties = [_of_weights(member.trainer) for member in group.members]
        with ExitStack() as averaged:
            for member in group.members:
                averaged.enter_context(member.trainer.averaged())
            rows = _rows(group, sums, group.evaluate("val"), penalties)
            for member, row in zip(group.members, rows, strict=True):
                if member.trainer.logged:
                    try:
                        metrics[member.number] = member.trainer.judge(row, sessions[member.number].row)
                    except Exception as failure:
                        failed[member.number] = failure
            group.keep_best()
    for member in group.members:
        if member.number not in failed:
            member.trainer.advance(metrics.get(member.number))
    return failed


@torch.no_grad()
def _of_weights(trainer: Trainer) -> dict[str, float]:
    """The penalties of the weights as they are now."""
    return {p.label: float(p.loss()) for p in trainer.penalties if p.regularizer.has_loss and not p.of_forward}


def _rows(
    group: Group, trained: Sums, validated: Sums, penalties: Sequence[dict[str, float]]
) -> list[dict[str, float]]:
    """The rows of an epoch, one per run: what `Trainer` logs, under the same keys and in the same order.

    Args:
        group: the runs, with averaged weights where they are averaged.
        trained: sums of the training.
        validated: sums of the validation.
        penalties: those of the weights that were trained.
    """
    found = {stage: group.measured(stage, sums) for stage, sums in (("train", trained), ("val", validated))}
    tables = [part for m in found.values() for part in (m.losses, m.metrics, m.status) if part is not None]
    widths = [table.shape[1] for table in tables]
    rows = []
    for member, numbers, before in zip(group.members, torch.cat(tables, 1).tolist(), penalties, strict=True):
        trainer = member.trainer
        row: dict[str, float] = {"epoch": trainer.epoch, "lr": trainer.last_lr}
        row |= {key: p.strength for key, p in zip(trainer.strength_keys(), trainer.penalties, strict=True)}
        of_weights = {"train": before, "val": _of_weights(trainer) if trainer.stepper.ema else before}
        at = iter(_cut(numbers, widths))
        for stage, measured in found.items():
            _add_losses(row, stage, next(at), of_weights[stage], trainer)
            row |= zip((f"{stage}/{name}" for name in group.objectives.names), next(at), strict=True)
            if measured.status is not None:
                row |= zip(_KEYS[stage], next(at), strict=True)
        rows.append(row | {key: float(value) for key, value in trainer.zeros().items()})
    return rows


_KEYS = {stage: [f"{stage}/jr/{key}" for key in STATUS] for stage in ("train", "val")}


def _cut(numbers: list[float], widths: list[int]) -> list[list[float]]:
    found, begin = [], 0
    for width in widths:
        found.append(numbers[begin : begin + width])
        begin += width
    return found


def _add_losses(
    row: dict[str, float], stage: str, losses: list[float], of_weights: dict[str, float], trainer: Trainer
) -> None:
    """Task loss, penalties and total, as `Totals.metrics` has them."""
    row[f"{stage}/loss"] = losses[0]
    total = losses[0] if trainer.config.task_loss else losses[0] * 0.0
    for penalty in trainer.penalties:
        if not penalty.regularizer.has_loss:
            continue
        value = losses[1] if penalty.of_forward else of_weights[penalty.label]
        row[f"{stage}/{penalty.label}"] = value
        if penalty.schedule.peak > 0:
            row[f"{stage}/scaled_{penalty.label}"] = penalty.strength * value
            total += penalty.strength * value
    row[f"{stage}/total_loss"] = total
