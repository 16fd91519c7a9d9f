"""A config goes in, a run folder comes out."""

from __future__ import annotations

import io
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from regx.data import create as create_data
from regx.data.module import DataModule
from regx.errors import RunFailed, UserError
from regx.models import create as create_model
from regx.regularizers import REGISTRY as REGULARIZERS
from regx.regularizers import Jumpstart, Preactivations
from regx.training import plots, tracking
from regx.training.config import RunConfig, options_of
from regx.training.folder import MetricsFile, RunFolder, load_checkpoint, save_checkpoint, to_json, write_atomically
from regx.training.loop import Penalty, Trainer, to_floats
from regx.training.objective import chance
from regx.training.status import StatusTables

# Below this many parameters an operation is all overhead, and a second CPU thread only adds to it.
SMALL_NETWORK = 200_000


class Observer(Protocol):
    """What watches a run: the progress bar, or lines in a pipe."""

    def started(self, lines: list[str]) -> None:
        """The run is built; `lines` say what it reaches and what the user should know."""

    def row(self, row: dict[str, float], epochs: int) -> None:
        """An epoch was logged."""

    def warn(self, message: str) -> None:
        """Something went otherwise than asked, but the run goes on."""


@dataclass
class Experiment:
    """Everything that a run consists of, built and on its device."""

    config: RunConfig
    data: DataModule
    model: nn.Module
    trainer: Trainer
    device: torch.device

    def describe(self) -> list[str]:
        """What is about to be trained, and what the penalties reach, a line each."""
        data, config = self.data, self.config
        sizes = f"{len(data.train)} train / {len(data.val)} val / {len(data.test) if data.test else 0} test rows"
        kind = f"{len(data.classes)} classes" if data.classes else f"{data.output_size} target(s)"
        count = sum(p.numel() for p in self.model.parameters())
        lines = [
            f"{data.name}: {sizes}, {'x'.join(map(str, data.input_shape))} inputs, {kind}",
            f"{config.experiment} {config.shape()}: {count:,} parameters on {self.device}",
        ]
        lines += [
            f"{type(p.regularizer).__name__.lower()} x {p.strength:g}: {p.regularizer.coverage()}"
            for p in self.trainer.penalties
        ]
        return lines + list(data.notes)


def build(config: RunConfig) -> Experiment:
    """Seeds, then builds data, model, penalties and trainer.

    Raises:
        UserError: the configuration asks for what cannot be.
        RunFailed: the data cannot be had.
    """
    device = find_device(config.devices)
    seed_everything(config)
    data = create_data(
        config.dataset,
        seed=config.seed if config.data_seed is None else config.data_seed,
        **{
            key: getattr(config, key)
            for key in (
                "n_samples",
                "noise",
                "val_size",
                "test_size",
                "standardize",
                "protocol",
                "data_dir",
                "target",
                "task",
                "subset",
            )
        },
    ).to(device)
    if config.batchnorm and _last_batch(config, data) == 1:  # type: ignore[attr-defined]
        raise UserError(
            f"{config.batch_size} leaves a last batch of one row ({len(data.train)} rows), which BatchNorm cannot use; "
            f"try --batch-size {int(config.batch_size) + 1}",
            "batch_size",
        )
    _refuse_idle(config, data)
    torch.manual_seed(config.seed)
    model = create_model(
        config.experiment,
        input_shape=data.input_shape,
        output_size=data.output_size,
        **config.model_options(),  # type: ignore[attr-defined]
    ).to(device)
    if config.threads != "auto":
        torch.set_num_threads(int(config.threads))
    elif device.type == "cpu" and sum(p.numel() for p in model.parameters()) < SMALL_NETWORK:
        torch.set_num_threads(1)
    penalties = []
    for name, options, strength in config.penalties():
        regularizer = REGULARIZERS[name].load()(model, **options)
        penalties.append(Penalty(regularizer, strength, "JR_loss" if name == "jumpstart" else f"{name}_loss"))
    trainer = Trainer(config, data, model, penalties, _preactivations(config, model, penalties))
    return Experiment(config, data, model, trainer, device)


def _refuse_idle(config: RunConfig, data: DataModule) -> None:
    """Refuses options of images for data that is none, so that nobody believes they had an effect."""
    if len(data.input_shape) != 1:
        return
    of_images = ("kernel_size", "head", "n_maxpool", "maxpool_mode")
    for item in options_of(type(config)):
        if item.name in of_images and getattr(config, item.name) != item.default:
            inputs = f"the inputs of {data.name} are {data.input_shape[0]} numbers"
            raise UserError(f"is for images; {inputs}", item.name)


