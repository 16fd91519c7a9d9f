"""Groups of weights, against loops over single numbers and against what the layers compute without them."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regx.errors import UserError
from regx.regularizers.groups import KINDS, Level, Part, cut, read_groups
from regx.regularizers.selection import Weight, select

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 4),
    "conv1d": lambda: nn.Conv1d(6, 4, 3),
    "conv2d": lambda: nn.Conv2d(6, 4, (2, 3)),
    "conv3d": lambda: nn.Conv3d(6, 4, (1, 2, 3)),
    "grouped": lambda: nn.Conv2d(6, 4, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(6, 12, 3, groups=6),
    "transposed1d": lambda: nn.ConvTranspose1d(6, 4, 3),
    "transposed": lambda: nn.ConvTranspose2d(6, 4, 3),
    "transposed_grouped": lambda: nn.ConvTranspose2d(6, 4, 3, groups=2),
    "channels_last": lambda: nn.Conv2d(6, 4, 3).to(memory_format=torch.channels_last),
    "channels_last_grouped": lambda: nn.Conv2d(6, 4, 3, groups=2).to(memory_format=torch.channels_last),
}


def ends_of(layer: nn.Module, index: tuple[int, ...]) -> tuple[int, int]:
    """Output and input channel that the weight at `index` connects."""
    if isinstance(layer, nn.Linear):
        return index[0], index[1]
    assert isinstance(layer, nn.modules.conv._ConvNd)
    if layer.transposed:
        return index[0] // (layer.in_channels // layer.groups) * (layer.out_channels // layer.groups) + index[1], index[
            0
        ]
    return index[0], index[0] // (layer.out_channels // layer.groups) * (layer.in_channels // layer.groups) + index[1]


def members(kind: str, layer: nn.Module) -> dict[Hashable, list[tuple[int, ...]]]:
    """Group -> indices of its weights, one weight after the other."""
    shape = layer.weight.shape  # type: ignore[union-attr]
    found: dict[Hashable, list[tuple[int, ...]]] = defaultdict(list)
    for index in itertools.product(*map(range, shape)):  # type: ignore[arg-type]
        output, source = ends_of(layer, index)
        if kind == "blocks(2,3)":
            high, wide = (3, 2) if getattr(layer, "transposed", False) else (2, 3)
            key: Hashable = index[0] // high, index[1] // wide
        elif kind == "heads(2)":
            key = output // ((4 if isinstance(layer, nn.Linear) else layer.out_channels) // 2)  # type: ignore[operator]
        else:
            key = {
                "units": output,
                "filters": output,
                "rows": output,
                "channels": source,
                "cols": source,
                "kernels": (output, source),
                "layers": 0,
                "elements": index,
            }[kind]
        found[key].append(index)
    return dict(sorted(found.items()))  # type: ignore[type-var]


def fitting(name: str) -> list[str]:
    shared = ["units", "layers", "elements", "heads(2)"]
    if name == "linear":
        return [*shared, "rows", "cols", "blocks(2,3)"]
    # Six inputs and four outputs: only without groups do blocks of 2 by 3 divide the weight.
    plain = name in ("conv1d", "conv2d", "conv3d", "transposed1d", "transposed", "channels_last", "grouped")
    return [*shared, "filters", "channels", "kernels", *(["blocks(2,3)"] if plain else [])]


CASES = [(name, kind) for name in LAYERS for kind in fitting(name)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_groups_are_those_of_the_loops(name: str, kind: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    weights, levels = cut(kind, select(layer))
    assert len(weights) == len(levels) == 1
    (level,) = levels
    groups = members(kind, layer)
    tensor = weights[0].tensor.detach()
    array = tensor.numpy()
    expected = {key: math.sqrt(sum(array[i] ** 2 for i in indices)) for key, indices in groups.items()}
    assert level.count == len(groups)
    # Groups come in the order of the weight, so only the multiset of norms is compared, then each group by its members.
    norms = level.norms([tensor])
    np.testing.assert_allclose(np.sort(norms.numpy()), sorted(expected.values()), rtol=1e-12)
    np.testing.assert_allclose(sorted(level.sizes.tolist()), sorted(len(g) for g in groups.values()))
    # Numbers 0, 1, ... spread over the groups: the members of one group have one number, those of others have others.
    part, (labels,) = level.parts[0], level.spread(torch.arange(level.count).double())
    assert part is not None and labels is not None
    marked = torch.empty_like(tensor)
    part.view(marked).copy_(labels.expand(part.shape))
    seen = [{marked[index].item() for index in indices} for indices in groups.values()]
    assert all(len(numbers) == 1 for numbers in seen)
    assert len(set().union(*seen)) == len(groups)
    # Sums and norms belong to the numbers that were spread.
    by_number = {int(next(iter(numbers))): indices for numbers, indices in zip(seen, groups.values(), strict=True)}
    sums = [sum(array[i] for i in by_number[number]) for number in range(level.count)]
    np.testing.assert_allclose(level.sums([tensor]).numpy(), sums, rtol=1e-9, atol=1e-12)
    roots = [math.sqrt(sum(array[i] ** 2 for i in by_number[number])) for number in range(level.count)]
    np.testing.assert_allclose(norms.numpy(), roots, rtol=1e-12)
    assert part.view(tensor).data_ptr() == tensor.data_ptr(), "a view"


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "linear"])
def test_a_filter_feeds_its_output_and_a_channel_reads_its_input(name: str) -> None:
    torch.manual_seed(1)
    layer = LAYERS[name]().double()
    assert isinstance(layer, nn.modules.conv._ConvNd) and layer.bias is not None
    dims = layer.weight.ndim - 2
    x = torch.randn(2, 6, *[5] * dims, dtype=torch.float64)
    start = layer.weight.detach().clone()
    for kind, count in (("filters", layer.out_channels), ("channels", layer.in_channels)):
        for number in range(count):
            _, (level,) = cut(kind, select(layer))
            (keep,) = level.spread((torch.arange(level.count) != number).double())
            part = level.parts[0]
            assert part is not None and keep is not None
            with torch.no_grad():
                layer.weight.copy_(start)
                part.view(layer.weight).mul_(keep)
                if kind == "filters":
                    constant = layer(x).sub_(layer.bias.view(1, -1, *[1] * dims)).abs().amax((0, *range(2, 2 + dims)))
                    assert (constant == 0).nonzero().flatten().tolist() == [number]
                else:
                    x2 = x.clone()
                    x2[:, number] += 1
                    torch.testing.assert_close(layer(x), layer(x2), rtol=0, atol=0)
                    x2[:, (number + 1) % count] += 1
                    assert not torch.allclose(layer(x), layer(x2))


@pytest.mark.parametrize("different", [False, True], ids=["one projection", "kdim and vdim"])
@pytest.mark.parametrize("nested", [False, True], ids=["root", "child"])
def test_a_head_of_attention_is_its_four_projections(different: bool, nested: bool) -> None:
    torch.manual_seed(2)
    options: dict[str, Any] = {"kdim": 6, "vdim": 10} if different else {}
    attention = nn.MultiheadAttention(8, 4, batch_first=True, **options).double()
    model = nn.ModuleDict({"attention": attention}) if nested else attention
    weights, (level,) = cut("heads(4)", select(model))
    assert level.count == 4 and sum(w.tensor.numel() for w in weights) == int(level.sizes.sum())
    tensors = [weight.tensor.detach() for weight in weights]
    if different:
        q, k, v = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
    else:
        assert attention.in_proj_weight is not None
        q, k, v = attention.in_proj_weight.chunk(3)
    assert q is not None and k is not None and v is not None
    for head, norm in enumerate(level.norms(tensors)):
        rows = slice(2 * head, 2 * head + 2)
        pieces = [q[rows], k[rows], v[rows], attention.out_proj.weight[:, rows]]
        assert norm.item() == pytest.approx(math.sqrt(sum(p.square().sum().item() for p in pieces)), rel=1e-12)
    # Without head 1 the value projection of that head has no influence.
    for part, weight, keep in zip(level.parts, weights, level.spread(torch.arange(4) != 1), strict=True):
        assert part is not None and keep is not None
        part.view(weight.tensor.data).mul_(keep)
    query = torch.randn(2, 5, 8, dtype=torch.float64)
    key = torch.randn(2, 5, attention.kdim, dtype=torch.float64)
    value = torch.randn(2, 5, attention.vdim, dtype=torch.float64)
    before = attention(query, key, value)[0]
    with torch.no_grad():
        v[2:4] = 7.0
    torch.testing.assert_close(attention(query, key, value)[0], before, rtol=0, atol=0)
    with torch.no_grad():
        v[4:6] = 7.0
    assert not torch.allclose(attention(query, key, value)[0], before)


def test_heads_of_other_layers_stand_for_themselves() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12)
    weights, (level,) = cut("heads(2)", select(layer))
    assert [w.name for w in weights] == [
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    ]
    assert level.count == 2 + 2 + 2
    assert level.sizes.tolist() == [4 * 8 * 8 / 2] * 2 + [48] * 4
    model = nn.ModuleDict({"q": nn.Linear(4, 4), "q_out_proj": nn.Linear(4, 4)})
    assert cut("heads(2)", select(model))[1][0].count == 4


def test_levels_that_span_tensors() -> None:
    torch.manual_seed(3)
    a, b = torch.randn(3, 4, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    level = Level([Part((3, 4), (0,)), None, Part((2, 5), (0,))], torch.tensor([0, 1, 1, 0, 2]))
    norms = level.norms([a, torch.ones(7), b])
    expected = [(a[0].square().sum() + b[0].square().sum()).sqrt(), a[1:].norm(), b[1].norm()]
    torch.testing.assert_close(norms, torch.stack(expected))
    assert level.count == 3 and level.sizes.tolist() == [9, 8, 5]
    torch.testing.assert_close(
        level.sums([a, None, b]), torch.stack([a[0].sum() + b[0].sum(), a[1:].sum(), b[1].sum()])
    )
    first, nothing, last = level.spread(torch.tensor([5.0, 6.0, 7.0]))
    assert nothing is None and first is not None and last is not None
    assert first.tolist() == [[5], [6], [6]] and last.tolist() == [[5], [7]]


@pytest.mark.parametrize("kind", ["units", "channels", "kernels", "layers", "elements"])
@pytest.mark.parametrize("spanning", [False, True])
def test_norms_have_a_finite_gradient_at_zero(kind: str, spanning: bool) -> None:
    layer = nn.Conv2d(3, 4, 3)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.weight[1, 1] = 1.0
    weights, (level,) = cut(kind, select(layer))
    if spanning:
        level = Level(level.parts, torch.arange(level.count) // 2)
    level.norms([w.tensor for w in weights]).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all()
    assert layer.weight.grad[1, 1].abs().sum() > 0


def test_norms_of_half_precision_are_single() -> None:
    layer = nn.Linear(8, 4).to(torch.float16)
    with torch.no_grad():
        layer.weight.fill_(300.0)  # its square is beyond half precision
    for kind in ("rows", "cols", "elements"):
        _, (level,) = cut(kind, select(layer))
        norms = level.norms([layer.weight])
        assert norms.dtype == torch.float32
        torch.testing.assert_close(norms, torch.full_like(norms, 300 * math.sqrt(32 / level.count)))


def test_rows_cols_are_two_levels_over_linear_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2))
    weights, levels = cut("rows_cols", select(model))
    assert [w.name for w in weights] == ["2.weight", "3.weight"]
    assert [level.counts for level in levels] == [(5, 2), (16, 5)]


def test_a_weight_without_such_groups_is_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.Embedding(7, 3))

    def names(kind: str, biases: bool = False) -> list[str]:
        return [weight.name for weight in cut(kind, select(model, biases=biases))[0]]

    for kind in ("filters", "channels", "kernels"):
        assert names(kind) == ["0.weight"]
    assert names("rows") == names("cols") == ["3.weight", "4.weight"]
    assert names("units", biases=True) == ["0.weight", "3.weight", "4.weight"]
    everything = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias", "4.weight"]
    assert names("layers", biases=True) == names("elements", biases=True) == everything


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filter", "'filter' is no kind of group; did you mean 'filters'"),
        ("xyz", "'xyz' is no kind of group; known: units, filters, .*blocks"),
        ("blocks", r"cannot read 'blocks'; write blocks\(R,C\), with whole numbers above 0"),
        ("blocks(2)", r"write blocks\(R,C\)"),
        ("blocks(2,0)", r"write blocks\(R,C\)"),
        ("heads", r"write heads\(N\)"),
        ("heads(0)", r"write heads\(N\)"),
        ("rows(2)", "rows takes no numbers"),
        ("blocks(2,3", "is no kind of group"),
        ("blocks(a,b)", "is no kind of group"),
        ("", "is no kind of group"),
    ],
)
def test_unreadable_groups(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_groups(text)
    assert caught.value.option == "groups" and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=message):
        cut(text, select(nn.Linear(2, 2)))


def test_every_kind_can_be_read() -> None:
    for kind in KINDS:
        read_groups(kind.replace("R", "2").replace("C", "3").replace("N", "4"))
    read_groups(" blocks ( 2 , 3 ) ")


@pytest.mark.parametrize(
    ("layer", "kind", "message"),
    [
        (nn.Linear(6, 4), "filters", r"'filters' \(3D: the filter of one output channel.*fits no weight.* are 4x6"),
        (nn.Conv2d(6, 4, 3), "rows_cols", "'rows_cols' .*fits no weight.* are 4x6x3x3"),
        (nn.Linear(6, 4), "blocks(4,4)", r"blocks of 4 x 4 do not divide weight \(4x6\)"),
        (nn.Linear(6, 4), "heads(3)", "3 heads do not divide the 4 outputs of weight"),
        (nn.ConvTranspose2d(6, 4, 3), "heads(3)", "3 heads do not divide the 4 outputs of weight"),
        (nn.MultiheadAttention(8, 4), "heads(2)", "MultiheadAttention has 4 heads, not 2"),
    ],
)
def test_groups_that_do_not_fit(layer: nn.Module, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cut(kind, select(layer))


def test_parts_of_a_slice_and_of_its_gradient() -> None:
    """A view needs no contiguous tensor: a parameter may be part of a larger one."""
    big = torch.randn(6, 8, 3, 3)
    tensor = nn.Parameter(big[:4, 2:8])
    layer = nn.Conv2d(6, 4, 3)
    weight = Weight("w", "layer", layer, tensor)
    for kind in ("units", "channels", "kernels", "blocks(2,3)"):
        _, (level,) = cut(kind, [weight])
        torch.testing.assert_close(level.norms([tensor]), level.norms([tensor.detach().clone().contiguous()]))


def test_sums_leave_out_what_is_none() -> None:
    level = Level([Part((2, 2), (0,)), Part((2, 2), (0,))])
    tensors: list[Tensor | None] = [torch.ones(2, 2), torch.ones(2, 2)]
    assert level.sums(tensors).tolist() == [2, 2, 2, 2]
