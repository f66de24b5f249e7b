"""How the members of a Hydra application's job ended, as its plugin wants to know it.

What a member returned stands in its attempt's returned.json, which our callback of Hydra writes there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from launchers.hydra_app.application_space import shown
from launchers.jobs import progress
from launchers.jobs.cancel import cancel
from launchers.jobs.status import JobStatus, MemberStatus
from launchers.jobs.waiting import wait
from launchers.plan import Plan
from launchers.run_folder.record import Run, read_json, rows_of
from launchers.search.standing import standing_of


def end_of(run: Run, plan: Plan) -> dict[str, Any]:
    """Wait for the end of a job: its state, each member's, and what a search found.

    An interrupt (Ctrl-C) ends a job of this machine, and leaves one of Slurm's alone, as with `fairlead launch`.
    """
    try:
        with progress.display(run) as look:
            now = wait(run, look=look)
    except KeyboardInterrupt:
        if plan.launcher == "local":
            cancel(run)
        else:
            print(f"\n{run.id} goes on: fairlead status {run.id}", file=sys.stderr, flush=True)
        raise
    points = {row["index"]: row["point"] for row in rows_of(run)}
    members = [_member(run, member, points[member.index]) for member in now.members]
    return {"job": run.id, "state": now.state, "members": members, "search": _found(run, now)}


def _member(run: Run, member: MemberStatus, point: Mapping[str, Any]) -> dict[str, Any]:
    attempts = run.member(member.index).attempts()
    last = attempts[-1] if attempts else None
    outcome = (read_json(last.outcome) if last else None) or {}
    claim = read_json(run.member(member.index).point) or {"point": point}
    return {
        "number": member.index,
        "state": member.state,
        "point": shown(claim["point"]),
        "message": f"{member.cause}: {member.message}" if member.cause else member.message,
        "last_lines": outcome.get("last_lines", []),
        "returned": read_json(last.path / "returned.json") if last else None,
    }


def _found(run: Run, now: JobStatus) -> dict[str, Any] | None:
    """The best of a search, and its Pareto set where it has several goals."""
    stands = standing_of(run, now)
    if stands is None:
        return None
    best = stands["best"]
    return {
        "best": {**best, "point": shown(best["point"])} if best else None,
        "goals": stands["goals"],
        "over": stands["over"],
        "pareto": stands.get("pareto"),
    }
