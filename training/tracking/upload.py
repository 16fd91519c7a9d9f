"""Sends a run that has ended to Weights & Biases: once, and to its end, however often sending is cut off."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regx.errors import RunFailed, UserError
from regx.training.folder import RunFolder, write_atomically
from regx.training.tracking.runs import BEST_OF, Mode, begin, need_server, reason, start

RECEIPT = "wandb.json"
"""The file of a run folder that says which run of which server holds all of it."""


def upload(
    folder: Path,
    *,
    project: str,
    entity: str | None = None,
    sweep: str | None = None,
    group: str | None = None,
    warn: Callable[[str], None],
) -> bool:
    """Sends a finished or failed run: configuration, rows, plots, test metrics, tags and exit code.

    It becomes one W&B run whose id is the run's own (`env.json`). The folder then holds `wandb.json`, and a second call
    sends nothing; without that file (to reach another server, say) it would. A call that was cut off leaves no such
    file, and the next one adds what the server lacks after the last step that it has.

    A finished run that was tracked online all the time is left alone: its folder has a `wandb/run-*`, and `result.json`
    names nothing to sync. One whose connection broke, or that failed, is completed under the id that it has there.

    Runs that one process sends share wandb's service, so the first one costs a second more than the others.

    Args:
        folder: run folder.
        project: W&B project.
        entity: user or team; `None` is the account's own.
        sweep: id (not path) of the W&B sweep that the run belongs to.
        group: W&B group; `None` is that of the run's configuration.
        warn: called with one line for whatever is left out.

    Returns:
        Whether anything was sent.

    Raises:
        RunFailed: there is no key, the server does not answer or went away, or the run has not ended.
        UserError: this is no run folder, or an agent's trial tries to upload another run.
    """
    run_folder = RunFolder(folder)
    result = run_folder.read_result()
    if result is None:
        run_folder.read_config()  # says so where this is no run folder at all
        raise RunFailed(f"{folder} has not ended; `regx resume {folder}` goes on with it")
    try:
        id = json.loads(run_folder.env.read_text())["id"]
        rows = _rows(run_folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFailed(f"{folder} is damaged ({reason(error)}) and cannot be uploaded") from None
    tracked = _tracked(run_folder, id)
    if tracked and result["status"] == "finished" and "wandb" not in result:
        return False

    wanted = {
        "id": tracked or id,
        "project": project,
        "entity": entity,
        "sweep": sweep,
        "rows": len(rows),  # one that was ended early may have gone on
        "ended": result.get("ended"),
    }
    receipt = folder / RECEIPT
    if _read(receipt).items() >= wanted.items():
        return False
    if "WANDB_SWEEP_ID" in os.environ:  # W&B would ignore the run's id and project
        raise UserError("is set, as in an agent's trial; unset it to upload a run", "WANDB_SWEEP_ID")
    need_server("the run folder is complete without it")
    url = _send(run_folder, rows, result, wanted, group, warn)
    write_atomically(receipt, json.dumps(wanted | {"url": url}, indent=2) + "\n")
    return True


def _send(
    folder: RunFolder,
    rows: list[dict[str, float]],
    result: dict[str, Any],
    wanted: dict[str, Any],
    group: str | None,
    warn: Callable[[str], None],
) -> str:
    """The page of the run."""
    import wandb

    config = _point(folder) | result["config"]
    # Not in the run folder: what is left there of an upload that was cut off would look like a run tracked online.
    with tempfile.TemporaryDirectory(prefix="regx-upload-", ignore_cleanup_errors=True) as scratch:
        try:
            run = begin(
                "online",
                sweep=wanted["sweep"],
                dir=scratch,
                id=wanted["id"],
                resume="allow",
                project=wanted["project"],
                entity=wanted["entity"],
                config=config,
                name=config.get("name") or folder.path.resolve().name,
                group=group or config.get("group"),
                tags=config.get("tags") or None,
            )
            for row in rows[:-1]:  # wandb drops steps that the server has: no row comes twice
                run.log(row, step=int(row["epoch"]))
            if rows:
                last = int(rows[-1]["epoch"])
                pictures = _pictures(folder, warn)
                # Committed, as the summary would else come before the last row, and be overwritten by it.
                run.log(rows[-1] | pictures, step=last, commit=True)
                if run.starting_step > last and (lost := _lost(run, pictures)):
                    run.log({"epoch": last} | lost, commit=True)
            best = {"best/epoch": result["best"]["epoch"]} if result.get("best") else {}
            told = best | {"ended": result.get("ended")}
            run.summary.update(_summary(rows) | result.get("test", {}) | told)
            run.finish(exit_code=0 if result["status"] == "finished" else 1)
            return run.url
        except Exception as error:
            with contextlib.suppress(SystemExit):  # with which wandb reports that its service ended badly
                wandb.teardown()  # it would go on with this run, and refuse it to the next call
            raise RunFailed(
                f"W&B did not take {folder.path} ({reason(error)}); another upload goes on from here"
            ) from None


def replay(folder: Path, *, mode: Mode, warn: Callable[[str], None]) -> None:
    """Tells a W&B agent what it asked to train and what had been trained before: the same rows as if it were now.

    Args:
        folder: of a run that has ended.
        mode: as of `start`.
        warn: called with one line whenever the result is less than what was asked for.
    """
    run_folder = RunFolder(folder)
    result = run_folder.read_result()
    assert result is not None
    tracker = start(mode=mode, run_dir=folder, config=result["config"], name=folder.name, warn=warn)
    for row in _rows(run_folder):
        tracker.log(row, step=int(row["epoch"]))
    tracker.summary(result.get("test", {}))
    tracker.finish(0 if result["status"] == "finished" else 1)


def skip(parameters: dict[str, Any], folder: Path) -> None:
    """Ends a W&B agent's run that a condition of the sweep leaves out; without it, the server would call it crashed."""
    tracker = start(mode="auto", run_dir=folder, config=parameters, tags=["skipped"], warn=lambda message: None)
    tracker.finish(0)


