"""The verb `prove`: does this job end with the same weights, bit for bit, however often it is stopped and killed?

The job is run twice in a folder of its own: once undisturbed, once with a chain of kills, each at a step drawn at
random, after each of which it goes on from its newest checkpoint. Then everything that a run leaves is compared:
weights, the optimizer's state, the random numbers of every rank, the metrics, and the samples of each step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.schema import Spec, Tracking
from launchers.errors import JobFailed, Problem, SpecError
from launchers.folders import folder_of
from launchers.freeze import Launch, freeze
from launchers.jobs.cancel import cancel
from launchers.jobs.retry import retry
from launchers.jobs.waiting import has_ended, wait
from launchers.launch import Request, Say, checked, with_images
from launchers.proof import kills, tensor_files
from launchers.proof.kills import Kill
from launchers.queue.handover import submit_members
from launchers.run_folder.ledger import events_of, went_on_from
from launchers.run_folder.record import Attempt, Run, locked, make_private, read_json, read_lines

POLL_S = 0.005


@dataclass(frozen=True)
class Wish:
    """What is asked for."""

    kills: int
    seed: int
    keep: bool = False


@dataclass(frozen=True)
class Struck:
    """One kill, and what it cost. Steps count from the run's beginning."""

    signal: str
    planned: int
    reached: int
    """The last step that was made."""
    resumed: int
    """The step that the next attempt went on from."""

    @property
    def lost(self) -> int:
        return max(0, self.reached - self.resumed)


@dataclass(frozen=True)
class Proof:
    """What was found."""

    total_steps: int
    struck: Sequence[Struck]
    missed: int
    """Kills that were planned and came too late: the run had ended."""
    tensors: int
    """Compared."""
    differences: Sequence[tensor_files.Difference]
    metrics: Mapping[str, Sequence[Any]]
    """Those that differ, with both values."""
    samples: Sequence[int]
    """Steps that were not made with the same samples on each rank."""
    folder: str | None
    """Where both runs are, if they were kept."""

    @property
    def holds(self) -> bool:
        return not (self.differences or self.metrics or self.samples) and bool(self.struck)

    def document(self) -> dict[str, Any]:
        """For a program that reads it."""
        struck = [{**vars(each), "lost": each.lost} for each in self.struck]
        return {**vars(self), "holds": self.holds, "struck": struck, "differences": [vars(d) for d in self.differences]}


def prove(request: Request, wish: Wish, say: Say) -> Proof:
    """Run the job twice and compare.

    Raises SpecError for what is no single job of our trainer, JobFailed where a run fails by itself.
    """
    wanted = checked(request)
    _check(wanted)
    runs_dir = make_private(folder_of(wanted.specs[0].site.runs_dir))
    folder = Path(tempfile.mkdtemp(prefix=".proof-", dir=runs_dir))
    launch = with_images(dataclasses.replace(wanted, specs=(_spec(wanted, wish, folder),)), say)
    whole = _begun(launch)
    with _ended_with_us(whole):
        say(f"undisturbed: {whole.path}")
        _ended_well(whole)
    plan = kills.planned(wish.kills, _total_steps(whole), wish.seed)
    broken = _begun(launch)
    with _ended_with_us(broken):
        say(f"{_total_steps(whole)} steps; now with {len(plan)} kills: {broken.path}")
        struck = [hit for kill in plan if (hit := _strike(broken, kill, say)) is not None]
        _ended_well(broken)
    found = _compared(whole, broken, struck, len(plan))
    if found.holds and not wish.keep:
        shutil.rmtree(folder, ignore_errors=True)
        return dataclasses.replace(found, folder=None)
    return found


@contextlib.contextmanager
def _ended_with_us(run: Run) -> Iterator[None]:
    """Nobody else knows of these runs: none outlives this command."""
    try:
        yield
    except BaseException:
        cancel(run)
        raise


def _check(wanted: Launch) -> None:
    """Raises SpecError for what is no single job of our trainer."""
    spec = wanted.specs[0]
    if len(wanted.specs) > 1 or spec.sweep is not None:
        raise SpecError([Problem("a proof is of one job, and this is a sweep", "sweep", "leave the sweep out")])
    if spec.job.kind != "trainer":
        what = "a proof is of a job of our trainer, and this is a command"
        raise SpecError([Problem(what, "job.kind", "choose job=trainer")])


def _spec(wanted: Launch, wish: Wish, folder: Path) -> Spec:
    """The job's, so that it can be compared: exact, private, and with every step in its spool."""
    spec = wanted.specs[0]
    return dataclasses.replace(
        spec,
        train=dataclasses.replace(spec.train, deterministic=True, log_every_steps=1, log_samples=True),
        job=dataclasses.replace(spec.job, max_requeues=max(spec.job.max_requeues, wish.kills)),
        site=dataclasses.replace(spec.site, runs_dir=str(folder)),
        tracking=Tracking(kind="none"),
    )


