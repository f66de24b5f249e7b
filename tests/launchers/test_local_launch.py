"""A laptop's whole way, for real: launch, watch, interrupt, lose the shell, retry, sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launchers.run_folder.record import read_lines
from tests.cluster.harness import QUICK, ROOT, Cluster, attempts, steps, until

SLOW = (*QUICK, "train.epochs=60", "train.log_every_steps=1")


@pytest.fixture
def laptop(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Cluster(workdir, first=())


def run_of(laptop: Cluster) -> Path:
    (run,) = (laptop.work / "runs").glob("digits-*")
    return run


def test_launch_here_trains_registers_and_says_how_to_load_it(laptop: Cluster) -> None:
    done = laptop.fairlead("launch", *QUICK, "tracking.tensorboard=true", "train.profile.wait=2")

    assert "val/accuracy" in done.stdout and "digits version 1, alias newest" in done.stdout
    assert "mlflow.pyfunc.load_model('models:/digits/1')" in done.stdout
    assert f"mlflow ui --backend-store-uri sqlite:///{laptop.work}/runs/mlflow.db" in done.stdout
    assert "RUNNING" in done.stderr
    assert (run_of(laptop).stat().st_mode & 0o777) == 0o700
    assert list(run_of(laptop).glob("tensorboard/0/events.out.tfevents.*"))
    assert list((laptop.work / "runs" / "mlartifacts").rglob("profile/summary.md"))


def test_ctrl_c_cancels_and_says_so(laptop: Cluster) -> None:
    client = laptop.start(*SLOW, *laptop.probe(sleep_s=0.1))
    until(lambda: list((laptop.work / "runs").glob("digits-*")))
    until(lambda: len(steps(run_of(laptop))) > 2)

    client.send_signal(signal.SIGINT)
    said, _ = client.communicate(timeout=90)

    assert client.returncode == 1 and "CANCELLED" in said
    assert attempts(run_of(laptop))[-1]["state"] == "CANCELLED"


def test_killed_client_loses_nothing(laptop: Cluster) -> None:
    client = laptop.start(*QUICK, "train.epochs=8", "train.log_every_steps=1", *laptop.probe(sleep_s=0.1))
    until(lambda: list((laptop.work / "runs").glob("digits-*")))
    until(lambda: len(steps(run_of(laptop))) > 2)

    client.send_signal(signal.SIGKILL)
    client.communicate(timeout=60)
    end = laptop.wait(run_of(laptop))

    assert end["state"] == "SUCCEEDED" and end["result"]["model"]["version"] == "1"


def test_killed_queue_is_told_and_retry_goes_on_from_the_checkpoint(laptop: Cluster) -> None:
    slow = (*SLOW, "train.checkpoint_every_steps=3", *laptop.probe(sleep_s=0.1))
    client = laptop.start(*slow)
    until(lambda: list((laptop.work / "runs").glob("digits-*")))
    run = run_of(laptop)
    checkpoints = run / "members/0/checkpoints"
    until(lambda: any(p.name.removeprefix("step-").isdigit() for p in checkpoints.glob("step-*")))
    queue = json.loads((run / "runner.json").read_text())["pid"]

    os.killpg(queue, signal.SIGKILL)
    client.communicate(timeout=60)
    assert laptop.status(run)["state"] == "FAILED"
    done = len(steps(run))
    time.sleep(1)
    assert len(steps(run)) == done, "a rank outlived its supervisor"

    laptop.fairlead("retry", str(run))
    log = run / "members/0/attempt-1/rank-0.log"
    until(lambda: log.exists() and "goes on from step" in log.read_text())
    laptop.fairlead("cancel", str(run))
    assert laptop.wait(run)["state"] == "CANCELLED"
    assert [a["state"] for a in attempts(run)] == ["REQUEUED", "CANCELLED"]


@pytest.mark.timeout(900)
def test_sweep_here_runs_one_after_the_other_and_names_the_best(laptop: Cluster) -> None:
    done = laptop.fairlead("launch", "-m", *QUICK, "optimizer.lr=1e-5,1e-2", "train.epochs=5", timeout_s=600)

    result = json.loads((run_of(laptop) / "result.json").read_text())
    assert result["best_member"] == 1 and "best       member 1" in done.stdout
    first, second = (json.loads((run_of(laptop) / f"members/{k}/attempt-0/outcome.json").read_text()) for k in (0, 1))
    assert first["ended"] <= second["started"]


def test_two_ranks_here_meet_and_train(laptop: Cluster) -> None:
    laptop.fairlead("launch", *QUICK, "machine.ranks_per_node=2")

    assert len(list(run_of(laptop).glob("members/0/attempt-0/rank-*.log"))) == 2


def test_mistake_in_a_users_model_is_a_failure_of_the_job_and_named(laptop: Cluster) -> None:
    flag = laptop.work / "fail"
    flag.touch()
    done = laptop.fairlead("launch", *QUICK, *laptop.probe(fail_while=str(flag)), check=False)

    assert done.returncode == 1
    assert f"user_error: ValueError: told to fail by {flag}" in done.stdout
    assert "Traceback" not in done.stderr


COMMAND = """
import argparse, os
import hypertune
import conf, launchers, sweeps, trainer
words = argparse.ArgumentParser()
words.add_argument("--lr", type=float)
words.add_argument("--model.width", type=int)
given = vars(words.parse_args())
report = hypertune.HyperTune().report_hyperparameter_tuning_metric
for step in (1, 2, 3):
    report("loss", given["lr"] / step, step)
