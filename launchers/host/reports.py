"""What a program says of itself, in any of the formats it may use, becomes lines of attempt/reports.jsonl.

    {"t": seconds since the epoch, "step": 3, "metrics": {"val/loss": 0.4}}      ("nan", "inf", "-inf" as words)

Each report is there once, however often and at whatever moment a look at the program's files was cut short.
Our trainer writes such lines itself (its spool), which are only read here. Standard library only; what
follows from a report is judge.py's, how files are read while they are written tailing.py's.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from conf.job_schema import Metrics
from conf.masking import masked
from launchers.contract import REPORT_FILES
from launchers.host.events import EventFiles
from launchers.host.matching import Matcher
from launchers.host.metric_files import MetricFiles
from launchers.host.tailing import Rewritten, Tail
from launchers.run_folder.record import Attempt, read_lines

Row = dict[str, Any]
BESIDE = ("checkpoint_path", "global_step", "timestamp", "trial")
"""Keys of a hypertune line that are no metric."""
LINE_SEARCHED = 2000
"""Characters of a line of output that a pattern is searched for in."""
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
NAME_LENGTH, MOST_NAMES = 250, 1000
MOST_WAITING = 100_000
"""Rows held while the disk is full; then the oldest go."""
STORED_EVERY_S, MANY = 0.9, 50
SYNC_EVERY_S = 5.0


class Said(NamedTuple):
    """One line of a program, understood."""

    metrics: Mapping[str, float]
    step: int | None
    """None where the program does not say."""
    t: float | None


class Spool:
    """The reports of our trainer, from its own metrics.jsonl: those that name one of these metrics."""

    pause_s = 1.0

    def __init__(self, attempt: Attempt, names: Collection[str]) -> None:
        self._tail = Tail(attempt.metrics)
        self._names = [json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogateescape") for name in names]

    def collect(self, last: bool = False, torn: bool = False) -> list[Row]:
        """What was said since."""
        rows = []
        for line in self._tail.lines(last, torn):
            document = _json(line) if any(name in line for name in self._names) else None
            if isinstance(document, dict) and isinstance(document.get("metrics"), dict):
                t = _number(document.get("t"))
                rows.append({**document, "t": None if t is None else t / 1000})
        return rows


class Reports:
    """The reports of any other program, collected into reports.jsonl."""

    def __init__(self, metrics: Metrics, attempt: Attempt) -> None:
        """Begin before the program does: what a file holds by then was said by somebody else. Where an earlier
        collector of this attempt was cut short, go on where it ended."""
        self.path = attempt.path / "reports.jsonl"
        self._rewritten = metrics.kind == "hypertune"
        self._zero_is_none = metrics.kind in ("hypertune", "mlflow")
        self._understood: Callable[[bytes], Said | None]
        self._understood = UNDERSTOOD.get(metrics.kind) or _Pattern(metrics)
        self._last: dict[str, int] = {}
        before, several = read_lines(self.path), metrics.kind in ("tensorboard", "mlflow")
        self._skip = 0 if self._rewritten or several else len(before)
        self._again = Counter(_key(row) for row in before) if several else Counter[Any]()
        """Of several files, which need not be read in the order of the first time: rows that are stored already."""
        self._known = {(row["t"], *row["metrics"].items()) for row in before if self._rewritten}
        for row in before if self._rewritten else ():
            self._last.update(dict.fromkeys(row["metrics"], row["step"]))
        self._lines = self._reader(metrics, attempt)
        self.hidden: Sequence[str] = ()
        """Secrets, which are masked where the name of a metric has one."""
        self._waiting: list[Row] = []
        self._stored_at = self._synced_at = -math.inf
        self._burst_until = -math.inf

    @property
    def pause_s(self) -> float:
        """How long the next look can wait. hypertune keeps 100 reports, which a program in a hurry makes in 60 ms."""
        if not self._rewritten:
            return 1.0
        return 0.005 if time.monotonic() < self._burst_until else 0.02

    @property
    def passed_over(self) -> int:
        """Bytes of output that came faster than they could be searched."""
        return self._lines.passed_over if isinstance(self._lines, Tail) else 0

    @property
    def trouble(self) -> str:
        """What a person should know of a pattern that takes too long or of a file; empty where there is nothing."""
        if isinstance(self._lines, EventFiles | MetricFiles):
            return self._lines.trouble
        return self._understood.matcher.trouble if isinstance(self._understood, _Pattern) else ""

    def collect(self, last: bool = False, torn: bool = False) -> list[Row]:
        """Store what was said since and return it; now and then, or at once with `last`. With `torn` a last line
        without a line break counts: a program that was killed may have been in the middle of a number.

        Raises OSError when it cannot be read or stored: nothing is lost, and a later call does both.
        """
        before, now = len(self._waiting), time.monotonic()
        for line in self._lines.lines(last, torn):  # one by one: what was read is kept when reading fails
            if (row := self._row(line)) is not None:
                self._waiting.append(row)
        if last and isinstance(self._understood, _Pattern):
            self._understood.matcher.close()
        if len(self._waiting) > before + 10:
            self._burst_until = now + 1
        del self._waiting[:-MOST_WAITING]
        if not self._waiting or not (last or len(self._waiting) >= MANY or now - self._stored_at >= STORED_EVERY_S):
            return []
        sync = last or now - self._synced_at >= SYNC_EVERY_S
        _store(self.path, self._waiting, sync)
        self._stored_at, self._synced_at = now, now if sync else self._synced_at
        stored, self._waiting = self._waiting, []
        return stored

    def _reader(self, metrics: Metrics, attempt: Attempt) -> Tail | Rewritten | EventFiles | MetricFiles:
        if metrics.kind == "mlflow":
            return MetricFiles(attempt)
        if metrics.kind == "tensorboard":
            return EventFiles(attempt, metrics.path or "logs")
        files = {"hypertune": "CLOUD_ML_HP_METRIC_FILE", "jsonl": "FAIRLEAD_REPORTS"}
        path = attempt.rank_log(0)
        if metrics.kind in files:
            path = attempt.path / REPORT_FILES[files[metrics.kind]]
        if metrics.path is not None:
            path = attempt.path.parent / metrics.path
        if not self._rewritten:
            # A file that members' attempts share goes on from where the last one ended.
            begun = path.stat().st_size if metrics.path and not self._skip and path.exists() else 0
            return Tail(path, begun, in_parts=path == attempt.rank_log(0))
        reader = Rewritten(path)
        if metrics.path is not None:
            list(reader.lines())
        else:
            path.touch(mode=0o600)  # one that is not there is asked for again and again, over the network
        return reader

    def _row(self, line: bytes) -> Row | None:
        said = self._understood(line)
        if said is None:
            return None
        named = {masked(k, self.hidden): v for k, v in said.metrics.items()} if self.hidden else said.metrics
        metrics = {k: _word(v) for k, v in named.items() if k in self._last or len(self._last) < MOST_NAMES}
        if not metrics or (said.t, *metrics.items()) in self._known:
            return None
        step = self._step(said, metrics)
        self._last.update(dict.fromkeys(metrics, step))
        row = {"t": time.time() if said.t is None else said.t, "step": step, "metrics": metrics}
        if self._skip:
            self._skip -= 1
            return None
        if self._again and self._again[_key(row)] > 0:
            self._again[_key(row)] -= 1
            return None
        return row

    def _step(self, said: Said, names: Collection[str]) -> int:
        """As said, or one more than the last; hypertune and MLflow write 0 for a program that says none."""
        before = max((self._last[name] for name in names if name in self._last), default=None)
        if said.step is not None and not (self._zero_is_none and said.step == 0 and before is not None):
            return said.step
        return 1 if before is None else before + 1


class _Pattern:
    """Reports in lines of output."""

    def __init__(self, metrics: Metrics) -> None:
        pattern = metrics.pattern or "(?!)"
        self.matcher = Matcher(pattern)
        self._metric = metrics.metric
        self._others = [g for g in re.compile(pattern).groupindex if g not in ("metric", "value", "step")]

    def __call__(self, line: bytes) -> Said | None:
        text = line[: 4 * LINE_SEARCHED].decode("utf-8", errors="replace")[:LINE_SEARCHED]
        if "\x1b" in text:
            text = COLOUR.sub("", text)
        metrics: dict[str, float] = {}
        step: int | None = None
        for groups in self.matcher.found(text):
            metrics.update(self._metrics(groups))
            step = step if step is not None else _step(groups.get("step"))
        return Said(metrics, step, None) if metrics else None

    def _metrics(self, groups: Mapping[str, str | None]) -> dict[str, float]:
        said = {name: groups[name] for name in self._others}
        if "value" in groups:
            said[groups.get("metric") or self._metric or ""] = groups["value"]
        return _metrics({k: v.strip(" ,;%") for k, v in said.items() if v is not None})


def _hypertune(line: bytes) -> Said | None:
    """A line of cloudml-hypertune: numbers are words in it."""
    document = _json(line)
    if not isinstance(document, dict):
        return None
    metrics = _metrics({k: v for k, v in document.items() if k not in BESIDE})
    return Said(metrics, _step(document.get("global_step")), _time(document.get("timestamp"))) if metrics else None


def _json_line(line: bytes) -> Said | None:
    """`{"step": 3, "t": 1790000000.5, "val/loss": 0.4}`, or the metrics below `metrics`; step and t may be away."""
    document = _json(line)
    if not isinstance(document, dict):
        return None
    inside = document.get("metrics")
    named = inside if isinstance(inside, dict) else {k: v for k, v in document.items() if k not in ("step", "t")}
    metrics = _metrics(named)
    return Said(metrics, _step(document.get("step")), _time(document.get("t"))) if metrics else None


UNDERSTOOD = {"hypertune": _hypertune, "jsonl": _json_line, "tensorboard": _json_line, "mlflow": _json_line}


def _key(row: Row) -> tuple[Any, ...]:
    return (row["t"], *row["metrics"].items())


def _json(line: bytes) -> Any:
    """The document in a line, or None."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(line.decode("utf-8", errors="replace"))
    return None


def _metrics(said: Mapping[str, Any]) -> dict[str, float]:
    named = {k: v for k, v in said.items() if 0 < len(k) <= NAME_LENGTH and k.isprintable()}
    found = ((name, _number(value)) for name, value in named.items())
    return {name: number for name, number in found if number is not None}


def _number(value: Any) -> float | None:
    """NaN and infinities are numbers here; true and false are not."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)
    return None


def _step(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and abs(number) < 2**53 else None


def _time(value: Any) -> float | None:
    """Seconds since the epoch, if that is what it can be."""
    number = _number(value)
    return number if number is not None and 0 < number < 2**33 else None


def _word(value: float) -> float | str:
    """As JSON can hold it."""
    return value if math.isfinite(value) else str(value)


def _store(path: Path, rows: Collection[Row], sync: bool) -> None:
    """Add all rows or none. Raises OSError."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogateescape")
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            data = b"\n" + data  # what a kill tore
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError:
            os.ftruncate(fd, size)
            raise
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
