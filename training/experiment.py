"""A config goes in, a run folder comes out."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from regx.errors import LostContact, RunFailed, UserError
from regx.training import build, distributed, tracking
from regx.training.build import Experiment
from regx.training.config import RunConfig
from regx.training.distributed import World
from regx.training.folder import (
    MetricsFile,
    RunFolder,
    load_checkpoint,
    save_checkpoint,
    to_json,
    write_atomically,
    write_csv,
)
from regx.training.loop import Diverged
from regx.training.objective import chance
from regx.training.outcome import draw_status, measure_best

# What a process returns that is not the first of its run.
FOLLOWS: dict[str, Any] = {"status": "follows"}


class Observer(Protocol):
    """What watches a run: the progress bar, or lines in a pipe."""

    def started(self, lines: list[str]) -> None:
        """The run is built; `lines` say what it reaches and what the user should know."""

    def step(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        """A step of an epoch was taken."""

    def row(self, row: dict[str, float], epochs: int) -> None:
        """An epoch was logged."""

    def warn(self, message: str) -> None:
        """Something went otherwise than asked, but the run goes on."""


def run(
    config: RunConfig,
    observer: Observer,
    *,
    argv: list[str],
    force: bool = False,
    folder: RunFolder | None = None,
    end: Callable[[dict[str, float]], str | None] = lambda row: None,
    sweep: str | None = None,
    point: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains what `config` describes and returns `result.json`; a folder that is given is resumed.

    A configuration whose folder has already ended is not trained again (unless `force`): its result is returned.

    Args:
        config: what to train.
        observer: told what happens.
        argv: the command line, for env.json.
        force: train again what has ended.
        folder: a run folder to go on in.
        end: asked after every logged row whether the run shall end there, and why (a word for `ended` of the result).
        sweep: id of the W&B sweep that the run belongs to.
        point: what the sweep has set, under its own names, for W&B's columns.

    Raises:
        UserError: the configuration asks for what cannot be, or the folder holds an unfinished run.
        RunFailed: the run could not begin; one that fails on the way returns a result with status `failed`.
    """
    device = build.find_device(config.devices)
    with distributed.joined(device) as world:
        resume = folder is not None or distributed.restarted()
        folder = folder or RunFolder(Path(config.run_dir) / config.run_name())
        ended, resumes = _ask_first(lambda: _state(folder, observer, force=force, resume=resume), world)
        if ended:
            return ended if world.writes else FOLLOWS
        experiment = build.build(config, device, world, resumes=resumes)
        if not world.writes:
            return _follow(experiment)
        with folder.held():
            if force and not distributed.restarted():
                folder.clear()
            elif world.size == 1 and (ended := folder.read_result()):  # another process has done it since we looked
                return ended
            try:
                run_id = folder.create(config, argv)
                return _carry_out(experiment, folder, observer, run_id, end, sweep, point or {})
            except OSError as error:
                place = error.filename or folder.path
                raise RunFailed(f"cannot write {place}: {error.strerror}; then `regx resume {folder.path}`") from error


def _state(folder: RunFolder, observer: Observer, *, force: bool, resume: bool) -> tuple[dict[str, Any] | None, bool]:
    """The result of a run that has ended already; and whether there is a checkpoint to go on from.

    Raises:
        UserError: the folder holds an unfinished run that nobody asked to resume.
    """
    if force and not distributed.restarted():
        return None, False
    if ended := folder.read_result():
        again = "" if resume else "; nothing is trained or drawn anew (--force does)"
        observer.warn(f"{folder.path} has already {ended['status']}{again}")
        return ended, False
    if not resume and folder.last.is_file():
        raise UserError(
            f"{folder.path} holds an unfinished run: `regx resume {folder.path}` continues it, --force starts anew"
        )
    return None, folder.last.is_file()


def _ask_first(question: Callable[[], Any], world: World) -> Any:
    """What the first process answers; where it cannot, the others leave quietly."""
    if not world.writes:
        answer, code = world.broadcast(None)
        if code:
            raise SystemExit(code)
        return answer
    try:
        answer = question()
    except UserError as error:
        world.broadcast((None, error.exit_code))
        raise
    return world.broadcast((answer, 0))[0]


def _follow(experiment: Experiment) -> dict[str, Any]:
    """Trains beside the first process, which does all the writing."""
    trainer = experiment.trainer
    if state := _ask_first(lambda: None, trainer.world):
        trainer.load_state_dict(state)

    def on_checkpoint() -> None:
        trainer.state_dict()  # which sums over all processes

    with _interruptible() as stop:
        try:
            trainer.fit(lambda row: None, on_checkpoint, stop)
        except Diverged as failure:  # as the first process says
            raise SystemExit(failure.exit_code) from None
        except RuntimeError as error:
            if distributed.is_broken(error):
                raise LostContact("lost contact to another process") from error
            raise
    return FOLLOWS


