"""On a GPU: `pytest -m gpu`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from regx.training import experiment
from regx.training.build import Experiment, build
from regx.training.experiments import RectangularConfig, ResNetConfig
from regx.training.folder import load_checkpoint, save_checkpoint
from tests.training.silent import Silent

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("engine", ["single", "vectorised"])
def test_first_epochs_equal_those_of_the_cpu(engine: str, tmp_path: Path) -> None:
    last = {}
    for device in ("cpu", "cuda"):
        config = RectangularConfig(
            depth=10,
            lambda_=0.01,
            epochs=3,
            devices=device,
            engine=engine,
            deterministic=True,
            run_dir=str(tmp_path / device),
            wandb="disabled",
        )
        last[device] = experiment.run(config, Silent(), argv=[])["last"]
    for key, value in last["cpu"].items():
        assert last["cuda"][key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


def images(device: str, **options: Any) -> Experiment:
    small: dict[str, Any] = {"depth": 20, "width_multiplier": 1, "image_size": 16, "n_samples": 200, "epochs": 2}
    small |= {"optimizer": "sgd", "lr": 0.02, "lambda_": 0.05, "batch_size": 32, "augment": ["flip", "crop(padding=2)"]}
    return build(ResNetConfig(dataset="fake", devices=device, **small | options))


def fit(built: Experiment, stop_after: int | None = None) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    trainer = built.trainer
    trainer.fit(rows.append, lambda: None, lambda: stop_after is not None and trainer.step >= stop_after)
    return rows


@pytest.mark.parametrize("regularizer", ["jumpstart", "l1(prox=true)=1e-4", "group_lasso=1e-4"])
def test_first_epochs_of_a_resnet_equal_those_of_the_cpu(regularizer: str) -> None:
    strength = 0.05 if regularizer == "jumpstart" else 0.0
    rows = [fit(images(d, regularizer=[regularizer], lambda_=strength, deterministic=True)) for d in ("cpu", "cuda")]
    for ours, theirs in zip(rows[1], rows[0], strict=True):
        for key in ("train/loss", "train/total_loss", "val/loss"):
            assert ours[key] == pytest.approx(theirs[key], rel=5e-3), key


@pytest.mark.parametrize(("amp", "tolerance"), [("bf16", 0.05), ("fp16", 0.02)])
def test_half_precision_learns_nearly_the_same(amp: str, tolerance: float) -> None:
    half, full = images("cuda", amp=amp), images("cuda")
    outputs: list[torch.dtype] = []
    half.model.fc.register_forward_hook(lambda m, x, y: outputs.append(y.dtype))  # type: ignore[union-attr]
    rows = fit(half), fit(full)
    assert set(outputs) == {torch.bfloat16 if amp == "bf16" else torch.float16}
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    for ours, theirs in zip(*rows, strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=tolerance)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # from the compiler's own look
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")  # and of that version
@pytest.mark.parametrize("amp", ["no", "bf16"])
def test_a_compiled_network_learns_the_same(amp: str) -> None:
    rows = fit(images("cuda", compile=True, amp=amp)), fit(images("cuda", amp=amp))
    for ours, theirs in zip(*rows, strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=0.02)
        assert ours["train/JR_loss"] == pytest.approx(theirs["train/JR_loss"], rel=0.1, abs=0.01)


def test_a_run_broken_off_within_an_epoch_goes_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {"deterministic": True, "dropout": 0.2, "ema": 0.9, "amp": "fp16"}
    whole = fit(images("cuda", **options))
    begun = images("cuda", **options)
    first = fit(begun, stop_after=2)
    save_checkpoint(tmp_path / "last.pt", begun.trainer.state_dict())
    torch.manual_seed(999)
    rest = images("cuda", **options)
    rest.trainer.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
    for ours, theirs in zip(first + fit(rest), whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)


def test_speed_is_measured_with_the_memory_of_the_device() -> None:
    built = images("cuda", log_speed=True, epochs=1)
    rows: list[dict[str, float]] = []
    built.trainer.fit(lambda row: rows.append(built.trainer.speed.row(1)), lambda: None, lambda: False)
    weights = sum(p.numel() * 4 for p in built.model.parameters()) / 2**20
    assert rows[0]["speed/peak_memory_mb"] > 2 * weights
    assert rows[0]["speed/regularizer_share"] < 1
