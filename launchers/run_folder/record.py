"""The run folder: what lies where, and how its files are written and read.

    runs/<job>/
      spec.json          the frozen document                      written once, at freeze
      plan.json          what will be executed                    "
      provenance.json    where it comes from                      "
      members.jsonl      one line per member                      "; `extend` appends, `retry` with overrides rewrites
      changes.jsonl      what was changed of members since        by `retry`, which then adds a plan to plan.json
      code/              snapshot of Fairlead and the project     "
      submit.jsonl       journal of submissions                   by the client, under submit.lock
                         (change.lock: held for all of a launch's, retry's, extend's or cancel's work)
      tracking.json      ids in the tracking store                under tracking.lock
      forwarded.json     how far the spools were delivered        under tracking.lock
      cancelled.json     the user asked for the end               by `cancel`
      ended/             <member>.<attempt>.<STATE>               empty, by the supervisor: an index of outcomes
      result.json        best member, registered model            by the finish step
      logs/              output of the batch steps
      tensorboard/<k>/   events.out.tfevents.*                    by one process for each member, where asked for
      members/<k>/       spec.json checkpoints/ model/ logs/ (point.json: of a search, asked for at the start;
                         inherited.json: of a population, whose checkpoints it was given; project/: where a program
                         starts, what it has written there)
        attempt-<n>/     ledger.jsonl metrics.jsonl rank-<r>.log outcome.json beat-<r> stacks-<r>.txt (of a hang) ...

One writer per file; a state is the presence of a file, written aside and renamed. Folders are private
(0700). Standard library only: the supervisor reads it on a node. It decides nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.errors import SiteError

PROJECT = "project"
"""Below `code`: the snapshot of the project; below a member: its own copy."""


class LockBusy(SiteError):
    """Somebody else held a lock for longer than we were willing to wait."""


@dataclass(frozen=True)
class Attempt:
    """One try of a member."""

    path: Path

    @property
    def number(self) -> int:
        return int(self.path.name.removeprefix("attempt-"))

    @property
    def outcome(self) -> Path:
        return self.path / "outcome.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def rank_log(self, rank: int) -> Path:
        return self.path / f"rank-{rank}.log"

    def beat(self, rank: int) -> Path:
        return self.path / f"beat-{rank}"


@dataclass(frozen=True)
class Member:
    """One element of a job."""

    path: Path

    @property
    def index(self) -> int:
        return int(self.path.name)

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def point(self) -> Path:
        return self.path / "point.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def project(self) -> Path:
        return self.path / PROJECT

    def attempts(self) -> list[Attempt]:
        """Every try so far, oldest first."""
        found = [Attempt(p) for p in self.path.glob("attempt-*") if p.name.removeprefix("attempt-").isdigit()]
        return sorted(found, key=lambda a: a.number)


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def provenance(self) -> Path:
        return self.path / "provenance.json"

    @property
    def members_file(self) -> Path:
        return self.path / "members.jsonl"

    @property
    def code(self) -> Path:
        return self.path / "code"

    @property
    def journal(self) -> Path:
        return self.path / "submit.jsonl"

    @property
    def tracking(self) -> Path:
        return self.path / "tracking.json"

    @property
    def forwarded(self) -> Path:
        return self.path / "forwarded.json"

    @property
    def cancelled(self) -> Path:
        return self.path / "cancelled.json"

    @property
    def change_lock(self) -> Path:
        """Held by whoever submits or cancels members, from looking at what there is to the last sbatch."""
        return self.path / "change.lock"

    def is_submitting(self) -> bool:
        """Whether a client is at work on it, or left an sbatch that is still in flight."""
        return is_locked(self.change_lock) or is_locked(self.path / "sbatch.lock")

    def cancelled_at(self) -> float:
        """When the user last asked for the end, also of an earlier round; 0 for never."""
        return max((float(read_json(p)["t"]) for p in self.path.glob("cancelled*.json")), default=0.0)

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def ended(self) -> Path:
        return self.path / "ended"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def member(self, index: int) -> Member:
        return Member(self.path / "members" / str(index))

    def members(self) -> Iterator[Member]:
        """Every member of the job, started or not."""
        return (self.member(row["index"]) for row in read_lines(self.members_file))


def mark_ended(run: Run, index: int, attempt: int, state: str) -> None:
    """Add a final outcome to the index of them, which is a folder's listing: many hosts write, nobody waits."""
    make_private(run.ended)
    (run.ended / f"{index}.{attempt}.{state}").touch()


def unmark_ended(run: Run, indices: Collection[int]) -> None:
    """Take members out of the index: they are about to be tried again. Their outcomes stay where they are."""
    for path in run.ended.glob("*.*.*"):
        if int(path.name.partition(".")[0]) in indices:
            path.unlink(missing_ok=True)


