"""A figure of what an epoch takes against the number of runs, depth, width and rows."""

from __future__ import annotations

import statistics
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from peers.regx_runs import engines
from peers.task import Setting
from peers.turns import LOOP, PROGRAM, VMAP, Entry, contenders

from regx.training.plots.style import CLASS_COLOURS, INK, LABEL, LEGEND, save, set_title, style_axes

ROWS, DEPTH, WIDTH, RUNS = 1000, 50, 4, 32
EPOCHS = 2  # of a turn
# What is varied -> its values; the others are as above. Half the memory of a small machine is enough for all.
PANELS = {
    "runs": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    "depth": (5, 10, 20, 50, 100),
    "width": (2, 4, 8, 16, 32, 64),
    "rows": (250, 1000, 4000, 16000),
}
TITLES = {
    "runs": "Number of runs",
    "depth": "Hidden layers",
    "width": "Units of a layer",
    "rows": "Rows, a quarter of them to validate",
}
COLOURS = {
    LOOP: CLASS_COLOURS[6],
    VMAP: CLASS_COLOURS[3],
    PROGRAM + "vectorised": CLASS_COLOURS[0],
    PROGRAM + "native": CLASS_COLOURS[1],
}


def draw(path: Path, device: str, rounds: int) -> None:
    """Measures and draws; prints every number.

    Args:
        path: of the PNG.
        device: where to train.
        rounds: turns of each, of which the median counts.
    """
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = dict(zip(PANELS, figure.subplots(2, 2, sharey=True).flat, strict=True))
    usual = {"rows": ROWS, "depth": DEPTH, "width": WIDTH, "runs": RUNS}
    for what, values in PANELS.items():
        found: dict[str, dict[int, float]] = {name: {} for name in COLOURS}
        for value in values:
            sizes = usual | {what: value}
            runs = sizes.pop("runs")
            times = _measure(Setting("moons", device=device, **sizes), runs, rounds)
            print(f"  {what} {value}: " + ", ".join(f"{n} {ms:.3g} ms" for n, ms in times.items()), flush=True)
            for name, milliseconds in times.items():
                found[name][value] = milliseconds
        _panel(panels[what], what, found)
    panels["runs"].legend(**LEGEND)
    save(figure, path)


def _measure(setting: Setting, runs: int, rounds: int) -> dict[str, float]:
    """Milliseconds of an epoch without validation, per run."""
    entries = [Entry(LOOP, 1), Entry(VMAP, runs)]
    entries += [Entry(PROGRAM + engine, runs) for engine in engines(setting.task())[0]]
    times: dict[str, list[float]] = {entry.title: [] for entry in entries}
    with contenders(setting, entries) as found:
        for _ in range(rounds):
            for contender in found:
                times[contender.entry.title].append(contender.seconds("bare", EPOCHS) / EPOCHS / contender.entry.runs)
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def _panel(axes: Axes, what: str, found: dict[str, dict[int, float]]) -> None:
    for name, points in found.items():
        axes.plot(
            list(points), list(points.values()), "o-", color=COLOURS[name], label=name, linewidth=1.6, markersize=4
        )
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(PANELS[what])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator())
    axes.minorticks_off()
    style_axes(axes, grid=True)
    kept = {"runs": f"{RUNS} runs", "depth": f"{DEPTH} layers", "width": f"{WIDTH} units", "rows": f"{ROWS} rows"}
    set_title(axes, ", ".join(text for name, text in kept.items() if name != what))
    axes.set_xlabel(TITLES[what], fontsize=LABEL, color=INK)
    axes.set_ylabel("Epoch of one run in ms", fontsize=LABEL, color=INK)
