"""A config goes in, a run folder comes out."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regx.errors import LostContact, RunFailed, UserError
from regx.training import build, distributed
from regx.training.build import Experiment
from regx.training.config import RunConfig
from regx.training.distributed import World
from regx.training.folder import RunFolder, load_checkpoint
from regx.training.loop import Diverged
from regx.training.session import End, Observer, Session

if TYPE_CHECKING:
    from regx.training.vectorised.runs import Wanted

# What a process returns that is not the first of its run.
FOLLOWS: dict[str, Any] = {"status": "follows"}


def run(
    config: RunConfig,
    observer: Observer,
    *,
    argv: list[str],
    force: bool = False,
    folder: RunFolder | None = None,
    end: End = lambda row: None,
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
    if config.engine != "single":
        from regx.training.vectorised import runs

        if runs.engine_of(config) != "single":
            folder, resume = folder or RunFolder(Path(config.run_dir) / config.run_name()), folder is not None
            wanted = runs.Wanted(config, folder, observer, end, sweep, point or {})
            return _by_another_engine(wanted, argv, force=force, resume=resume)
    device = build.find_device(config.devices)
    with distributed.joined(device) as world:
        resume = folder is not None or distributed.restarted()
        folder = folder or RunFolder(Path(config.run_dir) / config.run_name())
        ended, resumes = _ask_first(lambda: _state(folder, observer, force=force, resume=resume), world)
        if ended:
            return ended if world.writes else FOLLOWS
        recipe = load_checkpoint(folder.last).get("recipe", []) if resumes and config.pretrained else None
        experiment = build.build(config, device, world, resumes=resumes, recipe=recipe)
        if not world.writes:
            return _follow(experiment)
        with folder.held():
            if force and not distributed.restarted():
                folder.clear()
            elif world.size == 1 and (ended := folder.read_result()):  # another process has done it since we looked
                return ended
            try:
                return _carry_out(experiment, folder, observer, argv, end=end, sweep=sweep, point=point or {})
            except OSError as error:
                place = error.filename or folder.path
                raise RunFailed(f"cannot write {place}: {error.strerror}; then `regx resume {folder.path}`") from error


def _by_another_engine(wanted: Wanted, argv: list[str], *, force: bool, resume: bool) -> dict[str, Any]:
    """Trains a run as a program of one."""
    from regx.training.vectorised.runs import run_together

    ended, _ = _state(wanted.folder, wanted.observer, force=force, resume=resume)
    if ended:
        return ended
    if force:
        with wanted.folder.held():
            wanted.folder.clear()
    found: list[dict[str, Any] | Exception] = []
    run_together([wanted], argv=argv, ended=lambda number, outcome: found.append(outcome))
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


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

    with interruptible() as stop:
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
    experiment: Experiment, folder: RunFolder, observer: Observer, argv: list[str], **more: Any
) -> dict[str, Any]:
    trainer = experiment.trainer
    state = _ask_first(lambda: _checkpoint(folder, experiment.config), trainer.world)
    if state:
        trainer.load_state_dict(state)
    session = Session(experiment, folder, observer, argv, resumed=bool(state), **more)
    try:
        with interruptible() as stop:
            if not folder.last.is_file():
                session.checkpoint()
            ended = trainer.fit(session.row, session.checkpoint, stop, session.step)
        return session.conclude(ended)
    except RunFailed as failure:
        return session.fail(failure)
    except OSError:  # a full disk, say: the folder stays as it is, to be resumed
        raise
    except Exception as error:
        if distributed.is_broken(error):  # the folder stays as it is
            then = "" if distributed.is_launched() else f"; `regx resume {folder.path}` goes on"
            raise LostContact(f"lost contact to another process{then}") from error
        session.broke(error)
        raise
    finally:
        session.close()


def _checkpoint(folder: RunFolder, config: RunConfig) -> dict[str, Any] | None:
    return load_checkpoint(folder.last, config.hash()) if folder.last.is_file() else None


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
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
