"""After a crash: what became of a submission that was meant and never confirmed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launchers.errors import CommandError
from launchers.parts import Part
from launchers.queue import repair as repair_module
from launchers.queue import submit as submit_module
from launchers.queue.repair import repair
from launchers.queue.submit import submit
from launchers.run_folder.journal import Journal, Submission
from launchers.run_folder.record import Run, read_json, read_lines, write_json
from tests.cluster.harness import until

CLIENT = """
import sys
from pathlib import Path
from launchers.plan import plans_from
from launchers.run_folder.record import Run, read_json
from launchers.queue.submit import submit
run = Run(Path(sys.argv[1]))
plans = plans_from(read_json(run.plan))
print("ready", flush=True)
submit(run, plans, range(plans[0].members))
"""


def queue(workdir: Path) -> list[dict[str, Any]]:
    return read_lines(workdir / "queue.jsonl")


def submissions(run: Run) -> dict[str, Submission]:
    return {s.intent: s for s in Journal(run).submissions()}


def killed(run: Run, root: Path, pause: Callable[[], object], **env: str) -> None:
    """Submit in a process of its own and kill it, when it has begun and this pause is over."""
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(run.path)],
        env={**os.environ, "PYTHONPATH": str(root), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert client.stdout and client.stdout.readline() == b"ready\n"
    pause()
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdout.close()


def sbatch_begins(cluster: Any) -> object:
    """No other command of Slurm's is called before, and sbatch has its lock by then."""
    return until(cluster.log.exists, pause_s=0.02)


def settle(run: Run) -> None:
    """What any later verb does, until nothing is open and no sbatch is in flight."""

    def settled() -> bool:
        repair(run)
        return not any(s.is_open for s in Journal(run).submissions())

    until(settled, pause_s=0.1)


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.08, 0.2, 0.35, 0.5, 0.65, 0.8, 1.2])
def test_submit_killed_at_any_time_queues_once_and_forgets_nothing(
    slurm_run: Any, cluster: Any, workdir: Path, root: Path, after_s: float
) -> None:
    run, _ = slurm_run(members=2)

    killed(run, root, lambda: time.sleep(after_s), FAKE_BEFORE="0.15", FAKE_AFTER="0.15")
    settle(run)

    names = [j["name"] for j in queue(workdir)]
    assert len(set(names)) == len(names)
    known = {s.intent: s.slurm_id for s in Journal(run).submissions() if s.slurm_id}
    assert known == {j["name"]: str(j["id"]) for j in queue(workdir)}
    assert not any(s.is_open for s in Journal(run).submissions())
    members = [j for j in queue(workdir) if not j["name"].endswith("finish")]
    assert [j["after"] for j in queue(workdir) if j["name"].endswith("finish")] == [str(j["id"]) for j in members]


def test_repair_waits_for_an_sbatch_in_flight(
    slurm_run: Any, cluster: Any, workdir: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair_module, "BUSY_S", 60)
    run, _ = slurm_run()
    killed(run, root, lambda: sbatch_begins(cluster), FAKE_BEFORE="0.9")

    repair(run)

    assert submissions(run)["d-1"].slurm_id == "100"


def test_repair_does_nothing_while_an_sbatch_hangs(slurm_run: Any, cluster: Any, workdir: Path, root: Path) -> None:
    answers, run = workdir / "answers", slurm_run()[0]
    hangs = f"import time\nwhile not os.path.exists({str(answers)!r}):\n    time.sleep(0.02)\n"
    cluster.put("sbatch", hangs + cluster.texts["sbatch"])
    killed(run, root, lambda: sbatch_begins(cluster))
    before = run.journal.read_bytes()

    repair(run)

    assert run.journal.read_bytes() == before
    answers.touch()
    settle(run)
    assert submissions(run)["d-1"].slurm_id == "100"


