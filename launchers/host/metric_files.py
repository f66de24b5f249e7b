"""What a program's own MLflow client measures, read from the store in its member's folder while it writes.

A metric is a file of lines `time value step`, milliseconds since the epoch first. Each becomes a line as reports.py
takes it. Standard library only. Source: mlflow/store/tracking/file_store.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from launchers.host.growing import Growing
from launchers.host.tailing import Tail
from launchers.run_folder import client_store
from launchers.run_folder.record import Attempt, Member

MOST_BEFORE = 16 * 1024 * 1024
"""Bytes of earlier attempts that are looked at."""


class MetricFiles:
    """The metrics of the run that the program was given; those of runs it made beside count for nothing here."""

    def __init__(self, attempt: Attempt) -> None:
        """Raises OSError where it cannot be noted what was said before."""
        member = Member(attempt.path.parent)
        run = client_store.run_folder(member, member.path.parent.parent.name)
        self._growing = Growing(attempt, f"{run.relative_to(member.path)}/metrics", "")
        self._tails: dict[Path, Tail] = {}
        self._known: dict[Path, set[int]] = {}
        """Lines of each file: logging a model writes the newest points of its run once more."""

    @property
    def trouble(self) -> str:
        """What a person should know; empty where there is nothing."""
        return self._growing.trouble

    def lines(self, last: bool = False, torn: bool = False) -> Iterator[bytes]:
        """What was said since."""
        for path, prefix, _ in self._growing.files():
            if path not in self._tails:
                self._tails[path] = Tail(path, begin := self._growing.begin(path))
                self._known[path] = _lines_before(path, begin)
            known = self._known[path]
            for line in self._tails[path].lines(last, torn):
                if hash(line) in known:
                    continue
                known.add(hash(line))
                words = line.split()
                try:
                    t, value, step = int(words[0]) / 1000, float(words[1]), int(words[2]) if len(words) > 2 else 0
                except (ValueError, IndexError):
                    continue
                said = {prefix + path.name: value if math.isfinite(value) else str(value)}
                yield json.dumps({"t": t, "step": step, "metrics": said}).encode()


def _lines_before(path: Path, end: int) -> set[int]:
    """Of earlier attempts."""
    with path.open("rb") as f:
        return {hash(line) for line in f.read(min(end, MOST_BEFORE)).splitlines()}
