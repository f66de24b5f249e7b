"""TensorBoard's files of a job, from the spools its programs write: RUN/tensorboard/<member>/events.out.tfevents.*

`python -m launchers.delivery.board RUN --member K --watch-pid PID` follows one member beside its supervisor, where
tracking.tensorboard asks for it. Nobody waits for it, and what it did not come to the finish step writes. One file for
each attempt, one record for each point: how many records a file has says where to go on, so that a kill at any moment
loses nothing and writes nothing twice. An attempt that goes on from a step takes back what came after it, so that
no curve runs to and fro.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from launchers.delivery.forward import points_of, went_on_from
from launchers.delivery.tracking import spec_of
from launchers.errors import EXIT_DONE, EXIT_SITE
from launchers.process import start_of
from launchers.run_folder.record import LockBusy, Member, Run, locked, make_private

PACKAGE = "tensorboard"
EVERY_S = 5.0
LOCK_LIMIT_S = 60
HEAD = struct.Struct("<QI")
"""Before each record: its length, and a checksum of that; four bytes of checksum stand behind it."""
BEGIN = 2
"""Records before the first point: the format, and the step from which the file counts."""


def is_wanted(run: Run) -> bool:
    """Whether the job asks for the files."""
    return bool(spec_of(run).tracking.tensorboard)


def write(run: Run, *, members: Collection[int] | None = None) -> int:
    """Bring the files of these members, or all, up to their spools; how many points that were.

    Raises OSError for a disk that takes none, LockBusy while somebody else is at it.
    """
    if not is_wanted(run) or importlib.util.find_spec(PACKAGE) is None:
        return 0
    chosen = [m for m in run.members() if (members is None or m.index in members) and m.attempts()]
    return sum(_member(make_private(run.path / PACKAGE / str(m.index)), m) for m in chosen)


def _member(folder: Path, member: Member) -> int:
    written = 0
    with locked(member.path / "tensorboard.lock", LOCK_LIMIT_S):
        for attempt in member.attempts():
            points = list(points_of(attempt.metrics)) or list(points_of(attempt.path / "reports.jsonl"))
            if points:
                back = went_on_from(attempt)
                first = points[0][3] if math.isinf(back) else int(back) + 1
                written += _file(folder / _name(attempt.number), points, first)
    return written


def _name(attempt: int) -> str:
    """TensorBoard knows its files by this name, and reads a folder's in the order of their names."""
    return f"events.out.tfevents.attempt-{attempt:06d}"


def _file(path: Path, points: list[tuple[str, float, int, int]], first: int) -> int:
    """Append what is missing. `first` is the step from which this file counts, and no file before it."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    with path.open("ab") as f:
        done, whole = _records(path)
        f.truncate(whole)  # what a kill has torn
        begun = points[0][2] / 1000
        start = SessionLog(status=SessionLog.START)
        head = [
            Event(wall_time=begun, file_version="brain.Event:2"),
            Event(wall_time=begun, step=first, session_log=start),
        ]
        made = (
            Event(wall_time=t / 1000, step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)]))
            for name, value, t, step in points[max(0, done - BEGIN) :]
        )
        writer = RecordWriter(f)
        for event in (*head[done:], *made):
            writer.write(event.SerializeToString())
        return max(0, BEGIN + len(points) - max(done, BEGIN))


def _records(path: Path) -> tuple[int, int]:
    """Whole records of a file, and where the last of them ends."""
    count, end, size = 0, 0, path.stat().st_size
    with path.open("rb") as f:
        while len(head := f.read(HEAD.size)) == HEAD.size:
            after = end + HEAD.size + HEAD.unpack(head)[0] + 4
            if after > size:
                break
            count, end = count + 1, after
            f.seek(end)
    return count, end


@contextlib.contextmanager
def beside(run: Run, index: int) -> Iterator[None]:
    """Follow a member in a process of its own while the block runs."""
    argv = [sys.executable, "-m", "launchers.delivery.board", str(run.path), "--member", str(index)]
    follower = subprocess.Popen([*argv, "--watch-pid", str(os.getpid())], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        follower.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            follower.wait(EVERY_S)


def follow(run: Run, index: int, watched: int) -> None:
    """Until that process is gone or we are told to stop; then once more."""
    stops, born = (signal.SIGTERM, signal.SIGINT), start_of(watched)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    told: Any = None
    try:
        while told is None and born is not None and start_of(watched) == born:
            begun = time.monotonic()
            _try(run, index)
            took_s = time.monotonic() - begun  # a long spool is read anew each time: at most a twentieth of a core
            told = signal.sigtimedwait(stops, max(EVERY_S, 20 * took_s))
        _try(run, index)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _try(run: Run, index: int) -> None:
    """A full disk or a busy lock comes to nothing: the next look finds the same points again."""
    with contextlib.suppress(OSError, LockBusy):
        write(run, members={index})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="launchers.delivery.board", description="Write TensorBoard's files of a member."
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--member", type=int, required=True)
    parser.add_argument("--watch-pid", type=int, required=True)
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # of the batch step: its supervisor sees to that
    if importlib.util.find_spec(PACKAGE) is None:
        print(f"fairlead: no files for TensorBoard: {sys.executable} has no package {PACKAGE}", flush=True)
        return EXIT_SITE
    follow(Run(arguments.run.resolve()), arguments.member, arguments.watch_pid)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
