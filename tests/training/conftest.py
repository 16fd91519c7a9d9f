"""Fixtures for tests of tracking: W&B as it is on a machine where nobody has ever used it, and a server for it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wandb_server import Server, served


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No account, no settings and no running wandb service but the test's own."""
    for variable in [key for key in os.environ if key.startswith("WANDB_") or key in ("NETRC", "XDG_CONFIG_HOME")]:
        monkeypatch.delenv(variable)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.chdir(home)
    yield
    if "wandb" in sys.modules:
        import wandb

        wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)


@pytest.fixture
def server(private: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on loopback, to which an account leads."""
    with served() as found:
        for key, value in found.environment(tmp_path / "home").items():
            monkeypatch.setenv(key, value)
        yield found
