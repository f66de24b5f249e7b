"""Faults on the four-host cluster. The cases run several at a time, each on hosts of its own.

Each of these kinds once; five kinds more are struck there by `make chaos` alone (see ON_SLURM), as a case takes long.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping

import pytest

from tests.chaos.cases import BOXED, Case, campaign
from tests.chaos.drive import Bench
from tests.chaos.pool import run_all
from tests.chaos.verdict import Row

SEED, CASES = 20261121, 16
ALL = (*campaign(SEED, "slurm", CASES), *(case for case in BOXED if case.launcher == "slurm"))
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def rows(bench: Bench) -> Mapping[str, Row]:
    """All of them, run."""
    if "SLURM_CONF" not in os.environ or shutil.which("sbatch") is None or os.geteuid() != 0:
        pytest.skip("needs the test cluster, whose hosts it switches off: run `make test` as root on Debian")
    return {row.case.name: row for row in run_all(bench, ALL)}


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_fault_on_the_cluster_keeps_every_promise(
    case: Case, rows: Mapping[str, Row], judged: Callable[[Row], None]
) -> None:
    judged(rows[case.name])
