"""A host that is to blame is avoided, as often as another may be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conf.job_schema import Restarts
from launchers.run_folder.record import write_json
from tests.launchers.attempted import Make, Start, ended
from tests.launchers.stepping import slurm_here
from tests.launchers.supervised import maker, outcome

TALKING = """
if sys.argv[1:3] == ["show", "job"]:
    print("JobState=RUNNING Partition=batch NumNodes=1 Features=%s ReqNodeList=(null) ExcNodeList=%s")
elif sys.argv[1:3] == ["show", "hostnames"]:
    print("n2\\nn3")
"""
CRASHES = "import os, time; time.sleep(0.2); os.environ['RANK'] == '0' and os.kill(os.getpid(), 11); time.sleep(600)"
ELSEWHERE = Restarts(crash=1, elsewhere=1)


@pytest.fixture
def make_run(workdir: Path) -> Make:
    return maker(workdir)


@pytest.fixture
def on_slurm(fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return slurm_here(fakes, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("features", "excluded", "hosts", "avoided"),
    [
        ("(null)", "(null)", "n1\\nn2\\nn3\\nn4", "n1"),
        ("(null)", "n[2-3]", "n1\\nn2\\nn3\\nn4", "n1,n2,n3"),
        ("(null)", "n[2-3]", "n1\\nn2\\nn3", ""),
        ("a100&ib", "(null)", "n1 a100,ib\\nn2 ib\\nn3 ib,nvme,a100", "n1"),
        ("a100&ib", "(null)", "n1 a100,ib\\nn2 ib\\nn3 (null)", ""),
        ("a100|h100", "(null)", "n1 a100\\nn2 a100", ""),
        ("(null)", "(null)", "n1", ""),
    ],
    ids=["others are there", "one more", "all excluded", "of all features", "without them", "some of them", "alone"],
)
def test_supervise_slurm_host_on_which_every_attempt_crashed_is_avoided(
    on_slurm: Any, make_run: Make, start: Start, features: str, excluded: str, hosts: str, avoided: str
) -> None:
    on_slurm.put("scontrol", TALKING % (features, excluded))
    on_slurm.put("sinfo", f"print('{hosts}')")
    run = make_run(CRASHES, ranks=2, launcher="slurm", restarts=ELSEWHERE)
    patch = "import launchers.host.element as s, launchers.host.policy as p; s.REQUEUE_WAIT_S = 0; p.PAUSES_S = (0.0,)"

    ended(start(run, patch=patch, SLURM_JOB_ID="42"))

    assert [outcome(run, attempt=n)["state"] for n in (0, 1)] == ["RESTARTED", "REQUEUED" if avoided else "FAILED"]
    assert outcome(run)["avoided"] == avoided
    said = [c["argv"] for c in on_slurm.calls("scontrol") if c["argv"][0] in ("requeue", "update")]
    assert said == ([["requeue", "42"], ["update", "JobId=42", f"ExcNodeList={avoided}"]] if avoided else [])


def test_supervise_slurm_goes_elsewhere_as_often_as_it_may(on_slurm: Any, make_run: Make, start: Start) -> None:
    on_slurm.put("scontrol", TALKING % ("(null)", "(null)"))
    on_slurm.put("sinfo", "print('n1\\nn2\\nn3\\nn4')")
    run = make_run(CRASHES, ranks=2, launcher="slurm", restarts=ELSEWHERE)
    patch = "import launchers.host.element as s, launchers.host.policy as p; s.REQUEUE_WAIT_S = 0; p.PAUSES_S = (0.0,)"

    for _ in range(2):
        ended(start(run, patch=patch, SLURM_JOB_ID="42"))

    states = [outcome(run, attempt=n)["state"] for n in range(4)]
    assert states == ["RESTARTED", "REQUEUED", "RESTARTED", "FAILED"]
    assert "1 restart(s) in a row left no newer checkpoint" in outcome(run)["message"]


@pytest.mark.parametrize(
    ("lost", "nodes", "goes"),
    [
        (("n2", "n2"), "n[2-3]", True),
        (("n4", "n4"), "n[2-3]", False),
        (("n3", "n2"), "n[2-3]", False),
        (("n2",), "n2", False),
    ],
    ids=["again", "it is not among them", "two hosts", "once"],
)
def test_supervise_slurm_host_that_was_lost_twice_and_is_given_again_is_avoided(
    on_slurm: Any, make_run: Make, start: Start, lost: tuple[str, ...], nodes: str, goes: bool
) -> None:
    on_slurm.put("scontrol", TALKING % ("(null)", "(null)"))
    on_slurm.put("sinfo", "print('n1\\nn2\\nn3\\nn4')")
    run = make_run("print('trained')", launcher="slurm", restarts=ELSEWHERE)
    for number, host in enumerate(lost):
        attempt = run.member(0).path / f"attempt-{number}"
        attempt.mkdir(parents=True)
        write_json(attempt / "started.json", {"host": host, "pid": 1, "started": 0.0})
    patch = "import launchers.host.element as s; s.REQUEUE_WAIT_S = 0"

    ended(start(run, patch=patch, SLURM_JOB_ID="42", SLURM_JOB_NODELIST=nodes))

    said = [c["argv"] for c in on_slurm.calls("scontrol") if c["argv"][0] in ("requeue", "update")]
    assert said == ([["requeue", "42"], ["update", "JobId=42", "ExcNodeList=n2"]] if goes else [])
    state, cause = ("REQUEUED", "node_failure") if goes else ("SUCCEEDED", "succeeded")
    assert (outcome(run)["state"], outcome(run)["cause"]) == (state, cause)
