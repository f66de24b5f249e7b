"""A host that is to blame is avoided, as often as another may be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conf.job_schema import Restarts
from launchers.run_folder.record import Run, write_json
from tests.launchers.attempted import Make, Start, ended
from tests.launchers.stepping import slurm_here
from tests.launchers.supervised import maker, outcome

TALKING = """
if sys.argv[1:3] == ["show", "job"]:
    print("JobState=RUNNING Partition=batch NumNodes=1 Features=%s ReqNodeList=(null) ExcNodeList=%s")
elif sys.argv[1:3] == ["show", "hostnames"]:
    print("n2\\nn3")
elif sys.argv[1:3] == ["show", "node"]:
    print("NodeName=n2 BootTime=2020-01-01T00:00:00 SlurmdStartTime=2026-01-02T03:04:05 State=IDLE")
    print("NodeName=n3 BootTime=2020-01-01T00:00:00 SlurmdStartTime=2020-01-02T03:04:05 State=IDLE")
"""
CRASHES = "import os, time; time.sleep(0.2); os.environ['RANK'] == '0' and os.kill(os.getpid(), 11); time.sleep(600)"
ELSEWHERE = Restarts(crash=1, elsewhere=1)
FOUR = ("n1", "n2", "n3", "n4")
NO_WAIT = "import launchers.host.element as s; s.REQUEUE_WAIT_S = 0"
WITHOUT_N2 = [["requeue", "42"], ["update", "JobId=42", "ExcNodeList=n2"]]
LOST, DONE = ("REQUEUED", "node_failure"), ("SUCCEEDED", "succeeded")
BEFORE, AFTER = 1.7e9, 1.9e9
"""The start of n2's slurmd."""


@pytest.fixture
def make_run(workdir: Path) -> Make:
    return maker(workdir)


@pytest.fixture
def on_slurm(fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return slurm_here(fakes, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("features", "excluded", "hosts", "avoided"),
    [
        ("(null)", "(null)", FOUR, "n1"),
        ("(null)", "n[2-3]", FOUR, "n1,n2,n3"),
        ("(null)", "n[2-3]", FOUR[:3], ""),
        ("a100&ib", "(null)", ("n1 a100,ib", "n2 ib", "n3 ib,nvme,a100"), "n1"),
        ("a100&ib", "(null)", ("n1 a100,ib", "n2 ib", "n3 (null)"), ""),
        ("a100|h100", "(null)", ("n1 a100", "n2 a100"), ""),
        ("(null)", "(null)", FOUR[:1], ""),
    ],
    ids=["others are there", "one more", "all excluded", "of all features", "without them", "some of them", "alone"],
)
def test_supervise_slurm_host_on_which_every_attempt_crashed_is_avoided(
    on_slurm: Any, make_run: Make, start: Start, features: str, excluded: str, hosts: tuple[str, ...], avoided: str
) -> None:
    on_slurm.put("scontrol", TALKING % (features, excluded))
    on_slurm.put("sinfo", listed(*hosts))
    run = make_run(CRASHES, ranks=2, launcher="slurm", restarts=ELSEWHERE)
    patch = "import launchers.host.element as s, launchers.host.policy as p; s.REQUEUE_WAIT_S = 0; p.PAUSES_S = (0.0,)"

    ended(start(run, patch=patch, SLURM_JOB_ID="42"))

    assert [outcome(run, attempt=n)["state"] for n in (0, 1)] == ["RESTARTED", "REQUEUED" if avoided else "FAILED"]
    assert outcome(run)["avoided"] == avoided
    said = [c["argv"] for c in on_slurm.calls("scontrol") if c["argv"][0] in ("requeue", "update")]
    assert said == ([["requeue", "42"], ["update", "JobId=42", f"ExcNodeList={avoided}"]] if avoided else [])


def test_supervise_slurm_goes_elsewhere_as_often_as_it_may(on_slurm: Any, make_run: Make, start: Start) -> None:
    on_slurm.put("scontrol", TALKING % ("(null)", "(null)"))
    on_slurm.put("sinfo", listed(*FOUR))
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
    ids=["again", "it is not among them", "two hosts", "once, with another job"],
)
def test_supervise_slurm_host_that_was_lost_twice_and_is_given_again_is_avoided(
    on_slurm: Any, make_run: Make, start: Start, lost: tuple[str, ...], nodes: str, goes: bool
) -> None:
    run = lost_with(make_run, *lost)
    on_slurm.put("scontrol", TALKING % ("(null)", "(null)"))
    on_slurm.put("sinfo", listed(*FOUR))

    ended(start(run, patch=NO_WAIT, SLURM_JOB_ID="42", SLURM_JOB_NODELIST=nodes))

    assert said(on_slurm) == (WITHOUT_N2 if goes else [])
    assert (outcome(run)["state"], outcome(run)["cause"]) == (LOST if goes else DONE)


