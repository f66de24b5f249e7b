"""Which earlier attempts were cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer.checkpoints.history import History, history

SAVED = [("process_start", 0), ("first_step", 5), ("exit", 100, 75)]


def write(member: Path, number: int, events: list[Any], torn: str = "") -> Path:
    folder = member / f"attempt-{number}"
    folder.mkdir(parents=True)
    lines = [{"event": e[0], "t": e[1], **({"code": e[2]} if len(e) > 2 else {})} for e in events]
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    return folder


def test_history_counts_those_that_were_killed_or_lost_a_peer(tmp_path: Path) -> None:
    write(tmp_path, 0, SAVED)
    write(tmp_path, 1, [("process_start", 0), ("first_step", 5), ("checkpoint_durable", 50)], torn='{"event": "che')
    write(tmp_path, 2, [("process_start", 0), ("first_step", 5), ("exit", 30, 1)])
    write(tmp_path, 3, [("process_start", 0), ("imports_done", 5), ("exit", 6, 1)])  # never trained
    (tmp_path / "attempt-4").mkdir()  # wrote nothing
    write(tmp_path, 6, [("process_start", 0), ("first_step", 5), ("leaving", 20)])  # a peer's end took the last line
    now = write(tmp_path, 5, [("process_start", 0), ("first_step", 5)])

    assert history(tmp_path, now) == History(failures=2, seen_s=200.0)
