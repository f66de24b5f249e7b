"""What a job came to, when no member runs any more: `python -m launchers.delivery.finish RUN`.

Delivers what is left, closes the runs, registers the best member's model and writes result.json, last.
With the store away the result says so ("undelivered"); the same call completes it later. Members that
left no final outcome are taken for failed: this step runs when the job is over.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launchers.delivery import board
from launchers.delivery.conclusion import Conclusion, End, counts_of
from launchers.delivery.forward import Marks, forward
from launchers.delivery.register import has_model, keep, register
from launchers.delivery.store import Client, StoreError, is_refusal, opened
from launchers.delivery.tracking import (
    LOCK_LIMIT_S,
    TAG_LENGTH,
    Tracking,
    ensure_runs,
    experiment_name,
    name_of,
    recorded,
    store_uri,
    text_of,
)
from launchers.errors import EXIT_DONE, EXIT_SITE, SiteError
from launchers.jobs.returned import queue_again
from launchers.outcome import DONE
from launchers.parts import ranges
from launchers.plan import plans_from
from launchers.run_folder import kept
from launchers.run_folder.record import Run, locked, read_json, write_json
from launchers.search.compared import Compared

LOG_BYTES, PROFILE_BYTES = 1_000_000, 100_000_000
"""Of a log the end, of a profile the summary and as many traces as fit."""
ANSWER_S = 120
"""A server may take long to answer an upload; that it is alive was seen before."""
TRIES, PAUSE_S = 3, 5.0
REPORT_LIMIT_S = 600
TRACEBACK = "Traceback (most recent call last):"
STATUS = {"SUCCEEDED": "FINISHED", "PRUNED": "FINISHED", "SKIPPED": "KILLED", "FAILED": "FAILED", "CANCELLED": "KILLED"}
"""A member's state as MLflow calls it."""


def finish(run: Run) -> dict[str, Any]:
    """Complete a job in the tracking store, draw its report and write result.json; what result.json says.

    Idempotent and safe against a kill at any point: then result.json is not there, or an older one is.
    Raises nothing for a store that is away, an export that is damaged or a report that cannot be drawn: the
    result holds "problem", or "report_problem".
    """
    job, before = Conclusion(run), read_json(run.result)
    result = job.result()
    if all(end.state != "FAILED" for end in job.ends):  # else a retry may want them
        for path in filter(None, (plan.kept for plan in plans_from(read_json(run.plan)))):
            kept.forget(Path(path))
    with contextlib.suppress(SiteError, OSError):  # what was written beside the members lacks their last seconds
        board.write(run)
    if job.spec.tracking.kind != "none":
        result["mlflow"] = _where(job, recorded(run))
        try:
            result |= _complete(job)
        except StoreError as e:
            result |= {"undelivered": True, "problem": str(e)}
        except SiteError as e:
            result |= {"problem": str(e)}
    if job.of or len(job.ends) > 1:
        result |= _report(run)
    if job.of:
        _remember(job.of)
    if "undelivered" in result and (now := read_json(run.result)) not in (None, before) and "undelivered" not in now:
        return dict(now)  # completed by another of us, while ours waited for a store that was away
    write_json(run.result, result)
    return result


def _where(job: Conclusion, tracking: Tracking | None) -> dict[str, Any]:
    best = job.best.member.index if job.best else None
    return {
        "uri": store_uri(job.run, job.spec),
        "experiment": experiment_name(job.spec),
        "run_id": tracking.run_id if tracking else None,
        "best_run_id": tracking.runs.get(best) if tracking and best is not None else None,
    }


def _report(run: Run) -> dict[str, Any]:
    """In a process of its own, whatever becomes of it."""
    argv = [sys.executable, "-m", "launchers.search.report", "--over", str(run.path)]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=REPORT_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return {"report": None, "report_problem": str(e)}
    if done.returncode == EXIT_DONE:
        return {"report": done.stdout.strip()}
    said = done.stderr.strip().splitlines() or [f"exited with status {done.returncode}"]
    return {"report": None, "report_problem": said[0] if said[0] != TRACEBACK else said[-1]}


