"""A config goes in, a run folder comes out."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from regx.errors import RunFailed, UserError
from regx.training import tracking
from regx.training.build import Experiment, build
from regx.training.config import RunConfig
from regx.training.folder import (
    MetricsFile,
    RunFolder,
    load_checkpoint,
    save_checkpoint,
    to_json,
    write_atomically,
    write_csv,
)
from regx.training.objective import chance
from regx.training.outcome import draw_status, measure_best


class Observer(Protocol):
    """What watches a run: the progress bar, or lines in a pipe."""

    def started(self, lines: list[str]) -> None:
        """The run is built; `lines` say what it reaches and what the user should know."""

    def row(self, row: dict[str, float], epochs: int) -> None:
        """An epoch was logged."""

    def warn(self, message: str) -> None:
        """Something went otherwise than asked, but the run goes on."""


def run(
    config: RunConfig, observer: Observer, *, argv: list[str], force: bool = False, folder: RunFolder | None = None
) -> dict[str, Any]:
    """Trains what `config` describes and returns `result.json`; a folder that is given is resumed.

    A configuration whose folder has already ended is not trained again (unless `force`): its result is returned.

    Raises:
        UserError: the configuration asks for what cannot be, or the folder holds an unfinished run.
        RunFailed: the run could not begin; one that fails on the way returns a result with status `failed`.
    """
    resume = folder is not None
    folder = folder or RunFolder(Path(config.run_dir) / config.run_name())
    if not force and (ended := folder.read_result()):
        again = "" if resume else "; nothing is trained or drawn anew (--force does)"
        observer.warn(f"{folder.path} has already {ended['status']}{again}")
        return ended
    if not force and not resume and folder.last.is_file():
        raise UserError(
            f"{folder.path} holds an unfinished run: `regx resume {folder.path}` continues it, --force starts anew"
        )
    experiment = build(config)
    with folder.held():
        if force:
            folder.clear()
        try:
            run_id = folder.create(config, argv)
            return _carry_out(experiment, folder, observer, run_id)
        except OSError as error:
            place = error.filename or folder.path
            raise RunFailed(f"cannot write {place}: {error.strerror}; then `regx resume {folder.path}`") from error


def _carry_out(experiment: Experiment, folder: RunFolder, observer: Observer, run_id: str) -> dict[str, Any]:
    config, trainer = experiment.config, experiment.trainer
    if folder.last.is_file():
        trainer.load_state_dict(load_checkpoint(folder.last, config.hash()))
    metrics = MetricsFile(folder.metrics, keep_to=trainer.epoch)
    write_csv(folder.coverage, experiment.coverage())
    observer.started([*experiment.describe(), f"run folder: {folder.path}"])
    tracker = tracking.start(
        mode=config.wandb,  # type: ignore[arg-type]
        run_dir=folder.path,
        config=config.as_dict(),
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
        tracker.log(row, step=int(row["epoch"]))
        observer.row(row, config.epochs)
        if config.plot_status and trainer.status and row["epoch"] % config.plot_every == 0:
            draw_status(trainer, folder, tracker, int(row["epoch"]), config.plot_points)

    def on_checkpoint() -> None:
        if not trainer.weights_are_finite():
            raise RunFailed(
                f"the weights are not finite after epoch {trainer.epoch}; a lower --lr or a --grad-clip may help"
            )
        save_checkpoint(folder.last, trainer.state_dict())

    try:
        with _interruptible() as stop:
            if not folder.last.is_file():
                on_checkpoint()
            ended = trainer.fit(on_row, on_checkpoint, stop)
        on_checkpoint()
        finished = ended != "interrupted"
        result = _result(experiment, folder, "finished" if finished else "interrupted", ended)
        if finished:
            _save_best(experiment, folder)
            for text in trainer.missed_targets():
                observer.warn(text)
            result["test"] = measure_best(experiment, folder, tracker)
            tracker.summary(result["test"])
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
        good = load_checkpoint(folder.last)["epoch"]
        error = f"{failure.message} (last good checkpoint: epoch {good}, {folder.last})"
        result = _result(experiment, folder, "failed", "error") | {"error": error}
        write_atomically(folder.result, to_json(result))
        return result
    except OSError:  # a full disk, say: the folder stays as it is, to be resumed
        raise
    except Exception:
        result = _result(experiment, folder, "failed", "error") | {"error": traceback.format_exc(limit=-1).strip()}
        write_atomically(folder.result, to_json(result))
        raise
    finally:
        metrics.close()
        tracker.finish(exit_code)


def _save_best(experiment: Experiment, folder: RunFolder) -> None:
    experiment.trainer.restore_best()
    save_checkpoint(folder.best, {"epoch": experiment.trainer.best.epoch, "model": experiment.model.state_dict()})


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C or SIGTERM into a request to stop after the epoch; a second one stops at once."""
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
        "epochs": trainer.epoch,
        "best": trainer.best.row,
        "last": trainer.last,
        "test": {},
        "seconds": round(trainer.seconds, 3),
        "run_dir": str(folder.path),
    }
