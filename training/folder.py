"""The run folder, which is the truth about a run: what is in it, and how it is written so that a kill loses nothing.

config.yaml            every option
env.json               versions, commit, command line, device
metrics.csv            one row per logged epoch
speed.csv              samples per second, memory and the cost of regularizers, per logged epoch
coverage.csv           what each regularizer reaches, layer by layer
weights.csv            zeros, mean and deviation of every weight (where a regularizer makes zeros)
status.npz             dead / linear / nonlinear per unit x layer and point x layer
plots/                 figures
checkpoints/last.pt    everything a resumed run needs, the best weights included
checkpoints/best.pt    the best weights alone
result.json            written last: its presence means that the run has ended
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regx import __version__
from regx.errors import RunFailed, UserError
from regx.training import experiments
from regx.training.config import RunConfig

# What a checkpoint of a run holds; a change of that is a new number.
CHECKPOINT_FORMAT = 3


# What `ended` of result.json says of a run that a sweep's hyperband has ended.
PRUNED = "early_terminate"


class InUse(RunFailed):
    """Another process is running in the folder."""


class RunFolder:
    """Paths and files of one run.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.env = path / "env.json"
        self.metrics = path / "metrics.csv"
        self.speed = path / "speed.csv"
        self.coverage = path / "coverage.csv"
        self.weights = path / "weights.csv"
        self.status = path / "status.npz"
        self.plots = path / "plots"
        self.last = path / "checkpoints" / "last.pt"
        self.best = path / "checkpoints" / "best.pt"
        self.result = path / "result.json"

    def create(self, config: RunConfig, argv: list[str]) -> str:
        """Writes the configuration and the environment; a resumed run adds its environment to the first one.

        Returns:
            The run's identity for W&B: it survives a resume, and a run that starts anew has another.
        """
        self.last.parent.mkdir(exist_ok=True)
        now = environment(argv)
        if self.env.is_file():
            env = json.loads(self.env.read_text())
            env["resumed"] = [*env.get("resumed", []), now]
        else:
            env = {"id": f"{config.hash()}-{secrets.token_hex(3)}"} | now
        write_atomically(self.config, config.as_yaml())
        write_atomically(self.env, json.dumps(env, indent=2) + "\n")
        return env["id"]

    def clear(self) -> None:
        """Removes what an earlier run of the same configuration left, so that it starts anew."""
        for path in (self.result, self.last, self.best, self.metrics, self.speed, self.status, self.weights, self.env):
            path.unlink(missing_ok=True)

    def read_config(self) -> RunConfig:
        """The configuration of the run.

        Raises:
            UserError: this is no run folder.
        """
        if not self.config.is_file():
            raise UserError(f"{self.path} is no run folder: it has no config.yaml")
        return experiments.from_dict(experiments.read(self.config))

    def read_result(self) -> dict[str, Any] | None:
        """`result.json`, or None while the run has not ended.

        Raises:
            RunFailed: the file is not JSON.
        """
        if not self.result.is_file():
            return None
        try:
            return json.loads(self.result.read_text())
        except json.JSONDecodeError:
            raise RunFailed(f"{self.result} is corrupt; delete it and run `regx resume {self.path}`") from None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder, where there is none, and holds it for this process.

        Raises:
            RunFailed: the folder cannot be written; `InUse` where another process is running in it.
        """
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise InUse(f"{self.path} is in use by another process; wait for it or choose another --run-dir") from None
        except OSError as error:
            raise RunFailed(
                f"cannot write run folder {self.path}: {error.strerror}; choose another --run-dir"
            ) from None
        try:
            yield
        finally:
            lock.release()


class MetricsFile:
    """Appends rows to metrics.csv; each row is complete on disk before the next begins.

    Args:
        path: the file.
        keep_to: when resuming, the last epoch whose row is kept; later rows came after the checkpoint and are redone.

    Raises:
        RunFailed: when resuming, the file is damaged.
    """

    def __init__(self, path: Path, keep_to: int = 0) -> None:
        self.path = path
        self.columns: list[str] = []
        if keep_to:
            self.columns, kept = _read_rows(path, keep_to)
            write_atomically(path, _lines([self.columns, *kept]))
        else:
            path.unlink(missing_ok=True)
        self._file = path.open("a", newline="")

    def append(self, row: dict[str, float]) -> None:
        """Writes one row; the first row names the columns."""
        if not self.columns:
            self.columns = list(row)
            self._file.write(_lines([self.columns]))
        self._file.write(_lines([[_cell(row.get(column)) for column in self.columns]]))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _read_rows(path: Path, keep_to: int) -> tuple[list[str], list[list[str]]]:
    """Columns, and the complete rows up to epoch `keep_to`."""
    try:
        with path.open(newline="") as file:
            columns, *rows = csv.reader(file)
        epoch = columns.index("epoch")
        return columns, [row for row in rows if len(row) == len(columns) and int(row[epoch]) <= keep_to]
    except (OSError, ValueError):
        raise RunFailed(f"{path} is damaged; delete {path.parent}/checkpoints/last.pt to start the run anew") from None


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


def _lines(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces `path` by `content` in one step: a reader or a kill sees the old file or the new one, never a part."""
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows with the same keys as a CSV table, atomically."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue())


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors, numbers, strings, lists and dicts atomically, readable with `weights_only=True`."""
    import torch

    buffer = io.BytesIO()
    torch.save(_own(state), buffer)
    write_atomically(path, buffer.getvalue())


def _own(value: Any) -> Any:
    """The same with copies of tensors that are a part of a larger storage, all of which would be saved otherwise."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.clone() if value.untyped_storage().nbytes() > value.numel() * value.element_size() else value
    if isinstance(value, dict):
        return type(value)((key, _own(item)) for key, item in value.items())
    return type(value)(_own(item) for item in value) if isinstance(value, list | tuple) else value


def load_checkpoint(path: Path, hash: str | None = None) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU.

    Args:
        path: the file.
        hash: of the configuration that it must belong to.

    Raises:
        RunFailed: the file is damaged, is no checkpoint of regx, or belongs to another configuration.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged files; the cause stays chained
        raise RunFailed(f"checkpoint {path} is damaged; delete it, and `regx resume` starts the run anew") from error
    if not isinstance(state, dict) or "epoch" not in state:
        raise RunFailed(f"{path} is no checkpoint of regx")
    if hash is not None and state.get("format") != CHECKPOINT_FORMAT:
        raise RunFailed(f"{path} was written by another version of regx; delete it to start the run anew")
    if hash is not None and state.get("hash") != hash:
        raise RunFailed(f"config.yaml or its data file has changed since {path}; delete that to start the run anew")
    return state


def to_json(value: Any) -> str:
    """JSON text in which NaN and infinities, which JSON lacks, are null."""
    return json.dumps(_finite(value), indent=2) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def environment(argv: list[str]) -> dict[str, Any]:
    """What a run ran on: versions, commit, command line. No environment variables: they hold secrets."""
    return {
        "regx": __version__,
        "commit": _commit(),
        "argv": argv,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "versions": _versions(),
    }


@functools.cache  # many runs of one process ask for it
def _versions() -> dict[str, str | None]:
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {}
    for package in ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "ucimlrepo", "wandb", "typer"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


@functools.cache
def _commit() -> str | None:
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists() or not shutil.which("git"):
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
