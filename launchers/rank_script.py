"""The text of rank.sh: Slurm's numbers under the names every framework reads, then the program by exec.

Values are quoted here, once. Which program it is, and with which names, is step.py's.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launchers import contract
from launchers.apptainer import container
from launchers.cluster import Cluster
from launchers.plan import Plan, PoolPlan
from launchers.programs.words import SCRIPTS
from launchers.removal import REMOVE
from launchers.run_folder import client_store

EARLY_NOTICE = """\
# A notice that comes before the trainer can take it waits for it (coreutils 8.31), or finds nothing begun.
told=; trap told=1 TERM USR2
held="env --block-signal=TERM,USR2"; $held true 2>/dev/null || held=
"""
MARK = '"$SLURM_STEP_ID-$SLURM_PROCID"'


@dataclass(frozen=True)
class Rank:
    """What one rank becomes."""

    program: tuple[str, ...]
    scratch: str
    """Folder on the node's own disk that its container writes to."""
    among_pools: bool
    """Whether the job has several pools."""
    mounts: tuple[container.Mount, ...]
    """What its container sees of the host."""
    cwd: str
    """Folder that the program starts in."""


def rank_script(plan: Plan, pool: PoolPlan, env: Mapping[str, str], cluster: Cluster, rank: Rank) -> str:
    """Signals reach the program and nobody else, as the shell is gone by then. Variables for a container are set under
    Apptainer's prefix alone, so that a PATH or LD_PRELOAD meant for inside changes nothing outside."""
    box = pool.container
    prefix = "" if box is None else container.PREFIX
    lines = ["#!/bin/sh", "# One rank of one attempt; made by Fairlead, see plan.json."]
    lines += [EARLY_NOTICE.rstrip("\n")] if pool.ours else []
    lines += [_names_in_pools(plan, pool) if rank.among_pools else contract.RANK_NAMES.rstrip("\n")]
    lines += [contract.PART_NAMES.rstrip("\n")] if plan.launcher == "pool" else []
    lines += [f"export LOCAL_WORLD_SIZE={pool.ranks_per_node}"]
    if box is not None:
        lines += _folders(box, pool.stage_dir, rank, marked=plan.launcher != "local")
        lines += container.presence_lines(box.needs)
        lines += container.environment_lines(env, (*contract.SLURM_NAMES, *pool.passed))
    else:
        lines += [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
    lines += contract.lines_of_rank(cluster, pool.name, prefix)
    lines.append(contract.reports_of_rank(env, prefix))
    if client_store.uri_of_others(env):
        lines.append(_own_client_stores(prefix, env))
    lines.append(_ledger_line(begin_event(pool), env["FAIRLEAD_ATTEMPT_DIR"]))
    lines += _console_scripts(pool)
    if box is None and not pool.ours:
        lines.append(f"cd {shlex.quote(rank.cwd)} || exit 1")
    lines += ['[ -z "$told" ] || exit 75'] if pool.ours else []
    lines.append(f"exec {'$held ' if pool.ours else ''}{shlex.join(rank.program)}")
    return "\n".join(lines) + "\n"


def _folders(box: container.ContainerPlan, stage_dir: str | None, rank: Rank, *, marked: bool) -> list[str]:
    """Folders on the node that the container sees: mine, and nobody else's, as /tmp is everybody's."""
    scratch = rank.scratch
    lines = [f"mkdir -p -m 700 {shlex.quote(scratch)} && [ -O {shlex.quote(scratch)} ] || exit 1"]
    lines += [_mark_line(rank)] if marked else []
    lines += [f"mkdir -p {shlex.quote(scratch + '/home')} || exit 1", *container.shm_lines(box, scratch)]
    lines += [*container.site_lines(box), *container.layer_lines(box, scratch)]
    lines += [f"mkdir -p -m 700 {shlex.quote(stage_dir)} || exit 1"] if stage_dir is not None else []
    return lines + container.mountpoint_lines(rank.mounts, scratch)


def _console_scripts(pool: PoolPlan) -> list[str]:
    """What was installed for the program stands on its PATH in front of all else, as it does for Python. Last of the
    lines: it hides no command from the others. Apptainer has a variable for it, which it does not read beside a PATH of
    the user's (user guide, «Environment and Metadata», manipulating PATH; measured, 1.4.5)."""
    if pool.installed is None:
        return []
    scripts = shlex.quote(f"{pool.installed.folder}/{SCRIPTS}")
    if pool.container is None:
        return [f'export PATH={scripts}"${{PATH:+:$PATH}}"']
    path = f"{container.PREFIX}PATH"
    own = f'export {path}={scripts}:"${path}"'
    return [f'if [ "${{{path}+set}}" ]; then {own}; else export {container.PREFIX}PREPEND_PATH={scripts}; fi']


def end_script(lines: Sequence[str], rank: Rank, folders: Sequence[str], ranks_per_node: int) -> str:
    """rank-end.sh, which Slurm runs where a rank has ended: these lines, and the last of a node removes its folders
    there. So does the supervisor; but one that is killed would leave them in the node's memory. Where nodes have one
    disk in common the last of them all does, or else others would lose what they stand on."""
    last = [
        f"cd {shlex.quote(_ranks(rank))} 2>/dev/null || exit 0",
        f"mv {MARK}.runs {MARK}.ended",
        'set -- *.runs; [ ! -e "$1" ] || exit 0',
        f'set -- "$SLURM_STEP_ID"-*.ended; [ "$#" -ge {ranks_per_node} ] || exit 0',
        f"set -- {shlex.join(folders)}; {REMOVE}",
    ]
    return (
        "\n".join(["#!/bin/sh", "# When a rank has ended; made by Fairlead.", *lines, *(last if folders else [])])
        + "\n"
    )


def _ranks(rank: Rank) -> str:
    """Folder in which a rank of Slurm's says that it runs."""
    return f"{rank.scratch}/ranks"


def _mark_line(rank: Rank) -> str:
    ranks = shlex.quote(_ranks(rank))
    return f"mkdir -p {ranks} && : > {ranks}/{MARK}.runs || exit 1"


def begin_event(pool: PoolPlan) -> str:
    """What the ledger calls the moment before the program."""
    return "container_begin" if pool.ours else "program_begin"


def _ledger_line(event: str, attempt_dir: str) -> str:
    """Says when rank 0's program or its container was begun, where the trainer says the rest (goodput.py)."""
    said = f'printf \'{{"t": %s, "event": "{event}"}}\\n\' "$(date +%s.%N)"'
    return f'[ "$RANK" != 0 ] || {said} >> {shlex.quote(attempt_dir + "/ledger.jsonl")}'


def _names_in_pools(plan: Plan, pool: PoolPlan) -> str:
    """Slurm, or the supervisor on this machine, counts from the step's first rank and node, which are rank.sh's
    arguments. srun cannot name a log by a rank that it does not know."""
    place = pool.place
    names = [
        'export RANK="$((${SLURM_PROCID:-$RANK} + $1))"',
        'export LOCAL_RANK="${SLURM_LOCALID:-$LOCAL_RANK}"',
        f"export WORLD_SIZE={plan.ranks}",
        'export NODE_RANK="$((${SLURM_NODEID:-$NODE_RANK} + $2))"',
        f'export FAIRLEAD_REPLICA="$((NODE_RANK - {place.first_node}))"',
    ]
    if pool.container is not None:
        names.append(f'export {container.PREFIX}FAIRLEAD_REPLICA="$FAIRLEAD_REPLICA"')
    if plan.launcher != "local":
        names.append('exec >> "${0%/*}/rank-$RANK.log" 2>&1')
    return "\n".join(names)


def _own_client_stores(prefix: str, names: Mapping[str, str]) -> str:
    """What ranks but the first log by MLflow's client is theirs, and delivered nowhere."""
    uri = shlex.quote(client_store.uri_of_others(names) or "")
    stores = " ".join(f'{prefix}{name}={uri}.rank-"$RANK"' for name in client_store.URIS)
    unset = " ".join(f"{prefix}{name}" for name in client_store.OF_RANK_0)
    return f'[ "$RANK" = 0 ] || {{ export {stores}; unset {unset}; }}'
