"""Networks as people write them: what a compact one computes is never another network's."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from regx.compaction import observed, pruning, recipe, running
from regx.compaction.removal import compact, difference
from regx.errors import RunFailed, UserError
from tests.compaction.odd import BLOCKS, CASES, REWRITTEN, Block, Blocked, Chain, Dropping, Images, Returned, sample
from tests.compaction.patterns import scatter, zero_groups
from tests.compaction.test_compact import outputs, size


def tensors(found: Any) -> list[Tensor]:
    leaves = [
        x for leaf in tree_leaves(found) for x in ([leaf.output, leaf.hidden] if isinstance(leaf, Returned) else [leaf])
    ]
    assert all(isinstance(x, Tensor) for x in leaves)
    return leaves


def agree(model: nn.Module, smaller: nn.Module, *inputs: Tensor) -> None:
    """The same for inputs that the compaction has not seen, of any number of samples."""
    for x in inputs:
        found = []
        for network in (model, smaller):
            torch.manual_seed(1)
            with torch.no_grad():
                found.append(tensors(network.eval()(x.clone())))
        for wanted, got in zip(*found, strict=True):
            assert difference(wanted, got) <= 1e-12


# Of which nothing can go that is understood.
KEPT = {
    "ScaledBias", "WeightUsedTwice", "ReadsAParameter", "SoftmaxOfWeight", "FixedView", "FixedGroups",
    "Recurrent", "spectral",
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_networks_as_people_write_them(case: str) -> None:
    compacted = 0
    for seed in range(6):
        torch.manual_seed(seed)
        model = scatter(CASES[case]().double(), seed)
        first: Any = model.get_submodule("first")
        first.get_parameter("weight_orig" if case == "pruned" else "weight").data[1::2] = 0
        torch.nn.init.normal_(first.bias).data[1::4] = 0  # zeros and, beside them, constants
        zero_groups(model, seed, last=("first", "last"))
        x = sample(model, 3)
        try:
            found = compact(model, x)
        except UserError as error:
            assert "the same for every input" in str(error)
            continue
        agree(model, found.model, x, 5 * sample(model, 5), sample(model, 4))
        compacted += size(found.model) < size(model)
    assert bool(compacted) == (case not in KEPT)


@pytest.mark.parametrize("zero", [False, True], ids=["constant", "zero"])
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_are_rewritten_only_where_nothing_else_changes(block: type[Block], zero: bool) -> None:
    torch.manual_seed(0)
    model = Blocked(block()).double().train()
    model.block.dead.weight.data.zero_()
    if zero:
        model.block.dead.bias.data.zero_()  # type: ignore[union-attr]
    found = compact(model, torch.randn(3, 6).double())
    rewritten = block.__name__ in REWRITTEN or (block.__name__ == "Alias" and zero)
    assert any(step["dropped"] for step in found.recipe) == rewritten
    assert bool(found.notes) == (not rewritten and block.__name__ != "Multiple")
    assert found.model.training
    agree(model, found.model, torch.randn(5, 6).double(), 1000 * torch.randn(4, 6).double())
    again = recipe.apply(copy.deepcopy(model), found.recipe)
    again.load_state_dict(found.model.state_dict())
    agree(found.model, again, torch.randn(5, 6).double())


def test_a_rewritten_block_is_a_module_like_others() -> None:
    """It can be copied, stored, compiled, and compacted again; dropout by a function stays what it was."""
    torch.manual_seed(0)
    model = Blocked(Block()).double().eval()
    model.block.dead.weight.data.zero_()
    x = torch.randn(4, 6).double()
    small = compact(model, x).model
    wanted = outputs(small, x)
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    compiled: Any = torch.compile(small, backend="eager")
    for other in (copy.deepcopy(small), torch.load(file, weights_only=False), compiled):
        assert torch.equal(outputs(other, x), wanted)
    small.get_submodule("first").get_parameter("weight").data[::2] = 0
    small.get_submodule("first").get_parameter("bias").data[::2] = 0
    again = compact(small, x)
    assert size(again.model) < size(small) and difference(outputs(small, x), outputs(again.model, x)) <= 1e-12
    dropping = Blocked(Dropping()).double()
    dropping.block.dead.weight.data.zero_()
    kept = compact(dropping, x).model
    assert not torch.equal(kept.train()(x), kept(x)) and torch.equal(kept.eval()(x), kept(x))


def test_a_second_recipe_follows_the_first() -> None:
    torch.manual_seed(0)
    model = scatter(Images().double(), 0)
    x = sample(model, 3)
    model.get_submodule("first").get_parameter("weight").data[:3] = 0
    once = compact(model, x)
    masked = copy.deepcopy(once.model)
    masked.get_submodule("second").get_parameter("weight").data[2:4] = 0
    twice = compact(masked, x)
    assert once.recipe and twice.recipe and compact(twice.model, x).recipe == []
    again = recipe.apply(Images().double(), once.recipe + twice.recipe)
    again.load_state_dict(twice.model.state_dict())
    assert torch.equal(outputs(again, x), outputs(twice.model, x))
    agree(masked, twice.model, x, sample(model, 5))


class UsesTheNumber(Chain):
    def middle(self, x: Tensor) -> Tensor:
        return self.second(x / x.shape[1])


class Opaque(Chain):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), iter([x])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (UsesTheNumber, "computes something else; its code may use the number of channels"),
        (Opaque, "of which nothing is known"),
        (lambda: nn.Conv2d(6, 8, 3), "cannot be run on this input"),
    ],
)
def test_what_cannot_be_told_is_one_line(make: Any, message: str) -> None:
    torch.manual_seed(0)
    model = make().double()
    if isinstance(model, Chain):
        model.get_submodule("first").get_parameter("weight").data[::2] = 0
    x = torch.randn(3, 6).double()
    with pytest.raises(UserError, match=message) as error:
        compact(model, x)
    assert "\n" not in str(error.value)


def test_inputs_of_any_kind() -> None:
    """A number without dimensions, a mask of no batch, one sample."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor, scale: Tensor, mask: Tensor) -> Tensor:
            scores = (x @ x.transpose(1, 2) * scale).masked_fill(~mask, -torch.inf).softmax(-1)
            return self.c(scores @ self.b(self.a(x).relu()))

    torch.manual_seed(0)
    model, mask = Attention().double(), torch.ones(5, 5, dtype=torch.bool).tril()
    model.a.weight.data[::2], scale = 0, torch.tensor(0.5).double()
    for rows in (1, 2, 3):
        x = torch.randn(rows, 5, 6).double()
        found = compact(model, x, scale, mask)
        assert found.recipe
        with torch.no_grad():
            assert difference(model(x, scale, mask), found.model(x, scale, mask)) <= 1e-12


