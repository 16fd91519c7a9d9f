"""A trained network again: from a run folder, or from one of its checkpoints, to the model and its data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regx.data.module import DataModule, Split
from regx.errors import RunFailed, UserError, did_you_mean
from regx.training import build
from regx.training.build import Experiment
from regx.training.config import RunConfig
from regx.training.folder import RunFolder, load_checkpoint
from regx.training.totals import to_floats


@dataclass
class Trained:
    """A trained network.

    Attributes:
        folder: the run folder that it is from.
        checkpoint: the file that its weights are from.
        config: what was trained.
        model: the network with its weights, in evaluation mode; gates are folded into them, and nothing is hooked.
        data: what it was trained on.
        epoch: that the weights are of.
        recipe: what was removed from the network of the configuration; empty unless it is compact.
        moments: name of a parameter -> what the optimiser holds of it, by name; of `last.pt` alone.
    """

    folder: Path
    checkpoint: Path
    config: RunConfig
    model: nn.Module
    data: DataModule
    epoch: int
    recipe: list[dict[str, Any]]
    moments: dict[str, dict[str, Tensor]]
    _experiment: Experiment

    def evaluate(self, split: Split, stage: str, model: nn.Module | None = None) -> dict[str, float]:
        """Loss and metrics of a part of the data (`val/loss`, `val/acc`, ...).

        Args:
            split: the part.
            stage: what the metrics begin with.
            model: another network to measure in the same way; this one by default.
        """
        trainer, model = self._experiment.trainer, model or self.model
        trainer.model = trainer.stepper.forward = model
        try:
            return to_floats(trainer.evaluate(stage, split))
        finally:
            trainer.model = trainer.stepper.forward = self.model
            model.eval()

    def predictions(self, split: Split) -> Tensor:
        """Class indices (N,) that the network gives to a part of the data, on the CPU."""
        with torch.no_grad():
            return torch.cat([self.predict(output).cpu() for output, _, _ in self._experiment.trainer.outputs(split)])

    def probabilities(self, x: Tensor) -> Tensor:
        """Class probabilities (N, K) of inputs (N, ...)."""
        with torch.no_grad():
            return self._experiment.trainer.objective.probabilities(self.model(x))

    def predict(self, output: Tensor) -> Tensor:
        """Class indices (N,) of outputs (N, K) of the network; of a regression the outputs themselves."""
        return self._experiment.trainer.objective.predict(output)

    def sample(self, count: int = 1) -> Tensor:
        """The first `count` validation inputs, on the model's device and in its layout."""
        return self._experiment.trainer.stepper.laid_out(self.data.val.sample(count))


def locate(path: Path) -> tuple[Path, Path]:
    """The run folder and the checkpoint that a path stands for: either of both, or a folder of `regx compact`.

    Raises:
        UserError: it is neither.
        RunFailed: the run has no checkpoint yet.
    """
    if path.is_file():
        folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        if not (folder / "config.yaml").is_file():
            raise UserError(
                f"{path} lies in no run folder (there is no {folder / 'config.yaml'}), so nothing says of which network"
                " it is; give a run folder or its checkpoints/best.pt"
            )
        return folder, path
    if not path.is_dir():
        beside = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"there is no run folder or checkpoint {path}{did_you_mean(path.name, beside)}")
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise UserError(f"{path} is no run folder: it has no config.yaml")
    for checkpoint in (folder.best, folder.last):
        if checkpoint.is_file():
            return path, checkpoint
    raise RunFailed(f"{path} has no checkpoint yet; run `regx resume {path}`")


def load(path: Path, *, data_dir: str | None = None, devices: str = "auto") -> Trained:
    """Loads a trained network with its data.

    Args:
        path: a run folder, a checkpoint in it, or a folder of `regx compact`.
        data_dir: folder of datasets, where it is not the one that the run was made with.
        devices: auto, cpu, cuda, cuda:N.

    Raises:
        UserError: there is no such run, or its configuration names what does not exist.
        RunFailed: the checkpoint is damaged or of another network, or the data cannot be had.
    """
    folder, checkpoint = locate(path)
    config = RunFolder(folder).read_config()
    state = load_checkpoint(checkpoint)
    changed: dict[str, Any] = {
        "devices": devices, "engine": "single", "compile": False, "pretrained": None, "log_status": False,
        "plot_status": False, "log_speed": False,
    }  # fmt: skip
    if data_dir is not None:
        changed["data_dir"] = data_dir
    config = dataclasses.replace(config, **changed)
    recipe = state.get("recipe", [])
    experiment = build.build(config, recipe=recipe)
    model, trainer = experiment.model, experiment.trainer
    moments: dict[str, dict[str, Tensor]] = {}
    try:
        if "penalties" in state:  # last.pt: what makes gates part of the weights is not in the weights
            trainer.load_state_dict(state)
            held = trainer.stepper.optimizer.state
            moments = {name: dict(held[p]) for name, p in model.named_parameters() if held.get(p)}
            _fold(experiment)
        else:
            model.load_state_dict(state["model"])
    except (RuntimeError, KeyError, ValueError, TypeError, UserError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunFailed(
            f"{checkpoint} is not of the network that {folder / 'config.yaml'} describes: {reason}"
        ) from error
    for penalty in trainer.penalties:
        penalty.regularizer.detach()
    trainer.penalties, trainer.stepper.in_forward = [], []
    return Trained(
        folder, checkpoint, config, model.eval(), experiment.data, int(state["epoch"]), recipe, moments, experiment
    )


def _fold(experiment: Experiment) -> None:
    """Folds gates into the weights; where they stand shows in a forward pass."""
    gated = [p.regularizer for p in experiment.trainer.penalties if list(p.regularizer.parameters())]
    if gated:
        experiment.model.eval()
        with torch.no_grad():
            experiment.model(experiment.trainer.stepper.laid_out(experiment.data.val.sample(2)))
        for regularizer in gated:
            regularizer.fold()
