"""`regx rectangular` and `regx resnet`: one network, from the command line to a finished run folder."""

import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from regx.cli import options, output, progress
from regx.errors import RunFailed, UserError
from regx.training import launch, recipes
from regx.training.config import RunConfig
from regx.training.experiments import RectangularConfig, ResNetConfig, read
from regx.training.options import DATA, MODEL, OPTIMISATION, OUTPUT, options_of

RECTANGULAR = """Examples:

  regx rectangular --depth 50 --dataset moons --lambda 0.01

  regx rectangular --depth 50 --dataset breast_cancer --batchnorm

  regx rectangular --dataset my.csv --target label --skip-connections 2 --activation gelu

  regx rectangular --config runs/NAME/config.yaml --seed 1
"""


RESNET = """Examples:

  regx resnet --depth 18 --dataset cifar10 --augment crop --augment flip

  regx resnet --depth 50 --dataset path/to/images --no-batchnorm --no-skip-connections --lambda 1e-5

  regx resnet --recipe torchvision-v1 --depth 50 --devices 8 --amp bf16 --data-dir /data

  torchrun --nnodes 4 --nproc-per-node 8 ... -m regx resnet --recipe torchvision-v1 --data-dir /data
"""


def _extra(*more: inspect.Parameter) -> list[inspect.Parameter]:
    return [
        *more,
        extra(
            "config",
            Path | None,
            None,
            "--config",
            metavar="FILE",
            help="Take options from this YAML file (a run folder's config.yaml repeats that run); typed options win.",
        ),
        extra(
            "from_",
            Path | None,
            None,
            "--from",
            metavar="RUN",
            help="Begin with what this run, or `regx compact`, has left: its weights, and its options of model, data "
            "and optimisation as defaults. Regularizers are not taken over.",
        ),
        extra("dry_run", bool, False, "--dry-run", help="Print what would run and where, then stop."),
        extra("print_config", bool, False, "--print-config", help="Print the whole configuration as YAML, then stop."),
        extra("force", bool, False, "--force", help="Train again although the run folder is finished or half done."),
        format_option(),
    ]


def extra(name: str, kind: Any, default: Any, *flags: str, **more: Any) -> inspect.Parameter:
    """An option of a command that is none of its configuration."""
    note = Annotated[kind, typer.Option(*flags, rich_help_panel=OUTPUT, **more)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=note)


def format_option() -> inspect.Parameter:
    """`--format`."""
    text = "How to print the result on stdout."
    more: dict[str, Any] = {"metavar": "table|json", "autocompletion": output.formats}
    return extra("format", str, "table", "--format", "-f", help=text, **more)


def recipe_option() -> inspect.Parameter:
    """`--recipe`."""
    return extra(
        "recipe",
        str | None,
        None,
        "--recipe",
        metavar="NAME",
        help="Begin with these published options (`regx list recipes`); those of a file and typed ones win.",
        autocompletion=lambda incomplete: [name for name in recipes.REGISTRY.rows if name.startswith(incomplete)],
    )


def add_to(app: typer.Typer) -> None:
    """Adds the commands, with one option per field of their configuration."""
    same = "The same configuration always has the same run folder; a finished one is not trained again."
    options.add_command(
        app,
        "rectangular",
        RectangularConfig,
        lambda typed: run(RectangularConfig, typed),
        "Train a deep network of equal layers and tell whether its units stay alive.\n\n"
        f"Options of the Jumpstart regularizer act when --lambda is above 0. {same}",
        RECTANGULAR,
        _extra(),
    )
    options.add_command(
        app,
        "resnet",
        ResNetConfig,
        lambda typed: run(ResNetConfig, typed),
        "Train a residual network, or another one, on images.\n\n"
        f"With or without batch normalization and skip connections, on one device or many. {same}",
        RESNET,
        _extra(recipe_option()),
    )


def run(experiment: type[RunConfig], typed: dict[str, Any]) -> None:
    """Resolves the configuration and carries it out, or prints what it would do."""
    output.check_format(typed["format"])
    if typed["dry_run"] and typed["print_config"]:
        raise UserError("--dry-run and --print-config exclude each other")
    base = recipes.find(typed["recipe"]).options if typed.get("recipe") else {}
    base |= _continued(experiment, typed)
    config = options.resolve(experiment, typed, typed["config"], base)
    if typed["print_config"]:
        output.print_config(config, typed["format"])
    elif typed["dry_run"]:
        output.print_plan(config, typed["format"])
    else:
        carry_out(config, typed["format"], force=typed["force"])


def _continued(experiment: type[RunConfig], typed: dict[str, Any]) -> dict[str, Any]:
    """The options that --from begins with."""
    folder: Path | None = typed.get("from_")
    if folder is None:
        return {}
    if typed.get("pretrained"):
        raise UserError("--pretrained and --from exclude each other", "from")
    folder = folder.parent.parent if folder.is_file() and folder.parent.name == "checkpoints" else folder
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is no run folder: it has no config.yaml", "from")
    if not (folder / "checkpoints" / "best.pt").is_file():
        raise UserError(f"{folder} has no checkpoints/best.pt; `regx resume {folder}` finishes the run", "from")
    config = read(folder / "config.yaml")
    kind = config.get("experiment")
    if kind != experiment.experiment:
        raise UserError(f"{folder} is of regx {kind}; use `regx {kind} --from {folder}`", "from")
    taken = {item.key for item in options_of(experiment) if item.panel in (MODEL, DATA, OPTIMISATION)}
    values = {key: value for key, value in config.items() if key in taken}
    # The split must stay: what validated is not to be trained on.
    seed = config.get("seed") if config.get("data_seed") is None else config["data_seed"]
    return values | {"data_seed": seed, "pretrained": str(folder)}


def carry_out(config: RunConfig, format: str, *, force: bool = False, folder: Path | None = None) -> None:
    """Trains, in as many processes as the configuration asks for, and prints the result."""
    count = launch.processes(config.devices)
    if count == 1:
        finish(train(config, force=force, folder=folder), format)
        return
    with progress.waiting("loading PyTorch"):
        from regx.training import build
    build.find_device(config.devices)
    if "-" in sys.argv:
        raise UserError("- is read once, but several processes need it; give a file", "config")
    raise typer.Exit(launch.launch(sys.argv[1:], count))


def train(config: RunConfig, *, force: bool = False, folder: Path | None = None) -> dict[str, Any]:
    """Trains and returns the result."""
    # PyTorch is imported only now, when something is really to be trained.
    with progress.waiting("loading PyTorch"):
        from regx.training import experiment
        from regx.training.folder import RunFolder

    with progress.observer() as observer:
        return experiment.run(
            config, observer, argv=sys.argv, force=force, folder=RunFolder(folder) if folder else None
        )


def finish(result: dict[str, Any], format: str) -> None:
    """Prints a result; exits with 1 after a failure and with 130 after an interruption."""
    if result["status"] == "follows":  # the first of several processes prints
        return
    if result["status"] != "failed" or format == "json":
        output.print_result(result, format)
    if result["status"] == "failed":
        raise RunFailed(result["error"])
    if result["status"] == "interrupted":
        print(f"interrupted; continue with: regx resume {result['run_dir']}", file=sys.stderr)
        raise typer.Exit(130)
