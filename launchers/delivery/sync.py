"""The verb `sync`: deliver what a job measured, now; and `prepare`, which makes its runs while nobody waits."""

from __future__ import annotations

import subprocess
from typing import Any

from launchers.delivery.finish import finish
from launchers.delivery.forward import forward
from launchers.delivery.store import shown
from launchers.delivery.tracking import recorded
from launchers.jobs.status import TERMINAL, status_of
from launchers.plan import Plan
from launchers.queue.slurm import client_environment
from launchers.run_folder.record import Run


def sync(run: Run) -> dict[str, Any]:
    """Deliver everything that is not in the store yet, and complete the job there when it has ended. What was done:

    uri      the store; None where tracking is none
    runs     member, run_id and points of each member that had something to send
    refused  members whose run the store takes nothing for, such as one deleted there
    model    of an ended job: name, version and alias of its registered model, made now or before; None without one
    problem  of an ended job: what kept the rest from being done, "" for nothing

    Raises StoreError when the store does not answer; nothing is lost then.
    """
    sent = forward(run)
    ended = status_of(run, progress_of=0).state in TERMINAL
    result = finish(run) if ended else {}  # also while the finish step still tries: both may, one after the other
    tracking = recorded(run)
    runs = tracking.runs if tracking else {}
    return {
        "job": run.id,
        "uri": shown(tracking.uri) if tracking else None,
        "points": sent.points,
        "runs": [{"member": i, "run_id": runs[i], "points": n} for i, n in sorted(sent.by_member.items())],
        "refused": sorted({*sent.refused, *result.get("refused", ())}),
        "model": result.get("model"),
        "problem": result.get("problem", ""),
    }


def prepare(run: Run, plan: Plan) -> None:
    """Make the job's runs in the store, in a process of its own: nothing waits for it and nothing needs it
    (whoever delivers first makes what is missing)."""
    with (run.logs / "tracking.log").open("ab") as log:
        subprocess.Popen(
            [plan.python, "-m", "launchers.delivery.forward", str(run.path)],
            env={**client_environment(), "PYTHONPATH": str(run.code / "fairlead")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