def _carry_out(
    experiment: Experiment,
    folder: RunFolder,
    observer: Observer,
    run_id: str,
    end: Callable[[dict[str, float]], str | None],
    sweep: str | None,
    point: dict[str, Any],
) -> dict[str, Any]:
    config, trainer = experiment.config, experiment.trainer
    state = _ask_first(lambda: _checkpoint(folder, config), trainer.world)
    if state:
        trainer.load_state_dict(state)
    metrics = MetricsFile(folder.metrics, keep_to=trainer.epochs_done)
    speed = MetricsFile(folder.speed, keep_to=trainer.epochs_done) if config.log_speed else None
    write_csv(folder.coverage, experiment.coverage())
    place = [f"going on after epoch {trainer.epochs_done}, step {trainer.step}"] if state else []
    observer.started([*experiment.describe(), f"run folder: {folder.path}", *place])
    tracker = tracking.start(
        mode=config.wandb,  # type: ignore[arg-type]
        run_dir=folder.path,
        config=point | config.as_dict(),
        sweep=sweep,
        name=config.name or folder.path.name,
        project=config.project,
        entity=config.entity,
        group=config.group,
        tags=config.tags,
        run_id=run_id,
        warn=observer.warn,
    )
    exit_code = 1

    def on_row(row: dict[str, float]) -> None:
        metrics.append(row)
        timed = trainer.speed.row(trainer.epoch) if speed else {}
        if speed:
            speed.append(timed)
        tracker.log(row | timed, step=int(row["epoch"]))
        observer.row(row, trainer.epochs)
        if config.plot_status and trainer.status and row["epoch"] % config.plot_every == 0:
            draw_status(trainer, folder, tracker, int(row["epoch"]), config.plot_points)
        trainer.ended_by = end(row)

    def on_step(step: int) -> None:
        observer.step(trainer.epoch, trainer.epochs, step, trainer.steps)

    def on_checkpoint() -> None:
        if not trainer.stepper.weights_are_finite():
            raise RunFailed(
                f"the weights are not finite after epoch {trainer.epoch}; a lower --lr or a --grad-clip may help"
            )
        save_checkpoint(folder.last, trainer.state_dict())

    try:
        with _interruptible() as stop:
            if not folder.last.is_file():
                on_checkpoint()
            ended = trainer.fit(on_row, on_checkpoint, stop, on_step)
        finished = ended != "interrupted"
        if finished:
            on_checkpoint()
            trainer.alone()
        elif trainer.best.weights:
            _save_best(experiment, folder)  # somebody may want no more than this
        result = _result(experiment, folder, "finished" if finished else "interrupted", ended)
        if finished:
            _save_best(experiment, folder)
            for text in [*trainer.missed_targets(), *_left_out(trainer.last)]:
                observer.warn(text)
            result["test"] = measure_best(experiment, folder, tracker)
            tracker.summary(result["test"] | {"best/epoch": trainer.best.epoch, "ended": ended})
        exit_code = 0 if finished else 130
        tracker.finish(exit_code)  # only after its end is it known what could not be uploaded
        if tracker.sync_hint:
            result["wandb"] = tracker.sync_hint
        if finished:
            write_atomically(folder.result, to_json(result))
        return result
    except RunFailed as failure:
        if trainer.best.weights:
            _save_best(experiment, folder)
        state = load_checkpoint(folder.last)
        good = f"epoch {state['epoch']}" + (f", step {state['step']}" if state["step"] else "")
        error = f"{failure.message} (last good checkpoint: {good}, {folder.last})"
        result = _result(experiment, folder, "failed", "error") | {"error": error}
        write_atomically(folder.result, to_json(result))
        return result
    except OSError:  # a full disk, say: the folder stays as it is, to be resumed
        raise
    except Exception as error:
        if distributed.is_broken(error):  # the folder stays as it is
            then = "" if distributed.is_launched() else f"; `regx resume {folder.path}` goes on"
            raise LostContact(f"lost contact to another process{then}") from error
        result = _result(experiment, folder, "failed", "error") | {"error": traceback.format_exc(limit=-1).strip()}
        write_atomically(folder.result, to_json(result))
        raise
    finally:
        metrics.close()
        if speed:
            speed.close()
        tracker.finish(exit_code)


def _checkpoint(folder: RunFolder, config: RunConfig) -> dict[str, Any] | None:
    return load_checkpoint(folder.last, config.hash()) if folder.last.is_file() else None


def _left_out(row: dict[str, float]) -> list[str]:
    return [
        f"{row[key]:.0f} images of the {key.partition('/')[0]} part cannot be decoded and were left out"
        for key in ("train/skipped", "val/skipped")
        if row.get(key)
    ]


def _save_best(experiment: Experiment, folder: RunFolder) -> None:
    experiment.trainer.restore_best()
    save_checkpoint(folder.best, {"epoch": experiment.trainer.best.epoch, "model": experiment.model.state_dict()})


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C or SIGTERM into a request to stop after the step; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nobody can press Ctrl-C here
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _result(experiment: Experiment, folder: RunFolder, status: str, ended: str) -> dict[str, Any]:
    config, trainer = experiment.config, experiment.trainer
    return {
        "status": status,
        "ended": ended,
        "hash": config.hash(),
        "config": config.as_dict(),
        "parameters": sum(p.numel() for p in experiment.model.parameters()),
        "monitor": trainer.monitor,
        "chance": chance(experiment.data),
        "rows": experiment.data.sizes(),
        "epochs": trainer.epochs_done,
        "best": trainer.best.row,
        "last": trainer.last,
        "test": {},
        "seconds": round(trainer.seconds, 3),
        "run_dir": str(folder.path),
    }