print(given, {m.__name__: m.WHOSE for m in (conf, launchers, sweeps, trainer)})
open(os.environ["AIP_MODEL_DIR"] + "model.txt", "w").close()
"""


def test_program_of_the_users_own_runs_here_with_packages_called_as_ours(laptop: Cluster) -> None:
    """Two members; each gets its own parameters and reports by hypertune."""
    (laptop.work / "train.py").write_text(COMMAND)
    for name in ("conf", "launchers", "sweeps", "trainer"):
        (laptop.work / name).mkdir()
        (laptop.work / name / "__init__.py").write_text("WHOSE = 'mine'\n")
    words = ["launch", "-m", "job=command", f"job.command=[{sys.executable},train.py]", "params.lr=0.1,0.2"]
    words += ["params.model.width=3", "tracking=none", "name=mine", "objective.metric=loss"]
    script = f"import sys; sys.path[0] = {str(ROOT)!r}; from launchers.cli import main; sys.exit(main(sys.argv[1:]))"

    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=laptop.work, capture_output=True, text=True, timeout=90, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (laptop.work / "runs").glob("mine-*")
    names = ("conf", "launchers", "sweeps", "trainer")
    for index, lr in enumerate((0.1, 0.2)):
        member = run / f"members/{index}"
        said = (member / "attempt-0/rank-0.log").read_text()
        assert said == f"{ ({'lr': lr, 'model.width': 3}) } {dict.fromkeys(names, 'mine')}\n"
        rows = [json.loads(line) for line in (member / "attempt-0/reports.jsonl").read_text().splitlines()]
        assert [(r["step"], r["metrics"]["loss"]) for r in rows] == [(step, lr / step) for step in (1, 2, 3)]
        assert (member / "model/model.txt").exists()


def test_bytes_gpt_trains_on_pythons_own_library_and_registers_its_model(laptop: Cluster) -> None:
    small = (
        "train.max_steps=4",
        "train.log_every_steps=1",
        "train.batch_size=4",
        "model.width=16",
        "data.context_length=32",
        "data.max_mb=1",
    )

    done = laptop.fairlead("launch", "experiment=bytes_gpt", *small, timeout_s=200)

    (run,) = (laptop.work / "runs").glob("bytes_gpt-*")
    losses = [row["metrics"]["train/loss"] for row in read_lines(run / "members/0/attempt-0/metrics.jsonl")
              if "train/loss" in row.get("metrics", {})]  # fmt: skip
    assert "bytes_gpt version 1, alias newest" in done.stdout
    assert len(losses) == 4 and 4 < losses[0] < 7, "of 256 bytes nothing is known yet: ln 256 is 5.5"


def test_two_ranks_of_a_trial_that_will_not_win_leave_together(laptop: Cluster) -> None:
    search = {
        "kind": "search",
        "algorithm": "random",
        "trials": 2,
        "start_points": [{"optimizer.lr": 0.01}, {"optimizer.lr": 1e-7}],
        "parameters": {"optimizer.lr": {"type": "double", "min": 1e-7, "max": 0.1, "scale": "log"}},
        "pruning": {"rule": "median", "min_trials": 1, "min_step": 2},
    }
    words = laptop.probe(sleep_s=0.04)
    (laptop.work / "conf" / "sweep").mkdir()
    (laptop.work / "conf" / "sweep" / "two.yaml").write_text(json.dumps(search))
    more = ("sweep=two", "name=two", "machine.ranks_per_node=2", "tracking=none", "tracking.register=null")

    laptop.fairlead("launch", *QUICK, *words, *more, "train.epochs=40", timeout_s=250)

    (run,) = (laptop.work / "runs").glob("two.v1")
    (first,), (second,) = (attempts(run, member) for member in (0, 1))
    assert (first["state"], second["state"]) == ("SUCCEEDED", "PRUNED")
    ledgers = [read_lines(run / "members/1/attempt-0" / name) for name in ("ledger.jsonl",)]
    (left,) = [row["step"] for row in ledgers[0] if row["event"] == "leaving"]
    assert left < 240 and (run / f"members/1/checkpoints/step-{left}").is_dir()
    beats = [json.loads((run / f"members/1/attempt-0/beat-{rank}").read_text()) for rank in (0, 1)]
    assert len({beat["step"] for beat in beats}) == 1, "both ranks left after the same step"
