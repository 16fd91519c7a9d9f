"""`regx sweep create`, `agent`, `trial` and `export`: a sweep on Weights & Biases."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from regx.cli import progress
from regx.cli.sweep_arguments import Changes, Name, RunCap, RunDir, Seeds, kept, known, read
from regx.errors import RunFailed, UserError
from regx.sweeps import document, plan, registry, wandb_form
from regx.training.experiments import EXPERIMENTS

Project = Annotated[str | None, typer.Option("--project", help="W&B project (default: the file's, else regx).")]
Entity = Annotated[str | None, typer.Option("--entity", help="W&B user or team (default: the file's, else yours).")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(rich_help_panel="Weights & Biases")(create)
    app.command(rich_help_panel="Weights & Biases")(agent)
    app.command(rich_help_panel="Weights & Biases")(export)
    app.command(hidden=True)(trial)


def create(
    name: Name,
    changes: Changes = None,
    seeds: Seeds = None,
    run_cap: RunCap = None,
    project: Project = None,
    entity: Entity = None,
    run_dir: RunDir = Path("runs"),
) -> None:
    """Register a sweep with W&B's server, and print its path for `regx sweep agent` on any machine.

    Seeds of the sidecar become a parameter, its conditions a part of the command: what they leave out ends at once.
    """
    from regx.training.tracking import sweeps

    found = read(name, changes, seeds, run_cap)
    folder = registry.folder_of(found, run_dir)
    values = wandb_form.config(found, known(found, folder))
    path = sweeps.create(
        values, project=project or values.get("project") or "regx", entity=entity or values.get("entity")
    )
    registry.keep(found, folder)
    wandb_form.remember(folder, path)
    print(f"{found.name} is on W&B; on any machine: regx sweep agent {path}", file=sys.stderr)
    print(path)


def agent(
    name: Annotated[
        str, typer.Argument(metavar="SWEEP|PATH", help="A sweep that was created from here, or entity/project/id.")
    ],
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", help="Runs per worker (default: as many as there are).")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Agents, each with a run at a time.")] = 1,
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", metavar="0,1,2+3", help="GPUs of the workers in turn; 2+3 gives one worker two."),
    ] = None,
    restarts: Annotated[
        int, typer.Option("--restarts", metavar="N", help="How often an agent that died is started again.")
    ] = 3,
    max_failures: Annotated[
        int,
        typer.Option("--max-failures", metavar="N", help="Failed runs in a row after which a worker takes no more."),
    ] = 3,
    run_dir: RunDir = Path("runs"),
) -> None:
    """Train what W&B's server hands out, through real `wandb agent`s; exit code 1 if a run failed or an agent gave up.

    Run folders are the same as those of `regx sweep run`. Ctrl-C lets runs save a checkpoint.
    """
    from regx.training.tracking import agents

    path = _path(name, run_dir)
    os.environ["REGX_RUN_DIR"] = str(run_dir.resolve())
    log = run_dir / ".agents" / f"{path.rpartition('/')[2]}-{os.getpid()}.jsonl"
    listed = gpus.split(",") if gpus else []
    done = agents.agents(
        path,
        count=count,
        workers=workers,
        gpus=listed,
        restarts=restarts,
        max_failures=max_failures,
        log=log,
        run_dir=run_dir,
        on_line=lambda line: print(line, file=sys.stderr, flush=True),
    )
    for worker in done.workers:
        counted = ", ".join(f"{count} {status}" for status, count in sorted(worker.trials.items())) or "no runs"
        stopped = f"; stopped: {worker.reason}" if worker.reason else ""
        print(f"worker {worker.number}: {counted}{stopped}")
    if done.exit_code == 130:
        print("interrupted; the same command goes on", file=sys.stderr)
        raise typer.Exit(130)
    if done.exit_code:
        failed = sum(worker.trials["failed"] + worker.trials["died"] for worker in done.workers)
        gave_up = sum(worker.reason is not None for worker in done.workers)
        raise RunFailed(f"{failed} runs failed, {gave_up} of {len(done.workers)} workers gave up")


def _path(name: str, run_dir: Path) -> str:
    """The path of a sweep on the server."""
    if name.count("/") == 2 and not Path(name).exists():
        return name
    found = kept(name, run_dir)
    path = wandb_form.remembered(registry.folder_of(found, run_dir))
    if path is None:
        raise UserError(f"{found.name} is not on W&B: regx sweep create {name}")
    return path


def export(
    name: Name,
    changes: Changes = None,
    seeds: Seeds = None,
    run_cap: RunCap = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="wandb|commands",
            help="W&B's YAML, or one command line per run for any scheduler.",
        ),
    ] = "wandb",
    run_dir: RunDir = Path("runs"),
) -> None:
    """Print a sweep as W&B's YAML, seeds and conditions included, or as one command line per run."""
    found = read(name, changes, seeds, run_cap)
    folder = registry.folder_of(found, run_dir)
    trials = known(found, folder)
    if format == "wandb":
        print(document.dump(wandb_form.config(found, trials)), end="")
        return
    if format != "commands":
        raise UserError(f"{format!r} is neither wandb nor commands", "format")
    if found.method == "bayes":
        raise UserError("the runs of a search by bayes are not known beforehand", "format")
    waiting = [item for item in trials if item.after is not None]
    if waiting:
        raise UserError(
            f"{waiting[0].describe()} begins with the weights of another run; use `regx sweep run`", "format"
        )
    for item in trials:
        if item.options.get("regularizer") == []:
            raise UserError(f"{item.describe()}: no regularizer at all cannot be typed; use `regx sweep run`", "format")
        options = item.options | item.settings | {"run_dir": str(folder)}
        print(shlex.join(["regx", item.experiment, *_typed(options, EXPERIMENTS[item.experiment])]))


