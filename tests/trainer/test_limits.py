"""What a notice leaves a run, by what its supervisor wrote."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from trainer.checkpoints import limits


@pytest.mark.parametrize(
    ("ends_in_s", "early_s", "number", "grace_s"),
    [
        (90, 60, signal.SIGUSR2, 90),
        (50, 60, signal.SIGUSR2, 50),
        (45, 60, signal.SIGUSR2, 50),
        (600, 60, signal.SIGUSR2, 50),
        (90, 0, signal.SIGUSR2, 50),
        (90, 60, signal.SIGTERM, 10),
        (None, 60, signal.SIGUSR2, 50),
    ],
    ids=["Slurm was early", "in time", "late", "somebody's own", "never early", "preempted", "no limit"],
)
def test_grace_is_longer_where_slurm_told_of_the_time_limit_early(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends_in_s: float | None,
    early_s: float,
    number: int,
    grace_s: float,
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1e9)
    ends_at = None if ends_in_s is None else 1e9 + ends_in_s
    said = {"ends_at": ends_at, "notice_s": {"SIGUSR2": 50, "SIGTERM": 10}, "early_s": early_s}
    (tmp_path / "limits.json").write_text(json.dumps(said))

    assert limits.read(tmp_path).grace_s(number) == grace_s
