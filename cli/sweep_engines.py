"""`--engine` of `regx sweep run`: how and where trials are carried out, and what each of them needs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regx.cli import output
from regx.cli.sweep_progress import duration
from regx.errors import UserError, did_you_mean
from regx.sweeps.programs import Planner

if TYPE_CHECKING:
    from regx.sweeps.engines import Engine

# How this machine trains, and the clusters, which train run by run.
HERE = ("auto", "single", "vectorised", "native")
ENGINES = (*HERE, "ray", "slurm")
# Another word for single.
LOCAL = "local"
# What `--slurm` takes beside options of sbatch.
OWN = {"partition": str, "minutes": int, "memory": float, "cluster": str}
# What `regx sweep plan` says of them.
NOTES = {
    "single": "run after run",
    "vectorised": "the runs of a program in one batch",
    "native": "the runs of a program in compiled code",
    "ray": "one run per worker of Ray at a time",
    "slurm": "one run per job",
}
# Jobs that wait in SLURM's queue at a time, where nobody says how many.
JOBS = 100

PANEL = "Where"
Workers = Annotated[
    str,
    typer.Option(
        "--workers",
        metavar="N|auto",
        help="Runs (or programs of runs) at a time; auto is one per GPU or CPU core, what fits into a Ray cluster, or "
        "100 jobs of SLURM.",
        rich_help_panel=PANEL,
    ),
]
Gpus = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="0,1,2+3",
        help="GPUs of this machine's workers in turn; 2+3 gives one two.",
        rich_help_panel=PANEL,
    ),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="|".join(ENGINES),
        help="On this machine: single (or local) trains run after run; vectorised trains runs that are alike together, "
        "as programs of up to 64; native does so in compiled code; auto takes the fastest that can. Elsewhere, run by "
        "run: a Ray cluster (needs regx\\[ray]) or SLURM (needs regx\\[slurm]).",
        autocompletion=lambda incomplete: [name for name in ENGINES if name.startswith(incomplete)],
        rich_help_panel=PANEL,
    ),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Of a running Ray cluster; without it, Ray starts here.", rich_help_panel=PANEL),
]
Each = Annotated[
    list[str] | None,
    typer.Option(
        "--each", metavar="cpus=N|gpus=N", help="What every run needs on Ray and SLURM.", rich_help_panel=PANEL
    ),
]
Slurm = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        metavar="OPTION=VALUE",
        help="For jobs of SLURM: partition, minutes (60), memory (GB), and any option of sbatch, as account=me.",
        rich_help_panel=PANEL,
    ),
]


@dataclass(frozen=True)
class Place:
    """Where a sweep is carried out, checked but not yet begun.

    Attributes:
        engine: one of `ENGINES`.
        workers: a number, or `auto`.
        gpus: of workers of this machine.
        address: of a Ray cluster.
        each: cpus and gpus of a run.
        slurm: options of jobs.
    """

    engine: str = "auto"
    workers: str = "auto"
    gpus: tuple[str, ...] = ()
    address: str | None = None
    each: tuple[tuple[str, float], ...] = ()
    slurm: tuple[tuple[str, str], ...] = ()

    def planner(self) -> Planner:
        """Puts the trials together."""
        return Planner(self.engine if self.engine in HERE else None)

    def count(self) -> int:
        """How many workers there are to be, but for GPUs and for what fits into a cluster."""
        several = JOBS if self.engine == "slurm" else os.cpu_count() or 1
        return several if self.workers == "auto" else int(self.workers)


def place(
    engine: str,
    workers: str,
    gpus: str | None,
    address: str | None = None,
    each: list[str] | None = None,
    slurm: list[str] | None = None,
) -> Place:
    """What a command line asks for.

    Raises:
        UserError: an engine that does not exist, a number that is none, or an option of another engine.
    """
    if engine not in (*ENGINES, LOCAL):
        near = did_you_mean(engine, (*ENGINES, LOCAL))
        raise UserError(f"{engine!r} is not among {', '.join(ENGINES)}{near}", "engine")
    engine = "single" if engine == LOCAL else engine
    if workers != "auto" and (not workers.isdigit() or int(workers) < 1):
        raise UserError(f"{workers!r} is neither a number of at least 1 nor auto", "workers")
    for option, value, owners in (
        ("gpus", gpus, HERE),
        ("address", address, ("ray",)),
        ("each", each, ("ray", "slurm")),
        ("slurm", slurm, ("slurm",)),
    ):
        if value and engine not in owners:
            raise UserError(f"is for --engine {' or '.join(owners)}, not {engine}", option)
    needs = []
    for key, value in _pairs(each, "each"):
        if key not in ("cpus", "gpus"):
            raise UserError(f"{key!r} is neither cpus nor gpus", "each")
        number = _number(value, "each")
        if engine == "slurm" and not number.is_integer():
            raise UserError(f"{key}={value}: SLURM gives whole {key}", "each")
        if key == "cpus" and not number:
            raise UserError("a run needs a core, or a part of one", "each")
        needs.append((key, number))
    pairs = _pairs(slurm, "slurm")
    for key, value in pairs:
        if key in ("minutes", "memory"):
            number = _number(value, "slurm")
            if key == "minutes" and (not number.is_integer() or not number):
                raise UserError(f"minutes={value}: write a whole number of at least 1", "slurm")
    listed = tuple(part for part in (gpus or "").split(",") if part)
    for part in listed:
        if not re.fullmatch(r"(\d+|(GPU|MIG)-[\w/-]+)(\+(\d+|(GPU|MIG)-[\w/-]+))*", part):
            raise UserError(f"{part!r} is no number of a GPU; write 0,1 or, for two at once, 0+1", "gpus")
    return Place(engine, workers, listed, address, tuple(needs), tuple(pairs))


def start(where: Place, folder: Path, most: Callable[[int], int], gpus_of_a_run: int) -> Engine:
    """Starts the engine.

    Args:
        where: which, and how large.
        folder: of the sweep.
        most: number of workers -> programs that there are for them.
        gpus_of_a_run: how many GPUs a run takes on this machine.
    """
    count = None if where.workers == "auto" else int(where.workers)
    each: dict[str, Any] = dict(where.each)
    if where.engine == "ray":
        from regx.sweeps.engines.ray import RayEngine

        return RayEngine(where.address, count and min(count, most(count)), **each)
    if where.engine == "slurm":
        from regx.sweeps.engines.slurm import SlurmEngine

        own: dict[str, Any] = {key: OWN[key](value) for key, value in where.slurm if key in OWN}
        own["more"] = {key: value for key, value in where.slurm if key not in OWN}
        needs: dict[str, Any] = {key: int(value) for key, value in each.items()}
        return SlurmEngine(folder / ".slurm", min(where.count(), most(where.count())), **own, **needs)
    from regx.sweeps.engines.local import LocalEngine

    gpus = list(where.gpus) or visible_gpus(gpus_of_a_run)
    if where.gpus and not visible_gpus(1):
        raise UserError(f"{','.join(where.gpus)}: there is no GPU here", "gpus")
    count = count or len(gpus) or where.count()
    return LocalEngine(min(count, most(count)), gpus)


def visible_gpus(each: int) -> list[str]:
    """The GPUs of this machine that may be used, in groups of `each`, as `--gpus` spells them."""
    import torch

    count = torch.cuda.device_count()
    listed = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part][:count]
    names = listed or [str(number) for number in range(count)]
    return ["+".join(names[at : at + each]) for at in range(0, len(names) - each + 1, each)]


def print_programs(where: Place, found: dict[str, Any]) -> None:
    """Prints what `Planner.summary` has found: one row per engine, then why not all runs have the fastest.

    Args:
        where: what the command line asks for.
        found: of the trials that are missing.
    """
    rows = []
    for row in found["engines"]:
        few, many = row["smallest"], row["largest"]
        each = str(many) if few == many else f"{few} to {many}"
        note = NOTES[row["engine"] if where.engine in HERE else where.engine]
        rows.append([row["engine"], row["programs"], row["runs"], each, _rough(row["seconds"]), note])
    columns = ["engine", "programs", "runs", "runs per program", "time of one core", "note"]
    output.print_table(f"--engine {where.engine} would train", columns, rows)
    for reason, count in found["reasons"].items():
        print(f"{count} runs {reason}")
    if found["seconds"] is not None:
        print(f"together roughly {_rough(found['seconds'])} on {found['workers']} workers")


def _rough(seconds: float | None) -> str:
    return "unknown" if seconds is None else duration(max(1.0, seconds))


def _pairs(texts: list[str] | None, option: str) -> list[tuple[str, str]]:
    found = []
    for text in (part for given in texts or [] for part in given.split(",")):
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals and value):
            raise UserError(f"{text!r}: write OPTION=VALUE", option)
        found.append((key, value))
    return found


def _number(text: str, option: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if number < 0:
        raise UserError(f"{text!r} is not a number of at least 0", option)
    return number
