"""`regx wandb`: mirror runs that have ended to Weights & Biases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from regx.errors import RunFailed, UserError
from regx.sweeps import registry, wandb_form

app = typer.Typer(no_args_is_help=True, help="Mirror runs that have ended to Weights & Biases.")


@app.callback()
def root() -> None:
    """Mirror runs that have ended to Weights & Biases."""


@app.command()
def upload(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN...|SWEEP...", help="Run folders, or sweeps that were run.")
    ],
    project: Annotated[
        str | None, typer.Option("--project", help="W&B project (default: that of the sweep, else regx).")
    ] = None,
    entity: Annotated[
        str | None, typer.Option("--entity", help="W&B user or team (default: that of the sweep, else your own).")
    ] = None,
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Parent of the folders of sweeps.")] = Path("runs"),
) -> None:
    """Send finished and failed runs: configuration, rows, plots and test metrics, each run once.

    An upload that was cut off goes on where it was. Runs of a sweep that `regx sweep create` registered join it.
    """
    from regx.training.tracking.upload import upload as send

    sent = before = unfinished = 0
    for name in names:
        folders, path, group = _folders(name, run_dir)
        theirs, where, sweep = path.split("/") if path else (None, "regx", None)
        for folder in folders:
            if not (folder / "result.json").is_file() and len(folders) > 1:
                unfinished += 1
                continue
            done = send(folder, project=project or where, entity=entity or theirs, sweep=sweep, group=group, warn=_warn)
            sent, before = sent + done, before + (not done)
            if done:
                print(f"sent {folder}", file=sys.stderr, flush=True)
    rest = f", {unfinished} have not ended" if unfinished else ""
    print(f"{sent} runs sent, {before} were there before{rest}")


def _folders(name: str, run_dir: Path) -> tuple[list[Path], str | None, str | None]:
    """Run folders; the path on the server of the sweep that they belong to, and its name."""
    path = Path(name)
    if (path / "config.yaml").is_file():
        return [path], wandb_form.remembered(path.parent), None
    folder = path if (path / registry.KEPT).is_file() else run_dir / name
    if not (folder / registry.KEPT).is_file():
        raise UserError(f"{name} is neither a run folder nor a sweep that was run in {run_dir}")
    found = sorted(trial.parent for trial in folder.glob("*/trial.json"))
    if not found:
        raise RunFailed(f"{folder} has no runs")
    return found, wandb_form.remembered(folder), folder.name


def _warn(message: str) -> None:
    print(f"regx: warning: {message}", file=sys.stderr)
