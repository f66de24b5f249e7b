"""Deliver what the trainers spooled into the tracking store, once: `python -m launchers.delivery.forward RUN`.

A spool line keeps its own time, so a point delivered twice is in the store once, and a crash between the
store's answer and our mark (forwarded.json) does no harm. Steps that a later attempt did not continue
from are left out if they were not delivered yet; what was delivered stays beside the repeated steps, as
MLflow has no call to take points back. System metrics are never left out: that work did happen.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from json import JSONDecodeError, dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launchers.delivery.store import Client, is_refusal, opened
from launchers.delivery.tracking import LOCK_LIMIT_S, NAME_LENGTH, Tracking, ensure_runs, name_of, spec_of, text_of
from launchers.errors import EXIT_DONE, EXIT_SITE, SiteError
from launchers.run_folder import ledger
from launchers.run_folder.record import Attempt, Member, Run, locked, read_json, read_lines, write_json

POINTS_A_CALL = 1000
MARK_EVERY_S = 1.0
FIRST_MS = 1e11
"""In milliseconds that is 1973, in seconds the year 5138."""
DIGEST_LENGTH, SOURCE_LENGTH = 36, 60_000

if TYPE_CHECKING:
    from launchers.delivery.replay import Replay

Point = tuple[str, float, int, int]
"""Name, value, time (ms since the epoch), step."""


@dataclass(frozen=True)
class Delivered:
    """What one call brought into the store."""

    by_member: Mapping[int, int] = field(default_factory=dict)
    """Member -> how many points; those that had something to send."""
    refused: tuple[int, ...] = ()
    """Members whose run the store will not take anything for, such as one deleted there."""

    @property
    def points(self) -> int:
        return sum(self.by_member.values())


@dataclass(frozen=True)
class Spool:
    """A file of an attempt with lines that are not delivered yet."""

    member: int
    path: Path
    offset: int
    last_step: float = math.inf
    """Later steps were repeated by a later attempt."""


@dataclass
class Batch:
    """Lines that go into the store together."""

    end: int = 0
    """Where the file's next line begins."""
    points: list[Point] = field(default_factory=list)
    datasets: list[Mapping[str, Any]] = field(default_factory=list)


def forward(run: Run, *, members: Collection[int] | None = None) -> Delivered:
    """Deliver every complete line that is not in the store yet, of these members or all.

    Idempotent and safe against a kill at any point. Opens no store when nothing is new.
    Raises StoreError when the store cannot be reached.
    """
    from launchers.delivery import replay  # which registers, and needs this file for it

    tracking = ensure_runs(run)
    if tracking is None:
        return Delivered()
    with locked(run.path / "tracking.lock", LOCK_LIMIT_S):
        marks, chosen = Marks(run), [m for m in run.members() if members is None or m.index in members]
        of_client = spec_of(run).job.metrics.kind == "mlflow"
        spools = [s for m in chosen for s in _spools(m, marks, of_client)]
        clients = [m.index for m in chosen if m.index in tracking.runs and replay.has_news(run, m, marks)]
        if not spools and not clients:
            return Delivered()
        with opened(tracking.uri, run.id) as client:
            done = _deliver(client, tracking, spools, marks)
            return _replayed(replay.Replay(client, run, tracking, marks), clients, done)


class Marks:
    """How far each file was delivered, and which members were closed: forwarded.json."""

    def __init__(self, run: Run) -> None:
        self.run = run
        document = read_json(run.forwarded) or {}
        self.offsets: dict[str, int] = document.get("offsets", {})
        self.closed: dict[str, str] = document.get("closed", {})
        self.saved = time.monotonic()

    def offset(self, path: Path) -> int:
        return self.offsets.get(self._key(path), 0)

    def advance(self, path: Path, end: int) -> None:
        """Remember a delivery; on disk at most a second later, as a repeated one does no harm."""
        self.offsets[self._key(path)] = end
        if time.monotonic() - self.saved >= MARK_EVERY_S:
            self.save()

    def close(self, index: int, mark: str) -> None:
        """Remember that a member's run is complete."""
        self.closed[str(index)] = mark
        self.save()

    def save(self) -> None:
        write_json(self.run.forwarded, {"offsets": self.offsets, "closed": self.closed})
        self.saved = time.monotonic()

    def _key(self, path: Path) -> str:
        return path.relative_to(self.run.path).as_posix()


def datasets_of(member: Member) -> list[Mapping[str, Any]]:
    """What the last attempt that said so was trained and evaluated on."""
    for attempt in reversed(member.attempts()):
        found = [line["dataset"] for line in read_lines(attempt.metrics) if "dataset" in line]
        if found:
            return found
    return []


def _replayed(replay: Replay, members: Collection[int], before: Delivered) -> Delivered:
    """What the programs' own clients wrote, besides what was delivered before."""
    from mlflow.exceptions import MlflowException

    points, refused = Counter[int](before.by_member), set(before.refused)
    try:
        for index in members:
            try:
                points[index] += replay.member(index)
            except MlflowException as e:
                if not is_refusal(e):
                    raise
                refused.add(index)
    finally:
        replay.marks.save()
    return Delivered({member: n for member, n in points.items() if n}, tuple(sorted(refused)))


