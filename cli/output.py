"""What goes to stdout: results, tables, plans; rich is imported when something is printed."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from regx.errors import UserError, did_you_mean
from regx.registry import Info
from regx.training.config import RunConfig
from regx.training.options import options_of

FORMATS = ("table", "json")


def formats(incomplete: str) -> list[str]:
    """Completion of --format."""
    return [name for name in FORMATS if name.startswith(incomplete)]


def check_format(format: str) -> None:
    """Raises `UserError` for a format that does not exist."""
    if format not in FORMATS:
        raise UserError(f"{format!r} is not among table, json{did_you_mean(format, FORMATS)}", "format")


def _console() -> Any:
    from rich.console import Console

    # In a pipe nobody should lose columns to a width of 80.
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def print_numbers(title: str, columns: list[str], rows: list[list[str]], names: int) -> None:
    """Prints a table of which nothing may be cut: one that is too wide in several parts, each with the first columns.

    Args:
        title: above the table.
        columns: headings; a long one is broken after its last slash.
        rows: a text for each column.
        names: how many columns say what a row is; every part has them.
    """
    headings = [re.sub(r"/(?=[^/]{8,}$)", "/\n", column) for column in columns]
    widths = [
        max(len(text) for text in [*headings[index].split("\n"), *(row[index] for row in rows)]) + 3
        for index in range(len(columns))
    ]
    room = _console().width - sum(widths[:names])
    part: list[int] = []
    parts = [part]
    for index in range(names, len(columns)):
        if part and sum(widths[other] for other in [*part, index]) > room:
            part = []
            parts.append(part)
        part.append(index)
    for number, part in enumerate(parts):
        kept = [*range(names), *part]
        shown = [[row[index] for index in kept] for row in rows]
        more = f" ({number + 1} of {len(parts)})" if len(parts) > 1 else ""
        print_table(title + more, [headings[index] for index in kept], shown)


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Prints a table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[index], int | float) or row[index] in (None, "") for row in rows)
        table.add_column(
            column, no_wrap=index == 0, style="cyan" if index == 0 else "", justify="right" if numbers else "left"
        )
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    console = _console()
    console.print(title, style="bold", markup=False, soft_wrap=True)  # as a title of the table it would be as narrow
    console.print(table)


def _text(cell: Any) -> str:
    from rich.markup import escape

    return "" if cell is None else escape(str(cell))


def print_info(kind: str, info: Info) -> None:
    """Prints a row of a registry in full."""
    console = _console()
    console.print(f"[bold cyan]{info.name}[/]  ({kind})\n")
    console.print(_reflowed(info.description.partition("\nArgs:\n")[0].rstrip()), markup=False)
    facts = {key.replace("_", " "): value for key, value in info.facts.items()}
    facts = {"formula": info.formula} | facts | {"source": info.source, "example": info.example}
    facts = {key: value for key, value in facts.items() if value not in (None, "")}
    if facts:
        console.print()
    for key, value in facts.items():
        console.print(f"[bold]{key}[/]: {_text(value)}")
    if info.parameters:
        console.print()
        rows = [[p.name, p.default, p.allowed(), p.help] for p in info.parameters]
        print_table("parameters", ["name", "default", "allowed", "help"], rows)


def _reflowed(text: str) -> str:
    """Paragraphs as single lines, which the terminal wraps at its own width; code and formulas stay as they are."""
    parts = text.split("\n\n")
    return "\n\n".join(part if re.search(r"^[ |*]", part, re.MULTILINE) else " ".join(part.split()) for part in parts)


def print_config(config: RunConfig, format: str) -> None:
    """Prints the whole configuration."""
    print(
        json.dumps(config.as_dict(), indent=2) if format == "json" else config.as_yaml(),
        end="" if format == "table" else "\n",
    )


def print_plan(config: RunConfig, format: str) -> None:
    """Prints what would run, without running it."""
    path = Path(config.run_dir) / config.run_name()
    state = (
        "finished" if (path / "result.json").is_file() else "unfinished" if (path / "config.yaml").is_file() else "new"
    )
    if format == "json":
        print(
            json.dumps(
                {"runs": 1, "run_dir": str(path), "state": state, "hash": config.hash(), "config": config.as_dict()},
                indent=2,
            )
        )
        return
    changed = [
        [o.flag, getattr(config, o.name), o.means if o.default is None else o.default]
        for o in options_of(type(config))
        if not config.is_default(o)
    ]
    if changed:
        print_table("options that differ from their defaults", ["option", "value", "default"], changed)
    print(f"would train 1 run in {path} ({state})")


def print_result(result: dict[str, Any], format: str) -> None:
    """Prints the outcome of a run: `result.json` itself, or a table for people."""
    if format == "json":
        from regx.training.folder import to_json

        print(to_json(result), end="")
        return
    best, last, test = result["best"], result["last"], result["test"]
    metric = result["monitor"].partition("/")[2]
    name = {"acc": "accuracy", "r2": "R2"}[metric]
    shown = [
        ("epoch", "epoch", "{:.0f}"),
        (f"validation {name}", f"val/{metric}", "{:.4f}"),
        (f"training {name}", f"train/{metric}", "{:.4f}"),
        ("validation loss", "val/loss", "{:.4f}"),
        ("Jumpstart loss (training)", "train/JR_loss", "{:.4f}"),
        ("dead units (validation)", "val/jr/unit_dead_ratio", "{:.1%}"),
        ("linear units (validation)", "val/jr/unit_linear_ratio", "{:.1%}"),
        ("points dead in some layer", "val/jr/point_dead_ratio", "{:.1%}"),
    ]
    rows = [
        [label, *(form.format(row[key]) if row.get(key) is not None else "" for row in (best, last))]
        for label, key, form in shown
        if key in best
    ]
    rows += [
        [f"{key.partition('/')[2].replace('_', ' ')}{' that are zero' if share else ''}", *cells]
        for key, share in _sparsity_keys(best)
        for cells in [
            [(f"{row[key]:.1%}" if share else f"{row[key]:,.0f}") if key in row else "" for row in (best, last)]
        ]
    ]
    if test:
        rows.insert(2, [f"test {name}", f"{test[f'test/{metric}']:.4f}", ""])
    if best:
        print_table(ended(result), ["", "best epoch", "last epoch"], rows)
    print(verdict(result))
    print(f"results: {result['run_dir']}")
    if "wandb" in result:
        print(f"upload:  {result['wandb']}")


def _sparsity_keys(row: dict[str, float]) -> list[tuple[str, bool]]:
    """Keys of exact zeros that are worth a line, and whether each is a share."""
    shares = [f"sparsity/{unit}" for unit in ("elements", "kernels", "filters", "channels", "units", "gates")]
    left = ["sparsity/parameters_left", "sparsity/macs_left"]
    return [*((key, True) for key in shares if key in row), *((key, False) for key in left if key in row)]


def verdict(result: dict[str, Any]) -> str:
    """One sentence: did the network train, and is it alive?

    It trained when its best validation metric beats a constant guess by more than luck would: three standard errors of
    an accuracy, and at least 0.05.
    """
    best = result["best"]
    if not best:
        return "no epoch was completed"
    if result.get("config", {}).get("fast_dev_run"):
        return "one step, one validation and one test went well"
    metric = result["monitor"]
    value, chance = best[metric], result["chance"]
    accuracy = metric.endswith("acc")
    luck = 3 * math.sqrt(chance * (1 - chance) / result["rows"]["val"]) if accuracy else 0.0
    text = f"validation {'accuracy' if accuracy else 'R2'} {value:.3f}, a constant guess has {chance:.3f}"
    dead = best.get("val/jr/unit_dead_ratio")
    if dead is not None and not math.isnan(dead):
        text += f"; {dead:.0%} of the units are dead"
    learned = "trained" if value > chance + max(0.05, luck) else "did not train"
    return f"{'so far' if result['status'] == 'interrupted' else learned}: {text}"


def ended(result: dict[str, Any]) -> str:
    """How far the run came, and why it ended."""
    config, metric = result["config"], result["monitor"]
    why = {
        "stop_at": f", as {metric} reached {config['stop_at']}",
        "patience": f", as {metric} was no better for {config['patience']} logged epochs",
    }.get(result["ended"], "")
    return f"{result['status']} after {result['epochs']} of {config['epochs']} epochs{why}, {result['seconds']:.0f} s"
