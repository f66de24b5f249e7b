"""How a report looks and what moves in it: style sheet, script, and the policy that keeps it off the network."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --card: #f6f7f9; --ink: #1a1f26; --soft: #59636f; --line: #dce1e7; --accent: #0b62c4;
  --best: #fff4d6;
  --running: #3b82d6; --succeeded: #14936b; --pruned: #c98a06; --failed: #d0451b; --lost: #a1459a;
  --timeout: #8a5a34; --cancelled: #7b8794; --infeasible: #a09a1d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #13161b; --card: #1c2128; --ink: #e6e9ee; --soft: #9ba6b3; --line: #323a45; --accent: #6cb0ff;
    --best: #3a3013;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0 auto; padding: 1.5rem clamp(.9rem, 3vw, 2.5rem) 3rem; max-width: 84rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 .25rem; }
p { margin: .3rem 0; overflow-wrap: anywhere; }
a { color: var(--accent); }
code { font: .88em/1.45 ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.soft, .note, .why { color: var(--soft); }
.note { font-size: .88rem; max-width: 70rem; }
.why { border-left: 3px solid var(--line); padding: .1rem 0 .1rem .8rem; }
.stopped { white-space: pre-wrap; border-left: 3px solid var(--failed); padding-left: .8rem; }
nav { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: 1.2rem 0; font-size: .92rem; }
.cards { display: grid; gap: 1rem; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 11.5rem), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; min-width: 0;
  padding: .9rem 1.1rem; }
.card h2 { font-size: .8rem; letter-spacing: .04em; text-transform: uppercase; color: var(--soft); }
.card.lead { grid-column: span 2; }
.big { font-size: 1.9rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem 1rem; margin: .3rem 0; font-size: .93rem; }
dt { color: var(--soft); }
dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; }
.meter { grid-column: 1 / -1; height: 5px; border-radius: 3px; background: var(--line); overflow: hidden;
  margin-bottom: .25rem; }
.meter i { display: block; height: 100%; background: var(--accent); }
.figures { display: grid; gap: 2rem 2.2rem; grid-template-columns: repeat(2, minmax(0, 1fr)); margin-top: 2rem; }
.figures > section { min-width: 0; }
.wide { grid-column: 1 / -1; }
.many { display: grid; gap: .5rem 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.scroll { overflow: auto; max-width: 100%; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
.plot { width: 100%; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; width: 100%; }
caption { text-align: left; color: var(--soft); padding: 0 0 .5rem; }
th, td { padding: .28rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--card); vertical-align: bottom; font-weight: 600; }
th[scope=row] { font-weight: 400; background: none; position: static; }
td, th[scope=row] { vertical-align: top; }
td.word, th.word { text-align: left; } td.error { white-space: normal; min-width: 16rem; max-width: 34rem; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort] button::after { content: " \\2195"; color: var(--soft); font-weight: 400; }
th[aria-sort=ascending] button::after { content: " \\2191"; color: inherit; }
th[aria-sort=descending] button::after { content: " \\2193"; color: inherit; }
tr.best > * { background: var(--best); }
.trials { max-height: 80vh; border: 1px solid var(--line); border-radius: 8px; }
.state::before { content: ""; display: inline-block; width: .62em; height: .62em; border-radius: 50%;
  margin-right: .45em; background: var(--cancelled); }
.RUNNING::before { background: var(--running); } .SUCCEEDED::before { background: var(--succeeded); }
.PRUNED::before { background: var(--pruned); } .FAILED::before { background: var(--failed); }
.LOST::before { background: var(--lost); } .TIMEOUT::before { background: var(--timeout); }
.INFEASIBLE::before { background: var(--infeasible); }
footer { margin-top: 2.5rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 60rem) { .figures { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 40rem) {
  body { font-size: 15px; padding-top: 1rem; } .card.lead { grid-column: auto; } .big { font-size: 1.6rem; }
}
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --best: #fff4d6; }
  body { max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact; }
  nav, .modebar-container { display: none !important; }
  .figures { display: block; } .figures > section { margin-bottom: 1.5rem; break-inside: avoid; }
  .figures > section:has(.many) { break-inside: auto; } .cards { grid-template-columns: repeat(2, 1fr); }
  .card.lead { grid-column: auto; }
  .card, .plot, tr { break-inside: avoid; } h2 { break-after: avoid; }
  .scroll, .trials { max-height: none; overflow: visible; border: 0; } th { position: static; }
  table { font-size: 7pt; } th, td { padding: .1rem .25rem; white-space: normal; } td.error { min-width: 0; }
  th[aria-sort] button::after { content: none; } .state { white-space: nowrap; }
}
"""

