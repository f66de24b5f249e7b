"""The proof on a real cluster: ranks on two hosts that are killed, told and requeued end with the same bits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cluster.harness import ON_SLURM, TESTBED, Cluster, attempts

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(700)]

SLOW = """
import time
import torch

class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.Dropout(0.2), torch.nn.Linear(32, 10))

    def forward(self, x):
        time.sleep(0.2 * self.training)  # else it has ended before somebody on a busy machine has told it
        return super().forward(x)
"""


@pytest.fixture
def slow(cluster: Cluster) -> tuple[str, ...]:
    """Words that choose the model above."""
    (cluster.work / "slow.py").write_text(SLOW)
    model = cluster.work / "conf" / "model" / "slow.yaml"
    model.parent.mkdir(parents=True)
    model.write_text("_target_: slow.Net\n")
    return ("--config-dir", str(TESTBED / "conf"), "--config-dir", str(cluster.work / "conf"), "model=slow")


def test_prove_two_hosts_that_are_killed_told_and_requeued_end_with_the_same_bits(
    cluster: Cluster, slow: tuple[str, ...]
) -> None:
    words = (
        *slow,
        *ON_SLURM,
        "experiment=digits",
        "train.epochs=2",
        "machine.nodes=2",
        "train.checkpoint_every_steps=5",
    )

    done = cluster.fairlead("prove", *words, "--kills", "2", "--seed", "18", "--keep", "--json", timeout_s=600)

    found = json.loads(done.stdout)
    assert found["holds"] and (found["differences"], found["metrics"], found["samples"]) == ([], {}, [])
    assert [each["signal"] for each in found["struck"]] == ["SIGKILL", "SIGUSR2"]
    assert found["struck"][1]["lost"] == 0
    whole, broken = sorted(Path(found["folder"]).glob("digits-*"), key=lambda run: len(attempts(run)))
    assert [end["state"] for end in attempts(whole)] == ["SUCCEEDED"]
    ends = [(end["state"], end["cause"]) for end in attempts(broken)]
    assert ends == [("RESTARTED", "crash"), ("REQUEUED", "timeout"), ("SUCCEEDED", "succeeded")]
    began = [json.loads(path.read_text()) for path in broken.glob("members/0/attempt-*/started.json")]
    assert len({each["slurm_job_id"] for each in began}) == 1, "Slurm itself put it back into its queue"
    assert all(re.fullmatch(r"n\[\d[-,]\d\]", each["slurm_job_nodelist"]) for each in began), "two hosts each time"
