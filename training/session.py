"""A run at work in its folder: its rows, its checkpoints, and what is written at its end."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, Protocol

from regx.errors import RunFailed
from regx.training import tracking
from regx.training.build import Experiment
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

    def step(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        """A step of an epoch was taken."""

    def row(self, row: dict[str, float], epochs: int) -> None:
        """An epoch was logged."""

    def warn(self, message: str) -> None:
        """Something went otherwise than asked, but the run goes on."""


End = Callable[[dict[str, float]], str | None]


class Session:
    """What a run does to its folder and to W&B, from its start to its end.

    Args:
        experiment: built, and loaded with its checkpoint where it goes on from one.
        folder: held by this process.
        observer: told what happens.
        argv: the command line, for env.json.
        end: asked after every logged row whether the run shall end there, and why.
        sweep: id of the W&B sweep that the run belongs to.
        point: what the sweep has set, under its own names, for W&B's columns.
        resumed: whether it goes on from a checkpoint.
        engine: what computes its steps.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        observer: Observer,
        argv: list[str],
        *,
        end: End,
        sweep: str | None,
        point: dict[str, Any],
        resumed: bool,
        engine: str = "single",
    ) -> None:
        config, trainer = experiment.config, experiment.trainer
        self.engine = engine
        self.experiment, self.folder, self.observer = experiment, folder, observer
        self._end = end
        run_id = folder.create(config, argv)
        self._metrics = MetricsFile(folder.metrics, keep_to=trainer.epochs_done)
        self._speed = MetricsFile(folder.speed, keep_to=trainer.epochs_done) if config.log_speed else None
        write_csv(folder.coverage, experiment.coverage())
        place = [f"going on after epoch {trainer.epochs_done}, step {trainer.step}"] if resumed else []
        how = [f"trained by the {engine} engine"] if engine != "single" else []
        observer.started([*experiment.describe(), *how, f"run folder: {folder.path}", *place])
        self._tracker = tracking.start(
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
        self._exit_code = 1

    def row(self, row: dict[str, float]) -> None:
        """Writes a logged epoch down, and asks whether the run shall end with it."""
        config, trainer = self.experiment.config, self.experiment.trainer
        self._metrics.append(row)
        timed = trainer.speed.row(trainer.epoch) if self._speed else {}
        if self._speed:
            self._speed.append(timed)
        self._tracker.log(row | timed, step=int(row["epoch"]))
        self.observer.row(row, trainer.epochs)
        if config.plot_status and trainer.status and row["epoch"] % config.plot_every == 0:
            draw_status(trainer, self.folder, self._tracker, int(row["epoch"]), config.plot_points)
        trainer.ended_by = self._end(row)

    def step(self, step: int) -> None:
        """A step of the present epoch is done."""
        trainer = self.experiment.trainer
        self.observer.step(trainer.epoch, trainer.epochs, step, trainer.steps)

    def checkpoint(self) -> None:
        """Saves all that decides how the run goes on.

        Raises:
            RunFailed: the weights are not finite.
        """
        trainer = self.experiment.trainer
        if not trainer.stepper.weights_are_finite():
            raise RunFailed(
                f"the weights are not finite after epoch {trainer.epoch}; a lower --lr or a --grad-clip may help"
            )
        # A resumed run needs no file that it began with.
        state = trainer.state_dict()
        if self.experiment.recipe:
            state["recipe"] = self.experiment.recipe
        save_checkpoint(self.folder.last, state)

    def conclude(self, ended: str) -> dict[str, Any]:
        """Measures the best weights of a run that is over and writes its result, or says that it was interrupted.

        Args:
            ended: why training ended, as `Trainer.fit` returns it.
        """
        trainer, finished = self.experiment.trainer, ended != "interrupted"
        if finished:
            self.checkpoint()
            trainer.alone()
        elif trainer.best.weights:
            self._save_best()  # somebody may want no more than this
        result = self._result("finished" if finished else "interrupted", ended)
        if finished:
            self._save_best()
            for text in [*trainer.missed_targets(), *_left_out(trainer.last)]:
                self.observer.warn(text)
            result["test"] = measure_best(self.experiment, self.folder, self._tracker)
            self._tracker.summary(result["test"] | {"best/epoch": trainer.best.epoch, "ended": ended})
        self._exit_code = 0 if finished else 130
        self._tracker.finish(self._exit_code)  # only after its end is it known what could not be uploaded
        if self._tracker.sync_hint:
            result["wandb"] = self._tracker.sync_hint
        if finished:
            write_atomically(self.folder.result, to_json(result))
        return result

    def fail(self, failure: RunFailed) -> dict[str, Any]:
        """Writes the result of a run that could not go on."""
        if self.experiment.trainer.best.weights:
            self._save_best()
        state = load_checkpoint(self.folder.last)
        good = f"epoch {state['epoch']}" + (f", step {state['step']}" if state["step"] else "")
        return self._failed(f"{failure.message} (last good checkpoint: {good}, {self.folder.last})")

    def broke(self, error: Exception) -> None:
        """Writes the result of a run that an error has ended."""
        self._failed("".join(traceback.format_exception(error, limit=-1)).strip())

    def close(self) -> None:
        """Closes what is open."""
        self._metrics.close()
        if self._speed:
            self._speed.close()
        self._tracker.finish(self._exit_code)

    def _failed(self, error: str) -> dict[str, Any]:
        result = self._result("failed", "error") | {"error": error}
        write_atomically(self.folder.result, to_json(result))
        return result

    def _save_best(self) -> None:
        trainer = self.experiment.trainer
        trainer.restore_best()
        state = {"epoch": trainer.best.epoch, "model": self.experiment.model.state_dict()}
        if self.experiment.recipe:
            state["recipe"] = self.experiment.recipe
        save_checkpoint(self.folder.best, state)

    def _result(self, status: str, ended: str) -> dict[str, Any]:
        config, trainer = self.experiment.config, self.experiment.trainer
        return {
            "status": status,
            "ended": ended,
            "hash": config.hash(),
            "config": config.as_dict(),
            "parameters": sum(p.numel() for p in self.experiment.model.parameters()),
            "monitor": trainer.monitor,
            "chance": chance(self.experiment.data),
            "rows": self.experiment.data.sizes(),
            "epochs": trainer.epochs_done,
            "best": trainer.best.row,
            "last": trainer.last,
            "test": {},
            "seconds": round(trainer.seconds, 3),
            "engine": self.engine,
            "run_dir": str(self.folder.path),
        }


def _left_out(row: dict[str, float]) -> list[str]:
    return [
        f"{row[key]:.0f} images of the {key.partition('/')[0]} part cannot be decoded and were left out"
        for key in ("train/skipped", "val/skipped")
        if row.get(key)
    ]
