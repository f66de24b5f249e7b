"""Following a job: its lines as they come, and what it came to."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from launchers.errors import EXIT_DONE, EXIT_JOB_FAILED
from launchers.verbs.printed import print_json, print_lines, status_document

if TYPE_CHECKING:
    from launchers.jobs.logs import Choice
    from launchers.run_folder.record import Run


def follow(run: Run, choice: Choice, look: Callable[[str, str], None]) -> None:
    from launchers.jobs import logs
    from launchers.jobs.waiting import has_ended

    for label, line in logs.follow(run, choice, has_ended(run)):
        look(label, line)


def log_line(label: str, line: str) -> str:
    return f"[{label}] {line}" if label else line


def log_row(choice: Choice, label: str, line: str) -> str:
    """A line for a program that reads it: one JSON object each. A label leaves out what there is one of."""
    member, _, rank = label.rpartition("/")
    place = {"member": int(member or choice.member or 0), "rank": int(rank or choice.rank or 0)}
    return json.dumps({**place, "line": line})


def until_end(run: Run, arguments: argparse.Namespace, timeout_s: float | None, *, cancel_on_interrupt: bool) -> int:
    from launchers import show
    from launchers.jobs import progress
    from launchers.jobs.waiting import wait
    from launchers.run_folder.record import read_json

    try:
        with progress.display(run) as look:
            now = wait(run, timeout_s=timeout_s, look=look)
    except KeyboardInterrupt:
        if not cancel_on_interrupt:
            print(f"\n{run.id} goes on: fairlead status {run.id}", file=sys.stderr)
            raise
        from launchers.jobs.cancel import cancel

        print("\nstopping: what runs saves a checkpoint and leaves", file=sys.stderr, flush=True)
        cancel(run)
        now = wait(run, timeout_s=120)
        print(f"it goes on from there with: fairlead retry {run.id}", file=sys.stderr)
    result = read_json(run.result)
    if arguments.json:
        print_json({**status_document(now), "result": result})
    else:
        print_lines(show.summary_text(now, result, read_json(run.spec)))
    return EXIT_DONE if now.state == "SUCCEEDED" or _has_found(result) else EXIT_JOB_FAILED


def _has_found(result: Mapping[str, Any] | None) -> bool:
    """Whether it is a search that has a best trial: that others failed is no failure of the search."""
    best = ((result or {}).get("search") or {}).get("best")
    return best is not None and best["state"] == "SUCCEEDED"
