"""A member's life on its host, with real processes: every way an attempt can end, and what is left of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.job_schema import Metrics, Restarts
from launchers.plan import plans_document, plans_from
from launchers.run_folder.record import Run, append_line, locked, read_json, write_json
from tests.plans import plan_of_run, pool_plan

REPORT = (
    "import json, os; e = dict(os.environ); json.dump(e, open(e['FAIRLEAD_ATTEMPT_DIR'] + '/env-' + e['RANK'], 'w'))"
)
SAVE_ON_TERM = """
import os, signal, sys, time
def leave(*_):
    print("saved", flush=True); os._exit(75)
signal.signal(signal.SIGTERM, leave); signal.signal(signal.SIGUSR2, leave)
open(os.environ["FAIRLEAD_ATTEMPT_DIR"] + "/ready-" + os.environ["RANK"], "w").close()
time.sleep(600); sys.exit(9)
"""
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(os.environ["FAIRLEAD_ATTEMPT_DIR"] + "/ready-" + os.environ["RANK"], "w").close()
time.sleep(600)
"""
Make = Callable[..., Run]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def make_run(workdir: Path) -> Make:
    """A frozen run whose program is a line of Python: `make_run("print(1)", ranks=2)`."""

    def make(program: str, *, ranks: int = 1, members: int = 1, name: str = "d-1", **more: Any) -> Run:
        run = Run(workdir / "runs" / name)
        run.path.mkdir(parents=True)
        argv = more.pop("argv", (sys.executable, "-Sc", program))
        nodes, env = more.pop("nodes", 1), more.pop("env", {})
        pool = pool_plan(argv, nodes=nodes, ranks_per_node=ranks, env=env)
        plan = plan_of_run(run, pool, members=members, **more)
        write_json(run.plan, plans_document([plan]))
        write_json(run.spec, {"name": "d", "model": {"kind": "cnn", "options": {"width": 1}}, "seed": 1})
        for index in range(members):
            sections = {"model": {"kind": "cnn", "options": {"width": index}}} if index else {}
            append_line(run.members_file, {"index": index, "point": {}, "sections": sections})
        return run

    return make


def ended(process: subprocess.Popen[str], timeout_s: float = 90) -> int:
    said, _ = process.communicate(timeout=timeout_s)
    assert "Traceback" not in said, said
    return process.returncode


def outcome(run: Run, member: int = 0, attempt: int = -1) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run.member(member).attempts()[attempt].outcome)
    return found


def log(run: Run, rank: int, attempt: int = -1) -> str:
    return run.member(0).attempts()[attempt].rank_log(rank).read_text()


