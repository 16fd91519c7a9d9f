"""`regx rectangular`: one deep network of equal layers, from the command line to a finished run folder."""

import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from regx.cli import options, output, progress
from regx.errors import RunFailed, UserError
from regx.training.config import RunConfig
from regx.training.experiments import RectangularConfig
from regx.training.options import OUTPUT

EPILOG = """Examples:

  regx rectangular --depth 50 --dataset moons --lambda 0.01

  regx rectangular --depth 50 --dataset breast_cancer --batchnorm

  regx rectangular --dataset my.csv --target label --skip-connections 2 --activation gelu

  regx rectangular --config runs/NAME/config.yaml --seed 1
"""


def _extra() -> list[inspect.Parameter]:
    def option(name: str, kind: Any, default: Any, *flags: str, **more: Any) -> inspect.Parameter:
        note = Annotated[kind, typer.Option(*flags, rich_help_panel=OUTPUT, **more)]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=note)

    return [
        option(
            "config",
            Path | None,
            None,
            "--config",
            metavar="FILE",
            help="Take options from this YAML file (a run folder's config.yaml repeats that run); typed options win.",
        ),
        option("dry_run", bool, False, "--dry-run", help="Print what would run and where, then stop."),
        option("print_config", bool, False, "--print-config", help="Print the whole configuration as YAML, then stop."),
        option("force", bool, False, "--force", help="Train again although the run folder is finished or half done."),
        option(
            "format",
            str,
            "table",
            "--format",
            "-f",
            metavar="table|json",
            help="How to print the result on stdout.",
            autocompletion=output.formats,
        ),
    ]


def add_to(app: typer.Typer) -> None:
    """Adds the command, with one option per field of its configuration."""

    def command(**typed: Any) -> None:
        run(RectangularConfig, typed)

    command.__doc__ = (
        "Train a deep network of equal layers and tell whether its units stay alive.\n\n"
        "Options of the Jumpstart regularizer act when --lambda is above 0. The same configuration always has the same "
        "run folder; a finished one is not trained again."
    )
    command.__signature__ = options.signature(RectangularConfig, _extra())  # type: ignore[attr-defined]
    command.__annotations__ = {name: p.annotation for name, p in command.__signature__.parameters.items()}  # type: ignore[attr-defined]
    app.command("rectangular", cls=options.Command, epilog=EPILOG, rich_help_panel="Run")(command)


def run(experiment: type[RunConfig], typed: dict[str, Any]) -> None:
    """Resolves the configuration and carries it out, or prints what it would do."""
    output.check_format(typed["format"])
    if typed["dry_run"] and typed["print_config"]:
        raise UserError("--dry-run and --print-config exclude each other")
    config = options.resolve(experiment, typed, typed["config"])
    if typed["print_config"]:
        output.print_config(config, typed["format"])
    elif typed["dry_run"]:
        output.print_plan(config, typed["format"])
    else:
        train(config, typed["format"], force=typed["force"])


def train(config: RunConfig, format: str, *, force: bool = False, folder: Path | None = None) -> None:
    """Trains and prints the result; exits with 130 after an interruption."""
    # PyTorch is imported only now, when something is really to be trained.
    with progress.waiting("loading PyTorch"):
        from regx.training import experiment
        from regx.training.folder import RunFolder

    with progress.observer() as observer:
        result = experiment.run(
            config, observer, argv=sys.argv, force=force, folder=RunFolder(folder) if folder else None
        )
    if result["status"] != "failed" or format == "json":
        output.print_result(result, format)
    if result["status"] == "failed":
        raise RunFailed(result["error"])
    if result["status"] == "interrupted":
        print(f"interrupted; continue with: regx resume {result['run_dir']}", file=sys.stderr)
        raise typer.Exit(130)
