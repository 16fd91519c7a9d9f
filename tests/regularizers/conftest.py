"""The benchmarks hold the counters and the obvious implementations that some tests compare with."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def from_benchmarks() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a script of `benchmarks/` by its name."""
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module
    sys.path.remove(folder)
