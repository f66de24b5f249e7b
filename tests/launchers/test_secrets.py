"""Secrets: what a configuration may say of them, where they wait, and that nobody but the program reads one."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from conf.schema import Secret
from launchers.config.check import check_all
from launchers.delivery.store import opened
from launchers.errors import SiteError, SpecError
from launchers.host.secret_values import value_of
from launchers.queue.slurm import client_environment, private_variables
from launchers.run_folder import kept
from launchers.run_folder.record import Run, write_json
from launchers.search.expand import compose_all
from tests.cluster.harness import ROOT, Cluster, until

COMMAND = ("job=command", "job.command=[python3,train.py]", "tracking=none", "name=own")
CANARIES = {"env": "canary-of-the-environment", "file": "canary-of-a-file", "command": "canary-of-a-command"}
PROGRAM = """
import os, sys, time
token, key, word = os.environ["TOKEN"], open(os.environ["KEY_FILE"]).read(), os.environ["WORD"]
print(token, key, word)
sys.stdout.write(token[:7]); sys.stdout.flush(); time.sleep(0.3); sys.stdout.write(token[7:] + "\\n")
print([len(token), len(key), len(word)], oct(os.stat(os.environ["KEY_FILE"]).st_mode), "KEY" in os.environ)
print([n for n in os.environ if n.startswith("FAIRLEAD_SECRET_")], "ORIGIN" in os.environ)
with open(os.environ["FAIRLEAD_REPORTS"], "a") as f:
    f.write('{"step": 1, "loss/%s": 1.0}\\n' % token)
raise SystemExit(f"it was {word}") if os.path.exists("FLAG") else SystemExit(0)
"""


LOGGED = """
import os, time
import mlflow
token, key, word = os.environ["TOKEN"], open(os.environ["KEY_FILE"]).read(), os.environ["WORD"]
with mlflow.start_run():
    mlflow.log_params({"token": token, "depth": 3, f"of/{word}": 1})
    mlflow.set_tags({"key": f"the key is {key}", "mlflow.runName": f"run of {word}"})
    mlflow.log_text(f"{word}, {key}\\n" * 100, f"said/{word}.txt")
    mlflow.log_dict({"token": token}, "config.yaml")
    mlflow.log_metric(f"loss/{token}", 0.5)
    until = time.monotonic() + 30
    while time.monotonic() < until and not os.path.exists("SEEN"):
        time.sleep(0.1)
    mlflow.log_param("token", token)
    with mlflow.start_run(nested=True, run_name=f"fold {token}"):
        mlflow.log_param("key", key)
mlflow.MlflowClient().create_registered_model(f"model of {word}", description=key)
"""


def problems(*overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        check_all(compose_all([*COMMAND, *overrides]))
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["secrets.A={}"], "secrets.A has none of env, file and command, and must have one"),
        (["secrets.A={env: X, file: /y}"], "secrets.A has env and file of env, file and command, and must have one"),
        (["secrets.A={command: []}"], "secrets.A.command names no program"),
        (["secrets.PATH={env: X}"], "secrets.PATH would be the variable PATH, which tells programs where they run"),
        (["secrets.A={env: X}", "container.env={A: b}"], "the variable A, and container.env sets that, too"),
        (
            ["secrets.LR={env: X}", "params.lr=1", "job.parameters=environment"],
            "the variable LR, and params sets that, too",
        ),
        (["secrets.A={env: X, through: file}", "secrets.A_FILE={env: Y}"], "and there is a secret of that name"),
        (["secrets.A={env: X, trough: file}"], "secrets.A has no key 'trough'"),
        (["secrets={A-B: {env: X}}"], "secrets.A-B must be letters, digits or _, the first no digit"),
    ],
)
def test_secrets_that_cannot_be_are_told(overrides: list[str], said: str) -> None:
    assert any(said in problem for problem in problems(*overrides))


def test_secrets_that_hold_the_value_itself_are_refused_without_it() -> None:
    """Beyond the place, which is the user's own command line."""
    for source in ("hunter2-value", "{env: hunter2-value}", "{through: hunter2-value, env: X}"):
        (problem,) = problems(f"secrets.A={source}")
        what, _, do = problem.split("\n")
        assert "hunter2" not in what + do


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (Secret(file="/nowhere/key"), "the secret A cannot be read from /nowhere/key: No such file"),
        (Secret(command=("sh", "-c", "echo canary; exit 3")), "(sh) exited with status 3; what it said is not shown"),
        (Secret(command=("/nowhere/pass",)), "(/nowhere/pass) was not found"),
        (Secret(command=("true",)), "from the command true, has 0 bytes"),
        (Secret(command=("printf", r"cana\0ry")), "and null bytes"),
        (Secret(env="X"), "from the variable X, has 3 bytes"),
    ],
)
def test_secret_without_a_value_is_told_and_what_was_said_is_not_shown(secret: Secret, said: str) -> None:
    with pytest.raises(SiteError) as caught:
        value_of("A", secret, {"A": "abc"})

    assert said in str(caught.value) and "canary" not in str(caught.value)


