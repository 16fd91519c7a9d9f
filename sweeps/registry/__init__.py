"""Sweeps by name: those that regx ships, here beside this file, and the user's own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from regx.errors import RunFailed, UserError, did_you_mean
from regx.registry import Info, Registry
from regx.sweeps import definition, document, plan, sidecar
from regx.sweeps.definition import Sweep

HERE = Path(__file__).parent
# The definition that a sweep's folder keeps: what was run last, changes from the command line included. Nobody calls a
# file of their own so.
KEPT = ".sweep.yaml"


def own_folder() -> Path:
    """Where a user keeps sweeps of their own: `$REGX_SWEEPS`, else `regx/sweeps` among the user's configuration."""
    from platformdirs import user_config_path

    return Path(os.environ.get("REGX_SWEEPS") or user_config_path("regx") / "sweeps")


def files() -> dict[str, Path]:
    """Every sweep that has a name; a user's own goes before a shipped one."""
    found = {}
    for folder in (HERE, own_folder()):
        found |= {
            path.stem: path
            for path in sorted(folder.glob("*.yaml"))
            if not path.name.endswith(sidecar.SUFFIX) and path.is_file()
        }
    return found


def find(name: str) -> Path:
    """The file of a sweep.

    Args:
        name: of the registry, a path of a YAML file, or the folder of a sweep that has been run.

    Raises:
        UserError: there is none, with the nearest name.
    """
    path = Path(name).expanduser()
    if name.endswith(sidecar.SUFFIX):
        raise UserError(f"{name} is a sidecar; give the sweep beside it, {name.removesuffix(sidecar.SUFFIX)}.yaml")
    if (path / KEPT).is_file():
        return path / KEPT
    known = files()
    if name in known:
        return known[name]
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UserError(f"no such sweep: {name}; a sweep is a name (`regx sweep list`) or the path of a YAML file")
    beside = [f"{name}{suffix}" for suffix in (".yaml", ".yml") if path.with_name(f"{path.name}{suffix}").is_file()]
    near = f"; did you mean {beside[0]}?" if beside else did_you_mean(name, known)
    raise UserError(f"no sweep is called {name!r}{near} (see `regx sweep list`)")


def load(
    name: str,
    changes: dict[str, Any] | None = None,
    *,
    seeds: list[int] | None = None,
    run_cap: int | None = None,
) -> Sweep:
    """Reads and checks a sweep; arguments as of `find` and `regx.sweeps.definition.read`."""
    path = find(name)
    own = path.resolve().parent.name if path.name == KEPT else None
    return definition.read(path, changes, name=own, seeds=seeds, run_cap=run_cap)


def folder_of(sweep: Sweep, run_dir: Path) -> Path:
    """The folder of a sweep's runs."""
    return sweep.path.parent if sweep.path.name == KEPT else run_dir / sweep.name


def keep(sweep: Sweep, folder: Path) -> Path:
    """Writes a sweep and its sidecar into its folder, from which every later command takes them.

    Raises:
        RunFailed: the folder cannot be written.
    """
    from regx.training.folder import write_atomically

    path = folder / KEPT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, document.dump(sweep.document.value))
        write_atomically(sidecar.beside(path), document.dump(sweep.sidecar.as_dict()))
    except OSError as error:
        raise RunFailed(f"cannot write {folder}: {error.strerror}; choose another --run-dir") from None
    return path


def rows() -> Iterable[Info]:
    """A row for every file, from the file and its sidecar alone."""
    for name, path in sorted(files().items()):
        yield _row(name, path)


def _row(name: str, path: Path) -> Info:
    try:
        sweep = definition.read(path)
        notes, seeds = sweep.sidecar, len(sweep.seeds())
        found = sweep.run_cap * seeds if sweep.run_cap else len(plan.trials(sweep, path.parent))
        facts: dict[str, Any] = {
            "experiment": sweep.experiment,
            "method": sweep.method,
            "runs": f"{found // seeds} x {seeds} seeds" if seeds > 1 else str(found),
            "takes": notes.budget,
        }
        summary, description, source = notes.summary, notes.description, notes.source
    except UserError as error:  # of the user's own: listed, so that it is not missed
        facts, summary, description, source = {}, f"cannot be read: {error.message}", "", ""
    headline = summary if summary.endswith(("?", "!", ".")) else f"{summary}."
    text = "\n\n".join(part for part in (headline, description) if part.strip("."))
    return Info(name, summary, f"{__name__}:find", (), text, source, facts=facts)


def names() -> Iterator[str]:
    """For completion."""
    return iter(files())


REGISTRY = Registry("sweep", HERE, __name__, more=rows)
