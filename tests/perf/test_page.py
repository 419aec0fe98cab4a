"""The page in a real browser: it works offline, without a console error, with a thousand layers, and can be used."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_up import chain, model

from hbtool.flows.perf import file_stem
from hbtool.perf.page import COLUMNS, report_page
from hbtool.perf.report import Report, make_report
from hbtool.perf.structure import structure_of
from hbtool.target.target import Target

LAYERS = 1000

USE_THE_PAGE = """
<script>
const seen = {};
const search = document.getElementById("layer-search");
const cell = (column) => document.getElementById("layer-table").tBodies[0].rows[0].cells[column].dataset.v;
search.value = "made/77";
search.dispatchEvent(new Event("input"));
seen.filtered = document.getElementById("layer-count").textContent;
search.value = "";
search.dispatchEvent(new Event("input"));
const heads = Array.from(document.querySelectorAll("#layer-table th"));
const head = heads.find((h) => h.textContent.includes("Part of latency"));
head.querySelector("button").click();
seen.largest = Number(cell(head.cellIndex));
seen.sorted = head.getAttribute("aria-sort");
head.querySelector("button").click();
seen.smallest = Number(cell(head.cellIndex));
const whole = document.getElementById("timeline-span").textContent;
document.querySelector("[data-timeline=in]").click();
seen.zoomed = document.getElementById("timeline-span").textContent !== whole;
document.querySelector("#layer-table [data-from]").click();
seen.focused = document.activeElement.id;
const canvas = document.getElementById("timeline");
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
seen.drawn = new Set(Array.from({length: pixels.length / 4}, (_, i) => pixels.slice(4 * i, 4 * i + 3).join())).size;
for (const [key, value] of Object.entries(seen)) { document.documentElement.setAttribute("data-seen-" + key, value); }
</script>
"""


class Dom(html.parser.HTMLParser):
    """Counts elements, and keeps attributes of the root and texts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.root: dict[str, str | None] = {}
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)

    def text(self, identifier: str) -> str:
        return self.texts.get(identifier, "").strip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag == "html":
            self.root = dict(attrs)
        self._open.append(dict(attrs).get("id") or "")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1]:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + data


@pytest.fixture(scope="session")
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (path := shutil.which(name)) is not None:
            return path
    pytest.skip("no chromium on the PATH: apt-get install chromium")


def opened(browser: str, page: Path, profile: Path) -> tuple[Dom, str]:
    """The page's DOM after its script ran, and what the browser logged about it."""
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}", "--enable-logging=stderr", "--window-size=1280,1000", "--dump-dom",
        page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return Dom(done.stdout), console


def written(report: Report, folder: Path, extra: str = "") -> Path:
    files = {s.name: f"{s.name}.json" for s in report.segments}
    text = report_page(report, structure_of(report), file_stem(report.model.name), files)
    path = folder / "page.html"
    path.write_text(text.replace("</body>", f"{extra}</body>"), "utf-8")
    return path


def test_a_real_report_opens_without_a_console_error(browser: str, reports: dict[str, Report], tmp_path: Path) -> None:
    report = reports["good"]
    dom, console = opened(browser, written(report, tmp_path), tmp_path / "profile")
    assert console == ""
    assert dom.root["data-ready"] == "yes"
    assert dom.text("problem") == ""
    layers = sum(len(s.layers) for s in report.segments)
    assert dom.text("layer-count") == f"{layers} of {layers} layers"
    assert dom.counts["svg"] == 1 + 2 * len(report.segments)
    assert dom.counts["details"] == len(report.segments)
    assert dom.counts["table"] == dom.counts["caption"] == 5
    assert dom.counts["canvas"] == 1


def test_an_error_in_the_page_would_be_seen(browser: str, reports: dict[str, Report], tmp_path: Path) -> None:
    broken = written(reports["good"], tmp_path, "<script>missing.thing</script><img src='https://example.org/x.png'>")
    dom, console = opened(browser, broken, tmp_path / "profile")
    assert "missing is not defined" in console and "Content Security Policy" in console
    assert "missing is not defined" in dom.text("problem")


def test_a_thousand_layers_can_be_sorted_filtered_and_found_in_the_timeline(
    browser: str, machine: Target, tmp_path: Path
) -> None:
    report = make_report(model(chain(LAYERS, machine, "made"), machine))
    dom, console = opened(browser, written(report, tmp_path, USE_THE_PAGE), tmp_path / "profile")
    # The page forbids everything that is not in it, so its own inline test script runs and nothing else is asked for.
    assert console == ""
    assert dom.counts["tr"] > LAYERS
    parts = [layer.latency_us for layer in report.segments[0].layers]
    assert dom.root["data-seen-filtered"] == f"11 of {LAYERS} layers"  # 77 and 770..779
    assert dom.root["data-seen-sorted"] == "descending"
    assert float(dom.root["data-seen-largest"] or 0) == max(parts)
    assert float(dom.root["data-seen-smallest"] or 0) == min(parts)
    assert dom.root["data-seen-zoomed"] == "true"
    assert dom.root["data-seen-focused"] == "timeline"
    assert int(dom.root["data-seen-drawn"] or 0) >= 5, "lanes are drawn in their colours"


def test_hostile_names_make_no_elements(browser: str, machine: Target, tmp_path: Path) -> None:
    evil = '</script><script>document.title="taken"</script><img src=x onerror="document.title=1">'
    report = make_report(model(chain(3, machine, evil), machine, name=evil, node=evil))
    dom, console = opened(browser, written(report, tmp_path), tmp_path / "profile")
    assert console == ""
    assert dom.root["data-ready"] == "yes"
    assert dom.counts["script"] == 2 and "img" not in dom.counts


def test_the_page_asks_for_nothing(reports: dict[str, Report], tmp_path: Path) -> None:
    text = written(reports["good"], tmp_path).read_text("utf-8")
    links = set(re.findall(r'(?:src|href|action)="([^"]*)"', text))
    outside = {link for link in links if not re.fullmatch(r"#[\w-]+|[\w.-]+\.(json|svg|png)", link)}
    assert outside == set()
    assert "default-src 'none'" in text
    assert {url for url in re.findall(r"https?://[^\s\"'<]+", text) if "w3.org" not in url} == set()


def test_layer_table_has_a_cell_per_column(reports: dict[str, Report], tmp_path: Path) -> None:
    text = written(reports["good"], tmp_path).read_text("utf-8")
    rows = re.findall(r"<tr data-segment=.*?</tr>", text, flags=re.DOTALL)
    assert len(rows) == sum(len(s.layers) for s in reports["good"].segments)
    assert {row.count("<td") for row in rows} == {len(COLUMNS)}


def test_without_layer_details_the_page_says_why(reports: dict[str, Report], tmp_path: Path) -> None:
    text = written(reports["slow"], tmp_path).read_text("utf-8")
    assert 'id="layer-table"' not in text
    assert "compiler_parameters.debug: false" in text and "optimize_level O0" in text
