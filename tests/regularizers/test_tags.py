"""Tags against what the architectures' authors call stem, block, stage, shortcut and head."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from regx.errors import UserError
from regx.models import Rectangular
from regx.regularizers.selection import select
from regx.regularizers.tags import TAGS, blocks_of, stages_of, tags_of


def build(name: str) -> nn.Module:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        return getattr(torchvision.models, name)(**options)


def tagged(model: nn.Module, tag: str) -> list[str]:
    return [name for name, tags in tags_of(model).items() if tag in tags]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets(name: str) -> None:
    model = build(name)
    blocks, stages, tags = blocks_of(model), stages_of(model), tags_of(model)
    kinds = (torchvision.models.resnet.BasicBlock, torchvision.models.resnet.Bottleneck)
    assert set(blocks.values()) == {name for name, module in model.named_modules() if isinstance(module, kinds)}
    assert all(layer.startswith(f"{block}.") for layer, block in blocks.items())
    assert set(stages.values()) == {"layer1", "layer2", "layer3", "layer4"}
    assert all(block.startswith(f"{stages[layer]}.") for layer, block in blocks.items())
    weights = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert set(tags) == weights and set(blocks) == set(stages) == weights - {"conv1", "fc"}
    assert (tagged(model, "stem"), tagged(model, "head"), tagged(model, "linear")) == (["conv1"], ["fc"], ["fc"])
    first = 1 if name == "resnet50" else 2  # ResNet-18's first stage keeps size and channels
    assert tagged(model, "shortcut") == [f"layer{i}.0.downsample.0" for i in range(first, 5)]
    assert blocks["layer2.0.downsample.0"] == "layer2.0" and stages["layer2.0.downsample.0"] == "layer2"
    assert tags["layer2.0.downsample.0"] == {"conv", "shortcut", "block", "stage"}


@pytest.mark.parametrize(
    ("name", "kinds", "stem"),
    [
        ("googlenet", ("Inception", "InceptionAux"), "conv1.conv"),
        ("inception_v3", ("InceptionA", "InceptionB", "InceptionC", "InceptionD", "InceptionE", "InceptionAux"), None),
        ("vit_b_16", ("EncoderBlock",), "conv_proj"),
        ("swin_t", ("SwinTransformerBlock",), "features.0.0"),
        ("densenet121", ("_DenseLayer",), "features.conv0"),
        ("efficientnet_b0", ("MBConv",), "features.0.0"),
        ("squeezenet1_0", ("Fire",), "features.0"),
    ],
)
def test_blocks_are_the_modules_that_the_authors_call_so(name: str, kinds: tuple[str, ...], stem: str | None) -> None:
    model = build(name)
    wanted = {name for name, module in model.named_modules() if type(module).__name__ in kinds}
    assert set(blocks_of(model).values()) == wanted
    assert tagged(model, "stem") == [stem or "Conv2d_1a_3x3.conv"]
    assert tagged(model, "head") == [list(tags_of(model))[-1]]
    if name == "densenet121":
        assert set(stages_of(model).values()) == {f"features.denseblock{i}" for i in range(1, 5)}
    if name == "googlenet":
        assert stages_of(model) == {}


def test_sequentials() -> None:
    plain = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    assert tags_of(plain) == {
        "0": frozenset({"linear", "stem"}),
        "2": frozenset({"linear"}),
        "4": frozenset({"linear", "head"}),
    }
    assert blocks_of(plain) == stages_of(plain) == {}
    pair = [nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3)) for _ in range(4)]
    nested = nn.Sequential(nn.Sequential(pair[0], pair[1]), nn.Sequential(pair[2], pair[3]), nn.Linear(3, 1))
    blocks = {f"{i}.{j}.{k}": f"{i}.{j}" for i in range(2) for j in range(2) for k in (0, 2)}
    assert blocks_of(nested) == blocks
    assert stages_of(nested) == {layer: layer[0] for layer in blocks}
    assert tagged(nested, "stem") == ["0.0.0"] and tagged(nested, "head") == ["2"]


def test_a_wrapper_changes_names_alone() -> None:
    model = build("resnet18")
    wrapped = nn.ModuleDict({"inner": model})
    assert blocks_of(wrapped) == {f"inner.{layer}": f"inner.{block}" for layer, block in blocks_of(model).items()}
    assert stages_of(wrapped) == {f"inner.{layer}": f"inner.{stage}" for layer, stage in stages_of(model).items()}
    assert tags_of(wrapped) == {f"inner.{layer}": tags for layer, tags in tags_of(model).items()}
    with_head = nn.Sequential(model, nn.Linear(1000, 2))  # the model is no block, though it holds conv1 beside blocks
    assert blocks_of(with_head) == {f"0.{layer}": f"0.{block}" for layer, block in blocks_of(model).items()}
    assert tagged(with_head, "head") == ["1"]


def test_rectangular() -> None:
    model = Rectangular((3, 8, 8), 2, depth=3, batchnorm=True)
    hidden = [f"hidden.layer{i}" for i in range(3)]
    assert blocks_of(model) == dict.fromkeys(hidden, "hidden") and stages_of(model) == {}
    assert tagged(model, "conv") == hidden and tagged(model, "stem") == hidden[:1]
    assert tagged(model, "head") == tagged(model, "linear") == list(tags_of(model))[-1:]


def test_a_layer_alone_and_parameters_of_containers() -> None:
    assert tags_of(nn.Linear(2, 2)) == {"Linear": frozenset({"linear", "stem", "head"})}
    assert tags_of(nn.ReLU()) == {} and blocks_of(nn.ReLU()) == {}

    class WithToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 4))
            self.embed = nn.Linear(3, 4)
            self.attention = nn.MultiheadAttention(4, 2)
            self.out = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x

    model = WithToken()
    assert list(tags_of(model)) == ["WithToken", "embed", "attention", "attention.out_proj", "out"]
    assert tagged(model, "stem") == ["embed"] and tagged(model, "head") == ["out"]
    assert blocks_of(model) == {}  # attention is a layer around one other


def test_selection_by_tag() -> None:
    model = build("resnet18")
    for tag in TAGS:
        names = [weight.layer for weight in select(model, tag=tag)]
        assert names == tagged(model, tag) and names
    with pytest.raises(UserError, match=r"^tag: 'steem' is no tag of this ResNet; did you mean 'stem'\?$"):
        select(model, tag="steem")
