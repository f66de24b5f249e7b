"""Faults on one machine: whatever ends a training, it goes on and comes to the same model."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable

import pytest

from tests.chaos.cases import BOXED, CHECKPOINT_EVERY, FOUND, TWO, Case, campaign
from tests.chaos.drive import Bench
from tests.chaos.pool import attempted
from tests.chaos.verdict import Row

SEED, CASES = 20261121, 34
ZERO = 18
"""Number of the case, the second of a rank that is killed, that is DeepSpeed's, which takes longest to start."""
MOUNTS = ("disk full", "checkpoints read-only")


def seeded() -> list[Case]:
    cases = campaign(SEED, "local", CASES)
    changes = {"engine": "deepspeed", "layout": TWO, "back": TWO, "every": CHECKPOINT_EVERY}
    cases[ZERO] = dataclasses.replace(cases[ZERO], **changes)
    return cases


@pytest.mark.timeout(500)
@pytest.mark.parametrize("case", [*FOUND, *seeded(), *BOXED[:1]], ids=lambda case: case.name)
def test_fault_here_keeps_every_promise(case: Case, bench: Bench, judged: Callable[[Row], None]) -> None:
    if case.fault in MOUNTS and os.geteuid() != 0:
        pytest.skip("needs root: it mounts a file system")
    if case.container != "none" and shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    judged(attempted(bench, case))
