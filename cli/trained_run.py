"""What the commands after training have in common: which run, where its data is, and on which device."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regx.cli import progress
from regx.errors import UserError

if TYPE_CHECKING:
    from regx.training.trained import Trained

UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}

PathOfRun = Annotated[
    Path, typer.Argument(metavar="PATH", help="Run folder, a checkpoint in it, or a folder of `regx compact`.")
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="Folder of datasets, if it is no longer the run's.")
]
# Errors of training name it as `regx rectangular` does: --devices.
Device = Annotated[str, typer.Option("--device", "--devices", metavar="auto|cpu|cuda|cuda:N", help="Where to run.")]


def loaded(path: Path, data_dir: Path | None, device: str) -> Trained:
    """A trained network with its data.

    Raises:
        UserError: no such run or device.
        RunFailed: its checkpoint or data cannot be had.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"{device!r} is not auto, cpu, cuda or cuda:N", "device")
    with progress.waiting(f"loading {path}"):
        from regx.training.trained import load

        return load(path, data_dir=str(data_dir) if data_dir else None, devices=device)


def size_text(count: int) -> str:
    """Bytes with three digits, in powers of 1000."""
    unit = [name for name, size in UNITS.items() if count >= size or name == "B"][-1]
    return f"{count / UNITS[unit]:.3g} {unit}" if count < 999.5 * UNITS[unit] else f"{count / UNITS[unit]:.0f} {unit}"
