"""The batch scripts of a plan, as text: resources by submitit, then one line that starts the supervisor.

Pure. The scripts stand whole in the run folder, so that plain `sbatch` runs them again without Fairlead
on the login node. Submitting is submit.py's, asking the cluster scheduler.py's.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from launchers.parts import Part, ranges
from launchers.plan import Plan

SCRUBBED = (
    "SLURM_",
    "SLURMD_",
    "SBATCH_",
    "SALLOC_",
    "SRUN_",
    "PMI_",
    "PMIX_",
    "OMPI_",
    "SUBMITIT_",
    "APPTAINER",
    "SINGULARITY",
)
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "APPTAINER_CACHEDIR", "APPTAINER_TMPDIR")
OURS = (
    "partition", "account", "qos", "constraint", "nodes", "ntasks_per_node", "cpus_per_task", "mem", "time",
    "exclusive", "job_name", "comment", "gres", "dependency",
)  # fmt: skip
"""What submitit is told by its own names. A site's further options must not meet its other parameters."""


def client_environment(environ: Mapping[str, str] | None = None, secrets: Collection[str] = ()) -> dict[str, str]:
    """The caller's environment without what an enclosing Slurm job or container left in it, and without `secrets`.

    Launching from inside a job otherwise submits with that job's limits, array index and CPU binding.
    """
    environ = os.environ if environ is None else environ
    kept = {k: v for k, v in environ.items() if k in KEPT or not k.startswith(SCRUBBED)}
    return {k: v for k, v in kept.items() if k not in secrets}


def private_variables(plans: Sequence[Plan]) -> set[str]:
    """Variables of secrets, which wait elsewhere for their job (run_folder/kept.py): they are not for the batch job's
    environment, which Slurm keeps. What our own side reads of them there stays: data's credentials, and MLflow's."""
    named = {secret.env for plan in plans for secret in plan.secrets.values() if secret.env}
    needed = {name for plan in plans for pool in plan.pools for name in pool.passed}
    return {name for name in named - needed if not name.startswith("MLFLOW_")}


def member_script(plan: Plan, part: Part, name: str, after: str = "", throttle: int | None = None) -> str:
    """The batch script of a part: one element is a plain job, more are one array.

    `name` is the job name, by which a submission is found again (see journal.py); `after` the Slurm id of
    the part that this one waits for; `throttle` how many of its elements run at once, if not the job's limit.
    """
    elements = part.elements
    options: dict[str, Any] = {
        **plan.sbatch,
        **_common(plan, name, "slurm-%A_%a.log" if len(elements) > 1 else "slurm-%j.log"),
        "requeue": True,
        "signal": f"B:USR2@{plan.notice_s}",
    }
    if len(elements) > 1:
        at_once = throttle or plan.max_parallel
        limit = f"%{at_once}" if at_once else ""
        options["array"] = ranges([e - part.offset for e in elements]) + limit
    if after:
        options["dependency"] = f"afterany:{after}"
    if plan.pools[0].gres:
        options["gres"] = plan.pools[0].gres
    text = _script(
        plan, {**options, **_deadline(plan)}, ["launchers.host.supervise", plan.run_dir, *_which(part, plan)]
    )
    return _with_components(text, plan)


def _deadline(plan: Plan) -> dict[str, str]:
    """Slurm forgets a job that could no longer end by its deadline: one that has not begun by then."""
    if plan.max_wait_min is None:
        return {}
    return {"deadline": f"now+{math.ceil(60 * (plan.max_wait_min + int(plan.sbatch['time'])))}seconds"}


def _with_components(text: str, plan: Plan) -> str:
    """The script with the further components of a heterogeneous job, which submitit does not know."""
    head, last, rest = text.rpartition("#SBATCH")
    line, _, rest = rest.partition("\n")
    lines = [f"{last}{line}"]
    for asked in plan.components:
        lines.append("#SBATCH hetjob")
        options = {"requeue": True, **asked, **_deadline(plan)}
        lines += [_flag(name.replace("_", "-"), options[name]) for name in sorted(options)]
    return head + "\n".join(lines) + "\n" + rest


def _flag(name: str, value: str | int | float | bool) -> str:
    return f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={shlex.quote(str(value))}"


def finish_script(plan: Plan, name: str, after: str = "") -> str:
    """The batch script of the finish step: one CPU, when job `after` has ended, however it ended."""
    kept = {k: v for k, v in plan.sbatch.items() if k in ("partition", "account", "qos")}
    options: dict[str, Any] = {
        **kept,
        **_common(plan, name, "finish-%j.log"),
        "nodes": 1,
        "ntasks": 1,
        "cpus_per_task": 1,
        "mem": "1024M",
        "time": min(int(plan.sbatch["time"]), 60),
        "requeue": True,
    }
    if after:
        options["dependency"] = f"afterany:{after}"
    return _script(plan, options, ["launchers.delivery.finish", plan.run_dir])


HOLD = """\
trap 'kill -USR2 "$holder"' USR2
trap 'kill -TERM "$holder"' TERM
while :; do
  {command} &
  holder=$!
  while wait "$holder"; status=$?; kill -0 "$holder" 2>/dev/null; do :; done
  [ "$status" -gt 128 ] || exit "$status"
  sleep 1
done"""
"""A holder that was killed is started again; a trap that runs ends `wait` before the holder does."""


def pool_script(plan: Plan) -> str:
    """The batch script that holds an allocation; never requeued, as what ran in it would not be."""
    options: dict[str, Any] = {
        **plan.sbatch,
        **_common(plan, plan.job, "slurm-%j.log"),
        "no-requeue": True,
        "signal": f"B:USR2@{plan.notice_s}",
    }
    if plan.pools[0].gres:
        options["gres"] = plan.pools[0].gres
    return _script(plan, options, ["launchers.queue.holder", plan.run_dir], HOLD)


def _which(part: Part, plan: Plan) -> list[str]:
    """What the supervisor is told besides its array index."""
    shape = ["--shape", str(part.shape)] if part.shape else []
    if len(part.elements) == 1 and plan.per_allocation == 1:
        return ["--member", str(part.members[0]), *shape]
    if len(part.elements) == 1:
        return ["--element", str(part.elements[0]), *shape]
    return [*(["--offset", str(part.offset)] if part.offset else []), *shape]


def _common(plan: Plan, name: str, log: str) -> dict[str, Any]:
    return {
        "job_name": name,
        "comment": f"fairlead {plan.job}",
        "output": str(Path(plan.run_dir, "logs")).replace("%", "%%") + f"/{log}",
        "chdir": plan.run_dir,
    }


def _script(plan: Plan, options: Mapping[str, Any], module: Sequence[str], around: str = "exec {command}") -> str:
    """submitit writes the parameters; the command is ours, run by the batch shell itself (no srun)."""
    from submitit.slurm.slurm import _make_sbatch_string

    known = {k: v for k, v in options.items() if k in OURS}
    rest = {k.replace("_", "-"): v for k, v in options.items() if k not in known}
    path = Path(plan.run_dir, "code", "fairlead")
    command = ["env", f"PYTHONPATH={path}", "PYTHONUNBUFFERED=1", plan.python, "-m", *module]
    ours: dict[str, Any] = {
        "command": around.replace("{command}", shlex.join(command)),
        "folder": plan.run_dir,
        "stderr_to_stdout": True,
        "use_srun": False,
        "wckey": None,
        "setup": list(plan.setup) or None,
        "additional_parameters": rest,
    }
    return _make_sbatch_string(**ours, **known)
