"""`regx resume`: continue a run that was interrupted or killed."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from regx.cli import experiments, output
from regx.errors import UserError


def resume(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN_FOLDER", help="Folder of the run, as printed when it started.")
    ],
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices",
            metavar="TEXT",
            help="Go on here instead of where it began: cpu, cuda:N, a number of GPUs, cpu:N.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="Go on by another engine, where this machine lacks the one it began with: single, vectorised, native.",
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format", "-f", metavar="table|json", help="How to print the result.", autocompletion=output.formats
        ),
    ] = "table",
) -> None:
    """Continue a run that was interrupted or killed; on the CPU it ends exactly as if nothing had happened."""
    from regx.training.folder import RunFolder

    output.check_format(format)
    if not folder.is_dir():
        raise UserError(f"no such run folder: {folder}")
    config = RunFolder(folder).read_config()
    if devices is not None:
        config = dataclasses.replace(config, devices=devices)
    if engine is not None:
        config = dataclasses.replace(config, engine=engine)
    experiments.carry_out(config, format, folder=folder)
