"""Which parameters a penalty reaches."""

import pytest
import torch
from torch import nn

from regx.errors import UserError
from regx.regularizers.selection import select


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 4, 3),
            "norm": nn.BatchNorm2d(4),
            "layer1": nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3, bias=False)),
            "image_norm": nn.LayerNorm([4, 5, 5]),
            "words": nn.Embedding(10, 4),
            "head": nn.Linear(4, 2),
        }
    )


def names(**options: object) -> list[str]:
    return [weight.name for weight in select(net(), **options)]  # type: ignore[arg-type]


WEIGHTS = ["stem.weight", "layer1.0.weight", "layer1.2.weight", "words.weight", "head.weight"]


def test_all_weights_and_no_norms_or_biases() -> None:
    assert names() == WEIGHTS
    everything = [name for name, _ in net().named_parameters()]
    assert names(biases=True) == everything and len(everything) == 5 + 3 + 6


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": "stem"}, ["stem.weight"]),
        ({"include": "stem.weight"}, ["stem.weight"]),
        ({"include": "layer1.*"}, ["layer1.0.weight", "layer1.2.weight"]),
        ({"include": "head | layer1.0"}, ["layer1.0.weight", "head.weight"]),
        ({"include": "*.weight", "exclude": "layer1.*|words"}, ["stem.weight", "head.weight"]),
        ({"exclude": "stem"}, WEIGHTS[1:]),
        ({"layer_type": "conv"}, WEIGHTS[:3]),
        ({"layer_type": "linear"}, ["head.weight"]),
        ({"layer_type": "conv", "exclude": "stem"}, WEIGHTS[1:3]),
        ({"biases": True, "include": "*.bias", "layer_type": "linear"}, ["head.bias"]),
        ({"tag": "head"}, ["head.weight"]),
        ({"tag": "stem", "biases": True}, ["stem.weight", "stem.bias"]),
    ],
)
def test_what_is_selected(options: dict[str, object], expected: list[str]) -> None:
    assert names(**options) == expected


def test_what_a_weight_says() -> None:
    model = net()
    weight = select(model, include="layer1.2")[0]
    assert weight.layer == "layer1.2" and weight.module is model.get_submodule("layer1.2")
    assert weight.tensor is model.get_parameter("layer1.2.weight")
    alone = select(nn.Linear(2, 2))[0]
    assert (alone.name, alone.layer) == ("weight", "Linear")


def test_frozen_and_tied_parameters() -> None:
    model = net()
    model.get_parameter("stem.weight").requires_grad_(False)
    assert [w.name for w in select(model)] == WEIGHTS[1:]
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert [w.name for w in select(tied)] == ["0.weight"]


def test_every_convolution_counts_as_one() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 1), nn.Conv3d(2, 2, 1), nn.ConvTranspose2d(2, 2, 1), nn.Bilinear(2, 2, 2))
    assert [w.layer for w in select(model, layer_type="conv")] == ["0", "1", "2"]
    assert [w.layer for w in select(model, layer_type="linear")] == ["3"]


@pytest.mark.parametrize(
    ("options", "option", "message"),
    [
        ({"include": "steam"}, "include", "'steam' matches no weight; did you mean 'stem'"),
        ({"include": "stem|haed"}, "include", "'haed' matches no weight; did you mean 'head'"),
        ({"exclude": "norm"}, "exclude", "'norm' matches no weight"),
        ({"include": "stem", "exclude": "head"}, "exclude", "'head' matches no weight"),
        ({"tag": "haed"}, "tag", "'haed' is no tag of this ModuleDict; did you mean 'head'"),
        ({"include": "stem", "layer_type": "linear"}, None, "left by include=stem, layer_type=linear$"),
        ({"exclude": "*"}, None, r"no weight of ModuleDict is left by exclude=\*$"),
    ],
)
def test_what_cannot_be_selected(options: dict[str, object], option: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        names(**options)
    assert caught.value.option == option and "\n" not in str(caught.value)


def test_a_model_without_weights() -> None:
    with pytest.raises(UserError, match="BatchNorm2d has no trainable weights of two and more dimensions to penalise"):
        select(nn.BatchNorm2d(3))
    assert [w.name for w in select(nn.BatchNorm2d(3), biases=True)] == ["weight", "bias"]
    with pytest.raises(UserError, match="Flatten has no trainable parameters to penalise"):
        select(nn.Flatten(), biases=True)
