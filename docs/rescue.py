"""Trains the same 50 x 4 network without and with Jumpstart and draws the README's picture: `make picture`."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from regx.cli.progress import observer
from regx.training import experiment, plots
from regx.training.build import build
from regx.training.experiments import RectangularConfig
from regx.training.folder import RunFolder, load_checkpoint

PICTURE = Path(__file__).resolve().with_suffix(".png")


def picture_of(config: RectangularConfig, title: str) -> plots.RunPicture:
    """Trains what `config` says, or takes its finished run folder, and returns what the picture shows of it."""
    with observer() as watcher:
        result = experiment.run(config, watcher, argv=sys.argv)
    folder = RunFolder(Path(result["run_dir"]))
    built = build(config)
    built.model.load_state_dict(load_checkpoint(folder.best)["model"])
    built.model.eval()

    def predict(points: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return built.trainer.objective.probabilities(
                built.model(torch.as_tensor(points, dtype=torch.float32))
            ).numpy()

    with np.load(folder.status) as status:
        table, layers = status["train_units"], status["layers"].tolist()
    data = built.data
    assert data.test is not None
    points = {
        stage: (split.x.numpy(), split.y.numpy()) for stage, split in (("train", data.train), ("test", data.test))
    }
    return plots.RunPicture(
        title=title,
        table=table,
        layers=layers,
        predict=predict,
        points=points,
        accuracy=result["test"]["test/acc"],
        accuracy_of="test",
        classes=data.classes,
    )


if __name__ == "__main__":
    plain = RectangularConfig(depth=50, dataset="moons", lambda_=0.0, wandb="disabled")
    runs = [
        picture_of(plain, "plain training"),
        picture_of(replace(plain, lambda_=0.01), "with Jumpstart, lambda 0.01"),
    ]
    plots.save(plots.comparison(runs), PICTURE)
    print(f"wrote {PICTURE}")
