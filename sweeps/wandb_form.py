"""A sweep as Weights & Biases takes it: strictly its format, with what a sidecar adds to it put into other words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from regx.errors import RunFailed, UserError
from regx.sweeps import sidecar, trial
from regx.sweeps.definition import KEYS, Sweep
from regx.sweeps.sidecar import Sidecar

# Where a sweep's folder keeps the path of the sweep on the server.
RECEIPT = "wandb-sweep.json"


def config(sweep: Sweep, trials: list[trial.Trial]) -> dict[str, Any]:
    """What W&B's server is given: seeds become a parameter, conditions options of the command.

    Raises:
        UserError: trials that begin with the weights of others, which W&B's agents would not wait for.
    """
    waiting = [item for item in trials if item.after is not None]
    if waiting:
        raise UserError(
            f"{sweep.path}: {waiting[0].describe()} begins with the weights of another run, for which W&B's agents do "
            "not wait; `regx sweep run` does"
        )
    values = {key: sweep.document.value[key] for key in KEYS if key in sweep.document.value}
    found = values | {"name": values.get("name") or sweep.name, "command": command(sweep)}
    if sweep.sidecar.seeds:
        found["parameters"] = values["parameters"] | {"seed": {"values": list(sweep.sidecar.seeds)}}
    return found


def command(sweep: Sweep) -> list[str]:
    """What an agent runs for a trial."""
    where = [word for condition in sweep.sidecar.where for word in ("--where", condition.text)]
    when = [word for name, condition in sweep.sidecar.when.items() for word in ("--when", f"{name}: {condition.text}")]
    begin = ["${env}", "regx", "sweep", "trial", sweep.experiment, "${args_json_file}"]
    return [*begin, "--sweep", sweep.name, *where, *when]


def read_trial(
    experiment: str, file: Path, sweep: str, folder: Path, where: list[str], when: list[str]
) -> trial.Trial | None:
    """The trial that an agent hands on; None where the sweep's conditions leave it out.

    Args:
        experiment: what it runs.
        file: JSON of the parameters, as of W&B's `${args_json_file}`.
        sweep: name of the sweep.
        folder: parent of the run folder.
        where: conditions that must hold.
        when: `parameter: condition` under which a parameter counts.

    Raises:
        UserError: the file is no such JSON, or its parameters are not those of the experiment.
    """
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise UserError(f"{file} holds no parameters")
    notes = Sidecar(**sidecar.conditions(where, when))
    parameters = _unnested(given)
    telling = tuple(name for name in parameters if name != "seed")
    try:
        return trial.build(sweep, experiment, notes, parameters, None, folder, telling=telling)
    except UserError as error:
        raise UserError(f"{file}: {error.message if error.option == 'config' else error}") from None


def _unnested(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Parameters that hold parameters become dotted names; a mapping of plain values stays a bundle of options."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and any(isinstance(item, dict) for item in value.values())
        found |= _unnested(value, f"{before}{key}.") if nested else {f"{before}{key}": value}
    return found


def remembered(folder: Path) -> str | None:
    """The path of the sweep on the server, `entity/project/id`, if it was created from here."""
    path = folder / RECEIPT
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())["path"]
    except (ValueError, KeyError, TypeError):
        raise RunFailed(f"{path} is corrupt; delete it") from None


def remember(folder: Path, path: str) -> None:
    """Keeps the path of the sweep on the server."""
    from regx.training.folder import write_atomically

    write_atomically(folder / RECEIPT, json.dumps({"path": path}) + "\n")
