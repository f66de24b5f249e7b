"""Evidence becomes a state, a cause and the rank that failed first."""

from __future__ import annotations

from typing import Any

import pytest

from launchers.outcome import FINAL, Evidence, Hung, classify, remedy


def error(rank: int, t: float, **more: Any) -> dict[str, Any]:
    base = {"t": t, "rank": rank, "host": f"n{rank}", "type": "ValueError", "message": "bad", "cause": "user_error"}
    return {**base, **more}


HUNG = Hung("it gave no sign", 5.0, 2, "n3", ('File "model.py", line 3, in forward',))


@pytest.mark.parametrize(
    ("seen", "state", "cause"),
    [
        (Evidence(exit_code=0), "SUCCEEDED", "succeeded"),
        (Evidence(exit_code=1), "FAILED", "user_error"),
        (Evidence(exit_code=75), "REQUEUED", "preempted"),
        (Evidence(exit_code=75, signals=frozenset({"SIGUSR2"})), "REQUEUED", "timeout"),
        (Evidence(exit_code=75, signals=frozenset({"SIGTERM"})), "REQUEUED", "preempted"),
        (Evidence(exit_code=1, signals=frozenset({"SIGUSR2"})), "FAILED", "timeout"),
        (Evidence(exit_code=-9, signals=frozenset({"SIGUSR2"}), resumes=True), "REQUEUED", "timeout"),
        (Evidence(exit_code=-9, signals=frozenset({"SIGTERM"}), resumes=True), "FAILED", "user_error"),
        (Evidence(exit_code=1, resumes=True, step_text="CANCELLED AT x DUE TO TIME LIMIT"), "FAILED", "timeout"),
        (Evidence(exit_code=75, pruned="median: no"), "PRUNED", "pruned"),
        (Evidence(exit_code=0, pruned="median: no"), "PRUNED", "pruned"),
        (Evidence(exit_code=-9, pruned="median: no"), "PRUNED", "pruned"),
        (Evidence(exit_code=143, pruned="median: no", signals=frozenset({"SIGUSR2"})), "PRUNED", "pruned"),
        (Evidence(exit_code=1, pruned="median: no", tails={0: ["MemoryError"]}), "PRUNED", "pruned"),
        (Evidence(exit_code=75, pruned="median: no", cancelled=True), "PRUNED", "pruned"),
        (Evidence(exit_code=-9, hung=HUNG), "FAILED", "hang"),
        (Evidence(exit_code=0, hung=HUNG), "FAILED", "hang"),
        (Evidence(exit_code=75, hung=HUNG, signals=frozenset({"SIGUSR2"})), "FAILED", "hang"),
        (Evidence(exit_code=75, hung=HUNG, cancelled=True), "CANCELLED", "cancelled"),
        (Evidence(exit_code=1, hung=HUNG, step_text="srun: error: Node failure on n2"), "REQUEUED", "node_failure"),
        (Evidence(exit_code=-11), "FAILED", "crash"),
        (Evidence(exit_code=137), "FAILED", "crash"),
        (Evidence(exit_code=-9, signals=frozenset({"SIGTERM"})), "FAILED", "user_error"),
        (Evidence(exit_code=-15), "FAILED", "user_error"),
        (Evidence(exit_code=-9, rank_errors=[error(0, 1, cause="rendezvous")]), "FAILED", "crash"),
        (Evidence(exit_code=-6, rank_errors=[error(0, 1)]), "FAILED", "user_error"),
        (Evidence(exit_code=1, rank_errors=[error(0, 1, cause="crash")]), "FAILED", "crash"),
        (Evidence(exit_code=1, rank_errors=[error(0, 1, cause="crash")], kernel_kills=1), "FAILED", "out_of_memory"),
        (Evidence(exit_code=143, step_text="srun: error: n2: task 1: Killed"), "FAILED", "crash"),
        (Evidence(exit_code=143, step_text="srun: error: n2: task 1: Exited with exit code 137"), "FAILED", "crash"),
        (Evidence(exit_code=1, step_text="srun: error: n2: task 1: Terminated"), "FAILED", "user_error"),
        (Evidence(exit_code=0, job_ending=True), "CANCELLED", "cancelled"),
        (Evidence(exit_code=75, cancelled=True), "CANCELLED", "cancelled"),
        (Evidence(exit_code=-9, cancelled=True), "CANCELLED", "cancelled"),
        (Evidence(exit_code=0, cancelled=True), "SUCCEEDED", "succeeded"),
        (Evidence(exit_code=75, job_ending=True), "CANCELLED", "cancelled"),
        (Evidence(exit_code=143, preempted=True), "REQUEUED", "preempted"),
        (Evidence(exit_code=1, preempted=True, rank_errors=[error(0, 1)]), "REQUEUED", "preempted"),
        (Evidence(exit_code=143, preempted=True, cancelled=True), "CANCELLED", "cancelled"),
        (Evidence(exit_code=0, preempted=True), "SUCCEEDED", "succeeded"),
        (
            Evidence(exit_code=1, job_ending=True, step_text="*** STEP 1.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***"),
            "CANCELLED",
            "cancelled",
        ),
        (
            Evidence(exit_code=1, job_ending=True, step_text="*** JOB 1 ON n1 CANCELLED AT x DUE TO PREEMPTION ***"),
            "REQUEUED",
            "preempted",
        ),
        (
            Evidence(exit_code=1, job_ending=True, step_text="*** JOB 1 ON n1 CANCELLED AT x DUE TO TIME LIMIT ***"),
            "FAILED",
            "timeout",
        ),
        (
            Evidence(
                exit_code=1, step_text="slurmstepd: error: *** STEP 1.0 ON n1 CANCELLED AT x DUE TO PREEMPTION ***"
            ),
            "REQUEUED",
            "preempted",
        ),
        (
            Evidence(exit_code=143, step_text="*** STEP 1.0 ON n1 CANCELLED AT x DUE TO JOB REQUEUE ***"),
            "REQUEUED",
            "preempted",
        ),
        (Evidence(exit_code=1, step_text="*** JOB 1 ON n1 CANCELLED AT x DUE TO TIME LIMIT ***"), "FAILED", "timeout"),
        (Evidence(exit_code=1, step_text="srun: error: Node failure on n2"), "REQUEUED", "node_failure"),
        (
            Evidence(
                exit_code=1, step_text="srun: error: Task launch for StepId=7.1 failed on node n2: No route to host"
            ),
            "REQUEUED",
            "node_failure",
        ),
        (Evidence(exit_code=1, step_text="slurmstepd: error: Detected 1 oom-kill event(s)"), "FAILED", "out_of_memory"),
        (Evidence(exit_code=1, rank_errors=[error(0, 1, cause="out_of_memory")]), "FAILED", "out_of_memory"),
        (Evidence(exit_code=1, tails={0: ["torch.OutOfMemoryError: CUDA out of memory."]}), "FAILED", "out_of_memory"),
        (Evidence(exit_code=1, rank_errors=[error(0, 1, cause="site")]), "FAILED", "site"),
        (Evidence(exit_code=1, tails={0: ["OSError: [Errno 28] No space left on device: 'x'"]}), "FAILED", "site"),
        (Evidence(exit_code=1, tails={0: ["cp: writing 'x': Disk quota exceeded", "gave up"]}), "FAILED", "site"),
        (Evidence(exit_code=1, disk="No space left on device where the runs are (/r)"), "FAILED", "site"),
        (Evidence(exit_code=1, disk="No space left", rank_errors=[error(0, 1)]), "FAILED", "user_error"),
        (Evidence(exit_code=1, signals=frozenset({"SIGUSR2"}), disk="No space left"), "FAILED", "site"),
        (Evidence(exit_code=1, rank_errors=[error(0, 1, cause="rendezvous")]), "FAILED", "rendezvous"),
        (Evidence(exit_code=1, tails={0: ["EADDRINUSE: port 29500"]}), "FAILED", "rendezvous"),
        (Evidence(exit_code=1, rank_errors=[error(0, 1)], tails={0: ["DistNetworkError"]}), "FAILED", "user_error"),
    ],
)
def test_classify_evidence_has_state_and_cause(seen: Evidence, state: str, cause: str) -> None:
    outcome = classify(seen)

    assert (outcome.state, outcome.cause) == (state, cause)
    assert outcome.message or outcome.state == "SUCCEEDED"


