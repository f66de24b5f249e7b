"""Attempts of our trainer that hang: found by their heartbeats, ended, named with their stacks, and started again."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import pytest

from conf.job_schema import Hang, Restarts
from launchers.host import watchdog
from launchers.host.watchdog import Watchdog
from launchers.run_folder.record import Attempt, Run, make_private, read_json
from tests.launchers.attempted import AT_ONCE, Make, Start, ended, made, outcomes, plan_of
from tests.trainer.ranks import make_spec, own
from trainer.insight.heartbeat import Beat

QUICK = Hang(step_s=3.0)
WAITING = """
def wait_for(path):
    while not path.exists():
        time.sleep(0.01)
"""
"""What the others do in a collective call, by the name of its file."""
BEATING = (
    f"""
import os, signal, sys, time
exec(compile({WAITING!r}, "/torch/distributed/wait.py", "exec"))
"""
    + """
from pathlib import Path
from trainer.insight.heartbeat import Beat
folder, rank = Path(os.environ["FAIRLEAD_ATTEMPT_DIR"]), int(os.environ["RANK"])
beat = Beat(folder / f"beat-{rank}")
beat.begin("train")
def step(number):
    # the ranks of a run wait for each other
    (folder / f"step-{number}-{rank}").touch()
    wait_for(folder / f"step-{number}-{1 - rank}")
    time.sleep(0.05)
    beat.stepped(number)
for number in range(1, 30):
    step(number)
"""
)
HANGS = """
    if number == 9 and rank == 1:
        (folder / "hangs").touch()
"""
AS_SOON_AS_IT_HANGS = """
import launchers.host.beats as b, math, os, sys
real = b.limit
def limit(beat, limits):
    hangs = os.path.exists(sys.argv[1] + "/members/0/attempt-0/hangs")
    return real(beat, limits) if hangs else b.Limit(math.inf, "step_s")
b.limit = limit
"""
"""A machine that is busy stops ranks for seconds, too: none is called silent before one has said that it hangs."""


@pytest.fixture
def make_run(workdir: Path) -> Make:
    return partial(made, workdir)


# --- ranks that beat ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stuck", "last"),
    [
        ("while number == 9 and rank == 1: pass", " in get_stuck"),
        ("time.sleep(1000 if number == 9 and rank == 1 else 0)", " in get_stuck"),
        ("number == 9 and rank == 1 and os.kill(os.getpid(), signal.SIGSTOP)", None),
    ],
    ids=["loops", "in C", "stopped"],
)
def test_watchdog_rank_that_hangs_is_named_with_its_stack(
    make_run: Make, start: Start, stuck: str, last: str | None
) -> None:
    code = BEATING.replace("for number", f"def get_stuck(number):{HANGS}    {stuck}\nfor number")
    code = code.replace("    step(number)", "    get_stuck(number)\n    step(number)")
    run = make_run(sys.executable, "-c", code, ranks=2, hang=QUICK)

    assert ended(start(run, patch=AS_SOON_AS_IT_HANGS)) == 1

    (found,) = outcomes(run)
    assert (found["state"], found["cause"], found["first_rank"]) == ("FAILED", "hang", 1)
    assert f"rank 1 ({os.uname().nodename}) gave no sign for " in found["message"]
    assert " in train after step " in found["message"]
    assert " (the limit is 3 s, job.hang.step_s); " in found["message"]
    assert found["started"] < found["hung_since"] < found["ended"]
    (attempt,) = run.member(0).attempts()
    assert "in wait_for" in (attempt.path / "stacks-0.txt").read_text()
    if last is None:
        assert "; it gave no stack, and from outside is process " in found["message"]
        assert "T (stopped); its last line: " in found["message"] and found["message"].endswith(" in get_stuck")
        seen = (attempt.path / "stacks-1.txt").read_text()
        assert seen.startswith(f"as seen from outside on {os.uname().nodename}") and "State" not in seen
    else:
        assert found["last_lines"][-1].endswith(last) and last in found["message"]


DEAF = "number == 9 and rank == 1 and (signal.pthread_sigmask(0, [10]), ctypes.CDLL(None).pause())"


@pytest.mark.parametrize("patch", ["", "import launchers.host.outside as o; o._stacks = lambda pid: []"])
def test_watchdog_rank_that_is_stuck_in_c_and_deaf_is_seen_from_outside(
    make_run: Make, start: Start, patch: str
) -> None:
    """With py-spy its Python line is told, too."""
    code = BEATING.replace("for number", f"import ctypes\ndef get_stuck(number):{HANGS}    {DEAF}\nfor number")
    code = code.replace("    step(number)", "    get_stuck(number)\n    step(number)")
    run = make_run(sys.executable, "-c", code, ranks=2, hang=QUICK)

    assert ended(start(run, patch=AS_SOON_AS_IT_HANGS + patch)) == 1

    (found,) = outcomes(run)
    assert (found["cause"], found["first_rank"]) == ("hang", 1)
    assert "it gave no stack, and from outside is process " in found["message"]
    assert found["message"].endswith("S (sleeping)" if patch else " in get_stuck")
    assert "in wait_for" in (run.path / "members/0/attempt-0/stacks-0.txt").read_text()


def test_watchdog_leaves_alone_who_beats(make_run: Make, start: Start) -> None:
    """Thrice as long as a rank may be silent; at first in a section that may take long."""
    code = BEATING.replace('beat.begin("train")', 'beat.begin("restore"); time.sleep(6)').replace("0.05", "0.35")
    run = make_run(sys.executable, "-c", code, ranks=2, hang=Hang(step_s=5.0))

    assert ended(start(run)) == 0

    assert [o["state"] for o in outcomes(run)] == ["SUCCEEDED"]
    assert not list(run.path.glob("members/0/attempt-0/stacks-*"))


def test_watchdog_step_that_takes_three_times_the_usual_is_no_hang(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, clock = Run(workdir / "d-1"), [100.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock[0])
    attempt = Attempt(run.member(0).path / "attempt-0")
    make_private(attempt.path)
    plan = plan_of(run, ("true",), ranks=2, hang=Hang(step_s=0.3))
    watching, ranks = Watchdog(plan, attempt, print, print), [Beat(attempt.path / f"beat-{rank}") for rank in (0, 1)]

    def looks(count: int) -> list[bool]:
        """What it finds, four times a second."""
        found = []
        for _ in range(count):
            clock[0] += 0.25
            found.append(watching._look() is not None)
        return found

    for rank in ranks:
        rank.begin("train")
    for step in range(1, 7):
        assert not any(looks(2)), "half a second is the usual"
        for rank in ranks:
            rank.stepped(step)

    assert not any(looks(6))
    assert any(looks(2))


def test_watchdog_program_that_never_begins_is_found(make_run: Make, start: Start) -> None:
    run = make_run("sleep", "1000", hang=Hang(setup_s=3.0))

    assert ended(start(run)) == 1

    (found,) = outcomes(run)
    assert (found["cause"], found["first_rank"]) == ("hang", 0)
    assert (
        " in start (the limit is 3 s, job.hang.setup_s); it gave no stack, and from outside is process "
        in found["message"]
    )
    assert found["message"].endswith("(sleep): S (sleeping)")


def test_watchdog_storage_that_does_not_answer_is_no_hang(make_run: Make, start: Start) -> None:
    patch = """
