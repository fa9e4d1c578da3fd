"""The plan's page in a real browser: no complaints, nothing beside the screen, and it answers to a hand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lab.system import LabUnavailableError, ensure_packages
from tests.unit.page.pages import example_page, hostile_page

pytestmark = pytest.mark.live

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--enable-logging=stderr", "--virtual-time-budget=3000",
)  # fmt: skip
# Runs in the page; the frame around it is what makes a screen of 390 pixels out of a window that cannot be so small.
PROBE = """
<script>
addEventListener("load", () => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const seen = (e) => e.getBoundingClientRect().width > 0;
  const name = (e) => `${e.tagName}.${e.getAttribute("class")} ${e.textContent.trim().slice(0, 40)}`;
  const beside = all("body *").filter(seen).filter((e) => {
    const box = e.getBoundingClientRect();
    return box.right > innerWidth + 1 || box.left < -1;
  });
  const cut = all(".flow text, .chart text").filter(seen).filter((e) => {
    const box = e.getBoundingClientRect(), around = e.ownerSVGElement.getBoundingClientRect();
    return box.right > around.right + 1 || box.left < around.left - 1 || box.bottom > around.bottom + 2;
  });
  const report = {
    width: innerWidth, scroll: document.documentElement.scrollWidth, beside: beside.map(name), cut: cut.map(name),
    flows: all(".flow").filter(seen).map((e) => e.getAttribute("class")), bars: all(".bar").filter(seen).length,
    empty: all(".bar, .chart, .flow, .service").filter((e) => seen(e) && e.getBoundingClientRect().height === 0).length,
    broken: window.broken ?? null, background: [],
  };
  for (let i = 0; i < 2; i++) {
    report.background.push(getComputedStyle(document.body).backgroundColor);
    document.getElementById("theme").click();
  }
  const chart = document.querySelector(".chart");
  const box = chart.getBoundingClientRect();
  chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 3, clientY: box.top + 20}));
  report.reading = chart.parentElement.querySelector(".reading").textContent;
  document.querySelector("button.owner").click();
  const sheet = document.querySelector(":popover-open");
  report.sheet = sheet ? sheet.textContent : null;
  report.sheetBeside = sheet ? sheet.getBoundingClientRect().right > innerWidth : null;
  parent.postMessage(JSON.stringify(report), "*");
});
</script>
"""
FRAME = """<!doctype html><body style="margin:0">
<iframe src="page.html" width="{width}" height="900" style="border:0"></iframe>
<pre id="report"></pre>
<script>addEventListener("message", (m) => {{ document.getElementById("report").textContent = m.data; }});</script>"""

Look = Callable[[str, int], dict[str, Any]]


@pytest.fixture(scope="module")
def browser() -> str:
    try:
        ensure_packages({"chromium": "chromium"}, "a look at the page")
    except LabUnavailableError as reason:
        pytest.skip(str(reason))
    found = shutil.which("chromium")
    assert found
    return found


@pytest.fixture
def look(browser: str, tmp_path: Path) -> Look:
    """What the browser says of a page on a screen so many pixels wide. Fails on whatever it complains about."""

    def look_at(page: str, width: int) -> dict[str, Any]:
        (tmp_path / "page.html").write_text(page.replace("</body>", PROBE + "</body>"))
        frame = tmp_path / "frame.html"
        frame.write_text(FRAME.format(width=width))
        argv = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1700,1000", "--dump-dom"]
        ran = subprocess.run([*argv, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True)
        complaints = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
        assert complaints == []
        report = re.search(r'<pre id="report">(.*?)</pre>', ran.stdout, re.DOTALL)
        assert report and report[1], "the page's probe did not answer"
        body: dict[str, Any] = json.loads(report[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
        return body

    return look_at


@pytest.mark.parametrize(("width", "flow"), [(390, "flow narrow"), (1600, "flow wide")])
def test_it_fits_the_screen_and_answers(look: Look, width: int, flow: str) -> None:
    seen = look(example_page(), width)
    assert (seen["width"], seen["scroll"]) == (width, width)
    assert seen["beside"] == seen["cut"] == []
    assert seen["flows"] == [flow]
    assert seen["bars"] >= 22
    assert seen["empty"] == 0
    assert len(set(seen["background"])) == 2
    assert "req/s: " in seen["reading"]
    assert "Memory of one GPU" in seen["sheet"]
    assert not seen["sheetBeside"]


@pytest.mark.parametrize("width", [390, 1600])
def test_hostile_names_do_nothing_and_fit(look: Look, width: int) -> None:
    seen = look(hostile_page(), width)
    assert seen["broken"] is None
    assert seen["scroll"] == width
    assert seen["beside"] == seen["cut"] == []