def test_classify_disk_is_told_by_the_line_that_says_so() -> None:
    lines = ["OSError: [Errno 122] Disk quota exceeded: 'x'", "During handling of the above exception", "KeyError: 3"]

    assert classify(Evidence(exit_code=1, tails={0: lines})).message == lines[0]


@pytest.mark.parametrize(
    ("cause", "do"),
    [
        ("site", "then: fairlead retry d-1"),
        ("out_of_memory", "lower train.batch_size or raise train.accumulate, or raise machine.mem_gb"),
        ("hang", "raise the limit that is named, for a command job.silent_min"),
        ("timeout", "fairlead retry d-1 [KEY=VALUE ...] goes on from the newest checkpoint: if it cannot save within"),
        ("preempted", "fairlead retry d-1 [KEY=VALUE ...] goes on from the newest checkpoint: raise job.max_requeues"),
        ("node_failure", "goes on from the newest checkpoint: raise job.max_requeues, or save more often"),
        ("user_error", ""),
        (None, ""),
    ],
)
def test_remedy_is_there_where_there_is_one_answer(cause: str | None, do: str) -> None:
    assert do in remedy(cause, "d-1")
    assert bool(do) == bool(remedy(cause, "d-1"))


@pytest.mark.parametrize(
    "line",
    [
        "slurmstepd-n1: error: StepId=1.0 exceeded memory limit (909733888 > 214958080), being killed",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0. Some of the step tasks have been OOM Killed.",
    ],
    ids=["accounting", "cgroup"],
)
def test_classify_memory_that_slurm_took_away_is_told_by_its_own_line(line: str) -> None:
    """As Slurm 22.05 writes it among a rank's output, the first with JobAcctGatherParams=OverMemoryKill (measured)."""
    said = "srun: error: n1: task 0: Killed\nsrun: launch/slurm: _step_signal: Terminating StepId=1.0"
    log = (
        line,
        "slurmstepd-n1: error: *** STEP 1.0 ON n1 CANCELLED AT x ***",
        "slurmstepd-n1: error: TaskEpilog failed",
    )

    outcome = classify(Evidence(exit_code=137, step_text=said, tails={0: log}))

    assert (outcome.state, outcome.cause, outcome.message) == ("FAILED", "out_of_memory", line)


