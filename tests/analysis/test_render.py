"""What is written is read back: by the csv and json modules, and by a reader of Markdown and LaTeX rows."""

import csv
import io
import json
import math
import re

import pytest

from regx.analysis import render
from regx.analysis.table import Table

TABLE = Table(
    title="50 % of a_b & c",
    columns=["label", "n", "acc mean", "acc std", "acc low", "acc high", "U_d", "D^layer_n", "p"],
    rows=[
        ["A|B_c", 3, 2 / 3, 0.0125, 0.6, 0.7, 0.5, 0.25, 0.0004],
        ["[x], {y}", 1, 0.1, None, None, None, math.nan, None, 0.05],
        ["$5 ~ \\x^2, \"q\"", 0, None, None, None, None, None, 0.5, "n too small"],
    ],
    notes=["U_d: dead < 20 %"],
    formats={"acc mean": ".3f", "acc std": ".3f", "acc low": ".2f", "acc high": ".2f", "U_d": ".0%", "p": "p"},
)  # fmt: skip


def test_people_see_one_column_for_mean_and_std() -> None:
    columns, rows = render.display(TABLE)
    assert columns == ["label", "n", "acc", "acc CI", "U_d", "D^layer_n", "p"]
    assert rows[0] == ["A|B_c", "3", "0.667 ± 0.013", "[0.60, 0.70]", "50%", "0.25", "<0.001*"]
    assert rows[1] == ["[x], {y}", "1", "0.100", "", "", "", "0.050"]
    assert rows[2][2:] == ["", "", "", "0.5", "n too small"]


def test_terminal_aligns_numbers_and_leaves_texts() -> None:
    table = Table("t", ["name", "count"], [["a", 5], ["bcd", 1234], ["e", None]], formats={"count": ",.0f"})
    assert render.aligned(table)[1] == [["a", "   5"], ["bcd", "1234"], ["e", ""]]


def test_csv_round_trip() -> None:
    columns, *rows = csv.reader(io.StringIO(render.to_csv(TABLE)))
    assert columns == TABLE.columns
    for written, row in zip(rows, TABLE.rows, strict=True):
        for text, cell in zip(written, row, strict=True):
            empty = cell is None or (isinstance(cell, float) and math.isnan(cell))
            assert text == ("" if empty else str(cell))
    assert float(rows[0][2]) == 2 / 3, "every digit"


def test_json_round_trip() -> None:
    found = json.loads(render.to_json(TABLE))
    assert (found["title"], found["columns"], found["notes"]) == (TABLE.title, TABLE.columns, TABLE.notes)
    assert [list(row.values()) for row in found["rows"]] == [
        [None if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in TABLE.rows
    ]


def test_markdown_round_trip() -> None:
    title, body, notes = render.to_markdown(TABLE).split("\n\n")
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in body.splitlines()]
    read = [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in line] for line in lines]
    columns, rows = render.display(TABLE)
    assert [read[0], *read[2:]] == [columns, *rows]
    assert all(re.fullmatch(" ?-+[:-]? ?", cell) for cell in lines[1])
    assert len({len(line) for line in body.splitlines()}) == 1, "the source is aligned too"
    assert title == r"**50 % of a\_b & c**" and notes == "- U\\_d: dead \\< 20 %\n"


def test_latex() -> None:
    text = render.to_latex(TABLE)
    assert r"\caption{50 \% of a\_b \& c}" in text
    body = text[text.index(r"\toprule") : text.index(r"\end{tabular}")].splitlines()
    lines = [line for line in body if line.endswith(r"\\")]
    columns, rows = render.display(TABLE)
    assert len(lines) == 1 + len(rows)
    assert all(len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1 for line in lines)
    assert re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1] == "lrrrrrl"  # type: ignore[index]
    assert lines[0].split(" & ")[4:6] == ["$U_{d}$", r"$D^{\mathrm{layer}}_{n}$"]
    assert lines[1].startswith(r"A\textbar{}B\_c & 3 & 0.667 $\pm$ 0.013 & {[}0.60, 0.70]")
    assert lines[2].startswith(r"{[}x], \{y\}"), "a bracket after a line's end would be its argument"
    assert lines[3].startswith(r"\$5 \textasciitilde{} \textbackslash{}x\textasciicircum{}2")
    assert r"\par\footnotesize $U_{d}$: dead $<$ 20 \%" in text
    unescaped = re.sub(r"\\[{}$&%#_]", "", text)
    assert unescaped.count("{") == unescaped.count("}") and unescaped.count("$") % 2 == 0


@pytest.mark.parametrize("name", render.FORMATS)
def test_a_table_without_rows(name: str) -> None:
    assert "label" in render.FORMATS[name](Table("t", ["label", "n"], []))
