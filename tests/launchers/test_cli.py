"""The command as a person or a script meets it: its verbs, the keys it takes, and what it says of mistakes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from conf import job_schema, machine_schema, schema, sweep_schema, train_schema
from launchers import cli, verbs
from tests.conftest import Command
from tests.launchers.over import ended_run

# --- the frozen surface: a change must be made here too -----------------------------------------------

VERBS = {
    *("launch", "plan", "check", "status", "list", "logs", "wait", "cancel", "retry", "sync", "image"),
    *("best", "report", "extend", "prove", "pool", "shell", "notebook", "explain"),
}
KEYS = {
    "Spec": "name seed job pools data engine model optimizer train objective tracking launcher site staging sweep "
    "params secrets",
    "Secret": "env file command through",
    "Component": "kind options",
    "Metrics": "kind path pattern metric",
    "Job": "kind command script module source wheelhouse requirements data_format arguments parameters metrics "
    "notice_s max_requeues restarts hang worker_restarts restart_job_on_worker_restart disable_retries silent_min "
    "log_gb max_processes max_disk_gb",
    "Hang": "setup_s rendezvous_s data_s restore_s first_step_s step_s data_wait_s evaluation_s checkpoint_s export_s",
    "Restarts": "crash hang rendezvous out_of_memory worker elsewhere",
    "Disk": "kind size_gb",
    "Machine": "partition nodes ranks_per_node cpus_per_rank mem_gb max_cpus max_accelerators disk time_limit_min "
    "constraint account qos exclusive hourly_cost",
    "Accelerator": "kind slurm_type count memory_gb precisions precision container_flag cdi device backend peak_tflops",
    "Bind": "source target writable",
    "Container": "runtime image digest workdir source architecture recipe dockerfile accelerators python writable "
    "binds env host_env host_shm shm_gb",
    "Train": "epochs max_steps batch_size accumulate clip_norm loss precision compile recompute deterministic schedule "
    "warmup_steps eval_every_steps log_every_steps checkpoint_every_steps until stop_after export "
    "checkpoint_in_background keep_checkpoints workers onnx start_from trust_unverified log_samples profile",
    "StopAfter": "evaluations min_delta",
    "Staging": "copy options sums",
    "Objective": "metric goal",
    "Tracking": "kind uri experiment register alias model_gb tensorboard",
    "Profile": "wait warmup active ranks",
    "Launcher": "kind pool max_parallel max_wait_min members_per_allocation sbatch",
    "ImageBuild": "bootstrap base options",
    "Site": "name runs_dir images_dir python apptainer setup env binds cdi_dirs default_partition default_account "
    "scratch_dir stage_gb image_local local_gb node_mtbf_h currency registry_auth registry_http image_keys image_build",
    "Pool": "machine accelerator container number job",
    "Block": "product zip",
    "Subset": "count seed",
    "Grid": "kind product zip blocks exclude repeats subset",
    "Parameter": "type min max step scale values when",
    "Goal": "metric goal",
    "Constraint": "metric min max",
    "Pruning": "rule min_trials min_step max_step reduction percentile confidence",
    "Population": "size quantile factor resample",
    "Limits": "wall_min gpu_hours no_progress_trials target max_failed same_failures",
    "Search": "kind algorithm parameters trials seed startup_trials objectives "
    "constraints measurement pruning population limits start_points warm_start study new_version",
}


def test_cli_verbs_are_these() -> None:
    assert set(verbs.VERBS) == VERBS


def test_schema_keys_are_these() -> None:
    found = {
        name: [f.name for f in dataclasses.fields(cls)]
        for module in (schema, job_schema, machine_schema, train_schema, sweep_schema)
        for name, cls in vars(module).items()
        if dataclasses.is_dataclass(cls) and isinstance(cls, type) and hasattr(cls, "__pydantic_config__")
    }

    assert found == {name: keys.split() for name, keys in KEYS.items()}


# --- help ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["help"]])
def test_cli_help_names_every_verb(capsys: Any, words: list[str]) -> None:
    assert cli.main(words) == 0

    said = capsys.readouterr().out
    assert all(f"  {verb}" in said for verb in VERBS)
    assert max(len(line) for line in said.splitlines()) <= 110


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_cli_help_of_a_verb_says_what_it_does(capsys: Any, verb: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, "--help"])

    said = capsys.readouterr().out
    assert caught.value.code == 0
    assert said.startswith(f"usage: fairlead {verb}")
    assert "--json" in said


# --- mistakes -----------------------------------------------------------------------------------------


def test_cli_nothing_said_is_a_mistake(capsys: Any) -> None:
    assert cli.main([]) == 2


@pytest.mark.parametrize(
    ("word", "meant"), [("lauch", "launch"), ("stats", "status"), ("log", "logs"), ("plna", "plan")]
)
def test_cli_unknown_verb_is_told_the_nearest(capsys: Any, word: str, meant: str) -> None:
    assert cli.main([word]) == 2

    said = capsys.readouterr().err
    assert f"there is no verb '{word}'" in said
    assert f"did you mean {meant}?" in said


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--nope"],
        ["cancel"],
        ["logs", "--member", "x"],
        ["image", "destroy"],
        ["image", "build"],
        ["status", "a", "b"],
        ["launch", "--config-dir"],
        ["plan", "--member", "7"],
        ["plan", "--config-dir", "/nowhere/at/all"],
        *(["wait", "--timeout-s", wrong] for wrong in ("x", "-1", "nan", "inf")),
        ["logs", "--rank", "-1"],
        ["logs", "--member", "1.5"],
        ["plan", "--member", "-1"],
        ["retry", "d-1", "--member", "-1"],
        ["extend", "d-1", "--gpu-hours", "-0.5"],
        ["extend", "d-1", "--max-failed", "-1"],
        ["extend"],
        ["extend", "d-1", "--trials", "many"],
        ["best", "--member", "x"],
    ],
)
def test_cli_wrong_arguments_are_told_in_three_lines(workdir: Path, capsys: Any, words: list[str]) -> None:
    assert cli.main(words) == 2

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("  where  ")
    assert lines[2].startswith("  do     ")


@pytest.mark.parametrize(
    "words",
    [["status"], ["logs"], ["wait"], ["best"], ["report"], *([verb, "nope"] for verb in ("status", "cancel", "retry"))],
)
def test_cli_no_such_job_is_the_users_mistake(workdir: Path, capsys: Any, words: list[str]) -> None:
    assert cli.main(words) == 2


def test_cli_very_long_job_is_no_fault_of_ours(workdir: Path, capsys: Any) -> None:
    ended_run(workdir)

    assert cli.main(["status", "x" * 5000]) == 2


@pytest.mark.parametrize("word", ["name='a\nb'", "na\nme=1", "data.path=\x1b[31m", "name=\udcff"])
def test_cli_strange_override_is_told_in_three_lines(workdir: Path, fairlead: Command, word: str) -> None:
    done = fairlead("plan", word)

    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.split("\n\n")[0].splitlines()) == 3


def test_cli_sweep_without_m_is_a_mistake_that_says_so(fairlead: Command) -> None:
    done = fairlead("plan", "seed=1,2")

    assert (done.returncode, "-m" in done.stderr) == (2, True)


def test_cli_members_with_other_machines_get_an_array_each(fairlead: Command) -> None:
    done = fairlead(
        "plan", "--json", "machine=cpu-small,cpu-large", "seed=1,2", "launcher=slurm", "-m", "--member", "3"
    )

    document = json.loads(done.stdout)
    assert list(document["scripts"]) == ["job.sbatch", "job-1.sbatch"]
    assert "#SBATCH --array=0-1\n" in document["scripts"]["job.sbatch"]
    assert "#SBATCH --array=2-3\n" in document["scripts"]["job-1.sbatch"]
    assert document["plan"]["shape"] == 1
    assert document["plan"]["sbatch"]["mem"] == "16384M"


@pytest.mark.parametrize("override", ["site=default,other", "launcher=local,slurm", "tracking=mlflow,none", "name=a,b"])
def test_cli_members_on_several_clusters_are_refused(fairlead: Command, workdir: Path, override: str) -> None:
    (workdir / "site").mkdir()
    (workdir / "site" / "other.yaml").write_text("defaults: [default]\nname: other\n")
    done = fairlead("plan", "--config-dir", str(workdir), override, "tracking.register=null", "-m")

    group = override.partition("=")[0]
    assert (done.returncode, f"{group} differs between the members" in done.stderr) == (2, True)


def test_cli_broken_run_folder_is_the_sites_fault(workdir: Path, capsys: Any) -> None:
    run = ended_run(workdir)
    run.plan.write_text("{")

    assert cli.main(["status", "d-1"]) == 3
    assert "plan.json is not valid JSON" in capsys.readouterr().err


def test_cli_fault_of_ours_is_4_with_a_traceback(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> int:
        raise ZeroDivisionError

    monkeypatch.setitem(verbs.VERBS, "list", (lambda parser: None, broken))

    assert cli.main(["list"]) == 4
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "fault of Fairlead's own" in said


def test_cli_interrupted_is_130(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(verbs.VERBS, "list", (lambda parser: None, interrupted))

    assert cli.main(["list"]) == 130


def test_cli_errors_as_json_are_a_document(workdir: Path, capsys: Any) -> None:
    assert cli.main(["plan", "train.epochs=0", "seed=x", "--json"]) == 2

    document = json.loads(capsys.readouterr().out)
    assert document["error"] == "SpecError"
    assert [set(p) for p in document["problems"]] == [{"what", "where", "do"}] * 2
