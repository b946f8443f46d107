"""The report in a real browser: what it draws, at the width of a phone, with no network to ask."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sample_run import SampleRun, write_sample_run
from test_report import NASTY, gallery_items

from nescient_fl.study.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]

# Measures the page in a frame as narrow as a phone; the report's own policy lets no script run in itself.
HARNESS = """<!doctype html><body style="margin:0"><iframe id="page" srcdoc="%s"
 style="width:%dpx;height:2000px;border:0"></iframe><script>
page.onload = () => {
  const inner = page.contentDocument, wide = [], empty = [];
  inner.querySelectorAll("details").forEach(part => part.open = true);
  const limit = inner.documentElement.clientWidth;
  for (const one of inner.body.querySelectorAll("*")) {
    if (one.closest("svg") !== null && one.tagName !== "svg") continue;
    const box = one.getBoundingClientRect();
    if ((one.tagName === "svg" || one.tagName === "IMG") && (box.width < 20 || box.height < 20))
      empty.push(one.tagName);
    if (one.tagName === "IMG" && !one.naturalWidth) empty.push("broken image");
    const inside = one.parentElement.closest(".scroll, .tall");
    if (inside === null && box.right > limit + 0.5) wide.push(one.tagName + "." + one.className);
  }
  const label = inner.querySelector("svg.figure text");
  const colour = label === null ? null : getComputedStyle(label).fill;
  document.body.dataset.result = JSON.stringify({
    limit, wide, empty, scroll: inner.documentElement.scrollWidth, colour,
    background: getComputedStyle(inner.body).backgroundColor,
    plots: inner.querySelectorAll("svg.figure").length, images: inner.images.length,
    fetched: page.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name)
      .filter(name => !name.startsWith("data:")),
  });
};
</script>"""


def measure(page: str, folder: Path, width: int = 360, dark: bool = False) -> dict[str, Any]:
    """Open a copy of a page in a frame of that width and return what was measured in it."""
    assert BROWSER is not None
    harness = folder / "harness.html"
    harness.write_text(HARNESS % (html.escape(page), width), encoding="utf-8")
    profile = folder / f"profile-{width}-{dark}"
    command = [
        BROWSER,
        *QUIET,
        f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--window-size=1400,2000",
        "--virtual-time-budget=4000",
        "--dump-dom",
        harness.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r'data-result="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(html.unescape(found.group(1)))
    return result


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report with everything that could be too wide: long and hostile names, many sites, a gallery."""
    names = [
        NASTY,
        "x" * 300,
        *(f"Hospital number {index} of the north-eastern network" for index in range(30)),
    ]
    run = write_sample_run(tmp_path_factory.mktemp("run"), SampleRun(images=900, rounds=3, names=names))
    return write_report(run, gallery_items()).read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_missing_broken_fetched_or_too_wide(page: str, tmp_path: Path, width: int) -> None:
    result = measure(page, tmp_path, width)
    assert result["limit"] == width
    assert result["wide"] == []
    assert result["scroll"] <= width
    assert result["empty"] == []
    assert result["fetched"] == []
    assert result["plots"] == 11
    assert result["images"] == 4


def test_the_page_and_its_figures_follow_a_dark_theme(page: str, tmp_path: Path) -> None:
    light, dark = measure(page, tmp_path), measure(page, tmp_path, dark=True)
    assert light["colour"] != dark["colour"]
    assert light["background"] != dark["background"]
