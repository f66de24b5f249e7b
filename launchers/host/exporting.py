"""Write the splits of the data as files before the ranks start: a process of its own, with the host's Python.

The trainer's packages stay out of the supervisor, and the program's container needs none of them. What the process
says is in rank 0's log. Which files, and how often they are written, is trainer/export_splits.py's.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection
from pathlib import Path

from launchers.plan import Plan
from launchers.run_folder.record import Attempt

LOOK_S = 0.1
END_S = 10.0
"""What it has to leave by itself when the member is told to."""
LEFT = os.EX_TEMPFAIL
"""As of a program that wants to go on later."""


def export(plan: Plan, attempt: Attempt, signals: Collection[str]) -> int:
    """0 when the files are there; else the exit status, with the reason in the attempt. Ends with the process, or when
    the supervisor gets a signal; the job's time limit sends one."""
    if plan.export is None:
        return 0
    member = attempt.path.parent
    argv = [plan.python, "-m", "trainer.export_splits", plan.run_dir, member.name, plan.export.format]
    code = str(Path(plan.run_dir, "code", "fairlead"))
    env = {
        **os.environ,
        "PYTHONPATH": code,
        "FAIRLEAD_MEMBER_DIR": str(member),
        "FAIRLEAD_ATTEMPT_DIR": str(attempt.path),
    }
    with attempt.rank_log(0).open("ab") as log:
        process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=code)
        while process.poll() is None and not signals:
            time.sleep(LOOK_S)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return LEFT if signals else process.returncode
