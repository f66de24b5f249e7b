"""How does a member of a population get the checkpoints of the trial that it goes on from? Before its first attempt.

Our trainer's are never changed once they are written, so they are linked and take no room; what another program keeps
is copied, as it may write into its files. Which trial that is stands in the member's point.json (sweeps/population.py).
"""

from __future__ import annotations

import errno
import os
import shutil

from launchers.run_folder.record import Member, Run, read_json, write_json
from launchers.run_folder.saved import ASIDE

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)
UNFINISHED = shutil.ignore_patterns("step-*.tmp.*", *(f"step-*{end}" for end in ASIDE))
"""Of our trainer: what is no checkpoint to go on from."""


def inherit(run: Run, member: Member, linked: bool) -> None:
    """Give a member its parent's checkpoints, once; nothing where it has no parent.

    After a kill at any point the next call does it anew: no rank has seen the folder before inherited.json is there.
    Raises OSError where they cannot be read, or there is no room.
    """
    parent, mark = (read_json(member.point) or {}).get("parent"), member.path / "inherited.json"
    if parent is None or mark.exists():
        return
    source, aside = run.member(parent).checkpoints, member.path / "checkpoints.inherited"
    for folder in (aside, member.checkpoints):
        shutil.rmtree(folder, ignore_errors=True)
    if linked:
        shutil.copytree(source, aside, copy_function=_linked, ignore=UNFINISHED)
    else:
        shutil.copytree(source, aside, symlinks=True)
    aside.rename(member.checkpoints)
    write_json(mark, {"parent": parent, "checkpoints": sorted(path.name for path in member.checkpoints.iterdir())})


def _linked(source: str, target: str) -> None:
    """Copied where the file system has no links, or allows them to nobody."""
    try:
        os.link(source, target)
    except OSError as e:
        if e.errno not in NO_LINKS:
            raise
        shutil.copy2(source, target)
