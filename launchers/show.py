"""What the verbs print, as text: plans, statuses, lists and summaries. Nothing here reads or decides.

Searches are show_search.py's.
"""

from __future__ import annotations

import datetime
import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf import locations
from conf.document import to_document
from launchers.jobs.progress import METRICS
from launchers.jobs.spending import Spending, goodput_text, spending_line
from launchers.jobs.status import SHOWN_MEMBERS, TERMINAL, JobStatus, MemberStatus
from launchers.outcome import remedy
from launchers.parts import ranges
from launchers.plan import Plan
from launchers.show_search import search_text
from launchers.step import Step
from sweeps.spelling import GLUE, duration

if TYPE_CHECKING:
    from launchers.apptainer import pruning

SHOWN_SCRIPTS = 3


@dataclass(frozen=True)
class Planned:
    """What `plan` shows: the job, and one member of it."""

    plan: Plan
    """Of the member."""
    scripts: Mapping[str, str]
    step: Step
    member: int
    points: Sequence[Mapping[str, Any]]
    spec: Mapping[str, Any]
    """Of the member."""
    alike: bool
    """Whether all members ask for the same."""
    rank: int
    environment: Mapping[str, str]
    """Of this rank; words in angle brackets stand for what is known only at start."""
    others: Sequence[tuple[str, Step]] = ()
    """Of each of its other pools the name and step of the first unit (layout.py)."""
    finish: str = ""
    """Batch script of the finish step; empty on this machine, where it is no job."""


def plan_text(shown: Planned) -> Iterator[str]:
    """The plan as a person reads it: script, step, program, mounts, environment, spec (--json: rank.sh, too, and the
    whole script of the finish step)."""
    import yaml  # status, which shares this file, answers faster without it

    plan, step, member = shown.plan, shown.step, shown.member
    which = "each" if shown.alike else f"member {member}"
    sizes = [f"{p.nodes} node(s) x {p.ranks_per_node} rank(s)" for p in plan.pools]
    named = [f"{p.name}: {size}" for p, size in zip(plan.pools, sizes, strict=True)] if shown.others else sizes
    shape = f"{which} {', '.join(named)}"
    yield f"{plan.job}: {plan.members} member(s), {shape}, launcher {plan.launcher}"
    yield from _held_to(plan)
    yield from _brought(shown)
    if plan.search:
        yield "  each asks for its point when it starts (the space: sweep, below)"
    elif plan.members > 1:
        yield from _points(shown.points)
    for name, text in list(shown.scripts.items())[:SHOWN_SCRIPTS]:
        yield from _titled(f"batch script ({name})", text)
    if len(shown.scripts) > SHOWN_SCRIPTS:
        yield from _titled(f"and {len(shown.scripts) - SHOWN_SCRIPTS} more like these (--json shows all)", "")
    yield from _titled(f"step of member {member}{' (workerpool0)' if shown.others else ''}", _broken(step.argv))
    yield from _titled(f"program of each rank ({step.script} ends in it)", _broken(step.program))
    for name, other in shown.others:
        each = ", and likewise the other replicas of its pool" if "-" in name else ""
        yield from _titled(f"step of member {member} ({name}{each})", _broken(other.argv))
        yield from _titled(f"program of each rank ({other.script} ends in it)", _broken(other.program))
    for box in dict.fromkeys(p.container for p in plan.pools if p.container):
        yield from _titled("image", f"{box.image}\n{box.digest or 'digest: taken at launch'}")
        listed = [f"{'rw' if m.writable else 'ro'}  {m.source} -> {m.target}" for m in box.mounts]
        mounts = "\n".join([*listed, *(f"ro  {path}, where the node has it (site.binds)" for path in box.site_binds)])
        layer = ", and any other file of the image in a layer on the node's disk, rw" if box.writable else ""
        yield from _titled(f"mounts (and its own member folder, rw{layer})", mounts)
        if box.devices:
            title = f"devices by CDI, as each node has them in {', '.join(box.cdi_dirs)} (the last comes first)"
            yield from _titled(title, "\n".join(box.devices))
        if box.escapes:
            yield from _titled("what the container opens of the host", "\n".join(box.escapes))
    if shown.finish:
        title = "finish step, a job of its own when all members have ended (finish.sbatch ends in it)"
        yield from _titled(title, shown.finish.rstrip("\n").split("\n")[-1])
    besides = ", and what Slurm sets" if plan.launcher == "slurm" else ""
    title = f"environment of rank {shown.rank} (--rank){besides}"
    yield from _titled(title, "\n".join([*_variables(shown.environment), *_secrets(plan)]))
    yield from _titled(f"spec of member {member}", yaml.safe_dump(shown.spec, sort_keys=False, allow_unicode=True))


