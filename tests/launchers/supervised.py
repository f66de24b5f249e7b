"""Frozen runs of a line of Python for a supervisor, programs that end as they are told or do not, and what is left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launchers.plan import plans_document
from launchers.run_folder.record import Run, append_line, read_json, write_json
from tests.launchers.attempted import Make
from tests.plans import plan_of_run, pool_plan

REPORT = (
    "import json, os; e = dict(os.environ); json.dump(e, open(e['FAIRLEAD_ATTEMPT_DIR'] + '/env-' + e['RANK'], 'w'))"
)
SAVE_ON_TERM = """
import os, signal, sys, time
def leave(*_):
    print("saved", flush=True); os._exit(75)
signal.signal(signal.SIGTERM, leave); signal.signal(signal.SIGUSR2, leave)
open(os.environ["FAIRLEAD_ATTEMPT_DIR"] + "/ready-" + os.environ["RANK"], "w").close()
time.sleep(600); sys.exit(9)
"""
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(os.environ["FAIRLEAD_ATTEMPT_DIR"] + "/ready-" + os.environ["RANK"], "w").close()
time.sleep(600)
"""


def maker(workdir: Path) -> Make:
    """What makes a frozen run whose program is a line of Python: `make_run("print(1)", ranks=2)`."""

    def make(program: str, *, ranks: int = 1, members: int = 1, name: str = "d-1", **more: Any) -> Run:
        run = Run(workdir / "runs" / name)
        run.path.mkdir(parents=True)
        argv = more.pop("argv", (sys.executable, "-Sc", program))
        nodes, env = more.pop("nodes", 1), more.pop("env", {})
        of_pool = {"nodes": nodes, "ranks_per_node": ranks, "env": env, "stage_dir": more.pop("stage_dir", None)}
        pool = pool_plan(argv, **of_pool)
        plan = plan_of_run(run, pool, members=members, **more)
        write_json(run.plan, plans_document([plan]))
        write_json(run.spec, {"name": "d", "model": {"kind": "cnn", "options": {"width": 1}}, "seed": 1})
        for index in range(members):
            sections = {"model": {"kind": "cnn", "options": {"width": index}}} if index else {}
            append_line(run.members_file, {"index": index, "point": {}, "sections": sections})
        return run

    return make


def outcome(run: Run, member: int = 0, attempt: int = -1) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run.member(member).attempts()[attempt].outcome)
    return found


def log(run: Run, rank: int, attempt: int = -1) -> str:
    return run.member(0).attempts()[attempt].rank_log(rank).read_text()


def ready(run: Run, ranks: int = 1) -> Callable[[], bool]:
    return lambda: len(list(run.path.glob("members/0/attempt-*/ready-*"))) >= ranks


def alive(marker: str) -> list[str]:
    """Processes whose command line has the marker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found
