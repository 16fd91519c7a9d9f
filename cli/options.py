"""Turns an experiment's configuration class into the options of a command."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from regx.data import REGISTRY as DATASETS
from regx.errors import UserError
from regx.training import experiments
from regx.training.config import RunConfig
from regx.training.options import Option, options_of

# Spellings of earlier Jumpstart scripts; underscores are accepted everywhere, so they are written with hyphens here.
ALIASES = {
    "--lambda-": "--lambda",
    "--use-batchnorm": "--batchnorm",
    "--dropout-rate": "--dropout",
    "--gpus": "--devices",
    "--use-loss": "--task-loss",
    "--num-workers": "--workers",
    "--use-skip-connections": "--skip-connections",
    "--use-compile": "--compile",
    "--float32-matmul-precision": "--matmul",
    "--plot-status-epoch-freq": "--plot-every",
    "--use-flattening": "--head=flatten",
    "--plot-num-points": "--plot-points",
    "--plot-epoch-freq": "--plot-every",
    "--jr-mode": "--mode",
    "--lr-scheduler": "--lr-schedule",
    "--log-jr-metrics": "--log-status",
    "--gradient-clip-val": "--grad-clip",
}
VALUES = {("init", "glorot"): "xavier"}
WORDS = {"true": True, "false": False}


def modern(args: list[str], flags: set[str]) -> list[str]:
    """Rewrites earlier spellings to today's: `--use_batchnorm=True` to `--batchnorm`, `--batch_size None` to `full`.

    Args:
        args: what was typed after the command's name.
        flags: the command's yes/no options, which take no value.

    Raises:
        UserError: a yes/no option with another value.
    """
    result = []
    queue = list(args)
    while queue:
        token = queue.pop(0)
        if token == "--":
            return [*result, token, *queue]
        if not token.startswith("--"):
            result.append(token)
            continue
        name, equals, value = token.partition("=")
        name = name.replace("_", "-")
        name = ALIASES.get(name, name)
        is_flag = name in flags or name == "--head=flatten"
        if is_flag and not equals and queue and queue[0].lower() in WORDS:
            equals, value = "=", queue.pop(0)
        if is_flag and equals:
            if value.lower() not in WORDS:
                raise UserError(f"{name}={value}: is a yes/no option; use {name} or --no-{name[2:]}")
            on = WORDS[value.lower()]
            if name == "--head=flatten":
                result += [name] if on else []
            else:
                result.append(name if on else f"--no-{name[2:]}")
        elif not is_flag and not equals and queue and queue[0] == "None":
            result += [f"{name}={queue.pop(0)}"]
        else:
            result.append(f"{name}={value}" if equals else name)
    return result


class Command(typer.core.TyperCommand):
    """A command that also takes the spellings of earlier scripts."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        flags = {name for item in self.params if getattr(item, "is_flag", False) for name in item.opts}
        return super().parse_args(ctx, modern(args, flags))


def signature(config: type[RunConfig], extra: list[inspect.Parameter]) -> inspect.Signature:
    """The command's signature: one option per field of `config`, all None until typed, and `extra` after them."""
    fields = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[_type(item), _typer_option(item)],
        )
        for item in options_of(config)
    ]
    return inspect.Signature([*fields, *extra])


def _type(item: Option) -> Any:
    return bool | None if item.type == "bool" else list[str] | None if item.type == "list" else str | None


def _typer_option(item: Option) -> Any:
    return typer.Option(
        f"{item.flag}/--no-{item.flag[2:]}" if item.type == "bool" else item.flag,
        help=_help(item),
        rich_help_panel=item.panel,
        show_default=False,
        metavar="" if item.type == "bool" else _metavar(item),
        autocompletion=_completion(item),
    )


def _help(item: Option) -> str:
    text = item.help.replace("[", "\\[")
    if item.choices and not _short(item.choices):
        text += f" One of {', '.join(item.choices)}."
    if item.bounds:
        text += f" ({item.bounds})"
    if item.type == "bool":
        default = "yes" if item.default or item.means else "no"
    else:
        default = item.means if item.default is None else item.default
        default = ", ".join(default) if isinstance(default, list) else default
    return text if default in (None, "") else f"{text} [dim]\\[default: {default}][/dim]"


def _short(choices: tuple[str, ...]) -> bool:
    return len("|".join(choices)) < 36


def _metavar(item: Option) -> str:
    if item.choices and _short(item.choices):
        return "|".join(item.choices)
    return {"int": "N", "float": "X", "str": "TEXT", "list": "TEXT"}[item.type] + "".join(
        f"|{word}" for word in item.words
    )


def _completion(item: Option) -> Callable[[str], list[str]] | None:
    known = tuple(DATASETS.rows) if item.name == "dataset" else item.choices or item.words
    if not known:
        return None
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]


def add_command(
    app: typer.Typer,
    name: str,
    config: type[RunConfig],
    call: Callable[[dict[str, Any]], None],
    help: str,
    epilog: str,
    extra: list[inspect.Parameter],
) -> None:
    """Adds a command that has one option per field of `config` and hands on what was typed."""

    def command(**typed: Any) -> None:
        call(typed)

    command.__doc__ = help
    command.__signature__ = signature(config, extra)  # type: ignore[attr-defined]
    command.__annotations__ = {name: p.annotation for name, p in command.__signature__.parameters.items()}  # type: ignore[attr-defined]
    app.command(name, cls=Command, epilog=epilog, rich_help_panel="Run")(command)


def resolve(
    config: type[RunConfig], typed: dict[str, Any], file: Path | None, base: dict[str, Any] | None = None
) -> RunConfig:
    """The configuration: defaults, then `base` (a recipe), then the file, then what was typed.

    Raises:
        UserError: an unknown key or an illegal value.
    """
    values = (base or {}) | (experiments.read(file) if file else {})
    for item in options_of(config):
        value = typed.get(item.name)
        if value is None or value == []:
            continue
        if value == "None" and item.name == "batch_size":
            value = "full"
        if value == "None" and not item.optional:
            value = item.default
        values[item.key] = VALUES.get((item.key, value), value) if isinstance(value, str) else value
    return experiments.from_dict(values, config.experiment)
