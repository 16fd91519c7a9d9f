"""Trained weights from files and from torchvision's cache; none of these tests needs a network."""

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from regx.errors import RunFailed, UserError
from regx.models import ResNet, create
from regx.models.pretrained import load

SHAPE = (3, 8, 8)


def build(classes: int = 5, **options: Any) -> ResNet:
    return ResNet(SHAPE, classes, **{"depth": 20, "width_multiplier": 1.25, **options})


def same(a: nn.Module, b: nn.Module, without: str = "none") -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[key]) for key, value in a.state_dict().items() if not key.startswith(without))


def write(folder: Path, value: Any) -> str:
    path = folder / "weights.pt"
    torch.save(value, path)
    return str(path)


@pytest.mark.parametrize("form", ["plain", "best.pt", "state_dict", "parallel", "compiled"])
def test_files(tmp_path: Path, form: str) -> None:
    theirs, ours = build(), build()
    theirs(torch.randn(4, *SHAPE))  # other running statistics
    assert not same(theirs, ours)
    state = theirs.state_dict()
    value = {
        "plain": state,
        "best.pt": {"epoch": 3, "model": state},
        "state_dict": {"epoch": 3, "state_dict": state},
        "parallel": {f"module.{key}": value for key, value in state.items()},
        "compiled": {f"_orig_mod.module.{key}": value for key, value in state.items()},
    }[form]
    path = write(tmp_path, value)
    assert load(ours, path) == [f"{len(state)} tensors from {path}"]
    assert same(theirs, ours)


def test_another_number_of_classes_leaves_the_head(tmp_path: Path) -> None:
    theirs, ours = build(classes=9), build(classes=5)
    head = ours.fc.weight.clone()
    path = write(tmp_path, theirs.state_dict())
    notes = load(ours, path)
    assert notes == [
        f"{len(theirs.state_dict()) - 2} tensors from {path}",
        f"fc has 9 outputs in {path} and 5 here, so it starts untrained",
    ]
    assert same(ours, theirs, without="fc.") and torch.equal(ours.fc.weight, head)


def test_files_without_counters(tmp_path: Path) -> None:
    """As torchvision's older ones."""
    theirs, ours = build(), build()
    state = {key: value for key, value in theirs.state_dict().items() if "num_batches" not in key}
    load(ours, write(tmp_path, state))
    assert same(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 32}, r": 72 unexpected \(layer1.3.conv1.weight\); the model has 128 tensors$"),
        ({"batchnorm": False}, r": 84 missing \(bn1.weight\); the model has 128 tensors$"),
        (
            {"width_multiplier": 1.5},
            r": \d+ of another shape \(layer2.0.conv1.weight \(24, 16, 3, 3\) instead of \(20, 16,",
        ),
        ({"unit_type": "dense"}, r": 19 missing \(conv1.weight\), 19 unexpected \(fc1.weight\), 2 of another shape"),
        ({"skip_connections": False}, r": 10 missing \(layer2.0.downsample.0.weight\); the model"),
    ],
)
def test_other_architectures(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    model = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = write(tmp_path, build(**options).state_dict())
    with pytest.raises(UserError, match=message) as caught:
        load(model, path)
    assert (
        str(caught.value).startswith(f"pretrained: {path} is of another architecture") and caught.value.exit_code == 2
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "nothing was loaded"


def test_a_head_that_reads_other_features_is_another_architecture(tmp_path: Path) -> None:
    mlp = create("mlp", input_shape=(4,), output_size=3, hidden="6")
    other = create("mlp", input_shape=(4,), output_size=2, hidden="7")
    with pytest.raises(UserError, match=r"4 of another shape \(hidden.fc1.weight \(7, 4\) instead of \(6, 4\)\)"):
        load(mlp, write(tmp_path, other.state_dict()))


def test_files_that_are_none(tmp_path: Path) -> None:
    model = build()
    with pytest.raises(UserError, match=r"pretrained: there is no file .*gone.pt$"):
        load(model, str(tmp_path / "gone.pt"))
    with pytest.raises(UserError, match="there is no file"):
        load(model, str(tmp_path))
    damaged = tmp_path / "damaged.pt"
    whole = Path(write(tmp_path, model.state_dict())).read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2]):
        damaged.write_bytes(content)
        with pytest.raises(RunFailed, match=r"damaged.pt is damaged or holds more than tensors") as caught:
            load(model, str(damaged))
        assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    for value in (3, {}, {"epoch": 3}, [torch.ones(2)], {"model": {"a": 1}}):
        with pytest.raises(UserError, match="holds no state_dict"):
            load(model, write(tmp_path, value))
    with pytest.raises(RunFailed, match="more than tensors"):
        load(model, write(tmp_path, model))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no network."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))

    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    return tmp_path / "checkpoints"