def _remember(of: Compared) -> None:
    """Leave the ended trials to whoever looks at the search later: nobody asks for a point any more."""
    with contextlib.suppress(SiteError, OSError), locked(of.study.folder / "ask.lock", LOCK_LIMIT_S):
        of.study.remember(of.trials)


def _complete(job: Conclusion) -> dict[str, Any]:
    run, spec = job.run, job.spec
    tracking = ensure_runs(run)
    assert tracking is not None
    refused = set(forward(run).refused)
    with (
        locked(run.path / "tracking.lock", LOCK_LIMIT_S),
        opened(tracking.uri, run.id, answer_s=ANSWER_S) as client,
    ):
        marks = Marks(run)
        for end in job.ends:
            if end.member.index not in tracking.runs:
                continue  # it never started
            closed = marks.closed.get(str(end.member.index)) == end.mark
            if not closed and not _is_taken(_close, client, run, tracking, end):
                refused.add(end.member.index)
            elif not closed:
                marks.close(end.member.index, end.mark)
        if tracking.parent_run_id:
            _is_taken(_close_parent, client, tracking.parent_run_id, job)
        done: dict[str, Any] = {"mlflow": _where(job, tracking)}
        if spec.tracking.register and job.best and has_model(run, job.best.member):
            done["model"] = register(client, run, tracking, job.best.member.index, job.lineage)
    return {**done, "refused": sorted(refused)} if refused else done


def _is_taken(act: Callable[..., None], *arguments: Any) -> bool:
    """Do it; False when the store will not have it, ever, as for a run that was deleted there."""
    from mlflow.exceptions import MlflowException

    try:
        act(*arguments)
    except MlflowException as e:
        if not is_refusal(e):
            raise
        return False
    return True


def _close(client: Client, run: Run, tracking: Tracking, end: End) -> None:
    """Final state, small files, and in a search the values of a member's run."""
    from mlflow.entities import Metric, RunTag

    run_id, ended = tracking.runs[end.member.index], int(end.ended_s * 1000)
    with tempfile.TemporaryDirectory() as folder:
        _gather(run, end, Path(folder))
        client.log_artifacts(run_id, folder)
    if end.state == "SUCCEEDED":
        keep(client, run, tracking, end.member.index)
    if end.trial:
        values = [Metric(f"objective/{name_of(k)}", v, ended, end.steps) for k, v in (end.values or {}).items()]
        client.log_batch(run_id, metrics=values, tags=[RunTag("fairlead.state", end.trial.state)])
    client.set_terminated(run_id, STATUS[end.state], ended)


def _gather(run: Run, end: End, folder: Path) -> None:
    """The files that are looked at beside the curves."""
    spec = end.member.spec if end.member.spec.exists() else run.spec
    wanted = [(spec, "spec.json"), (run.provenance, "provenance.json")]
    if end.attempt:
        wanted += [(end.attempt.outcome, "outcome.json")]
        for log in sorted(end.attempt.path.glob("rank-*.log")):
            _copy_tail(log, folder / "logs" / log.name)
    profiled = [a.path / "profile" for a in end.member.attempts() if (a.path / "profile" / "summary.json").exists()]
    if profiled:
        _copy_profile(profiled[-1], folder / "profile")
    for source, name in wanted:
        if source.exists():
            shutil.copyfile(source, folder / name)


def _copy_profile(source: Path, target: Path) -> None:
    target.mkdir()
    left, room = [], PROFILE_BYTES
    for path in sorted(source.glob("[!.]*"), key=lambda p: (not p.name.startswith("summary"), p.name)):
        if path.stat().st_size <= room:
            room -= path.stat().st_size
            shutil.copyfile(path, target / path.name)
        else:
            left.append(path.name)
    if left:
        said = f"too large for the tracking store, so they are in {source}: {', '.join(left)}\n"
        (target / "left_out.txt").write_bytes(said.encode(errors="surrogateescape"))


