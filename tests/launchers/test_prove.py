"""The proof that a job ends with the same bits: one that holds, one that does not, and what a proof cannot be of."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from launchers.cli import main
from launchers.errors import JobFailed
from launchers.proof import kills, prove
from launchers.proof.kills import Kill
from launchers.queue.handover import submit_members
from launchers.run_folder.record import locked
from tests.cluster.harness import QUICK, ROOT, Cluster

SLOW = """
import time
import torch

class Net(torch.nn.Sequential):
    def __init__(self):
        hidden = [torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Dropout(0.2)]
        super().__init__(*hidden, torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

    def forward(self, x):
        time.sleep(0.1 * self.training)  # else it has ended before somebody on a busy machine has killed it
        return super().forward(x)
"""
DRAWS = """
import os
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x + 0.01 * (os.urandom(1)[0] - 128) * self.training)
"""


@pytest.fixture
def laptop(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Cluster(workdir, first=())


def own_model(laptop: Cluster, text: str) -> tuple[str, ...]:
    """Words that choose it."""
    (laptop.work / "mine.py").write_text(text)
    groups = laptop.work / "conf"
    (groups / "model").mkdir(parents=True)
    (groups / "model" / "mine.yaml").write_text("_target_: mine.Net\n")
    return ("--config-dir", str(groups), "model=mine")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", [("engine=ddp",), ("engine=fsdp", "engine.unit_parameters=1")], ids=["ddp", "fsdp"])
def test_prove_two_ranks_that_are_killed_and_stopped_end_with_the_same_bits(
    laptop: Cluster, engine: tuple[str, ...]
) -> None:
    words = ("experiment=digits", *own_model(laptop, SLOW), "machine.ranks_per_node=2", "train.epochs=3", *engine)

    done = laptop.fairlead("prove", *words, "--kills", "2", "--seed", "20", "--json", timeout_s=600)

    found = json.loads(done.stdout)
    assert found["holds"] and found["total_steps"] == 3 * 23 and found["tensors"] > 20
    assert [each["signal"] for each in found["struck"]] == ["SIGKILL", "SIGTERM"]
    for each in found["struck"]:
        assert each["planned"] <= each["reached"] < found["total_steps"]
    assert found["struck"][1]["lost"] == 0
    assert found["samples"] == []
    assert list((laptop.work / "runs").iterdir()) == [], "what a proof ran is nobody's"


@pytest.mark.timeout(900)
def test_prove_a_model_that_draws_its_own_random_numbers_is_told_where(laptop: Cluster) -> None:
    words = (*QUICK, *own_model(laptop, DRAWS), "train.epochs=20")

    done = laptop.fairlead("prove", *words, "--kills", "1", check=False, timeout_s=600)

    said = done.stdout
    assert done.returncode == 1, done.stderr
    assert "NOT the same" in said
    assert "model.safetensors: layer.weight  F32 [3, 4], by " in said
    assert "undisturbed, " in said
    assert len(list((laptop.work / "runs").glob(".proof-*/*/members/0/model/model.safetensors"))) == 2


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("experiment=digits", "-m", "model.width=8,16"), "unrecognized"),
        (("job=command", "job.command=[ls]"), "a proof is of a job of our trainer, and this is a command"),
        (("experiment=digits", "sweep=digits_grid"), "a proof is of one job, and this is a sweep"),
    ],
)
def test_prove_of_anything_else_is_refused(
    workdir: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], what: str
) -> None:
    assert main(["prove", *words]) == 2

    assert what in capsys.readouterr().err
    assert not list(workdir.glob("runs/.proof-*/*"))


def test_planned_kills_are_the_seeds_and_of_each_kind() -> None:
    plan = kills.planned(6, 1000, seed=3)

    assert plan == kills.planned(6, 1000, seed=3) != kills.planned(6, 1000, seed=4)
    assert [kill.step for kill in plan] == sorted({kill.step for kill in plan})
    assert sorted(kill.signal for kill in plan) == sorted([signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL] * 2)
    assert len(kills.planned(6, 3, seed=3)) == 2


def test_prove_of_a_run_that_somebody_cancels_in_the_queue_comes_to_an_end(
    cluster: Any, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm takes it and lets it go, and no attempt is ever made."""
    cluster.put("squeue", "pass")
    cluster.put("sacct", "print('100|' + sys.argv[sys.argv.index('--name') + 1].split(',')[0] + '|CANCELLED')")

    code = main(["prove", "experiment=digits", "launcher=slurm", "machine=cpu-small"])

    assert (code, "Traceback" in capsys.readouterr().err) == (1, False)


def test_kill_is_not_awaited_in_a_run_that_is_over(cluster: Any, slurm_run: Any) -> None:
    run, plan = slurm_run()
    with locked(run.change_lock):
        submit_members(run, [plan], [0])
    cluster.put("squeue", "pass")
    cluster.put("sacct", f"print('100|{run.id}|CANCELLED by 0')")

    with pytest.raises(JobFailed, match="ended by somebody else"):
        prove._strike(run, Kill(3, signal.SIGTERM), print)
