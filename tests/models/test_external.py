"""Classifiers of torchvision and timm, by name."""

import sys
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from regx.errors import UserError
from regx.models import REGISTRY, create, options_of


def test_a_classifier_of_torchvision() -> None:
    torch.manual_seed(0)
    model = create("torchvision:squeezenet1_1", input_shape=(3, 40, 40), output_size=7)
    torch.manual_seed(0)
    theirs = torchvision.models.squeezenet1_1(num_classes=7)
    assert type(model) is type(theirs) and model.training
    assert all(torch.equal(mine, other) for mine, other in zip(model.parameters(), theirs.parameters(), strict=True)), (
        "the same numbers: the trial pass draws none"
    )
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    assert model(torch.randn(2, 3, 40, 40)).shape == (2, 7)


def test_auxiliary_outputs_are_left_out() -> None:
    model = create("torchvision:googlenet", input_shape=(3, 32, 32), output_size=4)
    out = model(torch.randn(2, 3, 32, 32))
    assert isinstance(out, torch.Tensor) and out.shape == (2, 4)
    assert not [name for name, module in model.named_children() if name.startswith("aux") and module is not None]


def test_the_trial_pass_leaves_no_mark() -> None:
    model = create("torchvision:mobilenet_v3_small", input_shape=(3, 32, 32), output_size=2)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(module.training and module.num_batches_tracked == 0 for module in norms)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("torchvision:squeezenet1_2", (3, 64, 64), {}, "no classifier 'squeezenet1_2'; did you mean 'squeezenet1_"),
        ("torchvision:", (3, 64, 64), {}, "no classifier ''"),
        ("torchvision:fcn_resnet50", (3, 64, 64), {}, "fcn_resnet50 is no classifier of images"),
        ("torchvision:squeezenet1_1", (1, 64, 64), {}, "takes images of 3 channels, not 1"),
        ("torchvision:squeezenet1_1", (64,), {}, "input_shape"),
        ("torchvision:squeezenet1_1", (3, 4, 4), {}, "^model: .*does not take images of 4 x 4 pixels: .*too small$"),
        ("torchvision:squeezenet1_1", (3, 64, 64), {"depth": 3}, "has no options, so 'depth' cannot be set"),
        ("tourchvision:squeezenet1_1", (3, 64, 64), {}, "unknown model 'tourchvision:squeezenet1_1'"),
    ],
)
def test_errors(name: str, shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        create(name, input_shape=shape, output_size=10, **options)
    assert "\n" not in str(caught.value)


def test_no_outputs_are_refused() -> None:
    with pytest.raises(UserError, match="output_size"):
        create("torchvision:squeezenet1_1", input_shape=(3, 64, 64), output_size=0)


def test_timm_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"^model: timm:resnet10t needs timm, .*; pip install timm$"):
        create("timm:resnet10t", input_shape=(3, 64, 64), output_size=10)


def test_a_model_of_timm() -> None:
    pytest.importorskip("timm")
    model = create("timm:resnet10t", input_shape=(1, 32, 32), output_size=4)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    with pytest.raises(UserError, match="timm has no model 'resnet10tt'; did you mean"):
        create("timm:resnet10tt", input_shape=(3, 64, 64), output_size=10)


def test_options() -> None:
    assert options_of("torchvision:resnet18") == options_of("timm:anything") == ()
    assert options_of("resnet") == REGISTRY["resnet"].parameters
    with pytest.raises(UserError, match="did you mean 'resnet'"):
        options_of("resent")
