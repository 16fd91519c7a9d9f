"""A command run in this process."""

import pytest

from regx.cli.main import main


class Done:
    """Exit code, stdout and stderr of a command run in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        self.code = stop.value.code
        self.out, self.err = capsys.readouterr()