def _preactivations(config: RunConfig, model: nn.Module, penalties: list[Penalty]) -> Preactivations | None:
    """The hooks that status is read from: Jumpstart's own where there is one, so that nothing is reduced twice."""
    if not config.log_status:
        return None
    for penalty in penalties:
        if isinstance(penalty.regularizer, Jumpstart):
            return penalty.regularizer.preactivations
    return Preactivations(
        model,
        hook_at=config.hook_at,  # type: ignore[arg-type]
        skip_last=config.skip_last,
        skip_batchnorm=config.skip_batchnorm,
    )


def _last_batch(config: RunConfig, data: DataModule) -> int:
    rows = len(data.train)
    return rows if config.batch_size == "full" else rows % int(config.batch_size)


def find_device(devices: str) -> torch.device:
    """The device that `--devices` names.

    Raises:
        UserError: it is not there, or is several where one can be used.
    """
    count = torch.cuda.device_count()
    if devices in ("cpu", "0") or (devices == "auto" and not count):
        return torch.device("cpu")
    if devices.isdigit() and int(devices) > 1:
        raise UserError(f"{devices} GPUs: this experiment trains on one device; use cuda:N to choose it", "devices")
    index = int(devices.partition(":")[2] or 0)
    if index >= count:
        there = (
            f"this machine has {count} CUDA device(s)"
            if count
            else "this machine has no CUDA device that PyTorch can use"
        )
        raise UserError(f"{devices!r} asks for a GPU, but {there}; use --devices cpu", "devices")
    return torch.device("cuda", index)


def seed_everything(config: RunConfig) -> None:
    """Seeds before anything is built, so that the seed decides the initial weights too."""
    torch.manual_seed(config.seed)
    if config.deterministic != torch.are_deterministic_algorithms_enabled():  # the call alone takes a second
        torch.use_deterministic_algorithms(config.deterministic)
    if config.deterministic:
        # cuBLAS reads this when CUDA starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False


def run(
    config: RunConfig, observer: Observer, *, argv: list[str], force: bool = False, folder: RunFolder | None = None
) -> dict[str, Any]:
    """Trains what `config` describes and returns `result.json`; a folder that is given is resumed.

    A configuration whose folder has already ended is not trained again (unless `force`): its result is returned.

    Raises:
        UserError: the configuration asks for what cannot be, or the folder holds an unfinished run.
        RunFailed: the run could not be carried out; its folder says why.
    """
    resume = folder is not None
    folder = folder or RunFolder(Path(config.run_dir) / config.run_name())
    if not force and (ended := folder.read_result()):
        again = "" if resume else "; --force trains it again"
        observer.warn(f"{folder.path} has already {ended['status']}{again}")
        return ended
    if not force and not resume and folder.last.is_file():
        raise UserError(
            f"{folder.path} holds an unfinished run: `regx resume {folder.path}` continues it, --force starts anew"
        )
    experiment = build(config)
    folder.create(config, argv)
    with folder.locked():
        if force:
            folder.clear()
        return _carry_out(experiment, folder, observer)


def _carry_out(experiment: Experiment, folder: RunFolder, observer: Observer) -> dict[str, Any]:
    config, trainer = experiment.config, experiment.trainer
    if folder.last.is_file():
        trainer.load_state_dict(load_checkpoint(folder.last))
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
        run_id=folder.path.name.rpartition("-")[2],
        warn=observer.warn,
    )
    metrics = MetricsFile(folder.metrics, keep_to=trainer.epoch)
    exit_code = 1

    def on_row(row: dict[str, float]) -> None:
        metrics.append(row)
        tracker.log(row, step=int(row["epoch"]))
        observer.row(row, config.epochs)
        if config.plot_status and trainer.status and row["epoch"] % config.plot_every == 0:
            _draw_status(trainer, folder, tracker, int(row["epoch"]), config.plot_points)

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
            save_checkpoint(folder.best, {"epoch": trainer.best.epoch, "model": trainer.best.weights})
            result["test"] = _final(experiment, folder, tracker)
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
            save_checkpoint(folder.best, {"epoch": trainer.best.epoch, "model": trainer.best.weights})
        result = _result(experiment, folder, "failed", "error") | {"error": failure.message}
        write_atomically(folder.result, to_json(result))
        raise RunFailed(
            f"{failure.message} (last good checkpoint: epoch {load_checkpoint(folder.last)['epoch']}, {folder.last})"
        ) from None
    except Exception:
        result = _result(experiment, folder, "failed", "error") | {"error": traceback.format_exc(limit=-1).strip()}
        write_atomically(folder.result, to_json(result))
        raise
    finally:
        metrics.close()
        tracker.finish(exit_code)


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
        "epochs": trainer.epoch,
        "best": trainer.best.row,
        "last": trainer.last,
        "test": {},
        "seconds": round(trainer.seconds, 3),
        "run_dir": str(folder.path),
    }


