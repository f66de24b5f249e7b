"""Each rank's own time is read from what the trainer reported, and shown slowest first."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from launchers.jobs.ranks import SHOWN_MEMBERS, SHOWN_RANKS, RankTime, rank_times, ranks_of, ranks_text
from launchers.run_folder.record import Attempt, Run, make_private
from tests.launchers.tracked import make_run

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def reports(run: Run, *own_s: Sequence[float], member: int = 0, attempt: int = 0, hosts: int = 2) -> Attempt:
    """An attempt that reported every ten steps, with a twentieth of each time for data; ranks on as many hosts, and of
    the last nobody knows where it ran."""
    folder = make_private(run.member(member).path / f"attempt-{attempt}")
    rows = [{"step": 10 * n, "metrics": {}, "ranks": each(times)} for n, times in enumerate(own_s, 1)]
    lines = [{"dataset": {}}, *rows, {"step": 10, "metrics": {"val/loss": 1.0}}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for rank in range(len(own_s[0]) - 1 if own_s else 0):
        beat = {"section": "train", "step": 10, "t": 1.0, "pace_s": 0.1, "host": f"n{rank % hosts}"}
        (folder / f"beat-{rank}").write_text(json.dumps(beat).ljust(256) + "Thread 0x1")
    return Attempt(folder)


def each(own_s: Sequence[float]) -> dict[str, list[float]]:
    return {"own_s": list(own_s), "waited_s": [s / 20 for s in own_s]}


def test_times_are_means_over_the_steps_after_the_first_report(tmp_path: Path) -> None:
    attempt = reports(make_run(tmp_path), [9.0, 1.0, 1.0], [0.2, 0.4, 0.2], [0.2, 0.8, 0.3])

    assert rank_times(attempt) == [
        RankTime(0, "n0", 0.2, 0.01, 0.8),
        RankTime(1, "n1", 0.6, 0.03, 2.4),
        RankTime(2, "an unknown host", 0.25, 0.0125, 1.0),
    ]


def test_a_longer_window_weighs_more_and_the_only_one_counts(tmp_path: Path) -> None:
    attempt = reports(make_run(tmp_path), [9.0, 9.0], [0.1, 0.1], [0.4, 0.4])
    text = attempt.metrics.read_text()
    attempt.metrics.write_text(text.replace('"step": 30', '"step": 25'))

    assert [time.own_s for time in rank_times(attempt)] == [0.2, 0.2]
    assert [time.own_s for time in rank_times(reports(make_run(tmp_path / "b"), [0.3, 0.3]))] == [0.3, 0.3]


def test_newest_attempt_that_reported_of_several_ranks_speaks_for_a_member(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert ranks_of(run) == {}
    reports(run, [0.1, 0.1])
    reports(run, [0.2, 0.2], attempt=1)
    reports(run, attempt=2)

    assert (ranks_of(run)[0].attempt, ranks_of(run)[0].times[0].own_s) == (1, 0.2)


def test_table_shows_the_slowest_first(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    reports(run, [0.1, 0.25, 0.1])

    assert list(ranks_text(ranks_of(run))) == [
        "ranks of member 0, attempt 0: seconds per step, without waits for other ranks",
        "rank  host                  own  of it data  times the median",
        "   1  n1                   0.25      0.0125              2.50",
        "   0  n0                    0.1       0.005              1.00",
        "   2  an unknown host       0.1       0.005              1.00",
    ]


def test_table_of_hundreds_of_ranks_and_members_is_cut(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for member in range(SHOWN_MEMBERS + 2):
        reports(run, [0.1 + rank for rank in range(300)], member=member)

    lines = list(ranks_text(ranks_of(run)))

    assert len(lines) == SHOWN_MEMBERS * (SHOWN_RANKS + 3) + 1
    assert lines[2].startswith(" 299  ")
    assert lines[SHOWN_RANKS + 2] == "and 284 ranks that take less (--json shows all)"
    assert lines[-1] == "and the ranks of 2 more members (--json shows all)"


def test_report_shows_each_rank(workdir: Path, fairlead: Command) -> None:
    run = make_run(workdir / "runs")
    reports(run, [0.1, 0.2], hosts=1)
    (run.member(0).path / "attempt-0" / "started.json").write_text('{"started": 1.0}')

    done, as_json = fairlead("report", run.id), fairlead("report", run.id, "--json")

    assert "   1  an unknown host       0.2        0.01              2.00" in done.stdout.splitlines()
    (slowest,) = [time for time in json.loads(as_json.stdout)["ranks"]["0"]["ranks"] if time["times"] > 1]
    assert slowest == {"rank": 1, "host": "an unknown host", "own_s": 0.2, "waited_s": 0.01, "times": 2.0}
