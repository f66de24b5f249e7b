"""Time becomes rank-seconds, GPU-hours and money by what a member holds; waiting in the queue costs nothing."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from conf import schema
from conf.document import to_document
from launchers.jobs.spending import spending, spending_line, spending_text
from launchers.run_folder.record import Run, append_lines, make_private, write_json
from tests.launchers.tracked import make_run, spec_of

NBSP = "\N{NO-BREAK SPACE}"


def held(nodes: int, ranks: int, cards: int, cost: float | None) -> schema.Pool:
    pool = spec_of(kind="none").pools[0]
    machine = dataclasses.replace(pool.machine, nodes=nodes, ranks_per_node=ranks, hourly_cost=cost)
    return dataclasses.replace(pool, machine=machine, accelerator=dataclasses.replace(pool.accelerator, count=cards))


def grid(folder: Path, *pools: schema.Pool) -> Run:
    """A job with a member for each pool, none of which has begun."""
    run = make_run(folder, kind="none")
    base = dataclasses.replace(spec_of(kind="none"), pools=(pools[0],))
    base = dataclasses.replace(base, site=dataclasses.replace(base.site, currency="CHF"))
    write_json(run.spec, to_document(base))
    run.members_file.unlink()
    rows = [{"index": i, "point": {}, "sections": {"pools": [to_document(pool)]}} for i, pool in enumerate(pools)]
    append_lines(run.members_file, rows)
    return run


def tried(run: Run, member: int, number: int, began: float, ended: float, *events: tuple[str, float, int]) -> None:
    folder = make_private(run.member(member).path / f"attempt-{number}")
    write_json(folder / "started.json", {"started": began})
    write_json(folder / "outcome.json", {"ended": ended, "state": "SUCCEEDED"})
    lines = [{"event": event, "t": t, "step": step} for event, t, step in events]
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def plain(lines: Any) -> list[str]:
    return [line.replace(NBSP, " ") for line in lines]


def test_members_weigh_what_they_hold_over_all_attempts(tmp_path: Path) -> None:
    run = grid(tmp_path, held(2, 4, 4, 10.0), held(1, 1, 0, 2.0))
    started = (("container_begin", 102.0, 0), ("process_start", 105.0, 0), ("restore_done", 110.0, 0))
    started = (*started, ("first_step", 110.0, 1))
    tried(run, 0, 0, 100.0, 150.0, *started, ("checkpoint_begin", 130.0, 7), ("checkpoint_end", 130.0, 7))
    tried(run, 0, 1, 170.0, 200.0, ("restore_done", 180.0, 7), ("first_step", 180.0, 8))
    tried(run, 1, 0, 100.0, 460.0, ("program_begin", 100.0, 0))

    used = spending(run, [])

    assert used.time.seconds == {
        "queue": 20.0,
        "start": 12.0,
        "container": 3.0,
        "imports": 5.0,
        "steps": 20.0 + 20.0 + 360.0,
        "recomputed": 20.0,
    }
    assert used.rank_s == {
        "start": 96.0,
        "container": 24.0,
        "imports": 40.0,
        "steps": 8 * 40.0 + 360.0,
        "recomputed": 160.0,
    }
    assert sum(used.gpu_h.values()) == pytest.approx(8 * 80 / 3600, abs=1e-4)
    assert sum(used.money.values()) == pytest.approx((20.0 * 80 + 2.0 * 360) / 3600, abs=1e-4)
    assert used.share == pytest.approx(680 / 1000)


def test_neither_cards_nor_prices_nor_attempts_are_made_up(tmp_path: Path) -> None:
    run = grid(tmp_path, held(1, 2, 0, None))
    assert spending(run, []).share is None and not list(spending_text(spending(run, [])))

    tried(run, 0, 0, 10.0, 20.0, ("program_begin", 10.0, 0))
    used = spending(run, [])

    assert (used.rank_s, used.gpu_h, used.money) == ({"steps": 20.0}, {}, {})
    assert spending_line(used) == "20 rank-seconds"


def test_members_that_run_last_until_now(tmp_path: Path) -> None:
    run = grid(tmp_path, held(1, 1, 0, None))
    folder = make_private(run.member(0).path / "attempt-0")
    write_json(folder / "started.json", {"started": 10.0})
    os.utime(folder / "started.json", (12.0, 12.0))

    assert spending(run, []).rank_s == {"start": 2.0}
    assert spending(run, [0]).rank_s["start"] > 1e9


def test_table_has_a_line_for_each_phase_and_adds_up(tmp_path: Path) -> None:
    run = grid(tmp_path, held(1, 2, 2, 9.0))
    tried(run, 0, 0, 1000.0, 2800.0, ("program_begin", 1180.0, 0))

    assert plain(spending_text(spending(run, []))) == [
        "where the time went   share  rank-seconds     GPU-hours           CHF",
        "start                 10.0%           360           0.1          0.45",
        "steps                 90.0%         3,240           0.9          4.05",
        "all                  100.0%         3,600             1           4.5",
    ]
    assert spending(run, []).document()["totals"] == {"rank_seconds": 3600.0, "gpu_hours": 1.0, "money": 4.5}
