"""Slurm's commands with a note of when each was called: how many there were, and how long they took."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "scontrol", "sacct")
SCRIPT = """\
#!/bin/bash
begun=$EPOCHREALTIME
{real} "$@"
code=$?
echo "{name} $begun $EPOCHREALTIME" >> {log}
exit $code
"""


@dataclass(frozen=True)
class Call:
    """One call, by the clock of this machine."""

    command: str
    begun: float
    ended: float


class Watched:
    """A folder of commands that go first on PATH while a benchmark runs."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "calls"
        folder.mkdir()
        for name in COMMANDS:
            script = SCRIPT.format(real=shutil.which(name), name=name, log=self._log)
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
        os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"

    def forget(self) -> None:
        """Begin anew."""
        self._log.unlink(missing_ok=True)

    def calls(self, command: str) -> list[Call]:
        """Those that have returned, in that order."""
        text = self._log.read_text() if self._log.exists() else ""
        rows = (line.split() for line in text.splitlines())
        return [Call(name, float(begun), float(ended)) for name, begun, ended in rows if name == command]

    def seconds(self, command: str) -> float:
        """In all."""
        return sum(call.ended - call.begun for call in self.calls(command))
