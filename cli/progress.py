"""What goes to stderr while a run trains: a bar on a terminal, plain lines in a pipe."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

# Seconds between plain lines, and between redraws of the bar.
LINE_EVERY = 10.0
DRAW_EVERY = 0.1


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows on a terminal that something slow is going on."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


@contextmanager
def observer() -> Iterator["Lines"]:
    """The observer that fits stderr; it is closed at the end."""
    watcher = Bar() if sys.stderr.isatty() else Lines()
    try:
        yield watcher
    finally:
        watcher.close()


class Lines:
    """Plain lines, for pipes and log files: the first epoch, then one every ten seconds, then the last."""

    def __init__(self) -> None:
        self._printed = -LINE_EVERY
        self._began = time.monotonic()
        self._waiting = ""

    def started(self, lines: list[str]) -> None:
        for line in lines:
            self.say(line)

    def row(self, row: dict[str, float], epochs: int) -> None:
        now = time.monotonic()
        self._waiting = f"epoch {row['epoch']:.0f}/{epochs}  " + "  ".join(f"{k} {v}" for k, v in facts(row).items())
        if now - self._printed >= LINE_EVERY:
            self._printed = now
            self._flush()

    def step(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        """Says where an epoch is that takes long."""
        now = time.monotonic()
        if now - max(self._printed, self._began) >= LINE_EVERY and step < steps:
            self._printed = now
            self._waiting = ""
            self.say(f"epoch {epoch}/{epochs}  step {step}/{steps}")

    def _flush(self) -> None:
        if self._waiting:
            self.say(self._waiting)
            self._waiting = ""

    def warn(self, message: str) -> None:
        self.say(f"regx: warning: {message}")

    def say(self, text: str) -> None:
        # Whoever read the progress may go away; the run goes on.
        with suppress(BrokenPipeError):
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        self._flush()


class Bar(Lines):
    """A progress bar with the last row and the time left; it moves with every step of a long epoch."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self._console,
            refresh_per_second=1 / DRAW_EVERY,
            expand=True,
        )
        self._task: Any = None
        self._drawn = 0.0
        self._last: dict[str, float] = {}
        self._done = 0.0

    def step(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        self._start(epoch, epochs, epoch - 1 + (step - 1) / steps)
        self._done = epoch - 1 + step / steps
        if time.monotonic() - self._drawn >= DRAW_EVERY:
            self._draw(epoch, f"[dim]step[/] {step}/{steps}  ")

    def row(self, row: dict[str, float], epochs: int) -> None:
        self._start(int(row["epoch"]), epochs, row["epoch"] - 1)
        self._last, self._done = row, row["epoch"]
        if time.monotonic() - self._drawn >= DRAW_EVERY:
            self._draw(int(row["epoch"]))

    def _start(self, epoch: int, epochs: int, done: float) -> None:
        """Begins where the run does, so that the estimate of a resumed run is right."""
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("", total=epochs, epoch=epoch, epochs=epochs, facts="")
            self._progress.update(self._task, completed=done)

    def _draw(self, epoch: int, place: str = "") -> None:
        self._drawn = time.monotonic()
        known = facts(self._last).items() if self._last else ()
        text = place + "  ".join(f"[dim]{name}[/] {value}" for name, value in known)
        self._progress.update(self._task, completed=self._done, epoch=epoch, facts=text)

    def say(self, text: str) -> None:
        self._console.print(
            text, markup=False, soft_wrap=True, style="yellow" if text.startswith("regx: warning") else "dim"
        )

    def close(self) -> None:
        if self._task is not None:
            if self._last:
                self._draw(int(self._last["epoch"]))
            # An early end is an end: show the time it took, not the time that is no longer needed.
            self._progress.update(self._task, total=self._done)
            self._progress.stop()


def facts(row: dict[str, float]) -> dict[str, str]:
    """What a person watches: loss, validation metric, dead and linear share."""
    found = {"loss": f"{row['train/loss']:.4f}"}
    for key, name in (("val/acc", "val acc"), ("val/r2", "val R2")):
        if key in row:
            found[name] = f"{row[key]:.3f}"
    for key, name in (("val/jr/unit_dead_ratio", "dead"), ("val/jr/unit_linear_ratio", "linear")):
        if key in row:
            found[name] = f"{row[key]:.0%}"
    for unit in ("elements", "units", "gates"):
        if row.get(f"sparsity/{unit}"):
            found[f"zero {unit}"] = f"{row[f'sparsity/{unit}']:.0%}"
    return found