def _held_to(plan: Plan) -> Iterator[str]:
    """The limits that stand in no batch script, as we see to them ourselves, and where there are none."""
    if plan.time_limit_min is not None:
        yield f"  {plan.time_limit_min} min at a time (machine.time_limit_min): it is told to save, and goes on anew"
    if sizes_gb := dict.fromkeys(f"{pool.mem_gb:g}" for pool in plan.pools if pool.mem_gb is not None):
        yield f"  {' or '.join(sizes_gb)} GB on a node (machine.mem_gb): what takes more is ended"
    if free := [pool.name for pool in plan.pools if pool.container is None]:
        whose = "" if len(free) == len(plan.pools) else f" for {', '.join(free)}"
        yield f"  no container{whose}: the program sees all of its host, your home and the environment there"


def _brought(shown: Planned) -> Iterator[str]:
    """Which data are copied before anything is read, as trainer/data/staging.py does it."""
    path, folder = shown.spec.get("data", {}).get("options", {}).get("path"), shown.plan.pools[0].stage_dir
    if folder and isinstance(path, str) and (locations.is_remote(path) or shown.spec["staging"]["copy"]):
        most = shown.spec["site"]["stage_gb"]
        room = f"{most:g} GB (site.stage_gb)" if most else "half of the disk (site.stage_gb says otherwise)"
        yield f"  {locations.masked(path)} is copied to each node whole, into {folder}, where it may take {room}"


def _secrets(plan: Plan) -> Iterator[str]:
    """Where each comes from; its value nobody sees before the program does."""
    for name, secret in sorted(plan.secrets.items()):
        said = {"env": secret.env, "file": secret.file, "command": shlex.join(secret.command or ()) or None}
        kind, origin = next((kind, value) for kind, value in said.items() if value is not None)
        yield f"{name}{'_FILE' if secret.through == 'file' else ''}=<secret, from {kind} {origin}>"


def _variables(environment: Mapping[str, str]) -> Iterator[str]:
    """A line for each. CLUSTER_SPEC and TF_CONFIG are shown as the documents they are, but for the job's own spec."""
    for name, value in sorted(environment.items()):
        if name in ("CLUSTER_SPEC", "TF_CONFIG"):
            document = json.loads(value)
            yield f"{name}={json.dumps({**document, 'job': '...'})}"
        else:
            yield f"{name}={json.dumps(value, ensure_ascii=False)}"


def plan_document(shown: Planned) -> dict[str, Any]:
    """The same for a program that reads it."""
    document: dict[str, Any] = to_document(shown)
    return document