def _copy_tail(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    size = source.stat().st_size
    with source.open("rb") as read, target.open("wb") as write:
        if size > LOG_BYTES:
            read.seek(size - LOG_BYTES)
            cut = size - LOG_BYTES + len(read.readline())
            write.write(f"[the first {cut} bytes are in {source}]\n".encode(errors="surrogateescape"))
        shutil.copyfileobj(read, write)


def _close_parent(client: Client, run_id: str, job: Conclusion) -> None:
    """The job's own run: the best member's metrics under their names, how the members ended, and when."""
    from mlflow.entities import Metric, RunTag

    best, ended = job.best, int(max(end.ended_s for end in _begun(job.ends)) * 1000)
    # What is extended finishes again: then the newest best counts, not the one that took most steps.
    step = 0 if job.of or not best else best.steps
    found = Counter(end.state for end in job.ends)
    counts = {f"members/{state.lower()}": found[state] for state in (STATUS if job.of else found)}
    points = [Metric(name, value, ended, 0) for name, value in {**counts, **dict(_search_numbers(job))}.items()]
    points += [Metric(name, value, ended, step) for name, value in _numbers(best)] if best else []
    said = {"fairlead.best_member": str(best.member.index)} if best else {}
    tags = [RunTag(name, text_of(value, TAG_LENGTH)) for name, value in {**said, **_search_tags(job)}.items()]
    client.log_batch(run_id, metrics=points, tags=tags)
    status = "FINISHED" if any(end.state in DONE for end in job.ends) else "FAILED"
    client.set_terminated(run_id, "KILLED" if job.run.cancelled.exists() else status, ended)


def _begun(ends: list[End]) -> list[End]:
    """Those that say when they ended, where there are any."""
    return [end for end in ends if end.attempt] or ends


def _search_numbers(job: Conclusion) -> Iterator[tuple[str, float]]:
    """Of a search: the best values, how many trials ended in which state, and what they used."""
    if job.of and job.standing:
        yield from ((f"objective/{name_of(k)}", v) for k, v in ((job.best and job.best.values) or {}).items())
        yield from ((f"trials/{state.lower()}", n) for state, n in counts_of(job.of).items())
        yield from ((f"budget/{name}", said["used"]) for name, said in job.standing["budget"].items())


def _search_tags(job: Conclusion) -> dict[str, str]:
    if not job.of or not job.standing:
        return {}
    front = {"fairlead.pareto": " ".join(map(str, job.standing["pareto"]))} if "pareto" in job.standing else {}
    members = {"fairlead.members": str(len(job.ends)), "fairlead.over": job.standing["over"]}
    return {**job.study_tags, **front, **members}


def _numbers(end: End) -> Iterator[tuple[str, float]]:
    for name, value in end.metrics.items():
        try:
            yield name, float(value)
        except (TypeError, ValueError):
            continue


def _queued_again(run: Run) -> list[int]:
    """Members that are not over yet after all; none where Slurm cannot be asked, which `fairlead status` tells."""
    with contextlib.suppress(SiteError):
        return queue_again(run)
    return []


def complete(run: Run) -> int:
    """The finish step of a job: tried again for a few seconds while the store is away. The exit status of a process."""
    if again := _queued_again(run):
        print(f"members {ranges(again)} are not over yet and are queued again", flush=True)
        return EXIT_DONE
    for pause_s in (PAUSE_S,) * (TRIES - 1) + (0.0,):
        result = finish(run)
        if "undelivered" not in result or not pause_s:
            break
        time.sleep(pause_s)
    if "report_problem" in result:
        print(f"the report was not written: {result['report_problem']}", file=sys.stderr)
    if "problem" in result:
        print(result["problem"], file=sys.stderr)
        return EXIT_SITE
    return EXIT_DONE


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launchers.delivery.finish", description="Complete a job that has ended.")
    parser.add_argument("run", type=Path)
    return complete(Run(parser.parse_args(argv).run.resolve()))


if __name__ == "__main__":
    sys.exit(main())
