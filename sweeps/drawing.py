"""A Plotly figure made fit for the page: our colours, no title of its own, as JSON that cannot leave its element.

Which figures there are is figures.py's and slots_plot.py's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sweeps.trials import State

STATE_COLOURS: Mapping[State, str] = {
    "RUNNING": "#3b82d6",
    "SUCCEEDED": "#14936b",
    "PRUNED": "#c98a06",
    "FAILED": "#d0451b",
    "LOST": "#a1459a",
    "TIMEOUT": "#8a5a34",
    "CANCELLED": "#7b8794",
    "INFEASIBLE": "#a09a1d",
}
"""To be told apart on white and on near-black; patterns and words say the same to who sees no colour."""
PLAIN, GOOD, BEST = "#9aa5b4", "#3f8ae0", "#e8590c"
SCALE = ((0.0, PLAIN), (0.55, GOOD), (1.0, BEST))
"""In place of Optuna's blues, whose dark end is the best and cannot be seen on a dark page."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One figure."""

    label: str
    """What it shows, for who cannot see it. Safe for HTML."""
    json: str
    height_px: int = 380
    min_width_px: int = 0
    """Narrower screens scroll it sideways."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with its figures, or with the sentence that says why there are none. Texts are safe for HTML."""

    key: str
    title: str
    note: str = ""
    plots: tuple[Plot, ...] = ()
    why: str = ""
    wide: bool = False


def embedded(figure: Mapping[str, Any]) -> str:
    """The figure as JSON in which no character means anything to HTML; NaN and infinities are null."""
    from plotly.io.json import to_json_plotly

    text = str(to_json_plotly(figure))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def dressed(figure: Any, **layout: Any) -> dict[str, Any]:
    """A figure of Optuna's as a dictionary: without its title and template, in our colours, `layout` on top."""
    whole: dict[str, Any] = figure.to_plotly_json()
    # Sizes and backgrounds are the page's; the template is the script's, light or dark.
    kept = {k: v for k, v in whole["layout"].items() if k not in ("title", "template", "plot_bgcolor", "width")}
    data = [_recoloured(trace) for trace in whole["data"]]
    return {"data": data, "layout": {**kept, **layout}}


def _recoloured(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: SCALE if k == "colorscale" else _recoloured(v) for k, v in node.items()}
    if isinstance(node, str) and node.startswith("rgb("):
        return scaled(darkness(node))
    return node


def scaled(t: float) -> str:
    """The colour at a place of our scale, 0 to 1."""
    high = min(max(bisect_right([stop for stop, _ in SCALE], t), 1), len(SCALE) - 1)
    (low_at, low), (high_at, top) = SCALE[high - 1], SCALE[high]
    part = min(max((t - low_at) / (high_at - low_at), 0.0), 1.0)
    mixed = (round(a + part * (b - a)) for a, b in zip(_channels(low), _channels(top), strict=True))
    return "#" + "".join(f"{c:02x}" for c in mixed)


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def darkness(colour: str) -> float:
    """Where in Optuna's blues a colour stands, 0 to 1. They darken steadily, so its brightness tells."""
    from plotly.colors import sequential, unlabel_rgb

    stops = [sum(unlabel_rgb(blue)) for blue in sequential.Blues]
    bright = sum(unlabel_rgb(colour))
    for i, (a, b) in enumerate(pairwise(stops)):
        if bright >= b:
            return float(min(1.0, max(0.0, (i + (a - bright) / (a - b)) / (len(stops) - 1))))
    return 1.0
