"""`regx sweep`: many runs from one file, and the tables that they end in."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from regx.cli import output, progress, sweep_progress
from regx.errors import RunFailed, UserError
from regx.sweeps import definition, document, plan, registry, trial
from regx.sweeps.definition import Sweep
from regx.sweeps.report import Report
from regx.sweeps.trial import Trial

app = typer.Typer(
    no_args_is_help=True,
    help="Carry out many runs from one file in W&B's sweep format: here, on W&B's agents, on Ray or on SLURM.",
    epilog="Start with: [bold]regx sweep run quickstart[/bold]",
    rich_markup_mode="rich",
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP",
        help="Name of a sweep (`regx sweep list`), path of a YAML file, or the folder of one that was run.",
        autocompletion=lambda incomplete: [name for name in registry.names() if name.startswith(incomplete)],
    ),
]
RunDir = Annotated[Path, typer.Option("--run-dir", help="Parent of the sweep's folder.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="OPTION=VALUE",
        help="Set an option for all runs or, with a list as in 'depth=[10,50]', its grid. May be repeated.",
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", metavar="N|A,B", help="Train every configuration with N seeds (0, 1, ...), or with these."),
]
RunCap = Annotated[
    int | None, typer.Option("--run-cap", metavar="N", help="Most configurations, in the place of the file's run_cap.")
]
Format = Annotated[
    str, typer.Option("--format", "-f", metavar="table|json", help="How to print.", autocompletion=output.formats)
]


def read(name: str, changes: list[str] | None = None, seeds: str | None = None, run_cap: int | None = None) -> Sweep:
    """The sweep that a command line asks for."""
    if run_cap is not None and run_cap < 1:
        raise UserError(f"{run_cap} is not at least 1", "run_cap")
    return registry.load(name, _changes(changes or []), seeds=_seeds(seeds), run_cap=run_cap)


def _changes(texts: list[str]) -> dict[str, Any]:
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UserError(f"{text!r}: write OPTION=VALUE", "set")
        found[key.strip().lstrip("-")] = document.scalar(value)
    return found


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts) or (len(parts) == 1 and int(text) == 0):
        raise UserError(f"{text!r} is neither a number of seeds nor a list of them, as 1,2,3", "seeds")
    seeds = list(range(int(text))) if len(parts) == 1 else [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{text!r} names a seed twice", "seeds")
    return seeds


def known(sweep: Sweep, folder: Path) -> list[Trial]:
    """The sweep's trials, checked."""
    found = plan.trials(sweep, folder)
    plan.check(sweep, found)
    return found


@app.command("list", rich_help_panel="Look up")
def list_(format: Format = "table") -> None:
    """List the sweeps that have a name: those that regx ships, and your own."""
    output.check_format(format)
    rows = list(registry.REGISTRY.rows.values())
    if format == "json":
        print(json.dumps([{"name": info.name, "summary": info.summary, **info.facts} for info in rows], indent=2))
        return
    facts = list(dict.fromkeys(key for info in rows for key in info.facts))
    table = [[info.name, *(info.facts.get(key) for key in facts), info.summary] for info in rows]
    output.print_table("sweeps", ["name", *facts, "summary"], table)
    print(f"your own: *.yaml in {registry.own_folder()} ($REGX_SWEEPS), or any path")


@app.command(rich_help_panel="Look up")
def show(name: Name) -> None:
    """Show a sweep: what it is for, its file, and the sidecar beside it."""
    from regx.sweeps import sidecar

    sweep = read(name)
    info = registry.REGISTRY.rows.get(name)
    if info is not None:
        output.print_info("sweep", info)
        print()
    for path in (sweep.path, sidecar.beside(sweep.path)):
        if path.is_file():
            print(f"# {path}\n{path.read_text().rstrip()}\n")


@app.command("plan", rich_help_panel="Run")
def plan_(
    name: Name,
    changes: Changes = None,
    seeds: Seeds = None,
    run_cap: RunCap = None,
    run_dir: RunDir = Path("runs"),
    all: Annotated[bool, typer.Option("--all", help="Print every run, not only the first twenty.")] = False,
    format: Format = "table",
) -> None:
    """Check a sweep and print what it would run, without running it."""
    output.check_format(format)
    sweep = read(name, changes, seeds, run_cap)
    folder = registry.folder_of(sweep, run_dir)
    refuse_endless(sweep)
    trials = known(sweep, folder)
    states = [plan.state(item)[0] for item in trials]
    if format == "json":
        rows = [
            {"run": item.place().name, "state": status, "label": item.label, "seed": item.seed, "options": item.options}
            for item, status in zip(trials, states, strict=True)
        ]
        print(json.dumps({"sweep": sweep.name, "folder": str(folder), "runs": len(rows), "trials": rows}, indent=2))
        return
    shown = trials if all else trials[:20]
    if trials:
        columns, rows = _columns(shown)
        table = [[*row, status] for row, status in zip(rows, states, strict=False)]
        output.print_table(f"{sweep.name}: {sweep.path}", [*columns, "state"], table)
    if len(shown) < len(trials):
        print(f"... and {len(trials) - len(shown)} more (--all prints them)")
    if sweep.method == "bayes":
        print(f"bayes chooses up to {sweep.run_cap} configurations, one after the other")
    counted = ", ".join(f"{count} {status}" for status, count in plan.counts(states).items())
    print(f"{len(trials)} runs in {folder}" + (f": {counted}" if counted else ""))


