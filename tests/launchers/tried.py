"""Searches and grids as their run folders have them, written by hand: points, what was reported, how it ended."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conf import schema
from conf.document import to_document
from conf.sweep_schema import Limits, Parameter, Search
from launchers.config.check import Checker
from launchers.freeze import member_rows, plans_for
from launchers.launch import Request, checked
from launchers.plan import plans_document
from launchers.planning import Facts, plan_of
from launchers.run_folder.record import Run, append_lines, make_private, mark_ended, read_json, rows_of, write_json
from launchers.search.points import config_of
from launchers.search.study import Study
from tests.launchers.tracked import make_run, spec_of

T0 = 1_700_000_000.0
PARAMETERS = {
    "optimizer.lr": Parameter(type="double", min=1e-5, max=1e-1, scale="log"),
    "model.width": Parameter(type="integer", min=4, max=64),
}


def search_of(trials: int = 4, **more: Any) -> Search:
    return Search(**{"kind": "search", "algorithm": "tpe", "parameters": PARAMETERS, "trials": trials, **more})


def make_search(
    folder: Path,
    search: Search,
    *,
    job: str = "digits-1",
    spec: schema.Spec | None = None,
    fresh: bool = False,
    **tracking: Any,
) -> Run:
    """A frozen search none of whose trials has started. `spec` has everything but the search."""
    run = make_run(folder, job=job, fresh=fresh, **tracking)
    run.member(0).path.rmdir()
    whole = dataclasses.replace(spec or spec_of(**tracking), sweep=search)
    write_json(run.spec, to_document(whole))
    facts = Facts(job=run.id, run_dir=run.path, python=sys.executable, members=search.trials)
    write_json(run.plan, plans_document([plan_of(whole, facts)]))
    run.members_file.unlink()
    append_lines(
        run.members_file, [{"index": i, "late": True, "point": {}, "sections": {}} for i in range(search.trials)]
    )
    make_private(run.logs)
    make_private(run.path / "study")
    return run


def limited(**limits: Any) -> Limits:
    return Limits(**limits)


def frozen(folder: Path, *words: str, config_dirs: Sequence[Path] = (), job: str = "digits-1") -> Run:
    """What `fairlead launch WORDS` freezes, but for the code and the scripts."""
    overrides = tuple(word for word in words if not word.startswith("-"))
    wanted = checked(Request(overrides=overrides, config_dirs=tuple(config_dirs), multirun=True))
    run = Run(folder / job)
    make_private(run.path / "members")
    write_json(run.spec, to_document(wanted.specs[0]))
    write_json(run.plan, plans_document(plans_for(wanted, run)))
    append_lines(run.members_file, member_rows(wanted))
    if wanted.templates:
        write_json(make_private(run.path / "study") / "templates.json", list(wanted.templates))
    dirs = [word for folder in config_dirs for word in ("--config-dir", str(folder))]
    write_json(run.provenance, {"command": ["fairlead", "launch", *dirs, *words], "cwd": str(Path.cwd())})
    return run


def asked_late(run: Run, index: int, point: Mapping[str, Any]) -> None:
    """A trial that has asked for its point, which is this one, put into the templates as ask.py does."""
    spec, findings = Checker().spec(config_of(Study(run), point))
    assert spec is not None, findings
    base, document = read_json(run.spec), to_document(spec)
    ask(run, index, point, **{k: v for k, v in document.items() if v != base[k] and k != "sweep"})


def member_document(run: Run, index: int) -> dict[str, Any]:
    """The spec that a member runs."""
    (row,) = rows_of(run, {index})
    return {**read_json(run.spec), **row["sections"]}


def ask(run: Run, index: int, point: Mapping[str, Any], at: float | None = None, **sections: Any) -> None:
    """A trial that has its point and nothing else."""
    make_private(run.member(index).path)
    asked = T0 + 10 * index if at is None else at
    write_json(
        run.member(index).point,
        {"point": dict(point), "sections": sections, "asked": asked, "reserved_gpu_hours": 0.5},
    )


def start(run: Run, index: int, point: Mapping[str, Any], *said: Mapping[str, Any], at: float | None = None) -> Path:
    """A trial that runs and has said this, a report for each; its attempt's folder."""
    asked = T0 + 10 * index if at is None else at
    ask(run, index, point, asked)
    attempt = make_private(run.member(index).path / "attempt-0")
    write_json(attempt / "started.json", {"started": asked + 1, "host": "n1"})
    rows = [{"t": int(1000 * (asked + i)), "step": i, "metrics": dict(m)} for i, m in enumerate(said, 1)]
    (attempt / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return attempt


def tried(
    run: Run,
    index: int,
    point: Mapping[str, Any],
    *said: Mapping[str, Any],
    state: str = "SUCCEEDED",
    cause: str = "",
    message: str = "",
    took_s: float = 9,
) -> None:
    """A trial that has ended after saying this."""
    start(run, index, point, *said)
    ended(run, index, *said, state=state, cause=cause, message=message, took_s=took_s)


def ended(
    run: Run,
    index: int,
    *said: Mapping[str, Any],
    state: str = "SUCCEEDED",
    cause: str = "",
    message: str = "",
    took_s: float = 9,
) -> None:
    """What the supervisor and the program leave at the end of a member's attempt."""
    attempt = make_private(run.member(index).path / "attempt-0")
    if not (attempt / "started.json").exists():
        write_json(attempt / "started.json", {"started": T0 + 10 * index, "host": "n1"})
    begun = read_json(attempt / "started.json")["started"]
    if state == "SUCCEEDED":
        last = {name: value for report in said for name, value in report.items()}
        write_json(attempt / "result.json", {"metrics": last, "steps": len(said)})
    outcome = {"state": state, "cause": cause or state.lower(), "message": message, "started": begun}
    write_json(attempt / "outcome.json", {**outcome, "ended": begun + took_s, "last_lines": []})
    mark_ended(run, index, 0, state)


def accuracies(run: Run, values: Sequence[float | None], first: int = 0) -> None:
    """Trials that succeeded with these accuracies, or failed where there is none; widths tell them apart."""
    for i, value in enumerate(values, first):
        point = {"optimizer.lr": 0.001 * (i + 1), "model.width": 4 + i}
        if value is None:
            tried(run, i, point, state="FAILED", cause="user_error", message="ValueError: no")
        else:
            tried(run, i, point, {"val/accuracy": value / 2}, {"val/accuracy": value})
