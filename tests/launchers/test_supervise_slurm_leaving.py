"""Ranks of a Slurm step are told to leave, by whom and how; what becomes of the attempt."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from conf.job_schema import Metrics
from tests.launchers.attempted import Make, Start, ended, until
from tests.launchers.stepping import FAKE_SCANCEL, STEPS, slurm_here, tell_ranks
from tests.launchers.supervised import SAVE_ON_TERM, STUBBORN, alive, log, maker, outcome, ready


@pytest.fixture
def make_run(workdir: Path) -> Make:
    return maker(workdir)


@pytest.fixture
def on_slurm(fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return slurm_here(fakes, tmp_path, monkeypatch)


@pytest.mark.parametrize(("number", "cause"), [(signal.SIGUSR2, "timeout"), (signal.SIGTERM, "preempted")])
def test_supervise_slurm_told_to_leave_is_requeued(
    on_slurm: Any, make_run: Make, start: Start, tmp_path: Path, number: signal.Signals, cause: str
) -> None:
    run = make_run(SAVE_ON_TERM, ranks=2, launcher="slurm")
    process = start(run, patch="import launchers.host.element as s; s.REQUEUE_WAIT_S = 0", SLURM_JOB_ID="42")
    until(ready(run, 2))

    process.send_signal(number)
    if number == signal.SIGTERM:  # Slurm itself tells the ranks of a preempted step
        tell_ranks(tmp_path)

    assert ended(process) == 1
    assert (outcome(run)["state"], outcome(run)["cause"]) == ("REQUEUED", cause)
    assert [c["argv"] for c in on_slurm.calls("scontrol") if c["argv"][0] == "requeue"] == [["requeue", "42"]]
    told = [c["argv"] for c in on_slurm.calls("scancel")]
    assert told == ([["--signal=USR2", "42.3"]] if number == signal.SIGUSR2 else [])


@pytest.mark.parametrize(
    ("program", "state", "message"),
    [
        (SAVE_ON_TERM, "REQUEUED", "saved before the time limit"),
        (
            STUBBORN.replace("signal.signal(signal.SIGTERM, signal.SIG_IGN)", ""),
            "FAILED",
            "did not save before the time",
        ),
    ],
)
def test_supervise_program_that_is_not_ours_is_told_of_the_time_limit_by_sigterm(
    on_slurm: Any, make_run: Make, start: Start, program: str, state: str, message: str
) -> None:
    run = make_run(program, launcher="slurm", notice="SIGTERM")
    process = start(run, patch="import launchers.host.element as s; s.REQUEUE_WAIT_S = 0", SLURM_JOB_ID="42")
    until(ready(run))

    process.send_signal(signal.SIGUSR2)

    assert ended(process) == 1
    assert (outcome(run)["state"], outcome(run)["cause"]) == (state, "timeout")
    assert message in outcome(run)["message"]
    assert [c["argv"] for c in on_slurm.calls("scancel")] == [["--signal=TERM", "42.3"]]


ONCE = """
import pathlib
asked = pathlib.Path(os.environ["FAKE_PIDS"] + ".asked")
if "--steps" in sys.argv and not asked.exists():
    asked.touch()
"""


@pytest.mark.parametrize(
    "said", ["sys.exit('Unable to contact slurm controller')", "sys.exit(print('40_1.batch|batch'))"]
)
def test_supervise_slurm_asks_again_where_it_does_not_name_the_step_yet(
    on_slurm: Any, make_run: Make, start: Start, said: str
) -> None:
    on_slurm.put("squeue", f"{ONCE}    {said}\n{STEPS}")
    run = make_run(SAVE_ON_TERM, launcher="slurm")
    process = start(run, patch="import launchers.host.element as s; s.REQUEUE_WAIT_S = 0", SLURM_JOB_ID="42")
    until(ready(run))

    process.send_signal(signal.SIGUSR2)

    ended(process)
    assert outcome(run)["state"] == "REQUEUED"
    assert [c["argv"] for c in on_slurm.calls("scancel")] == [["--signal=USR2", "42.3"]]


@pytest.mark.parametrize(
    ("said", "times"),
    [
        ("Kill job error on job step id 42.3: Invalid job id specified", 1),
        ("Kill job error on job step id 42.3: Communication connection failure", 1),
        ("Unable to contact slurm controller (connect failure)", 2),
    ],
)
def test_supervise_slurm_signal_that_did_not_get_through_is_sent_again(
    on_slurm: Any, make_run: Make, start: Start, said: str, times: int
) -> None:
    on_slurm.put(
        "scancel",
        f"""{FAKE_SCANCEL}
