"""The verb `shell`: a shell, or one command, beside a running rank: on its node, in its container, with its variables.

It is what rank.sh becomes, with another program: the same mounts, variables and scratch folder. On Slurm it is a step
that shares what the member holds, and ends with it; on this machine a process.
"""

from __future__ import annotations

import dataclasses
import secrets
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.document import from_document
from launchers.cluster import LOOPBACK, Located
from launchers.command import output_of
from launchers.contract import LOCATED
from launchers.errors import Problem, SiteError, SpecError
from launchers.host.element import SHELL_STEP
from launchers.jobs.status import status_of
from launchers.layout import Unit
from launchers.plan import Plan, PoolPlan, plans_from, unit_of
from launchers.queue.slurm import client_environment
from launchers.rank_script import MARK
from launchers.run_folder.record import Attempt, Run, make_private, read_json, rows_of, write_text
from launchers.step import Start, step_of

INTERACTIVE = ("/bin/sh", "-c", "command -v bash >/dev/null && exec bash; exec sh")
BY_SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_NODEID")
"""Numbers of the shell's own step, which are not the rank's."""
NOT_OURS = ('[ "$RANK" != 0 ] || printf', "exec >>")
"""How lines of rank.sh begin that say a program was begun, or where its log is: none is begun, here."""


@dataclass(frozen=True)
class Beside:
    """The rank that a shell is opened beside."""

    run: Run
    plan: Plan
    member: int
    attempt: Attempt
    rank: int
    host: str
    slurm_job: str | None
    """None on this machine."""

    @property
    def unit(self) -> Unit | None:
        """The rank's, where there are several pools."""
        return unit_of(self.plan, self.rank)

    @property
    def pool(self) -> PoolPlan:
        return self.plan.pools[self.unit.pool if self.unit else 0]


def beside(run: Run, member: int | None, rank: int) -> Beside:
    """A rank that runs now. Raises SpecError when there is none such, or it has ended or not begun."""
    now = status_of(run, progress_of=0)
    if member is None:
        member = next((m.index for m in now.members if m.state == "RUNNING"), 0)
    if member >= len(now.members):
        what = f"there is no member {member}: the job has {len(now.members)}"
        raise SpecError([Problem(what, f"--member {member}", "members count from 0")])
    state, attempts = now.members[member].state, run.member(member).attempts()
    begun = read_json(attempts[-1].path / "started.json") if attempts else None
    if state != "RUNNING" or begun is None or not (attempts[-1].path / LOCATED).exists():
        said = "has not begun" if state in ("QUEUED", "PENDING", "RUNNING") else "has ended"
        do = f"see it with: fairlead status {run.id}   what it said: fairlead logs {run.id}"
        raise SpecError([Problem(f"member {member} {said}: it is {state}", f"job {run.id}", do)])
    (row,) = rows_of(run, {member})
    plan = plans_from(read_json(run.plan))[row.get("shape", 0)]
    if rank >= plan.ranks:
        what = f"there is no rank {rank}: the member has {plan.ranks}"
        raise SpecError([Problem(what, f"--rank {rank}", "ranks count from 0")])
    slurm_job = None if plan.launcher == "local" else begun["slurm_job_id"]
    found = Beside(run, plan, member, attempts[-1], rank, "", slurm_job)
    return dataclasses.replace(found, host=_host(found, begun))


