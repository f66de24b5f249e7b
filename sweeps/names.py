"""What somebody may have meant by a name that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(name: str, options: Sequence[str]) -> str:
    """«did you mean x» where something is near, else the options."""
    listed = f"one of: {', '.join(options)}"
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?" + (f" ({listed})" if len(options) < 12 else "")
    return f"use {listed}" if options else "remove it"