def _columns(trials: list[Trial]) -> tuple[list[str], list[list[Any]]]:
    """What differs between trials, one column each."""
    flat = [{"label": item.label} | trial.flat(item.parameters) | {"seed": item.seed} for item in trials]
    keys = list(dict.fromkeys(key for row in flat for key in row))
    telling = [key for key in keys if len({json.dumps(row.get(key)) for row in flat}) > 1] or keys[:1]
    return [definition.leaf(key) for key in telling], [[_shown(row.get(key)) for key in telling] for row in flat]


def _shown(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def refuse_endless(sweep: Sweep, *, yes: bool = True) -> None:
    """Asks, or refuses, before very many runs are begun."""
    points = (sweep.points() or 0) * len(sweep.seeds())
    if points > document.MOST_VALUES * 5:
        raise UserError(f"{sweep.path}: {points:,} runs are more than can be listed; use method: random with run_cap")
    if points <= plan.MANY or yes:
        return
    text = f"{sweep.name} has {points:,} runs"
    if not sys.stdin.isatty():
        raise UserError(f"{text}; say --yes to begin them all, or limit them with --run-cap or --set")
    typer.confirm(f"{text}; begin them all?", abort=True, err=True)


@app.command(rich_help_panel="Run")
def run(
    name: Name,
    changes: Changes = None,
    seeds: Seeds = None,
    run_cap: RunCap = None,
    workers: Annotated[
        str,
        typer.Option("--workers", metavar="N|auto", help="Runs at a time; auto is one per GPU, or per two CPU cores."),
    ] = "auto",
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", metavar="0,1,2+3", help="GPUs of the workers in turn; 2+3 gives one worker two."),
    ] = None,
    wandb: Annotated[
        str,
        typer.Option(
            "--wandb",
            metavar="disabled|offline|online|auto",
            help="Track every run as it trains, at a second each; `regx wandb upload` does so afterwards.",
        ),
    ] = "disabled",
    yes: Annotated[bool, typer.Option("--yes", help="Begin any number of runs without a question.")] = False,
    run_dir: RunDir = Path("runs"),
    format: Format = "table",
) -> None:
    """Run what is missing of a sweep, and print its tables.

    Finished runs are not trained again and half-finished ones go on from their checkpoint, so the same command goes on
    after a kill, after the file was changed, and beside another one that is at work on the same sweep. Ctrl-C saves
    checkpoints.
    """
    output.check_format(format)
    sweep = read(name, changes, seeds, run_cap)
    refuse_endless(sweep, yes=yes)
    carry_out(sweep, run_dir, workers, gpus, wandb, format)


def carry_out(sweep: Sweep, run_dir: Path, workers: str, gpus: str | None, wandb: str, format: str) -> None:
    """Runs what is missing, prints the tables, and fails where a run has."""
    from regx.cli import sweep_results

    specs = sweep_results.wanted(sweep)
    folder = registry.folder_of(sweep, run_dir)
    trials = [dataclasses.replace(item, settings=_settings(sweep, wandb)) for item in known(sweep, folder)]
    registry.keep(sweep, folder)
    states = [plan.state(item) for item in trials]
    if sweep.method != "bayes" and all(status in (plan.FINISHED, plan.FAILED) for status, _ in states):
        failed = {
            item.describe(): result.get("error", "")
            for item, (status, result) in zip(trials, states, strict=True)
            if status == plan.FAILED
        }
        print(f"{sweep.name}: nothing to do, all {len(trials)} runs have ended", file=sys.stderr)
        report = Report(len(trials), len(trials) - len(failed), failed=failed)
    else:
        report = _drive(sweep, folder, trials, workers, gpus)
    found = sweep_results.runs_of(sweep, folder)
    if any(run.finished for run in found) or format == "json":
        more = {"folder": str(folder), "finished": report.finished, "failed": report.failed, "ended": report.ended}
        sweep_results.print_tables(sweep, found, specs if report.finished else [], format, more)
    _conclude(sweep, report)


def _drive(sweep: Sweep, folder: Path, trials: list[Trial], workers: str, gpus: str | None) -> Report:
    with progress.waiting("loading PyTorch"):
        from regx.sweeps.driver import Driver
        from regx.sweeps.engines.local import LocalEngine
    before = time.monotonic()
    engine = LocalEngine(min(_workers(workers, gpus), _most(sweep, trials)), gpus.split(",") if gpus else None)
    with sweep_progress.watcher(sweep) as watch:
        report = Driver(sweep, folder, trials, engine, watch).run()
    took = sweep_progress.duration(time.monotonic() - before)
    before_now = f", {report.found} were done before" if report.found else ""
    print(f"{sweep.name}: {report.finished - report.found} runs done in {took}{before_now}", file=sys.stderr)
    return report


