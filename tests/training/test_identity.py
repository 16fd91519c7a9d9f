"""A run is told from others by what its files hold, not by where they lie."""

import shutil
from pathlib import Path

import pytest
import torch

from regx.errors import UserError
from regx.training import identity
from regx.training.build import build
from regx.training.experiments import ResNetConfig, from_dict


def folder(root: Path, *classes: str, count: int = 3) -> Path:
    for name in classes:
        (root / "train" / name).mkdir(parents=True)
        for index in range(count):
            (root / "train" / name / f"{index}.jpg").touch()
    return root


def test_folders_by_their_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = folder(tmp_path / "a" / "images", "ant", "bee")
    same = tmp_path / "b" / "images"
    shutil.copytree(first, same)
    hashes = [ResNetConfig(dataset=str(path)).hash() for path in (first, same)]
    assert hashes[0] == hashes[1]
    monkeypatch.chdir(first.parent)
    relative = ResNetConfig(dataset="images")
    assert relative.hash() == hashes[0] and relative.dataset == str(first), "a run is resumed from any folder"
    (same / "train" / "bee" / "3.jpg").touch()
    other = folder(tmp_path / "c" / "images", "ant", "cow")
    assert len({*hashes, *(ResNetConfig(dataset=str(path)).hash() for path in (same, other))}) == 3


def test_weights_by_their_bytes(tmp_path: Path) -> None:
    small = {"dataset": "fake", "image_size": 8, "n_samples": 100, "batch_size": 32, "depth": 20}
    model = build(ResNetConfig(**small)).model
    run = tmp_path / "run" / "checkpoints"
    run.mkdir(parents=True)
    torch.save({"epoch": 1, "model": model.state_dict()}, run / "best.pt")
    config = ResNetConfig(**small, pretrained=str(run.parent))
    path, digest = identity.unmarked(str(config.pretrained))
    assert path == str(run / "best.pt") and len(digest) == 16
    assert build(config).notes
    again = from_dict(config.as_dict())
    shutil.move(run / "best.pt", tmp_path / "moved.pt")
    assert again.hash() == config.hash() == ResNetConfig(**small, pretrained=str(tmp_path / "moved.pt")).hash()
    model.fc.bias.data += 1  # type: ignore[union-attr, operator]
    torch.save({"epoch": 1, "model": model.state_dict()}, run / "best.pt")
    assert ResNetConfig(**small, pretrained=str(run / "best.pt")).hash() != config.hash()
    with pytest.raises(UserError, match="is no longer what it was when this run was configured"):
        build(again)


def test_nothing_is_hooked_for_what_nobody_asked() -> None:
    small = {"dataset": "fake", "image_size": 8, "n_samples": 100, "batch_size": 32, "depth": 20}
    for options, hooked in (({}, True), ({"log_status": False}, False), ({"lambda_": 0.1, "log_status": False}, True)):
        model = build(ResNetConfig(**small, **options)).model  # type: ignore[arg-type]
        assert any(module._forward_pre_hooks for module in model.modules()) is hooked, options


def test_a_network_without_activation_modules_trains_without_status() -> None:
    """torchvision's GoogLeNet calls relu as a function."""
    built = build(
        ResNetConfig(model="torchvision:googlenet", dataset="fake", image_size=32, n_samples=40, batch_size=8)
    )
    assert not built.trainer.status and not built.trainer.penalties
    assert any("no unit and point status" in note for note in built.notes)