def test_secret_of_a_file_is_its_content_without_the_last_line_break(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b" two\nlines \xff\r\n")

    assert value_of("A", Secret(file=str(tmp_path / "key")), {}) == " two\nlines \udcff"


def test_kept_values_outlive_the_shell_that_launched(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(workdir / "runs" / "d-1")
    run.path.mkdir(parents=True)
    path = kept.file_of(run.id)
    with pytest.raises(SpecError, match="the variable ORIGIN is not set"):
        kept.keep(run, path, {"A": "ORIGIN"})

    monkeypatch.setenv("ORIGIN", "canary")
    kept.keep(run, path, {"A": "ORIGIN"})
    monkeypatch.delenv("ORIGIN")
    kept.keep(run, path, {"A": "ORIGIN"})

    assert kept.values_in(path) == {"A": "canary"}
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert not path.is_relative_to(workdir / "runs")
    kept.forget(path)
    with pytest.raises(SiteError, match="are not there"):
        kept.values_in(path)


def test_kept_values_of_runs_that_are_gone_or_long_over_are_removed(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORIGIN", "canary")
    runs = {name: Run(workdir / "runs" / name) for name in ("gone", "over", "ended", "queued")}
    for run in runs.values():
        run.path.mkdir(parents=True)
        kept.keep(run, kept.file_of(run.id), {"A": "ORIGIN"})
    runs["gone"].path.rmdir()
    for name in ("over", "ended"):
        write_json(runs[name].result, {})
    long_ago = time.time() - kept.STALE_S - 60
    os.utime(runs["over"].result, (long_ago, long_ago))

    kept.keep(runs["queued"], kept.file_of("queued"), {"A": "ORIGIN"})

    assert sorted(path.stem for path in kept.file_of("x").parent.glob("*.json")) == ["ended", "queued"]


def test_submission_takes_the_secrets_variables_from_the_batch_jobs_environment(slurm_run: Any) -> None:
    import dataclasses

    _, plan = slurm_run()
    pool = dataclasses.replace(plan.pools[0], passed=("AWS_SECRET_ACCESS_KEY",))
    names = ("ORIGIN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_TOKEN")
    plan = dataclasses.replace(plan, pools=(pool,), secrets={f"S{n}": Secret(env=n) for n in names})

    left = client_environment(dict.fromkeys(("PATH", *names), "x"), private_variables([plan]))

    assert sorted(left) == ["AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_TOKEN", "PATH"], "our own side reads these two"


def words_of(laptop: Cluster, program: str) -> list[str]:
    (laptop.work / "train.py").write_text(program)
    (laptop.work.parent / "key").write_text(CANARIES["file"] + "\n")
    (laptop.work.parent / "pass").write_text(f"#!/bin/sh\necho {CANARIES['command']}\n")
    (laptop.work.parent / "pass").chmod(0o700)
    words = ["job=command", f"job.command=[{sys.executable},train.py]", "name=own", "secrets.TOKEN.env=ORIGIN"]
    words += [f"secrets.KEY={{file: {laptop.work.parent}/key, through: file}}"]
    return [*words, f"secrets.WORD.command=[{laptop.work.parent}/pass]"]


def launched(laptop: Cluster, **more: Any) -> tuple[Any, Path]:
    words = words_of(laptop, PROGRAM.replace("FLAG", str(laptop.work / "fail")))
    words += ["tracking=none", "job.metrics.kind=jsonl"]
    done = laptop.fairlead("launch", *words, timeout_s=120, **more)
    return done, next((laptop.work / "runs").glob("own-*"), Path())


def found_in(folder: Path) -> list[str]:
    """Files below a folder that hold a canary."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and holds_canary(path)]


def holds_canary(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # written aside, and at its place now
        data = path.read_bytes()
        return any(canary.encode() in data for canary in CANARIES.values())
    return False


@pytest.fixture
def laptop(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ORIGIN", CANARIES["env"])
    return Cluster(workdir, first=())


def test_secrets_reach_the_program_here_and_no_file(laptop: Cluster, tmp_path: Path) -> None:
    done, run = launched(laptop)

    attempt = run / "members/0/attempt-0"
    assert (attempt / "rank-0.log").read_text().splitlines() == [
        "*** *** ***",
        "***",
        f"{[len(v) for v in CANARIES.values()]} 0o100600 False",
        "[] False",
    ]
    assert json.loads((attempt / "reports.jsonl").read_text())["metrics"] == {"loss/***": 1.0}
    assert found_in(laptop.work / "runs") == [str(attempt / "program.jsonl")], "which the program itself wrote"
    assert found_in(tmp_path / "state") == []
    assert not list(Path("/dev/shm").glob(f"fairlead-secrets-{run.name}-*"))
    assert not any(canary in done.stdout + done.stderr for canary in CANARIES.values())


def test_secrets_that_a_program_logs_to_mlflow_are_in_no_file_and_not_in_the_store(laptop: Cluster) -> None:
    seen = laptop.work / "seen"
    started = laptop.start(*words_of(laptop, LOGGED.replace("SEEN", str(seen))), "job.metrics.kind=mlflow")
    try:
        run = until(lambda: next((laptop.work / "runs").glob("own-*/members/0/mlflow/1/*/tags/key"), None), 60).parents[
            6
        ]
        until(lambda: (run / "members/0/mlflow-checked.json").exists() and found_in(run) == [], 60)
        seen.touch()
        _, said = started.communicate(timeout=120)
    finally:
        started.kill()

    assert started.returncode == 0, said
    assert found_in(laptop.work) == [], "the run folder, MLflow's database and its artifacts"
    assert not [p for p in laptop.work.rglob("*") if any(canary in str(p) for canary in CANARIES.values())]
    result = json.loads((run / "result.json").read_text())
    with opened(result["mlflow"]["uri"], run.name) as client:
        (own,) = json.loads((run / "tracking.json").read_text())["runs"].values()
        found = client.get_run(own)
        (fold,) = client.search_runs([found.info.experiment_id], "params.key = '***'")
        text = mlflow.artifacts.load_text(f"{found.info.artifact_uri}/said/___.txt")
        config = mlflow.artifacts.load_text(f"{found.info.artifact_uri}/config.yaml")
    params = {name: found.data.params[name] for name in ("token", "depth", "of/___")}
    assert params == {"token": "***", "depth": "3", "of/___": "1"}
    assert (found.data.tags["key"], found.data.metrics) == ("the key is ***", {"loss/___": 0.5})
    assert (text, config, fold.info.run_name) == ("***, ***\n" * 100, "token: ___\n", "fold ___")


def test_secrets_of_a_failed_job_wait_for_a_retry_from_any_shell(
    laptop: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (laptop.work / "fail").touch()
    done, run = launched(laptop, check=False)
    assert done.returncode == 1 and "it was ***" in done.stdout
    (path,) = (tmp_path / "state/fairlead/secrets").iterdir()
    assert found_in(tmp_path / "state") == [str(path)]
    (laptop.work / "fail").unlink()
    monkeypatch.delenv("ORIGIN")

    laptop.fairlead("retry", str(run))

    assert laptop.wait(run)["state"] == "SUCCEEDED"
    assert found_in(tmp_path / "state") == []


def test_secret_that_is_nowhere_is_told_before_anything_is_made(
    laptop: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORIGIN")

    done, _ = launched(laptop, check=False)

    assert done.returncode == 2
    assert "the variable ORIGIN is not set\n  where  secrets.TOKEN.env\n  do     export ORIGIN=..." in done.stderr
    assert not (laptop.work / "runs").exists()
