"""A page looked at by a real headless browser: drawn at a width, in light or dark, and asked what became of it.

The page is the one that users get, with one script more in front (its digest added to the page's own policy),
in a frame of the wanted width: a headless window is never narrower than 500 px.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--enable-logging=stderr",
    "--v=0",
    "--window-size=1400,1000",
    "--virtual-time-budget=30000",
    "--dump-dom",
)

PROBE = """
const seen = {errors: [], violations: []};
addEventListener("error", e => seen.errors.push(String(e.message)), true);
addEventListener("unhandledrejection", e => seen.errors.push(String(e.reason)));
addEventListener("securitypolicyviolation", e => seen.violations.push(e.violatedDirective + " " + e.blockedURI));
for (const kind of ["error", "warn"]) console[kind] = (...said) => seen.errors.push(said.map(String).join(" "));
function figure(place) {
  const texts = [...place.querySelectorAll("text")].map(t => t.textContent);
  const tick = place.querySelector(".xtick text");
  return {
    key: place.dataset.figure, svg: place.querySelectorAll("svg.main-svg").length,
    marks: place.querySelectorAll("g.trace, g.contour").length, texts, links: place.querySelectorAll("svg a").length,
    ink: tick ? getComputedStyle(tick).fill : "",
    wider: place.getBoundingClientRect().width > place.parentElement.getBoundingClientRect().width + 1
      && !place.parentElement.classList.contains("scroll"),
  };
}
function column(table, i) { return [...table.tBodies[0].rows].map(row => row.cells[i].dataset.v); }
function sorted() {
  const table = document.querySelector("table.sortable"), found = {};
  if (!table) return found;
  [...table.tHead.rows[0].cells].forEach((heading, i) => {
    heading.querySelector("button").click();
    const up = [heading.getAttribute("aria-sort"), column(table, i)];
    heading.querySelector("button").click();
    found[heading.textContent] = [up, [heading.getAttribute("aria-sort"), column(table, i)]];
  });
  return found;
}
function tell() {
  if (!document.documentElement.dataset.drawn) return setTimeout(tell, 20);
  const root = document.documentElement;
  Object.assign(seen, {
    figures: [...document.querySelectorAll(".plot")].map(figure), sorted: sorted(),
    width: innerWidth, sideways: root.scrollWidth > root.clientWidth,
    paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
    fetched: performance.getEntriesByType("resource").map(e => e.name), title: document.title,
  });
  parent.postMessage(JSON.stringify(seen), "*");
}
addEventListener("load", tell);
"""

FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe src="page.html" style="border:0;width:{width}px;height:900px"></iframe><pre id="told"></pre>
<script>addEventListener("message", e => {{ document.getElementById("told").textContent = e.data; }});</script>
"""


@dataclass(frozen=True)
class Look:
    """What the browser saw of a page."""

    told: dict[str, Any]
    console: list[str]

    def figures(self) -> dict[str, dict[str, Any]]:
        return {figure["key"].removeprefix("data-"): figure for figure in self.told["figures"]}


def browser() -> str | None:
    """A Chromium on the PATH."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def look(page: str, folder: Path, width: int = 1280, dark: bool = False) -> Look:
    """The page drawn to its end, every heading of its table clicked twice."""
    digest = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    probed = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    probed = probed.replace("<title>", f"<script>{PROBE}</script><title>", 1)
    (folder / "page.html").write_text(probed, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    profile = f"--user-data-dir={folder / 'profile'}"
    argv = [browser() or "chromium", *FLAGS, scheme, profile, (folder / "frame.html").as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, encoding="utf-8", timeout=100, check=True)
    told = re.search(r'<pre id="told">(.+?)</pre>', done.stdout, flags=re.DOTALL)
    assert told, f"the page never said that it was drawn:\n{done.stderr[-3000:]}"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Look(told=json.loads(html.unescape(told.group(1))), console=console)
