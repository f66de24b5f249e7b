"""Sweeps on the real cluster: as few arrays as can be, one limit over all of them, and allocations that are shared.

The programs are shell commands, so that it is the arrays that are tested. A `scontrol` in front of the real one
says that arrays take four members, so that a dozen members need several.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster, attempts, until

pytestmark = pytest.mark.slurm
NOTE = "date +%s.%N > $FAIRLEAD_MEMBER_DIR/begun; sleep $SECONDS_EACH; date +%s.%N > $FAIRLEAD_MEMBER_DIR/done"
COMMAND = ("job=command", f"job.command=[bash,-c,'{NOTE}']", "tracking=none", "container=none")


@pytest.fixture
def small_arrays(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real Slurm, but for the length of its arrays."""
    folder = workdir / "bin"
    folder.mkdir()
    real = shutil.which("scontrol")
    script = f'#!/bin/sh\n[ "$*" = "show config" ] && exec echo "MaxArraySize = 4"\nexec {real} "$@"\n'
    (folder / "scontrol").write_text(script)
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def _each(seconds: str) -> tuple[str, ...]:
    return (f"+container.env.SECONDS_EACH='{seconds}'",)


def _most_at_once(run: Path) -> int:
    """By the members' own clocks, which are one here."""
    times = []
    for folder in run.glob("members/*"):
        begun, done = ((folder / name).read_text() for name in ("begun", "done"))
        times += [(float(begun), 1), (float(done), -1)]
    at_once, most = 0, 0
    for _, change in sorted(times):
        at_once += change
        most = max(most, at_once)
    return most


def _ids(run: Path) -> list[str]:
    rows = [json.loads(line) for line in (run / "submit.jsonl").read_text().splitlines()]
    members = {row["intent"] for row in rows if row.get("kind") == "members"}
    return [row["slurm_id"] for row in rows if "slurm_id" in row and row["intent"] in members]


def test_more_members_than_an_array_takes_are_one_job_under_one_limit(cluster: Cluster, small_arrays: None) -> None:
    run = cluster.launch(
        *COMMAND, "+container.env.SECONDS_EACH='1'", "-m", "launcher.max_parallel=3", "seed=range(0,14)"
    )

    assert len(_ids(run)) == 4
    end = cluster.wait(run)

    assert (end["state"], len(end["members"])) == ("SUCCEEDED", 14)
    assert [len(attempts(run, m)) for m in range(14)] == [1] * 14
    assert 2 <= _most_at_once(run) <= 3
    assert end["result"]["members"] == {"SUCCEEDED": 14}


def test_places_pass_to_the_next_array_before_the_last_member_of_the_one_before_ends(
    cluster: Cluster, small_arrays: None
) -> None:
    """The slow member of the first array stays until all of the second have ended, or two minutes."""
    seen = "$(ls $FAIRLEAD_MEMBER_DIR/../[4-7]/done 2>/dev/null | wc -l)"
    stays = f"for _ in $(seq 120); do [ {seen} = 4 ] && break; sleep 1; done; echo {seen} > $FAIRLEAD_MEMBER_DIR/seen"
    note = NOTE.replace("sleep $SECONDS_EACH", f"[ $FAIRLEAD_MEMBER != 1 ] || {{ {stays}; }}")
    words = ("job=command", f"job.command=[bash,-c,'{note}']", "tracking=none")
    run = cluster.launch(*words, "-m", "launcher.max_parallel=2", "seed=range(0,8)")

    end = cluster.wait(run)

    seen_by_the_slow = (run / "members" / "1" / "seen").read_text().strip()
    assert (end["state"], seen_by_the_slow) == ("SUCCEEDED", "4"), "the second array waited for the first's slow member"
    assert _most_at_once(run) == 2


def test_cancel_and_retry_act_on_all_arrays(cluster: Cluster, small_arrays: None) -> None:
    run = cluster.launch(
        *COMMAND, "+container.env.SECONDS_EACH='60'", "-m", "launcher.max_parallel=2", "seed=range(0,9)"
    )
    until(lambda: len(list(run.glob("members/*/begun"))) == 2)

    cluster.fairlead("cancel", str(run))
    end = cluster.wait(run)
    assert {m["state"] for m in end["members"]} == {"CANCELLED"}
    assert all(cluster.queue(i) == [] for i in _ids(run))

    again = json.loads(cluster.fairlead("retry", str(run), "--member", "7", "--member", "8", "--json").stdout)
    until(lambda: (run / "members" / "8" / "begun").exists() and (run / "members" / "7" / "begun").exists())
    now = cluster.status(run)
    assert again["members"] == [7, 8]
    assert [m["state"] for m in now["members"]] == ["CANCELLED"] * 7 + ["RUNNING"] * 2
    cluster.fairlead("cancel", str(run))


def test_members_with_other_machines_get_arrays_of_their_own(cluster: Cluster) -> None:
    sizes = "machine=cpu-small,cpu-large"
    run = cluster.launch(
        *COMMAND, "+container.env.SECONDS_EACH='0'", "machine.mem_gb=1", "-m", sizes, "machine.nodes=1,2"
    )

    end = cluster.wait(run)

    assert end["state"] == "SUCCEEDED"
    assert len(_ids(run)) == 4
    format_ = ["sacct", "-X", "--noheader", "--parsable2", "--format=NNodes,ReqCPUS", "--jobs", ",".join(_ids(run))]
    seen = subprocess.run(format_, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    assert sorted({row.partition("|")[0] for row in seen}) == ["1", "2"]


def test_short_members_share_allocations_each_with_its_own_log_and_outcome(cluster: Cluster) -> None:
    note = "echo member $FAIRLEAD_MEMBER in $SLURM_JOB_ID; [ $FAIRLEAD_MEMBER != 3 ]"
    words = ("job=command", f"job.command=[bash,-c,'{note}']", "tracking=none")
    run = cluster.launch(*words, "-m", "launcher.members_per_allocation=4", "seed=range(0,10)")

    end = cluster.wait(run)

    logs = [(run / "members" / str(m) / "attempt-0" / "rank-0.log").read_text().split() for m in range(10)]
    assert [int(words[1]) for words in logs] == list(range(10))
    assert len({words[3] for words in logs}) == 3
    assert [m["state"] for m in end["members"]] == ["SUCCEEDED"] * 3 + ["FAILED"] + ["SUCCEEDED"] * 6
    assert end["state"] == "PARTIALLY_SUCCEEDED"


@pytest.mark.timeout(900)
def test_no_member_begins_when_the_time_left_is_too_short_for_it(cluster: Cluster) -> None:
    limits = ("machine.time_limit_min=2", "job.notice_s=20", "launcher.members_per_allocation=4")
    deaf = f"job.command=[bash,-c,\"trap '' TERM; {NOTE}\"]"
    run = cluster.launch(*COMMAND[:1], *COMMAND[2:], deaf, *_each("30"), "-m", *limits, "seed=range(0,4)")

    end = cluster.wait(run, timeout_s=500)

    assert [m["state"] for m in end["members"]] == ["SUCCEEDED"] * 4
    assert [len(attempts(run, m)) for m in range(4)] == [1] * 4, "a member was begun and cut off"
    restarts = [json.loads(p.read_text()).get("slurm_restart_count", "0") for p in run.glob("members/*/*/started.json")]
    assert max(map(int, restarts)) >= 1
