"""How numbers, durations and names are spelled for people in a report; every name and text made safe for HTML."""

from __future__ import annotations

import datetime
import functools
import html
import math
import unicodedata
from typing import Any

MINUTE, HOUR, DAY = 60, 3600, 86400
GLUE = "\u00a0"


def escape(text: object) -> str:
    """The text as HTML shows it letter by letter, in elements, in quoted attributes and in Plotly's labels.
    What UTF-8 cannot hold and what is not for the eye becomes a question mark."""
    return _escaped(str(text))


@functools.lru_cache(maxsize=10_000)
def _escaped(text: str) -> str:
    """Remembered: the same names come with every report of every trial."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    safe = html.escape("".join(c if _visible(c) else "?" for c in whole), quote=False)
    # Plotly knows &lt; and &#34;, but not &quot;.
    return safe.replace('"', "&#34;").replace("'", "&#39;")


def _visible(char: str) -> bool:
    """Neither a control character nor one that turns the direction of the text around it; joiners of emoji are."""
    return not unicodedata.category(char).startswith("C") or char in "\n\t\u200c\u200d"


def number(value: float) -> str:
    """Four digits: enough to compare by eye."""
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e6):
        return f"{int(value):,}"
    return f"{value:.4g}"


def value(said: Any) -> str:
    """A value of a point: fractions short, all else as it is."""
    return f"{said:.4g}" if isinstance(said, float) else str(said)


def count(many: int, noun: str) -> str:
    """`1 trial`, `2,000 trials`."""
    return f"{many:,} {noun}{'' if many == 1 else 's'}"


def share(part: float) -> str:
    """A fraction in percent."""
    return f"{100 * part:.1f}{GLUE}%" if 0 < part < 0.1 else f"{100 * part:.0f}{GLUE}%"


def duration(seconds: float) -> str:
    """Seconds in the two largest units that say something, never broken over two lines."""
    s = max(0.0, seconds)
    if s < 10:
        said = f"{s:.1f} s"
    elif s < MINUTE:
        said = f"{s:.0f} s"
    elif s < HOUR:
        said = f"{int(s // MINUTE)} min {int(s % MINUTE):02d} s"
    elif s < DAY:
        said = f"{int(s // HOUR)} h {int(s % HOUR // MINUTE):02d} min"
    else:
        said = f"{int(s // DAY)} d {int(s % DAY // HOUR)} h"
    return said.replace(" ", GLUE)


def moment(t: float) -> str:
    """Seconds since the epoch as a date in UTC."""
    return datetime.datetime.fromtimestamp(t, tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
