"""Layers that are linear on the data are folded, and compute the same on it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from regx.compaction import linear, observed, recipe
from regx.compaction.compact import compact, difference
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
