"""`regx report` and `regx compare`: what came out, as one file to read or as a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regx.analysis import render
from regx.analysis.table import Table
from regx.cli import output, places
from regx.cli.places import RunDir
from regx.cli.sweep_arguments import ran
from regx.cli.sweep_results import made_of, runs_of, show, wanted
from regx.errors import UserError

if TYPE_CHECKING:
    from regx.analysis.report import Record

Force = Annotated[bool, typer.Option("--force", help="Replace a file that is no report of regx.")]


def report(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="SWEEP|FOLDER...",
            help="A sweep (its name, file or folder), or run folders and folders of run folders.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Default: report.html in the sweep's folder, or here."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="LABEL|P=V",
            help="What others are tested against (default: the sweep's own, the label Baseline, or lambda=0).",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Heading (default: the sweep's name).")] = None,
    run_dir: RunDir = Path("runs"),
    force: Force = False,
) -> None:
    """Write one HTML file about a sweep or some runs: the answer, warnings, statistics, tables, figures, every run.

    It needs no server and no network: open it, mail it, print it.
    """
    from regx.analysis.report import Asked, of_folders, of_sweep, page_of, write

    if len(paths) == 1 and places.is_sweep(paths[0], run_dir):
        sweep, folder = ran(paths[0], run_dir)
        notes = sweep.sidecar
        asked = Asked(title or sweep.name, notes.summary, notes.description, notes.source, notes.budget, sweep.method)
        out = _free(out or folder / "report.html", force)
        found = runs_of(sweep, folder)
        made, failed = made_of(sweep, found, wanted(sweep, baseline=baseline))
        yet = "" if all(run.finished for run in found) else "not yet: "
        missing = [f"{name}: {yet}{error.message}" for name, error in failed.items()]
        page = page_of(asked, of_sweep(found, folder), made, missing=missing, baseline=baseline or notes.baseline)
    else:
        out = _free(out or Path("report.html"), force)
        records = of_folders([places.folder(path, run_dir) for path in paths])
        asked = Asked(title or (records[0].run.name if len(records) == 1 else f"{len(records)} runs"))
        page = page_of(asked, records, baseline=baseline)
    print(f"{out} ({_size(write(page, out))})")


def compare(
    one: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, called A.")],
    other: Annotated[str, typer.Argument(metavar="RUN", help="Folder of another run, called B.")],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write it as one page, with the curves.")
    ] = None,
    run_dir: RunDir = Path("runs"),
    force: Force = False,
    format: Annotated[
        str,
        typer.Option("--format", "-f", metavar="table|json", help="How to print.", autocompletion=output.formats),
    ] = "table",
) -> None:
    """Compare two runs: the options that differ, networks, metrics, status and cost side by side."""
    from regx.analysis.report import NAMES, comparison, of_folders, page_of_two, remarks, write

    output.check_format(format)
    folders = [places.folder(text, run_dir) for text in (one, other)]
    for path in folders:
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path} is no run folder: it has no config.yaml; `regx report {path}` takes runs within")
    records = of_folders(folders)
    if len(records) < 2:
        raise UserError(f"{one} and {other} are the same run; name another one")
    target = None if html is None else _free(html, force, "html")
    made, said = comparison(*records), remarks(*records)
    if target is not None:  # before anything is printed: whoever reads that may close the pipe
        size = write(page_of_two(*records), target)
        print(f"{target} ({_size(size)})", file=sys.stderr)
    if format == "json":
        listed = [json.loads(render.to_json(table)) for table in made]
        named = {name: str(record.folder) for name, record in zip(NAMES, records, strict=True)}
        print(json.dumps({"runs": named, "remarks": said, "tables": listed}, indent=2))
    else:
        _print(records, made, said)


def _print(records: Sequence[Record], made: Sequence[Table], said: Sequence[str]) -> None:
    for name, record in zip("AB", records, strict=True):
        print(f"{name}: {record.folder} ({record.run.status})")
    for table in made:
        print()
        show(table)
    print()
    for text in said:
        print(f"* {text}")


def _free(path: Path, force: bool, option: str = "out") -> Path:
    """A file that may be written: none is there, or a report, or whatever there is shall be replaced.

    Raises:
        UserError: something else is there.
    """
    from regx.analysis.report import is_report

    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it, such as {path / 'report.html'}", option)
    if path.is_file() and not force and not is_report(path):
        raise UserError(f"{path} is there and no report of regx; choose another file, or --force replaces it", option)
    return path


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"
