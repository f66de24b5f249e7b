"""How much time an attempt has, as Slurm says it."""

from __future__ import annotations

import pytest

from launchers.errors import CommandError
from launchers.host import limits

PARTITION = """PartitionName=batch
   AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL
   AllocNodes=ALL Default=YES QoS=N/A
   DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=%s Hidden=NO
"""
CONFIG = """Configuration data as of 2026-11-21T06:43:22
KillOnBadExit           = 0
KillWait                = 30 sec
LaunchParameters        = (null)
"""


@pytest.mark.parametrize(("grace", "seconds"), [("10", 10.0), ("0", 30.0), ("600", 600.0)])
def test_grace_time_is_the_partitions_or_what_every_process_gets(
    monkeypatch: pytest.MonkeyPatch, grace: str, seconds: float
) -> None:
    said = {("show", "partition", "batch"): PARTITION % grace, ("show", "config"): CONFIG}
    monkeypatch.setattr(limits, "output_of", lambda argv, **_: said[tuple(argv[1:])])

    assert limits.grace_s_of(limits._said("partition", "batch"), limits._said("config")) == seconds


def test_grace_time_is_not_known_where_slurm_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(argv: list[str], **_: object) -> str:
        raise CommandError(argv, "did not answer within 10 s", "", "")

    monkeypatch.setattr(limits, "output_of", away)

    assert limits.grace_s_of(limits._said("partition", "batch"), limits._said("config")) is None


@pytest.mark.parametrize(("notice_s", "cut_s"), [(60, 10.0), (20, 5.0)])
def test_ranks_are_ended_a_little_before_the_time_limit(notice_s: int, cut_s: float) -> None:
    assert limits.cut_s(notice_s) == cut_s
