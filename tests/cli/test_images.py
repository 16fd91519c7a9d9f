"""`regx resnet` as a user meets it."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from regx.models import create
from tests.cli.done import Done

TINY = [
    *("--depth", "20", "--width-multiplier", "0.5", "--dataset", "fake", "--n-samples", "200", "--image-size", "8"),
    *("--batch-size", "32", "--epochs", "1", "--wandb", "disabled", "--no-plots", "--threads", "1"),
]


def images(root: Path, *parts: str, classes: int = 2, count: int = 6) -> Path:
    """Folders of small photographs' stand-ins."""
    random = np.random.default_rng(0)
    for part in parts:
        for label in range(classes):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
                coarse.resize((24, 24), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg")
    return root


def test_a_run_leaves_a_complete_folder(capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "resnet", *TINY, "--augment", "flip", "--augment", "crop(padding=1)", "-f", "json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    folder = Path(result["run_dir"])
    assert result["status"] == "finished" and 0 <= result["test"]["test/acc"] <= result["test"]["test/top5_acc"] <= 1
    assert {path.name for path in folder.iterdir()} >= {
        *(
            "config.yaml",
            "env.json",
            "metrics.csv",
            "speed.csv",
            "coverage.csv",
            "status.npz",
            "checkpoints",
            "result.json",
        )
    }
    (speed,) = csv.DictReader(io.StringIO((folder / "speed.csv").read_text()))
    assert float(speed["speed/samples_per_second"]) > 0 and float(speed["speed/regularizer_share"]) < 1
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["experiment"] == "resnet" and config["augment"] == ["flip", "crop(padding=1)"]


def test_recipes_give_way_to_files_and_files_to_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("lr: 0.5\nepochs: 7\n")
    typed = ["resnet", "--recipe", "torchvision-v1", "--config", str(file), "--epochs", "8", "--print-config"]
    config = yaml.safe_load(Done(capsys, *typed).out)
    assert (config["momentum"], config["lr"], config["epochs"]) == (0.9, 0.5, 8)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [("lenet5", 431_080), ("mlp(hidden=300,100)", None), ("mlp", 266_610), ("wide_resnet(depth=10,width=1)", 77_562)],
)
def test_models_by_name(model: str, parameters: int | None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (80, 28, 28), dtype=np.uint8)
    y = np.arange(80) % 10
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    typed = ["resnet", "--model", model, "--dataset", "mnist", "--data-dir", str(tmp_path), "--batch-size", "16"]
    done = Done(capsys, *typed, "--epochs", "1", "--wandb", "disabled", "--no-plots", "-f", "json")
    if parameters is None:  # a comma ends an option
        assert done.code == 2 and "write option=value" in done.err
        return
    name, _, inside = model.partition("(")
    options = dict(item.split("=") for item in inside.rstrip(")").split(",") if item)
    plain = create(name, input_shape=(1, 28, 28), output_size=10, **{key: int(value) for key, value in options.items()})
    assert done.code == 0, done.err
    assert json.loads(done.out)["parameters"] == sum(p.numel() for p in plain.parameters()) == parameters


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--depth", "51"], 2, ["--depth", "51", "did you mean 50?"]),
        (["--model", "lenet6"], 2, ["lenet6", "did you mean 'lenet5'?"]),
        (["resnet", "--model", "lenet5", "--stem", "64"], 2, ["--stem", "not for lenet5"]),
        (["--model", "lenet5(width=3)"], 2, ["--model", "lenet5 has no option 'width'"]),
        (["resnet", "--model", "torchvision:resnet19", "--dataset", "fake"], 2, ["resnet19", "did you mean"]),
        (["--init", "fixup", "--no-skip-connections"], 2, ["--init", "skip_connections"]),
        (["--augment", "flop"], 2, ["--augment", "did you mean 'flip'?"]),
        (["--augment", "crop(padding=-1)"], 2, ["--augment", "padding", "-1"]),
        (["--batch-size", "500"], 2, ["--batch-size", "500 is more than the", "images"]),
        (["--accumulate", "64"], 2, ["--accumulate", "64 passes"]),
        (["resnet", "--dataset", "moons"], 2, ["--dataset", "moons is not for resnet"]),
        (["resnet", "--dataset", "imagenet"], 1, ["imagenet", "by hand", "{train,val}/<wnid>"]),
        (["resnet", "--dataset", "nowhere/images"], 2, ["nowhere/images"]),
        (["--pretrained", "none.pt"], 2, ["--pretrained", "none.pt"]),
        (["--pretrained", "torchvision"], 2, ["--pretrained", "torchvision has no weights"]),
        (["--lr-update", "step", "--lr-schedule", "plateau"], 2, ["--lr-update", "plateau"]),
        (["--devices", "cpu:0"], 2, ["--devices", "cpu:N"]),
        (["--recipe", "torchvision-v2"], 2, ["torchvision-v2", "did you mean 'torchvision-v1'?"]),
        (["--global-batch", "--aggr", "sum", "--lambda", "1"], 2, ["aggr=balanced"]),
        (["--decay-norms", "--weight-decay", "0"], 2, ["--decay-norms", "--weight-decay"]),
    ],
    ids=str,
)
def test_bad_input_is_one_line(
    arguments: list[str], code: int, parts: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    done = Done(capsys, *(arguments if arguments[0] == "resnet" else ["resnet", *TINY, *arguments]))
    assert done.code == code, done.err
    (line,) = done.err.splitlines()
    assert line.startswith("regx: error: ")
    for part in parts:
        assert part in line
    assert not (tmp_path / "runs").exists()


def test_folders_that_cannot_be_trained_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["resnet", "--depth", "20", "--image-size", "8", "--batch-size", "4", "--epochs", "1"]
    common += ["--val-size", "0.3", "--wandb", "disabled", "--no-plots"]
    good = images(tmp_path / "good", "train", "val")
    lacking = tmp_path / "lacking"
    shutil.copytree(good, lacking)
    shutil.rmtree(lacking / "val" / "class1")
    done = Done(capsys, *common, "--dataset", str(lacking))
    assert done.code != 0 and "lacks 'class1'" in done.err
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(good / "train" / "class0" / "0.jpg", flat)
    done = Done(capsys, *common, "--dataset", str(flat))
    assert done.code != 0 and "class folder" in done.err
    broken = good / "train" / "class0" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    for stream in ("yes", "no"):
        done = Done(capsys, *common, "--dataset", str(good), "--stream", stream)
        assert done.code == 1, done.err
        assert str(broken) in done.err and "--corrupt skip" in done.err.splitlines()[-1]
        done = Done(capsys, *common, "--dataset", str(good), "--stream", stream, "--corrupt", "skip", "-f", "json")
        assert done.code == 0, done.err
        assert "cannot be decoded" in done.err
        row = json.loads(done.out)["last"]
        assert row["train/skipped"] + row["val/skipped"] == (1 if stream == "yes" else 0)


def test_another_architecture_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.save(create("lenet5", input_shape=(1, 28, 28), output_size=10).state_dict(), tmp_path / "lenet.pt")
    done = Done(capsys, "resnet", *TINY, "--pretrained", str(tmp_path / "lenet.pt"))
    assert done.code == 2
    assert "lenet.pt is of another architecture" in done.err and not (tmp_path / "runs").exists()


def test_a_models_options_by_flag_or_in_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    def planned(*typed: str) -> dict[str, object]:
        return json.loads(Done(capsys, "resnet", *typed, "--dry-run", "-f", "json").out)

    assert planned("--model", "wide_resnet", "--depth", "16")["config"]["depth"] == 16  # type: ignore[index]
    assert planned("--model", "wide_resnet")["config"]["depth"] == 28  # type: ignore[index]
    assert planned("--depth", "50")["hash"] == planned()["hash"] != planned("--depth", "34")["hash"]
    assert "-18-" in str(planned("--model", "resnet(depth=18)")["run_dir"])
    done = Done(capsys, "resnet", "--model", "resnet(depth=18)", "--depth", "34")
    assert done.code == 2 and "--depth: 34 is not what 'resnet(depth=18)' says" in done.err
    done = Done(capsys, "resnet", "--model", "mlp(hidden=a)", "--dataset", "fake")
    assert done.code == 2 and done.err.startswith("regx: error: --model: mlp: hidden")
