"""Zeros of a model, against slow loops over its weights and against layers that are really cut."""

import copy
import csv
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from regx.errors import UserError
from regx.models import Rectangular
from regx.training import sparsity
from regx.training.folder import write_csv
from regx.training.sparsity import THRESHOLDS, SparsityMeter

Groups = dict[str, list[np.ndarray]]


def slow_groups(module: nn.Module, w: np.ndarray) -> Groups:
    """Every group of a weight as the numbers in it, cut one by one."""
    split = getattr(module, "groups", 1)
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        inputs = [w[i] for i in range(len(w))]
        per = len(w) // split
        outputs = [w[g * per : (g + 1) * per, o] for g in range(split) for o in range(w.shape[1])]
    else:
        outputs = [w[o] for o in range(len(w))]
        per = len(w) // split
        inputs = [w[g * per : (g + 1) * per, i] for g in range(split) for i in range(w.shape[1])]
    found: Groups = {"elements": [np.array(x) for x in w.ravel()], "units": outputs}
    if isinstance(module, nn.modules.conv._ConvNd):
        kernels = [w[a, b] for a in range(w.shape[0]) for b in range(w.shape[1])]
        found |= {"kernels": kernels, "filters": outputs, "channels": inputs}
    elif w.ndim == 2:
        found |= {"rows": outputs, "columns": inputs}
    return found


def slow_shares(groups: Groups) -> dict[str, float]:
    shares = {}
    for unit, found in groups.items():
        shares[unit] = sum(not g.any() for g in found) / len(found)
        for name, threshold in THRESHOLDS.items():
            near = [math.sqrt(math.fsum(float(x) ** 2 for x in g.ravel())) < threshold for g in found]
            shares[f"{unit}_{name}"] = sum(near) / len(found)
    return shares


def slow_total(model: nn.Module) -> Groups:
    total: Groups = {}
    for name, w in weights_of(model).items():
        for unit, found in slow_groups(owner(model, name), w).items():
            total.setdefault(unit, []).extend(found)
    return total


def weights_of(model: nn.Module) -> dict[str, np.ndarray]:
    norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    named = model.named_parameters()
    return {name: p.detach().double().numpy() for name, p in named if p.ndim > 1 and id(p) not in norms}


def owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


@torch.no_grad()
def thin_out(model: nn.Module, seed: int = 0) -> None:
    """Makes groups of every kind exactly zero, and others as small as the thresholds and in between."""
    rng = np.random.default_rng(seed)
    scales = [0.0, 0.0, 1e-7, 3e-6, 1e-4, 5e-3]
    for name, p in model.named_parameters():
        if p.ndim < 2:
            continue
        w = p.numpy()
        for unit, groups in slow_groups(owner(model, name), w).items():
            if unit == "elements":
                w *= np.where(rng.random(w.shape) < 0.3, rng.choice(scales, w.shape), 1).astype(w.dtype)
            else:
                for group in groups:  # views of the parameter
                    if rng.random() < 0.15:
                        group *= rng.choice(scales)


