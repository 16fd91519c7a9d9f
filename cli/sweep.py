"""`regx sweep`: many runs from one file, and the tables that they end in."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regx.cli import output, progress, sweep_engines, sweep_progress, sweep_results, sweep_wandb
from regx.cli.sweep_arguments import Changes, Format, Name, RunCap, RunDir, Seeds, known, ran, read
from regx.cli.sweep_engines import Address, Each, EngineName, Gpus, Place, Slurm, Workers
from regx.errors import RunFailed, UserError
from regx.sweeps import definition, document, plan, registry, trial, wandb_form
from regx.sweeps.definition import Sweep
from regx.sweeps.report import Report, alive
from regx.sweeps.trial import Trial

if TYPE_CHECKING:
    from regx.sweeps.driver import Driver

app = typer.Typer(
    no_args_is_help=True,
    help="Carry out many runs from one file in W&B's sweep format: here, on W&B's agents, on Ray or on SLURM.",
    epilog="Start with: [bold]regx sweep run quickstart[/bold]",
    rich_markup_mode="rich",
)

# More runs than this take seconds to list.
LISTED_AT_ONCE = 10_000

Wandb = Annotated[
    str,
    typer.Option(
        "--wandb",
        metavar="MODE",
        help="Track every run as it trains, at a second each: disabled, offline, online or auto; `regx wandb upload` "
        "does so afterwards.",
    ),
]


@app.command("list", rich_help_panel="Look up")
def list_(format: Format = "table") -> None:
    """List the sweeps that have a name: those that regx ships, and your own."""
    output.check_format(format)
    rows = list(registry.REGISTRY.rows.values())
    if format == "json":
        print(json.dumps([{"name": info.name, "summary": info.summary, **info.facts} for info in rows], indent=2))
        return
    table = [[info.name, info.facts.get("runs", ""), info.summary] for info in rows]
    output.print_table("sweeps", ["name", "runs", "summary"], table)
    print("how long they take, and where they come from: regx sweep show NAME")
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
    engine: EngineName = "auto",
    workers: Workers = "auto",
    all: Annotated[bool, typer.Option("--all", help="Print every run, not only the first twenty.")] = False,
    format: Format = "table",
) -> None:
    """Check a sweep and print what it would run, how and roughly how long, without running it."""
    output.check_format(format)
    where = sweep_engines.place(engine, workers, None)
    sweep = read(name, changes, seeds, run_cap)
    folder = registry.folder_of(sweep, run_dir)
    most_runs(sweep)
    trials = known(sweep, folder)
    states = [plan.state(item)[0] for item in trials]
    missing = [item for item, now in zip(trials, states, strict=True) if now not in (plan.FINISHED, plan.FAILED)]
    summary = where.planner().summary(missing, where.count())
    if format == "json":
        rows = [
            {"run": item.place().name, "state": status, "label": item.label, "seed": item.seed, "options": item.options}
            for item, status in zip(trials, states, strict=True)
        ]
        found = {"sweep": sweep.name, "folder": str(folder), "runs": len(rows), "programs": summary, "trials": rows}
        print(json.dumps(found, indent=2))
        return
    shown = len(trials) if all else 20
    if trials:
        columns, rows = _columns(trials)
        table = [[*row, status] for row, status in zip(rows, states, strict=True)][:shown]
        output.print_table(f"{sweep.name}: {sweep.path}", [*columns, "state"], table)
    if shown < len(trials):
        print(f"... and {len(trials) - shown} more (--all prints them)")
    if sweep.method == "bayes":
        print(f"bayes chooses up to {sweep.run_cap} configurations, one after the other")
    counted = ", ".join(f"{count} {status}" for status, count in plan.counts(states).items())
    print(f"{len(trials)} runs in {folder}" + (f": {counted}" if counted else ""))
    if missing:
        sweep_engines.print_programs(where, summary)


def _columns(trials: list[Trial]) -> tuple[list[str], list[list[Any]]]:
    """What differs between trials, one column each."""
    flat = [{"label": item.label} | trial.flat(item.parameters) | {"seed": item.seed} for item in trials]
    keys = list(dict.fromkeys(key for row in flat for key in row))
    asked = {name for item in trials for name in item.telling if not isinstance(item.parameters.get(name), dict)}
    telling = [key for key in keys if key in asked or len({json.dumps(row.get(key)) for row in flat}) > 1] or keys[:1]
    return [definition.leaf(key) for key in telling], [[_shown(row.get(key)) for key in telling] for row in flat]


def _shown(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def most_runs(sweep: Sweep) -> int:
    """Runs before any condition; refuses what cannot even be listed."""
    count = (sweep.points() or 0) * len(sweep.seeds())
    if count > document.MOST_VALUES * 5:
        raise UserError(f"{sweep.path}: {count:,} runs are more than can be listed; use method: random with run_cap")
    return count


def ask(sweep: Sweep, runs: str) -> None:
    """Asks before very many runs are begun."""
    text = f"{sweep.name} has {runs} runs"
    if not sys.stdin.isatty():
        raise UserError(f"{text}; say --yes to begin them all, or limit them with --run-cap or --set")
    typer.confirm(f"{text}; begin them all?", abort=True, err=True)


@app.command(rich_help_panel="Run")
def run(
    name: Name,
    changes: Changes = None,
    seeds: Seeds = None,
    run_cap: RunCap = None,
    wandb: Wandb = "disabled",
    yes: Annotated[bool, typer.Option("--yes", help="Begin any number of runs without a question.")] = False,
    run_dir: RunDir = Path("runs"),
    engine: EngineName = "auto",
    workers: Workers = "auto",
    gpus: Gpus = None,
    address: Address = None,
    each: Each = None,
    slurm: Slurm = None,
    format: Format = "table",
) -> None:
    """Run what is missing of a sweep, and print its tables.

    Finished runs are not trained again, and half-finished ones go on from their checkpoint.

    So the same command goes on after a kill or a change of the file, and beside another one at work on the same sweep.

    Ctrl-C saves checkpoints.
    """
    output.check_format(format)
    where = sweep_engines.place(engine, workers, gpus, address, each, slurm)
    sweep = read(name, changes, seeds, run_cap)
    most = most_runs(sweep)
    if most > LISTED_AT_ONCE and not yes:
        ask(sweep, f"up to {most:,}")
        yes = True
    carry_out(sweep, run_dir, where, wandb, format, yes=yes)


def carry_out(sweep: Sweep, run_dir: Path, where: Place, wandb: str, format: str, *, yes: bool) -> None:
    """Runs what is missing, prints the tables, and fails where a run has."""
    from regx.sweeps.driver import Driver

    sweep.options["wandb"].check(wandb)
    specs = sweep_results.wanted(sweep)
    folder = registry.folder_of(sweep, run_dir)
    sweep = _tracked(sweep, folder, wandb)
    trials = known(sweep, folder)
    if len(trials) > plan.MANY and not yes:
        ask(sweep, f"{len(trials):,}")
    registry.keep(sweep, folder)
    driver = Driver(sweep, folder, trials, where.planner())
    if driver.left():
        _drive(sweep, driver, where)
    else:
        print(f"{sweep.name}: nothing to do, all {len(trials)} runs have ended", file=sys.stderr)
    report, found = driver.report, sweep_results.runs_of(sweep, folder)
    if any(run.finished for run in found) or format == "json":
        more = {"folder": str(folder), "finished": report.finished, "failed": report.failed, "ended": report.ended}
        sweep_results.print_tables(sweep, found, specs if report.finished else [], format, more)
    _conclude(report, folder)


def _drive(sweep: Sweep, driver: Driver, where: Place) -> None:
    before, report = time.monotonic(), driver.report
    if where.engine in ("vectorised", "native"):  # which somebody has asked for by name
        for reason, count in driver.fallbacks().items():
            print(f"{sweep.name}: {count} runs {reason}", file=sys.stderr)
    with progress.waiting("loading PyTorch"):
        engine = sweep_engines.start(where, driver.folder, driver.most, driver.gpus())
    with sweep_progress.watcher(sweep) as watch:
        driver.run(engine, watch)
    took = sweep_progress.duration(time.monotonic() - before)
    more = f", {report.found} were done before" if report.found else ""
    more += f"; hyperband has ended {report.pruned} of them early" if report.pruned else ""
    print(f"{sweep.name}: {report.finished - report.found} runs done in {took}{more}", file=sys.stderr)


def _conclude(report: Report, folder: Path) -> None:
    """The exit code, and the line that says why."""
    if report.ended == "interrupted":
        print("interrupted; the same command goes on", file=sys.stderr)
        raise typer.Exit(130)
    if report.ended == "metric":
        raise RunFailed(report.why)
    if report.ended == "workers":
        raise RunFailed("all workers have stopped: " + next(iter(report.dismissed.values())))
    if report.failed:
        first, why = next(iter(report.failed.items()))
        raise RunFailed(
            f"{len(report.failed)} of {report.total} runs have failed; the first, {first}: {sweep_progress.last(why)}; "
            f"`regx sweep retry {shlex.quote(str(folder))}` runs them again"
        )


def _tracked(sweep: Sweep, folder: Path, wandb: str) -> Sweep:
    """The sweep with what its runs tell W&B; they appear under the sweep that was created from here, if any was."""
    values, path = sweep.document.value, wandb_form.remembered(folder)
    entity, project, sweep_id = path.split("/") if path else (values.get("entity"), values.get("project"), None)
    named = {key: value for key, value in (("entity", entity), ("project", project)) if value}
    return dataclasses.replace(sweep, settings={"wandb": wandb, **named}, wandb_sweep=sweep_id)


@app.command(rich_help_panel="Run")
def retry(
    name: Name,
    wandb: Wandb = "disabled",
    run_dir: RunDir = Path("runs"),
    engine: EngineName = "auto",
    workers: Workers = "auto",
    gpus: Gpus = None,
    address: Address = None,
    each: Each = None,
    slurm: Slurm = None,
    format: Format = "table",
) -> None:
    """Run the failed runs of a sweep anew, and what is missing."""
    from regx.training.folder import RunFolder

    output.check_format(format)
    where = sweep_engines.place(engine, workers, gpus, address, each, slurm)
    sweep, folder = ran(name, run_dir)
    failed = [item for item in known(sweep, folder) if plan.state(item)[0] == plan.FAILED]
    for item in failed:
        RunFolder(item.place()).clear()
    print(f"{sweep.name}: {len(failed)} failed runs begin anew", file=sys.stderr)
    carry_out(sweep, run_dir, where, wandb, format, yes=True)


@app.command(rich_help_panel="Run")
def status(name: Name, run_dir: RunDir = Path("runs"), format: Format = "table") -> None:
    """Say how a sweep stands: runs by state, who is at work on what, and why runs have failed."""
    output.check_format(format)
    sweep, folder = ran(name, run_dir)
    trials = plan.trials(sweep, folder)
    states = {item.key: plan.state(item) for item in trials}
    drivers = alive(folder)
    at_work = {key for one in drivers.values() for entry in one["running"].values() for key in entry["keys"]}
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
    """Ask everybody at work on a sweep to save checkpoints and stop; ENTITY/PROJECT/ID stops one on W&B."""
    from regx.sweeps import driver
    from regx.training.folder import write_atomically

    if "/" in name and not Path(name).exists() and name.count("/") == 2:
        from regx.training.tracking import sweeps

        sweeps.set_state(name, "stop")
        print(f"{name}: W&B hands out no more runs")
        return
    sweep, folder = ran(name, run_dir)
    drivers = alive(folder)
    write_atomically(folder / driver.STOP, "")
    print(
        f"{sweep.name}: asked {len(drivers)} at work to stop" if drivers else f"{sweep.name}: nobody is at work on it"
    )


app.command(rich_help_panel="Look up")(sweep_results.results)
sweep_wandb.add_to(app)