def test_classify_pruned_says_why() -> None:
    assert classify(Evidence(exit_code=75, pruned="median: it will not win")).message == "median: it will not win"


def test_classify_first_error_is_the_earliest() -> None:
    outcome = classify(Evidence(exit_code=1, rank_errors=[error(0, 9.0), error(2, 3.0, message="mine"), error(1, 5.0)]))

    assert (outcome.first_rank, outcome.host, outcome.message) == (2, "n2", "ValueError: mine")


def test_classify_echo_of_a_lost_peer_is_not_the_first() -> None:
    """A peer notices the lost connection at once, and writes sooner than the one that is busy dying."""
    errors = [error(0, 1.0, cause="rendezvous", type="DistBackendError"), error(3, 2.0)]

    outcome = classify(Evidence(exit_code=1, rank_errors=errors))

    assert (outcome.first_rank, outcome.cause, outcome.state) == (3, "user_error", "FAILED")


def test_classify_without_rank_errors_asks_srun() -> None:
    text = "srun: error: n2: task 3: Exited with exit code 7\nsrun: error: n1: tasks 0-1: Terminated"

    outcome = classify(Evidence(exit_code=7, step_text=text, tails={3: ["boom"], 0: ["other"]}))

    assert (outcome.first_rank, outcome.host, outcome.last_lines) == (3, "n2", ("boom",))


def test_classify_rank_that_was_killed_is_named_and_not_the_peer_that_lost_it() -> None:
    text = "srun: error: n2: task 1: Killed\nsrun: error: n1: task 0: Terminated"
    echo = error(0, 1.0, cause="rendezvous", type="RuntimeError", message="Connection closed by peer")

    outcome = classify(Evidence(exit_code=143, step_text=text, rank_errors=[echo]))

    assert (outcome.first_rank, outcome.host, outcome.signal, outcome.exit_code) == (1, "n2", 9, -9)
    assert outcome.message == "killed by signal 9 (Killed)"


PEER, KILLED = "srun: error: n1: task 0: Exited with exit code 1\n", "srun: error: n2: task 1: Killed\n"


@pytest.mark.parametrize(
    ("said", "rank", "code"),
    [
        (PEER + KILLED, 1, -9),
        (PEER + "srun: error: n2: task 1: Exited with exit code 137\n", 1, 137),
        (PEER + "srun: error: n2: task 1: Aborted\n", 0, 1),
        (PEER + "srun: error: n2: task 1: Terminated\n", 0, 1),
        (PEER + "srun: forcing job termination\n" + KILLED, 0, 1),
        (PEER + "fairlead: the others are told to leave\n" + KILLED, 0, 1),
        (PEER + "srun: error: n2: task 1: Out Of Memory\n", 1, -9),
        (PEER.replace("code 1", "code 75") + KILLED, 0, 75),
        ("srun: Job step aborted: Waiting up to 32 seconds\n" + KILLED + PEER, 1, -9),
    ],
    ids=["after", "in-a-container", "aborted", "told", "by-us", "as-told", "no-memory", "saved", "all-aborted"],
)
def test_classify_rank_that_was_killed_is_looked_for_behind_the_peer_that_srun_told_of_first(
    said: str, rank: int, code: int
) -> None:
    """Both on one host: whose end srun hears of first is chance."""
    echo = error(0, 1.0, cause="rendezvous", type="RuntimeError", message="Connection closed by peer")

    outcome = classify(Evidence(exit_code=137, step_text=said, rank_errors=[echo] if rank else []))

    assert (outcome.first_rank, outcome.exit_code) == (rank, code)
    if rank:
        assert (outcome.cause, outcome.host) == ("out_of_memory" if "Memory" in said else "crash", "n2")


