"""How much time an attempt has, as Slurm says it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from launchers.errors import CommandError
from launchers.host import limits
from launchers.run_folder.record import Run
from tests.plans import plan_of_run, pool_plan

PARTITION = """PartitionName=batch
   AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL
   AllocNodes=ALL Default=YES QoS=N/A
   DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=%s Hidden=NO
"""
CONFIG = """Configuration data as of 2026-11-21T06:43:22
KillOnBadExit           = 0
KillWait                = 30 sec
LaunchParameters        = (null)
PreemptType             = %s
"""
ACCOUNTING = ("sacctmgr", "--noheader", "--parsable2", "show", "qos", "where", "name=low", "format=GraceTime")
Told = Callable[..., float | None]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Told:
    """What the ranks of a job are told of SIGTERM, by what Slurm says; None is no answer."""

    def ask(grace: str | None, kind: str | None, qos: str | None = None, name: str | None = "low") -> float | None:
        said = {
            ("scontrol", "show", "partition", "batch"): grace and PARTITION % grace,
            ("scontrol", "show", "config"): kind and CONFIG % kind,
            ACCOUNTING: qos,
        }

        def answer(argv: list[str], timeout_s: float) -> str:
            if (text := said[tuple(argv)]) is None:
                raise CommandError(argv, f"did not answer within {timeout_s:g} s", "", "")
            return text

        monkeypatch.setattr(limits, "output_of", answer)
        monkeypatch.setattr("launchers.host.element.seconds_left", lambda: math.inf)
        monkeypatch.setenv("SLURM_JOB_QOS", name) if name else monkeypatch.delenv("SLURM_JOB_QOS", raising=False)
        plan = plan_of_run(Run(tmp_path), pool_plan(("true",)), launcher="slurm")
        found: dict[str, float] = limits.on_slurm(plan, "batch")["notice_s"]
        return found.get("SIGTERM")

    return ask


@pytest.mark.parametrize(("grace", "seconds"), [("10", 10.0), ("0", 30.0), ("600", 600.0), (None, 30.0)])
def test_grace_time_is_the_partitions_or_what_every_process_gets(told: Told, grace: str | None, seconds: float) -> None:
    for kind in ("preempt/partition_prio", "preempt/none"):
        assert told(grace, kind, qos="00:05:00\n") == seconds


@pytest.mark.parametrize(
    ("qos", "seconds"),
    [
        ("00:05:00\n", 300.0),
        ("1-01:00:30\n", 90030.0),
        ("45\n", 45.0),
        ("00:00:00\n", 30.0),  # this quality of service has none: the partition's is not for it
        ("UNLIMITED\n", 30.0),
        ("", 10.0),  # no such quality of service, or an accounting that does not answer: as far as is known
        ("00:05:00\n00:01:00\n", 10.0),
        (None, 10.0),
    ],
)
def test_grace_time_is_the_quality_of_services_where_that_is_preempted(
    told: Told, qos: str | None, seconds: float
) -> None:
    assert told("10", "preempt/qos", qos) == seconds


def test_grace_time_of_a_job_that_names_no_quality_of_service_is_the_partitions(told: Told) -> None:
    assert told("10", "preempt/qos", "00:05:00\n", name=None) == 10.0


def test_grace_time_is_not_known_where_slurm_does_not_answer(told: Told) -> None:
    assert told(None, None) is None
    assert told("10", None, "00:05:00\n") == 10.0


@pytest.mark.parametrize(("notice_s", "cut_s"), [(60, 10.0), (20, 5.0)])
def test_ranks_are_ended_a_little_before_the_time_limit(notice_s: int, cut_s: float) -> None:
    assert limits.cut_s(notice_s) == cut_s