def _points(points: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for index, point in list(enumerate(points))[:SHOWN_MEMBERS]:
        yield f"  member {index}  " + " ".join(f"{k}={v}" for k, v in point.items())
    if len(points) > SHOWN_MEMBERS:
        yield f"  ... and {len(points) - SHOWN_MEMBERS} more (--json shows all)"


def status_text(now: JobStatus, search: Mapping[str, Any] | None = None, used: Spending | None = None) -> Iterator[str]:
    """A line for the job, how its search stands, one for each member while they are few, counts, and where the time
    went."""
    reason = f" ({now.reason})" if now.reason and now.state == "QUEUED" else ""
    known = [i for i in now.slurm_ids if i not in ("local", "pool")]
    ids = f"   slurm {', '.join(known)}" if known else ""
    yield f"{now.job}   {now.state}{reason}{ids}"
    if len(now.members) > 1:
        yield "  " + ", ".join(f"{n} {state}" for state, n in sorted(now.counts.items()))
    if search:
        yield from search_text(search)
    for member in _most_telling(now.members):
        yield "  " + _member_line(member)
        if member.straggler:
            yield f"    {member.straggler}"
    if len(now.members) > SHOWN_MEMBERS:
        yield f"  ... and {len(now.members) - SHOWN_MEMBERS} more (--json shows all)"
    yield from _changes(now)
    if used and used.time.seconds.get("steps"):
        yield f"  goodput {goodput_text(used.time)}"
        yield f"  used    {spending_line(used)}"
    yield f"  folder {now.run_dir}"


def _changes(now: JobStatus) -> Iterator[str]:
    """A line for each change of a plan, with what was typed (--json: every key with both values)."""
    for change in now.changes:
        when = f"{datetime.datetime.fromtimestamp(change.t):%Y-%m-%d %H:%M}"
        which = f"member {change.members}: " if len(now.members) > 1 else ""
        yield f"  changed {when}  {which}{shlex.join(change.overrides)}"


def _most_telling(members: Sequence[MemberStatus]) -> list[MemberStatus]:
    """The first few, those that run or failed before the others."""
    if len(members) <= SHOWN_MEMBERS:
        return list(members)
    return sorted(members, key=lambda m: (m.state not in ("RUNNING", "FAILED"), m.index))[:SHOWN_MEMBERS]


def summary_text(now: JobStatus, result: Mapping[str, Any] | None, spec: Mapping[str, Any]) -> Iterator[str]:
    """What a person wants at the end: how good, where it is, how to look at it and load it."""
    yield f"{now.job}   {now.state}"
    bad = [m for m in now.members if m.state not in ("SUCCEEDED", "PRUNED", "CANCELLED", "SKIPPED")]
    if len(bad) > SHOWN_MEMBERS:
        yield f"  {len(bad)} members did not succeed; the first of them (fairlead logs --errors shows all):"
    for member in bad[:SHOWN_MEMBERS]:
        yield f"  member {member.index} {member.state}: {_why(member) or 'unknown'}"
    for member in (m for m in now.members if m.lost):
        yield f"  member {member.index} {member.lost}"
    for do in dict.fromkeys(remedy(m.cause, now.job) for m in bad):
        if do:
            yield f"  do         {do}"
    if result is None:
        yield f"  folder     {now.run_dir}"
        return
    if search := result.get("search"):
        yield from search_text(search)
    yield from _metrics_lines(result, spec)
    yield f"  folder     {now.run_dir}"
    if report := result.get("report"):
        yield f"  report     {report}"
    yield from _tracking_lines(now.job, result)


def _tracking_lines(job: str, result: Mapping[str, Any]) -> Iterator[str]:
    tracked = result.get("mlflow")
    if result.get("undelivered"):
        yield f"  tracking   the store could not be reached: `fairlead sync {job}` delivers later"
    if tracked and tracked["run_id"]:
        yield f"  MLflow     run {tracked['run_id']} in experiment {tracked['experiment']}"
    model = result.get("model")
    if model:
        yield f"  model      {model['name']} version {model['version']}, alias {model['alias']}"
    if tracked:
        yield from _commands(tracked["uri"], model)


def _metrics_lines(result: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    metrics = result.get("metrics") or {}
    several = sum(result.get("members", {}).values()) > 1 and not result.get("search")
    if result.get("best_member") is not None and several:
        yield f"  best       member {result['best_member']}"
    for name in sorted(metrics, key=lambda n: n != spec["objective"]["metric"]):
        if name.startswith("val/") or name == spec["objective"]["metric"]:
            yield f"  {name:<10} {_number(metrics[name], name)}"


def _commands(uri: str, model: Mapping[str, Any] | None) -> Iterator[str]:
    look = uri if uri.startswith("http") else f"{_mlflow()} ui --backend-store-uri {shlex.quote(uri)}"
    yield ""
    yield f"look at it   {look}"
    if model:
        yield "load it      import mlflow"
        yield f"             mlflow.set_tracking_uri({uri!r})"
        version = f"models:/{model['name']}/{model['version']}"  # the alias may have moved on since
        load = (
            "folder = mlflow.artifacts.download_artifacts" if model.get("plain") else "model = mlflow.pyfunc.load_model"
        )
        yield f"             {load}({version!r})"


def _mlflow() -> str:
    """As the user can type it: by name when it is on PATH, else beside our own Python."""
    return "mlflow" if shutil.which("mlflow") else shlex.quote(str(Path(sys.executable).with_name("mlflow")))


def sync_text(said: Mapping[str, Any]) -> Iterator[str]:
    """What one call brought into the store, run by run, and which model is there."""
    if said["uri"] is None:
        yield f"{said['job']}   has no store (tracking is none)"
        return
    yield f"{said['job']}   {said['points']} new metric points in {said['uri']}"
    for row in said["runs"][:SHOWN_MEMBERS]:
        yield f"  member {row['member']}  run {row['run_id']}  {row['points']} points"
    if len(said["runs"]) > SHOWN_MEMBERS:
        yield f"  ... and {len(said['runs']) - SHOWN_MEMBERS} more (--json shows all)"
    if said["refused"]:
        yield f"  refused  members {ranges(said['refused'])}: the store takes nothing for their runs (deleted there?)"
    if model := said["model"]:
        yield f"  model  {model['name']} version {model['version']}, alias {model['alias']}"
    yield from (f"  {line}" for line in said["problem"].splitlines())


def list_text(statuses: Sequence[JobStatus], now_s: float) -> Iterator[str]:
    """A line for each job, newest last; how long one has lasted that has not ended is up to `now_s`."""
    rows = [("JOB", "LAUNCHED", "LASTED", "STATE", "MEMBERS")] if statuses else []
    rows += [(now.job, *_times(now, now_s), now.state, _counted(now)) for now in statuses]
    widths = [max(len(row[i]) for row in rows) for i in range(4)] if rows else []
    for row in rows:
        yield "  ".join([*(text.ljust(width) for text, width in zip(row[:-1], widths, strict=True)), row[-1]])


def _times(now: JobStatus, now_s: float) -> tuple[str, str]:
    """When it was launched, as this place's clocks say, and how long ago that was, or is at its end."""
    if now.launched is None:
        return "", ""
    end = now_s if now.ended is None and now.state not in TERMINAL else now.ended
    lasted = "" if end is None else duration(end - now.launched).replace(GLUE, " ")
    return f"{datetime.datetime.fromtimestamp(now.launched):%Y-%m-%d %H:%M}", lasted


def _counted(now: JobStatus) -> str:
    return ", ".join(f"{n} {state.lower()}" for state, n in sorted(now.counts.items()))


def image_text(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line per image."""
    for row in rows:
        words = [(row["digest"] or "not built here")[:19], row.get("built", ""), row.get("source", "")]
        yield "   ".join([row["path"], f"{row['size'] / 1e6:.0f} MB", *(word for word in words if word)])


def prune_text(done: pruning.Pruned, what: str = "image(s)") -> Iterator[str]:
    """One line per image, layer or entry of exported splits, and what follows."""
    goes = "removed" if done.removed else "would be removed"
    for entry in done.entries:
        why = f"stays: {entry.kept}" if entry.kept else goes
        yield f"{entry.path}   {entry.size / 1e6:.0f} MB   {why}"
    count = sum(1 for entry in done.entries if not entry.kept)
    yield f"{count} {what} {goes}, {done.freed / 1e6:.0f} MB" + ("" if done.removed or not count else ": add --yes")


def prune_document(done: Mapping[str, pruning.Pruned]) -> dict[str, Any]:
    """For a program that reads it: rows by what they are."""
    rows = {
        what: [{"path": str(e.path), "size": e.size, "kept": e.kept or None} for e in each.entries]
        for what, each in done.items()
    }
    return {"freed": sum(each.freed for each in done.values()), **rows}


def _member_line(member: MemberStatus) -> str:
    point = " ".join(f"{k}={v}" for k, v in member.point.items())
    step = f"step {member.step}/{member.total_steps}" if member.step is not None else ""
    metrics = {k: v for k, v in (member.metrics or {}).items() if k in METRICS}
    measured = " ".join(f"{k} {_number(v, k)}" for k, v in metrics.items())
    tries = f"attempt {member.attempts}" if member.attempts > 1 else ""
    why = _why(member) if member.state in ("FAILED", "EXPIRED") else ""
    again = member.state == "QUEUED" and member.attempts > 0
    why = member.message if member.state == "RUNNING" or again else why
    words = [f"member {member.index}", f"{member.state:<10}", point, step, measured, tries, why, member.lost]
    return "  ".join(word for word in words if word)


def _why(member: MemberStatus) -> str:
    return ": ".join(word for word in (member.cause, member.message) if word)


def _number(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.2%}" if name.endswith("accuracy") else f"{value:.4g}"


def _broken(argv: Sequence[str]) -> str:
    """A command as a shell would take it, an option with its value on each line."""
    lines: list[list[str]] = [[]]
    for word in argv:
        takes_it = len(lines[-1]) == 1 and lines[-1][0].startswith("--") and "=" not in lines[-1][0]
        if word.startswith("-") or not takes_it:
            lines.append([])
        lines[-1].append(word)
    return " \\\n  ".join(shlex.join(line) for line in lines if line)


def _titled(title: str, text: str) -> Iterator[str]:
    yield ""
    yield f"# {title}"
    yield from text.rstrip("\n").split("\n")
