"""What the ranks' heartbeats (run_folder/beat.py) and stacks say: who hangs, and where.

Pure but for what reads stacks. Whether it is time to ask is watchdog.py's.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conf.job_schema import Hang
from launchers.run_folder.beat import SIZE, Beat, beat_of

STACKS = signal.SIGUSR1
"""Asks a rank of ours for its stacks."""
STEPPING = ("train", "data wait", "evaluation")
"""Sections in which a rank beats at each step or batch; the others may take long."""
KEYS = {
    "start": "setup_s",
    "imports": "setup_s",
    "model": "setup_s",
    "rendezvous": "rendezvous_s",
    "data": "data_s",
    "staging": "data_s",
    "restore": "restore_s",
    "first step": "first_step_s",
    "compiling": "first_step_s",
    "train": "step_s",
    "data wait": "data_wait_s",
    "evaluation": "evaluation_s",
    "checkpoint": "checkpoint_s",
    "profile": "export_s",
    "export": "export_s",
    "shutdown": "export_s",
}
"""What `job.hang` calls the limit of each section."""
PACES = 3
"""Times the median step that a step may take."""
WAITS = re.compile(
    r'/torch/distributed/|/deepspeed/comm/|/trainer/parallel/group\.py", line \d+ in join$|in _engine_run_backward$'
)
"""Frames in which a rank waits for the others; gradients are exchanged at the end of the backward pass."""
PROCESS = re.compile(r"^process (.*)$", re.MULTILINE)
"""A line of outside.py's."""
SHOWN = 12
"""Frames of a stack that an outcome shows, the innermost."""


@dataclass(frozen=True, order=True)
class Limit:
    """For how long a rank may give no sign."""

    seconds: float
    key: str
    """Of `job.hang`, which allows more."""


@dataclass(frozen=True)
class Culprit:
    """The rank that keeps the others waiting, as far as can be told."""

    rank: int
    beat: Beat
    stack: tuple[str, ...]
    """Of its main thread, the innermost frames last; empty where there is none."""
    seen: str = ""
    """Of one that gave no stack: its process, as seen from outside."""

    @property
    def where(self) -> str:
        step = f" after step {self.beat.step}" if self.beat.section in STEPPING and self.beat.step else ""
        return f"{self.beat.section}{step}"


def stacks_of(path: Path) -> str:
    """The stacks that a rank wrote behind its beat; empty where it wrote none."""
    try:
        return path.read_bytes()[SIZE:].decode("utf-8", errors="replace").strip()
    except OSError:
        return ""


def main_thread(stacks: str) -> tuple[str, ...]:
    """The frames of the main thread, the innermost last, as Python prints a traceback. (faulthandler has it the other
    way round, and the thread that the signal found last.)"""
    for block in reversed(re.split(r"\n(?=(?:Current thread|Thread) 0x)|\n\n", stacks)):
        frames = [line.strip() for line in block.splitlines() if line.lstrip().startswith("File ")]
        if frames and not any(line.endswith(" in _bootstrap") for line in frames):
            return tuple(reversed(frames))
    return ()


def limit(beat: Beat, limits: Hang) -> Limit:
    """For how long a rank may give no other sign than this one."""
    steps = beat.section in ("train", "data wait")
    key = "first_step_s" if steps and beat.pace_s is None else KEYS[beat.section]
    usual_s = beat.pace_s or 0.0 if beat.section in STEPPING else 0.0
    return Limit(max(getattr(limits, key), PACES * usual_s), key)


def longest(beats: Sequence[Beat], limits: Hang) -> Limit:
    """For how long ranks may be silent that wait for each other: the limit of the one that may take longest."""
    return max(limit(beat, limits) for beat in beats)


def culprit(beats: Sequence[Beat], stacks: Sequence[str], outside: Sequence[str]) -> Culprit:
    """Of ranks that all have fallen silent, the one that the others wait for; `outside` is what was seen of those that
    gave no stack.

    One that gives no stack while others do was stopped, or waits in the kernel; else one that does not wait for the
    others; else the one that is behind, or has been silent for longest.
    """
    mains = [main_thread(text) for text in stacks]
    everybody = list(range(len(beats)))
    groups = (
        [r for r in everybody if not mains[r]],
        [r for r in everybody if mains[r] and not waits(mains[r])],
        everybody,
    )
    chosen = next(group for group in groups if group and (len(group) < len(beats) or group is groups[-1]))
    rank = min(chosen, key=lambda r: (beats[r].step, beats[r].t or 0.0))
    stack, processes = mains[rank] or main_thread(outside[rank]), PROCESS.findall(outside[rank])
    return Culprit(rank, beats[rank], stack[-SHOWN:], processes[-1] if processes and not mains[rank] else "")


def waits(stack: Sequence[str]) -> bool:
    """Whether a rank waits for others, by its innermost frames."""
    return any(WAITS.search(frame) for frame in stack[-2:])


def beats_of(folder: Path, ranks: int) -> list[Beat]:
    """Every rank's, in order."""
    return [beat_of(folder / f"beat-{rank}") for rank in range(ranks)]


def seen_from_outside(folder: Path, stacks: Sequence[str]) -> list[str]:
    """What outside.py wrote of each rank that gave no stack itself; empty of the others."""
    found = []
    for rank, own in enumerate(stacks):
        path, text = folder / f"stacks-{rank}.txt", ""
        if not own:
            with contextlib.suppress(OSError):
                text = path.read_text(encoding="utf-8", errors="replace")
        found.append(text)
    return found


def keep_stacks(folder: Path, ranks: int) -> list[str]:
    """Every rank's stacks, in order; also as stacks-<rank>.txt, for people."""
    found = [stacks_of(folder / f"beat-{rank}") for rank in range(ranks)]
    for rank, text in enumerate(found):
        if text:
            with contextlib.suppress(OSError):
                (folder / f"stacks-{rank}.txt").write_text(text + "\n", encoding="utf-8")
    return found


def described(found: Culprit, silent_s: float, allowed: Limit) -> str:
    """For the outcome: rank, host and section, what was allowed, and what it did last."""
    host = f" ({found.beat.host})" if found.beat.host else ""
    last = f"its last line: {found.stack[-1]}" if found.stack else ""
    if found.seen:
        last = f"it gave no stack, and from outside is process {found.seen}{f'; {last}' if last else ''}"
    last = last or "it gave no stack: it was stopped, or never began"
    most = f"the limit is {allowed.seconds:g} s, job.hang.{allowed.key}"
    return f"rank {found.rank}{host} gave no sign for {silent_s:.0f} s in {found.where} ({most}); {last}"