def test_torchvisions_weights_of_a_resnet(hub: Path) -> None:
    theirs = torchvision.models.resnet18()
    hub.mkdir()
    torch.save(theirs.state_dict(), hub / "resnet18-f37072fd.pth")
    ours = ResNet((3, 224, 224), 10, depth=18)
    assert load(ours, "torchvision", name="resnet") == [
        "120 tensors from ResNet18_Weights.IMAGENET1K_V1",
        "fc has 1000 outputs in ResNet18_Weights.IMAGENET1K_V1 and 10 here, so it starts untrained",
    ]
    assert same(ours, theirs, without="fc.")


def test_torchvisions_weights_of_its_own_models(hub: Path) -> None:
    theirs = torchvision.models.squeezenet1_1()
    hub.mkdir()
    torch.save(theirs.state_dict(), hub / "squeezenet1_1-b8a52dc0.pth")
    name = "torchvision:squeezenet1_1"
    ours = create(name, input_shape=(3, 64, 64), output_size=10)
    assert load(ours, "torchvision", name=name)[1].startswith("classifier.1 has 1000 outputs")
    assert same(ours, theirs, without="classifier.1.")


def test_without_network(hub: Path) -> None:
    name = "torchvision:squeezenet1_1"
    model = create(name, input_shape=(3, 64, 64), output_size=10)
    with pytest.raises(RunFailed) as caught:
        load(model, "torchvision", name=name)
    message = str(caught.value)
    assert "no network" in message and "\n" not in message and caught.value.exit_code == 1
    assert f"put the file at {hub / 'squeezenet1_1-b8a52dc0.pth'}, or use --pretrained PATH" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "depth 20"),
        ({"depth": 18, "batchnorm": False, "activation": "gelu"}, "batchnorm=false, activation=gelu"),
        ({"depth": 18, "skip_connections": False}, "skip_connections=false"),
        ({"depth": 18, "width_multiplier": 1.5}, "width_multiplier=1.5"),
        ({"depth": 18, "shape": (3, 32, 32)}, r"the stem 32 \(use stem=224\); give the path of a file"),
        ({"depth": 18, "shape": (1, 224, 224)}, "1 input channels"),
        ({"depth": 18, "unit_type": "dense"}, "unit_type=dense;"),
    ],
)
def test_torchvision_has_no_weights_for(options: dict[str, Any], message: str) -> None:
    shape = options.pop("shape", (3, 224, 224))
    with torch.device("meta"):
        model = ResNet(shape, 10, **options)
    with pytest.raises(UserError, match=f"pretrained: torchvision has no weights for a resnet with {message}"):
        load(model, "torchvision", name="resnet")


def test_other_models_have_no_weights_at_torchvision() -> None:
    mlp = create("mlp", input_shape=(4,), output_size=2)
    for name, shown in (("mlp", "mlp"), ("", "MLP"), ("timm:resnet18", "timm:resnet18")):
        with pytest.raises(UserError, match=f"torchvision has no weights for {shown}; give the path"):
            load(mlp, "torchvision", name=name)
    with pytest.raises(UserError, match="weights of googlenet expect images normalized in another way"):
        load(mlp, "torchvision", name="torchvision:googlenet")
