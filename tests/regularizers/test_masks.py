"""Masks, against slow loops over groups and torch.nn.utils.prune."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from regx.errors import UserError
from regx.regularizers import Prune, Strength, Threshold, create
from regx.regularizers.masks import layer_counts, lowest


def linear(values: Tensor) -> nn.Linear:
    layer = nn.Linear(values.shape[1], values.shape[0], bias=False)
    layer.weight.data = values.clone()
    return layer


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 10), nn.ReLU(), nn.Linear(10, 4)
    )


def weights(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in model.named_parameters() if "weight" in name]


def projections(attention: nn.Module) -> list[Tensor]:
    """Query, key, value and output, with the heads along the first dimension."""
    assert isinstance(attention, nn.MultiheadAttention)
    return [*attention.in_proj_weight.chunk(3), attention.out_proj.weight.t()]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, mask: Threshold | Prune, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(8, 3, 6, 6, generator=generator), torch.randint(4, (8,), generator=generator)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    mask.add_gradients()
    optimizer.step()
    mask.step(optimizer)


def slices(groups: str, shape: torch.Size) -> Iterator[Any]:
    """Index of every group of a plain convolution or linear layer, one after the other."""
    if groups in ("filters", "rows"):
        yield from range(shape[0])
    elif groups in ("channels", "cols"):
        yield from ((slice(None), i) for i in range(shape[1]))
    elif groups == "kernels":
        yield from ((i, j) for i in range(shape[0]) for j in range(shape[1]))
    elif groups == "layers":
        yield ...
    else:
        yield from (tuple(index) for index in torch.ones(shape).nonzero().tolist())


def magnitude(criterion: str, values: Tensor) -> float:
    found = [abs(value) for value in values.flatten().tolist()]
    return {
        "max": max(found),
        "mean_abs": sum(found) / len(found),
        "l1": sum(found),
        "l2": sum(value**2 for value in found) ** 0.5,
        "mean_l2": sum(value**2 for value in found) ** 0.5 / len(found),
    }[criterion]


@pytest.mark.parametrize(
    ("groups", "strength", "kept"),
    [
        ("rows", 7, [[0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1]]),
        ("rows", 9, [[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 1, 1]]),  # at the threshold is not above it
        ("cols", 11, [[0, 0, 1]] * 4),
    ],
)
def test_threshold_of_rows_and_columns(groups: str, strength: float, kept: list[list[int]]) -> None:
    values = torch.arange(1.0, 13).view(4, 3)
    layer = linear(values)
    mask = Threshold(layer, groups=groups, criterion="max")
    mask.strength = strength
    mask.step(0.1)
    assert mask.masks()["weight"].int().tolist() == kept
    assert torch.equal(layer.weight.detach(), values * torch.tensor(kept))


@pytest.mark.parametrize("criterion", ["max", "mean_abs", "l1", "l2", "mean_l2"])
@pytest.mark.parametrize("groups", ["elements", "filters", "channels", "kernels", "layers", "rows", "cols"])
def test_against_slow_loops(groups: str, criterion: str) -> None:
    """The threshold halfway between two magnitudes, so that rounding cannot decide."""
    torch.manual_seed(1)
    layer = nn.Linear(5, 6, bias=False) if groups in ("rows", "cols") else nn.Conv2d(3, 4, (3, 2), bias=False)
    weight = layer.weight.detach().clone()
    found = [(index, magnitude(criterion, weight[index])) for index in slices(groups, weight.shape)]
    ranked = sorted(value for _, value in found)
    for position in range(len(ranked)):
        threshold = ranked[-1] * 1.5 if position + 1 == len(ranked) else (ranked[position] + ranked[position + 1]) / 2
        expected = weight.clone()
        for index, value in found:
            if value <= threshold:
                expected[index] = 0
        layer.weight.data = weight.clone()
        mask = Threshold(layer, groups=groups, criterion=criterion)
        mask.strength = threshold
        mask.step(0.1)
        assert torch.equal(layer.weight.detach(), expected)
        assert mask.zero_share().item() == pytest.approx((position + 1) / len(found))
        if groups != "layers":
            layer.weight.data = weight.clone()
            pruned = Prune(layer, groups=groups, criterion=criterion)
            pruned.strength = (position + 0.5) / len(found)
            pruned.step(0.1)
            assert sum(bool((layer.weight[index] == 0).all()) for index, _ in found) == position
            assert pruned.masks()["weight"][layer.weight != 0].all()


def test_share_of_normal_weights_within_one_deviation() -> None:
    torch.manual_seed(0)
    layer = linear(torch.randn(400, 500))
    mask = Threshold(layer)
    mask.strength = 1.0
    mask.step(0.1)
    assert (layer.weight == 0).float().mean().item() == pytest.approx(0.6827, abs=0.005)


def test_share_of_pruned_elements() -> None:
    layer = linear(torch.randn(123, 457))
    mask = Prune(layer)
    mask.strength = 0.3
    mask.step(0.1)
    assert (layer.weight == 0).float().mean().item() == pytest.approx(0.3, abs=1e-4)
    assert mask.zero_share() == (layer.weight == 0).float().mean()


@pytest.mark.parametrize("share", [0.0, 0.29, 0.57, 0.58, 0.7, 0.999])
def test_the_number_pruned_is_exact_and_ties_go_by_index(share: float) -> None:
    """In floating point, 0.29 * 100, 0.57 * 100 and 0.58 * 100 lie below the whole number."""
    layer = linear(torch.ones(100, 3))
    mask = Prune(layer, groups="rows")
    mask.strength = share
    mask.step(0.1)
    count = int(share * 1000) // 10
    assert (layer.weight[:, 0] == 0).tolist() == [True] * count + [False] * (100 - count)


def test_lowest_is_the_stable_sort() -> None:
    torch.manual_seed(0)
    values = torch.randint(5, (40,)).float()
    for count in range(41):
        expected = torch.zeros(40, dtype=torch.bool)
        expected[values.sort(stable=True).indices[:count]] = True
        assert torch.equal(lowest(values, count), expected)


@pytest.mark.parametrize("regrow", [False, True])
def test_against_torch_prune(regrow: bool) -> None:
    """Counts are given to torch as whole numbers, as it rounds where Prune takes the floor."""
    share = 0.37
    for options in (
        {"groups": "elements"},
        {"groups": "units", "criterion": "l2"},
        {"groups": "units", "criterion": "l1"},
        {"groups": "elements", "scope": "global"},
    ):
        model, truth = network(), network()
        mask = Prune(model, regrow=regrow, **options)  # type: ignore[arg-type]
        mask.strength = share
        mask.step(0.1)
        layers = [module for module in truth if hasattr(module, "weight")]
        if "scope" in options:
            count = int(share * sum(x.numel() for x in weights(truth)))
            pairs = [(layer, "weight") for layer in layers]
            prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=count)
        for layer, x in zip(layers, weights(truth), strict=True):
            if options == {"groups": "elements"}:
                prune.l1_unstructured(layer, "weight", amount=int(share * x.numel()))
            elif options["groups"] == "units":
                prune.ln_structured(layer, "weight", int(share * len(x)), int(options["criterion"][1]), 0)
        for layer, ours in zip(layers, weights(model), strict=True):
            assert torch.equal(ours.detach(), layer.get_parameter("weight_orig") * layer.get_buffer("weight_mask"))
        expected = {name.removesuffix("_mask"): value.bool() for name, value in truth.named_buffers()}
        assert all(torch.equal(value, expected[name]) for name, value in mask.masks().items())


def test_ranked_channels_and_rows() -> None:
    """Half of two channels is one, half of three rows is one."""
    conv = nn.Conv2d(2, 3, 2, bias=False)
    conv.weight.data = torch.arange(24.0).view(3, 2, 2, 2) + 11
    mask = Prune(conv, groups="channels", criterion="l1")
    mask.strength = 0.5
    mask.step(0.1)
    assert [bool((conv.weight[:, i] == 0).all()) for i in range(2)] == [True, False]
    layer = linear(torch.tensor([[3.0, 3], [2, 2], [1, 1]]))
    mask = Prune(layer, groups="rows")
    mask.strength = 0.5
    mask.step(0.1)
    assert mask.zero_share().item() == pytest.approx(1 / 3) and layer.weight[2].eq(0).all()


@pytest.mark.parametrize("share", [1, 1.5, -0.1, float("nan"), float("inf")])
def test_a_share_that_cannot_be_pruned(share: float) -> None:
    mask = Prune(nn.Linear(3, 4))
    with pytest.raises(UserError, match=r"strength: .* is no share"):
        mask.strength = share


def test_a_layer_keeps_a_group_but_not_under_global_rank() -> None:
    def both() -> nn.Sequential:
        return nn.Sequential(linear(torch.full((4, 3), 0.1)), linear(torch.full((4, 4), 2.0)))

    kept, lost = both(), both()
    for model, scope in ((kept, "layer"), (lost, "global")):
        mask = Prune(model, groups="rows", scope=scope)  # type: ignore[arg-type]
        mask.strength = 0.999 if scope == "layer" else 0.5
        mask.step(0.1)
    assert [x.ne(0).any(1).sum().item() for x in weights(kept)] == [1, 1]
    assert [x.ne(0).any(1).sum().item() for x in weights(lost)] == [0, 4]


def test_automated_gradual_pruning() -> None:
    """Figures of the reference schedule, from 0.05 to 0.5 over ten epochs."""
    model = linear(torch.randn(100, 100, generator=torch.Generator().manual_seed(0)))
    mask = Prune(model)
    strength = Strength(0.5, schedule="agp", other_end=0.05)
    shares = []
    for epoch in range(1, 11):
        mask.strength = strength.at(epoch, 10)
        mask.step(0.1)
        shares.append(mask.zero_share().item())
        assert shares[-1] == pytest.approx(int(mask.strength * 10000) / 10000)
    assert shares == pytest.approx(
        [0.05, 0.184, 0.2883, 0.3667, 0.4228, 0.4605, 0.4833, 0.4951, 0.4994, 0.5], abs=1.01e-4
    )


def test_momentum_does_not_move_masked_weights_and_pruned_groups_stay_pruned() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    mask = Prune(model, groups="units")
    for seed in range(3):
        train(model, optimizer, mask, seed)
    zeros = torch.zeros(28, dtype=torch.bool)
    shares = []
    for epoch, strength in enumerate((0.2, 0.2, 0.5, 0.5, 0.3, 0.0, 0.0)):
        mask.strength = strength
        for seed in range(3):
            train(model, optimizer, mask, 10 * epoch + seed)
            now = torch.cat([x.flatten(1).eq(0).all(1) for x in weights(model)])
            assert now[zeros].all()
            zeros = now
        shares.append(int(zeros.sum()))
    # 8, 6, 10 and 4 units: a fifth, then a half of each.
    assert shares == [1 + 1 + 2 + 0] * 2 + [4 + 3 + 5 + 2] * 5
    first = weights(model)[0]
    moved = optimizer.state[first]["momentum_buffer"][first == 0]
    assert mask.frozen and moved.abs().max() > 0


def test_regrow_is_iterative_hard_thresholding() -> None:
    """Least squares: after every gradient step, all but the k largest coefficients are zeroed."""
    torch.manual_seed(0)
    a, truth = torch.randn(60, 20, dtype=torch.float64), torch.zeros(20, dtype=torch.float64)
    truth[[2, 7, 11]] = torch.tensor([1.0, -2, 0.5], dtype=torch.float64)
    b = a @ truth
    slow = torch.zeros(20, dtype=torch.float64)
    slow[:3] = 1.0  # not where the truth is
    layer = linear(slow[None])
    mask = Prune(layer, regrow=True)
    mask.strength = 0.85
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.004)
    supports = set()
    for _ in range(200):
        optimizer.zero_grad()
        (0.5 * (layer(a)[:, 0] - b).square().sum()).backward()
        optimizer.step()
        mask.step(optimizer)
        slow = slow - 0.004 * a.t() @ (a @ slow - b)
        for index in sorted(range(20), key=lambda i: abs(slow[i].item()))[:17]:
            slow[index] = 0
        supports.add(tuple(slow.nonzero().flatten().tolist()))
        torch.testing.assert_close(layer.weight[0].detach(), slow)
    assert len(supports) > 2
    torch.testing.assert_close(layer.weight[0].detach(), truth)


def test_regrow_takes_groups_back_until_the_mask_is_frozen() -> None:
    for regrow in (True, False):
        layer = linear(torch.tensor([[1.0, 2, 3, 4]]))
        mask = Prune(layer, regrow=regrow)
        mask.strength = 0.5
        mask.step(0.1)
        with torch.no_grad():
            layer.weight[0, 0] = 9.0
        mask.step(0.1)
        assert layer.weight[0].tolist() == ([9, 0, 0, 4] if regrow else [0, 0, 3, 4])
        mask.freeze()
        with torch.no_grad():
            layer.weight[0] = torch.tensor([1.0, 8, 8, 1])
        mask.step(0.1)
        assert layer.weight[0].tolist() == ([1, 0, 0, 1] if regrow else [0, 0, 8, 1])


@pytest.mark.parametrize("keep_mask", [True, False])
def test_a_threshold_is_applied_once_and_its_last_mask_kept(keep_mask: bool) -> None:
    layer = linear(torch.tensor([[0.1, 0.2, 1, 2]]))
    mask = Threshold(layer, keep_mask=keep_mask)
    mask.step(0.1)
    assert mask.masks() == {} and not mask.zero_share()
    mask.strength = 0.5
    mask.step(0.1)
    assert layer.weight[0].tolist() == [0, 0, 1, 2] and not mask.held and not mask.frozen
    with torch.no_grad():
        layer.weight[0] = torch.tensor([0.7, 0.1, 0.3, 2])
    mask.step(0.1)
    assert layer.weight[0].tolist() == pytest.approx([0.7, 0, 0, 2])
    mask.strength = 0.0
    assert mask.frozen == keep_mask == mask.held
    with torch.no_grad():
        layer.weight[0] = torch.tensor([0.1, 7, 7, 7])
    mask.step(0.1)
    assert layer.weight[0].tolist() == pytest.approx([0.1, 0, 0, 7] if keep_mask else [0.1, 7, 7, 7])
    assert mask.masks().keys() == ({"weight"} if keep_mask else set())
    # The next window begins anew.
    mask.strength = 0.5
    with torch.no_grad():
        layer.weight[0] = torch.tensor([0.1, 7, 7, 7])
    mask.step(0.1)
    assert layer.weight[0].tolist() == [0, 7, 7, 7]


def test_freeze_holds_whatever_the_strength() -> None:
    layer = linear(torch.tensor([[0.1, 0.2, 1, 2]]))
    mask = Threshold(layer, keep_mask=False)
    with pytest.raises(UserError, match="no mask to freeze"):
        mask.freeze()
    mask.strength = 0.15
    mask.step(0.1)
    mask.freeze()
    for strength in (5.0, 0.0, 1.5):
        mask.strength = strength
        with torch.no_grad():
            layer.weight.fill_(1.0)
        mask.step(0.1)
        assert mask.frozen and layer.weight[0].tolist() == [0, 1, 1, 1]
    mask.detach()
    layer.weight.data.fill_(0.01)
    mask.strength = 0.0
    mask.step(0.1)
    assert not mask.frozen and mask.masks() == {} and (layer.weight != 0).all()


def test_masked_gradients_build_no_momentum() -> None:
    for masked in (True, False):
        model = network()
        mask = Prune(model, groups="kernels", layer_type="conv", mask_gradients=masked)
        mask.strength = 0.5
        mask.step(0.1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        train(model, optimizer, mask, 0)
        first = weights(model)[0]
        moved = optimizer.state[first]["momentum_buffer"][first == 0]
        assert len(moved) == 12 * 9 and (moved == 0).all() == masked


def test_gradients_are_whole_while_groups_may_regrow() -> None:
    layer = linear(torch.tensor([[0.1, 2.0]]))
    mask = Threshold(layer, mask_gradients=True)
    mask.add_gradients()
    mask.strength = 0.5
    mask.step(0.1)
    mask.add_gradients()
    layer.weight.grad = torch.ones(1, 2)
    mask.add_gradients()
    assert layer.weight.grad.tolist() == [[1, 1]]
    mask.strength = 0.0
    mask.add_gradients()
    assert layer.weight.grad.tolist() == [[0, 1]]


STRENGTHS = {
    "threshold(groups=kernels, criterion=mean_abs)": [0, 0.07, 0.09, 0.08, 0, 0],
    "threshold(keep_mask=false)": [0, 0.03, 0.05, 0, 0, 0.02],
    "prune(groups=units)": [0, 0.2, 0.5, 0.5, 0, 0],
    "prune(scope=global, mask_gradients=true)": [0.1, 0.2, 0.5, 0.5, 0.5, 0.5],
    "prune(regrow=true, groups=units)": [0.2, 0.5, 0.5, 0, 0, 0.3],
}


@pytest.mark.parametrize("spec", STRENGTHS)
def test_a_resumed_run_is_the_same(spec: str) -> None:
    strengths = STRENGTHS[spec]

    def epochs(
        model: nn.Module, optimizer: torch.optim.Optimizer, mask: Any, which: range, saved: list[Any] | None = None
    ) -> None:
        for epoch in which:
            mask.strength = strengths[epoch]
            for seed in range(2):
                train(model, optimizer, mask, 2 * epoch + seed)
            if saved is not None:
                saved.append(copy.deepcopy((model, optimizer.state_dict(), mask.state_dict())))

    model, saved = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    epochs(model, optimizer, create(spec, model), range(6), saved)
    assert any((x == 0).any() for x in model.parameters() if x.ndim > 1)
    for epoch, (resumed, momentum, state) in enumerate(saved):
        optimizer = torch.optim.SGD(resumed.parameters(), lr=0.1, momentum=0.9)
        optimizer.load_state_dict(momentum)
        mask = create(spec, resumed)
        mask.load_state_dict(state)
        epochs(resumed, optimizer, mask, range(epoch + 1, 6))
        assert all(map(torch.equal, resumed.parameters(), model.parameters()))


def test_state_that_does_not_fit() -> None:
    mask = Prune(network(), groups="units")
    assert mask.state_dict() == {}
    mask.strength = 0.5
    mask.step(0.1)
    state = mask.state_dict()
    assert {name: (tuple(x.shape), x.dtype) for name, x in state["masks"].items()} == {
        "0.weight": ((8,), torch.bool),
        "2.weight": ((6,), torch.bool),
        "4.weight": ((10,), torch.bool),
        "6.weight": ((4,), torch.bool),
    }
    with pytest.raises(UserError, match="groups: the state has masks of units, this Threshold of elements"):
        Threshold(network()).load_state_dict(state)
    with pytest.raises(UserError, match=r"only the state has a mask of '4\.weight'"):
        Prune(network(), groups="units", layer_type="conv").load_state_dict(state)
    with pytest.raises(UserError, match=r"the mask of '0\.weight' has the shape \(8,\), not \(9,\)"):
        model = network()
        model[0], model[2] = nn.Conv2d(3, 9, 3), nn.Conv2d(9, 6, 3)
        Prune(model, groups="units").load_state_dict(state)
    with pytest.raises(UserError, match="the state is not one of Prune; it has 'cpu'"):
        mask.load_state_dict({"cpu": 1})
    mask.load_state_dict({})
    assert mask.masks() == {}


def test_heads_are_masked_over_all_projections() -> None:
    torch.manual_seed(0)
    model = nn.ModuleList([nn.MultiheadAttention(12, 3), nn.MultiheadAttention(12, 3)])
    mask = Prune(model, groups="heads(3)")
    assert layer_counts(mask.level) == [3, 3]
    with torch.no_grad():
        for attention, weak in zip(model, (1, 2), strict=True):
            for matrix in projections(attention):
                matrix[4 * weak : 4 * weak + 4] *= 0.1
    mask.strength = 0.4
    mask.step(0.1)
    for attention, weak in zip(model, (1, 2), strict=True):
        expected = torch.zeros(12, dtype=torch.bool)
        expected[4 * weak : 4 * weak + 4] = True
        for matrix in projections(attention):
            assert torch.equal(matrix.eq(0).all(1), expected) and torch.equal(matrix.eq(0).any(1), expected)
    assert mask.zero_share().item() == pytest.approx(1 / 3)
    again = Prune(model, groups="heads(3)")
    again.load_state_dict(mask.state_dict())
    assert all(torch.equal(x, again.masks()[name]) for name, x in mask.masks().items())
    for criterion in ("max", "mean_abs", "l1"):
        one = Threshold(copy.deepcopy(model), groups="heads(3)", criterion=criterion)
        one.strength = 1e-9
        one.step(0.1)
        assert one.zero_share().item() == pytest.approx(1 / 3)


def test_any_layout_and_precision() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        conv = nn.Conv2d(4, 6, 3, groups=2).to(memory_format=torch.channels_last, dtype=dtype)  # type: ignore[call-overload]
        transposed = nn.ConvTranspose2d(4, 6, 3, groups=2, dtype=dtype)
        for layer, units in ((conv, conv.weight), (transposed, transposed.weight.unflatten(0, (2, 2)).transpose(1, 2))):
            with torch.no_grad():
                (units if layer is conv else units[1])[2] *= 0.01  # the last unit
            mask = Prune(layer, groups="filters")
            mask.strength = 0.2
            mask.step(0.1)
            flat = units.flatten(1) if layer is conv else units.flatten(0, 1).flatten(1)
            assert flat.eq(0).all(1).tolist() == ([0, 0, 1, 0, 0, 0] if layer is conv else [0, 0, 0, 0, 0, 1])
            assert mask.masks()["weight"].shape == layer.weight.shape
            assert torch.equal(mask.masks()["weight"], layer.weight != 0)


def test_nan_is_not_hidden_but_a_held_mask_masks_it() -> None:
    for mask in (Threshold(linear(torch.ones(2, 2))), Prune(linear(torch.ones(2, 2)))):
        weight = mask.weights[0].tensor
        with torch.no_grad():
            weight[0, 0] = float("nan")
        mask.strength = 0.5
        mask.step(0.1)
        assert weight[0, 0].isnan()
    assert weight[0].isnan().tolist() == [True, False]
    with torch.no_grad():
        weight.fill_(float("nan"))
    mask.step(0.1)
    assert weight.isnan().sum() == 2 and (weight == 0).sum() == 2


def test_what_it_says_of_itself() -> None:
    model = network()
    mask = create("threshold(groups=units, include=0|4.*)=0.1", model)
    assert isinstance(mask, Threshold)
    assert mask.strength == 0.1 and mask.loss.shape == () and not mask.loss and not mask.loss.requires_grad
    assert mask.of_parameters and not mask.has_loss
    assert str(mask.coverage()) == "2 layers (0.weight ... 4.weight), 18 units, 456 parameters"
    assert Threshold(model, biases=True).coverage().total == sum(x.numel() for x in model.parameters())
    with mask as same:
        same.step(0.1)
        assert same.masks().keys() == {"0.weight", "4.weight"}
    assert mask.masks() == {}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("prune(groups=rows_cols)", "groups: 'rows_cols' overlap"),
        ("threshold(groups=rows_cols)", "groups: 'rows_cols' overlap"),
        ("prune(groups=layers)", "scope: 'layers' gives one group per layer"),
        ("prune(groups=filter)", "groups: 'filter' is no kind of group; did you mean 'filters'"),
        ("threshold(criterion=l3)", "criterion: 'l3' is not among its choices"),
        ("threshold(prox=true)", "no option 'prox'"),
        ("prune(scope=all)", "scope: 'all' is not among its choices"),
        ("prune=1", "strength: 1.0 is no share"),
        ("threshold(include=nothing)", "include: 'nothing' matches no weight"),
    ],
)
def test_what_cannot_be(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create(spec, network())


def test_layers_are_pruned_by_global_rank() -> None:
    model = network()
    with torch.no_grad():
        weights(model)[1].mul_(1e-3)
    mask = Prune(model, groups="layers", criterion="mean_abs", scope="global")
    mask.strength = 0.25
    mask.step(0.1)
    assert [bool(x.eq(0).all()) for x in weights(model)] == [False, True, False, False]
