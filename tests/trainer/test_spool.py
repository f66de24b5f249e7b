"""The lines that others read: their form, and what is on disk when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.trainer.ranks import ROOT
from trainer.insight.heartbeat import Beat
from trainer.insight.spool import Ledger, Spool
from trainer.sources import Card


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_spool_metrics_line_has_the_agreed_form(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "metrics.jsonl", total_steps=230)

    spool.metrics(20, {"train/loss": 0.5}, epoch=1)
    spool.close()

    (line,) = lines(tmp_path / "metrics.jsonl")
    assert isinstance(line.pop("t"), int)
    assert line == {"step": 20, "total_steps": 230, "epoch": 1, "metrics": {"train/loss": 0.5}}


def test_spool_numbers_that_json_lacks_are_words(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "metrics.jsonl", total_steps=1)

    spool.metrics(1, {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 1.0})
    spool.close()

    assert lines(tmp_path / "metrics.jsonl")[0]["metrics"] == {"a": "nan", "b": "inf", "c": "-inf", "d": 1.0}


def test_spool_dataset_line_has_the_agreed_form(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "metrics.jsonl", total_steps=1)

    spool.dataset(Card("digits", "0" * 32, 1437, "8x8 float32", "sklearn.datasets.load_digits"), "train")
    spool.close()

    (line,) = lines(tmp_path / "metrics.jsonl")
    assert line["dataset"] == {
        "name": "digits",
        "digest": "0" * 32,
        "rows": 1437,
        "features": "8x8 float32",
        "source": "sklearn.datasets.load_digits",
        "classes": [],
        "columns": [],
        "fill": [],
        "offset": [],
        "scale": [],
        "context": "train",
    }


def test_spool_lines_outlive_a_killed_process(tmp_path: Path) -> None:
    script = """
import os, signal
from pathlib import Path
from trainer.insight.spool import Spool
spool = Spool(Path("metrics.jsonl"), 9)
for step in range(100):
    spool.metrics(step, {"a": 1.0})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )

    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == list(range(100))


def test_spool_of_other_ranks_writes_nothing(tmp_path: Path) -> None:
    spool, ledger = Spool(None, 1), Ledger(None, Beat(None))

    spool.metrics(1, {"a": 1.0})
    ledger.mark("exit")

    assert not list(tmp_path.iterdir())


def test_ledger_line_has_both_clocks_and_what_stands_beside(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", Beat(None))

    ledger.mark("first_step", step=1)
    ledger.mark("exit", code=0)
    ledger.close()

    first, last = lines(tmp_path / "ledger.jsonl")
    assert set(first) == {"t", "mono", "event", "step"}
    assert last["code"] == 0
    assert last["mono"] >= first["mono"]