def _final(experiment: Experiment, folder: RunFolder, tracker: tracking.Tracker) -> dict[str, float]:
    """Measures the best weights on every split, writes status.npz and the plots; returns the test metrics."""
    config, data, trainer = experiment.config, experiment.data, experiment.trainer
    experiment.model.load_state_dict(trainer.best.weights)
    splits = {"train": data.train, "val": data.val} | ({"test": data.test} if data.test else {})
    measured = {stage: to_floats(trainer.evaluate(stage, split)) for stage, split in splits.items()}
    tables = {stage: trainer.status[stage].tables() for stage in splits if stage in trainer.status}
    save_status(folder.status, tables)
    if config.plots:
        folder.plots.mkdir(exist_ok=True)
        for name, figure in _figures(experiment, folder, tables):
            plots.save(figure, folder.plots / f"{name}.png")
            tracker.figure(f"best/{name}", figure, step=trainer.epoch)
    return measured.get("test", {})


def save_status(path: Path, tables: dict[str, StatusTables]) -> None:
    """Writes the status tables: `layers`, and `<stage>_units` (width, L) and `<stage>_points` (N, L) of int8 codes."""
    arrays: dict[str, np.ndarray] = {}
    for stage, table in tables.items():
        arrays |= {"layers": np.array(table.layers), f"{stage}_units": table.units, f"{stage}_points": table.points}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def _figures(experiment: Experiment, folder: RunFolder, tables: dict[str, StatusTables]) -> Iterator[tuple[str, Any]]:
    """Name and figure of each plot of a finished run, drawn from its best weights."""
    import pandas

    config, data, trainer = experiment.config, experiment.data, experiment.trainer
    title = f"{data.name}, {config.experiment} {config.shape()}, lambda {config.lambda_:g}"
    epoch = trainer.best.epoch
    yield "learning_curves", plots.learning_curves(pandas.read_csv(folder.metrics), title=title, best_epoch=epoch)
    if "train" in tables:
        yield from _status_figures(tables["train"], f"{title}, epoch {epoch} (best)", config.plot_points)
    if data.task == "regression":
        output = _outputs(experiment, data.val.x)
        mean, scale = np.array(data.target_mean), np.array(data.target_std)
        true = data.val.y.cpu().numpy() * scale + mean
        predicted = output.numpy() * scale + mean
        for target in range(data.output_size):
            name = f"predictions_{target}" if data.output_size > 1 else "predictions"
            yield name, plots.regression_scatter(true[:, target], predicted[:, target], title=f"{title}, validation")
        return
    predicted = trainer.objective.predict(_outputs(experiment, data.val.x))
    count = max(2, len(data.classes))
    matrix = torch.bincount(data.val.y.cpu() * count + predicted, minlength=count**2).reshape(count, count)
    yield "confusion", plots.confusion_matrix(matrix.numpy(), data.classes, title=f"{title}, validation")
    if data.input_shape == (2,):

        def predict(points: np.ndarray) -> np.ndarray:
            output = _outputs(experiment, torch.as_tensor(points, dtype=torch.float32))
            return trainer.objective.probabilities(output).numpy()

        splits = {"train": data.train, "val": data.val} | ({"test": data.test} if data.test else {})
        points = {stage: (split.x.cpu().numpy(), split.y.cpu().numpy()) for stage, split in splits.items()}
        yield (
            "decision_surface",
            plots.decision_surface(predict, points, classes=data.classes, feature_names=data.features, title=title),
        )


def _outputs(experiment: Experiment, x: torch.Tensor) -> torch.Tensor:
    experiment.model.eval()
    with torch.no_grad():
        return experiment.model(x.to(experiment.device)).cpu()


def _status_figures(table: StatusTables, title: str, max_points: int) -> Iterator[tuple[str, Any]]:
    yield "unit_status", plots.status_heatmap(table.units, table.layers, axis="unit", title=title)
    rows = np.random.default_rng(0).permutation(len(table.points))[:max_points]
    yield "point_status", plots.status_heatmap(table.points[rows], table.layers, axis="point", title=title, sort=True)


def _draw_status(trainer: Trainer, folder: RunFolder, tracker: tracking.Tracker, epoch: int, max_points: int) -> None:
    """Draws unit and point status in the middle of training."""
    target = folder.plots / "status"
    target.mkdir(parents=True, exist_ok=True)
    for stage in ("train", "val"):
        for name, figure in _status_figures(trainer.status[stage].tables(), f"{stage}, epoch {epoch}", max_points):
            plots.save(figure, target / f"{stage}_{name}_{epoch:05d}.png")
            tracker.figure(f"{stage}/status/{name.partition('_')[0]}", figure, step=epoch)
