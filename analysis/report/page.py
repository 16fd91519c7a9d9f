"""A page: what stands in it, and how it becomes one HTML file that needs nothing else.

Vega-Lite draws its figures; its code is in the file, and a policy in its head forbids the page to load anything or to
run code that was not written here.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regx import __version__
from regx.analysis import render
from regx.analysis.figures import THEMES, Figure
from regx.analysis.figures.figure import as_json
from regx.analysis.table import Table
from regx.errors import RunFailed
from regx.training.folder import to_json, write_atomically

_HERE = Path(__file__).parent
_MARK = '<meta name="generator" content="regx'


@dataclass(frozen=True)
class Grid:
    """A table as it is shown: texts, and which columns hold numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    numbers: list[bool]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Drill:
    """What opens below a run: see the template."""

    command: str
    facts: dict[str, str]
    options: dict[str, str]
    result: Grid
    error: str = ""
    images: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class RunRow:
    """A run in the table of all runs.

    Attributes:
        index: its number, by which figures name it.
        name: of its folder.
        cells: texts.
        settings: what it is filtered by, in the order of the filters.
        drill: what opens below it; None for a run that has not begun.
    """

    index: int
    name: str
    cells: list[str]
    settings: list[str]
    drill: Drill | None


@dataclass(frozen=True)
class RunTable:
    """The table of all runs.

    Attributes:
        columns: headings.
        numbers: which of them hold numbers.
        rows: the runs.
        filters: name of a setting -> its values.
        note: what is left out of it.
    """

    columns: list[str]
    numbers: list[bool]
    rows: list[RunRow]
    filters: dict[str, list[str]]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """What stands on a page; what is empty is left out.

    Attributes:
        title: its heading.
        summary: one line below it.
        description: paragraphs.
        facts: fact -> text.
        varied: parameter -> values.
        fixed: option -> value.
        headline: the answer.
        remarks: on the answer.
        answer_figure: its picture.
        caveats: warnings.
        statistics: tables of means, intervals and tests.
        tables: tables of the sweep.
        missing: tables that cannot be, and why.
        figures: all others.
        live_figure: the one that the filters act on.
        runs: the table of all runs.
        curves: specifications of a run's own curves, and the curves by run.
        beside: tables that set two runs side by side.
    """

    title: str
    summary: str = ""
    description: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    varied: dict[str, str] = field(default_factory=dict)
    fixed: dict[str, str] = field(default_factory=dict)
    headline: str = ""
    remarks: list[str] = field(default_factory=list)
    answer_figure: Figure | None = None
    caveats: list[str] | None = None
    statistics: list[Grid] = field(default_factory=list)
    tables: list[Grid] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    live_figure: Figure | None = None
    runs: RunTable | None = None
    curves: dict[str, Any] = field(default_factory=dict)
    beside: list[Grid] = field(default_factory=list)


def grid(table: Table) -> Grid:
    """A table as every format shows it: mean and std in one cell, an interval in another."""
    columns, rows = render.display(table)
    return Grid(table.title, columns, rows, number_columns(columns, rows), list(table.notes))


def number_columns(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns are set to the right: those whose every text begins as a number."""
    full = [[row[place] for row in rows if row[place]] for place in range(len(columns))]
    return [bool(texts) and all(re.match(r"[-+−<\[]?\d", text) for text in texts) for texts in full]


def write(page: Page, path: Path) -> int:
    """Writes a page in one step.

    Returns:
        Its size in bytes.

    Raises:
        RunFailed: the file cannot be written.
    """
    data = html(page).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise RunFailed(f"cannot write {path}: {error.strerror}; choose another file") from None
    return len(data)


def is_report(path: Path) -> bool:
    """Whether a file was written by `write`."""
    with path.open("rb") as file:
        return _MARK.encode() in file.read(4096)


def html(page: Page) -> str:
    """The page as text. Everything that people have named is escaped; of data in a script, every `<` too."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    scripts = [
        _vega(),
        _as_script((_HERE / "page.js").read_text("utf-8")),
    ]
    drawn = [page.answer_figure, *page.figures, page.live_figure]
    figures = {figure.name: figure.spec for figure in drawn if figure is not None}
    data = {"themes": THEMES, "figures": figures, "live": page.live_figure and page.live_figure.name}
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    return environment.get_template("page.html.jinja").render(
        page=page,
        mark=Markup(f'{_MARK} {__version__}">'),
        version=__version__,
        style=Markup((_HERE / "page.css").read_text("utf-8")),
        scripts=[Markup(text) for text in scripts],
        hashes=hashes,
        data=Markup(_as_data(data | page.curves)),
    )


@functools.cache  # it takes seconds
def _vega() -> str:
    """The code of Vega-Lite and of what shows its figures."""
    import vl_convert

    return _as_script(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _as_script(text: str) -> str:
    """Code that no part of ends the script element early: `<` before `/script` or `!--` only occurs within texts."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", text, flags=re.IGNORECASE)


def _as_data(value: Any) -> str:
    """JSON without NaN, and without a letter that HTML would read."""
    text = as_json(json.loads(to_json(value)))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
