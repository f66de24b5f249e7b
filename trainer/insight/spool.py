"""What happened, and when? Two append-only files of an attempt: metrics.jsonl and ledger.jsonl.

Training never waits for a tracking store: others deliver these lines, with the time stamps they bear.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from trainer.insight.heartbeat import SECTIONS, Beat

if TYPE_CHECKING:
    from trainer.sources import Card

SYNC_EVERY_S = 5.0
ROOM = 1 << 22
"""Bytes."""


class Lines:
    """An append-only file of JSON lines.

    Each line is handed to the system at once, so it outlives this process; it is on disk (and outlives the
    node) at most SYNC_EVERY_S seconds of writing later, and after `close`. A full or broken disk stops nobody: lines
    wait in memory until it takes them again, as many as ROOM holds.
    """

    def __init__(self, path: Path, sync_every_s: float = SYNC_EVERY_S) -> None:
        self.file: BinaryIO = path.open("ab", buffering=0)
        self.sync_every_s = sync_every_s
        self.synced = time.monotonic()
        self._waiting = b""
        self._lock = threading.Lock()

    def add(self, document: Mapping[str, Any]) -> None:
        line = (json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n").encode()
        with self._lock:  # checkpoints are told of by the thread that writes them
            if len(self._waiting) < ROOM:
                self._waiting += line
            self._write()
            if time.monotonic() - self.synced >= self.sync_every_s:
                self._sync()

    def close(self) -> None:
        if not self.file.closed:
            self._write()
            self._sync()
            self.file.close()

    def _write(self) -> None:
        # One write of whole lines: a reader sees all of them, or a torn last line after a crash, or on a full disk.
        with contextlib.suppress(OSError):
            while self._waiting:
                self._waiting = self._waiting[self.file.write(self._waiting) :]

    def _sync(self) -> None:
        with contextlib.suppress(OSError):
            os.fsync(self.file.fileno())
        self.synced = time.monotonic()


class Spool:
    """The metrics of an attempt. `path` None writes nothing: only rank 0 has one."""

    def __init__(self, path: Path | None, total_steps: int) -> None:
        self.lines = Lines(path) if path else None
        self.total_steps = total_steps

    def metrics(self, step: int, metrics: Mapping[str, float], **beside: Any) -> None:
        """Values at a step. NaN and infinities become "nan", "inf", "-inf", which JSON lacks."""
        self._add(
            {
                "step": step,
                "total_steps": self.total_steps,
                **beside,
                "metrics": {name: plain(value) for name, value in metrics.items()},
            }
        )

    def dataset(self, card: Card, context: str) -> None:
        """What the run reads: `context` is train or validation."""
        self._add({"dataset": {**asdict(card), "context": context}})

    def close(self) -> None:
        if self.lines:
            self.lines.close()

    def _add(self, document: Mapping[str, Any]) -> None:
        if self.lines:
            self.lines.add({"t": time.time_ns() // 1_000_000, **document})


class Ledger:
    """The phases of an attempt, synced line by line. `path` None writes nothing: only rank 0 has one. Every rank's
    heart beats with it."""

    def __init__(self, path: Path | None, beat: Beat) -> None:
        self.lines = Lines(path, sync_every_s=0) if path else None
        self.beat = beat

    def mark(self, event: str, **beside: Any) -> None:
        """Something begins, ends or happens now."""
        if event in SECTIONS:
            self.beat.begin(SECTIONS[event])
        if self.lines:
            self.lines.add({"t": time.time(), "mono": time.monotonic(), "event": event, **beside})

    def compiles(self) -> None:
        """torch.compile is at work, in the middle of anything."""
        self.beat.compiles()
        self.mark("compile_begin")

    def compiled(self) -> None:
        """It is done, and what it was in the middle of goes on."""
        self.mark("compile_end")
        self.beat.compiled()

    def close(self) -> None:
        if self.lines:
            self.lines.close()


def plain(value: float) -> float | str:
    """A number as JSON can write it."""
    if math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
