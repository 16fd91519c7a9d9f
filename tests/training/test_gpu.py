"""On a GPU: `pytest -m gpu`."""

from pathlib import Path

import pytest
import torch

from regx.training import experiment
from regx.training.experiments import RectangularConfig

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class Silent:
    """An observer that says nothing."""

    def started(self, lines: list[str]) -> None:
        pass

    def row(self, row: dict[str, float], epochs: int) -> None:
        pass

    def warn(self, message: str) -> None:
        pass


def test_first_epochs_equal_those_of_the_cpu(tmp_path: Path) -> None:
    last = {}
    for device in ("cpu", "cuda"):
        config = RectangularConfig(
            depth=10,
            lambda_=0.01,
            epochs=3,
            devices=device,
            deterministic=True,
            run_dir=str(tmp_path / device),
            wandb="disabled",
        )
        last[device] = experiment.run(config, Silent(), argv=[])["last"]
    for key, value in last["cpu"].items():
        assert last["cuda"][key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