def _typed(options: dict[str, Any], experiment: type[Any]) -> list[str]:
    from regx.training.options import options_of

    known = {option.key: option for option in options_of(experiment)}
    words: list[str] = []
    for key, value in options.items():
        option = known[key]
        if option.type == "bool":
            words.append(option.flag if value else f"--no-{option.flag[2:]}")
        else:
            words += [f"{option.flag}={item}" for item in (value if isinstance(value, list) else [value])]
    return words


def trial(
    experiment: Annotated[str, typer.Argument(help="rectangular or resnet.")],
    parameters: Annotated[Path, typer.Argument(help="JSON file of the parameters (W&B's ${args_json_file}).")],
    name: Annotated[str, typer.Option("--sweep", help="Name of the sweep: of the folder of its runs.")] = "",
    where: Annotated[
        list[str] | None, typer.Option("--where", help="Condition; without it the run is left out.")
    ] = None,
    when: Annotated[
        list[str] | None, typer.Option("--when", help="`parameter: condition` under which it counts.")
    ] = None,
    run_dir: Annotated[Path, typer.Option("--run-dir", envvar="REGX_RUN_DIR", help="Parent of the folder.")] = Path(
        "runs"
    ),
) -> None:
    """One run of a sweep, as W&B's agent starts it: from its checkpoint, if any; `agent` is told how it ended."""
    status = "failed"
    try:
        status = _trial(
            experiment, parameters, name or os.environ.get("WANDB_SWEEP_ID", "trials"), where, when, run_dir
        )
    finally:
        if log := os.environ.get("REGX_TRIAL_LOG"):
            run, worker = os.environ.get("WANDB_RUN_ID"), int(os.environ.get("REGX_WORKER", "0"))
            with Path(log).open("a") as file:
                file.write(json.dumps({"run": run, "status": status, "worker": worker}) + "\n")
    if status == "interrupted":
        raise typer.Exit(130)


def _trial(
    experiment: str, parameters: Path, name: str, where: list[str] | None, when: list[str] | None, run_dir: Path
) -> str:
    if experiment not in EXPERIMENTS:
        raise UserError(f"{experiment!r} is no experiment; known: {', '.join(EXPERIMENTS)}")
    made = wandb_form.read_trial(experiment, parameters, name, run_dir / name, where or [], when or [])
    with progress.waiting("loading PyTorch"):
        from regx.sweeps import trial
        from regx.training.tracking import upload
    if made is None:
        print("a condition of the sweep leaves this run out", file=sys.stderr)
        upload.skip(dict(json.loads(parameters.read_text())), run_dir / name)
        return "skipped"
    item = dataclasses.replace(made, settings={"wandb": "auto"})
    with progress.observer() as observer:
        before = plan.state(item)[0]
        result = trial.carry_out(item, observer, argv=sys.argv)
        if before == plan.FINISHED:
            upload.replay(item.place(), mode="auto", warn=observer.warn)
    if result["status"] == "failed":
        raise RunFailed(result["error"])
    return result["status"]
