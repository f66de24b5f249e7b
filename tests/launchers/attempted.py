"""Frozen runs for a supervisor, without a launch, and what came of their attempts."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf.document import to_document
from launchers.plan import Plan, plans_document
from launchers.run_folder.record import Run, append_line, read_json, write_json
from tests.plans import plan_of_run, pool_plan
from tests.trainer.ranks import PROJECT, ROOT

Make = Callable[..., Run]
Start = Callable[..., "subprocess.Popen[str]"]
AT_ONCE = "import launchers.host.policy as p; p.PAUSES_S = (0.0,)"
"""Restarts without a pause."""


def plan_of(run: Run, program: tuple[str, ...], ranks: int = 1, **more: Any) -> Plan:
    env = {"PYTHONPATH": f"{ROOT}{os.pathsep}{PROJECT}", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return plan_of_run(run, pool_plan(program, ranks_per_node=ranks, env=env), **{"notice_s": 1, **more})


def made(workdir: Path, *program: str, ranks: int = 1, spec: Any = None, **more: Any) -> Run:
    """A frozen run of a program, or of our trainer on a model of the user's own."""
    run = Run(workdir / "runs" / "d-1")
    run.path.mkdir(parents=True)
    write_json(run.plan, plans_document([plan_of(run, program, ranks, **more)]))
    write_json(run.spec, to_document(spec) if spec else {"name": "d"})
    append_line(run.members_file, {"index": 0, "point": {}, "sections": {}})
    return run


def ended(process: subprocess.Popen[str], timeout_s: float = 90) -> int:
    said, _ = process.communicate(timeout=timeout_s)
    assert "Traceback" not in said, said
    return process.returncode


def outcomes(run: Run) -> list[dict[str, Any]]:
    return [read_json(attempt.outcome) for attempt in run.member(0).attempts()]


def until(what: Callable[[], Any], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)
