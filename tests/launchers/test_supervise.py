"""A member's life on its host, with real processes: how an attempt that ends by itself is recorded."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from pathlib import Path

import pytest

from launchers.plan import plans_from
from launchers.run_folder.record import late_row, make_private, read_json, write_json, write_text
from tests.launchers.attempted import Make, Start, ended
from tests.launchers.supervised import log, maker, outcome


@pytest.fixture
def make_run(workdir: Path) -> Make:
    return maker(workdir)


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


def test_supervise_member_has_the_runs_spec_with_its_own_sections(make_run: Make, start: Start) -> None:
    run = make_run("pass", members=3)

    assert ended(start(run, "--member", "2")) == 0

    assert read_json(run.member(2).spec) == {**read_json(run.spec), "model": {"kind": "cnn", "options": {"width": 2}}}


def test_supervise_point_that_the_check_refused_is_not_trained_with_another(make_run: Make, start: Start) -> None:
    """Its trial is infeasible; the run's own values would be recorded as that point's."""
    run = make_run("print('trained')", search=True)
    write_text(run.members_file, json.dumps(late_row(0)) + "\n")
    make_private(run.member(0).path)
    write_json(run.member(0).point, {"point": {"model.width": 0}, "sections": {}, "infeasible": "model.width is 0"})

    assert ended(start(run)) == 1

    assert (outcome(run)["state"], outcome(run)["cause"]) == ("FAILED", "infeasible")
    assert outcome(run)["message"] == "its point cannot be trained: model.width is 0"
    assert not list(run.path.glob("members/0/attempt-0/rank-*.log"))


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


def test_supervise_attempts_are_numbered_and_checkpoints_kept(make_run: Make, start: Start) -> None:
    run = make_run(
        "import os; open(os.environ['AIP_CHECKPOINT_DIR'] + os.environ['FAIRLEAD_ATTEMPT'], 'w'); raise SystemExit(1)"
    )

    assert [ended(start(run)) for _ in range(3)] == [1, 1, 1]

    assert [a.number for a in run.member(0).attempts()] == [0, 1, 2]
    assert sorted(p.name for p in run.member(0).checkpoints.iterdir()) == ["0", "1", "2"]


def test_supervise_outcome_of_an_ended_predecessor_is_left_alone(make_run: Make, start: Start) -> None:
    run = make_run("raise SystemExit(3)")
    ended(start(run))
    before = outcome(run)

    ended(start(run))

    assert outcome(run, attempt=0) == before


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


def test_supervise_hosts_clock_that_is_wrong_is_in_no_outcome(make_run: Make, start: Start) -> None:
    run = make_run("print(1)")
    ahead = "import time; clock = time.time; time.time = lambda: clock() + 3600"

    assert ended(start(run, patch=ahead)) == 0

    begun = read_json(run.member(0).attempts()[0].path / "started.json")["started"]
    wrote = (run.member(0).attempts()[0].path / "outcome.json").stat().st_mtime
    assert outcome(run)["started"] == begun <= outcome(run)["ended"] <= wrote


def test_word_of_rank_0_that_a_kill_left_torn_is_no_word(make_run: Make, start: Start) -> None:
    """The end of its process may come in the middle of it."""
    code = "import os; open(os.environ['FAIRLEAD_ATTEMPT_DIR'] + '/left.json', 'w').write('{\"mess'); os._exit(1)"
    run = make_run(code)

    process = start(run)

    said, _ = process.communicate(timeout=60)
    assert (process.returncode, outcome(run)["cause"]) == (1, "user_error"), said
