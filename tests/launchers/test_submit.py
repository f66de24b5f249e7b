"""Handing a run to Slurm, with a fake sbatch: what it is called with, and what it may refuse."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launchers.errors import CommandError
from launchers.queue import submit as submit_module
from launchers.queue.repair import repair
from launchers.queue.submit import submit
from launchers.run_folder.journal import Journal, Submission
from launchers.run_folder.record import Run, read_lines, write_json
from tests.cluster.harness import until


def queue(workdir: Path) -> list[dict[str, Any]]:
    return read_lines(workdir / "queue.jsonl")


def submissions(run: Run) -> dict[str, Submission]:
    return {s.intent: s for s in Journal(run).submissions()}


# --- submitting ---------------------------------------------------------------------------------------


def test_submit_members_and_the_finish_step_that_waits_for_them(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, plan = slurm_run(members=4)

    submit(run, [plan], range(4))

    members, finish = queue(workdir)
    assert (members["name"], members["array"]) == ("d-1", "0-3")
    assert (finish["name"], finish["after"]) == ("d-1.finish", "100")
    found = submissions(run)
    assert (found["d-1"].slurm_id, found["d-1.finish"].slurm_id, found["d-1.finish"].after) == ("100", "101", "100")


def test_submit_a_thousand_members_is_two_calls(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, plan = slurm_run(members=1000)

    submit(run, [plan], range(1000))

    assert [j["array"] for j in queue(workdir)] == ["0-999", ""]


def test_submit_intent_is_on_disk_before_sbatch_runs(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, plan = slurm_run()
    cluster.put(
        "sbatch",
        f"open({str(workdir / 'seen')!r}, 'a').write(open({str(run.journal)!r}).read())" + cluster.texts["sbatch"],
    )

    submit(run, [plan], [0])

    assert json.loads((workdir / "seen").read_text().splitlines()[0])["intent"] == "d-1"


def test_submit_script_stays_in_the_run_folder(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, plan = slurm_run()

    submit(run, [plan], [0])

    texts = [p.read_text() for p in submit_module.script_folder(run, "d-1").iterdir() if p.is_file()]
    assert any("#SBATCH --job-name=d-1\n" in text for text in texts)


def test_submit_writes_no_pickle(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, plan = slurm_run()

    submit(run, [plan], [0])

    assert [p for p in run.path.rglob("*") if p.suffix in (".pkl", ".pickle")] == []


def test_submit_forgets_the_enclosing_job_but_keeps_the_clusters_address(
    slurm_run: Any, cluster: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plan = slurm_run()
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SBATCH_PARTITION", "SLURM_CPU_BIND"):
        monkeypatch.setenv(name, "inherited")
    monkeypatch.setenv("SLURM_CONF", "/etc/my/slurm.conf")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")

    submit(run, [plan], [0])

    env = cluster.calls("sbatch")[0]["env"]
    assert [n for n in env if n.startswith(("SLURM", "SBATCH"))] == ["SLURM_CONF"]
    assert env["MLFLOW_TRACKING_TOKEN"] == "t"
    assert os.environ["SLURM_JOB_ID"] == "inherited"


def test_submit_refused_says_sbatchs_words_and_abandons(
    slurm_run: Any, cluster: Any, workdir: Path, capfd: Any
) -> None:
    run, plan = slurm_run()
    cluster.put("sbatch", "sys.exit('sbatch: error: invalid partition specified: nope')")

    with pytest.raises(CommandError, match="invalid partition specified: nope"):
        submit(run, [plan], [0])

    (found,) = Journal(run).submissions()
    assert not found.is_open
    assert "invalid partition" in str(found.abandoned)
    assert capfd.readouterr().err == ""


def test_submit_finish_refused_keeps_the_members_known(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, plan = slurm_run()
    cluster.put(
        "sbatch",
        "if '.finish\\n' in open(sys.argv[1]).read():\n    sys.exit('sbatch: error: QOSMaxSubmitJobPerUserLimit')\n"
        + cluster.texts["sbatch"],
    )

    with pytest.raises(CommandError, match="QOSMaxSubmit"):
        submit(run, [plan], [0])

    assert submissions(run)["d-1"].slurm_id == "100"


def test_submit_without_sbatch_names_it(
    slurm_run: Any, cluster: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plan = slurm_run()
    (cluster.folder / "sbatch").unlink()
    cluster.alone(monkeypatch, "flock", "timeout")

    with pytest.raises(CommandError, match="sbatch") as caught:
        submit(run, [plan], [0])

    assert caught.value.exit_code == 3
    assert not Journal(run).submissions()[0].is_open


def test_submit_without_flock_names_it(
    slurm_run: Any, cluster: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plan = slurm_run()
    cluster.alone(monkeypatch, "timeout")

    with pytest.raises(CommandError, match="flock"):
        submit(run, [plan], [0])

    assert queue(workdir) == []


@pytest.mark.parametrize(
    ("end", "limit_s"),
    [
        ("print('what a fine day')", 120),
        ("sys.stdout.close(); os.kill(os.getpid(), 9)", 120),
        ("sys.exit('sbatch: error: Batch job submission failed: Socket timed out on send/recv operation')", 120),
        ("time.sleep(600)", 15),  # long enough for it to have queued the job first
    ],
)
def test_submit_accepted_without_an_answer_is_not_given_up(
    slurm_run: Any, cluster: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch, end: str, limit_s: int
) -> None:
    """Slurm has the job, and sbatch could not say so: a retry must not queue the members a second time."""
    monkeypatch.setattr(submit_module, "SBATCH_LIMIT_S", limit_s)
    run, plan = slurm_run()
    cluster.put("sbatch", cluster.texts["sbatch"].rpartition("print(")[0] + end)

    with pytest.raises(CommandError):
        submit(run, [plan], [0])
    cluster.put("sbatch", cluster.texts["sbatch"])
    repair(run)

    found = submissions(run)["d-1"]
    assert (found.slurm_id, found.abandoned) == ("100", None)
    assert [j["name"] for j in queue(workdir)] == ["d-1", "d-1.finish"]


def test_submit_again_is_a_submission_of_its_own(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, plan = slurm_run(members=3)
    submit(run, [plan], range(3))

    submit(run, [plan], [1])

    assert [(j["name"], j["array"], j["after"]) for j in queue(workdir)] == [
        ("d-1", "0-2", ""),
        ("d-1.finish", "", "100"),
        ("d-1.r1", "", ""),
        ("d-1.r1.finish", "", "100:102"),
    ]


# --- through the command ------------------------------------------------------------------------------

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def test_launch_queues_and_status_finds_it(cluster: Any, workdir: Path, fairlead: Command) -> None:
    done = fairlead("launch", "launcher=slurm", "machine=cpu-small", "tracking=none", "seed=1,2", "-m", "--json")

    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["job"]
    status = json.loads(fairlead("status", job, "--json").stdout)
    assert (status["state"], [m["state"] for m in status["members"]]) == ("QUEUED", ["QUEUED", "QUEUED"])
    assert status["slurm_ids"] == ["100"]


def test_launch_refused_by_sbatch_exits_with_3_and_its_words(cluster: Any, workdir: Path, fairlead: Command) -> None:
    cluster.put("sbatch", "sys.exit('sbatch: error: Invalid account or account/partition combination specified')")

    done = fairlead("launch", "launcher=slurm", "machine=cpu-small", "tracking=none")

    assert (done.returncode, "Traceback" in done.stderr) == (3, False)
    assert "Invalid account" in done.stderr


def test_status_queue_that_does_not_answer_exits_with_3_in_three_lines(
    slurm_run: Any, cluster: Any, workdir: Path, fairlead: Command
) -> None:
    run, plan = slurm_run()
    submit(run, [plan], [0])
    cluster.put("squeue", "sys.exit('slurm_load_jobs error: Unable to contact slurm controller (connect failure)')")

    done = fairlead("status", "d-1")

    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (3, "", 3)
    assert "Unable to contact slurm controller" in lines[0]
    assert lines[1].startswith("  where  squeue ")
    assert "scontrol ping" in lines[2]
    assert done.stderr.isprintable() or not [c for c in done.stderr if ord(c) < 32 and c != "\n"]


def test_cancel_names_the_members_job_alone(slurm_run: Any, cluster: Any, workdir: Path, fairlead: Command) -> None:
    run, plan = slurm_run()
    submit(run, [plan], [0])

    assert fairlead("cancel", "d-1").returncode == 0

    assert [c["argv"] for c in cluster.calls("scancel")] == [["100"]]
    assert run.cancelled.exists()
    assert json.loads(fairlead("status", "d-1", "--json").stdout)["state"] == "CANCELLING"


def test_retry_while_it_runs_is_refused(slurm_run: Any, cluster: Any, workdir: Path, fairlead: Command) -> None:
    run, plan = slurm_run()
    submit(run, [plan], [0])

    done = fairlead("retry", "d-1")

    assert (done.returncode, "QUEUED" in done.stderr) == (2, True)
    assert len(queue(workdir)) == 2


def test_retry_queues_what_failed(slurm_run: Any, cluster: Any, workdir: Path, fairlead: Command) -> None:
    run, plan = slurm_run(members=3)
    submit(run, [plan], range(3))
    cluster.put("squeue", "pass")
    for index, state in enumerate(("SUCCEEDED", "FAILED", "FAILED")):
        attempt = run.member(index).path / "attempt-0"
        attempt.mkdir(parents=True)
        write_json(attempt / "outcome.json", {"state": state, "cause": "x", "message": "y"})

    done = fairlead("retry", "d-1", "--json")

    assert json.loads(done.stdout) == {"job": "d-1", "members": [1, 2]}
    assert [(j["name"], j["array"]) for j in queue(workdir)][2:] == [("d-1.r1", "1-2"), ("d-1.r1.finish", "")]


# --- while sbatch is on its way -----------------------------------------------------------------------

ONE = ("launch", "launcher=slurm", "machine=cpu-small", "tracking=none", "--json")
SLOW = """
import time
while "--version" not in sys.argv and not os.path.exists(os.environ["FAKE_QUEUE"] + ".go"):
    time.sleep(0.02)