def test_classify_rank_that_hung_is_named_with_its_stack() -> None:
    outcome = classify(Evidence(exit_code=-9, hung=HUNG, tails={2: ["step 3"]}))

    assert (outcome.first_rank, outcome.host, outcome.hung_since) == (2, "n3", 5.0)
    assert (outcome.last_lines, outcome.message) == (HUNG.stack, HUNG.why)


def test_classify_tasks_in_brackets_are_read() -> None:
    outcome = classify(Evidence(exit_code=1, step_text="srun: error: n2: tasks 2-3: Killed"))

    assert outcome.first_rank == 2


def test_classify_without_anything_has_the_local_rank() -> None:
    assert classify(Evidence(exit_code=3, first_rank=1, tails={1: ["x"]})).last_lines == ("x",)


@pytest.mark.parametrize(
    ("code", "number"), [(-9, 9), (137, 9), (143, 15), (-11, 11), (1, None), (75, None), (255, None)]
)
def test_classify_signal_is_told(code: int, number: int | None) -> None:
    assert classify(Evidence(exit_code=code)).signal == number


def test_classify_silent_death_says_its_status() -> None:
    assert classify(Evidence(exit_code=5)).message == "exited with status 5"


def test_classify_death_by_a_signal_says_so() -> None:
    """«exited with status -9» is not what a person would say."""
    assert "-9" not in classify(Evidence(exit_code=-9)).message


def test_classify_long_last_line_is_cut() -> None:
    assert len(classify(Evidence(exit_code=1, tails={0: ["x" * 100_000]})).message) <= 500


def test_classify_word_in_a_users_log_does_not_requeue() -> None:
    """What a program prints must not send a failed job back to the queue."""
    lines = ["see docs: CANCELLED DUE TO PREEMPTION", "Connection reset by peer", "ValueError: bad"]

    assert classify(Evidence(exit_code=1, tails={0: lines}, rank_errors=[error(0, 1.0)])).state == "FAILED"


@pytest.mark.parametrize("exit_code", [0, 1, 2, 75, 137, -9, -15, 255])
@pytest.mark.parametrize("cancelled", [True, False])
@pytest.mark.parametrize("signals", [frozenset(), frozenset({"SIGUSR2"}), frozenset({"SIGTERM", "SIGUSR2"})])
def test_classify_only_tempfail_or_a_lost_place_goes_on(
    exit_code: int, cancelled: bool, signals: frozenset[str]
) -> None:
    outcome = classify(Evidence(exit_code=exit_code, cancelled=cancelled, signals=signals))

    assert (outcome.state == "REQUEUED") == (exit_code == 75 and not cancelled)
    assert outcome.state in (*FINAL, "REQUEUED")
    assert outcome.exit_code == exit_code


@pytest.mark.parametrize("signals", [frozenset(), frozenset({"SIGUSR2"})])
def test_outcome_says_what_the_program_could_not_save(signals: frozenset[str]) -> None:
    left = "a save takes 40.0 s, and 9.5 s were left; left with the checkpoint of step 5"

    assert classify(Evidence(exit_code=75, signals=signals, left=left)).message == left
    assert classify(Evidence(exit_code=75, signals=signals)).message.startswith("saved ")


def test_outcome_of_a_program_that_chooses_another_experiment_says_what_to_do() -> None:
    last = "mlflow.exceptions.MlflowException: ... because active experiment ID does not match environment run ID."

    seen = classify(Evidence(exit_code=1, tails={0: [last]}))

    assert seen.message == f"{last} (give tracking.experiment the name that the program gives mlflow.set_experiment)"


@pytest.mark.parametrize(
    "said", ["srun: error: Node failure on n3", "srun: error: Task launch for StepId=7.1 failed on node n3: No route"]
)
def test_lost_host_is_named_and_not_the_first_whose_rank_left_for_it(said: str) -> None:
    text = f"srun: error: n1: task 0: Terminated\n{said}"

    found = classify(Evidence(exit_code=143, step_text=text))

    assert (found.cause, found.host, found.first_rank) == ("node_failure", "n3", None)
    assert found.message == "host n3 was lost"