def test_buffers_are_left_as_they_were() -> None:
    model = CASES["Written"]().double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruning.to_macs(model, 1.0, torch.randn(3, 6).double())
    small = compact(model, torch.randn(3, 6).double()).model
    for network in (model, small):
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items() if name == "calls")


class CalledTwice(Chain):
    """A unit that is dead in the first call of a layer alone."""

    def middle(self, x: Tensor) -> Tensor:
        return self.second((x - 100).relu()) + self.second(x)


def test_a_layer_that_is_called_twice_keeps_units_that_one_call_needs() -> None:
    torch.manual_seed(0)
    model, data = CalledTwice().double().eval(), torch.randn(50, 6).double()
    before = outputs(model, data)
    observed.zero_dead(model, [data])
    assert torch.equal(outputs(model, data), before)


@pytest.mark.parametrize(
    "steps",
    [
        None,
        [3],
        [{"dropped": []}],
        [{"dropped": [{"module": "first"}], "replaced": [], "biases": [], "shapes": {}, "cuts": {}}],
        [{"dropped": [], "replaced": ["third"], "biases": [], "shapes": {}, "cuts": {}}],
        [{"dropped": [], "replaced": [], "biases": [], "shapes": {}, "cuts": {"first.weight": {0: [99]}}}],
    ],
)
def test_a_recipe_of_another_model_is_one_line(steps: Any) -> None:
    with pytest.raises(RunFailed, match="of another model"):
        recipe.apply(Chain(), steps)


class Faint(Images):
    """A constant that is almost zero stays, as a weight of no layer reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 8, 1, 1))

    def middle(self, x: Tensor) -> Tensor:
        return self.second(x) + F.conv2d(x, self.weight)


def test_a_faint_constant_does_not_stand_for_others() -> None:
    """At the edges of an image it would have to be multiplied by more than single precision holds."""
    torch.manual_seed(0)
    model = Faint().float()
    model.get_submodule("first").get_parameter("weight").data[:2] = 0
    model.get_submodule("first").get_parameter("bias").data[:2] = torch.tensor([1e-42, 1.0])
    model.weight.data[0, 0] = 1
    x = torch.randn(3, 6, 6, 6)
    assert difference(outputs(model, x), outputs(compact(model, x).model, x)) <= 1e-6


def test_nothing_to_prune_is_one_line() -> None:
    with pytest.raises(UserError, match="no linear or convolutional layer that could be cut"):
        pruning.to_macs(nn.Flatten(), 0.5, torch.randn(2, 3))
    kept = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    with pytest.raises(UserError, match=r"native_layer_norm in module '1' keeps still cost 1\.000"):
        pruning.to_macs(kept, 0.5, torch.randn(2, 4))


def test_a_check_finds_any_difference() -> None:
    """Also where one is not a number, or has another shape, or the sample alone does not show it."""
    torch.manual_seed(0)
    x = torch.randn(2, 6)
    check = running.Check(nn.ReLU(), (x.abs(),))
    assert check.problem(nn.ReLU()) is None
    for other in (nn.Identity(), nn.GELU(), nn.Flatten(0), nn.Sequential(nn.ReLU(), nn.Threshold(1e9, float("nan")))):
        assert check.problem(other) is not None
    failing = check.problem(nn.Sequential(nn.ReLU(), nn.Linear(5, 5)))
    assert failing is not None and failing.text.startswith("aten.addmm in module '1' fails")
