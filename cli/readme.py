"""Writes the tables of README.md from the registries and the configuration: `python -m regx.cli.readme`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import re
from pathlib import Path

from regx.cli.listing import REGISTRIES
from regx.sweeps.registry import HERE as SHIPPED
from regx.sweeps.registry import REGISTRY as SWEEPS
from regx.training.config import RunConfig
from regx.training.experiments import EXPERIMENTS
from regx.training.options import options_of


def table(name: str) -> str:
    """The Markdown table called `name`: a registry (`datasets`) or an experiment's options (`rectangular options`)."""
    if name.endswith(" options"):
        return _options(EXPERIMENTS[name.removesuffix(" options")])
    infos = list((REGISTRIES | {"sweeps": SWEEPS})[name].rows.values())
    if name == "sweeps":  # and none of the writer's own
        infos = [info for info in infos if (SHIPPED / f"{info.name}.yaml").is_file()]
    facts = list(dict.fromkeys(key for info in infos for key in info.facts))
    rows = [[f"`{info.name}`", *(_cell(info.facts.get(key)) for key in facts), info.summary] for info in infos]
    return _markdown(["name", *(fact.replace("_", " ") for fact in facts), "what it is"], rows)


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _options(config: type[RunConfig]) -> str:
    """The options of an experiment; of all but the first, those that the first has not, or with another default."""
    first = next(iter(EXPERIMENTS.values()))
    told = () if config is first else options_of(first)
    listed = [option for option in options_of(config) if option not in told]
    parts = []
    panels = dict.fromkeys(option.panel for option in listed)
    for panel in panels:
        rows = []
        for option in listed:
            if option.panel == panel:
                flag = f"`{option.flag}`" if option.type != "bool" else f"`{option.flag}` / `--no-{option.flag[2:]}`"
                default = option.means if option.default is None else option.default
                if option.type == "bool":
                    default = "yes" if default else "no"
                shown = (
                    ""
                    if default is None or default == []
                    else ", ".join(default)
                    if isinstance(default, list)
                    else str(default)
                )
                allowed = option.allowed() if option.choices or option.bounds or option.words else ""
                rows.append([flag, shown, allowed, option.help])
        parts.append(f"**{panel}**\n\n" + _markdown(["option", "default", "allowed", "what it does"], rows))
    return "\n\n".join(parts)


def _markdown(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def updated(text: str) -> str:
    """The README with every table made anew."""
    return re.sub(
        r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->)",
        lambda match: f"{match.group(1)}\n{table(match.group(2))}\n\n{match.group(3)}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    readme = Path(__file__).resolve().parents[1] / "README.md"
    readme.write_text(updated(readme.read_text()))
