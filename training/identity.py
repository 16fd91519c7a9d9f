"""What the user's own files are, by their content: so that a changed file is another run, and a moved one is not."""

from __future__ import annotations

import functools
import hashlib
import os
import zipfile
from pathlib import Path

# Between the path of a file of weights and the digest of what it held when the run was configured.
MARK = "@sha256:"


def absolute(name: str) -> str:
    """The absolute path of a file or folder that is there; anything else as it is."""
    path = Path(name).expanduser()
    return os.path.abspath(path) if path.exists() else name


def of_data(path: Path) -> str:
    """Digest of a table's bytes, or of a folder's tree: its folders, and how many files each holds."""
    return _of_file(path, path.stat().st_mtime_ns) if path.is_file() else _of_folder(path)


def marked(source: str) -> str:
    """A path of weights with the digest of the file; a run folder stands for its best weights.

    A path that is marked already, that of no file, and `torchvision` stay as they are.
    """
    if source == "torchvision" or MARK in source:
        return source
    path = Path(source).expanduser()
    if (path / "checkpoints" / "best.pt").is_file():
        path = path / "checkpoints" / "best.pt"
    if not path.is_file():
        return source
    return f"{os.path.abspath(path)}{MARK}{_of_file(path, path.stat().st_mtime_ns)[:16]}"


def unmarked(source: str) -> tuple[str, str]:
    """Path and digest of `marked`; the digest is empty where there is none."""
    path, _, digest = source.partition(MARK)
    return path, digest


def is_compact(source: str) -> bool:
    """Whether a marked or unmarked path is of weights that something was removed from (`regx compact`)."""
    path = Path(unmarked(source)[0])
    return path.is_file() and _has_recipe(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _has_recipe(path: Path, changed: int) -> bool:
    """Looks for the key in the file without PyTorch, which would have to be imported for it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any(b"recipe" in file.read(name) for name in file.namelist() if name.endswith("data.pkl"))


@functools.lru_cache(maxsize=8)  # asked for several times in a run, of files that may be large
def _of_file(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_folder(path: Path) -> str:
    found = hashlib.sha256()
    for folder, inner, files in os.walk(path):
        inner.sort()
        found.update(f"{os.path.relpath(folder, path)} {len(files)}\n".encode())
    return found.hexdigest()