def _begun(launch: Launch) -> Run:
    run, plans = freeze(launch, folder_of(launch.specs[0].site.runs_dir))
    with locked(run.change_lock):
        submit_members(run, plans, range(1))
    return run


def _ended_well(run: Run) -> None:
    """Wait for a run's end. Raises JobFailed."""
    now = wait(run)
    if now.state != "SUCCEEDED":
        member = now.members[0]
        raise JobFailed(f"the run did not succeed: {member.cause}: {member.message}\n  where  {run.path}")


def _strike(run: Run, kill: Kill, say: Say) -> tuple[Kill, Attempt] | None:
    """Wait for the step, kill, and see that the run goes on: the attempt that was hit.

    None where it had ended before.
    """
    member = run.member(0)
    _awaited(run, lambda: bool(member.attempts()))
    attempt = member.attempts()[-1]
    _awaited(run, lambda: _last_step(attempt) >= kill.step or attempt.outcome.exists())
    if attempt.outcome.exists():
        return None
    kills.send(attempt, kill.signal)
    say(f"{kill.signal.name} at step {_last_step(attempt)}")
    _awaited(run, attempt.outcome.exists)
    state = read_json(attempt.outcome)["state"]
    if state == "SUCCEEDED":
        return None
    if state not in ("REQUEUED", "RESTARTED"):
        wait(run)
        retry(run)  # which puts the result of the round before aside
    _awaited(run, lambda: member.attempts()[-1].number > attempt.number)
    return kill, attempt


def _last_step(attempt: Attempt) -> int:
    """Cheap: it is asked all the time while an attempt runs."""
    with contextlib.suppress(OSError, ValueError), attempt.metrics.open("rb") as f:
        f.seek(0, 2)
        f.seek(max(0, f.tell() - 4096))
        for line in reversed(f.read().split(b"\n")[1:-1]):
            if "train/loss" in (row := json.loads(line)).get("metrics", {}):
                return int(row["step"])
    return 0


def _awaited(run: Run, question: Callable[[], bool]) -> None:
    """Return when it is so, however long a queue or a step takes. Raises JobFailed where the run is over before, such
    as one that somebody cancelled in the queue."""
    over = has_ended(run)
    while not question():
        if over() and not question():
            raise JobFailed(f"the run was ended by somebody else\n  where  {run.path}")
        time.sleep(POLL_S)


def _compared(whole: Run, broken: Run, struck: Sequence[tuple[Kill, Attempt]], planned: int) -> Proof:
    ours, theirs = (tensor_files.tensors_of(list(_files(run))) for run in (whole, broken))
    results = [{**_result(run)["metrics"], "best": _result(run)["best"]} for run in (whole, broken)]
    return Proof(
        total_steps=_total_steps(whole),
        struck=[_cost(broken, kill, attempt) for kill, attempt in struck],
        missed=planned - len(struck),
        tensors=len(ours),
        differences=list(tensor_files.differences(ours, theirs)),
        metrics={name: [each[name] for each in results] for name in results[0] if results[0][name] != results[1][name]},
        samples=sorted({step for (_, step), _ in _samples(whole).items() ^ _samples(broken).items()}),
        folder=str(whole.path.parent),
    )


def _samples(run: Run) -> dict[tuple[str, int], tuple[int, ...]]:
    """By rank and step, what was trained on; what was computed again counts as it was the last time."""
    found: dict[tuple[str, int], tuple[int, ...]] = {}
    for attempt in run.member(0).attempts():
        for path in attempt.path.glob("samples-*.jsonl"):
            found |= {(path.name, row["step"]): tuple(row["ids"]) for row in read_lines(path) if "ids" in row}
    return found


def _files(run: Run) -> Iterator[Path]:
    """Everything with tensors that the run left: its model, and its last checkpoint."""
    member = run.member(0)
    yield from member.model.glob("*.safetensors")
    checkpoints = [p for p in member.checkpoints.glob("step-*") if p.name.removeprefix("step-").isdigit()]
    newest = max(checkpoints, key=lambda p: int(p.name.removeprefix("step-")))
    yield from newest.rglob("*.safetensors")


def _cost(run: Run, kill: Kill, attempt: Attempt) -> Struck:
    """By the spool of the attempt that was hit, and the ledger of the one that went on."""
    following = next(each for each in run.member(0).attempts() if each.number > attempt.number)
    resumed = went_on_from(events_of(following)) or 0
    steps = [r["step"] for r in read_lines(attempt.metrics) if "train/loss" in r.get("metrics", {})]
    return Struck(kill.signal.name, kill.step, max(steps, default=0), resumed)


def _result(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run.member(0).attempts()[-1].path / "result.json")
    return found


def _total_steps(run: Run) -> int:
    return int(_result(run)["steps"])