"""


def started(*words: str) -> subprocess.Popen[str]:
    """The command, beside the test."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-m", "launchers.cli", *words]
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def go(workdir: Path) -> None:
    """Slurm answers: to this sbatch and to all that follow."""
    (workdir / "queue.jsonl.go").touch()


@pytest.fixture
def slow_launch(cluster: Any, workdir: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], Run]]]:
    """A launch whose sbatch waits for `go`, and its run folder as soon as sbatch has begun."""
    cluster.put("sbatch", SLOW + cluster.texts["sbatch"])
    begun: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], Run]:
        begun.append(started(*ONE))
        until(lambda: any("--version" not in call["argv"] for call in cluster.calls("sbatch")), 90, pause_s=0.02)
        (path,) = (workdir / "runs").glob("run-*/submit.jsonl")
        return begun[-1], Run(path.parent)

    yield start
    go(workdir)  # also an sbatch whose launch was killed
    for process in begun:
        process.kill()
        process.communicate()


def test_status_of_a_submission_in_flight_is_queued(slow_launch: Any, fairlead: Command) -> None:
    _, run = slow_launch()

    status = json.loads(fairlead("status", str(run.path), "--json").stdout)

    assert (status["state"], status["members"][0]["message"]) == ("QUEUED", "is being submitted")


