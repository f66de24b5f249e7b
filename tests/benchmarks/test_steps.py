"""The programs that are compared still run and learn, and what their turns came to is counted right.

Those of Lightning and Accelerate need what `make bench` installs, and are run by it alone.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import steps, turns
from tests.trainer.ranks import ROOT, Member


@pytest.mark.parametrize("name", ["Fairlead", "hand"])
def test_program_of_two_ranks_takes_turns_and_learns(name: str, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    member = Member(tmp_path, steps.spec_of(steps.CASES[0]), 2, env, steps.PROGRAMS[name])
    with contextlib.closing(contextlib.ExitStack()) as ends:
        ends.callback(member.end)
        first_step_s = turns.begin(member)
        halted = len(turns.reports(member))
        taken = [turns.take(member, 4.0) for _ in range(3)]
        reports = turns.reports(member)

    losses = [line["metrics"]["train/loss"] for line in reports]
    assert halted < len(reports)
    assert losses[0] > losses[-1] > 0
    (pace,) = turns.paces(taken, reports)
    assert pace.steps_per_s > 0 and pace.cpu_ms > 0 and first_step_s > 0


def report(t: float, step: int) -> dict[str, Any]:
    return {"t": 1000 * t, "step": step}


def test_pace_is_that_of_the_time_that_a_program_had() -> None:
    taken = [turns.Turn(10, 12, 5.0), turns.Turn(20, 22, 1.0), turns.Turn(30, 34, 6.0), turns.Turn(40, 42, 5.0)]
    lines = [report(9, 5), report(11, 10), report(21, 40), report(31, 70), report(33, 90), report(41, 110)]

    assert turns.paces(taken, lines) == [
        turns.Pace(steps_per_s=(55 - 25) / 2, cpu_ms=1000 * 1.0 / 30),
        turns.Pace(steps_per_s=(100 - 55) / 4, cpu_ms=1000 * 6.0 / 45),
    ]


def test_pace_without_a_report_in_the_last_turn_is_not_guessed() -> None:
    taken = [turns.Turn(0, 1, 1.0), turns.Turn(2, 3, 1.0), turns.Turn(4, 5, 1.0)]

    with pytest.raises(AssertionError, match="too short"):
        turns.paces(taken, [report(0.5, 1), report(2.5, 2)])


def test_lines_show_medians_and_the_ratio_round_by_round() -> None:
    def runs(*rates: float) -> list[steps.Measured]:
        """Two processes, the second a tenth slower."""
        return [
            steps.Measured(tuple(turns.Pace(rate * of, 3.0) for rate in rates), first_step_s=1.0, peak_mb=2.0)
            for of in (1.05, 0.95)
        ]

    theirs = dict.fromkeys(("hand", "Lightning", "Accelerate"), runs(5, 400, 10))
    said = steps.lines(steps.CASES[0], 1, {"Fairlead": runs(10, 100, 30), **theirs})

    assert said.splitlines()[2].split()[:3] == ["Fairlead", "30.0", "1.000"]
    assert said.splitlines()[3].split()[:4] == ["hand", "10.0", "2.000", "(1.125-2.500)"]
