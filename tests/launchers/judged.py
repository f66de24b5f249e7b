"""A frozen search over a command, of which trial 7 runs beside others that have ended, and its supervisor."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf import schema
from conf.document import to_document
from conf.sweep_schema import Parameter, Pruning, Search
from launchers.config.check import check_all
from launchers.plan import Plan, plans_document
from launchers.planning import Facts, plan_of
from launchers.run_folder.record import Attempt, Run, append_line, make_private, mark_ended, read_json, write_json
from launchers.search.expand import compose_all
from tests.launchers.tracked import put_our_code

Made = Callable[..., tuple[Run, Plan]]
Start = Callable[..., "subprocess.Popen[str]"]
SEARCH = Search(
    kind="search",
    algorithm="random",
    parameters={"params.lr": Parameter(type="double", min=0, max=1)},
    trials=20,
    pruning=Pruning(rule="median", min_trials=2),
)
REPORTING = """
import json, os, signal, sys, time
def report(step, **metrics):
    with open(os.environ["FAIRLEAD_REPORTS"], "a") as f:
        f.write(json.dumps({"step": step, **metrics}) + "\\n")
def told(*_):
    TOLD
signal.signal(signal.SIGTERM, told)
for step in range(1, 12_000):
    report(step, loss=LOSS)
    time.sleep(0.05)
"""


@functools.cache
def composed() -> schema.Spec:
    return check_all(compose_all(["job=command", "job.command=[program]", "job.metrics.kind=jsonl"]))[0]


def maker(workdir: Path) -> Made:
    """What makes a frozen search over a command; `others` are the losses, step by step, of trials that have ended."""

    def make(code: str = "pass", *, others: int = 4, search: Search | None = SEARCH, **of_job: Any) -> tuple[Run, Plan]:
        run = Run(workdir / "runs" / "d-1")
        make_private(run.path)
        make_private(run.code / "project")
        put_our_code(run.path)
        job = dataclasses.replace(composed().job, command=(sys.executable, "-ISc", code), **of_job)
        objective = schema.Objective(metric="loss", goal="minimize")
        spec = dataclasses.replace(composed(), job=job, sweep=search, objective=objective)
        plan = plan_of(spec, Facts(job=run.id, run_dir=run.path, python=sys.executable, members=20))
        write_json(run.spec, to_document(spec))
        write_json(run.plan, plans_document([plan]))
        for index in range(20):
            append_line(run.members_file, {"index": index, "point": {}, "sections": {}, "late": search is not None})
        for index in range(others):
            trial(run, index, [1.0 / step for step in range(1, 200)])
        if search:
            claim(run, 7)
        return run, plan

    return make


def claim(run: Run, index: int) -> None:
    make_private(run.member(index).path)
    document = {
        "point": {"params.lr": 0.1},
        "sections": {"params": {"lr": 0.1}},
        "asked": 1.0,
        "reserved_gpu_hours": 0.0,
    }
    write_json(run.member(index).point, document)


def trial(run: Run, index: int, losses: list[float], state: str = "SUCCEEDED") -> None:
    """A trial that has ended."""
    claim(run, index)
    attempt = Attempt(run.member(index).path / "attempt-0")
    make_private(attempt.path)
    for step, loss in enumerate(losses, 1):
        with (attempt.path / "reports.jsonl").open("a") as f:
            f.write(json.dumps({"t": 1.0 + step, "step": step, "metrics": {"loss": loss}}) + "\n")
    outcome = {"state": state, "cause": "succeeded", "message": "", "started": 1.0, "ended": 2.0}
    write_json(attempt.outcome, outcome)
    mark_ended(run, index, 0, state)


def of_member_7(start: Start) -> Start:
    """The supervisor of member 7, without site-packages: a node may have none."""
    return lambda run, **more: start(run, "--member", "7", flags=["-S"], **more)


def ended(process: subprocess.Popen[str], timeout_s: float = 90) -> tuple[int, str]:
    said, _ = process.communicate(timeout=timeout_s)
    assert "Traceback" not in said, said
    return process.returncode, said


def outcome(run: Run, attempt: int = -1) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run.member(7).attempts()[attempt].outcome)
    return found


def until(what: Callable[[], Any], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def reporting(loss: str = "5.0", told: str = "os._exit(75)") -> str:
    return REPORTING.replace("LOSS", loss).replace("TOLD", told)
