"""The HTML file: what people have named stays text, nothing is loaded from elsewhere, and a browser draws all of it."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from regx.analysis.figures import Figure
from regx.analysis.report import Asked, page_of, write
from regx.analysis.report.page import Grid, Page, html, is_report, number_columns
from regx.analysis.report.records import Record
from regx.errors import RunFailed
from tests.analysis.runs_by_hand import run

EVIL = '</script><script>alert("x")</script><!-- & \' "'
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Reader(HTMLParser):
    """Elements with their attributes, and the texts in scripts and elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("runs")
    records = []
    for label, value in ((EVIL, 0.9), ("Baseline", 0.5)):
        for seed in range(3):
            path = folder / f"run-{len(records)}"
            path.mkdir()
            rows = [f"{epoch},{value},{1 / epoch}" for epoch in range(1, 5)]
            (path / "metrics.csv").write_text("\n".join(["epoch,val/acc,val/loss", *rows]) + "\n")
            found = run(value + seed / 100, best={"test/acc": value + seed / 100}, seed=seed, label=label, a=1)
            env: dict[str, Any] = {"argv": ["regx", EVIL], "commit": "abc"}
            records.append(Record(found, path, {"epochs": 4, "error": EVIL}, env))
    return page_of(Asked(EVIL, summary=EVIL, description=EVIL), records)


@pytest.fixture(scope="module")
def reader(page: Page) -> Reader:
    return Reader(html(page))


def test_what_people_have_named_stays_text(page: Page, reader: Reader) -> None:
    kinds = [attributes.get("type") for attributes in reader.all("script")]
    assert kinds == ["application/json", None, None], "no script but data, Vega and our own"
    text = "".join(reader.texts)
    assert text.count(EVIL) > 10 and all("alert" not in script for script in reader.scripts[1:])
    data = json.loads(reader.scripts[0])
    assert page.live_figure is not None
    assert data["figures"]["every-run"] == page.live_figure.spec and EVIL in json.dumps(
        data, ensure_ascii=False
    ).replace('\\"', '"')
    assert "<" not in reader.scripts[0]


def test_nothing_is_loaded_and_only_our_scripts_run(reader: Reader) -> None:
    for _, attributes in reader.elements:
        for name in ("src", "srcset", "href", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (name, value)
    policy = next(a["content"] for a in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy
    assert "unsafe-eval" not in policy and not re.search(r"script-src[^;]*unsafe", policy)
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert allowed == [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in reader.scripts[1:]]


def test_it_can_be_read_by_keyboard_and_by_ear(reader: Reader) -> None:
    assert [a["lang"] for a in reader.all("html")] == ["en"]
    names = {a.get("id") for _, a in reader.elements}
    assert {str(a["href"])[1:] for a in reader.all("a")} <= names, "every link within the page leads somewhere"
    assert all(a.get("scope") == "col" for a in reader.all("th"))
    regions = [a for a in reader.all("div") if a.get("role") == "region"]
    assert regions and all(a.get("tabindex") == "0" and a.get("aria-label") for a in regions)
    assert len(reader.all("details")) == 6, "one per run"


def test_line_ends_that_vega_cannot_hold_are_spaces() -> None:
    figure = Figure("live", "", "", {"data": {"values": [{"row": "a\u2028b\u2029c"}]}}, [])
    (data, *_) = Reader(html(Page("x", live_figure=figure))).scripts
    assert json.loads(data)["figures"]["live"]["data"]["values"] == [{"row": "a b c"}]


def test_sections_without_content_are_left_out() -> None:
    found = Reader(html(Page("t", beside=[Grid("g", ["x"], [["1"]], [True])])))
    assert [a["id"] for a in found.all("section")] == ["asked", "beside"]


def test_written_in_one_step_and_recognised(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    assert write(page, path) == path.stat().st_size and is_report(path)
    (tmp_path / "other.html").write_text("<html></html>")
    assert not is_report(tmp_path / "other.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="cannot write"):
        write(page, tmp_path / "file" / "report.html")


def test_columns_of_numbers() -> None:
    rows = [["a", "1", "-0.5 ± 1", "<0.001*", ""], ["1", "", "+2", "baseline", ""]]
    assert number_columns(["c"] * 5, rows) == [False, True, True, False, False]


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
def test_a_browser_draws_every_figure_without_a_word_of_complaint(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write(page, path)
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=15000", "--dump-dom", path.as_uri()]
    done = subprocess.run([str(BROWSER), *options], capture_output=True, text=True, check=True, timeout=100)
    assert not re.findall(r"CONSOLE.*(?:Error|Refused|Uncaught|error).*", done.stderr)
    found = Reader(done.stdout)
    figures = [a for a in found.all("div") if a.get("data-figure")]
    assert len(figures) >= 2
    assert sum(a.get("class") == "marks" for a in found.all("svg")) == len(figures)
    heads = found.all("th")
    sorting = [a for a in found.all("button") if a.get("type") == "button"]
    assert len(sorting) >= len(heads) - 3 * 6, "a button in every heading but those of single runs"