def test_status_of_a_killed_clients_submission_in_flight_is_queued(slow_launch: Any, fairlead: Command) -> None:
    client, run = slow_launch()
    client.kill()
    client.wait()

    status = json.loads(fairlead("status", str(run.path), "--json").stdout)

    assert (status["state"], status["members"][0]["message"]) == ("QUEUED", "is being submitted")


def waits(process: subprocess.Popen[str], run: Run) -> bool:
    """Whether it has come to the lock that the launch holds."""
    for fd in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if fd.readlink().name == run.change_lock.name:
                return True
    return False


def test_retry_of_a_submission_in_flight_is_refused(slow_launch: Any, workdir: Path) -> None:
    client, run = slow_launch()

    with started("retry", run.id) as retry:
        until(lambda: waits(retry, run), 90, pause_s=0.02)
        go(workdir)
        _, said = retry.communicate(timeout=90)

    assert (retry.returncode, "the job is QUEUED" in said) == (2, True)
    assert client.wait(90) == 0
    assert [row["name"] for row in queue(workdir)] == [run.id, f"{run.id}.finish"]


def test_cancel_of_a_submission_in_flight_reaches_it(slow_launch: Any, cluster: Any, workdir: Path) -> None:
    client, run = slow_launch()

    with started("cancel", run.id) as cancel:
        until(run.cancelled.exists, 90, pause_s=0.02)
        go(workdir)
        said, _ = cancel.communicate(timeout=90)

    assert (cancel.returncode, said) == (0, f"{run.id} is being cancelled\n")
    assert client.wait(90) == 0
    (call,) = cluster.calls("scancel")
    assert call["argv"] == ["100"]


def test_wait_goes_on_while_the_finish_step_is_still_to_be_queued(
    slow_launch: Any, fairlead: Command, workdir: Path
) -> None:
    client, run = slow_launch()
    attempt = run.member(0).path / "attempt-0"
    attempt.mkdir(parents=True)
    write_json(attempt / "outcome.json", {"state": "SUCCEEDED", "cause": "succeeded", "message": "", "last_lines": []})

    done = fairlead("wait", run.id, "--timeout-s", "1")

    assert (done.returncode, "has not ended within 1 s" in done.stderr) == (3, True)
    go(workdir)
    assert client.wait(90) == 0


def test_cancelled_member_stays_so_when_another_is_retried(slurm_run: Any, cluster: Any, fairlead: Command) -> None:
    run, plan = slurm_run(members=2)
    submit(run, [plan], [0, 1])
    write_json(run.cancelled, {"by": "me", "t": time.time()})
    cluster.put("squeue", "")
    assert fairlead("retry", run.id, "--member", "0").returncode == 0

    status = json.loads(fairlead("status", run.id, "--json").stdout)

    assert [(m["state"], m["message"]) for m in status["members"]][1] == ("CANCELLED", "cancelled by the user")
