"""What Slurm's commands say, read as they say it in versions 22.05 to 24.11."""

from __future__ import annotations

import os
import pwd
from typing import Any

import pytest

from launchers.errors import CommandError
from launchers.queue import scheduler

S = scheduler.SEPARATOR


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("3", [3]),
        ("0-3", [0, 1, 2, 3]),
        ("0-7:2", [0, 2, 4, 6]),
        ("1,4-6%2", [1, 4, 5, 6]),
        ("[0-3]", [0, 1, 2, 3]),
        ("[0-3%1]", [0, 1, 2, 3]),
        ("[5,7]", [5, 7]),
        ("N/A", []),
        ("", []),
    ],
)
def test_indices_of_slurms_notation_are_elements(text: str, indices: list[int]) -> None:
    assert list(scheduler.indices_of(text)) == indices


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("1-00:00:00", 1440), ("00:05:00", 5), ("2-01:30:00", 2970), ("UNLIMITED", None), ("INFINITE", None), ("", None)],
)
def test_minutes_of_slurms_notation(text: str, minutes: int | None) -> None:
    assert scheduler.minutes_of(text) == minutes


def test_queue_lines_are_jobs(fakes: Any) -> None:
    rows = [
        ("7", "0-1%2", "d-1", "PENDING", "Resources"),
        ("7", "2", "d-1", "RUNNING", "None"),
        ("8", "N/A", "e", "PENDING", "(x)"),
    ]
    fakes.put("squeue", "\n".join(f"print({S.join(row)!r})" for row in rows))

    found = scheduler.queue(["d-1", "e"])

    assert [(j.job, j.indices, j.name, j.state, j.reason) for j in found] == [
        ("7", (0, 1), "d-1", "PENDING", "Resources"),
        ("7", (2,), "d-1", "RUNNING", "None"),
        ("8", (), "e", "PENDING", "(x)"),
    ]


def test_queue_many_names_is_one_call(fakes: Any) -> None:
    fakes.put("squeue", "pass")

    scheduler.queue(["a", "b", "c"])

    (call,) = fakes.calls("squeue")
    assert call["argv"][call["argv"].index("--name") + 1] == "a,b,c"


def test_queue_asks_for_this_user_whoever_the_environment_names(fakes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `su` the environment may name somebody else; a job not found is a job queued twice."""
    fakes.put("squeue", "pass")
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")

    scheduler.queue(["a"])

    words = fakes.calls("squeue")[0]["argv"]
    asked = words[words.index("--user") + 1] if "--user" in words else "--me" if "--me" in words else ""
    assert asked in ("--me", str(os.getuid()), pwd.getpwuid(os.getuid()).pw_name)


def test_queue_is_asked_for_whole_lists_of_array_elements(fakes: Any) -> None:
    """squeue cuts them after 64 characters, unless SLURM_BITSTR_LEN says otherwise (manual page of squeue)."""
    elements = ",".join(str(i) for i in range(0, 400, 2))
    fakes.put(
        "squeue",
        f"text = {elements!r}\nsize = int(os.environ.get('SLURM_BITSTR_LEN', 64))\n"
        f"text = text if size == 0 or len(text) < size else text[:size - 4].rpartition(',')[0] + ',...'\n"
        f"print('7', text, 'd-1', 'PENDING', 'x', sep={S!r})",
    )

    (job,) = scheduler.queue(["d-1"])

    assert job.indices == tuple(range(0, 400, 2))


def test_queue_other_lines_are_passed_over(fakes: Any) -> None:
    fakes.put("squeue", f"print('warning: something'); print('7', 'N/A', 'd', 'RUNNING', 'None', sep={S!r})")

    assert [j.job for j in scheduler.queue(["d"])] == ["7"]


def test_queue_of_an_enclosing_job_is_not_inherited(fakes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    fakes.put("squeue", "pass")

    scheduler.queue(["d"])

    assert "SLURM_JOB_ID" not in fakes.calls("squeue")[0]["env"]


@pytest.mark.parametrize("body", ["sys.exit(1)", "sys.exit('Unable to contact')", "import time; time.sleep(9)"])
def test_queue_without_an_answer_is_an_error(fakes: Any, body: str) -> None:
    fakes.put("squeue", body)

    with pytest.raises(CommandError, match="squeue"):
        scheduler.queue(["d"], timeout_s=0.5)


def test_queue_without_squeue_names_it(fakes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.alone(monkeypatch)

    with pytest.raises(CommandError, match="squeue was not found"):
        scheduler.queue(["d"])


def test_accounted_lines_are_states(fakes: Any) -> None:
    lines = [f"7_0{S}d-1{S}COMPLETED", f"7_[1-3%2]{S}d-1{S}CANCELLED by 0", f"8{S}d-1{S}", "", "garbage"]
    fakes.put("sacct", "\n".join(f"print({line!r})" for line in lines))

    assert scheduler.accounted(["d-1"], "2026-01-01T00:00:00") == [
        ("7_0", "d-1", "COMPLETED"),
        ("7_[1-3%2]", "d-1", "CANCELLED"),
    ]


def test_default_partition_is_the_one_with_a_star(fakes: Any) -> None:
    fakes.put("sinfo", "print('short\\nbatch*\\nurgent')")

    assert scheduler.default_partition() == "batch"


def test_default_partition_there_may_be_none(fakes: Any) -> None:
    fakes.put("sinfo", "print('short')")

    assert scheduler.default_partition() is None


def test_partition_words_are_settings(fakes: Any) -> None:
    fakes.put("scontrol", "print('PartitionName=batch MaxTime=1-00:00:00 State=UP TRES=cpu=4,mem=8G')")

    assert scheduler.partition("batch") == {
        "PartitionName": "batch",
        "MaxTime": "1-00:00:00",
        "State": "UP",
        "TRES": "cpu=4,mem=8G",
    }


def test_settings_lines_are_a_mapping(fakes: Any) -> None:
    fakes.put("scontrol", "print('Configuration data as of x\\nMaxArraySize            = 1001\\nAuthInfo = a=b\\n')")

    said = scheduler.settings()

    assert (said["MaxArraySize"], said["AuthInfo"]) == ("1001", "a=b")
