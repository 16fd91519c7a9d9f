"""Pictures that a run has drawn of its status while it trained, joined to GIFs."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from regx.errors import RunFailed, UserError
from regx.training.folder import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

_FRAME = re.compile(r"(train|val)_(unit|point)_status_(\d+)\.png")
_FRAME_MS, _LAST_MS = 250, 2000
_MOST_FRAMES = 200
_COLOURS = 64  # of a frame, which has a few and their blends at edges


def animate(run: Path, out: Path) -> Iterator[Path]:
    """Joins what `plots/status/` holds to `unit-status-train.gif` and the like, a frame per picture in order of epochs.

    A GIF shows a frame for 0.25 s and its last one for 2 s, and begins anew. Of more than 200 pictures, 200 are taken
    evenly, the first and the last among them.

    Args:
        run: folder of a run that was trained with `--plot-status`.
        out: folder to write to, which is made.

    Raises:
        UserError: the run has no such pictures.
        RunFailed: a picture is damaged, or the folder cannot be written.
    """
    found: dict[str, dict[int, Path]] = {}
    for path in (run / "plots" / "status").glob("*.png"):
        if match := _FRAME.fullmatch(path.name):
            stage, of, epoch = match.groups()
            found.setdefault(f"{of}-status-{stage}", {})[int(epoch)] = path
    if not found:
        raise UserError(f"{run} has no pictures of its status in plots/status; train with --plot-status", "animate")
    for name, frames in sorted(found.items()):
        path = out / f"{name}.gif"
        content = _joined([frames[epoch] for epoch in sorted(frames)])
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            raise RunFailed(f"cannot write {error.filename or path}: {error.strerror}; choose another --out") from error
        yield path


def _joined(paths: list[Path]) -> bytes:
    if len(paths) > _MOST_FRAMES:
        step = (len(paths) - 1) / (_MOST_FRAMES - 1)
        paths = [paths[round(place * step)] for place in range(_MOST_FRAMES)]
    first, *others = [_opened(path) for path in paths]
    content = io.BytesIO()
    # Pillow drops frames that repeat the one before, and then shows that one for as long as both.
    durations = [_FRAME_MS] * len(others) + [_LAST_MS]
    first.save(content, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return content.getvalue()


def _opened(path: Path) -> Image:
    from PIL import Image

    try:
        with Image.open(path) as image:
            whole = image.convert("RGBA")
    except OSError as error:
        raise RunFailed(f"{path} is damaged ({error}); delete it") from None
    white = Image.new("RGBA", whole.size, "white")
    return Image.alpha_composite(white, whole).convert("RGB").quantize(_COLOURS)
