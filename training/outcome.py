"""What is measured and drawn of a run: status tables and figures, at its end and on the way."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regx.data.module import Split
from regx.training import plots
from regx.training.build import Experiment
from regx.training.folder import RunFolder, write_atomically, write_csv
from regx.training.loop import Trainer
from regx.training.status import StatusTables
from regx.training.totals import to_floats
from regx.training.tracking import Tracker


def measure_best(experiment: Experiment, folder: RunFolder, tracker: Tracker) -> dict[str, float]:
    """Measures the model, which has its best weights, on its splits; writes status.npz, weights.csv and the plots.

    Returns:
        The test metrics.
    """
    config, data, trainer = experiment.config, experiment.data, experiment.trainer
    # Of images that are read from files, the training part would cost as much as an epoch.
    splits = {} if data.train.streamed else {"train": data.train}
    splits |= {"val": data.val} | ({"test": data.test} if data.test else {})
    measured = {stage: to_floats(trainer.evaluate(stage, split)) for stage, split in splits.items()}
    tables = {stage: trainer.status[stage].tables() for stage in splits if stage in trainer.status}
    save_status(folder.status, tables)
    weights = trainer.sparsity.table() if trainer.sparsity else []
    if weights:
        write_csv(folder.weights, weights)
    if config.plots:
        folder.plots.mkdir(exist_ok=True)
        for name, figure in _figures(experiment, folder, tables, weights):
            path = plots.save(figure, folder.plots / f"{name}.png")
            tracker.image(f"best/{name}", path, step=trainer.epoch)
    return measured.get("test", {})


def save_status(path: Path, tables: dict[str, StatusTables]) -> None:
    """Writes the status tables: `layers`, and `<stage>_units` (width, L) and `<stage>_points` (N, L) of int8 codes."""
    arrays: dict[str, np.ndarray] = {}
    for stage, table in tables.items():
        arrays |= {"layers": np.array(table.layers), f"{stage}_units": table.units, f"{stage}_points": table.points}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def _figures(
    experiment: Experiment, folder: RunFolder, tables: dict[str, StatusTables], weights: list[dict[str, Any]]
) -> Iterator[tuple[str, Any]]:
    """Name and figure of each plot of a finished run, drawn from its best weights."""
    import pandas

    config, data, trainer = experiment.config, experiment.data, experiment.trainer
    title = f"{Path(data.name).name}, {config.experiment} {config.shape()}, {config.penalty_title()}"
    epoch = trainer.best.epoch
    yield "learning_curves", plots.learning_curves(pandas.read_csv(folder.metrics), title=title, best_epoch=epoch)
    for stage in list(tables)[:1]:
        which = "" if stage == "train" else f"{stage}, "
        yield from _status_figures(tables[stage], f"{title}, {which}epoch {epoch} (best)", config.plot_points)
    if trainer.sparsity:
        yield "weights", plots.weight_histogram(*trainer.sparsity.arrays(), title=title)
        yield "sparsity", plots.sparsity_bars(weights, title=title)
    if data.task == "regression":
        output, y = _outputs(experiment, data.val)
        mean, scale = np.array(data.target_mean), np.array(data.target_std)
        true = y.numpy() * scale + mean
        predicted = output.numpy() * scale + mean
        for target in range(data.output_size):
            name = f"predictions_{target}" if data.output_size > 1 else "predictions"
            yield name, plots.regression_scatter(true[:, target], predicted[:, target], title=f"{title}, validation")
        return
    output, y = _outputs(experiment, data.val)
    count = max(2, len(data.classes))
    predicted = trainer.objective.predict(output)
    matrix = torch.bincount(y * count + predicted, minlength=count**2).reshape(count, count)
    yield "confusion", plots.confusion_matrix(matrix.numpy(), data.classes, title=f"{title}, validation")
    if data.input_shape == (2,):

        def predict(points: np.ndarray) -> np.ndarray:
            x = torch.as_tensor(points, dtype=torch.float32)
            output, _ = _outputs(experiment, Split(x, torch.zeros(len(x))).to(experiment.device))
            return trainer.objective.probabilities(output).numpy()

        splits = {"train": data.train, "val": data.val} | ({"test": data.test} if data.test else {})
        points = {stage: (split.x.cpu().numpy(), split.y.cpu().numpy()) for stage, split in splits.items()}
        yield (
            "decision_surface",
            plots.decision_surface(predict, points, classes=data.classes, feature_names=data.features, title=title),
        )


def _outputs(experiment: Experiment, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and labels of a split, on the CPU."""
    experiment.model.eval()
    with torch.no_grad():
        found = [(output.cpu(), y.cpu()) for output, y, _ in experiment.trainer.outputs(split)]
    return torch.cat([output for output, _ in found]), torch.cat([y for _, y in found])


def _status_figures(table: StatusTables, title: str, max_points: int) -> Iterator[tuple[str, Any]]:
    yield "unit_status", plots.status_heatmap(table.units, table.layers, axis="unit", title=title)
    rows = np.random.default_rng(0).permutation(len(table.points))[:max_points]
    yield "point_status", plots.status_heatmap(table.points[rows], table.layers, axis="point", title=title, sort=True)


def draw_status(trainer: Trainer, folder: RunFolder, tracker: Tracker, epoch: int, max_points: int) -> None:
    """Draws unit and point status in the middle of training."""
    target = folder.plots / "status"
    target.mkdir(parents=True, exist_ok=True)
    for stage in ("train", "val"):
        for name, figure in _status_figures(trainer.status[stage].tables(), f"{stage}, epoch {epoch}", max_points):
            path = plots.save(figure, target / f"{stage}_{name}_{epoch:05d}.png")
            tracker.image(f"{stage}/status/{name.partition('_')[0]}", path, step=epoch)