def ended_members(run: Run) -> dict[int, tuple[int, str]]:
    """Attempt and state of each member's newest final outcome in the index."""
    found: dict[int, tuple[int, str]] = {}
    try:
        names = [path.name for path in run.ended.iterdir()]
    except FileNotFoundError:
        return found
    for name in names:
        index, attempt, state = name.split(".")
        found[int(index)] = max(found.get(int(index), (-1, "")), (int(attempt), state))
    return found


def gave_up(run: Run, index: int) -> Path:
    """Says that a member of a search left without a point, as it would have held an allocation for nothing."""
    return run.path / "study" / "gave_up" / f"{index}.json"


def members_that_gave_up(run: Run) -> dict[int, Path]:
    """Those that wait for the finish step to queue them again, and what says so."""
    return {int(path.stem): path for path in (run.path / "study" / "gave_up").glob("[0-9]*.json")}


def rows_of(run: Run, indices: Collection[int] | None = None) -> list[dict[str, Any]]:
    """The lines of members.jsonl, of these members or all; with the point of one that asked for it at its start."""
    return [with_point(run, row) for row in read_lines(run.members_file) if indices is None or row["index"] in indices]


def with_point(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    """A line of members.jsonl, with its point when the member asked for it. `retry` may have changed other sections
    than the point did."""
    if not row.get("late"):
        return row
    asked = read_json(run.member(row["index"]).point) or {}
    return {**row, **asked, "sections": {**row["sections"], **asked.get("sections", {})}}


def late_row(index: int) -> dict[str, Any]:
    """The line of a member that asks for its point when it starts."""
    return {"index": index, "late": True, "point": {}, "sections": {}}


def started_members(run: Run) -> set[int]:
    """Members that have a folder."""
    return {int(path.name) for path in (run.path / "members").glob("[0-9]*")}


def make_private(path: Path) -> Path:
    """A folder that only its owner enters, and its parents."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_json(path: Path, document: Any) -> None:
    """Write a whole JSON file or none: aside, synced, renamed. Safe against a kill between any two lines."""
    write_text(path, json.dumps(document, indent=1, sort_keys=False, ensure_ascii=False) + "\n")


def write_once(path: Path, document: Any) -> bool:
    """Like `write_json`, where there is no such file yet. Returns whether it was written: of two hosts that try, one
    succeeds, also when neither saw the other's file."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.once")
    write_json(aside, document)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    except OSError as e:
        if e.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        aside.replace(path)  # a file system without hard links
    finally:
        aside.unlink(missing_ok=True)
    return True


def write_text(path: Path, text: str) -> None:
    """Like `write_json`, for text."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        with aside.open("w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def clock_of(folder: Path) -> float:
    """The time by the clock of the file system that a folder is on: the one clock that all hosts share."""
    os.utime(folder)
    return folder.stat().st_mtime


def last_sign(attempt: Attempt) -> float:
    """When an attempt last wrote anything, by that clock: of one whose supervisor was killed, nobody knows its end."""
    return max(path.stat().st_mtime for path in attempt.path.iterdir())


def read_json(path: Path) -> Any:
    """The document in a file, or None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as e:
        raise SiteError(f"{path.name} is not valid JSON: {e}", where=str(path)) from None


def append_line(path: Path, document: Any) -> None:
    """Add a line and wait until it is on disk."""
    append_lines(path, [document])


def append_lines(path: Path, documents: Sequence[Any]) -> None:
    """Add lines with one write, and wait until they are on disk. A kill leaves the first few of them whole."""
    text = "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    data = text.encode("utf-8", errors="surrogateescape")
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            data = b"\n" + data  # a line was torn by a kill: it must not take this one with it
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def read_lines(path: Path) -> list[Any]:
    """Every complete line of a JSON-lines file; a torn last line (no newline) is left for later."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = data[: data.rfind(b"\n") + 1].decode("utf-8", errors="surrogateescape")
    rows = []
    for line in whole.split("\n"):
        with contextlib.suppress(json.JSONDecodeError):
            if line:
                rows.append(json.loads(line))
    return rows


def is_locked(path: Path) -> bool:
    """Whether somebody holds a lock at this moment. Needs to read only: who looks may look at once, and at what is
    on storage that takes nothing any more."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextlib.contextmanager
def locked(path: Path, timeout_s: float = 60) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel frees it when the holder dies.

    Raises LockBusy when somebody else holds it for longer than `timeout_s`.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    what = f"{path.name} was held by another process for {timeout_s:g} s"
                    raise LockBusy(what, where=str(path), do="try again when it is done") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(fd)
