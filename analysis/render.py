"""A table as CSV and JSON, for programs, and as Markdown, LaTeX and aligned text, for people."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable

from regx.analysis.statistics import LEVEL
from regx.analysis.table import Cell, Table, p_text
from regx.training.folder import to_json as finite_json

# What LaTeX would take for something else; texts are otherwise passed on as UTF-8.
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line's end it would be an argument
    "−": r"$-$",
}


def display(table: Table) -> tuple[list[str], list[list[str]]]:
    """Columns and cells as people read them: mean and std in one cell, an interval in another, numbers formatted."""
    columns: list[str] = []
    cells: list[list[str]] = []
    for index, column in enumerate(table.columns):
        stem, _, last = column.rpartition(" ")
        if (last == "std" and f"{stem} mean" in table.columns) or (last == "high" and f"{stem} low" in table.columns):
            continue  # printed with its partner
        own = [row[index] for row in table.rows]
        form = table.formats.get(column, "")
        texts = [_text(cell, form) for cell in own]
        if last == "mean" and f"{stem} std" in table.columns:
            other = [row[table.columns.index(f"{stem} std")] for row in table.rows]
            texts = [
                text if std is None else f"{text} ± {_text(std, form)}" for text, std in zip(texts, other, strict=True)
            ]
            column = stem
        elif last == "low" and f"{stem} high" in table.columns:
            other = [row[table.columns.index(f"{stem} high")] for row in table.rows]
            texts = [
                "" if high is None else f"[{text}, {_text(high, form)}]"
                for text, high in zip(texts, other, strict=True)
            ]
            column = f"{stem} CI"
        columns.append(column)
        cells.append(texts)
    kept = [place for place, texts in enumerate(cells) if any(texts) or not table.rows]
    rows = [[cells[place][row] for place in kept] for row in range(len(table.rows))]
    return [columns[place] for place in kept], rows


def aligned(table: Table) -> tuple[list[str], list[list[str]]]:
    """As `display`, with cells of numbers padded on the left, so that digits stand under each other."""
    columns, rows = display(table)
    for place in range(len(columns)):
        if _is_of_numbers([row[place] for row in rows]):
            width = max((len(row[place]) for row in rows), default=0)
            for row in rows:
                row[place] = row[place].rjust(width) if row[place] else ""
    return columns, rows


def to_csv(table: Table) -> str:
    """Comma-separated values with a line of names; numbers in full precision; title and notes have no place in it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([["" if _is_blank(cell) else cell for cell in row] for row in table.rows])
    return text.getvalue()


def to_json(table: Table) -> str:
    """JSON: title, columns, rows as mappings, notes; numbers in full precision, empty cells and NaN null."""
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return finite_json({"title": table.title, "columns": table.columns, "rows": rows, "notes": table.notes})


def to_markdown(table: Table) -> str:
    """A table of GitHub's Markdown, its title in bold above and its notes below."""
    columns, rows = display(table)
    numbers = [_is_of_numbers([row[place] for row in rows]) for place in range(len(columns))]
    lines = [[_markdown(cell) for cell in line] for line in (columns, *rows)]
    widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(columns))]
    padded = [
        " | ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numbers, strict=True)
        )
        for line in lines
    ]
    rule = "|".join("-" * (width + 1) + (":" if number else "-") for width, number in zip(widths, numbers, strict=True))
    body = "\n".join([f"| {padded[0]} |", f"|{rule}|", *(f"| {line} |" for line in padded[1:])])
    notes = "".join(f"\n- {_markdown(note)}" for note in table.notes)
    return f"**{_markdown(table.title)}**\n\n{body}\n" + (f"{notes}\n" if notes else "")


def to_latex(table: Table) -> str:
    r"""A LaTeX `table` with booktabs' rules (`\usepackage{booktabs}`), the title as its caption and notes below it."""
    columns, rows = display(table)
    sides = "".join("r" if _is_of_numbers([row[place] for row in rows]) else "l" for place in range(len(columns)))
    lines = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in rows]
    notes = [rf"\par\footnotesize {_latex(note)}" for note in table.notes]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(table.title)}}}",
            rf"\begin{{tabular}}{{{sides}}}",
            r"\toprule",
            " & ".join(_latex(column) for column in columns) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            *notes,
            r"\end{table}",
            "",
        ]
    )


FORMATS: dict[str, Callable[[Table], str]] = {
    "csv": to_csv,
    "json": to_json,
    "markdown": to_markdown,
    "latex": to_latex,
}


def _is_blank(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _text(cell: Cell, form: str) -> str:
    if _is_blank(cell):
        return ""
    if isinstance(cell, str | bool):
        return str(cell)
    if form == "p":
        return p_text(cell) + "*" * (cell < LEVEL)  # type: ignore[operator,arg-type]
    if isinstance(cell, int) and not form.endswith("%"):
        return str(cell)
    return format(cell, form or ".6g")


def _is_of_numbers(texts: list[str]) -> bool:
    full = [text for text in texts if text]
    return bool(full) and all(re.match(r"[-+<\[]?\d|-$|-?inf", text) for text in full)


def _markdown(text: str) -> str:
    return re.sub(r"([|*_<\\])", r"\\\1", text).replace("\n", " ")


def _latex(text: str) -> str:
    """Escapes; the paper's symbols (U_d, D^layer_n) become formulas."""
    text = text.replace("\n", " ")
    escaped, place = "", 0
    for symbol in re.finditer(r"\b([UD])(?:\^(layer|network))?(?:_([dln]))?\b", text):
        if symbol[2] or symbol[3]:
            above = rf"^{{\mathrm{{{symbol[2]}}}}}" if symbol[2] else ""
            below = f"_{{{symbol[3]}}}" if symbol[3] else ""
            escaped += f"{_escaped(text[place : symbol.start()])}${symbol[1]}{above}{below}$"
            place = symbol.end()
    return escaped + _escaped(text[place:])


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
