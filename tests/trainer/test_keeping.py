"""When a run saves, what a save that fails does to it, and what it leaves with: real ranks, and a clock of ours."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.ranks import Member, own
from trainer.checkpoints import keeping
from trainer.checkpoints.checkpoint import Checkpoints, committed, step_of
from trainer.checkpoints.costs import Costs
from trainer.checkpoints.history import History
from trainer.checkpoints.keeping import Keeper
from trainer.checkpoints.saving import Saver
from trainer.parallel.group import Group

Make = Callable[..., Member]
STOPPED = 75
PATCHED = "{}\nimport runpy\nrunpy.run_module('trainer', run_name='__main__')"
SLOW_DISK = """
import time
from trainer.checkpoints import checkpoint
fast = checkpoint.sync
checkpoint.sync = lambda path: (time.sleep(0.4), fast(path))
"""
STUCK_DISK = """
import time
from trainer.checkpoints import checkpoint
fast = checkpoint.sync
checkpoint.sync = lambda path: time.sleep(600) if "step-10.tmp" in str(path) else fast(path)
"""
MEASURED = """
from trainer.checkpoints.costs import Costs
from trainer.checkpoints.saving import Saver
Costs.durable_s = property(lambda self: 20.0)
Saver.expected_s = lambda self: 5.0 if self._under_way else None
"""
"""A save takes 20 s and the one under way 5 s more, however busy the machine is: with the margin both need 31.25 s."""
LATE = """
import threading, time
from trainer.checkpoints import limits
read = limits.read
def late(attempt):
    if threading.current_thread().name == "deadline":
        time.sleep(0.3)
    return read(attempt)
limits.read = late
"""
"""What a signal leaves is read only when the step has long ended."""


def patched(code: str) -> tuple[str, str]:
    """The trainer after a few lines of Python."""
    return "-c", PATCHED.format(code)


def until(question: Callable[[], Any], limit_s: float = 150) -> Any:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {limit_s:g} s")


def events(member: Member, *names: str) -> list[dict[str, Any]]:
    return [line for line in member.lines("ledger.jsonl") if line["event"] in names]


def has_begun(member: Member) -> bool:
    return (member.attempt / "ledger.jsonl").exists()


def weights(member: Member) -> dict[str, torch.Tensor]:
    return load_file(member.path / "model" / "model.safetensors")


def newest(folder: Path) -> int:
    return step_of(committed(folder)[0])


def allow(member: Member, **notice_s: float) -> None:
    """What the supervisor does when ranks start."""
    (member.attempt / "limits.json").write_text(json.dumps({"ends_at": None, "notice_s": notice_s}))


@pytest.mark.parametrize(
    ("code", "grace_s", "how", "kept"),
    [
        (SLOW_DISK, 60.0, "save", 12),
        (SLOW_DISK + MEASURED, 21.0, "finish", 10),
        (SLOW_DISK + MEASURED + LATE, 21.0, "finish", 10),
        (STUCK_DISK + MEASURED, 6.0, "leave", 5),
    ],
    ids=["save", "finish", "finish, known late", "leave"],
)
def test_told_to_leave_a_run_keeps_what_fits_into_the_grace_time(
    member: Make, code: str, grace_s: float, how: str, kept: int
) -> None:
    run = member(train={"max_steps": 20, "checkpoint_every_steps": 5})
    run.program, run.env = patched(code), {"OWN_TRAINING": "12:SIGTERM"}

    run.start()
    allow(run, SIGTERM=grace_s)
    assert run.wait() == [STOPPED], run.log()

    (left,) = events(run, "leaving")
    assert (left["how"], left["step"], left["kept"]) == (how, 12, kept)
    assert newest(run.path / "checkpoints") == kept
    assert ("will be computed again" in run.log()) == (kept < 12)
    assert (run.attempt / "left.json").exists() == (kept < 12)
    run.program, run.env = (), {}
    assert run.run() == [0], run.log()
    assert f"goes on from step {kept}" in run.log()


def test_notice_before_the_first_step_ends_every_rank_at_once_wherever_it_waits(member: Make) -> None:
    meeting, loading = member("meeting", ranks=2), member("loading", ranks=2, data=own("own.late_blobs", rows=40))
    for run in (meeting, loading):
        run.start()
    meeting.running[1].kill()  # so that the other waits for it, in C++
    until(lambda: has_begun(meeting) and events(meeting, "imports_done"))
    until(lambda: len(list(loading.path.glob("loading-*"))) == 2)

    for process in (meeting.running[0], *loading.running):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGUSR2)

    assert meeting.wait(timeout_s=90)[0] == STOPPED
    assert loading.wait(timeout_s=90) == [STOPPED, STOPPED]
    assert "before the first step" in loading.log()
    assert events(loading, "exit")[0]["code"] == STOPPED
    assert "before the first step" in json.loads((loading.attempt / "left.json").read_text())["message"]


HELD_BACK = """
import os, signal
from trainer import signals
signal.pthread_sigmask(signal.SIG_BLOCK, signals.NOTICES)
os.kill(os.getpid(), signal.SIGUSR2)
"""
TOLD_ALONE = """
import os, signal, time
from trainer import loop
if os.environ["RANK"] == "1":
    loop.train = lambda run: (os.kill(os.getpid(), signal.SIGUSR2), time.sleep(600))