def script(of: Beside, words: Sequence[str]) -> str:
    """What is run on the rank's host: rank.sh of this attempt, with these words as its program."""
    unit, pool = of.unit, of.pool
    params = (read_json(of.run.member(of.member).spec) or {}).get("params") or {}
    parameters = of.plan.parameters if of.plan.parameters == "environment" else "none"
    # The layer that the rank writes into is its own: two containers cannot share one. Words are no entry point's.
    box = pool.container and dataclasses.replace(pool.container, writable=False, action="exec")
    mine = dataclasses.replace(pool, program=tuple(words), container=box)
    others = tuple(mine if p == pool else p for p in of.plan.pools)
    plan = dataclasses.replace(of.plan, pools=others, parameters=parameters, wrapping=None, copies=None)
    start = Start(from_document(Located, read_json(of.attempt.path / LOCATED)), unit)
    lines = step_of(plan, of.member, of.attempt.number, params, start).rank_script.splitlines()
    first = unit.first_rank if unit else 0
    names = {
        "RANK": of.rank - first,
        "LOCAL_RANK": (of.rank - first) % pool.ranks_per_node,
        "WORLD_SIZE": of.plan.ranks,
        "NODE_RANK": (of.rank - first) // pool.ranks_per_node,
    }
    own = [f"export {name}={value}" for name, value in names.items()]
    counted = [f"set -- {unit.first_rank} {unit.first_node}"] if unit else []
    begin = [f"unset {' '.join(BY_SLURM)}", *own, *counted, f"cd {shlex.quote(str(of.run.path))} || exit 1"]
    kept = [line for line in lines[1:] if not line.startswith(NOT_OURS) and MARK not in line]
    return "\n".join(["#!/bin/sh", *begin, *kept]) + "\n"


def argv(of: Beside, path: Path, *, terminal: bool) -> list[str]:
    """The command that runs the script where the rank is."""
    pool, group = of.pool, of.pool.place.group
    if of.slurm_job is None:
        return [str(path)]
    return [
        "srun",
        f"--jobid={of.slurm_job}",
        *((f"--het-group={group}",) if group is not None else ()),
        "--overlap",
        "--nodes=1",
        "--ntasks=1",
        f"--nodelist={of.host}",
        f"--cpus-per-task={pool.cpus_per_rank}",
        *((f"--gres={pool.gres}",) if pool.gres else ()),
        "--cpu-bind=none",
        "--mpi=none",
        "--unbuffered",
        f"--job-name={SHELL_STEP}",
        *(("--pty",) if terminal else ()),
        str(path),
    ]


def enter(of: Beside, command: Sequence[str], *, capture: bool) -> tuple[int, str]:
    """Run the command, or a shell at this terminal; its exit status, and what it printed where that is captured.

    There is no limit but the member's own end: how long it takes is the user's. Raises SpecError without a terminal.
    """
    terminal = not command
    if terminal and (capture or not (sys.stdin.isatty() and sys.stdout.isatty())):
        what = "a shell needs a terminal, and this is none" if not capture else "--json needs a command"
        raise SpecError([Problem(what, "the command line", f"fairlead shell {of.run.id} -- COMMAND ...")])
    path = make_private(of.run.path / "shell") / f"{secrets.token_hex(4)}.sh"
    write_text(path, script(of, command or INTERACTIVE))
    path.chmod(0o700)
    out = subprocess.PIPE if capture else None
    env = client_environment()
    try:
        done = subprocess.run(argv(of, path, terminal=terminal), env=env, stdout=out, stderr=None, check=False)
    except FileNotFoundError as e:
        raise SiteError(f"{e.filename} is not on PATH", do="give the command where Slurm's commands are") from None
    finally:
        path.unlink(missing_ok=True)
    return done.returncode, (done.stdout or b"").decode(errors="replace")


def _host(of: Beside, begun: Mapping[str, Any]) -> str:
    """The rank's host: ranks are in blocks over the nodes of their pool."""
    if of.plan.launcher == "local":
        here = socket.gethostname()
        if begun["host"] != here:
            what = f"the job runs on {begun['host']}, and this is {here}"
            raise SpecError([Problem(what, f"job {of.plan.job}", f"give the command on {begun['host']}")])
        return here
    hosts = read_json(of.attempt.path / LOCATED)["hosts"][of.plan.pools.index(of.pool)]
    if hosts == [LOOPBACK]:
        return str((begun.get("nodes") or _names(begun["slurm_job_nodelist"]))[0])
    return str(hosts[(of.rank - of.pool.place.first_rank) // of.pool.ranks_per_node])


def _names(nodelist: str) -> list[str]:
    argv = ["scontrol", "show", "hostnames", nodelist]
    return output_of(argv, timeout_s=30, env=client_environment()).split()
