"""Every command runs in an empty folder, with no data but its own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REGX_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_COLOR", "1")
