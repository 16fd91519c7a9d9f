"""The check of a compact network against the masked one, on the run's own validation samples."""

import copy

import pytest
import torch
from torch import Tensor, nn

from regx.analysis import compacting
from regx.errors import RunFailed
from regx.training.trained import Trained, load
from tests.analysis.trained_by_hand import trained_run, zero_units


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    run = trained_run(tmp_path_factory.mktemp("runs"))
    zero_units(run)
    return load(run, devices="cpu")


class Sometimes(nn.Module):
    """Returns no number for samples on one side, unlike the network."""

    def __init__(self, model: nn.Module, value: float) -> None:
        super().__init__()
        self.model, self.value = model, value

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, :1] > 0, self.value, self.model(x))


def test_an_output_that_is_no_number_is_a_difference(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(model: nn.Module, x: Tensor) -> compacting.Compact:
        return compacting.Compact(Sometimes(model, float("nan")), [])

    monkeypatch.setattr(compacting, "compact", spoilt)
    with pytest.raises(RunFailed, match="differs by nan"):
        compacting.compact_run(trained)


def test_a_large_network_is_compared_on_some_samples_spread_evenly(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    val = trained.data.val
    macs = compacting.compact_run(trained, check=False).sizes["trained"].macs
    monkeypatch.setattr(compacting, "WORK", 7 * macs)
    monkeypatch.setattr(compacting, "LEAST", 1)
    found = compacting.compact_run(trained).check
    assert found is not None and (found.rows, found.of) == (7, len(val))
    rows = [number * len(val) // 7 for number in range(7)]
    x, y = val.x[rows], val.y[rows].flatten()
    with torch.no_grad():
        right = float((trained.predict(trained.model(x)).flatten() == y).double().mean())
    assert found.metrics["compact"]["val/acc"] == pytest.approx(right)
    assert found.agreement == 1.0


def test_all_samples_are_compared_where_that_is_cheap(trained: Trained) -> None:
    """The trained network is another than the masked one only where something was zeroed for this."""
    found = compacting.compact_run(trained).check
    assert found is not None and found.rows == found.of == len(trained.data.val)
    assert found.metrics["trained"] == found.metrics["masked"] == trained.evaluate(trained.data.val, "val")
    before = copy.deepcopy(trained.model.state_dict())
    norms = trained.model.get_parameter("hidden.layer1.weight").detach().norm(dim=1)
    other = compacting.compact_run(trained, threshold=float(norms[norms > 0].min())).check
    assert other is not None and other.metrics["trained"] == found.metrics["trained"]
    assert other.metrics["masked"] != other.metrics["trained"]
    assert other.metrics["compact"]["val/loss"] == pytest.approx(other.metrics["masked"]["val/loss"], rel=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in trained.model.state_dict().items())
