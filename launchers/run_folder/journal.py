"""Submissions as a journal: what was meant, then what became of it, so that a crash in between shows.

    {"intent": "digits-...", "kind": "members", "indices": "0-1", "t": ...}       before sbatch
    {"intent": "digits-...", "slurm_id": "4242"}                                  after it
    {"intent": "digits-...", "abandoned": "..."}                                  it surely never reached Slurm

An intent's key is the Slurm job name, by which repair.py finds a job whose id was never written down.
The local launcher keeps the same journal, with `local` as the id.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from launchers.errors import SiteError
from launchers.parts import Part, numbers, ranges
from launchers.run_folder.record import Run, append_line, read_lines

Kind = Literal["members", "finish"]


@dataclass(frozen=True)
class Submission:
    """One sbatch, intended or done."""

    intent: str
    kind: Kind
    indices: tuple[int, ...]
    """Members."""
    t: float
    after: str = ""
    """Slurm ids that a finish step waits for, with colons between, or the part that this one comes after."""
    offset: int = 0
    """Of an element's number over its array index (parts.py)."""
    shape: int = 0
    """Which of the job's plans."""
    tried: Mapping[str, int] = field(default_factory=dict)
    """Attempts that members had before, by index: outcomes of those are not this submission's."""
    slurm_id: str | None = None
    abandoned: str | None = None

    @property
    def is_open(self) -> bool:
        """Meant, and not known what became of it."""
        return self.slurm_id is None and self.abandoned is None


@dataclass(frozen=True)
class Journal:
    """submit.jsonl of one run. Writers hold `submit.lock`."""

    run: Run

    def submissions(self) -> list[Submission]:
        """Every submission, oldest first. Raises SiteError for a journal that another version wrote."""
        found: dict[str, Submission] = {}
        for row in read_lines(self.run.journal):
            try:
                _take(found, row)
            except KeyError as e:
                what = f"a line of the journal has no {e}: another version of Fairlead wrote it"
                do = f"use that version for this job, or put the folder away: {self.run.path}"
                raise SiteError(what, where=str(self.run.journal), do=do) from None
        return list(found.values())

    def intend(self, part: Part, after: str = "") -> Submission:
        """Write down what members are about to be submitted; on disk when this returns."""
        tried = {str(i): n for i in part.members if (n := len(self.run.member(i).attempts()))}
        return self._intend(
            "members", part.members, after, {"offset": part.offset, "shape": part.shape, "tried": tried}
        )

    def intend_finish(self, after: Sequence[str]) -> Submission:
        """Likewise the finish step, which waits for these Slurm ids."""
        return self._intend("finish", (), ":".join(after), {"offset": 0, "shape": 0, "tried": {}})

    def _intend(self, kind: Kind, members: Sequence[int], after: str, rest: Mapping[str, Any]) -> Submission:
        number = sum(1 for s in self.submissions() if s.kind == kind)
        again = f".r{number}" if number else ""
        key = f"{self.run.id}{again}" + (".finish" if kind == "finish" else "")
        t = time.time()
        row = {"intent": key, "kind": kind, "indices": ranges(members), "after": after, **rest, "t": t}
        append_line(self.run.journal, row)
        return Submission(key, kind, tuple(sorted(members)), t, after, **rest)

    def reached(self, intent: str, slurm_id: str) -> None:
        """Write down the id that Slurm gave."""
        append_line(self.run.journal, {"intent": intent, "slurm_id": slurm_id, "t": time.time()})

    def abandon(self, intent: str, why: str) -> None:
        """Write down that a submission never reached Slurm and never will."""
        append_line(self.run.journal, {"intent": intent, "abandoned": why, "t": time.time()})


def _take(found: dict[str, Submission], row: Mapping[str, Any]) -> None:
    key = row["intent"]
    if "kind" in row:
        known = {"after": row["after"], "offset": row["offset"], "shape": row["shape"], "tried": row["tried"]}
        found[key] = Submission(key, row["kind"], tuple(numbers(row["indices"])), row["t"], **known)
    elif key in found:
        known = {"slurm_id": row.get("slurm_id"), "abandoned": row.get("abandoned")}
        found[key] = replace(found[key], **known)


def script_folder(run: Run, intent: str) -> Path:
    """Where the script of a submission stands. Without it a submission is impossible (repair.py's fence)."""
    return run.path / "submit" / intent