SCRIPT = """
"use strict";
(() => {
  const PRINT_PX = 680, MONO = "ui-monospace, Menlo, Consolas, monospace";
  const dark = matchMedia("(prefers-color-scheme: dark)"), touch = matchMedia("(hover: none)");
  const plots = [...document.querySelectorAll(".plot")];

  function template(night) {
    const ink = night ? "#d5dae1" : "#2a313a", line = night ? "#2c343f" : "#e3e7ec";
    const axis = {gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true,
      exponentformat: "power", minexponent: 6, title: {standoff: 8}};
    return {layout: {
      font: {family: "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", size: 12, color: ink},
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: {l: 52, r: 12, t: 14, b: 44},
      xaxis: axis, yaxis: axis, hoverlabel: {font: {family: MONO, size: 11}, align: "left"},
      modebar: {bgcolor: "rgba(0,0,0,0)", color: night ? "#9ba6b3" : "#59636f", activecolor: "#3b82d6"},
      colorway: ["#3b82d6", "#e8731a", "#14936b", "#a1459a", "#c98a06", "#d0451b", "#7b8794"],
      legend: {orientation: "h", x: 0, xanchor: "left", y: 1.01, yanchor: "bottom"},
    }};
  }

  function draw(place) {
    const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
    const layout = Object.assign({}, figure.layout, {template: template(dark.matches)});
    // A finger that drags over a figure scrolls the page.
    if (touch.matches) layout.dragmode = false;
    // Plotly would offer to send the figure to its makers' site.
    const config = {responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
      displayModeBar: touch.matches ? false : "hover",
      modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]]};
    return Plotly.newPlot(place, figure.data, layout, config);
  }

  async function drawAll() {
    for (const place of plots) {
      try { await draw(place); } catch (error) {
        place.textContent = "This figure could not be drawn: " + error.message;
        place.classList.add("why");
      }
      // The page stays usable between figures.
      await new Promise(done => setTimeout(done, 0));
    }
    document.documentElement.dataset.drawn = String(plots.length);
  }

  const drawn = () => plots.filter(place => place.data);
  const dress = night => drawn().forEach(place => Plotly.relayout(place, {template: template(night)}));
  dark.addEventListener("change", () => dress(dark.matches));
  addEventListener("beforeprint", () => drawn().forEach(place =>
    Plotly.relayout(place, {template: template(false), width: place.closest(".many") ? PRINT_PX / 2 : PRINT_PX})));
  addEventListener("afterprint", () => drawn().forEach(place =>
    Plotly.relayout(place, {template: template(dark.matches), width: null, autosize: true})));

  function compare(a, b) {
    if (a === b) return 0;
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, {numeric: true}) : x - y;
  }

  function sort(table, heading) {
    const headings = [...heading.parentElement.children], column = headings.indexOf(heading);
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    headings.forEach(h => h.setAttribute("aria-sort", "none"));
    heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map(row => [row.cells[column].dataset.v, row]);
    // What a trial does not have stands last either way.
    rows.sort(([a], [b]) => (a === "") - (b === "") || sign * compare(a, b));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll("table.sortable"))
    for (const heading of table.tHead.rows[0].cells)
      heading.querySelector("button").addEventListener("click", () => sort(table, heading));
  drawAll();
})();
"""


def policy(*scripts: str) -> str:
    """A Content-Security-Policy under which exactly these scripts run and nothing is fetched from anywhere:
    a name that slipped through unescaped could neither run nor call home."""
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    rest = "img-src data: blob:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {allowed}; {rest}"
