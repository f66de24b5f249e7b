"""Reports of an attempt, of lines that are there or of a program that writes them, and what is understood of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from conf.job_schema import Metrics
from launchers.host.reports import Reports
from launchers.run_folder.record import Attempt, read_lines

HYPERTUNE = Metrics(kind="hypertune")
JSONL = Metrics(kind="jsonl")


def pattern(text: str, **more: Any) -> Metrics:
    return Metrics(kind="pattern", pattern=text, **more)


def empty_attempt(tmp_path: Path) -> Attempt:
    path = tmp_path / "members" / "3" / "attempt-0"
    path.mkdir(parents=True)
    return Attempt(path)


def stored(attempt: Attempt) -> list[tuple[int, dict[str, Any]]]:
    return [(row["step"], row["metrics"]) for row in read_lines(attempt.path / "reports.jsonl")]


def said(metrics: Metrics, attempt: Attempt, *lines: str | bytes) -> list[tuple[int, dict[str, Any]]]:
    """What is understood of these lines."""
    source = Reports(metrics, attempt)
    files = {"hypertune": "hypertune.metrics", "jsonl": "program.jsonl", "pattern": "rank-0.log"}
    data = b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines)
    (attempt.path / files[metrics.kind]).write_bytes(data)
    source.collect(last=True)
    return stored(attempt)


REAL = """
import os, pathlib, sys, time
import hypertune
one, seen = hypertune.HyperTune(), pathlib.Path(os.environ["CLOUD_ML_HP_METRIC_FILE"]).with_name("seen")
begun = time.monotonic()
for i in range(1, int(sys.argv[1]) + 1):
    tool = one if sys.argv[2] == "one" else hypertune.HyperTune()
    tool.report_hyperparameter_tuning_metric("val/loss", 1 / i, i)
    time.sleep(float(sys.argv[3]))
    while i - int(seen.read_text() or 0) > int(sys.argv[4]):
        time.sleep(0.001)
        assert time.monotonic() < begun + 200, "nobody collects"
"""
"""Waits where it is too far ahead of its collector, which on a busy machine may not have its turn for a second."""


def program(attempt: Attempt, code: str, *words: str) -> subprocess.Popen[bytes]:
    (attempt.path / "seen").write_text("0")
    names = {
        "CLOUD_ML_HP_METRIC_FILE": str(attempt.path / "hypertune.metrics"),
        "CLOUD_ML_TRIAL_ID": "3",
        "FAIRLEAD_REPORTS": str(attempt.path / "program.jsonl"),
    }
    return subprocess.Popen([sys.executable, "-c", code, *words], env={**os.environ, **names})


def watch(source: Reports, running: subprocess.Popen[bytes]) -> None:
    """As the judge does; and tells the program how many reports are known."""
    count = 0
    while running.poll() is None:
        count += len(source.collect())
        source.path.with_name("seen").write_text(str(count + len(source._waiting)))
        time.sleep(source.pause_s)
    assert running.returncode == 0
    source.collect(last=True)


def lines_of(count: int, begin: int = 0) -> list[str]:
    row = {"checkpoint_path": "", "trial": "3"}
    return [
        json.dumps({**row, "global_step": str(i), "timestamp": 1.79e9 + i, "m": str(i)}, sort_keys=True)
        for i in range(begin, begin + count)
    ]
