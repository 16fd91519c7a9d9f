"""Draws what `regx sweep run collapse` has found, for the README: `python docs/collapse.py runs/collapse`."""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from regx.analysis import runs as found
from regx.training.plots.style import DPI, INK, LABEL, LEGEND, SMALL, TITLE, save, style_axes

PICTURE = Path(__file__).resolve().with_suffix(".png")
BEST, LAST = "#b5b5b5", "#0072b2"
SHIFT = 0.19


def draw(runs: list[found.Run]) -> Figure:
    """Every seed a point: accuracy at the best and at the last epoch, and dead units at the last one."""
    rates = sorted({run.setting("lr") for run in runs})
    strengths = sorted({run.setting("lambda") for run in runs})
    figure = Figure(figsize=(9.5, 5.2), dpi=DPI, layout="constrained")
    panels = figure.subplots(2, len(rates), sharex=True, sharey="row", height_ratios=[1.5, 1], squeeze=False)
    dice = np.random.default_rng(0)
    for (upper, lower), rate in zip(panels.T, rates, strict=True):
        for place, strength in enumerate(strengths):
            mine = [run for run in runs if (run.setting("lr"), run.setting("lambda")) == (rate, strength)]
            rows = [(run.best, BEST, -SHIFT, "best epoch (by validation)") for run in mine]
            rows += [(run.last, LAST, SHIFT, "last epoch") for run in mine]
            for row, colour, shift, name in rows:
                label = name if row is rows[0][0] or row is rows[len(mine)][0] else None
                x = place + shift + dice.uniform(-0.13, 0.13)
                upper.plot(x, row["val/acc"], "o", ms=3.2, mew=0, alpha=0.75, color=colour, label=label)
            good = sum(run.last["val/acc"] >= 0.95 for run in mine)
            upper.annotate(f"{good}/{len(mine)}", (place + SHIFT, 1.03), ha="center", fontsize=SMALL, color=LAST)
            dead = [run.last["val/jr/unit_dead_ratio"] for run in mine]
            at = place + dice.uniform(-0.2, 0.2, len(dead))
            lower.plot(at, dead, "o", ms=3.2, mew=0, alpha=0.75, color="#db5e56")
        upper.set_title(f"learning rate {rate:g}", fontsize=TITLE, color=INK, loc="left", pad=8)
        upper.set_ylim(0.4, 1.08)
        lower.set_ylim(-0.03, 0.85)
        lower.set_xticks(range(len(strengths)), [f"{strength:g}" for strength in strengths])
        lower.set_xlabel("lambda", fontsize=LABEL, color=INK)
        for axes in (upper, lower):
            style_axes(axes, grid=True)
            axes.grid(axis="x", visible=False)
    panels[0, 0].set_ylabel("validation accuracy", fontsize=LABEL, color=INK)
    panels[1, 0].set_ylabel("dead units, last epoch", fontsize=LABEL, color=INK)
    handles, names = panels[0, 0].get_legend_handles_labels()
    once = dict(zip(names, handles, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=2, **LEGEND)
    return figure


if __name__ == "__main__":
    save(draw([run for run in found.read(Path(sys.argv[1])) if run.finished]), PICTURE)
    print(f"wrote {PICTURE}")
