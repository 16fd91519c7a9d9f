"""What networks cost: counts and memory against closed forms, the order of timing, and the networks of a run."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regx.analysis import cost
from regx.analysis.cost import Measured
from regx.analysis.sizes import LayerSize, Size, by_layer
from regx.errors import UserError
from regx.regularizers.cost import layers
from regx.training.trained import Trained, load
from tests.analysis.trained_by_hand import ZEROED, compact_folder, trained_run, zero_units


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = trained_run(tmp_path_factory.mktemp("runs"))
    zero_units(found)
    return found


@pytest.fixture(scope="module")
def trained(run: Path) -> Trained:
    return load(run, devices="cpu")


class Doubled(nn.Module):
    """Makes two tensors, of which one is freed at once."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1).sum(1)


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize(
    ("model", "floats"),
    [
        # The input is not counted; while one layer computes, the output of the one before is held.
        (nn.Sequential(nn.Linear(10, 30)), 30),
        (nn.Sequential(nn.Linear(10, 30), nn.ReLU(), nn.Linear(30, 7)), 60),
        (nn.Sequential(nn.Linear(10, 30), nn.ReLU(inplace=True), nn.Linear(30, 7)), 37),
        (nn.Sequential(nn.Linear(10, 3), nn.ReLU(), nn.Linear(3, 50)), 53),
        (nn.Sequential(nn.Linear(10, 6), nn.Unflatten(1, (2, 3)), nn.Flatten(), nn.Identity()), 6),
        (nn.Sequential(nn.Unflatten(1, (1, 2, 5)), nn.Conv2d(1, 4, 1, bias=False), nn.Flatten()), 40),
        (Doubled(), 11),
        (nn.Identity(), 0),
    ],
)
def test_peak_memory_is_the_closed_form(model: nn.Module, floats: int, samples: int) -> None:
    model.requires_grad_(False)
    assert cost.peak_memory(model.eval(), torch.randn(samples, 10)) == 4 * samples * floats


@pytest.mark.gpu
def test_peak_memory_on_cuda_is_the_closed_form() -> None:
    model = nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 512)).cuda()
    # Multiples of the allocator's 512 bytes; cuBLAS may add workspaces of its own.
    wanted = 4 * 128 * 2 * 2048
    assert wanted <= cost.peak_memory(model, torch.randn(128, 1024, device="cuda")) < wanted + 2**26


def test_counts_are_the_closed_forms(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5))
    measured = cost.measure({"net": model}, torch.randn(4, 3, 8, 8), repeats=3)["net"]
    found = measured.size
    assert found.layers == {
        "0": LayerSize(8, 8 * 27 + 8, 64 * 8 * 27),
        "4": LayerSize(5, 512 * 5 + 5, 512 * 5),
    }
    assert found.channels == 8 + 5
    assert (found.parameters, found.macs) == (8 * 27 + 8 + 16 + 512 * 5 + 5, 64 * 8 * 27 + 512 * 5)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    # The name of a file is in the file.
    assert found.bytes == pytest.approx((tmp_path / "weights.pt").stat().st_size, abs=1000)
    assert (measured.batch_size, len(measured.seconds)) == (4, 3) and min(measured.seconds) > 0


