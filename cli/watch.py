"""`regx watch`: a view of a sweep, or of some runs, while others train them."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from regx.cli import output, places
from regx.cli.places import RunDir
from regx.cli.sweep_arguments import ran
from regx.cli.sweep_progress import duration
from regx.cli.watch_runs import Frame, OfSweep, Runs
from regx.errors import UserError

# Lines of a frame above and below its tables, and of a table besides its rows; of one that is not drawn on a screen.
ABOVE, AROUND, PRINTED = 5, 3, 60
LEADERS, FAILURES = 5, 3
# How wide a bar is at most, and what stands beside it.
BAR, TIMES = 60, 46
LEAST_EVERY = 0.1
# A column that is cut keeps so many letters.
LEAST_CUT = 12


def watch(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="SWEEP|FOLDER...",
            help="A sweep (its name, file or folder), or run folders, or a folder of run folders.",
        ),
    ],
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", help="How often to look.")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print how things stand and exit, as where stdout is no terminal.")
    ] = False,
    run_dir: RunDir = Path("runs"),
    format: Annotated[
        str,
        typer.Option(
            "--format", "-f", metavar="table|json", help="json prints one frame.", autocompletion=output.formats
        ),
    ] = "table",
) -> None:
    """Watch a sweep or runs: how far each is, the best so far, what failed, how long it takes.

    It reads run folders alone: start it any time, on any machine that sees them.

    Ctrl-C ends the view, never a run. It ends by itself when the sweep is over, or when nobody is at work on it.
    """
    output.check_format(format)
    if not every >= LEAST_EVERY:
        raise UserError(f"{every:g} is not at least {LEAST_EVERY}", "every")
    watched = _found(what, run_dir)
    frame = watched.look()
    if format == "json":
        from regx.training.folder import to_json

        print(to_json(dataclasses.asdict(frame)), end="")
        return
    if not once and sys.stdout.isatty():
        try:
            frame = _show(watched, frame, every)
        except KeyboardInterrupt:  # to leave a view is no failure
            return
    _print(frame)


def _found(texts: list[str], run_dir: Path) -> Runs:
    """What is meant: a sweep; or run folders and what is in folders of them, as paths or as names in `run_dir`."""
    if len(texts) == 1 and places.is_sweep(texts[0], run_dir):
        _, folder = ran(texts[0], run_dir)
        return OfSweep(folder, texts[0])
    found = {run.resolve(): run for text in texts for run in places.runs_in(places.folder(text, run_dir))}
    return Runs(list(found.values()))


def _show(watched: Runs, frame: Frame, every: float) -> Frame:
    """Draws until it is over; returns the last frame."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(drawn(frame, console.width, console.height), refresh=True)
            if frame.over:
                return frame
            time.sleep(every)
            frame = watched.look()


def _print(frame: Frame) -> None:
    from rich.console import Console

    # In a pipe nobody should lose what a line ends with.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(drawn(frame, console.width, PRINTED))


def drawn(frame: Frame, width: int, height: int) -> Any:
    """A frame as rich draws it, no higher than the terminal."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    counts = dict(frame.counts)
    total = counts.pop("total")
    title = Text(f"{frame.name}  ", style="bold", overflow="ellipsis", no_wrap=True)
    told = {"done": f"{counts.pop('done')}/{total}"} | {key: str(count) for key, count in counts.items() if count}
    timed = {"elapsed": duration(frame.elapsed)} | ({} if frame.left is None else {"left about": duration(frame.left)})
    bar = Table.grid(padding=(0, 2))
    done = frame.counts["done"] + frame.counts["failed"]
    bar.add_row(ProgressBar(max(1, total), done, width=max(LEAST_CUT, min(BAR, width - TIMES))), _facts(timed))
    parts: list[Any] = [title, _facts(told), bar]
    metric = frame.metric
    most = [len(frame.running), min(LEADERS, len(frame.leaders)), min(FAILURES, len(frame.failed))]
    running, leaders, failures = shares(height - ABOVE - AROUND * sum(map(bool, most)), most)
    if frame.running:
        columns = ["running", "epoch", metric, "best", "time"]
        rows = [
            [
                row["run"],
                f"{row['epoch']}/{row['epochs']}" if row["epoch"] else "starting",
                _number(row["value"]),
                _number(row["best"]),
                _time(row),
            ]
            for row in frame.running
        ]
        parts += ["", _table(columns, rows, running, width)]
    if frame.leaders:
        rows = [
            [
                " ".join(f"{key}={value}" for key, value in row["what"].items()) or frame.name,
                f"{row['n']}/{row['of']}",
                _number(row["mean"]) + (f" ± {_number(row['std'])}" if row["std"] is not None else ""),
            ]
            for row in frame.leaders
        ]
        parts += ["", _table(["best so far", "n", metric], rows, leaders, width)]
    if frame.failed:
        rows = [[row["run"], row["why"]] for row in frame.failed]
        parts += ["", _table(["failed", "why"], rows, failures, width, cut=1)]
    if frame.over and counts.get("to do"):
        parts += ["", Text(f"nobody is at work on the other {counts['to do']}", style="yellow")]
    return Group(*parts)


def shares(room: int, most: list[int]) -> list[int]:
    """Deals lines out one by one, to each no more than it can use, and to each that can use any at least one."""
    found = [min(1, wanted) for wanted in most]
    while sum(found) < min(room, sum(most)):
        for place, wanted in enumerate(most):
            found[place] += found[place] < wanted and sum(found) < room
    return found


def _table(columns: list[str], rows: list[list[str]], most: int, width: int, cut: int = 0) -> Any:
    """The first rows, one line each; what is too wide is cut in one column."""
    from rich.table import Table
    from rich.text import Text

    shown = rows[:most]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    widths = [max(len(cell) for cell in cells) + 2 for cells in zip(columns, *shown, strict=True)]
    room = width - sum(widths) + widths[cut]
    for place, column in enumerate(columns):
        limit = max(LEAST_CUT, room - 2) if place == cut else None
        table.add_column(column, no_wrap=True, overflow="ellipsis", max_width=limit, style="cyan" if place == 0 else "")
    for row in shown:
        table.add_row(*(Text(cell) for cell in row))
    if len(rows) > most:
        table.add_row(Text(f"and {len(rows) - most} more", style="dim"))
    return table


def _facts(facts: dict[str, str]) -> Any:
    from rich.text import Text

    text = Text(no_wrap=True, overflow="ellipsis")
    for key, value in facts.items():
        text.append(f"{key} ", style="dim").append(f"{value}   ", style="red" if key == "failed" else "")
    text.rstrip()
    return text


def _time(row: dict[str, Any]) -> str:
    if row["silent"] is not None:
        return f"silent for {duration(row['silent'])}"
    return "" if row["seconds"] is None else duration(row["seconds"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"
