"""One attempt of a member on its host: prepared, run, watched, and what was seen of its end.

What follows from that is policy.py's, attempt after attempt supervise.py's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.masking import masked
from launchers.cluster import Located, hostfile
from launchers.contract import HOSTFILE, LOCATED
from launchers.errors import FairleadError, SiteError
from launchers.host import element, exporting, heir, limits, memory, srun, working
from launchers.host.client_masking import ClientMasking
from launchers.host.every_node import is_on_one_host
from launchers.host.memory_limit import MemoryLimit
from launchers.host.place import located, told_of_pools
from launchers.host.ranks import Processes, Ranks, last_lines
from launchers.host.replicas import Replicas
from launchers.host.reserve import reserve_space, why_not_writable
from launchers.host.secret_values import values_of, variables_of
from launchers.host.watchdog import Watchdog
from launchers.layout import Unit
from launchers.outcome import ABORTED, Evidence, Hung, Outcome, classify
from launchers.plan import Plan, units_of
from launchers.queue.slurm import client_environment, private_variables
from launchers.run_folder import client_store
from launchers.run_folder.record import (
    PROJECT,
    Attempt,
    Member,
    Run,
    make_private,
    read_json,
    rows_of,
    write_json,
    write_text,
)
from launchers.run_folder.saved import has_saved
from launchers.step import Start, end_name, step_of

if TYPE_CHECKING:
    from launchers.host.judge import Judge


class Try:
    """One attempt. `signals` grows while it runs: what the supervisor was sent; its time counts from `began`."""

    def __init__(self, run: Run, plan: Plan, attempt: Attempt, signals: set[str], began: float) -> None:
        self.run, self.plan, self.attempt, self.signals, self.began = run, plan, attempt, signals, began
        self.member = Member(attempt.path.parent)
        self.ranks: Ranks | None = None
        self.secrets: Mapping[str, str] = {}
        self.kernel_kills = 0
        """Before the ranks began."""

    def outcome(self) -> Outcome:
        """Prepare, run and judge it."""
        reserve_space(self.attempt.path)
        self.kernel_kills = memory.kills()
        try:
            if self.run.cancelled.exists():
                return Outcome(state="CANCELLED", cause="cancelled", exit_code=1, message="cancelled before it started")
            if why := self._pruned_before():
                return Outcome(state="PRUNED", cause="pruned", exit_code=0, message=why)
            with self._project():
                self._prepare_member()
                self._verify_image()
                self._verify_installed()
                code, pruned, hung = exporting.export(self.plan, self.attempt, self.signals), "", None
                if code == 0:
                    code, pruned, hung = self._run_ranks()
        except (FairleadError, OSError) as e:
            return Outcome(state="FAILED", cause="site", exit_code=3, message=str(e), host=socket.gethostname())
        if code != 0:  # told at the very moment when it left for another reason
            pruned = pruned or self._pruned_before()
        return self._masked(classify(self._evidence(code, pruned, hung)))

    def tell(self, number: signal.Signals) -> None:
        """Send the ranks what the supervisor was sent, in the program's own words."""
        if self.ranks is not None and number == signal.SIGUSR2:
            self.ranks.give_notice(signal.Signals[self.plan.notice])
        elif self.ranks is not None and self.plan.launcher == "slurm":  # who gives a grace time ends it, too
            self.ranks.give_notice(signal.SIGTERM)
        elif self.ranks is not None:
            self.ranks.tell(signal.SIGTERM)

    def kill(self) -> None:
        """End the ranks at once."""
        if self.ranks is not None:
            self.ranks.kill()

    def _masked(self, outcome: Outcome) -> Outcome:
        """What the ranks said of themselves went through no filter."""
        message, *lines = (masked(text, self.secrets.values()) for text in (outcome.message, *outcome.last_lines))
        return dataclasses.replace(outcome, message=message, last_lines=tuple(lines))

    def _evidence(self, code: int, pruned: str, hung: Hung | None) -> Evidence:
        said = self.ranks.said if self.ranks else ""
        aborted = code != 0 or ABORTED.search(said)  # a program that is told to end may well leave with 0
        state = self._job_state() if aborted and not pruned else "running"
        return Evidence(
            exit_code=code,
            signals=frozenset(self.signals),
            pruned=pruned,
            hung=hung,
            over_memory=self.ranks.over_memory if self.ranks else "",
            left=_left(self.attempt),
            cancelled=self.run.cancelled.exists(),
            job_ending=state == "ending",
            preempted=state == "preempted",
            first_rank=self.ranks.first_rank if self.ranks else None,
            worker=self.ranks.blame if self.ranks else "",
            offset=self.ranks.offset if self.ranks else 0,
            resumes=code != 0 and self.plan.pools[0].ours and has_saved(self.attempt),
            rank_errors=_errors_of(self.attempt),
            step_text=said,
            disk=why_not_writable(self.attempt.path) if code else "",
            kernel_kills=memory.kills() - self.kernel_kills if is_on_one_host(self.plan) else 0,
            tails={r: last_lines(self.attempt.rank_log(r)) for r in range(self.plan.ranks)},
        )

    def _run_ranks(self) -> tuple[int, str, Hung | None]:
        """The exit status, why the trial was told to leave if it was, and why the ranks were ended if they hung."""
        params = (read_json(self.member.spec) or {}).get("params") or {}
        where = located(self.plan, self.member.index, self.attempt.number)
        write_json(self.attempt.path / LOCATED, dataclasses.asdict(where))  # for a shell beside a rank
        self.secrets = values_of(self.plan)
        env = {**self._inherited(), **variables_of(self.secrets)}
        masking = ClientMasking(self.attempt, self.secrets.values())
        masking.start()
        try:
            return self._watched(params, env, where)
        finally:
            masking.finish()

    def _watched(
        self, params: Mapping[str, Any], env: Mapping[str, str], where: Located
    ) -> tuple[int, str, Hung | None]:
        """As `_run_ranks`."""
        judge = self._judge()
        limits.tell(self.plan, self.attempt, self.began)
        several = len(self.plan.pools) > 1
        self.ranks = self._several(params, env, where) if several else self._begun(params, env, Start(where))
        for name in list(self.signals):  # what came while the ranks were starting
            self.tell(signal.Signals[name])
        watchdog = Watchdog(self.plan, self.attempt, self.ranks.give_notice, self.ranks.kill)
        watchdog.start()
        limit = MemoryLimit(self.plan, self.ranks)
        limit.start()
        if judge is not None:
            judge.start()
        code = self.ranks.wait()
        limit.finish()
        return code, judge.finish(code) if judge is not None else "", watchdog.finish()

    def _begun(self, params: Mapping[str, Any], env: Mapping[str, str], start: Start) -> Ranks:
        """All ranks, or of several pools those of one unit."""
        step, unit = step_of(self.plan, self.member.index, self.attempt.number, params, start), start.unit
        write_text(self.attempt.path / HOSTFILE, hostfile(step.cluster))
        script = self.attempt.path / step.script
        for path, text in ((script, step.rank_script), (self.attempt.path / end_name(unit), step.rank_end)):
            if text and not path.exists():
                write_text(path, text)
                path.chmod(0o700)
        if self.plan.launcher == "slurm":
            return srun.in_own_job(step, self.attempt, env, self._was_noticed, unit)
        if self.plan.launcher == "pool":
            return srun.in_held(step, self.attempt, env, self._was_noticed, unit)
        return Processes(step, self.attempt, env, self.plan.pools[unit.pool if unit else 0], unit)

    def _was_noticed(self) -> bool:
        """Whether Slurm has told the ranks that they must leave. It signals the batch step, and so us, only when a
        preemption's grace time is over (slurm.conf(5), GraceTime)."""
        return "SIGTERM" in self.signals or self._job_state() == "preempted"

    def _several(self, params: Mapping[str, Any], env: Mapping[str, str], where: Located) -> Replicas:
        def may_restart() -> bool:
            return not (self.signals or self.run.cancelled.exists() or self._job_state() != "running")

        def begun(unit: Unit) -> Ranks:
            return self._begun(params, env, Start(where, unit))

        write_json(self.attempt.path / "pools.json", told_of_pools(self.plan, where))
        return Replicas(self.attempt, units_of(self.plan), begun, self.plan.worker_restarts, may_restart)

    def _judge(self) -> Judge | None:
        """Who listens to what the program reports, where somebody has to."""
        if not self.plan.search and self.plan.metrics.kind == "none":
            return None
        from launchers.host.judge import Judge

        judge = Judge(self.run, self.plan, self.attempt, leave=self._leave, kill=self.kill)
        judge.hidden = tuple(self.secrets.values())
        return judge

    def _leave(self) -> None:
        if self.ranks is not None:
            self.ranks.give_notice(signal.SIGTERM)

    def _pruned_before(self) -> str:
        """Why the judge stopped this trial, in whichever attempt: it is not run again."""
        if not self.plan.search:
            return ""
        from launchers.host.judge import why_pruned

        return why_pruned(self.member) or ""

    def _inherited(self) -> Mapping[str, str]:
        """What the step inherits; on a laptop nothing of a surrounding Slurm job, whose ranks these are not."""
        if self.plan.launcher == "slurm":
            return os.environ
        if self.plan.launcher == "pool":  # its environment is that of who brought it up, of no job in it
            return client_environment(secrets=private_variables([self.plan]))
        return {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PMI"))}

    @contextlib.contextmanager
    def _project(self) -> Iterator[None]:
        """The member's own copy of the project, where some program starts in it."""
        if not any(Path(pool.cwd or "/").parts[0] == PROJECT for pool in self.plan.pools):
            yield
            return
        try:
            working.lay_out(self.run.code / PROJECT, self.member.project)
            yield
        finally:
            working.clear(self.run.code / PROJECT, self.member.project)

    def _prepare_member(self) -> None:
        """The member's spec and folders, which its later attempts find again."""
        for folder in (self.member.checkpoints, self.member.model, self.member.path / "logs"):
            make_private(folder)
        if self.plan.search:
            heir.inherit(self.run, self.member, linked=self.plan.pools[0].ours)
        if self.plan.experiment is not None and not self.plan.pools[0].ours:
            client_store.make(self.member, self.run.id, self.plan.experiment)
        (row,) = rows_of(self.run, {self.member.index})
        spec = {**read_json(self.run.spec), **row["sections"]}
        if read_json(self.member.spec) != spec:  # the first attempt, or one that was given another machine
            write_json(self.member.spec, spec)

    def _verify_image(self) -> None:
        """The first pool's must run on this host, which is one of its nodes; of others' processors the YAML says."""
        boxes = dict.fromkeys(
            (box.image, box.digest, box.architecture if pool is not self.plan.pools[0] else None)
            for pool in self.plan.pools
            if (box := pool.container)
        )
        if not boxes:
            return
        from launchers.apptainer.sif import verify

        for image, digest, architecture in boxes:
            if image is None:
                raise SiteError("the plan names no image", where=str(self.run.plan), do="launch again")
            verify(Path(image), digest, architecture)

    def _verify_installed(self) -> None:
        """What was installed for the programs at launch is what it was."""
        programs = dict.fromkeys((of.folder, of.digest) for pool in self.plan.pools if (of := pool.installed))
        if not programs:
            return
        from launchers.programs.layer import why_broken

        for folder, digest in programs:
            if why := why_broken(Path(folder), digest):
                what = f"what was installed of job.source or job.requirements has changed: {why}"
                raise SiteError(what, where=folder, do="launch again: that installs it anew")

    def _job_state(self) -> str:
        return "running" if self.plan.launcher == "local" else element.job_state()


def _left(attempt: Attempt) -> str:
    """What rank 0 said of how it left; nothing where it did not, or its word is not whole."""
    with contextlib.suppress(SiteError):
        said = read_json(attempt.path / "left.json")
        return str(said.get("message", "")) if isinstance(said, dict) else ""
    return ""


def _errors_of(attempt: Attempt) -> list[Mapping[str, Any]]:
    """What the ranks said of their ends; a file that a kill left half written says nothing."""
    found: list[Mapping[str, Any]] = []
    for path in sorted(attempt.path.glob("rank-*.error.json")):
        with contextlib.suppress(SiteError):
            error = read_json(path)
            if isinstance(error, dict) and {"type", "message"} <= set(error):
                found.append(error)
    return found
