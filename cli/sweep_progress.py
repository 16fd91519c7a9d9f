"""What goes to stderr while a sweep runs: a live table on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from regx.cli.progress import LINE_EVERY

if TYPE_CHECKING:
    from regx.sweeps.definition import Sweep
    from regx.sweeps.report import Report

DRAW_EVERY = 0.5
IDLE_LINE_EVERY = 60.0


@contextmanager
def watcher(sweep: Sweep) -> Iterator[Lines]:
    """What fits stderr; it is closed at the end."""
    found = Live(sweep) if sys.stderr.isatty() else Lines(sweep)
    try:
        yield found
    finally:
        found.close()


class Lines:
    """A line ten seconds after something has ended, or a minute after the last one; and one for every failure."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._printed = -IDLE_LINE_EVERY
        self._ended = -1
        self._said: set[str] = set()

    def __call__(self, report: Report) -> None:
        self.tell_events(report)
        now, ended = time.monotonic(), report.finished + len(report.failed)
        if now - self._printed >= (LINE_EVERY if ended != self._ended else IDLE_LINE_EVERY):
            self._printed, self._ended = now, ended
            self.say("  ".join(f"{key} {value}" for key, value in counts(self.sweep, report).items()))

    def tell_events(self, report: Report) -> None:
        """Says what went wrong, once."""
        for text in _events(report):
            if text not in self._said:
                self._said.add(text)
                self.say(text)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is left to be said."""


class Live(Lines):
    """A table of the workers under a line of counts."""

    def __init__(self, sweep: Sweep) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        super().__init__(sweep)
        self._console = Console(stderr=True, highlight=False)
        self._live = RichLive(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def __call__(self, report: Report) -> None:
        self.tell_events(report)
        now = time.monotonic()
        if now - self._printed >= DRAW_EVERY:
            self._printed = now
            self._live.update(self._drawn(report), refresh=True)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, style="yellow" if "failed" in text or "errors" in text else "dim")

    def close(self) -> None:
        self._live.stop()

    def _drawn(self, report: Report) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        line = Text(f"{self.sweep.name}  ", style="bold")
        for key, value in counts(self.sweep, report).items():
            line.append(f"{key} ", style="dim").append(f"{value}   ", style="red" if key == "failed" else "")
        done = report.finished + len(report.failed)
        workers = Table.grid(padding=(0, 2))
        for worker, (program, at) in sorted(report.running.items()):
            share = f"epoch {at.epoch}/{at.epochs}" if at else "starting"
            workers.add_row(
                Text(worker, style="cyan"),
                ProgressBar(at.epochs if at else 1, at.epoch if at else 0, width=16),
                Text(share, style="dim"),
                Text(program.describe(), overflow="ellipsis", no_wrap=True),
            )
        for worker, why in sorted(report.dismissed.items()):
            workers.add_row(Text(worker, style="red"), "", Text("stopped", style="red"), Text(why))
        whole = Table.grid(expand=True)  # a bar alone would not end its line
        whole.add_row(ProgressBar(max(1, report.total), done))
        return Group(line, whole, workers)


def _events(report: Report) -> Iterator[str]:
    for trial, why in report.failed.items():
        yield f"failed: {trial}: {last(why)}"
    for text, trial in report.warnings.items():
        yield f"{text} ({trial})"
    for worker, why in report.dismissed.items():
        yield f"{worker} takes no more work: {why}"


def counts(sweep: Sweep, report: Report) -> dict[str, str]:
    """How a sweep stands, in a few words each."""
    found = {"done": f"{report.finished}/{report.total}", "running": str(report.at_work())}
    if report.failed:
        found["failed"] = str(len(report.failed))
    if report.best is not None:
        trial, value = report.best
        found["best"] = f"{sweep.metric.name if sweep.metric else 'metric'} {value:.4g} ({trial.describe()})"
    if report.seconds_left is not None:
        found["left"] = duration(report.seconds_left)
    return found


def last(why: str) -> str:
    """The line of a reason, which may be a traceback, that says most."""
    return next((line.strip() for line in reversed(why.splitlines()) if line.strip()), "no reason was given")


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
