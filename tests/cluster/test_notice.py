"""The time limit on the real cluster, as programs that are not ours meet it: SIGTERM, then as they leave."""

from __future__ import annotations

import pytest

from tests.cluster.harness import Cluster, attempts

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
LIMIT = ("job=command", "tracking=none", "machine.time_limit_min=2", "job.notice_s=60")
SAVES = """trap 'echo saved; exit 75' TERM; [ $FAIRLEAD_ATTEMPT = 0 ] || exit 0; while true; do sleep 1; done"""


def test_command_that_saves_before_the_limit_goes_on_and_one_that_ignores_nothing_ends_in_words(
    cluster: Cluster,
) -> None:
    deaf = cluster.launch(*LIMIT, "job.command=[sleep,'300']")
    saves = cluster.launch(*LIMIT, f'job.command=[bash,-c,"{SAVES}"]')

    states = [cluster.wait(run, timeout_s=400)["state"] for run in (deaf, saves)]

    assert states == ["FAILED", "SUCCEEDED"]
    (ended,) = attempts(deaf)
    assert (ended["cause"], ended["message"]) == ("timeout", "did not save before the time limit")
    first, second = attempts(saves)
    assert (first["state"], first["message"]) == ("REQUEUED", "saved before the time limit")
    said = (saves / "members" / "0" / "attempt-0" / "rank-0.log").read_text()
    assert said.splitlines().count("saved") == 1
    assert second["state"] == "SUCCEEDED"
