"""Sweeps on a W&B server: made, paused, stopped and read back. `agents` works them off."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any, Literal, get_args

from regx.errors import RunFailed, UserError, did_you_mean
from regx.training.tracking.runs import need_server, reason

State = Literal["pause", "resume", "stop", "cancel"]
"""`pause` hands out no new trials, `stop` ends the sweep when the running ones have ended, `cancel` kills those too."""

LOCALLY = "`regx sweep run` works the sweep off on this machine without it"


def create(config: dict[str, Any], *, project: str, entity: str | None = None) -> str:
    """Makes a sweep on the server.

    Args:
        config: a W&B sweep configuration (method, parameters, command, ...); JSON values.
        project: W&B project.
        entity: user or team; `None` is the account's own.

    Returns:
        The sweep's path, `entity/project/id`.

    Raises:
        RunFailed: there is no key, or the server does not answer or takes no such sweep.
    """
    need_server(LOCALLY)
    import wandb

    with _environment_kept(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what wandb.sweep itself calls
        try:
            sweep = wandb.sweep(config, entity=entity, project=project)
        except Exception as error:
            raise RunFailed(f"W&B did not take the sweep ({reason(error)}); {LOCALLY}") from None
        # `wandb.sweep` returns the id alone, and leaves here where the server has put it.
        return "/".join([os.environ["WANDB_ENTITY"], os.environ["WANDB_PROJECT"], sweep])


def set_state(path: str, state: State) -> None:
    """Pauses, resumes, stops or cancels a sweep.

    Args:
        path: `entity/project/id`.
        state: see `State`.

    Raises:
        UserError: `path` or `state` is no such thing.
        RunFailed: there is no key, no answer, no such sweep, or it has ended already.
    """
    if state not in get_args(State):
        raise UserError(f"{state!r} is not a state of a sweep{did_you_mean(state, get_args(State))}", "state")
    parts(path)
    need_server("nothing was changed")
    command = [sys.executable, "-P", "-m", "wandb", "sweep", f"--{state}", path]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it did not say why"]
        why = re.sub(r"^(Error|Exception): ", "", said[-1])
        raise RunFailed(f"W&B did not {state} {path} ({why})")


def runs(path: str) -> list[dict[str, Any]]:
    """Reads the runs of a sweep back, the oldest first.

    Args:
        path: `entity/project/id`.

    Returns:
        Of each run `name`, `id`, `state` (running, finished, failed, crashed, killed, ...), `config`, `summary`, and
        `history`: every logged row, its numbers alone (no pictures), without W&B's own keys, which begin with `_`.

    Raises:
        UserError: `path` is not that of a sweep.
        RunFailed: there is no key, no answer, or no such sweep.
    """
    entity, project, sweep = parts(path)
    need_server("the run folders have the same numbers")
    import wandb

    try:
        api = wandb.Api()
        api.sweep(path)
        found = api.runs(f"{entity}/{project}", filters={"sweep": sweep}, lazy=False, include_sweeps=False)
        return [
            {
                "name": run.name,
                "id": run.id,
                "state": run.state,
                "config": dict(run.config),
                "summary": {key: value for key, value in run.summary_metrics.items() if not key.startswith("_")},
                "history": [_numbers(row) for row in run.scan_history(use_cache=False)],
            }
            for run in found
        ]
    except Exception as error:
        raise RunFailed(f"W&B did not give the runs of {path} ({reason(error)})") from None


def parts(path: str) -> tuple[str, str, str]:
    """Entity, project and id of a sweep's path.

    Raises:
        UserError: there are not three of them.
    """
    if not re.fullmatch(r"[^/\s]+/[^/]+/[^/\s]+", path):
        raise UserError(f"{path!r} is not a sweep on W&B; write entity/project/id, as W&B shows it", "sweep")
    entity, project, sweep = path.split("/")
    return entity, project, sweep


def find(path: str) -> None:
    """Makes sure that a sweep is there.

    Raises:
        UserError: `path` is not that of a sweep.
        RunFailed: there is no key, no answer, or no such sweep.
    """
    parts(path)
    need_server(LOCALLY)
    import wandb

    try:
        wandb.Api().sweep(path)
    except Exception as error:
        raise RunFailed(f"W&B has no sweep {path} ({reason(error)})") from None


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    numbers = {}
    for key, value in row.items():
        if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):  # JSON has no others
            value = float(value)
        if isinstance(value, int | float) and not key.startswith("_"):
            numbers[key] = value if math.isfinite(value) and isinstance(value, int) else float(value)
    return numbers


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for key in os.environ.keys() - before.keys():
            del os.environ[key]
        os.environ.update(before)