def until(what: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def ready(run: Run, ranks: int = 1) -> Callable[[], bool]:
    return lambda: len(list(run.path.glob("members/0/attempt-*/ready-*"))) >= ranks


def alive(marker: str) -> list[str]:
    """Processes whose command line has the marker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


# --- on this machine ----------------------------------------------------------------------------------


def test_supervise_success_is_recorded(make_run: Make, start: Start) -> None:
    run = make_run("print('hello')", ranks=2)

    assert ended(start(run)) == 0

    assert {k: outcome(run)[k] for k in ("state", "cause", "exit_code", "signal", "first_rank")} == {
        "state": "SUCCEEDED",
        "cause": "succeeded",
        "exit_code": 0,
        "signal": None,
        "first_rank": None,
    }
    assert [log(run, r) for r in (0, 1)] == ["hello\n", "hello\n"]
    assert outcome(run)["started"] <= outcome(run)["ended"] <= time.time()


def test_supervise_says_its_outcome_on_one_line(make_run: Make, start: Start) -> None:
    process = start(make_run("raise SystemExit(3)"))

    said, _ = process.communicate(timeout=90)

    (line,) = said.splitlines()
    assert line.startswith("fairlead: member=0 attempt=0 {")
    assert json.loads(line[line.index("{") :])["exit_code"] == 3


def test_supervise_ranks_are_told_their_place(make_run: Make, start: Start) -> None:
    run = make_run(REPORT, ranks=3, name="it's a $(x) job")

    assert ended(start(run, SLURM_PROCID="7", SLURM_JOB_ID="1", RANK="8")) == 0

    (attempt,) = run.member(0).attempts()
    envs = [json.loads((attempt.path / f"env-{r}").read_text()) for r in range(3)]
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK")
    assert [[e[n] for n in names] for e in envs] == [[str(r), str(r), "3", "3", "0"] for r in range(3)]
    assert len({(e["MASTER_ADDR"], e["MASTER_PORT"]) for e in envs}) == 1
    assert envs[0]["FAIRLEAD_SPEC"] == str(run.member(0).spec)
    assert envs[0]["AIP_CHECKPOINT_DIR"] == f"{run.member(0).checkpoints}/"
    assert all(Path(envs[0][n]).is_dir() for n in ("AIP_MODEL_DIR", "AIP_CHECKPOINT_DIR", "AIP_TENSORBOARD_LOG_DIR"))


def test_supervise_rendezvous_port_is_free(make_run: Make, start: Start) -> None:
    code = "import os, socket; s = socket.socket(); s.bind((os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])))"

    assert ended(start(make_run(code))) == 0


def test_supervise_two_members_at_once_have_ports_of_their_own(make_run: Make, start: Start) -> None:
    run = make_run(REPORT + "; import time; time.sleep(0.5)", members=2)
    both = [start(run, "--member", str(m)) for m in (0, 1)]

    assert [ended(p) for p in both] == [0, 0]

    envs = [json.loads((run.member(m).attempts()[0].path / "env-0").read_text()) for m in (0, 1)]
    assert envs[0]["MASTER_PORT"] != envs[1]["MASTER_PORT"]


def test_supervise_member_has_the_runs_spec_with_its_own_sections(make_run: Make, start: Start) -> None:
    run = make_run("pass", members=3)

    assert ended(start(run, "--member", "2")) == 0

    assert read_json(run.member(2).spec) == {**read_json(run.spec), "model": {"kind": "cnn", "options": {"width": 2}}}


def test_supervise_failing_rank_is_named_with_its_last_lines(make_run: Make, start: Start) -> None:
    code = """
import os, sys, time
if os.environ["RANK"] == "1":
    print("first"); print("ValueError: bad"); sys.exit(3)
time.sleep(600)
"""
    run = make_run(code, ranks=3)
    begun = time.monotonic()

    assert ended(start(run)) == 1

    assert time.monotonic() - begun < 90
    found = outcome(run)
    assert (found["state"], found["cause"], found["exit_code"], found["first_rank"]) == ("FAILED", "user_error", 3, 1)
    assert found["last_lines"] == ["first", "ValueError: bad"]
    assert "ValueError: bad" in found["message"]


def test_supervise_rank_that_wrote_its_error_is_believed(make_run: Make, start: Start) -> None:
    code = """
import json, os, sys, time
rank = os.environ["RANK"]
while rank == "0" and not os.path.exists(os.environ["FAIRLEAD_ATTEMPT_DIR"] + "/rank-1.error.json"):
    time.sleep(0.01)
error = {"t": time.time(), "rank": int(rank), "host": "h" + rank, "type": "KeyError", "message": rank,
         "cause": "user_error"}
json.dump(error, open(os.environ["FAIRLEAD_ATTEMPT_DIR"] + f"/rank-{rank}.error.json", "w"))
sys.exit(1)
"""
    run = make_run(code, ranks=2)

    assert ended(start(run)) == 1

    found = outcome(run)
    assert (found["first_rank"], found["host"], found["message"]) == (1, "h1", "KeyError: 1")


def test_supervise_half_written_error_file_is_no_crash(make_run: Make, start: Start) -> None:
    code = """
import os, sys
open(os.environ["FAIRLEAD_ATTEMPT_DIR"] + "/rank-0.error.json", "w").write('{"t": ')
sys.exit(4)
"""
    run = make_run(code)

    assert ended(start(run)) == 1

    assert (outcome(run)["state"], outcome(run)["exit_code"]) == ("FAILED", 4)


def test_supervise_rank_killed_by_a_signal_is_told(make_run: Make, start: Start) -> None:
    run = make_run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")

    assert ended(start(run)) == 1

    assert (outcome(run)["state"], outcome(run)["signal"]) == ("FAILED", signal.SIGSEGV)


def test_supervise_log_with_any_bytes_is_kept(make_run: Make, start: Start) -> None:
    run = make_run(r"import sys; sys.stdout.buffer.write(b'\xff\xfe\n' + b'x' * 200000 + b'\n\x00end\n'); sys.exit(1)")

    assert ended(start(run)) == 1

    lines = outcome(run)["last_lines"]
    assert lines[-1] == "\x00end"
    assert all(len(line) <= 2000 for line in lines)


def test_supervise_program_that_is_not_there_is_a_failure_with_its_name(make_run: Make, start: Start) -> None:
    run = make_run("", argv=("/nowhere/python", "-m", "trainer"))

    assert ended(start(run)) == 1

    assert "/nowhere/python" in "\n".join(outcome(run)["last_lines"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_supervise_told_to_end_lets_ranks_save(make_run: Make, start: Start, number: signal.Signals) -> None:
    run = make_run(SAVE_ON_TERM, ranks=2)
    process = start(run)
    until(ready(run, 2))
    write_json(run.cancelled, {"by": "me", "t": 0})

    process.send_signal(number)

    assert ended(process) == 1
    assert (outcome(run)["state"], outcome(run)["cause"]) == ("CANCELLED", "cancelled")
    assert [log(run, r) for r in (0, 1)] == ["saved\n", "saved\n"]


def test_supervise_signals_that_come_often_are_harmless(make_run: Make, start: Start) -> None:
    run = make_run(SAVE_ON_TERM.replace("os._exit(75)", "time.sleep(0.5); os._exit(75)"), ranks=2)
    process = start(run)
    until(ready(run, 2))
    write_json(run.cancelled, {})

    for _ in range(5):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)

    assert ended(process) == 1
    assert outcome(run)["state"] == "CANCELLED"


def test_supervise_signal_before_the_ranks_are_there_is_not_lost(make_run: Make, start: Start) -> None:
    patch = """
import os, signal, launchers.host.trying as t
before = t.Try._prepare_member
def prepare(self):
    os.kill(os.getpid(), signal.SIGTERM)
    before(self)
t.Try._prepare_member = prepare
"""
    run = make_run("import time; time.sleep(600)")
    begun = time.monotonic()

    assert ended(start(run, patch=patch)) == 1

    assert time.monotonic() - begun < 90


def test_supervise_stuck_rank_is_killed_after_a_while(make_run: Make, start: Start) -> None:
    run = make_run(STUBBORN, ranks=2)
    process = start(run, patch="import launchers.host.ranks as r; r.KILL_AFTER_S = 0.3")
    until(ready(run, 2))
    write_json(run.cancelled, {})

    process.terminate()

    assert ended(process) == 1
    assert outcome(run)["state"] == "CANCELLED"
    until(lambda: not alive(str(run.path)))


def test_supervise_rank_stuck_after_anothers_failure_is_killed(make_run: Make, start: Start) -> None:
    code = "import os, sys\nif os.environ['RANK'] == '1':\n    sys.exit(7)\n" + STUBBORN
    run = make_run(code, ranks=2)

    assert ended(start(run, patch="import launchers.host.ranks as r; r.KILL_AFTER_S = 0.3")) == 1

    assert (outcome(run)["first_rank"], outcome(run)["exit_code"]) == (1, 7)
    until(lambda: not alive(str(run.path)))


def test_supervise_children_of_a_rank_end_with_it(make_run: Make, start: Start) -> None:
    """Data-loader workers, for example."""
    code = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {STUBBORN!r}, "marker-" + os.environ["FAIRLEAD_JOB_ID"]])
while not os.path.exists(os.environ["FAIRLEAD_ATTEMPT_DIR"] + "/ready-0"):
    time.sleep(0.01)
sys.exit(5)
"""
    run = make_run(code, name=f"children-{os.getpid()}")

    assert ended(start(run, patch="import launchers.host.ranks as r; r.KILL_AFTER_S = 0.3")) == 1

    left = alive(f"marker-{run.id}")
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert left == []


def test_supervise_cancelled_before_it_started_runs_nothing(make_run: Make, start: Start) -> None:
    run = make_run(REPORT)
    write_json(run.cancelled, {})

    assert ended(start(run)) == 1

    assert outcome(run)["state"] == "CANCELLED"
    assert not list(run.path.glob("members/0/attempt-0/env-*"))


def test_supervise_attempts_are_numbered_and_checkpoints_kept(make_run: Make, start: Start) -> None:
    run = make_run(
        "import os; open(os.environ['AIP_CHECKPOINT_DIR'] + os.environ['FAIRLEAD_ATTEMPT'], 'w'); raise SystemExit(1)"
    )

    assert [ended(start(run)) for _ in range(3)] == [1, 1, 1]

    assert [a.number for a in run.member(0).attempts()] == [0, 1, 2]
    assert sorted(p.name for p in run.member(0).checkpoints.iterdir()) == ["0", "1", "2"]


def test_supervise_predecessor_without_a_word_is_settled(make_run: Make, start: Start) -> None:
    run = make_run(STUBBORN)
    first = start(run)
    until(ready(run))
    first.kill()
    first.wait()
    for pid in alive(str(run.path)):
        with contextlib.suppress(ProcessLookupError):  # it dies with its supervisor
            os.kill(int(pid), signal.SIGKILL)
    plan = read_json(run.plan)
    plan["plans"][0]["pools"][0]["program"] = [sys.executable, "-c", "pass"]
    write_json(run.plan, plan)
    for path in (run.member(0).path / "attempt-0").iterdir():  # an hour in the queue: nobody ran then
        os.utime(path, (path.stat().st_mtime - 3600,) * 2)

    assert ended(start(run)) == 0

    assert (outcome(run, attempt=0)["state"], outcome(run, attempt=0)["cause"]) == ("REQUEUED", "node_failure")
    assert outcome(run, attempt=1)["started"] - outcome(run, attempt=0)["ended"] > 3500
    assert outcome(run, attempt=1)["state"] == "SUCCEEDED"


def test_supervise_outcome_of_an_ended_predecessor_is_left_alone(make_run: Make, start: Start) -> None:
    run = make_run("raise SystemExit(3)")
    ended(start(run))
    before = outcome(run)

    ended(start(run))

    assert outcome(run, attempt=0) == before


def test_supervise_failed_rendezvous_is_tried_again_here(make_run: Make, start: Start) -> None:
    code = "import os, sys\nif os.environ['FAIRLEAD_ATTEMPT'] == '0':\n    sys.exit('DistNetworkError: EADDRINUSE')"
    run = make_run(code)

    assert ended(start(run)) == 0

    assert [outcome(run, attempt=n)["state"] for n in (0, 1)] == ["RESTARTED", "SUCCEEDED"]


def test_supervise_rendezvous_that_never_works_is_a_failure(make_run: Make, start: Start) -> None:
    run = make_run("import sys; sys.exit('DistNetworkError: EADDRINUSE')")

    assert ended(start(run, patch="import launchers.host.policy as p; p.PAUSES_S = (0.0,)")) == 1

    assert [outcome(run, attempt=n)["state"] for n in range(3)] == ["RESTARTED", "RESTARTED", "FAILED"]
    assert len(run.member(0).attempts()) == 3


def test_supervise_scripts_are_private(make_run: Make, start: Start) -> None:
    run = make_run("pass", env={"MY_TOKEN": "x"})
    ended(start(run))
    (attempt,) = run.member(0).attempts()

    assert [p.name for p in (attempt.path, *attempt.path.iterdir()) if p.stat().st_mode & 0o077] == []


def test_supervise_image_that_is_not_there_is_a_site_failure(make_run: Make, start: Start, workdir: Path) -> None:
    run = make_run("pass")
    plan = read_json(run.plan)
    box = {
        "executable": "apptainer",
        "image": str(workdir / "no.sif"),
        "digest": "sha256:" + "0" * 64,
        "flags": [],
        "mounts": [],
    }
    plan["plans"][0]["pools"][0]["container"] = box
    write_json(run.plan, plan)

    assert ended(start(run)) == 1

    assert (outcome(run)["state"], outcome(run)["cause"]) == ("FAILED", "site")
    assert "no.sif" in outcome(run)["message"]


# --- on Slurm -----------------------------------------------------------------------------------------

FAKE_SRUN = """
import re, signal, subprocess, time
options = dict(a[2:].partition("=")[::2] for a in sys.argv[1:] if a.startswith("--"))
script, tasks, each = sys.argv[-1], int(options["ntasks"]), int(options["ntasks-per-node"])
children = []
for t in range(tasks):
    path = re.sub("%(.)", lambda m: {"%": "%", "t": str(t)}[m[1]], options["output"])
    env = {**os.environ, "SLURM_PROCID": str(t), "SLURM_LOCALID": str(t % each), "SLURM_NODEID": str(t // each),
           "SLURM_STEP_NUM_TASKS": str(tasks)}
    with open(path, "ab") as out:
        children.append(subprocess.Popen([script], env=env, stdout=out, stderr=out, start_new_session=True))
with open(os.environ["FAKE_PIDS"] + ".tmp", "w") as f:
    f.write(" ".join(str(c.pid) for c in children))
os.replace(f.name, os.environ["FAKE_PIDS"])
def force(*_):
    print("srun: forcing job termination", flush=True)
    [c.kill() for c in children if c.poll() is None]
signal.signal(signal.SIGTERM, force)
code = 0
while any(c.poll() is None for c in children):
    for t, c in enumerate(children):
        if c.poll() and not code:
            code = c.returncode if c.returncode > 0 else 128 - c.returncode
            print(f"srun: error: n{t // each + 1}: task {t}: Exited with exit code {code}", flush=True)
            if code != 75:
                [o.kill() for o in children if o.poll() is None]
    time.sleep(0.02)
codes = [c.returncode for c in children if c.returncode]
sys.exit(code or (codes[0] if codes else 0))
"""
FAKE_SCANCEL = """
import signal, time
while not os.path.exists(os.environ["FAKE_PIDS"]):  # ranks may be ready before srun has written down who they are
    time.sleep(0.02)
number = next(a.partition("=")[2] for a in sys.argv if a.startswith("--signal="))
for pid in open(os.environ["FAKE_PIDS"]).read().split():
    os.kill(int(pid), getattr(signal, "SIG" + number))
"""
STEPS = """
if "--steps" in sys.argv:
    print("40_1.batch 40_1.extern 40_1.3", sep="\\n")
    sys.exit()
"""
SCONTROL = """
print("n1\\nn2" if "hostnames" in sys.argv else "JobState=RUNNING")
"""
IN_A_JOB = {"SLURM_JOB_ID": "42", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "1", "SLURM_RESTART_COUNT": "2"}


@pytest.fixture
def on_slurm(fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Slurm whose step runs here."""
    monkeypatch.setenv("FAKE_PIDS", str(tmp_path / "pids"))
    fakes.put("srun", FAKE_SRUN)
    fakes.put("scancel", FAKE_SCANCEL)
    fakes.put("scontrol", SCONTROL)
    fakes.put("squeue", STEPS)
    return fakes


def tell_ranks(tmp_path: Path) -> None:
    """By SIGTERM, as Slurm does."""
    until((tmp_path / "pids").exists)
    for pid in (tmp_path / "pids").read_text().split():
        os.kill(int(pid), signal.SIGTERM)


def test_supervise_slurm_step_has_its_ranks_and_logs(on_slurm: Any, make_run: Make, start: Start) -> None:
    run = make_run(REPORT + "; print(os.environ['RANK'])", ranks=2, nodes=2, launcher="slurm", name="100% d")

    assert ended(start(run, SLURM_JOB_ID="42")) == 0

    (attempt,) = run.member(0).attempts()
    assert [attempt.rank_log(r).read_text() for r in range(4)] == ["0\n", "1\n", "2\n", "3\n"]
    envs = [json.loads((attempt.path / f"env-{r}").read_text()) for r in range(4)]
    assert [(e["RANK"], e["LOCAL_RANK"], e["NODE_RANK"], e["WORLD_SIZE"]) for e in envs] == [
        ("0", "0", "0", "4"),
        ("1", "1", "0", "4"),
        ("2", "0", "1", "4"),
        ("3", "1", "1", "4"),
    ]
    assert envs[0]["MASTER_ADDR"] == socket.gethostname()


def test_supervise_slurm_array_element_takes_its_own_member(on_slurm: Any, make_run: Make, start: Start) -> None:
    run = make_run("pass", members=2, launcher="slurm")

    assert ended(start(run, **IN_A_JOB)) == 0

    place = read_json(run.member(1).attempts()[0].path / "started.json")
    assert not run.member(0).path.exists()
    assert (place["slurm_job_id"], place["slurm_array_job_id"], place["slurm_restart_count"]) == ("42", "40", "2")


def test_supervise_slurm_failing_task_is_named(on_slurm: Any, make_run: Make, start: Start) -> None:
    run = make_run(
        "import os, sys, time\nif os.environ['RANK'] == '1':\n    sys.exit(6)\ntime.sleep(600)",
        ranks=2,
        launcher="slurm",
    )

    assert ended(start(run, SLURM_JOB_ID="42")) == 1

    assert (outcome(run)["first_rank"], outcome(run)["host"], outcome(run)["exit_code"]) == (1, "n1", 6)


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


@pytest.mark.parametrize("squeue", ["sys.exit('Unable to contact slurm controller')", "print('40_1.batch')"])
def test_supervise_slurm_tells_the_whole_job_when_it_names_no_step(
    on_slurm: Any, make_run: Make, start: Start, squeue: str
) -> None:
    on_slurm.put("squeue", squeue)
    run = make_run(SAVE_ON_TERM, launcher="slurm")
    process = start(run, patch="import launchers.host.element as s; s.REQUEUE_WAIT_S = 0", SLURM_JOB_ID="42")
    until(ready(run))

    process.send_signal(signal.SIGUSR2)

    ended(process)
    assert outcome(run)["state"] == "REQUEUED"
    assert [c["argv"] for c in on_slurm.calls("scancel")] == [["--signal=USR2", "42"]]


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
    on_slurm.put("squeue", "sys.exit('slurm_load_jobs error: Unable to contact slurm controller')")
    run = make_run(SAVE_ON_TERM.replace("print(", "time.sleep(2); print("), launcher="slurm", notice_s=1)
    process = start(run, patch="import launchers.host.element as s; s.REQUEUE_WAIT_S = 0", SLURM_JOB_ID="42")
    until(ready(run))

    process.send_signal(signal.SIGUSR2)

    ended(process)
    assert (outcome(run)["state"], log(run, 0)) == ("REQUEUED", "saved\n")


def test_supervise_slurm_requeues_are_limited(on_slurm: Any, make_run: Make, start: Start) -> None:
    run = make_run("raise SystemExit(75)", launcher="slurm", max_requeues=2)
    patch = "import launchers.host.element as s; s.REQUEUE_WAIT_S = 0"

    for _ in range(3):
        ended(start(run, patch=patch, SLURM_JOB_ID="42"))

    assert [outcome(run, attempt=n)["state"] for n in range(3)] == ["REQUEUED", "REQUEUED", "FAILED"]
    assert "max_requeues is 2" in outcome(run)["message"]


@pytest.mark.parametrize(
    "scontrol", ["sys.exit('slurm_requeue error: Requested operation is presently disabled')", None]
)
def test_supervise_slurm_requeue_refused_is_a_failure_with_slurms_words(
    on_slurm: Any, make_run: Make, start: Start, monkeypatch: pytest.MonkeyPatch, scontrol: str | None
) -> None:
    on_slurm.put("scontrol", scontrol or "")
    if scontrol is None:
        (on_slurm.folder / "scontrol").unlink()
        on_slurm.alone(monkeypatch, "sh", "env", "mkdir")
    run = make_run("raise SystemExit(75)", launcher="slurm")
    patch = "import launchers.host.element as s; s.REQUEUE_WAIT_S = 0; s.time.sleep = lambda _: None"

    assert ended(start(run, patch=patch, SLURM_JOB_ID="42")) == 1

    assert outcome(run)["state"] == "FAILED"
    assert ("disabled" if scontrol else "scontrol") in outcome(run)["message"]


def test_supervise_slurm_without_srun_is_a_site_failure(
    on_slurm: Any, make_run: Make, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (on_slurm.folder / "srun").unlink()
    on_slurm.alone(monkeypatch, "sh")
    run = make_run("pass", launcher="slurm")

    assert ended(start(run, SLURM_JOB_ID="42")) == 1

    assert outcome(run)["cause"] == "site"
    assert "srun" in outcome(run)["message"]


def test_supervise_disk_full_while_running_is_still_a_failure(make_run: Make, start: Start) -> None:
    """A full disk fails the attempt; it must not end the supervisor without a word on its own output."""
    patch = """
import launchers.host.trying as t
real = t.write_json
def full(path, document):
    if path.name == "spec.json":
        raise OSError(28, "No space left on device")
    real(path, document)
t.write_json = full
"""
    run = make_run("pass")

    assert ended(start(run, patch=patch)) == 1

    assert "No space left" in outcome(run)["message"]


def test_plan_document_of_these_tests_is_a_real_plan(make_run: Make) -> None:

    (plan,) = plans_from(read_json(make_run("pass").plan))

    assert dataclasses.asdict(plan)["pools"][0]["name"] == "workerpool0"


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


# --- a search's member, before it has a point -----------------------------------------------------------


@pytest.mark.parametrize(
    ("launcher", "before", "state", "requeued"),
    [("slurm", 0, "REQUEUED", ["42"]), ("slurm", 3, "FAILED", []), ("local", 0, "FAILED", [])],
)
def test_supervise_member_that_cannot_ask_is_put_back_as_often_as_it_may(
    on_slurm: Any, make_run: Make, start: Start, launcher: str, before: int, state: str, requeued: list[str]
) -> None:
    run = make_run("print(1)", launcher=launcher)
    run.members_file.unlink()
    append_line(run.members_file, {"index": 0, "point": {}, "sections": {}, "late": True})
    for number in range(before):
        attempt = run.member(0).path / f"attempt-{number}"
        attempt.mkdir(parents=True)
        write_json(attempt / "outcome.json", {"state": "REQUEUED", "cause": "site"})
    (run.path / "study").mkdir()
    impatient = (
        "import launchers.search.ask as a, launchers.host.element as e; a.LOCK_LIMIT_S = 0.2; e.REQUEUE_WAIT_S = 0"
    )
    with locked(run.path / "study" / "ask.lock"):
        assert ended(start(run, patch=impatient, SLURM_JOB_ID="42")) == 1

    assert (outcome(run)["state"], outcome(run)["cause"]) == (state, "site")
    assert "no point for member 0: ask.lock was held by others for 0.2 s" in outcome(run)["message"]
    assert [c["argv"][1] for c in on_slurm.calls("scontrol") if c["argv"][0] == "requeue"] == requeued
    assert (run.ended / f"0.{before}.FAILED").exists() == (state == "FAILED")


def test_supervise_slurm_host_lost_after_the_outcome_runs_nothing_again(
    on_slurm: Any, make_run: Make, start: Start
) -> None:
    run = make_run("print(1)", launcher="slurm")
    assert ended(start(run, SLURM_JOB_ID="42")) == 0
    (entry,) = run.ended.iterdir()
    entry.unlink()  # it was killed before it had made it

    assert ended(start(run, SLURM_JOB_ID="42", SLURM_RESTART_COUNT="1")) == 0
    assert (len(run.member(0).attempts()), entry.exists()) == (1, True)

    assert ended(start(run, SLURM_JOB_ID="43")) == 0
    assert len(run.member(0).attempts()) == 2, "asked for in a job of its own it runs again"


def test_supervise_hosts_clock_that_is_wrong_is_in_no_outcome(make_run: Make, start: Start) -> None:
    run = make_run("print(1)")
    ahead = "import time; clock = time.time; time.time = lambda: clock() + 3600"

    assert ended(start(run, patch=ahead)) == 0

    begun = read_json(run.member(0).attempts()[0].path / "started.json")["started"]
    wrote = (run.member(0).attempts()[0].path / "outcome.json").stat().st_mtime
    assert outcome(run)["started"] == begun <= outcome(run)["ended"] <= wrote


# --- a host that is to blame --------------------------------------------------------------------------

TALKING = """
if sys.argv[1:3] == ["show", "job"]:
    print("JobState=RUNNING Partition=batch NumNodes=1 Features=%s ReqNodeList=(null) ExcNodeList=%s")
elif sys.argv[1:3] == ["show", "hostnames"]:
    print("n2\\nn3")
"""
CRASHES = "import os, time; time.sleep(0.2); os.environ['RANK'] == '0' and os.kill(os.getpid(), 11); time.sleep(600)"
ELSEWHERE = Restarts(crash=1, elsewhere=1)


@pytest.mark.parametrize(
    ("features", "excluded", "hosts", "avoided"),
    [
        ("(null)", "(null)", "n1 n2 n3 n4", "n1"),
        ("(null)", "n[2-3]", "n1 n2 n3 n4", "n1,n2,n3"),
        ("(null)", "n[2-3]", "n1 n2 n3", ""),
        ("bigmem", "(null)", "n1 n2 n3 n4", ""),
        ("(null)", "(null)", "n1", ""),
    ],
    ids=["others are there", "one more", "all excluded", "by feature", "alone"],
)
def test_supervise_slurm_host_on_which_every_attempt_crashed_is_avoided(
    on_slurm: Any, make_run: Make, start: Start, features: str, excluded: str, hosts: str, avoided: str
) -> None:
    on_slurm.put("scontrol", TALKING % (features, excluded))
    on_slurm.put("sinfo", f"print('{hosts}')")
    run = make_run(CRASHES, ranks=2, launcher="slurm", restarts=ELSEWHERE)
    patch = "import launchers.host.element as s, launchers.host.policy as p; s.REQUEUE_WAIT_S = 0; p.PAUSES_S = (0.0,)"

    ended(start(run, patch=patch, SLURM_JOB_ID="42"))

    assert [outcome(run, attempt=n)["state"] for n in (0, 1)] == ["RESTARTED", "REQUEUED" if avoided else "FAILED"]
    assert outcome(run)["avoided"] == avoided
    said = [c["argv"] for c in on_slurm.calls("scontrol") if c["argv"][0] in ("requeue", "update")]
    assert said == ([["requeue", "42"], ["update", "JobId=42", f"ExcNodeList={avoided}"]] if avoided else [])


def test_supervise_slurm_goes_elsewhere_as_often_as_it_may(on_slurm: Any, make_run: Make, start: Start) -> None:
    on_slurm.put("scontrol", TALKING % ("(null)", "(null)"))
    on_slurm.put("sinfo", "print('n1 n2 n3 n4')")
    run = make_run(CRASHES, ranks=2, launcher="slurm", restarts=ELSEWHERE)
    patch = "import launchers.host.element as s, launchers.host.policy as p; s.REQUEUE_WAIT_S = 0; p.PAUSES_S = (0.0,)"

    for _ in range(2):
        ended(start(run, patch=patch, SLURM_JOB_ID="42"))

    states = [outcome(run, attempt=n)["state"] for n in range(4)]
    assert states == ["RESTARTED", "REQUEUED", "RESTARTED", "FAILED"]
    assert "1 restart(s) in a row left no newer checkpoint" in outcome(run)["message"]


@pytest.mark.parametrize(
    ("lost", "nodes", "goes"),
    [
        (("n2", "n2"), "n[2-3]", True),
        (("n4", "n4"), "n[2-3]", False),
        (("n3", "n2"), "n[2-3]", False),
        (("n2",), "n2", False),
    ],
    ids=["again", "it is not among them", "two hosts", "once"],
)
def test_supervise_slurm_host_that_was_lost_twice_and_is_given_again_is_avoided(
    on_slurm: Any, make_run: Make, start: Start, lost: tuple[str, ...], nodes: str, goes: bool
) -> None:
    on_slurm.put("scontrol", TALKING % ("(null)", "(null)"))
    on_slurm.put("sinfo", "print('n1 n2 n3 n4')")
    run = make_run("print('trained')", launcher="slurm", restarts=ELSEWHERE)
    for number, host in enumerate(lost):
        attempt = run.member(0).path / f"attempt-{number}"
        attempt.mkdir(parents=True)
        write_json(attempt / "started.json", {"host": host, "pid": 1, "started": 0.0})
    patch = "import launchers.host.element as s; s.REQUEUE_WAIT_S = 0"

    ended(start(run, patch=patch, SLURM_JOB_ID="42", SLURM_JOB_NODELIST=nodes))

    said = [c["argv"] for c in on_slurm.calls("scontrol") if c["argv"][0] in ("requeue", "update")]
    assert said == ([["requeue", "42"], ["update", "JobId=42", "ExcNodeList=n2"]] if goes else [])
    state, cause = ("REQUEUED", "node_failure") if goes else ("SUCCEEDED", "succeeded")
    assert (outcome(run)["state"], outcome(run)["cause"]) == (state, cause)


def test_word_of_rank_0_that_a_kill_left_torn_is_no_word(make_run: Make, start: Start) -> None:
    """The end of its process may come in the middle of it."""
    code = "import os; open(os.environ['FAIRLEAD_ATTEMPT_DIR'] + '/left.json', 'w').write('{\"mess'); os._exit(1)"
    run = make_run(code)

    process = start(run)

    said, _ = process.communicate(timeout=60)
    assert (process.returncode, outcome(run)["cause"]) == (1, "user_error"), said
