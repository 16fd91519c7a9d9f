"""A sweep of which some runs begin with the weights of another one, as a user meets it."""

import json
from pathlib import Path

import pytest
import torch

from tests.cli.done import Done

SMALL = [
    *("--set", "dataset=fake", "--set", "n_samples=60", "--set", "image_size=8", "--set", "batch_size=16"),
    *("--set", "epochs=1", "--set", "log_status=false", "--run-cap", "5", "--workers", "2"),
]


def steps_behind(folder: Path) -> set[int]:
    """Batches that the batch normalizations of a run's best weights have seen: with those of the run it began from."""
    model = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)["model"]
    return {int(value) for key, value in model.items() if key.endswith("num_batches_tracked")}


def test_fine_tuned_rows_begin_with_the_weights_of_the_dense_row(capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "sweep", "run", "l0-frontier", *SMALL)
    assert done.code == 0, done.err
    folders = {json.loads(path.read_text())["label"]: path.parent for path in Path("runs").glob("*/*/trial.json")}
    results = {label: json.loads((folder / "result.json").read_text()) for label, folder in folders.items()}
    scratch = ["Gates 0.25", "Gates 0.5", "Gates 1"]
    assert sorted(results) == sorted(["No gates", *scratch, "Fine-tuned 10"])
    assert all(result["status"] == "finished" for result in results.values())

    dense = (folders["No gates"] / "checkpoints" / "best.pt").absolute()
    assert results["Fine-tuned 10"]["config"]["pretrained"].partition("@")[0] == str(dense)
    assert all(results[label]["config"]["pretrained"] is None for label in ["No gates", *scratch])
    (own,) = steps_behind(folders["No gates"])
    assert own > 0
    assert all(steps_behind(folders[label]) == {own} for label in scratch)
    assert steps_behind(folders["Fine-tuned 10"]) == {2 * own}
