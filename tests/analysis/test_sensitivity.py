"""Sensitivity: what is zeroed against loops, every number against an evaluation by hand, and going on after a stop."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from regx.analysis import sensitivity, sensitivity_figure
from regx.analysis.sensitivity import Request, Zeroed, read_levels, scan
from regx.errors import RunFailed, UserError
from regx.training.folder import RunFolder
from regx.training.trained import Trained, load
from tests.analysis.trained_by_hand import trained_run, zero_units

LEVELS = (0.0, 0.25, 0.5, 0.75)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def trained(run: Path) -> Trained:
    return load(run, devices="cpu")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0:0.95:0.05", [k / 20 for k in range(20)]),
        ("0:0.9:0.3", [0, 0.3, 0.6, 0.9]),
        ("0.2:1:0.5", [0, 0.2, 0.7]),
        ("0.5", [0, 0.5]),
        ("0.9,0,0.5,0.5", [0, 0.5, 0.9]),
    ],
)
def test_levels(text: str, wanted: list[float]) -> None:
    assert read_levels(text) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "text", ["", "a", "0:1", "0:1:0", "0:1:-1", "1:0:0.1", "0:1.5:0.5", "-0.1", "2", "nan", "0:1:1e-9"]
)
def test_what_is_no_levels(text: str) -> None:
    with pytest.raises(UserError, match=r"^levels: .* is no first:last:step"):
        read_levels(text)


def obvious(weight: np.ndarray, structure: str, level: float, groups: int = 1) -> np.ndarray:
    """The same with loops: groups as lists of positions, the smallest sums first."""
    places: dict[Any, list[tuple[int, ...]]] = {}
    for place in np.ndindex(*weight.shape):
        block = place[0] // (weight.shape[0] // groups)  # of a grouped convolution
        key = {"elements": place, "filters": place[0], "channels": (block, place[1])}[structure]
        places.setdefault(key, []).append(place)
    order = sorted(places, key=lambda key: sum(abs(float(weight[place])) for place in places[key]))
    result = weight.copy()
    for key in order[: int(level * len(order) + 1e-6)]:
        for place in places[key]:
            result[place] = 0
    return result


@pytest.mark.parametrize("structure", ["elements", "filters", "channels"])
@pytest.mark.parametrize(
    "layer", [nn.Linear(5, 7), nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3, groups=2), nn.Conv1d(3, 5, 2)]
)
def test_what_is_zeroed_is_what_loops_say(layer: Any, structure: str) -> None:
    (found,) = sensitivity.weights(nn.Sequential(layer), Request(structure))
    before = layer.weight.detach().clone()
    zeroed = Zeroed(*found)
    for level in (0, 0.1, 0.5, 0.6, 1):
        count = zeroed.count(level)
        with zeroed.without(count):
            after = layer.weight.detach().numpy().copy()
        wanted = obvious(before.numpy(), structure, level, getattr(layer, "groups", 1))
        np.testing.assert_array_equal(after, wanted)
        assert zeroed.share(count) == pytest.approx((wanted == 0).mean())
        assert torch.equal(layer.weight, before)


def accuracy(trained: Trained, weights: dict[str, torch.Tensor], rows: list[int] | slice = slice(None)) -> float:
    """Of validation rows, without the code that evaluates runs."""
    with torch.no_grad():
        out = torch.func.functional_call(trained.model, weights, trained.data.val.x[rows])
    return ((out[:, 0] > 0) == trained.data.val.y[rows]).double().mean().item()


@pytest.mark.parametrize("structure", ["elements", "filters", "channels"])
def test_every_row_is_what_an_evaluation_by_hand_gives(trained: Trained, tmp_path: Path, structure: str) -> None:
    before = {name: parameter.detach().clone() for name, parameter in trained.model.named_parameters()}
    table = scan(trained, Request(structure, LEVELS), tmp_path)
    names = ["hidden.layer0.weight", "hidden.layer1.weight", "head.weight"]
    assert [(row["parameter"], row["sparsity"]) for row in table.rows] == [(n, s) for n in names for s in LEVELS]
    for row in table.rows:
        zeroed = obvious(before[row["parameter"]].numpy(), structure, row["sparsity"])
        own = accuracy(trained, {row["parameter"]: torch.from_numpy(zeroed)})
        assert row["val/acc"] == pytest.approx(own)
        assert row["zeroed"] == pytest.approx((zeroed == 0).mean())
    assert len({row["val/acc"] for row in table.rows}) > 2
    assert all(torch.equal(parameter, before[name]) for name, parameter in trained.model.named_parameters())
    with (tmp_path / f"{structure}-val.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == ["parameter", "sparsity", "zeroed", "val/loss", "val/acc"]
    assert [float(row["val/loss"]) for row in written] == [row["val/loss"] for row in table.rows]


def test_nothing_zeroed_is_the_run(trained: Trained, tmp_path: Path) -> None:
    table = scan(trained, Request(levels=LEVELS), tmp_path)
    result = RunFolder(trained.folder).read_result()
    assert result is not None
    dense = [row for row in table.rows if row["sparsity"] == 0]
    assert len(dense) == 3
    for row in dense:
        assert row["val/acc"] == result["best"]["val/acc"] == sensitivity.own(trained, "val/acc")
        assert row["val/loss"] == pytest.approx(result["best"]["val/loss"], rel=1e-6)


def test_the_test_rows_are_measured_on_request_alone(trained: Trained, tmp_path: Path) -> None:
    asked: list[str] = []
    evaluate = trained.evaluate
    trained.evaluate = lambda split, stage, model=None: asked.append(stage) or evaluate(split, stage, model)  # type: ignore[method-assign]
    scan(trained, Request(levels=LEVELS), tmp_path)
    assert set(asked) == {"val"} and len(asked) == 1 + 3 * 3, "an untouched network is measured once"
    table = scan(trained, Request(levels=LEVELS, stage="test"), tmp_path)
    result = RunFolder(trained.folder).read_result()
    assert result is not None and table.rows[0]["test/acc"] == pytest.approx(result["test"]["test/acc"])
    assert table.path.name == "elements-test.csv"


def test_a_subset_is_spread_over_the_rows(trained: Trained, tmp_path: Path) -> None:
    table = scan(trained, Request(levels=LEVELS, subset=7), tmp_path)
    rows = [k * len(trained.data.val) // 7 for k in range(7)]
    assert table.rows[0]["val/acc"] == pytest.approx(accuracy(trained, {}, rows))
    assert table.path.name == "elements-val-7.csv"


def test_a_stopped_scan_goes_on_where_it_was(trained: Trained, tmp_path: Path) -> None:
    whole = scan(trained, Request(levels=LEVELS), tmp_path / "whole")
    file = tmp_path / "part" / "elements-val.csv"

    def stop(done: int, total: int, parameter: str) -> None:
        assert total == 12
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(trained, Request(levels=LEVELS), file.parent, stop)
    assert file.read_text() == "".join(whole.path.read_text().splitlines(keepends=True)[:7])
    file.write_text(file.read_text()[:-5])  # killed within a line
    asked = []
    evaluate = trained.evaluate
    trained.evaluate = lambda *arguments: asked.append(arguments) or evaluate(*arguments)  # type: ignore[method-assign]
    again = scan(trained, Request(levels=LEVELS), file.parent)
    assert file.read_text() == whole.path.read_text()
    assert (again.known, again.rows) == (5, whole.rows)
    assert len(asked) == 12 - 5 - 1, "the dense network and what was there are not measured again"
    # More levels and fewer layers: only what is missing is measured, and the rest stays.
    more = scan(trained, Request(levels=(0.0, 0.9), layers=("head",)), file.parent)
    assert len(asked) == 7 and len(more.rows) == 13
    assert [row["sparsity"] for row in more.rows if row["parameter"] == "head.weight"] == [*LEVELS, 0.9]


def test_rows_of_other_weights_are_refused(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "runs", epochs=2)
    table = scan(load(run, devices="cpu"), Request(levels=LEVELS), tmp_path)
    zero_units(run)
    with pytest.raises(UserError, match=r"^out: .*elements-val\.csv is of other weights or data"):
        scan(load(run, devices="cpu"), Request(levels=LEVELS), tmp_path)
    table.path.write_text("parameter,sparsity\nhead.weight,much\n")
    with pytest.raises(RunFailed, match="is damaged; delete it"):
        scan(load(run, devices="cpu"), Request(levels=LEVELS), tmp_path)
    assert set(json.loads(table.path.with_suffix(".json").read_text())) >= {"sha256", "structure", "stage", "subset"}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("element"), r"^structure: 'element' cannot be zeroed; did you mean 'elements'\?$"),
        (Request(layers=("hidden.layer9",)), r"^layers: 'hidden.layer9' matches no weight"),
        (Request(subset=1000), r"^subset: 1000 is not within 1 and the 24 rows of val$"),
        (Request(subset=0), r"^subset: 0 is not within"),
    ],
)
def test_requests_that_do_not_fit(trained: Trained, tmp_path: Path, request_: Request, message: str) -> None:
    with pytest.raises(UserError, match=message):
        scan(trained, request_, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def rows_by_hand(layers: int) -> list[dict[str, Any]]:
    """Layer k loses 0.9 (1 - k / layers) at its end, in a straight line."""
    return [
        {"parameter": f"layer{k}.weight", "sparsity": s, "zeroed": s, "val/acc": 0.95 - s * (1 - k / layers)}
        for k in range(layers)
        for s in (0.0, 0.2, 0.4, 0.6, 0.8)
    ]


def test_the_most_sensitive_are_those_that_lose_most_at_half() -> None:
    rows = rows_by_hand(4)[::-1]
    found = sensitivity.losses(sorted(rows, key=lambda row: (row["parameter"], row["sparsity"])))
    assert [row["parameter"] for row in found] == [f"layer{k}.weight" for k in range(4)]
    assert [row["lost"] for row in found] == pytest.approx([0.4 * (1 - k / 4) for k in range(4)])
    assert {row["zeroed"] for row in found} == {0.4}


@pytest.mark.parametrize("layers", [1, 50])
def test_figure_names_the_most_sensitive_without_overlap(tmp_path: Path, layers: int) -> None:
    rows = rows_by_hand(layers)
    axes = sensitivity_figure.figure(rows, "elements", title="a $run").axes[0]
    labels = [text for text in axes.texts if text.get_text().startswith("layer")]
    assert {label.get_text() for label in labels} == {f"layer{k}.weight" for k in range(min(layers, 5))}
    heights = sorted(label.xy[1] for label in labels)  # type: ignore[attr-defined]
    assert heights[0] >= 0 and heights[-1] < 1
    assert all(high - low > 0.05 for low, high in itertools.pairwise(heights))
    curves = [line for line in axes.lines if len(line.get_xdata()) == 5]  # type: ignore[arg-type]
    assert len(curves) == layers
    files = sensitivity_figure.draw(rows, "elements", tmp_path / "x.png")
    assert [file.name for file in files] == ["x.png", "x.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG") and b"<svg" in files[1].read_bytes()