"""


def test_notice_that_came_before_python_began_ends_the_rank_as_one_that_comes_later(member: Make) -> None:
    run = member()
    run.program = patched(HELD_BACK)

    assert run.run() == [STOPPED], run.log()
    assert "told to stop (SIGUSR2) before the first step" in run.log()


def test_rank_whose_peer_was_told_alone_before_the_first_step_goes_on_later_too(member: Make) -> None:
    run = member(ranks=2)
    run.program = patched(TOLD_ALONE)

    assert run.run() == [STOPPED, STOPPED], run.log()
    assert (run.attempt / "left-1").exists()


def test_notice_in_a_step_that_does_not_end_is_answered_before_the_grace_time_is_over(member: Make) -> None:
    run = member(train={"max_steps": 20, "checkpoint_every_steps": 5})
    run.env = {"OWN_TRAINING": "7:hang"}
    run.start()
    allow(run, SIGUSR2=2.0)

    assert run.wait(timeout_s=60) == [STOPPED], run.log()

    assert "no step ended within the grace time" in run.log()
    run.env = {}
    assert run.run() == [0]
    assert "goes on from step 5" in run.log()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("pause_s", "steps"), [(0.05, 1), (0.002, 300), (0.0, 300)])
def test_notice_while_one_rank_waits_for_its_data_costs_no_step(
    member: Make, pause_s: float, steps: int, workers: int, accumulate: int
) -> None:
    """Where steps are long and ranks agree at once, where they hear of it a step later, and where they seldom ask."""
    slow = own("own.blobs", rows=40, pause_s=pause_s)
    train = {"max_steps": 100_000, "workers": workers, "checkpoint_every_steps": 200_000, "accumulate": accumulate}
    run = member(ranks=2, data=slow, train={**train, "eval_every_steps": 200_000})
    run.env = {"OWN_STUCK": str(run.path / "be-stuck")}
    run.start()
    until(lambda: has_begun(run) and events(run, "first_step"))
    until(lambda: steps == 1 or reports(run)[-1:] >= [steps])
    (run.path / "be-stuck").touch()
    until(lambda: (run.path / "stuck").exists())

    for process in run.running:
        process.send_signal(signal.SIGTERM)

    assert run.wait(timeout_s=90) == [STOPPED, STOPPED], run.log()
    (left,) = events(run, "leaving")
    assert left["step"] == left["kept"] >= steps
    assert "Traceback" not in run.log(1)


def reports(member: Member) -> list[int]:
    """Steps after which there was one."""
    return [line["step"] for line in member.lines("metrics.jsonl") if "train/loss" in line.get("metrics", {})]


@pytest.fixture
def small_disk() -> Iterator[Callable[[Member], Path]]:
    """A disk of half a megabyte for a member's checkpoints."""
    mounted: list[Path] = []

    def mount(member: Member) -> Path:
        folder = member.path / "checkpoints"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], check=True)
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as f:
        try:
            while f.write(b"x" * 4096):
                pass
        except OSError:
            pass
    return filler


@pytest.mark.parametrize("harm", ["full", "read-only"])
def test_training_goes_on_while_it_cannot_save_and_saves_when_it_can(
    member: Make, small_disk: Callable[[Member], Path], harm: str
) -> None:
    changes = {"data": own("own.blobs", rows=150, pause_s=0.002), "train": {"max_steps": 60}}
    changes["train"]["checkpoint_every_steps"] = 5
    run, whole = member("full", ranks=2, **changes), member("whole", ranks=2, **changes)
    run.env = {"OWN_TRAINING": "20:wait", "OWN_GO": str(run.path / "go")}
    filler = fill(disk := small_disk(run))
    if harm == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    run.start()
    whole.start()
    until(lambda: has_begun(run) and len(events(run, "checkpoint_failed")) >= 2)

    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    filler.unlink()
    (run.path / "go").touch()

    assert run.wait() == [0, 0], run.log()
    assert whole.wait() == [0, 0], whole.log()
    failed, durable = events(run, "checkpoint_failed"), events(run, "checkpoint_durable")
    assert [f["step"] for f in failed][:2] == [5, 10]
    assert all(f["step"] < durable[0]["step"] for f in failed)
    assert durable[-1]["step"] == 60
    assert "step 5/60 could not be saved" in run.log() and "there is none yet" in run.log()
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, weights(whole)[name], rtol=0, atol=0)


