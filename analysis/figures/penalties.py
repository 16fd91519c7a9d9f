"""Penalties over epochs, and what they consist of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from regx.analysis.figures.curves import figure, metric_curves, quantiles
from regx.analysis.figures.figure import Figure
from regx.analysis.figures.lines import Axis, lines
from regx.analysis.figures.study import CannotDraw, Study, rounded
from regx.analysis.runs import Run

if TYPE_CHECKING:
    import numpy as np

_CONSTRAINTS = {
    f"train/jr/{sign}_{of}_loss": f"{sign} {of}s" for of in ("unit", "point") for sign in ("positive", "negative")
}
# Fewer points than a learning curve has: there are several lines in each of several panels.
_MOST_ROWS, _MOST_PANELS = 1200, 6


def penalty_curves(study: Study) -> list[Figure]:
    """The penalty over epochs: unscaled where all runs have the same one, else all of them times their strengths."""
    own = {tuple(_penalties(study, run)) for run in study.runs}
    if not any(own):
        raise CannotDraw("no run has a penalty with a loss")
    if len(own) == 1 and len(key := own.pop()) == 1:
        return [metric_curves(study, f"train/{key[0]}", "penalty-curves")]

    def total(run: Run) -> np.ndarray | None:
        history = study.history(run)
        return history["train/total_loss"] - history["train/loss"] if _penalties(study, run) else None

    return [figure(study, total, "sum of the penalties times their strengths", "penalty-curves")]


def penalty_parts(study: Study) -> list[Figure]:
    """Parts of the penalty over epochs: several penalties beside the loss, or the four constraints of Jumpstart."""
    if len(study.epochs) < 2:
        raise CannotDraw("a curve needs two logged epochs")
    several = [run for run in study.runs if len(_scaled(study, run)) > 1]
    found = []
    if several:
        rows, names, note = _rows(study, several, lambda run: {"loss": "train/loss"} | _scaled(study, run))
        title = "Loss and penalties over epochs" + _of_one(study, names)
        caption = f"{study.over_seeds('Median')}training split; each penalty is times its strength.{note}"
        found.append(_figure("penalty-parts", title, "part of the loss", caption, rows, names))
    jumpstart = [run for run in study.runs if _shows_constraints(study, run)]
    if jumpstart:
        parts = {name: key for key, name in _CONSTRAINTS.items()}
        rows, names, note = _rows(study, jumpstart, lambda run: parts)
        caption = (
            f"Mean violation of each constraint, not times lambda: {study.over_seeds('median')}training split.{note}"
        )
        title = "Jumpstart's four constraints over epochs" + _of_one(study, names)
        found.append(_figure("penalty-parts-jumpstart", title, "mean violation", caption, rows, names))
    if not found:
        raise CannotDraw("no run has several penalties, or Jumpstart's constraints (--log-status)")
    return found


def _shows_constraints(study: Study, run: Run) -> bool:
    return "JR_loss" in _penalties(study, run) and set(_CONSTRAINTS) <= set(study.history(run))


def _penalties(study: Study, run: Run) -> list[str]:
    """Names of the run's penalties that have a loss."""
    history = study.history(run)
    others = ("loss", "total_loss")
    keys = [key.removeprefix("train/") for key in history if key.startswith("train/") and "/jr/" not in key]
    return [key for key in keys if "_loss" in key and key not in others and not key.startswith("scaled_")]


def _scaled(study: Study, run: Run) -> dict[str, str]:
    """Name of a penalty -> its column, times its strength."""
    keys = [f"train/scaled_{name}" for name in _penalties(study, run)]
    return {
        key.removeprefix("train/scaled_").replace("_loss", "").replace("JR", "Jumpstart"): key
        for key in keys
        if key in study.history(run)
    }


def _rows(study: Study, runs: list[Run], parts: Any) -> tuple[list[dict[str, Any]], list[str], str]:
    """Rows of the curves, panels, and a sentence where configurations are left out."""
    import numpy as np

    chosen, note = study.chosen(_MOST_PANELS, runs)
    rows: list[dict[str, Any]] = []
    count = sum(len(parts(item.runs[0])) for item in chosen)
    points = min(_MOST_ROWS // count, len(study.epochs))
    kept = np.unique(np.linspace(0, len(study.epochs) - 1, points).round().astype(int))
    for item in chosen:
        for part, key in parts(item.runs[0]).items():
            curves = [study.history(run)[key][kept] for run in item.runs if key in study.history(run)]
            for epoch, _, middle, _, seeds in zip(study.epochs[kept].tolist(), *quantiles(curves), strict=True):
                if seeds and math.isfinite(middle):
                    row = {"panel": item.name, "series": part, "epoch": epoch}
                    rows.append(row | {"median": rounded(middle), "runs": seeds})
    return rows, list(dict.fromkeys(row["panel"] for row in rows)), note


def _of_one(study: Study, names: list[str]) -> str:
    """Which configuration it is, where a single one of several has what is drawn."""
    return f": {names[0]}" if len(names) == 1 and len(study.configurations) > 1 else ""


def _figure(name: str, title: str, axis: str, caption: str, rows: list[dict[str, Any]], panels: list[str]) -> Figure:
    if not rows:
        raise CannotDraw("no part of the penalty has a finite value")
    series = list(dict.fromkeys(row["series"] for row in rows))
    caption = caption[0].upper() + caption[1:]
    spec = lines(rows, panels, series, Axis(axis, log=True), ordered=False, band=False)
    return Figure(name, title, caption, spec, rows)
