"""The kinds of figures by name, and which of them runs can give."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regx.analysis.figures.figure import Figure
from regx.analysis.figures.study import CannotDraw, Study
from regx.analysis.runs import Run
from regx.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Attributes:
        home: module and function that draws it, `comparison:heat_maps`.
        about: what it shows.
        compares: whether it needs several runs.
        asked: whether it is drawn only where it is asked for by name, as the networks have to be run again.
    """

    home: str
    about: str
    compares: bool = False
    asked: bool = False

    def draw(self, study: Study) -> list[Figure]:
        """The figures; raises `CannotDraw` where these runs do not hold what they show."""
        module, _, function = self.home.partition(":")
        return getattr(importlib.import_module(f"regx.analysis.figures.{module}"), function)(study)


# The most telling first.
KINDS = {
    "learning-curves": Kind("curves:learning_curves", "validation metric over epochs, seeds as a band"),
    "box-plots": Kind("comparison:box_plots", "metric per technique and per value of a parameter", compares=True),
    "heat-map": Kind("comparison:heat_maps", "metric over two numeric parameters", compares=True),
    "frontier": Kind("frontier:frontier", "metric against sparsity, parameters and multiply-adds left", compares=True),
    "status-layers": Kind("status:status_layers", "dead, linear and nonlinear units and points over layers"),
    "status-epochs": Kind("status:status_epochs", "dead, linear and nonlinear units and points over epochs"),
    "loss-curves": Kind("curves:loss_curves", "training and validation loss over epochs"),
    "penalty-curves": Kind("penalties:penalty_curves", "penalty over epochs"),
    "penalty-parts": Kind("penalties:penalty_parts", "parts of the penalty over epochs"),
    "sparsity-layers": Kind("weights:sparsity_layers", "zeros layer by layer"),
    "weight-sizes": Kind("weights:weight_sizes", "histogram of weights, exact zeros beside it"),
    "group-norms": Kind("weights:group_norms", "histogram of the norms of rows and filters"),
    "confusion": Kind("predictions:confusion", "which classes are taken for which", asked=True),
    "decision-surface": Kind("predictions:decision_surface", "what is decided where, of two inputs", asked=True),
    "gate-probabilities": Kind("gates:gate_probabilities", "L0 gates: how open, and how many closed"),
}


def check_kind(name: str) -> None:
    """Raises `UserError` for a kind that does not exist."""
    if name not in KINDS:
        near = did_you_mean(name, KINDS).replace("?", "")
        raise UserError(f"{name!r} is no kind of figure{near}; there are {', '.join(KINDS)}")


def figures(runs: Sequence[Run], folder: Path, kind: str | None = None, metric: str | None = None) -> list[Figure]:
    """Figures of runs.

    Args:
        runs: what to draw, one or many.
        folder: a run's folder is `folder / run.name`.
        kind: one of `KINDS`; without one, all that these runs can give.
        metric: what to judge runs by, in the place of their own metric.

    Raises:
        CannotDraw: these runs cannot give the kind that was asked for.
        UserError: no run has the metric.
        RunFailed: a file of a run is damaged.
    """
    study = Study(runs, folder, metric)
    if not study.runs:
        raise CannotDraw("there is no run to draw: none has ended or is under way")
    if metric is not None:
        known = dict.fromkeys([*study.columns(), *(key for run in study.runs for key in run.best)])
        if metric not in known:
            raise UserError(f"no run has {metric!r}{did_you_mean(metric, known)}", "metric")
    if kind is not None:
        check_kind(kind)
        if KINDS[kind].compares and len(study.runs) == 1:
            raise CannotDraw(f"{kind} compares runs, and this is one")
        return KINDS[kind].draw(study)
    found: list[Figure] = []
    for known in KINDS.values():
        if not known.asked and (not known.compares or len(study.runs) > 1):
            try:
                found += known.draw(study)
            except CannotDraw:
                continue
    return found