def _conclude(sweep: Sweep, report: Report) -> None:
    """The exit code, and the line that says why."""
    if report.ended == "interrupted":
        print("interrupted; the same command goes on", file=sys.stderr)
        raise typer.Exit(130)
    if report.ended == "workers":
        raise RunFailed("all workers have stopped: " + next(iter(report.dismissed.values())))
    if report.failed:
        first, why = next(iter(report.failed.items()))
        raise RunFailed(
            f"{len(report.failed)} of {report.total} runs have failed; the first, {first}: {sweep_progress.last(why)}; "
            f"`regx sweep retry {sweep.name}` runs them again"
        )


def _settings(sweep: Sweep, wandb: str) -> dict[str, Any]:
    values = sweep.document.value
    found = {"wandb": wandb}
    return found | {key: values[key] for key in ("project", "entity") if values.get(key)}


def _workers(text: str, gpus: str | None) -> int:
    if text == "auto":
        return len(gpus.split(",")) if gpus else max(1, _gpus() or (os.cpu_count() or 1))
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{text!r} is neither a number of at least 1 nor auto", "workers")
    return int(text)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _most(sweep: Sweep, trials: list[Trial]) -> int:
    """More workers than trials would only start up."""
    many = len(trials) if sweep.method != "bayes" else (sweep.run_cap or 1) * len(sweep.seeds())
    return max(1, many)


@app.command(rich_help_panel="Run")
def retry(
    name: Name,
    run_dir: RunDir = Path("runs"),
    workers: Annotated[str, typer.Option("--workers", metavar="N|auto", help="Runs at a time.")] = "auto",
    gpus: Annotated[str | None, typer.Option("--gpus", metavar="0,1", help="GPUs of the workers in turn.")] = None,
    format: Format = "table",
) -> None:
    """Run the failed runs of a sweep anew, and what is missing."""
    from regx.training.folder import RunFolder

    output.check_format(format)
    sweep, folder = ran(name, run_dir)
    failed = [item for item in known(sweep, folder) if plan.state(item)[0] == plan.FAILED]
    for item in failed:
        RunFolder(item.place()).clear()
    print(f"{sweep.name}: {len(failed)} failed runs begin anew", file=sys.stderr)
    carry_out(sweep, run_dir, workers, gpus, "disabled", format)


def ran(name: str, run_dir: Path) -> tuple[Sweep, Path]:
    """A sweep as it was run last, with the changes of that command line, and its folder."""
    kept = run_dir / name / registry.KEPT
    sweep = registry.load(str(kept.parent) if kept.is_file() else name)
    folder = registry.folder_of(sweep, run_dir)
    if not (folder / registry.KEPT).is_file():
        raise UserError(f"{sweep.name} has not been run in {run_dir}; regx sweep run {name}, or another --run-dir")
    return sweep, folder


@app.command(rich_help_panel="Run")
def status(name: Name, run_dir: RunDir = Path("runs"), format: Format = "table") -> None:
    """Say how a sweep stands: runs by state, who is at work on what, and why runs have failed."""
    from regx.sweeps import driver

    output.check_format(format)
    sweep, folder = ran(name, run_dir)
    trials = plan.trials(sweep, folder)
    states = {item.key: plan.state(item) for item in trials}
    drivers = driver.alive(folder)
    at_work = {entry["key"] for one in drivers.values() for entry in one["running"].values()}
    words = ["running" if item.key in at_work else states[item.key][0] for item in trials]
    failed = {
        item.describe(): states[item.key][1].get("error", "") for item in trials if states[item.key][0] == plan.FAILED
    }
    failed |= {run: why for one in drivers.values() for run, why in one["failed"].items()}
    if format == "json":
        rows = [{"run": item.place().name, "state": word} for item, word in zip(trials, words, strict=True)]
        found = {"sweep": sweep.name, "folder": str(folder), "counts": plan.counts(words), "drivers": drivers}
        print(json.dumps(found | {"failed": failed, "trials": rows}, indent=2))
        return
    counted = ", ".join(f"{count} {word}" for word, count in sorted(plan.counts(words).items()))
    print(f"{sweep.name}: {counted} of {len(trials)} runs in {folder}")
    rows = [
        [name, worker, entry["trial"], f"{entry['epoch']}/{entry['epochs']}" if entry["epochs"] else "starting"]
        for name, one in drivers.items()
        for worker, entry in one["running"].items()
    ]
    if rows:
        output.print_table("at work", ["driver", "worker", "run", "epoch"], rows)
    if failed:
        table = [[run, sweep_progress.last(why)] for run, why in failed.items()]
        output.print_table("failed", ["run", "why"], table)


@app.command(rich_help_panel="Run")
def stop(name: Name, run_dir: RunDir = Path("runs")) -> None:
    """Ask everybody at work on a sweep to save checkpoints and stop; `regx sweep run` goes on."""
    from regx.sweeps import driver
    from regx.training.folder import write_atomically

    sweep, folder = ran(name, run_dir)
    drivers = driver.alive(folder)
    write_atomically(folder / driver.STOP, "")
    print(
        f"{sweep.name}: asked {len(drivers)} at work to stop" if drivers else f"{sweep.name}: nobody is at work on it"
    )
