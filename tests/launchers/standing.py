"""Runs that stand as a test says: submitted, in the queue, and as far as their attempts' files say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf import schema
from launchers.jobs.status import JobStatus, status_of
from launchers.parts import Part
from launchers.queue import scheduler
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import Run, write_json
from launchers.search.standing import standing_of
from launchers.show import status_text
from tests.launchers.tracked import spec_of
from tests.launchers.tried import make_search, search_of

S = scheduler.SEPARATOR
Make = Callable[..., Any]


def attempt(run: Run, member: int, state: str | None = None, number: int = 0, *metrics: dict[str, Any]) -> None:
    folder = run.member(member).path / f"attempt-{number}"
    folder.mkdir(parents=True)
    if state:
        write_json(folder / "outcome.json", {"state": state, "cause": state.lower(), "message": f"m{number}"})
    if metrics:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))


def submitted(run: Run, members: int, slurm_id: str = "7") -> None:
    journal = Journal(run)
    journal.reached(journal.intend(Part.whole(*range(members))).intent, slurm_id)


def queue(fakes: Any, *rows: tuple[str, str, str, str]) -> None:
    """(elements, name, state, reason) of job 7."""
    fakes.put("squeue", "\n".join(f"print({S.join(('7', *row))!r})" for row in rows))


def states(now: JobStatus) -> list[str]:
    return [m.state for m in now.members]


def without_a_word(fakes: Any) -> Any:
    """An empty queue, and a site without accounting."""
    fakes.put("squeue", "pass")
    fakes.put("sacct", "sys.exit('accounting storage is disabled')")
    return fakes


def searched(folder: Path, trials: int = 6, launcher: str = "local", **more: Any) -> Run:
    spec = dataclasses.replace(spec_of(), launcher=schema.Launcher(kind=launcher, max_parallel=2))  # type: ignore[arg-type]
    return make_search(folder, search_of(trials, **more), spec=spec, fresh=True, kind="none")


def lines_of(run: Run) -> list[str]:
    now = status_of(run, progress_of=20)
    return list(status_text(now, standing_of(run, now)))