def test_last_step_that_cannot_be_saved_for_long_is_an_honest_error_and_older_ones_stay(
    member: Make, small_disk: Callable[[Member], Path]
) -> None:
    run = member("full", train={"max_steps": 10, "checkpoint_every_steps": 5})
    run.env, disk = {"OWN_TRAINING": "8:SIGTERM"}, small_disk(run)
    assert run.run() == [STOPPED], run.log()
    fill(disk)
    run.env, run.program = {}, patched("from trainer.checkpoints import keeping\nkeeping.PATIENCE_S = (0, 1)")

    assert run.run() == [1], run.log()

    assert run.log().count("could not be saved") == 3
    error = json.loads((run.attempt / "rank-0.error.json").read_text())
    assert error["cause"] == "site" and "No space left" in error["message"]
    assert newest(disk) == 8


def test_interval_auto_all_ranks_save_at_the_same_steps(member: Make) -> None:
    changes = {"data": own("own.blobs", rows=150, pause_s=0.002)}
    run = member(ranks=2, **changes, train={"max_steps": 80, "checkpoint_every_steps": "auto", "keep_checkpoints": 9})
    run.program = patched("from trainer.checkpoints import interval\ninterval.FIRST_S = interval.WRITING_SHARE = 0.3")

    assert run.run() == [0, 0], run.log()

    begun = [e["step"] for e in events(run, "checkpoint_begin")]
    assert len(begun) >= 2 and begun[-1] == 80
    assert [e["step"] for e in events(run, "checkpoint_durable")] == begun
    last = json.loads((committed(run.path / "checkpoints")[0] / "state.json").read_text())
    assert len(last["costs"]["stalls_s"]) == min(5, len(begun) - 1)


NONE = History()


class Clock:
    """Time as a test says."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return 1e9 + self.now_s


class Told(Group):
    """Two ranks in one process: the second hears what the first has said."""

    def first(self, number: int) -> int:
        said: list[int] = self.process_group
        if self.rank == 0:
            said.append(number)
        return said[-1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keeping, "time", clock)
    return clock


def keeper(folder: Path, rank: int, said: list[int], past: History = NONE, **costs: Any) -> Keeper:
    saver = Saver(Checkpoints(folder, "1", 1, Group(0, 1)), torch.device("cpu"), False, Costs(**costs))
    return Keeper("auto", saver, Told(rank, 2, said), folder, 1e6, past, step=0)


def saves(keepers: list[Keeper], clock: Clock, step_s: Callable[[int], float], steps: int) -> list[tuple[int, float]]:
    """Steps at which all of them save, and when that was."""
    found = []
    for step in range(1, steps + 1):
        clock.now_s += step_s(step)
        answers = {each.is_due(step, evaluated=False) for each in keepers}
        assert len(answers) == 1
        if answers.pop():
            found.append((step, clock.now_s))
    return found


def test_keeper_saves_each_interval_whatever_a_step_takes_and_asks_seldom(tmp_path: Path, clock: Clock) -> None:
    said: list[int] = []
    both = [keeper(tmp_path, rank, said, stalls_s=[0.5], durables_s=[2.0]) for rank in (0, 1)]

    found = saves(both, clock, lambda step: 0.1 if step < 20_000 else 0.4, 40_000)  # daly: 1000 s

    times = [0.0, *(t for _, t in found)]
    assert [round(later - t, -1) for t, later in itertools.pairwise(times)] == [1000.0] * len(found)
    assert len(found) == 10
    assert len(said) < 40 * len(found)


def test_keeper_saves_after_each_evaluation_and_between_them_when_they_are_rare(tmp_path: Path, clock: Clock) -> None:
    ours = keeper(tmp_path, 0, [], stalls_s=[0.5], durables_s=[2.0])
    ours.every = None
    found = []
    for step in range(1, 40_000):
        clock.now_s += 0.1
        if ours.is_due(step, evaluated=step in (500, 25_000)):
            ours.begun()
            found.append(round(clock.now_s, -1))

    assert found == [50, 1050, 2050, 2500, 3500]


def test_keeper_saves_more_often_once_attempts_were_cut_off(tmp_path: Path, clock: Clock) -> None:
    past = History(failures=2, seen_s=1000.0)
    (both,) = (
        [keeper(tmp_path, rank, said, past, stalls_s=[0.5], durables_s=[2.0]) for rank in (0, 1)] for said in ([],)
    )

    found = saves(both, clock, lambda _: 0.1, 1000)

    assert [round(t) for _, t in found][:2] == [22, 45]  # sqrt(2 * 0.5 * 500), and more as it goes well


def test_keeper_saves_in_time_for_a_notice_that_leaves_too_little(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "limits.json").write_text(json.dumps({"ends_at": 1e9 + 700, "notice_s": {"SIGUSR2": 45}}))
    said: list[int] = []
    both = [keeper(tmp_path, rank, said, stalls_s=[0.5], durables_s=[40.0]) for rank in (0, 1)]

    found = saves(both, clock, lambda _: 1.0, 650)

    assert found == [(605, 605.0)]  # on disk at 655, when the notice comes; the interval would be 1000 s
