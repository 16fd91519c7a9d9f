"""`regx sensitivity`: what the network loses when one layer after the other loses its smallest weights."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regx.cli import output
from regx.cli.progress import LINE_EVERY
from regx.cli.trained_run import DataDir, Device, PathOfRun, loaded
from regx.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from regx.analysis.sensitivity import Row

EPILOG = """Examples:

  regx sensitivity runs/NAME

  regx sensitivity runs/NAME --structure filters --levels 0:0.9:0.1 --subset 2000

  regx sensitivity runs/NAME --layers "layer3.*" --layers fc --levels 0.5
"""

# Rows of the table that is printed.
SHOWN = 10


def sensitivity(
    path: PathOfRun,
    structure: Annotated[
        str,
        typer.Option(
            "--structure",
            "-s",
            metavar="elements|filters|channels",
            help="What is zeroed: single weights, all weights of an output, or all of an input, of a convolution or a "
            "linear layer.",
        ),
    ] = "elements",
    levels: Annotated[
        str,
        typer.Option("--levels", metavar="FIRST:LAST:STEP|X,Y", help="Shares to zero; 0 is always measured."),
    ] = "0:0.95:0.05",
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", metavar="GLOB", help="Only these layers or weights; may be given again."),
    ] = None,
    subset: Annotated[
        int | None, typer.Option("--subset", metavar="N", help="Measure on N rows, spread evenly (default: all).")
    ] = None,
    on: Annotated[
        str, typer.Option("--on", metavar="val|test", help="Measure on the validation rows or the test rows.")
    ] = "val",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write to (default: PATH's sensitivity).")
    ] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Zero more and more of one layer alone, the smallest first, and measure what the network loses; then the next.

    The smallest are those with the smallest sum of absolute values. Nothing is trained, and biases stay. Writes a CSV table, row by row, and a figure; after Ctrl-C the same command goes on where it stopped.
    """  # noqa: E501 (a broken line would be printed as one)
    if on not in ("val", "test"):
        raise UserError(f"{on!r} is not among val, test{did_you_mean(on, ('val', 'test'))}", "on")
    trained = loaded(path, data_dir, device)
    from regx.analysis import sensitivity as found
    from regx.analysis.sensitivity_figure import draw

    request = found.Request(structure, found.read_levels(levels), tuple(layers or ()), on, subset)  # type: ignore[arg-type]
    folder = out or trained.folder / "sensitivity"
    file = folder / f"{request.name}.csv"
    try:
        with _progress() as told:
            table = found.scan(trained, request, folder, told)
    except KeyboardInterrupt:
        print(f"interrupted; {file} has what is measured, and the same command goes on there", file=sys.stderr)
        raise typer.Exit(130) from None
    title = f"{trained.folder.resolve().name}: {structure}"
    pictures = draw(table.rows, structure, file.with_suffix(".png"), title=title)
    metric = found.metric_of(table.rows)
    _print(found.losses(table.rows), metric, structure)
    if subset is None:
        print(_beside(table.rows[0][metric], found.own(trained, metric), metric))
    if table.known:
        print(f"{table.known} of {len(table.rows)} rows were measured before")
    for name in (file, *pictures):
        print(name)


@contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal, else a line every ten seconds."""
    if not sys.stderr.isatty():
        printed = time.monotonic()

        def tell(done: int, total: int, parameter: str) -> None:
            nonlocal printed
            if time.monotonic() - printed >= LINE_EVERY:
                printed = time.monotonic()
                with suppress(BrokenPipeError):
                    print(f"{done}/{total}  {parameter}", file=sys.stderr, flush=True)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (MofNCompleteColumn(), BarColumn(bar_width=None), TextColumn("{task.description}", markup=False))
    with Progress(*columns, TimeRemainingColumn(compact=True), console=Console(stderr=True), expand=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, parameter: bar.update(task, completed=done, total=total, description=parameter)


def _print(rows: list[Row], metric: str, structure: str) -> None:
    shown = rows[:SHOWN]
    more = f" (the first {SHOWN} of {len(rows)} weights)" if len(rows) > SHOWN else ""
    output.print_table(
        f"most sensitive, where about half of the {structure} of one weight are zero{more}",
        ["weight", "zeroed", metric, "lost"],
        [[row["parameter"], f"{row['zeroed']:.1%}", f"{row[metric]:.4f}", f"{row['lost']: .4f}"] for row in shown],
    )


def _beside(measured: float, own: float | None, metric: str) -> str:
    if own is None:
        return f"nothing zeroed: {metric} {measured:.4f}"
    same = abs(measured - own) < 1e-6
    return f"nothing zeroed: {metric} {measured:.4f}, " + ("as in the run" if same else f"but the run had {own:.4f}")
