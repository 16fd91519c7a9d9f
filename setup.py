"""Maps the top-level folders to `regx.*`; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ["analysis", "cli", "compaction", "data", "models", "regularizers", "sweeps", "training"]
PATTERNS = [pattern for folder in FOLDERS for pattern in (folder, f"{folder}.*")]

setup(
    packages=["regx", *(f"regx.{name}" for name in find_packages(include=PATTERNS))],
    package_dir={"regx": "regx", **{f"regx.{folder}": folder for folder in FOLDERS}},
)
