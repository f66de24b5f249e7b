"""What of a store that a program's own client writes may leave the run: of a job with secrets only what its supervisor
has looked through for them (host/client_masking.py), and that is as it was then.

A file's time of change tells (st_ctime, by the clock of its file system): no program can set it back.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from launchers.run_folder import client_store
from launchers.run_folder.record import Member, Run, read_json


class Checked:
    """A member's."""

    def __init__(self, run: Run, member: Member) -> None:
        self.root = member.path / client_store.FOLDER
        hides = bool((read_json(run.spec) or {}).get("secrets"))
        self.until = client_store.checked_until(member) if hides else math.inf

    def passes(self, path: Path) -> bool:
        """Whether a file may leave. Of a metric, which may grow all the time, only the name can tell anything, and a
        new name changes a folder."""
        if self.until == math.inf:
            return True
        below = len(path.relative_to(self.root).parts) - 3
        looked_at = path.parents[:below] if client_store.is_metric(path, self.root) else (path,)
        return all(_changed(one) <= self.until for one in looked_at)

    def state(self) -> dict[Path, float]:
        """All files but metrics, and when each was changed; none for a job that hides nothing. What is read between
        two states that are the same is what they say."""
        if self.until == math.inf:
            return {}
        found = (p for p in self.root.rglob("*") if p.is_file() and not client_store.is_metric(p, self.root))
        return {path: _changed(path) for path in found}

    def stands(self, before: dict[Path, float]) -> bool:
        """Whether all that was read since that state may leave."""
        return all(changed <= self.until for changed in before.values()) and before == self.state()

    @contextmanager
    def kept(self, path: Path) -> Iterator[Path | None]:
        """A file that a program cannot change under a slow upload; None where it has changed it."""
        if self.until == math.inf:
            yield path
            return
        with TemporaryDirectory() as place:
            copy = Path(shutil.copyfile(path, Path(place, path.name)))
            yield copy if self.passes(path) else None


def _changed(path: Path) -> float:
    """Of what is gone meanwhile: just now."""
    try:
        return path.stat().st_ctime
    except FileNotFoundError:
        return math.inf
