"""What verbs share: the request that stands in the arguments, and how lines and documents are printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launchers.jobs.status import JobStatus
    from launchers.launch import Request


def request_of(arguments: argparse.Namespace) -> Request:
    from launchers.folders import config_dirs
    from launchers.launch import Request

    return Request(
        overrides=tuple(arguments.overrides),
        config_dirs=(*config_dirs(), *arguments.config_dir),
        multirun=getattr(arguments, "multirun", False),
        command=("fairlead", *arguments.words),
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_lines(lines: Iterable[str]) -> bool:
    """Whether there was a line."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    was_any = False
    for line in lines:
        print(line)
        was_any = True
    return was_any


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1))


def status_document(now: JobStatus) -> dict[str, Any]:
    members = [{**vars(m), "straggler": m.straggler and vars(m.straggler)} for m in now.members]
    return {
        **{k: v for k, v in vars(now).items() if k not in ("members", "changes")},
        **times(now),
        "changes": [change.document() for change in now.changes],
        "counts": dict(now.counts),
        "members": members,
    }


def times(now: JobStatus) -> dict[str, str | None]:
    return {"launched": _written(now.launched), "ended": _written(now.ended)}


def _written(t: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 has them."""
    return None if t is None else datetime.fromtimestamp(t, UTC).isoformat(timespec="seconds")
