"""The programs that are compared still run, each over the same few steps, and learn alike.

Those of Lightning and Accelerate need what `make bench` installs, and are run by it alone.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.benchmarks import steps
from tests.trainer.ranks import ROOT, Member


@pytest.fixture
def case() -> steps.Case:
    return dataclasses.replace(steps.CASES[0], steps=150)


@pytest.mark.parametrize("name", ["Fairlead", "hand"])
def test_program_makes_all_steps_and_reports_them(name: str, case: steps.Case, tmp_path: Path) -> None:
    ranks = 2
    env = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    member = Member(tmp_path, steps.spec_of(case), ranks, env, steps.PROGRAMS[name])
    try:
        assert member.run() == [0] * ranks, member.log()
    finally:
        member.end()

    losses = [line["metrics"]["train/loss"] for line in member.lines("metrics.jsonl") if "train/loss" in str(line)]
    assert len(losses) == case.steps / steps.LOG_EVERY_STEPS
    assert losses[0] > losses[-1] > 0
    assert steps.read(member, 0.0, steps.Seen(1.0)).steps_per_s > 0


def test_cpu_time_is_that_of_the_steps_that_are_counted(tmp_path: Path, case: steps.Case) -> None:
    member = Member(tmp_path, steps.spec_of(case), attempts=1)
    member.attempt.mkdir()
    reports = [{"t": 1000 * s, "step": s, "metrics": {"train/loss": 1.0}} for s in (50, 100, 150)]
    (member.attempt / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in reports))
    (member.attempt / "ledger.jsonl").write_text('{"event": "first_step", "t": 1}\n')

    found = steps.read(member, 0.0, steps.Seen(1.0, ((0, 0.0), (100, 40.0), (200, 50.0))))

    assert found.steps_per_s == 1.0
    assert found.cpu_ms == pytest.approx(1000 * (45 - 20) / 100)


def test_lines_show_medians_and_the_ratio_round_by_round() -> None:
    def found(ours: float, theirs: float) -> dict[str, steps.Measured]:
        return {
            name: steps.Measured(ours if name == "Fairlead" else theirs, 1.0, 2.0, cpu_ms=3.0)
            for name in steps.PROGRAMS
        }

    said = steps.lines(steps.CASES[0], 1, [found(10, 5), found(100, 400), found(30, 10)])

    assert said.splitlines()[2].split()[:3] == ["Fairlead", "30.0", "1.000"]
    assert said.splitlines()[3].split()[:3] == ["hand", "10.0", "2.000"]
