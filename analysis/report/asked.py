"""What was asked: the head of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from regx.analysis.configurations import row_names
from regx.analysis.report.records import Record
from regx.analysis.runs import identity
from regx.analysis.table import counted, plain
from regx.training.experiments import EXPERIMENTS
from regx.training.options import options_of

# A parameter with more values than this is told by its ends.
_LISTED = 12


@dataclass(frozen=True)
class Asked:
    """What a sweep's file says of itself.

    Attributes:
        title: of the report: the sweep's name.
        summary: one line.
        description: what it is for.
        source: where it was published.
        budget: how long it takes, as its file says.
        method: how configurations were chosen: grid, random, bayes.
    """

    title: str
    summary: str = ""
    description: str = ""
    source: str = ""
    budget: str = ""
    method: str = ""


@dataclass(frozen=True)
class Facts:
    """What the runs say of themselves.

    Attributes:
        varied: name of a parameter -> its values.
        fixed: options that all runs share and that are not their defaults.
        rows: fact -> text.
    """

    varied: dict[str, str]
    fixed: dict[str, str]
    rows: dict[str, str] = field(default_factory=dict)


def facts(asked: Asked, records: Sequence[Record]) -> Facts:
    """Gathers what stands at the head of a report."""
    runs = [record.run for record in records]
    names = row_names(runs, None)
    varied = {name: values_text([run.setting(name) for run in runs]) for name in names}
    states: dict[str, int] = {}
    for run in runs:
        states[run.status] = states.get(run.status, 0) + 1
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    trained = [record.seconds for record in records if record.seconds is not None]
    rows = {
        "Runs": f"{len(runs)} ({told})",
        "Seeds": _seeds(seeds),
        "Chosen by": asked.method,
        "Training time": f"{duration(sum(trained))} in all, {duration(sum(trained) / len(trained))} a run"
        if trained
        else "",
        "Budget": f"{asked.budget} (as the sweep's file says)" if asked.budget else "",
        "When (by the files)": _when(records),
        "Versions": _shared(records, lambda env: _versions(env)),
        "Commit": _shared(records, lambda env: env.get("commit") or ""),
        "Machine": _shared(records, lambda env: _machine(env)),
        "Source": asked.source,
    }
    return Facts(varied, _fixed(records, names), {key: text for key, text in rows.items() if text})


def _seeds(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} ({values_text(seeds)})" if len(seeds) > 1 else f"one: {seeds[0]}" if seeds else ""


def values_text(values: Sequence[Any]) -> str:
    """All different values, numbers in order; of many numbers, how many; of consecutive integers, the ends."""
    different = list({identity(value): value for value in values}.values())
    numbers = [value for value in different if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(different):
        shown = [shown_value(value) for value in different]
        more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
        return ", ".join(shown[:_LISTED]) + more
    numbers.sort()
    if len(numbers) > 3 and all(isinstance(n, int) for n in numbers) and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    if len(numbers) > _LISTED:
        return f"{counted(len(numbers), 'value')} from {numbers[0]:g} to {numbers[-1]:g}"
    return ", ".join(f"{number:g}" for number in numbers)


def shown_value(value: Any) -> str:
    """A value of an option as a person writes it."""
    cell = plain(value)
    return "none" if cell in (None, "") else f"{cell:g}" if isinstance(cell, float) else str(cell)


def setting_text(name: str, value: Any) -> str:
    """`lr 0.1`; of a label or a technique, itself."""
    return shown_value(value) if name in ("label", "technique") else f"{name} {shown_value(value)}"


def duration(seconds: float) -> str:
    """Seconds as `0.5 s`, `42 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def changed(config: dict[str, Any]) -> dict[str, str]:
    """The options that decide what is computed and are not their defaults."""
    kind = EXPERIMENTS.get(str(config.get("experiment")))
    if kind is None:
        return {}
    return {
        option.key: shown_value(config[option.key])
        for option in options_of(kind)
        if option.identity
        and option.key in config
        and identity(config[option.key]) != identity(option.means if option.default is None else option.default)
    }


def _fixed(records: Sequence[Record], varied: Sequence[str]) -> dict[str, str]:
    """The experiment, dataset and budget, and every other option that all runs share and that is not its default."""
    first = records[0].run.config
    known = {key: shown_value(first[key]) for key in ("experiment", "dataset", "epochs") if first.get(key) is not None}
    shared = known | changed(first)
    parts = {name.rpartition(".")[2] for name in varied} | {"seed"}
    return {
        key: text
        for key, text in shared.items()
        if key not in parts and all(identity(record.run.config.get(key)) == identity(first[key]) for record in records)
    }


def _when(records: Sequence[Record]) -> str:
    """From the first run's environment, written as it begins, to the last result."""
    begun = [path.stat().st_mtime for r in records if (path := r.folder / "config.yaml").is_file()]
    ended = [path.stat().st_mtime for r in records if (path := r.folder / "result.json").is_file()]
    if not begun:
        return ""
    first = datetime.fromtimestamp(min(begun))
    last = datetime.fromtimestamp(max(ended or begun))
    if f"{first:%F %H:%M}" == f"{last:%F %H:%M}":
        return f"{first:%F %H:%M}"
    return f"{first:%F %H:%M} to " + (f"{last:%H:%M}" if first.date() == last.date() else f"{last:%F %H:%M}")


def _shared(records: Sequence[Record], text_of: Any) -> str:
    texts = list(dict.fromkeys(text for record in records if record.env and (text := text_of(record.env))))
    return texts[0] if len(texts) == 1 else f"{len(texts)} different ones, told with each run" if texts else ""


def _versions(env: dict[str, Any]) -> str:
    packages = {name: version for name, version in (env.get("versions") or {}).items() if version}
    named = {"regx": env.get("regx"), "Python": env.get("python")} | packages
    return ", ".join(f"{name} {version}" for name, version in named.items() if version)


def _machine(env: dict[str, Any]) -> str:
    cores = f", {counted(env['cpu_count'], 'CPU core')}" if env.get("cpu_count") else ""
    return f"{env.get('platform', '')}{cores}"


def environment_rows(record: Record) -> dict[str, str]:
    """What a run ran on, for its drill-down."""
    config, env = record.run.config, record.env
    engine = record.result.get("engine") or config.get("engine")
    rows = {
        "Commit": str(env.get("commit") or ""),
        "Versions": _versions(env),
        "Machine": _machine(env) if env.get("platform") else "",
        "Device": str(config["devices"]) if config.get("devices") else "",
        "Engine": str(engine or ""),
    }
    return {key: text for key, text in rows.items() if text}
