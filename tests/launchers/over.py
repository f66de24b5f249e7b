"""A run that is over, by its files alone."""

from __future__ import annotations

from pathlib import Path

from launchers.run_folder.record import Run, append_line, write_json


def ended_run(workdir: Path, name: str = "d-1", state: str = "SUCCEEDED", launcher: str = "slurm") -> Run:
    """A run that is over, by its files."""
    run = Run(workdir / "runs" / name)
    attempt = run.member(0).path / "attempt-0"
    attempt.mkdir(parents=True)
    run.logs.mkdir()
    write_json(run.plan, {"job": name, "launcher": launcher, "pools": []})
    write_json(run.spec, {"name": "d", "objective": {"metric": "val/loss", "goal": "minimize"}})
    append_line(run.members_file, {"index": 0, "point": {}, "sections": {}})
    outcome = {
        "state": state,
        "cause": "user_error",
        "message": "KeyError: 'ü'",
        "first_rank": 0,
        "host": "n1",
        "last_lines": ["boom"],
    }
    write_json(attempt / "outcome.json", outcome)
    (attempt / "rank-0.log").write_text("hello\nwörld\n")
    return run