done = os.environ["FAKE_PIDS"] + ".told"
if not os.path.exists(done):
    open(done, "w").close()
    sys.exit("scancel: error: {said}")
""",
    )
    run = make_run(SAVE_ON_TERM.replace("print(", "time.sleep(3); print("), launcher="slurm")
    process = start(run, patch="import launchers.host.element as s; s.REQUEUE_WAIT_S = 0", SLURM_JOB_ID="42")
    until(ready(run))

    process.send_signal(signal.SIGUSR2)

    ended(process)
    assert len(on_slurm.calls("scancel")) == times


LEAVES_FIRST = """
import os, pathlib, signal, sys, time
first = os.environ["RANK"] == "0"
def leave(*_):
    time.sleep(0 if first else 3)
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGUSR2, leave)
signal.signal(signal.SIGTERM, leave)
pathlib.Path(os.environ["FAIRLEAD_ATTEMPT_DIR"], f"ready-{os.environ['RANK']}").touch()
time.sleep(60)
"""
ONLY_ONCE = """
def once(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leave()
signal.signal(signal.SIGTERM, once)
"""
SOON = "import launchers.host.element as e; e.REQUEUE_WAIT_S = 0; import launchers.host.srun as s; s.KILL_AFTER_S = 1"


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_supervise_slurm_rank_that_saves_for_longer_is_not_ended_where_another_has_left(
    on_slurm: Any, make_run: Make, start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    """When a grace time begins Slurm tells the ranks alone."""
    on_slurm.put("scontrol", "print('JobState=RUNNING StartTime=2026-11-21T01:00:00 PreemptTime=2026-11-21T01:00:05')")
    run = make_run(LEAVES_FIRST, ranks=2, launcher="slurm")
    process = start(run, patch=SOON, SLURM_JOB_ID="42")
    until(ready(run, 2))

    process.send_signal(number) if number == signal.SIGUSR2 else tell_ranks(tmp_path)

    ended(process)
    assert outcome(run)["state"] == "REQUEUED"
    assert [log(run, rank) for rank in (0, 1)] == ["saved\n", "saved\n"]
    assert [c["argv"][0] for c in on_slurm.calls("scancel")] == ["--signal=USR2"] * (number == signal.SIGUSR2)


def test_supervise_slurm_preemption_that_slurm_tells_of_later_keeps_who_saves(
    on_slurm: Any, make_run: Make, start: Start, tmp_path: Path
) -> None:
    """Its controller is away when the first rank has left."""
    on_slurm.put(
        "scontrol",
        """
import pathlib
asked = pathlib.Path(os.environ["FAKE_PIDS"] + ".asked")
if not asked.exists():
    asked.touch()
    sys.exit("Unable to contact slurm controller")
print('JobState=RUNNING StartTime=2026-11-21T01:00:00 PreemptTime=2026-11-21T01:00:05')
""",
    )
    run = make_run(LEAVES_FIRST.replace("signal.signal(signal.SIGTERM, leave)", ONLY_ONCE), ranks=2, launcher="slurm")
    process = start(run, patch=SOON, SLURM_JOB_ID="42")
    until(ready(run, 2))

    tell_ranks(tmp_path)

    ended(process)
    assert (outcome(run)["state"], outcome(run)["cause"]) == ("REQUEUED", "preempted")
    assert [log(run, rank) for rank in (0, 1)] == ["saved\n", "saved\n"]


def test_supervise_slurm_full_disk_keeps_nobody_from_being_ended(
    on_slurm: Any, make_run: Make, start: Start, tmp_path: Path
) -> None:
    """What srun says is heard where its log cannot be written."""
    program = """
import os, sys, time
time.sleep(0.5 if os.environ["RANK"] == "1" else 60)
sys.exit(3)
"""
    run = make_run(program, ranks=2, launcher="slurm")
    nowhere = SOON + "; import pathlib; s._log = lambda attempt, unit: pathlib.Path('/dev/full')"

    assert ended(start(run, patch=nowhere, SLURM_JOB_ID="42")) == 1

    assert (outcome(run)["exit_code"], outcome(run)["first_rank"]) == (3, 1)


def test_supervise_slurm_rank_that_dies_of_being_told_is_not_to_blame(
    on_slurm: Any, make_run: Make, start: Start
) -> None:
    program = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGSEGV))
time.sleep(0.5 if os.environ["RANK"] == "0" else 60)
sys.exit(1)
"""
    run = make_run(program, ranks=3, launcher="slurm")

    assert ended(start(run, patch="import launchers.host.element", SLURM_JOB_ID="42")) == 1

    assert (outcome(run)["cause"], outcome(run)["first_rank"], outcome(run)["exit_code"]) == ("user_error", 0, 1)
    said = (run.member(0).attempts()[0].path / "srun.log").read_text().splitlines()
    assert said[1] == "fairlead: the others are told to leave" and len(said) == 4


@pytest.mark.parametrize("stubborn", [False, True])
def test_supervise_slurm_one_bad_rank_takes_the_others_down_after_a_word_of_warning(
    on_slurm: Any, make_run: Make, start: Start, stubborn: bool
) -> None:
    handler = "signal.SIG_IGN" if stubborn else "lambda *_: sys.exit(print('told', flush=True))"
    program = f"""
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, {handler})
ready = pathlib.Path(os.environ["FAIRLEAD_ATTEMPT_DIR"], "ready")
if os.environ["RANK"] == "1":
    while not ready.exists():
        time.sleep(0.05)
    sys.exit(3)
ready.touch()
time.sleep(60)
"""
    run = make_run(program, ranks=2, launcher="slurm")

    assert ended(start(run, patch=SOON, SLURM_JOB_ID="42")) == 1

    assert (outcome(run)["cause"], outcome(run)["exit_code"], outcome(run)["first_rank"]) == ("user_error", 3, 1)
    assert [c["argv"] for c in on_slurm.calls("scancel")] == [["--signal=TERM", "42.3"]]
    said = (run.member(0).attempts()[0].path / "srun.log").read_text()
    assert (log(run, 0), "forcing job termination" in said) == ("" if stubborn else "told\n", stubborn)


def test_supervise_slurm_element_of_an_array_speaks_of_itself_alone(
    on_slurm: Any, make_run: Make, start: Start
) -> None:
    """The last element bears the array's own number, by which Slurm's commands would mean every element."""
    run = make_run(SAVE_ON_TERM, members=3, launcher="slurm")
    last = {"SLURM_JOB_ID": "40", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "2"}
    process = start(run, patch="import launchers.host.element as s; s.REQUEUE_WAIT_S = 0", **last)
    until(lambda: list(run.member(2).path.glob("attempt-0/ready-0")))

    process.send_signal(signal.SIGUSR2)

    ended(process)
    said = [" ".join(c["argv"]) for name in ("scancel", "scontrol", "squeue") for c in on_slurm.calls(name)]
    assert {"--signal=USR2 40_2.3", "show job --oneliner 40_2", "requeue 40_2"} <= set(said)
    assert all("40_2" in words for words in said)


def test_supervise_slurm_cancelled_by_hand_is_not_requeued(
    on_slurm: Any, make_run: Make, start: Start, tmp_path: Path
) -> None:
    on_slurm.put("scontrol", "print('JobId=42 JobState=COMPLETING Reason=None')")
    run = make_run(SAVE_ON_TERM, launcher="slurm")
    process = start(run, SLURM_JOB_ID="42")
    until(ready(run))

    process.terminate()
    tell_ranks(tmp_path)

    assert ended(process) == 1
    assert outcome(run)["state"] == "CANCELLED"
    assert not [c for c in on_slurm.calls("scontrol") if c["argv"][0] == "requeue"]


STOP_IT = """
import launchers.host.judge as j
class Judge(j.Judge):
    _prunes = True
    def _verdict(self):
        return "it will not win" if list(self._attempt.path.glob("ready-*")) else None
j.Judge = Judge
"""


def test_supervise_slurm_pruned_trial_saves_leaves_and_is_not_requeued(
    on_slurm: Any, make_run: Make, start: Start
) -> None:
    """All ranks are told by Slurm; the trial's slot is free at once."""
    run = make_run(SAVE_ON_TERM, ranks=2, launcher="slurm", search=True, metrics=Metrics(kind="jsonl"))

    assert ended(start(run, patch=STOP_IT, SLURM_JOB_ID="42")) == 0

    assert (outcome(run)["state"], outcome(run)["exit_code"]) == ("PRUNED", 75)
    assert outcome(run)["message"] == "it will not win"
    assert [log(run, r) for r in (0, 1)] == ["saved\n", "saved\n"]
    assert [c["argv"] for c in on_slurm.calls("scancel")] == [["--signal=TERM", "42.3"]]
    assert on_slurm.calls("scontrol") == []


def test_supervise_slurm_pruned_trial_that_does_not_listen_is_killed_by_its_step(
    on_slurm: Any, make_run: Make, start: Start
) -> None:
    more = {"search": True, "metrics": Metrics(kind="jsonl"), "notice_s": 1}
    run = make_run(STUBBORN, ranks=2, launcher="slurm", **more)

    assert ended(start(run, patch=STOP_IT, SLURM_JOB_ID="42")) == 0

    assert outcome(run)["state"] == "PRUNED"
    assert "forcing job termination" in (run.member(0).attempts()[0].path / "srun.log").read_text()
    until(lambda: not alive(str(run.path)))


def test_supervise_slurm_program_that_does_not_save_is_killed_before_the_time_limit(
    on_slurm: Any, make_run: Make, start: Start
) -> None:
    on_slurm.put(
        "squeue",
        f"""{STEPS}
import pathlib, time
asked = pathlib.Path(os.environ["FAKE_PIDS"] + ".asked")
print(time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + (0 if asked.exists() else 4))))
asked.touch()
""",
    )
    run = make_run(STUBBORN.replace("SIGTERM", "SIGUSR2"), ranks=2, launcher="slurm", notice_s=8)
    process = start(run, SLURM_JOB_ID="42")
    until(ready(run, 2))

    process.send_signal(signal.SIGUSR2)

    assert ended(process) == 1
    assert (outcome(run)["state"], outcome(run)["cause"]) == ("FAILED", "timeout")
    assert outcome(run)["message"] == "did not save before the time limit"
    limits = [c for c in on_slurm.calls("squeue") if "--steps" not in c["argv"]]
    assert len(limits) == 2, "it was asked once more whether the limit was raised"
    until(lambda: not alive(str(run.path)))


def test_supervise_slurm_program_is_not_killed_when_nobody_knows_the_limit(
    on_slurm: Any, make_run: Make, start: Start
) -> None:
    on_slurm.put("squeue", f"{STEPS}sys.exit('slurm_load_jobs error: Unable to contact slurm controller')")
    run = make_run(SAVE_ON_TERM.replace("print(", "time.sleep(2); print("), launcher="slurm", notice_s=1)
    process = start(run, patch="import launchers.host.element as s; s.REQUEUE_WAIT_S = 0", SLURM_JOB_ID="42")
    until(ready(run))

    process.send_signal(signal.SIGUSR2)

    ended(process)
    assert (outcome(run)["state"], log(run, 0)) == ("REQUEUED", "saved\n")


@pytest.mark.parametrize("said", ["Restarts=1 PreemptTime=None", "Restarts=0 PreemptTime=2026-11-21T01:00:00"])
def test_supervise_slurm_requeued_it_already_is_no_cancellation(
    on_slurm: Any, make_run: Make, start: Start, tmp_path: Path, said: str
) -> None:
    on_slurm.put("scontrol", f"print('JobId=42 JobState=COMPLETING {said}')")
    run = make_run(SAVE_ON_TERM, launcher="slurm")
    process = start(run, SLURM_JOB_ID="42")
    until(ready(run))

    process.terminate()
    tell_ranks(tmp_path)

    ended(process)
    assert (outcome(run)["state"], outcome(run)["cause"]) == ("REQUEUED", "preempted")
    assert not [c for c in on_slurm.calls("scontrol") if c["argv"][0] == "requeue"]


@pytest.mark.parametrize(
    ("said", "state", "cause"),
    [
        ("StartTime=2026-11-21T01:00:00 PreemptTime=2026-11-21T01:00:05", "REQUEUED", "preempted"),
        ("StartTime=2026-11-21T01:00:00 PreemptTime=2026-11-21T00:59:00", "FAILED", "user_error"),
        ("StartTime=2026-11-21T01:00:00 PreemptTime=None", "FAILED", "user_error"),
    ],
)
def test_program_that_dies_of_sigterm_in_a_grace_time_comes_back(
    on_slurm: Any, make_run: Make, start: Start, said: str, state: str, cause: str
) -> None:
    on_slurm.put("scontrol", f"print('JobId=42 JobState=RUNNING {said}')")
    run = make_run("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", launcher="slurm")

    ended(start(run, patch="import launchers.host.element as s; s.REQUEUE_WAIT_S = 0", SLURM_JOB_ID="42"))

    assert (outcome(run)["state"], outcome(run)["cause"]) == (state, cause)
    assert len([c for c in on_slurm.calls("scontrol") if c["argv"][0] == "requeue"]) == (state == "REQUEUED")