class Odd(nn.Module):
    """One layer of every kind that is cut in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 8, (3, 2), groups=2, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.transposed = nn.ConvTranspose2d(8, 6, 2)
        self.transposed_grouped = nn.ConvTranspose2d(6, 9, 2, groups=3)
        self.line = nn.Conv1d(9, 4, 3)
        self.linear = nn.Linear(4, 5)
        self.bilinear = nn.Bilinear(5, 5, 3)
        self.embedding = nn.Embedding(7, 3)
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.grouped(self.norm(self.conv(x))))
        x = self.transposed_grouped(self.transposed(x))
        x = self.linear(self.line(x.flatten(2)).mean(2))
        x = (self.bilinear(x, x) + self.embedding.weight[0]).unsqueeze(1)
        return self.attention(x, x, x)[0]


@pytest.fixture(params=["odd", "rectangular", "images", "bfloat16"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    if request.param == "odd":
        made: nn.Module = Odd()
    elif request.param == "images":
        made = Rectangular((3, 8, 8), 10, depth=4, width=6)
    else:
        made = Rectangular((5,), 3, depth=6, width=7)
    thin_out(made)
    return made.bfloat16() if request.param == "bfloat16" else made


def numbers(row: dict[str, Tensor]) -> dict[str, float]:
    assert all(value.shape == () for value in row.values())
    return {name.removeprefix("sparsity/"): value.item() for name, value in row.items()}


def test_shares_equal_a_count_by_hand(model: nn.Module) -> None:
    row = numbers(SparsityMeter(model, None).row())
    expected = slow_shares(slow_total(model))
    assert {name for name in row if not name.startswith("parameters")} == set(expected)
    for name, share in expected.items():
        assert row[name] == pytest.approx(share, abs=1e-12), name
    assert 0 < row["elements"] < row["elements_1e-5"] < row["elements_1e-3"] < row["elements_1e-2"] < 1
    assert 0 < row["units"] < 1


def test_small_weights_measured_together_or_alone(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    together = SparsityMeter(model, None)
    monkeypatch.setattr(sparsity, "_STACK_LIMIT", 1)
    alone = SparsityMeter(model, None)
    assert len(alone._stacks) >= len(together._stacks)
    assert numbers(alone.row()) == numbers(together.row())


def test_the_model_is_measured_as_it_is_now() -> None:
    model = Rectangular((2,), 1, depth=3, width=4)
    meter = SparsityMeter(model, torch.zeros(1, 2))
    assert numbers(meter.row())["units"] == 0
    model.get_parameter("hidden.layer1.weight").data[1] = 0
    after = numbers(meter.row())
    assert after["units"] == after["rows"] == pytest.approx(1 / 13)
    assert after["parameters"] - after["parameters_left"] == 5
    assert after["macs"] - after["macs_left"] == 4


def test_one_number_keeps_a_group_alive_however_small() -> None:
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[0.0, 1e-38, 0.0], [0.0, 0.0, 0.0]])  # its square is 0 in float32
    row = numbers(SparsityMeter(layer, None).row())
    assert (row["rows"], row["rows_1e-5"], row["columns"]) == (0.5, 1.0, pytest.approx(2 / 3))


def test_not_a_number_is_no_zero() -> None:
    layer = nn.Conv2d(1, 2, 3)
    layer.weight.data[:] = torch.nan
    row = numbers(SparsityMeter(layer, None).row())
    assert all(value == 0 for name, value in row.items() if not name.startswith("parameters"))


def test_frozen_weights_count_and_shared_ones_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, second, nn.Linear(4, 2).requires_grad_(False))
    first.weight.data[:2] = 0
    model.get_parameter("2.weight").data[:] = 0
    meter = SparsityMeter(model, torch.zeros(3, 4))
    row = numbers(meter.row())
    assert row["elements"] == (8 + 8) / (16 + 8)
    assert [entry["name"] for entry in meter.table()] == ["0.weight", "2.weight", "total"]
    # The shared weight runs twice and has two biases.
    assert row["macs"] == 2 * 16 + 8
    assert row["macs_left"] == 2 * 8
    assert row["parameters"] == 16 + 4 + 4 + 8 + 2
    assert row["parameters_left"] == 8 + 2 + 2


# --- what would be left ---------------------------------------------------------------------------------------------


def small_conv_net() -> nn.Sequential:
    torch.manual_seed(1)
    second = nn.Conv2d(8, 6, 3, 2, bias=False)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), second, nn.Flatten(), nn.Linear(54, 4))


@torch.no_grad()
def test_what_is_left_is_the_size_of_layers_that_are_cut() -> None:
    model = small_conv_net()
    model.get_parameter("0.weight")[[1, 5]] = 0
    model.get_parameter("0.weight")[:, 2] = 0
    model.get_parameter("3.weight")[[0, 2, 3]] = 0
    model.get_parameter("3.weight")[:, 7] = 0
    model.get_parameter("5.weight")[3] = 0
    model.get_parameter("5.weight")[:, :9] = 0
    model.get_parameter("5.bias").zero_()
    row = numbers(SparsityMeter(model, torch.zeros(2, 3, 9, 9)).row())
    cut = [
        (nn.Conv2d(2, 6, 3), torch.zeros(1, 2, 9, 9)),
        (nn.Conv2d(7, 3, 3, 2, bias=False), torch.zeros(1, 7, 7, 7)),
        (nn.Linear(45, 3), torch.zeros(1, 45)),
    ]
    assert row["parameters"] == sum(p.numel() for p in model.parameters())
    assert row["parameters_left"] == 16 + sum(p.numel() for layer, _ in cut for p in layer.parameters())  # 16: norm
    runs: dict[str, Any] = {"macs": [(model.eval(), torch.zeros(1, 3, 9, 9))], "macs_left": cut}
    for name, layers in runs.items():
        with FlopCounterMode(display=False) as counter:
            for layer, x in layers:
                layer(x)
        assert row[name] == counter.get_total_flops() / 2, name


def slow_left(model: nn.Module, positions: dict[str, int]) -> tuple[int, int]:
    """Counts the numbers that stay one by one: those whose output and whose input are both alive."""
    parameters, macs = sum(p.numel() for p in model.parameters()), 0
    for name, steps in positions.items():
        module = model.get_submodule(name)
        w = module.get_parameter("weight").detach().numpy()
        split = getattr(module, "groups", 1)
        flipped = isinstance(module, nn.modules.conv._ConvTransposeNd)
        per = len(w) // split
        stays, alive = 0, 0
        for g in range(split):
            block = w[g * per : (g + 1) * per]
            for a, b in itertools.product(range(per), range(w.shape[1])):
                stays += int(block[a].any() and block[:, b].any()) * w[0, 0].size
            outputs = block.swapaxes(0, 1) if flipped else block
            alive += sum(bool(output.any()) for output in outputs)
        bias = getattr(module, "bias", None)
        parameters -= w.size - stays
        parameters -= 0 if bias is None else bias.numel() - alive
        macs += stays * steps
    return parameters, macs


def test_grouped_and_transposed_convolutions_are_cut_group_by_group() -> None:
    torch.manual_seed(0)
    model = Odd()
    thin_out(model, seed=3)
    x = torch.zeros(2, 3, 12, 12)
    row = numbers(SparsityMeter(model, x).row())
    shapes: dict[str, tuple[torch.Size, torch.Size]] = {}
    names = ["conv", "grouped", "depthwise", "transposed", "transposed_grouped", "line", "linear"]
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: shapes.update({name: (args[0].shape, out.shape)})  # type: ignore[misc]
        )
    model.eval()(x)
    positions = {
        name: math.prod((before if name.startswith("transposed") else after)[2:])
        for name, (before, after) in shapes.items()
    }
    parameters, macs = slow_left(model, positions)
    assert row["parameters_left"] == parameters < row["parameters"]
    assert row["macs_left"] == macs < row["macs"]
    # Nothing is removed from what is neither linear nor convolutional, be it zero.
    for name in ("bilinear.weight", "embedding.weight", "attention.in_proj_weight", "attention.out_proj.weight"):
        model.get_parameter(name).data.zero_()
    assert numbers(SparsityMeter(model, x).row())["parameters_left"] == parameters


class Alike(nn.Module):
    """Weights of one shape, each cut in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 2)
        self.without_bias = nn.Conv2d(2, 4, 2, bias=False)
        self.grouped = nn.Conv2d(4, 4, 2, groups=2)
        self.transposed = nn.ConvTranspose2d(4, 2, 2)
        self.transposed_grouped = nn.ConvTranspose2d(4, 4, 2, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        both = self.conv(x) + self.without_bias(x)
        return self.transposed(self.grouped(both)).sum() + self.transposed_grouped(both).sum()


@pytest.mark.parametrize("seed", range(4))
def test_weights_of_one_shape_are_told_apart(seed: int) -> None:
    torch.manual_seed(0)
    model = Alike()
    assert len({p.shape for p in model.parameters() if p.ndim > 1}) == 1
    thin_out(model, seed)
    model.get_parameter("without_bias.weight").data[seed] = 0
    row = numbers(SparsityMeter(model, torch.zeros(1, 2, 5, 5)).row())
    # 5x5 -> 4x4 -> 3x3, whose positions the transposed convolution reads
    positions = {"conv": 16, "without_bias": 16, "grouped": 9, "transposed": 9, "transposed_grouped": 16}
    assert (row["parameters_left"], row["macs_left"]) == slow_left(model, positions)
    for name, share in slow_shares(slow_total(model)).items():
        assert row[name] == pytest.approx(share, abs=1e-12), name


def test_only_layers_are_cut() -> None:
    model = nn.ModuleList([nn.Embedding(4, 4), nn.Linear(4, 4, bias=False)])
    for name in ("0.weight", "1.weight"):
        model.get_parameter(name).data[:2] = 0
    row = numbers(SparsityMeter(model, None).row())
    assert (row["rows"], row["parameters"], row["parameters_left"]) == (0.5, 32, 24)


def test_normalisation_is_no_weight_whatever_its_shape() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm([3, 4]))
    model.get_parameter("1.weight").data.zero_()
    meter = SparsityMeter(model, torch.zeros(1, 3, 4))
    row = numbers(meter.row())
    assert (row["elements"], row["parameters"], row["parameters_left"]) == (0, 44, 44)
    assert [entry["name"] for entry in meter.table()] == ["0.weight", "total"]


