"""What a figure is, and how it becomes a file."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regx.analysis.figures.theme import THEMES
from regx.errors import RunFailed, UserError, did_you_mean
from regx.training.folder import write_atomically

FORMATS = ("png", "svg", "csv")
WIDTH = 640  # pixels of a figure that has no container
_SCALE = 2.0  # dots of a PNG per pixel
_VEGA_LITE = "6.4"


@dataclass(frozen=True)
class Figure:
    """One figure: what `regx plot` writes and a report shows.

    Attributes:
        name: name of its files, and anchor: `learning-curves`. It begins with the name of its kind.
        title: what it shows.
        caption: how it was computed: how many runs, what a band is, which split.
        spec: Vega-Lite 6 with the data inline, without title and without a theme's colours (`THEMES` has those).
            `width` is `container` where a figure is as wide as what it stands in; one of several panels has widths
            of its own and no `width` at its top.
        rows: what is drawn, for the CSV.
    """

    name: str
    title: str
    caption: str
    spec: dict[str, Any]
    rows: list[dict[str, Any]]


def save(figure: Figure, folder: Path, theme: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes a figure into `folder`, which is made: `NAME.png`, `NAME-dark.png`, ..., `NAME.csv`.

    Raises:
        UserError: there is no such theme or format.
        RunFailed: the folder cannot be written.
    """
    if theme not in THEMES:
        raise UserError(f"{theme!r} is no theme{did_you_mean(theme, THEMES)}", "theme")
    _check_formats(formats)
    stem = figure.name if theme == "light" else f"{figure.name}-{theme}"
    content: dict[str, str | bytes] = {"csv": _csv(figure.rows)}
    if set(formats) - {"csv"}:
        content["svg"] = svg = _as_svg(figure, theme)
        if "png" in formats:
            content["png"] = _as_png(svg)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind in dict.fromkeys(formats):
            path = folder / (f"{figure.name}.csv" if kind == "csv" else f"{stem}.{kind}")
            write_atomically(path, content[kind])
            paths.append(path)
    except OSError as error:
        raise RunFailed(f"cannot write {error.filename or folder}: {error.strerror}; choose another --out") from error
    return paths


def save_all(figures: Sequence[Figure], folder: Path, theme: str, formats: Sequence[str] = FORMATS) -> Iterator[Path]:
    """Writes figures one after the other, in a theme or in `both`; a table is the same in both and is written once.

    Raises:
        UserError: there is no such theme or format.
        RunFailed: the folder cannot be written.
    """
    check_look(theme, formats)
    for figure in figures:
        for place, name in enumerate(THEMES if theme == "both" else [theme]):
            yield from save(figure, folder, name, [kind for kind in formats if kind != "csv" or place == 0])


def check_look(theme: str, formats: Sequence[str]) -> None:
    """Raises `UserError` for a theme (or `both`) or a format that does not exist."""
    known = (*THEMES, "both")
    if theme not in known:
        raise UserError(f"{theme!r} is no theme{did_you_mean(theme, known)}", "theme")
    _check_formats(formats)


def _check_formats(formats: Sequence[str]) -> None:
    """Raises `UserError` for a format that does not exist."""
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"{name!r} is no format of a figure{did_you_mean(name, FORMATS)}", "format")


def _as_svg(figure: Figure, theme: str) -> str:
    import vl_convert

    return vl_convert.vegalite_to_svg(as_json(titled(figure)), vl_version=_VEGA_LITE, config=THEMES[theme])


def _as_png(svg: str) -> bytes:
    import vl_convert

    return vl_convert.svg_to_png(svg, scale=_SCALE)


def titled(figure: Figure) -> dict[str, Any]:
    """The specification of a figure that stands alone: with title and caption, and a width of its own."""
    spec = dict(figure.spec)
    if spec.get("width") == "container":
        spec["width"] = WIDTH
    return spec | {
        "title": {"text": textwrap.wrap(figure.title, 80), "subtitle": textwrap.wrap(figure.caption, 110)},
        "padding": 14,
    }


def as_json(value: Any) -> str:
    """JSON of a specification; the two line ends that Vega's expressions cannot hold become spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).translate({0x2028: " ", 0x2029: " "})


def slug(text: str) -> str:
    """A part of a figure's name: letters and digits with hyphens between them."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
