"""A search on a real Slurm whose trials are heterogeneous jobs of a chief and two workers."""

from __future__ import annotations

import pytest

from tests.cluster.harness import ON_SLURM, Cluster
from tests.launchers.test_search_of_pools import CANARY, must_be_a_search_of_pairs

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
SMALL = ("machine.mem_gb=0.5", "machine.time_limit_min=5", "job.notice_s=10")


def test_trials_of_several_pools_on_slurm(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORIGIN", CANARY)
    must_be_a_search_of_pairs(Cluster(cluster.work, (*ON_SLURM, *SMALL)))
