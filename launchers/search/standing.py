"""How a search stands, in numbers: trials, best, Pareto set, budget used, slots, and why it is over.

One document for `status`, result.json and the tracking store. What a trial is comes from compared.py, how it
looks is show_search.py's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from launchers.jobs.status import TERMINAL, JobStatus
from launchers.plan import Plan, plans_from
from launchers.run_folder.record import Run, read_json
from launchers.search.compared import Compared, compared, is_search
from launchers.search.known import uncollected
from sweeps.facts import Facts
from sweeps.population import lineage
from sweeps.stopping import last_failures
from sweeps.timeline import usage
from sweeps.trials import Trial


def standing_of(run: Run, now: JobStatus) -> dict[str, Any] | None:
    """The document of a search as `now` found its members; None for any other job."""
    if not is_search(run):
        return None
    with uncollected():
        of = compared(run, gone_of(now))
        return standing(of, plans_from(read_json(run.plan))[0], time.time())


def gone_of(now: JobStatus) -> set[int]:
    """Members that nothing runs any more, whether they left a word or not."""
    return {member.index for member in now.members if member.state in TERMINAL}


def standing(of: Compared, plan: Plan, now: float) -> dict[str, Any]:
    """The document of a job; every value can stand in JSON.

    trials   how many are in each state
    best     trial, state, values by metric, point, in a population its lineage; None before there is one
    pareto   numbers of the trials in the Pareto set, only with several goals
    budget   trials, gpu_hours, wall_min: each what is used of which limit (None: no limit)
    slots    how many places there were and what share of their time was idle; None before the first start
    over     why there will be no more trials; None while there may be
    failed_alike  where it is because they failed alike: which, and the last lines of the last one's log
    """
    fronts = {"pareto": [trial.number for trial in of.front]} if len(of.goals) > 1 else {}
    return {
        "algorithm": of.search.algorithm,
        "goals": [{"metric": goal.metric, "goal": goal.goal} for goal in of.goals],
        "trials": dict(Counter(trial.state for trial in of.trials)),
        "best": trial_document(of, of.best) if of.best else None,
        **fronts,
        "budget": _budget(of, now),
        "slots": _slots(of, plan, now),
        "over": of.over or None,
        **({"failed_alike": failed} if of.over and (failed := _failed_alike(of)) else {}),
    }


def _failed_alike(of: Compared) -> dict[str, Any] | None:
    """The trials that ended the search, as they failed alike one after the other, and what the last of them said."""
    last = last_failures(of.search, of.trials)
    if not last:
        return None
    outcome = read_json(of.run.member(last[-1].number).attempts()[-1].outcome) or {}
    return {"trials": [trial.number for trial in last], "last_lines": list(outcome.get("last_lines") or ())}


def trial_document(of: Compared, trial: Trial) -> dict[str, Any]:
    """A trial in few words; with whom it goes on from, first to last, where it is an heir."""
    row = {"trial": trial.number, "state": trial.state, "values": of.values(trial), "point": dict(trial.point)}
    if trial.parent is None:
        return row
    earlier = lineage(trial, of.trials)[:-1]
    return {**row, "lineage": [{"trial": each.number, "point": dict(each.point)} for each in earlier]}


def parallel_of(of: Compared, plan: Plan) -> int | None:
    """Places that the launcher offers; None is as many as were ever busy at once."""
    limit = plan.max_parallel or (1 if plan.launcher == "local" else None)
    return None if limit is None else min(limit, of.search.trials)


def _budget(of: Compared, now: float) -> dict[str, Mapping[str, Any]]:
    limits = of.search.limits
    spent = sum(trial.gpu_hours for trial in of.trials if trial.state != "RUNNING")
    reserved = sum(trial.gpu_hours for trial in of.trials if trial.state == "RUNNING")
    return {
        "trials": {"used": len(of.trials), "limit": of.search.trials},
        "gpu_hours": {"used": spent, "reserved": reserved, "limit": limits.gpu_hours},
        "wall_min": {"used": _wall_min(of, now), "limit": limits.wall_min},
    }


def _wall_min(of: Compared, now: float) -> float:
    """Since the first trial was asked for: to now, or to the last end when nothing more comes."""
    begun = min((trial.asked for trial in of.trials), default=now)
    ends = [trial.ended for trial in of.trials if trial.ended is not None]
    is_over = _is_over(of) and len(ends) == len(of.trials)
    return max(0.0, (max(ends, default=begun) if is_over else now) - begun) / 60


def _is_over(of: Compared) -> bool:
    return bool(of.over) or len(of.trials) >= of.search.trials


def _slots(of: Compared, plan: Plan, now: float) -> dict[str, Any] | None:
    facts = Facts(job=of.run.id, title=of.spec.name, now=now, parallel=parallel_of(of, plan))
    account = usage(of.trials, facts, _is_over(of))
    if account is None:
        return None
    return {
        "count": account.slots,
        "idle": account.idle,
        "idle_before_tail": account.idle_before_tail,
        "lost_gpu_hours": account.lost_gpu_hours,
    }