def test_macs_need_a_sample() -> None:
    row = SparsityMeter(small_conv_net(), None).row()
    assert not any("macs" in name for name in row)
    assert "sparsity/parameters_left" in row


# --- options, errors, cost ------------------------------------------------------------------------------------------


def test_blocks_on_request() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    model.get_parameter("0.weight").data[2:, 3:] = 0
    meter = SparsityMeter(model, None, blocks="blocks(2,1)")
    weights = weights_of(model).values()
    blocks = [w[i : i + 2, j] for w in weights for i in range(0, len(w), 2) for j in range(w.shape[1])]
    assert len(blocks) == 16
    assert numbers(meter.row())["blocks"] == sum(not b.any() for b in blocks) / 16
    assert [row["blocks"] for row in meter.table()] == [3 / 12, 0.0, 3 / 16]
    assert "sparsity/blocks" not in SparsityMeter(model, None).row()
    with pytest.raises(UserError, match=r"blocks of 4 x 4 do not divide 0\.weight \(4x6\)"):
        SparsityMeter(model, None, blocks="blocks(4,4)")


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(UserError, match="BatchNorm1d has no weights"):
        SparsityMeter(nn.BatchNorm1d(3), None)


class Watch(TorchDispatchMode):
    """Counts what is run; a number that is fetched from the device is an error."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func), "waits for the device"
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_row_waits_for_no_device_and_costs_as_much_at_any_depth() -> None:
    counts = []
    for depth in (20, 50):
        meter = SparsityMeter(Rectangular((2,), 2, depth=depth, width=4), torch.zeros(1, 2))
        with Watch() as watch:
            meter.row()
        counts.append(watch.count)
    assert counts[0] == counts[1]


def test_measuring_leaves_the_model_and_the_random_numbers_alone() -> None:
    model = small_conv_net()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    meter = SparsityMeter(model, torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)))
    row = meter.row()
    meter.table()
    meter.arrays()
    assert model.training
    assert not any(value.requires_grad for value in row.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


# --- table ----------------------------------------------------------------------------------------------------------


def test_table_equals_a_count_by_hand(model: nn.Module) -> None:
    *rows, total = SparsityMeter(model, None).table()
    found = weights_of(model)
    assert [row["name"] for row in rows] == list(found)
    for row in rows:
        w = found[row["name"]]
        check_row(row, w, slow_shares(slow_groups(owner(model, row["name"]), w)))
        assert row["shape"] == "x".join(map(str, w.shape))
    check_row(total, np.concatenate([w.ravel() for w in found.values()]), slow_shares(slow_total(model)))
    assert (total["name"], total["shape"]) == ("total", "")
    assert all(list(row) == list(total) for row in rows)


def check_row(row: dict[str, Any], w: np.ndarray, shares: dict[str, float]) -> None:
    assert row["dense"] == w.size
    assert row["nnz"] == np.count_nonzero(w)
    assert [row["std"], row["mean"], row["abs_mean"]] == pytest.approx([w.std(), w.mean(), abs(w).mean()], rel=1e-9)
    others = {"name", "shape", "dense", "nnz", "std", "mean", "abs_mean"}
    assert {key for key, value in row.items() if value is not None} - others == set(shares)
    assert {key: row[key] for key in shares} == pytest.approx(shares, abs=1e-12)


def test_table_as_csv(tmp_path: Path, model: nn.Module) -> None:
    rows = SparsityMeter(model, None).table()
    write_csv(tmp_path / "weights.csv", rows)
    with (tmp_path / "weights.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(rows)
    for got, want in zip(read, rows, strict=True):
        assert list(got) == list(want)
        assert {key: value for key, value in got.items() if isinstance(want[key], str)} == {
            key: value for key, value in want.items() if isinstance(value, str)
        }
        assert {key: float(got[key]) if got[key] else None for key in want if not isinstance(want[key], str)} == {
            key: value for key, value in want.items() if not isinstance(value, str)
        }


# --- arrays ---------------------------------------------------------------------------------------------------------


def flat(model: nn.Module) -> Iterator[np.ndarray]:
    return (w.ravel() for w in weights_of(model).values())


def test_arrays_hold_every_weight_and_every_norm(model: nn.Module) -> None:
    weights, norms = SparsityMeter(model, None).arrays()
    assert weights == pytest.approx(np.concatenate(list(flat(model))))
    expected: dict[str, list[float]] = {}
    for name, w in weights_of(model).items():
        groups = slow_groups(owner(model, name), w)
        kind = next(unit for unit in ("filters", "rows", "units") if unit in groups)
        expected.setdefault(kind, []).extend(float(np.linalg.norm(g)) for g in groups["units"])
    assert set(norms) == set(expected)
    for kind, values in expected.items():
        assert norms[kind] == pytest.approx(np.array(values), rel=1e-5)