import launchers.host.watchdog as w, time
real, began = w.beat_of, []
def broken(path):
    began.append(time.monotonic())
    if began[-1] - began[0] < 7:
        raise OSError(5, "Input/output error")
    return real(path)
w.beat_of = broken
"""
    hang = Hang(step_s=5.0)
    run = make_run(sys.executable, "-c", BEATING.replace("0.05", "0.3"), ranks=2, hang=hang)
    process = start(run, patch=patch)

    said, _ = process.communicate(timeout=90)

    assert process.returncode == 0 and "watchdog: OSError: [Errno 5]" in said
    assert said.count("watchdog: ") == 1


def test_watchdog_full_disk_that_takes_no_beat_is_no_hang(make_run: Make, start: Start) -> None:
    """Six times as long as a rank may be silent."""
    code = BEATING.replace("    step(number)", "    step(number)\n    time.sleep(6 * (number == 9))")
    run = make_run(sys.executable, "-c", code, ranks=2, hang=Hang(step_s=1.0))
    process = start(
        run, patch="import launchers.host.watchdog as w; w.why_not_writable = lambda folder: 'No space left on device'"
    )

    said, _ = process.communicate(timeout=90)

    assert process.returncode == 0, said
    assert said.count("nobody can say whether it hangs: No space left on device") == 1


# --- our trainer --------------------------------------------------------------------------------------


def test_trainer_stuck_in_every_way_comes_to_its_end_on_the_same_nodes(make_run: Make, start: Start) -> None:
    """Each attempt saves one step more and then hangs or dies; the last one is well."""
    ways = ["loop", "stop", "unequal", "kill"]
    train = {"max_steps": 24, "checkpoint_every_steps": 1}
    spec = make_spec(train=train, model=own("stuck.Stuck", ways=" ".join(ways)))
    more = {
        "hang": Hang(step_s=6.0, data_wait_s=6.0, evaluation_s=60.0, checkpoint_s=60.0),
        "restarts": Restarts(crash=1, hang=1),
        "ranks": 2,
    }
    run = make_run(sys.executable, "-m", "trainer", spec=spec, **more)

    assert ended(start(run, patch=AT_ONCE), 240) == 0

    loop, stop, unequal, kill, well = outcomes(run)
    assert [o["state"] for o in (loop, stop, unequal, kill, well)] == ["RESTARTED"] * 4 + ["SUCCEEDED"]
    assert [o["cause"] for o in (loop, stop, unequal, kill)] == ["hang"] * 3 + ["crash"]
    assert [o["first_rank"] for o in (loop, stop, kill)] == [1, 1, 1]
    assert "in get_stuck" in loop["last_lines"][-1] and "in get_stuck" in loop["message"]
    assert kill["message"] == "killed by signal 9 (Killed)"
    attempts = [a.path for a in run.member(0).attempts()]
    assert "in _engine_run_backward" in (attempts[0] / "stacks-0.txt").read_text()
    assert "T (stopped)" in (attempts[1] / "stacks-1.txt").read_text()
    assert " in barrier" in (attempts[2] / "stacks-0.txt").read_text()
    assert read_json(attempts[-1] / "result.json")["steps"] == 24
