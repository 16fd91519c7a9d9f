"""A small trained run with units that are zero, for the tests of what is done after training."""

from pathlib import Path
from typing import Any

from regx.compaction.removal import compact
from regx.training import experiment
from regx.training.experiments import RectangularConfig
from regx.training.folder import RunFolder, load_checkpoint, save_checkpoint
from regx.training.trained import load
from tests.training.silent import Silent

# Of 6 units of the first hidden layer these are zeroed, weights and biases.
ZEROED = [1, 4]


def trained_run(folder: Path, **options: Any) -> Path:
    """A run of twenty epochs: a network 2-6-6-1 on moons."""
    options = {
        "dataset": "moons",
        "n_samples": 120,
        "epochs": 20,
        "lr": 0.03,
        "seed": 3,
        "depth": 2,
        "width": 6,
    } | options
    quiet: dict[str, Any] = {"wandb": "disabled", "plots": False, "log_status": False, "devices": "cpu"}
    config = RectangularConfig(run_dir=str(folder), **quiet, **options)
    return Path(experiment.run(config, Silent(), argv=[])["run_dir"])


def zero_units(run: Path) -> None:
    """Zeroes units in the best weights, as a regularizer would have done."""
    best = RunFolder(run).best
    state = load_checkpoint(best)
    for name in ("weight", "bias"):
        state["model"][f"hidden.layer0.{name}"][ZEROED] = 0
    save_checkpoint(best, state)


def compact_folder(run: Path, folder: Path) -> Path:
    """The same as a folder of `regx compact`."""
    trained = load(run, devices="cpu")
    made = compact(trained.model, trained.sample(2))
    target = RunFolder(folder)
    target.best.parent.mkdir(parents=True)
    target.config.write_text(RunFolder(run).config.read_text())
    save_checkpoint(target.best, {"epoch": 1, "model": made.model.state_dict(), "recipe": made.recipe})
    return folder