def _point(folder: RunFolder) -> dict[str, Any]:
    """What a sweep has set, under its own names."""
    return _read(folder.path / "trial.json").get("point", {})


def _tracked(folder: RunFolder, id: str) -> str | None:
    """The id under which the run was tracked online while it trained: its own, or the one that an agent gave it."""
    for path in sorted(folder.path.glob("wandb/run-*-*"), reverse=True):
        name = path.name.split("-", 2)[2]
        # Older than env.json is what another run left here, which --force has replaced.
        if name == id or path.stat().st_mtime >= folder.env.stat().st_mtime:
            return name
    return None


def _rows(folder: RunFolder) -> list[dict[str, float]]:
    """What training logged, epoch by epoch: metrics.csv, and speed.csv where there is one."""
    rows: dict[int, dict[str, float]] = {}
    for path in (folder.metrics, folder.speed):
        if path.is_file():
            with path.open(newline="") as file:
                for cells in csv.DictReader(file):
                    row = {key: float(cell) for key, cell in cells.items() if cell}
                    rows.setdefault(int(row["epoch"]), {}).update(row)
    return [rows[epoch] for epoch in sorted(rows)]


def _pictures(folder: RunFolder, warn: Callable[[str], None]) -> dict[str, Any]:
    import wandb

    pictures = {}
    for path in sorted(folder.plots.glob("*.png")):
        try:
            pictures[f"best/{path.stem}"] = wandb.Image(str(path))
        except Exception as error:
            warn(f"{path} is left out of the upload ({reason(error)})")
    return pictures


def _lost(run: Any, pictures: dict[str, Any]) -> dict[str, Any]:
    """Pictures whose row the server has, but which themselves were cut off on their way."""
    import wandb

    files = wandb.Api().run(run.path).files(pattern="media/images/best/%")
    names = [file.name for file in files if file.size]
    return {
        key: picture
        for key, picture in pictures.items()
        if not any(re.fullmatch(rf"media/images/{re.escape(key)}_\d+_\w+\.png", name) for name in names)
    }


def _summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """What W&B's client would sum up, had it seen all rows at once: best values, nested as it does, else the last."""
    summary: dict[str, Any] = {}
    for row in rows:
        summary |= row
    for best, keys in BEST_OF.items():
        for key in keys:
            if found := [row[key] for row in rows if key in row and row[key] == row[key]]:
                summary[key] = {best: min(found) if best == "min" else max(found)}
    return summary


def _read(receipt: Path) -> dict[str, Any]:
    try:
        return json.loads(receipt.read_text())
    except (OSError, ValueError):
        return {}