@pytest.mark.parametrize(
    ("host", "free", "began", "word", "goes"),
    [
        ("n2", ("n1", "n4"), BEFORE, False, True),
        ("n3", ("n1", "n4"), BEFORE, False, True),
        ("n2", ("n1",), BEFORE, False, False),
        ("n2", ("n1", "n4 (null) 64,4000,gpu:8"), BEFORE, False, False),
        ("n2", ("n1", "n4"), AFTER, False, False),
        ("n2", ("n1", "n4"), AFTER, True, True),
    ],
    ids=["others", "not the supervisor's", "too few", "another kind", "its slurmd runs on", "so the supervisor said"],
)
def test_supervise_slurm_host_that_was_lost_once_is_avoided_where_others_are_free(
    on_slurm: Any, make_run: Make, start: Start, host: str, free: tuple[str, ...], began: float, word: bool, goes: bool
) -> None:
    """`host` is the supervisor's; n2 has come back."""
    run = lost_with(make_run, host, slurm_job_id="42", slurm_job_nodelist="n[2-3]", started=began)
    if word:
        document = {"state": "REQUEUED", "cause": "node_failure", "host": "n2", "started": began, "ended": began}
        write_json(run.member(0).path / "attempt-0" / "outcome.json", document)
    on_slurm.put("scontrol", (TALKING % ("(null)", "(null)")).replace("NumNodes=1", "NumNodes=2"))
    on_slurm.put("sinfo", f"if '--states=idle' in sys.argv: {listed(*free)}\nelse: {listed(*FOUR)}")

    ended(start(run, patch=NO_WAIT, SLURM_JOB_ID="42", SLURM_JOB_NODELIST="n[2-3]"))

    assert said(on_slurm) == (WITHOUT_N2 if goes else [])
    assert (outcome(run)["state"], outcome(run)["cause"]) == (LOST if goes else DONE)
    assert ("scontrol update JobId=42 ExcNodeList=" in outcome(run)["message"]) == goes


@pytest.mark.parametrize(
    ("elsewhere", "avoided"), [(1, ""), (2, "n2")], ids=["the last time is kept", "who lets it go there again means it"]
)
def test_supervise_slurm_host_that_was_lost_once_is_not_avoided(
    on_slurm: Any, make_run: Make, start: Start, elsewhere: int, avoided: str
) -> None:
    run = lost_with(make_run, "n2", elsewhere=elsewhere, slurm_job_id="42", started=AFTER)
    document = {"state": "REQUEUED", "cause": "node_failure", "host": "n2", "started": AFTER, "avoided": avoided}
    write_json(run.member(0).path / "attempt-0" / "outcome.json", document)
    on_slurm.put("scontrol", TALKING % ("(null)", "(null)"))
    on_slurm.put("sinfo", listed(*FOUR))

    ended(start(run, patch=NO_WAIT, SLURM_JOB_ID="42", SLURM_JOB_NODELIST="n2"))

    assert said(on_slurm) == [] and (outcome(run)["state"], outcome(run)["cause"]) == DONE


def listed(*hosts: str) -> str:
    """What sinfo prints: of each host its features and what else it has."""
    rows = [(*words, *("", "(null)", "8,4000,(null)")[len(words) :]) for words in map(str.split, hosts)]
    lines = "\n".join(f"{name} {has} {features}" for name, features, has in rows)
    return f"print({lines!r})"


def lost_with(make_run: Make, *hosts: str, elsewhere: int = 2, **began: Any) -> Run:
    """A run whose attempts began on these hosts, and were not heard of again."""
    run = make_run("print('trained')", launcher="slurm", restarts=Restarts(elsewhere=elsewhere))
    for number, host in enumerate(hosts):
        attempt = run.member(0).path / f"attempt-{number}"
        attempt.mkdir(parents=True)
        write_json(attempt / "started.json", {"host": host, "pid": 1, "started": 0.0, **began})
    return run


def said(on_slurm: Any) -> list[list[str]]:
    """What Slurm was told of the job."""
    return [c["argv"] for c in on_slurm.calls("scontrol") if c["argv"][0] in ("requeue", "update")]
