"""Ended trials once more, in one file: study/known.jsonl, so that nobody reads a thousand folders to suggest a point.

Only a cache: a line that is torn or of another version is as if it were not there, and the trial is read from its
member's folder again. Who looks twice reads only what was added since. Which trials there are is study.py's.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from launchers.run_folder.record import append_lines
from sweeps.trials import Report, Trial

Mark = tuple[int, str]
"""Attempt and state under which a trial ended; after a retry it is another."""


class Known:
    """The file, as far as it has been read. Writers hold the lock of `ask.py`."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self._found: dict[int, tuple[Mark, Trial]] = {}

    def trials(self) -> Mapping[int, tuple[Mark, Trial]]:
        """The newest line of each trial, by its number."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as f:
            if os.fstat(f.fileno()).st_size < self._offset:
                self._offset = 0  # it was lost, and is being made anew
            f.seek(self._offset)
            data = f.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in whole.splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    row = json.loads(line)
                    (attempt, state), trial = row["mark"], trial_of(row)
                    self._found[trial.number] = (attempt, state), trial
        return self._found

    def add(self, trials: Iterable[tuple[Mark, Trial]]) -> None:
        """Those that are not there yet; on disk when this returns."""
        known = self.trials()
        new = [(mark, t) for mark, t in trials if t.number not in known or known[t.number][0] != mark]
        if new:
            append_lines(self._path, [{"mark": mark, **document(trial)} for mark, trial in new])


def document(trial: Trial) -> dict[str, Any]:
    """A trial for JSON: reports by columns, which are read twice as fast as one list for each."""
    names = dict.fromkeys(name for report in trial.reports for name in report.metrics)
    columns = {name: [report.metrics.get(name) for report in trial.reports] for name in names}
    said = {"steps": [r.step for r in trial.reports], "times": [r.t for r in trial.reports], "metrics": columns}
    rest = {k: v for k, v in vars(trial).items() if k != "reports"}
    return {"trial": {**rest, "point": dict(trial.point)}, "reports": said}


def trial_of(row: Mapping[str, Any]) -> Trial:
    """The trial that `document` wrote, whatever stands beside it."""
    said = row["reports"]
    names = list(said["metrics"])
    rows = zip(said["steps"], said["times"], *said["metrics"].values(), strict=True)
    reports = tuple(
        Report(step=step, t=t, metrics={n: v for n, v in zip(names, values, strict=True) if v is not None})
        for step, t, *values in rows
    )
    return Trial(**row["trial"], reports=reports)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's collector of cycles, which would look at every trial again and again: half of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
