"""The time limit and a preemption on the real cluster, as programs that are not ours meet them: SIGTERM, then as they
leave."""

from __future__ import annotations

import subprocess

import pytest

from tests.cluster.harness import Cluster, attempts, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
LIMIT = ("job=command", "tracking=none", "machine.time_limit_min=2", "job.notice_s=60")
SAVES = """trap 'sleep $(($0 * RANK)); echo saved; exit 75' TERM
[ $FAIRLEAD_ATTEMPT = 0 ] || exit 0
while true; do sleep 1; done"""


def test_command_that_saves_before_the_limit_goes_on_and_one_that_ignores_nothing_ends_in_words(
    cluster: Cluster,
) -> None:
    deaf = cluster.launch(*LIMIT, "job.command=[sleep,'300']")
    saves = cluster.launch(*LIMIT, f'job.command=[bash,-c,"{SAVES}","0"]')
    slowly = cluster.launch(*LIMIT, f'job.command=[bash,-c,"{SAVES}","35"]', "machine.nodes=2")

    states = [cluster.wait(run, timeout_s=400)["state"] for run in (deaf, saves, slowly)]

    assert states == ["FAILED", "SUCCEEDED", "SUCCEEDED"]
    (ended,) = attempts(deaf)
    assert (ended["cause"], ended["message"]) == ("timeout", "did not save before the time limit")
    for run, ranks in ((saves, 1), (slowly, 2)):  # of two the second saves 35 s after the first has left
        first, second = attempts(run)
        assert (first["state"], first["message"]) == ("REQUEUED", "saved before the time limit")
        logs = [(run / "members" / "0" / "attempt-0" / f"rank-{rank}.log").read_text() for rank in range(ranks)]
        assert [text.splitlines().count("saved") for text in logs] == [1] * ranks
        assert second["state"] == "SUCCEEDED"


def test_program_that_dies_of_the_notice_of_a_preemption_comes_back(cluster: Cluster) -> None:
    """Its job still runs then, in its grace time, and Slurm names no reason."""
    deaf = "touch $FAIRLEAD_MEMBER_DIR/begun; [ $FAIRLEAD_ATTEMPT -gt 0 ] || exec sleep 300"
    run = cluster.launch("job=command", "tracking=none", "machine.nodes=2", f"job.command=[sh,-c,'{deaf}']")
    until(lambda: (run / "members/0/begun").exists())

    urgent = ["sbatch", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    subprocess.run(urgent, check=True, timeout=30, capture_output=True)

    assert cluster.wait(run)["state"] == "SUCCEEDED"
    first, second = attempts(run)
    assert (first["state"], first["cause"], first["exit_code"]) == ("REQUEUED", "preempted", 143)
    assert second["state"] == "SUCCEEDED"