def test_repair_finds_the_id_in_accounting_when_the_job_is_over(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, _ = slurm_run()
    Journal(run).intend(Part.whole(0))
    (workdir / "queue.jsonl").write_text('{"id": 77, "name": "d-1", "array": ""}\n')
    cluster.put("squeue", "pass")
    cluster.put("sacct", cluster.texts["sacct"])

    repair(run)

    assert submissions(run)["d-1"].slurm_id == "77"


def test_repair_finds_the_id_that_the_job_itself_wrote(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, _ = slurm_run()
    Journal(run).intend(Part.whole(0))
    cluster.put("squeue", "pass")
    cluster.put("sacct", "sys.exit('Slurm accounting storage is disabled')")
    attempt = run.member(0).path / "attempt-0"
    attempt.mkdir(parents=True)
    write_json(attempt / "started.json", {"slurm_job_id": "79", "slurm_array_job_id": "78"})

    repair(run)

    assert submissions(run)["d-1"].slurm_id == "78"


def test_repair_never_queued_is_abandoned_and_its_script_removed(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, _ = slurm_run()
    wanted = Journal(run).intend(Part.whole(0))
    folder = submit_module.script_folder(run, wanted.intent)
    folder.mkdir(parents=True)

    repair(run)

    assert submissions(run)["d-1"].abandoned
    assert not folder.exists()
    assert queue(workdir) == []


def test_repair_queue_that_does_not_answer_changes_nothing(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, _ = slurm_run()
    Journal(run).intend(Part.whole(0))
    before = run.journal.read_bytes()
    cluster.put("squeue", "sys.exit('slurm_load_jobs error: Unable to contact slurm controller')")

    with pytest.raises(CommandError, match="Unable to contact slurm controller"):
        repair(run)

    assert run.journal.read_bytes() == before


def test_repair_members_without_a_finish_step_get_one(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, _plan = slurm_run()
    journal = Journal(run)
    journal.reached(journal.intend(Part.whole(0)).intent, "100")
    begun = time.monotonic()

    repair(run)

    assert [(j["name"], j["after"]) for j in queue(workdir)] == [("d-1.finish", "100")]
    assert time.monotonic() - begun < 10


def test_repair_twice_queues_one_finish_step(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, _plan = slurm_run()
    journal = Journal(run)
    journal.reached(journal.intend(Part.whole(0)).intent, "100")

    repair(run)
    repair(run)

    assert len(queue(workdir)) == 1


def test_repair_nothing_to_do_asks_nobody(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, plan = slurm_run()
    submit(run, [plan], [0])

    repair(run)

    assert cluster.calls("squeue") == []


def test_repair_local_run_is_left_alone(slurm_run: Any, cluster: Any, workdir: Path) -> None:
    run, _ = slurm_run()
    document = read_json(run.plan)
    write_json(run.plan, {**document, "launcher": "local"})
    Journal(run).intend(Part.whole(0))

    repair(run)

    assert Journal(run).submissions()[0].is_open
    assert cluster.calls("squeue") == []


def test_repair_by_two_clients_at_once_queues_one_finish_step(
    slurm_run: Any, cluster: Any, workdir: Path, root: Path
) -> None:
    run, _ = slurm_run()
    journal = Journal(run)
    journal.reached(journal.intend(Part.whole(0)).intent, "100")
    code = (
        "import sys; from pathlib import Path; from launchers.queue.repair import repair\n"
        "from launchers.run_folder.record import Run\n"
        "repair(Run(Path(sys.argv[1])))"
    )
    env = {**os.environ, "PYTHONPATH": str(root), "FAKE_BEFORE": "0.2"}

    both = [
        subprocess.Popen([sys.executable, "-c", code, str(run.path)], env=env, stderr=subprocess.PIPE) for _ in range(2)
    ]
    said = [p.communicate(timeout=60)[1] for p in both]

    assert [p.returncode for p in both] == [0, 0], said
    assert len(queue(workdir)) == 1
