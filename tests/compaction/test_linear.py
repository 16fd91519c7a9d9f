"""Layers that are linear on the data are folded, and compute the same on it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from regx.compaction import linear, observed, recipe
from regx.compaction.removal import compact, difference
from regx.models import create
from tests.compaction.test_compact import outputs, size


def network(seed: int, **options: int) -> nn.Module:
    torch.manual_seed(seed)
    model = create("rectangular", input_shape=(2,), output_size=2, **options).double().eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.normal_(0.3, 0.6)
    return model


@pytest.mark.parametrize("options", [{"depth": 8, "width": 6}, {"depth": 3, "width": 64}], ids=["deep", "wide"])
@pytest.mark.parametrize("seed", range(4))
def test_the_same_on_the_data(seed: int, options: dict[str, int]) -> None:
    model = network(seed, **options)
    data = torch.randn(300, 2).double()
    batches = [data[:150], data[150:]]
    masked = copy.deepcopy(model)
    observed.zero_dead(masked, batches)
    made = compact(masked, data)
    before = size(made.model)
    lines = linear.fold(made, batches)
    assert lines and size(made.model) < before
    assert difference(outputs(model, data), outputs(made.model, data)) <= 1e-12
    again = recipe.apply(copy.deepcopy(model), made.recipe)
    again.load_state_dict(made.model.state_dict())
    assert torch.equal(outputs(again, data), outputs(made.model, data))


def test_two_linear_layers_are_one_product() -> None:
    torch.manual_seed(0)
    first, second, third = (nn.Linear(*sizes).double() for sizes in ((3, 7), (7, 7), (7, 2)))
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
    second.bias.data += 100
    data = torch.randn(50, 3).double()
    made = compact(model, data)
    assert linear.fold(made, [data]) == ["2 and 4 became one layer"]
    merged = made.model.get_submodule("4")
    assert isinstance(made.model.get_submodule("2"), nn.Identity)
    torch.testing.assert_close(merged.weight, third.weight @ second.weight)
    torch.testing.assert_close(merged.bias, third.weight @ second.bias + third.bias)
    # What belongs to the old numbers, as an optimiser's moments do, does not belong to their product.
    moments = recipe.follow({name: x.detach() for name, x in model.named_parameters()}, made.recipe)
    assert {"0.weight", "0.bias"} <= moments.keys() and not moments.keys() & {"4.weight", "4.bias"}


class Gated(nn.Module):
    """The hidden units are read twice, so they are not to be replaced by a product."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 9), nn.Linear(9, 2), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.b(x) * self.c(x)


def test_units_that_several_layers_read_stay() -> None:
    torch.manual_seed(0)
    model = Gated().double()
    model.a.bias.data += 100
    data = torch.randn(50, 3).double()
    made = compact(model, data)
    assert linear.fold(made, [data]) == [] and made.recipe == []


class Scaled(nn.Linear):
    """Reads its weight twice, so no product may take its place."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.weight.sum()


@pytest.mark.parametrize("linear_units", [7, 6], ids=["two layers to one", "fewer units"])
def test_what_is_refused_is_as_it_was(linear_units: int) -> None:
    torch.manual_seed(0)
    first = nn.Linear(3, 7, bias=False).double()
    first.weight.data.abs_()
    first.weight.data[linear_units:] -= 1
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(7, 2, bias=False).double())
    data = torch.rand(50, 3).double()
    made = compact(model, data)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    assert linear.fold(made, [data], tolerance=-1.0) == [] and made.recipe == []
    after = made.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert len(linear.fold(made, [data])) == 1
    assert difference(outputs(model, data), outputs(made.model, data)) <= 1e-12


def test_a_layer_that_is_more_than_a_product_stays() -> None:
    torch.manual_seed(0)
    first = nn.Linear(3, 7)
    first.bias.data += 100
    model = nn.Sequential(first, nn.ReLU(), Scaled(7, 2)).double()
    data = torch.randn(50, 3).double()
    made = compact(model, data)
    assert linear.fold(made, [data]) == [] and isinstance(made.model.get_submodule("2"), Scaled)


def test_dropout_does_not_disturb() -> None:
    """The network may be in training, as it is left."""
    torch.manual_seed(0)
    first = nn.Linear(3, 7)
    first.bias.data += 100
    model = nn.Sequential(first, nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 2)).double().train()
    data = torch.rand(50, 3).double()
    made = compact(model, data)
    assert len(linear.fold(made, [data])) == 1 and made.model.training
    assert difference(outputs(model, data), outputs(made.model, data)) <= 1e-12
