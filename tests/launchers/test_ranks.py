"""Ranks as processes: signals to whole groups, and the last lines of any log."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launchers.host import ranks
from launchers.host.ranks import Processes, tail
from launchers.run_folder.record import Attempt
from launchers.step import Step
from tests.cluster.harness import until
from tests.plans import pool_plan

Begin = Callable[..., Processes]


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """`begin(code, 2)`: two ranks of a line of Python."""

    def run(code: str, count: int) -> Processes:
        step = Step(argv=(sys.executable, "-ISc", code), env={}, program=(), scratch=None, rank_script="")
        return Processes(step, Attempt(tmp_path), os.environ, pool_plan((), ranks_per_node=count))

    return run


def test_processes_all_good_is_zero(begin: Begin) -> None:
    assert begin("pass", 3).wait() == 0


def test_processes_one_bad_ends_the_others(begin: Begin) -> None:
    begun = time.monotonic()
    running = begin("import os, sys, time\nif os.environ['RANK'] == '2': sys.exit(4)\ntime.sleep(600)", 3)

    assert running.wait() == 4

    assert (running.first_rank, time.monotonic() - begun < 90) == (2, True)


def test_processes_one_that_was_killed_is_why_the_others_left(begin: Begin) -> None:
    code = "import os, time; time.sleep(0.3); os.kill(os.getpid(), 9) if os.environ['RANK'] == '1' else os._exit(1)"
    running = begin(code, 3)
    until(lambda: all(rank.poll() is not None for rank in running._ranks), pause_s=0.02)

    assert (running.wait(), running.first_rank) == (-signal.SIGKILL, 1)


def test_processes_all_leaving_alike_is_their_status(begin: Begin) -> None:
    running = begin("import sys, time; time.sleep(0.2); sys.exit(75)", 2)

    assert running.wait() == 75


def test_processes_told_when_gone_is_no_error(begin: Begin) -> None:
    running = begin("pass", 2)
    running.wait()

    running.tell(signal.SIGTERM)


def test_processes_that_do_not_listen_are_killed(begin: Begin, tmp_path: Path) -> None:
    running = begin("import signal, time; signal.signal(15, signal.SIG_IGN); print('x', flush=True); time.sleep(60)", 2)
    while not all(tail(tmp_path / f"rank-{r}.log") for r in (0, 1)):
        time.sleep(0.02)
    running.tell(signal.SIGTERM)

    running.kill()

    assert running.wait() == -signal.SIGKILL


def test_processes_killed_when_gone_is_no_error(begin: Begin) -> None:
    running = begin("pass", 2)
    running.wait()

    running.kill()


def test_processes_signal_reaches_the_whole_group(begin: Begin, tmp_path: Path) -> None:
    """The rank itself ignores it here; its child hears it all the same, and so the rank goes on."""
    code = (
        "import signal, subprocess as s, sys; signal.signal(15, lambda *_: None); p = s.Popen(['sleep', '60']); "
        "print('ready', flush=True); sys.exit(-p.wait())"
    )
    running = begin(code, 1)
    while not tail(tmp_path / "rank-0.log"):
        time.sleep(0.02)

    running.tell(signal.SIGTERM)

    assert running.wait() == signal.SIGTERM


def test_processes_that_ignore_the_end_are_killed(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ranks, "KILL_AFTER_S", 0.2)
    running = begin("import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)", 2)
    while not all(tail(tmp_path / f"rank-{r}.log") for r in (0, 1)):
        time.sleep(0.02)

    running.tell(signal.SIGTERM)

    assert running.wait() == -signal.SIGKILL


def test_processes_notice_does_not_start_the_clock(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """USR2 says «save»; only TERM says «go»."""
    monkeypatch.setattr(ranks, "KILL_AFTER_S", 0.0)
    running = begin("import signal, time; signal.signal(12, signal.SIG_IGN); print(1, flush=True); time.sleep(0.8)", 1)
    while not tail(tmp_path / "rank-0.log"):
        time.sleep(0.02)

    running.tell(signal.SIGUSR2)

    assert running.wait() == 0


def test_processes_second_word_does_not_start_the_clock_anew(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ranks, "KILL_AFTER_S", 20)
    running = begin("import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)", 1)
    while not tail(tmp_path / "rank-0.log"):
        time.sleep(0.02)
    running.tell(signal.SIGTERM)
    assert running._told is not None
    running._told -= 19.5
    begun = time.monotonic()

    running.tell(signal.SIGTERM)
    assert running.wait() == -signal.SIGKILL

    assert time.monotonic() - begun < 15


def test_tail_no_file_is_no_line(tmp_path: Path) -> None:
    assert tail(tmp_path / "x") == []


@pytest.mark.parametrize(
    ("data", "lines"),
    [(b"", []), (b"a\nb\n", ["a", "b"]), (b"a\nb", ["a", "b"]), (b"\xff\n", ["\ufffd"]), (b"a\n" * 99, ["a"] * 20)],
)
def test_tail_any_bytes_are_lines(tmp_path: Path, data: bytes, lines: list[str]) -> None:
    (tmp_path / "x").write_bytes(data)

    assert tail(tmp_path / "x") == lines


def test_tail_progress_bar_without_line_breaks_is_cut(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\r".join(b"%d%%" % i for i in range(100_000)))

    assert len(tail(tmp_path / "x")) <= 20


def test_tail_huge_log_is_read_from_its_end(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as f:
        f.truncate(2_000_000_000)
        f.seek(0, os.SEEK_END)
        f.write(b"\nlast\n")
    costs = []

    for _ in range(5):
        begun = time.thread_time()
        assert tail(tmp_path / "x", 1) == ["last"]
        costs.append(time.thread_time() - begun)

    assert min(costs) < 0.1, "to read all of it takes a second"
