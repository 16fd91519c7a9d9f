"""`regx compare`: the variants of a recipe, trained one after the other and shown side by side."""

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from regx.cli import experiments, options, output
from regx.errors import RunFailed, UserError
from regx.training import launch, recipes
from regx.training.config import RunConfig
from regx.training.experiments import ResNetConfig
from regx.training.options import OUTPUT, options_of

EPILOG = """Examples:

  regx compare group-l1 --data-dir data

  regx compare l0-gates --epochs 20 --subset 5000 --seed 1
"""

# Heading -> where a result has it.
COLUMNS = {
    "epoch": ("best", "epoch"),
    "val acc": ("best", "val/acc"),
    "test acc": ("test", "test/acc"),
    "dead": ("best", "val/jr/unit_dead_ratio"),
    "zeros": ("best", "sparsity/elements"),
    "zero units": ("best", "sparsity/units"),
    "parameters left": ("best", "sparsity/parameters_left"),
}


def add_to(app: typer.Typer) -> None:
    """Adds the command, with the options of `regx resnet`."""
    named = Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="Whose variants to train (`regx list recipes`).",
            autocompletion=lambda incomplete: [name for name in _with_variants() if name.startswith(incomplete)],
        ),
    ]
    variants = Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="NAME", help="Only this one; may be repeated.", rich_help_panel=OUTPUT),
    ]
    extra = [
        inspect.Parameter("recipe", inspect.Parameter.KEYWORD_ONLY, annotation=named),
        inspect.Parameter("variant", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=variants),
        experiments.extra("dry_run", bool, False, "--dry-run", help="Print what would run and where, then stop."),
        experiments.extra("force", bool, False, "--force", help="Train again what is finished or half done."),
        experiments.format_option(),
    ]
    options.add_command(
        app,
        "compare",
        ResNetConfig,
        run,
        "Train the variants of a recipe and show them side by side.\n\nTyped options win over the recipe's. Finished "
        "runs are not trained again, so an interrupted comparison goes on where it was.",
        EPILOG,
        extra,
    )


def run(typed: dict[str, Any]) -> None:
    """Trains the variants in turn; one that fails does not stop the others, and one that was interrupted goes on."""
    output.check_format(typed["format"])
    recipe = recipes.find(typed["recipe"])
    chosen = _chosen(recipe, typed["variant"] or [])
    _refuse_sameness(recipe, chosen, typed)
    configs: dict[str, RunConfig] = {}
    for name in chosen:
        base = recipe.options | recipe.variants[name]
        needed = next(
            (other for other in recipe.variants if base.get("pretrained") == recipes.CHECKPOINT % other), None
        )
        if needed:
            if needed not in configs:
                raise UserError(f"{name} begins with the weights of {needed}; add --variant {needed}", "variant")
            folder = Path(configs[needed].run_dir) / configs[needed].run_name()
            base = base | {"pretrained": str(folder / "checkpoints" / "best.pt")}
        configs[name] = options.resolve(ResNetConfig, typed, None, base)
    if typed["dry_run"]:
        for name, config in configs.items():
            if typed["format"] == "table":
                print(f"{recipe.name}: {name}")
            output.print_plan(config, typed["format"])
        return
    if launch.processes(next(iter(configs.values())).devices) > 1:
        raise UserError("a comparison trains on one device; use `regx resnet` for several", "devices")
    results = {}
    for name in configs:
        print(f"{recipe.name}: {name} ({len(results) + 1} of {len(configs)})", file=sys.stderr)
        config = dataclasses.replace(configs[name])  # anew: weights that it begins with may have come into being
        folder = Path(config.run_dir) / config.run_name()
        begun = (folder / "checkpoints" / "last.pt").is_file() and not typed["force"]
        try:
            results[name] = experiments.train(config, force=typed["force"], folder=folder if begun else None)
        except UserError as failure:
            results[name] = {"status": "failed", "error": str(failure)}
        if results[name]["status"] == "interrupted":
            break
    _print(recipe.name, results, typed["format"])
    if any(result["status"] == "interrupted" for result in results.values()):
        print("interrupted; the same command goes on", file=sys.stderr)
        raise typer.Exit(130)
    failed = [f"{name}: {result['error']}" for name, result in results.items() if result["status"] == "failed"]
    if failed:
        raise RunFailed("; ".join(failed))


def _refuse_sameness(recipe: recipes.Recipe, chosen: list[str], typed: dict[str, Any]) -> None:
    """Refuses a typed option that would make variants the same that differ in it."""
    for item in options_of(ResNetConfig):
        if typed.get(item.name) not in (None, []) and any(item.key in recipe.variants[name] for name in chosen):
            raise UserError(
                f"is what the variants of {recipe.name} differ in; use `regx resnet` for another", item.name
            )


def _with_variants() -> list[str]:
    return [recipe.name for recipe in recipes.RECIPES if recipe.variants]


def _chosen(recipe: recipes.Recipe, wanted: list[str]) -> list[str]:
    if not recipe.variants:
        raise UserError(f"{recipe.name} has no variants to compare; these have: {', '.join(_with_variants())}")
    for name in wanted:
        if name not in recipe.variants:
            raise UserError(f"{name!r} is no variant of {recipe.name}; known: {', '.join(recipe.variants)}", "variant")
    return [name for name in recipe.variants if name in wanted or not wanted]


def _print(title: str, results: dict[str, dict[str, Any]], format: str) -> None:
    if format == "json":
        from regx.training.folder import to_json

        print(to_json(results), end="")
        return
    shown = [
        heading
        for heading, (part, key) in COLUMNS.items()
        if any(result.get(part, {}).get(key) is not None for result in results.values())
    ]
    rows = []
    for name, result in results.items():
        cells = [_cell(heading, result.get(COLUMNS[heading][0], {}).get(COLUMNS[heading][1])) for heading in shown]
        rows.append([name if result["status"] == "finished" else f"{name} ({result['status']})", *cells])
    output.print_table(title, ["variant", *shown], rows)
    for name, result in results.items():
        if "run_dir" in result:
            print(f"{name}: {result['run_dir']}")


def _cell(heading: str, value: float | None) -> str:
    if value is None:
        return ""
    if heading in ("epoch", "parameters left"):
        return f"{value:,.0f}"
    return f"{value:.4f}" if "acc" in heading else f"{value:.1%}"