class Noted(nn.Linear):
    """Notes who is run, how, and with how many threads."""

    def __init__(self, name: str, calls: list[tuple[str, bool, bool, int]]) -> None:
        super().__init__(2, 2)
        self.name, self.calls = name, calls

    def forward(self, input: Tensor) -> Tensor:
        self.calls.append((self.name, self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        return super().forward(input)


def test_networks_are_timed_in_turn_and_left_as_they_were() -> None:
    calls: list[tuple[str, bool, bool, int]] = []
    models = {name: Noted(name, calls) for name in "abc"}
    models["b"].eval()
    threads = torch.get_num_threads()
    found = cost.measure(models, torch.randn(1, 2), repeats=4, threads=2)
    timed = [call for call in calls if call[2]]
    rounds = ["".join(sorted(name for name, *_ in timed[i : i + 3])) for i in range(0, len(timed), 3)]
    assert rounds == ["abc"] * (cost.WARM_UP + 4), "each network once in every round"
    first = [timed[i][0] for i in range(0, len(timed), 3)]
    assert set(first) == {"a", "b", "c"}, "none is always the first"
    assert {call[1] for call in calls} == {False} and {call[3] for call in timed} == {2}
    assert torch.get_num_threads() == threads
    assert [model.training for model in models.values()] == [True, False, True]
    assert all(len(item.seconds) == 4 for item in found.values())


def test_speed_up_is_the_ratio_of_medians_with_the_quartiles_of_the_rounds() -> None:
    random = np.random.default_rng(0)
    slow, fast = random.uniform(2, 3, 21), random.uniform(1, 2, 21)
    base, other = (Measured(Size(0, 0, 0, 0, {}), 0, 8, tuple(seconds.tolist())) for seconds in (slow, fast))
    wanted = [np.median(slow) / np.median(fast), *np.percentile(slow / fast, [25, 75])]
    assert other.speed_up(base) == pytest.approx(wanted)
    assert other.quartiles == pytest.approx(np.percentile(fast, [25, 75]))
    assert other.throughput == pytest.approx(8 / np.median(fast))
    one = dataclasses.replace(base, seconds=(2.0,))
    assert one.speed_up(one) == (1, 1, 1)


@pytest.mark.parametrize("option", ["repeats", "threads"])
def test_none_is_too_few(option: str) -> None:
    with pytest.raises(UserError, match=f"^{option}: 0 is below 1$"):
        cost.measure({"net": nn.Linear(2, 2)}, torch.randn(1, 2), **{option: 0})


def test_networks_of_a_masked_run(trained: Trained) -> None:
    found = cost.networks(trained)
    assert list(found.models) == ["dense", "masked", "compact"] and found.base == "masked"
    dense, masked, smaller = found.models.values()
    assert masked is trained.model
    for name, parameter in masked.named_parameters():
        other = dense.get_parameter(name)
        assert (other != 0).all() and torch.equal(torch.where(parameter == 0, 0, other), parameter)
    with torch.no_grad():
        x = trained.data.val.x
        torch.testing.assert_close(smaller(x), masked(x))
    # Two of six units are gone: from 2-6-6-1 to 2-4-6-1.
    widths = {name: layer.weight.shape for name, layer in layers(smaller).items()}
    assert widths == {"hidden.layer0": (4, 2), "hidden.layer1": (6, 4), "head": (1, 6)}
    measured = cost.measure(found.models, x[:2], repeats=1)
    assert measured["dense"].size.bytes == measured["masked"].size.bytes
    rows = by_layer(measured["dense"].size, measured["compact"].size)
    assert rows[0] == {
        "layer": "hidden.layer0",
        "channels": 6,
        "channels_left": 4,
        "parameters": 18,
        "parameters_left": 12,
        "macs": 12,
        "macs_left": 8,
    }
    assert rows[-2] == {"layer": "in no layer", "channels": 0, "channels_left": 0} | dict.fromkeys(
        ("parameters", "parameters_left", "macs", "macs_left"), 0
    )
    total = rows[-1]
    assert (total["layer"], total["channels"], total["channels_left"]) == ("total", 13, 11)
    assert (total["parameters"], total["parameters_left"]) == (18 + 42 + 7, 12 + 30 + 7)
    assert (total["macs"], total["macs_left"]) == (12 + 36 + 6, 8 + 24 + 6)


def test_networks_of_a_compact_folder(run: Path, tmp_path: Path) -> None:
    found = cost.networks(load(compact_folder(run, tmp_path / "small"), devices="cpu"))
    assert list(found.models) == ["dense", "compact"] and found.base == "dense"
    assert layers(found.models["dense"])["hidden.layer0"].weight.shape == (6, 2)
    assert layers(found.models["compact"])["hidden.layer0"].weight.shape == (6 - len(ZEROED), 2)


def test_what_cannot_be_smaller_says_so(trained: Trained) -> None:
    whole = dataclasses.replace(trained, model=cost.filled(trained.model))
    found = cost.networks(whole)
    assert list(found.models) == ["dense", "masked"]
    assert any("no channel, unit or branch can be removed" in note for note in found.notes)
    dead = cost.filled(trained.model)
    for name in ("weight", "bias"):
        dead.get_parameter(f"hidden.layer1.{name}").data.zero_()
    found = cost.networks(dataclasses.replace(trained, model=dead))
    assert list(found.models) == ["dense", "masked"]
    assert any("the same for every input" in note for note in found.notes)


def test_a_batch_repeats_the_samples_that_there_are(trained: Trained) -> None:
    x = trained.data.val.x
    assert torch.equal(cost.batch(trained, 3), x[:3])
    assert torch.equal(cost.batch(trained, 2 * len(x) + 1), torch.cat([x, x, x[:1]]))
    with pytest.raises(UserError, match=r"^batch_size: 0 is below 1$"):
        cost.batch(trained, 0)
