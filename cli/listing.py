"""`regx list` and `regx show`: what there is, from the registries alone."""

import json
from typing import Annotated, Any

import typer

from regx.cli import output, sweep
from regx.data import AUGMENTATIONS
from regx.data import REGISTRY as DATASETS
from regx.errors import UserError, did_you_mean
from regx.models import REGISTRY as MODELS
from regx.registry import Info, Registry
from regx.regularizers import REGISTRY as REGULARIZERS
from regx.sweeps.registry import REGISTRY as SWEEPS
from regx.training.recipes import REGISTRY as RECIPES
from regx.training.schedules import REGISTRY as SCHEDULES

REGISTRIES: dict[str, Registry] = {
    "augmentations": AUGMENTATIONS,
    "datasets": DATASETS,
    "models": MODELS,
    "recipes": RECIPES,
    "regularizers": REGULARIZERS,
    "schedules": SCHEDULES,
}
Format = Annotated[
    str, typer.Option("--format", "-f", metavar="table|json", help="How to print.", autocompletion=output.formats)
]


def _kinds(incomplete: str) -> list[str]:
    return [kind for kind in [*REGISTRIES, "sweeps"] if kind.startswith(incomplete)]


def _names(incomplete: str) -> list[str]:
    return [name for registry in REGISTRIES.values() for name in registry.rows if name.startswith(incomplete)]


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[datasets|models|regularizers|...]", help="What to list.", autocompletion=_kinds),
    ] = None,
    format: Format = "table",
) -> None:
    """List datasets, augmentations, models, regularizers, learning-rate schedules and recipes; `sweeps` lists those."""
    output.check_format(format)
    if kind == "sweeps":  # files, which take longer to read than all else
        return sweep.list_(format)
    if kind is not None and kind not in REGISTRIES:
        raise UserError(f"there is no list of {kind!r}{did_you_mean(kind, [*REGISTRIES, 'sweeps'])}")
    chosen = {kind: REGISTRIES[kind]} if kind else REGISTRIES
    if format == "json":
        rows = {title: [_as_dict(info) for info in registry.rows.values()] for title, registry in chosen.items()}
        print(json.dumps(rows[kind] if kind else rows, indent=2))
        return
    for title, registry in chosen.items():
        rows = list(registry.rows.values())
        facts = list(dict.fromkeys(key for info in rows for key in info.facts))
        output.print_table(
            title,
            ["name", *facts, "summary"],
            [[info.name, *(info.facts.get(key, "") for key in facts), info.summary] for info in rows],
        )


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that `regx list` shows.", autocompletion=_names)],
    format: Format = "table",
) -> None:
    """Show one of them: what it is, its parameters with bounds, and where it comes from."""
    output.check_format(format)
    found = [(title, registry.rows[name]) for title, registry in REGISTRIES.items() if name in registry]
    if not found and name in SWEEPS.rows:
        found = [("sweeps", SWEEPS.rows[name])]
    if not found:
        near = did_you_mean(name, [*_names(""), *SWEEPS.rows])
        raise UserError(f"nothing is called {name!r}{near} (see `regx list`)")
    if format == "json":
        print(json.dumps([{"kind": title.removesuffix("s")} | _as_dict(info) for title, info in found], indent=2))
        return
    for title, info in found:
        output.print_info(title.removesuffix("s"), info)


def _as_dict(info: Info) -> dict[str, Any]:
    return {
        "name": info.name,
        "summary": info.summary,
        **info.facts,
        "formula": info.formula,
        "example": info.example,
        "source": info.source,
        "parameters": [
            {"name": p.name, "type": p.type, "default": p.default, "allowed": p.allowed(), "help": p.help}
            for p in info.parameters
        ],
    }
