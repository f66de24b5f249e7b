"""Faults on one machine: whatever ends a training, it goes on and comes to the same model."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.chaos.cases import FOUND, Case, campaign
from tests.chaos.drive import Bench
from tests.chaos.pool import attempted
from tests.chaos.verdict import Row

SEED, CASES = 20261121, 34
MOUNTS = ("disk full", "checkpoints read-only")


@pytest.mark.timeout(500)
@pytest.mark.parametrize("case", [*FOUND, *campaign(SEED, "local", CASES)], ids=lambda case: case.name)
def test_fault_here_keeps_every_promise(case: Case, bench: Bench, judged: Callable[[Row], None]) -> None:
    if case.fault in MOUNTS and os.geteuid() != 0:
        pytest.skip("needs root: it mounts a file system")
    judged(attempted(bench, case))