def _spools(member: Member, marks: Marks, of_client: bool) -> Iterator[Spool]:
    """`of_client`: its reports are what its own client measured, which replay.py delivers."""
    attempts = member.attempts()
    restored = [went_on_from(a) for a in attempts] if len(attempts) > 1 else [math.inf]
    for i, attempt in enumerate(attempts):
        last_step = min(restored[i + 1 :], default=math.inf)
        found = [
            (attempt.metrics, last_step),
            *(() if of_client else ((attempt.path / "reports.jsonl", last_step),)),
            *((p, math.inf) for p in sorted(attempt.path.glob("system-*.jsonl"))),
        ]
        for path, limit in found:
            offset = marks.offset(path)
            if path.exists() and path.stat().st_size > offset:
                yield Spool(member.index, path, offset, limit)


def went_on_from(attempt: Attempt) -> float:
    """The step an attempt went on from: 0 if it trained without restoring, infinite if it never got there."""
    events = ledger.events_of(attempt)
    if (step := ledger.went_on_from(events)) is not None:
        return float(step)
    return 0.0 if any(event.get("event") == "first_step" for event in events) else math.inf


def points_of(path: Path) -> Iterator[Point]:
    """Of every complete line of a spool, in order; of none where there is no such file."""
    if path.exists():
        for batch in _batches(Spool(-1, path, 0)):
            yield from batch.points


def _deliver(client: Client, tracking: Tracking, spools: list[Spool], marks: Marks) -> Delivered:
    from mlflow.exceptions import MlflowException

    points, refused = Counter[int](), set[int]()
    try:
        for spool in spools:
            try:
                for batch in _batches(spool):
                    _send(client, tracking.runs[spool.member], batch)
                    marks.advance(spool.path, batch.end)
                    points[spool.member] += len(batch.points)
            except MlflowException as e:
                if not is_refusal(e):
                    raise
                refused.add(spool.member)
    finally:
        marks.save()
    return Delivered({member: n for member, n in points.items() if n}, tuple(sorted(refused)))


def _batches(spool: Spool) -> Iterator[Batch]:
    """Complete lines in order, as many as one call takes."""
    batch = Batch(spool.offset)
    with spool.path.open("rb") as f:
        f.seek(spool.offset)
        for line in f:
            if not line.endswith(b"\n"):
                break
            points, dataset = _read(line, spool.last_step)
            if batch.points and len(batch.points) + len(points) > POINTS_A_CALL:
                yield batch
                batch = Batch(batch.end)
            batch.end += len(line)
            batch.points += points
            batch.datasets += [dataset] if dataset else []
    if batch.end > spool.offset:
        yield batch


def _read(line: bytes, last_step: float) -> tuple[list[Point], Mapping[str, Any] | None]:
    """The points and the dataset of a line. What is not as agreed is left out: it can be delivered never."""
    try:
        document = loads(line)
        stamp, step = _milliseconds(document["t"]), int(document.get("step") or 0)
        metrics, dataset = document.get("metrics") or {}, document.get("dataset")
        if step > last_step:
            return [], dataset
        return [(name_of(k), float(v), stamp, step) for k, v in metrics.items()], dataset
    except (JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return [], None


def _milliseconds(t: float) -> int:
    """The trainer's spool says milliseconds, reports.jsonl of other programs seconds since the epoch."""
    return int(t if t > FIRST_MS else t * 1000)


def _send(client: Client, run_id: str, batch: Batch) -> None:
    from mlflow.entities import Metric

    if batch.datasets:
        client.log_inputs(run_id, datasets=[_dataset_input(d) for d in batch.datasets])
    metrics = [Metric(*point) for point in batch.points]
    for i in range(0, len(metrics), POINTS_A_CALL):
        client.log_batch(run_id, metrics=metrics[i : i + POINTS_A_CALL])


def _dataset_input(dataset: Mapping[str, Any]) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = {k: v for k, v in dataset.items() if k not in ("name", "digest", "context", "source")}
    return DatasetInput(
        Dataset(
            name=text_of(dataset.get("name") or "data", NAME_LENGTH),
            digest=digest_of(dataset),
            source_type="fairlead",
            source=dumps({"uri": text_of(dataset.get("source") or "", SOURCE_LENGTH)}),
            profile=dumps(profile),
        ),
        [InputTag("mlflow.data.context", str(dataset.get("context") or "train"))],
    )


def digest_of(dataset: Mapping[str, Any]) -> str:
    """A data set's digest, as long as MLflow keeps it."""
    return str(dataset.get("digest") or "unknown").removeprefix("sha256:")[:DIGEST_LENGTH]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launchers.delivery.forward", description="Deliver spooled metrics of a run.")
    parser.add_argument("run", type=Path)
    try:
        done = forward(Run(parser.parse_args(argv).run.resolve()))
    except SiteError as e:
        print(e, file=sys.stderr)
        return EXIT_SITE
    print(f"delivered {done.points} points of {len(done.by_member)} members")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
