"""A file that a registry holds whole, such as a SIF: what had come when a line broke, or a kill, is not fetched again.

Apptainer's own pull of oras:// begins anew each time. Source: OCI distribution specification («Pulling blobs»), where
ranges are those of RFC 9110 (14.2): a registry without them sends all, and all is taken.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from launchers.errors import SiteError

PIECE = 1 << 20
PAUSES_S = (1, 5, 15, 60)
"""Before another try where the last one brought nothing."""
PARTIAL_CONTENT = 206

Opened = Callable[[int], HTTPResponse]
"""The registry's answer from this byte on, or from the first."""


def fetch(opened: Opened, digest: str, size: int, path: Path, look: Callable[[], None]) -> None:
    """Bring what a file lacks of so many bytes; `look` is called now and then.

    Raises SiteError when the registry refuses, the line breaks again and again, or what came has another digest; then
    it is gone.
    """
    pauses = iter(PAUSES_S)
    while (there := _size(path)) < size:
        why = _more(opened, there, size, path, look)
        if _size(path) > there:
            pauses = iter(PAUSES_S)
        elif (pause_s := next(pauses, None)) is None:
            what = f"of {size} bytes {there} came, and then no more: {why}"
            raise SiteError(what, digest, "try again: it goes on from there")
        else:
            time.sleep(pause_s)
    with path.open("rb") as f:
        found = f"sha256:{hashlib.file_digest(f, 'sha256').hexdigest()}"
    if found != digest:
        path.unlink()
        raise SiteError(f"what the registry gave has digest {found}, expected {digest}", str(path), "try again")


def _more(opened: Opened, there: int, size: int, path: Path, look: Callable[[], None]) -> str:
    """One answer behind what is there. Returns why it ended."""
    try:
        answer = opened(there)
    except SiteError as e:
        if there == 0:
            raise
        return str(e)
    with answer, path.open("ab" if answer.status == PARTIAL_CONTENT else "wb") as out:
        while out.tell() < size:
            try:
                piece = answer.read1(PIECE)
            except (OSError, HTTPException) as e:
                return str(e) or type(e).__name__
            if not piece:
                return "the registry sent no more"
            out.write(piece)
            look()
    return ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
