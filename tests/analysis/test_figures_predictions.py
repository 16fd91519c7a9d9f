"""Figures that run networks again: their numbers are those of the network and its data."""

import json
from pathlib import Path

import altair
import pytest
import torch

from regx.analysis.figures import figures, read_runs
from regx.analysis.figures.study import CannotDraw
from regx.cli.main import main
from regx.training import trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("runs")
    for seed in "12":
        typed = ["--depth", "3", "--width", "8", "--epochs", "8", "--seed", seed, "--run-dir", str(found)]
        with pytest.raises(SystemExit) as stop:
            main(["rectangular", *typed, "--no-plots", "--wandb", "disabled", "--devices", "cpu"])
        assert stop.value.code == 0
    return found


def test_a_confusion_matrix_counts_the_test_rows(folder: Path) -> None:
    runs, base = read_runs([folder])
    (figure,) = figures(runs, base, "confusion")
    altair.Chart.from_dict(figure.spec) if "facet" not in figure.spec else altair.FacetChart.from_dict(figure.spec)
    for run in runs:
        again = trained.load(base / run.name, devices="cpu")
        test = again.data.test
        assert test is not None
        with torch.no_grad():
            predicted = (again.model(test.x).squeeze(1) > 0).long()
        rows = [row for row in figure.rows if row["panel"] == f"seed {run.seed}"]
        assert sum(row["count"] for row in rows) == len(test)
        right = sum(row["count"] for row in rows if row["true"] == row["predicted"])
        assert right / len(test) == pytest.approx(run.best["test/acc"]) == float((predicted == test.y).float().mean())


def test_a_surface_is_what_the_network_says_of_places(folder: Path) -> None:
    runs, base = read_runs([folder])
    (figure,) = figures(runs, base, "decision-surface")
    json.dumps(figure.spec)
    again = trained.load(base / runs[0].name, devices="cpu")
    rows = [r for r in figure.rows if r["panel"] == f"seed {runs[0].seed}"]
    cells = [row for row in rows if row["what"] == "cell"]
    centres = torch.tensor([[(r["left"] + r["right"]) / 2, (r["bottom"] + r["top"]) / 2] for r in cells])
    with torch.no_grad():
        p = again.model(centres).squeeze(1).sigmoid()
    sure = torch.tensor([row["sure"] for row in cells])
    torch.testing.assert_close(torch.maximum(p, 1 - p), sure, atol=2e-3, rtol=0)
    assert len(rows) - len(cells) == 200


def test_what_cannot_be_run_again_is_said(folder: Path) -> None:
    runs, base = read_runs([folder])
    assert {figure.name for figure in figures(runs, base)}.isdisjoint({"confusion", "decision-surface"})
    with pytest.raises(CannotDraw, match="8 runs are too many to run again; give at most 6"):
        figures(runs * 4, base, "confusion")
