"""The command as a person or a script meets it: verbs, exit codes, JSON, and what it costs to ask."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf import job_schema, machine_schema, schema, sweep_schema, train_schema
from launchers import cli, verbs
from launchers.run_folder.record import Run, append_line, make_private, write_json
from tests.launchers.tried import accuracies, make_search, search_of

Command = Callable[..., "subprocess.CompletedProcess[str]"]
HEAVY = ("torch", "mlflow", "optuna", "hydra", "omegaconf", "submitit", "pydantic", "sklearn", "numpy")

# --- the frozen surface: a change must be made here too -----------------------------------------------

VERBS = {
    *("launch", "plan", "check", "status", "list", "logs", "wait", "cancel", "retry", "sync", "image"),
    *("best", "report", "extend", "prove", "pool", "shell", "notebook"),
}
KEYS = {
    "Spec": "name seed job pools data engine model optimizer train objective tracking launcher site staging sweep "
    "params secrets",
    "Secret": "env file command through",
    "Component": "kind options",
    "Metrics": "kind path pattern metric",
    "Job": "kind command script module source wheelhouse data_format arguments parameters metrics notice_s "
    "max_requeues restarts hang worker_restarts restart_job_on_worker_restart disable_retries silent_min log_gb "
    "max_processes",
    "Hang": "setup_s rendezvous_s data_s restore_s first_step_s step_s data_wait_s evaluation_s checkpoint_s export_s",
    "Restarts": "crash hang rendezvous out_of_memory worker elsewhere",
    "Disk": "kind size_gb",
    "Machine": "partition nodes ranks_per_node cpus_per_rank mem_gb max_cpus max_accelerators disk time_limit_min "
    "constraint account qos exclusive hourly_cost",
    "Accelerator": "kind slurm_type count memory_gb precisions precision container_flag cdi device backend peak_tflops",
    "Bind": "source target writable",
    "Container": "runtime image digest workdir source architecture recipe dockerfile accelerators python binds env "
    "host_env host_shm shm_gb",
    "Train": "epochs max_steps batch_size accumulate clip_norm precision compile recompute deterministic schedule "
    "warmup_steps eval_every_steps log_every_steps checkpoint_every_steps until stop_after export "
    "checkpoint_in_background keep_checkpoints workers onnx start_from trust_unverified log_samples profile",
    "StopAfter": "evaluations min_delta",
    "Staging": "copy options sums",
    "Objective": "metric goal",
    "Tracking": "kind uri experiment register alias model_gb tensorboard",
    "Profile": "wait warmup active ranks",
    "Launcher": "kind pool max_parallel max_wait_min members_per_allocation sbatch",
    "ImageBuild": "bootstrap base options",
    "Site": "name runs_dir images_dir python apptainer setup env default_partition default_account scratch_dir "
    "stage_gb image_local local_gb node_mtbf_h currency registry_auth registry_http image_keys image_build",
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


# --- help and imports ---------------------------------------------------------------------------------


def loaded(*words: str, cwd: Path, root: Path) -> set[str]:
    """Heavy packages that a command line brings in."""
    code = (
        "import sys\nfrom launchers.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"sys.stderr.write('\\nLOADED ' + ' '.join(n for n in {HEAVY!r} if n in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return set(done.stderr.rpartition("LOADED ")[2].split())


def ended_run(workdir: Path, name: str = "d-1", state: str = "SUCCEEDED", launcher: str = "slurm") -> Run:
    """A run that is over, by its files."""
    run = Run(workdir / "runs" / name)
    attempt = run.member(0).path / "attempt-0"
    attempt.mkdir(parents=True)
    run.logs.mkdir()
    write_json(run.plan, {"job": name, "launcher": launcher, "pools": []})
    write_json(run.spec, {"name": "d", "objective": {"metric": "val/loss", "goal": "minimize"}})
    append_line(run.members_file, {"index": 0, "point": {}, "sections": {}})
    outcome = {
        "state": state,
        "cause": "user_error",
        "message": "KeyError: 'ü'",
        "first_rank": 0,
        "host": "n1",
        "last_lines": ["boom"],
    }
    write_json(attempt / "outcome.json", outcome)
    (attempt / "rank-0.log").write_text("hello\nwörld\n")
    return run


def test_cli_help_loads_nothing_heavy(workdir: Path, root: Path) -> None:
    assert loaded("--help", cwd=workdir, root=root) == set()


@pytest.mark.parametrize(
    "words", [["status"], ["status", "--json"], ["list"], ["logs"], ["logs", "--errors"], ["wait"]]
)
def test_cli_looking_at_a_run_loads_nothing_heavy(workdir: Path, root: Path, words: list[str]) -> None:
    ended_run(workdir)

    assert loaded(*words, cwd=workdir, root=root) == set()


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["wait"]])
def test_cli_looking_at_a_search_loads_nothing_heavy(workdir: Path, root: Path, words: list[str]) -> None:
    run = make_search(workdir / "runs", search_of(2), fresh=True, kind="none")
    accuracies(run, [0.5, 0.7])
    write_json(run.result, {"best_member": 1, "search": None})

    assert loaded(*words, cwd=workdir, root=root) == set()


def test_cli_planning_does_not_load_what_trains_or_tracks(workdir: Path, root: Path) -> None:
    assert loaded("plan", cwd=workdir, root=root) <= {"hydra", "omegaconf", "pydantic", "submitit"}


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


# --- output -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["status"], ["list"], ["logs", "--errors"], ["plan"], ["plan", "launcher=slurm"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_cli_reader_that_leaves_early_is_no_error(workdir: Path, root: Path, words: list[str], unbuffered: str) -> None:
    """`fairlead plan | head -1`"""
    ended_run(workdir, state="FAILED")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "launchers.cli", *words],
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": unbuffered},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_cli_terminal_that_knows_few_letters_is_no_error(workdir: Path, fairlead: Command, encoding: str) -> None:
    ended_run(workdir, state="FAILED")

    for words in (["status"], ["logs"], ["logs", "--errors"], ["list"], ["status", "--json"]):
        done = fairlead(*words, env={"PYTHONIOENCODING": encoding})

        assert (done.returncode, done.stderr) == (0, ""), words
        assert done.stdout


def test_cli_run_folder_that_is_not_utf8_is_shown(workdir: Path, fairlead: Command) -> None:
    inside = os.fsencode(workdir) + b"/\xff"
    Path(os.fsdecode(inside)).mkdir()
    ended_run(Path(os.fsdecode(inside)))

    for words in (["status"], ["status", "--json"], ["list"], ["logs"]):
        done = fairlead(*words, cwd=inside)

        assert (done.returncode, done.stderr) == (0, ""), words


def test_status_as_json_is_a_document(workdir: Path, capsys: Any) -> None:
    run = ended_run(workdir, state="FAILED")

    assert cli.main(["status", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"job", "state", "run_dir", "slurm_ids", "finished", "reason", "counts", "members"} | {
        *("launched", "ended", "goodput", "changes")
    }
    assert (document["state"], document["run_dir"], document["counts"]) == ("FAILED", str(run.path), {"FAILED": 1})
    assert document["members"][0]["message"] == "KeyError: 'ü'"


def test_status_of_a_search_as_json_says_how_it_stands(workdir: Path, capsys: Any) -> None:
    run = make_search(workdir / "runs", search_of(3), fresh=True, kind="none")
    accuracies(run, [0.5, 0.7])

    assert cli.main(["status", "--json"]) == 0

    search = json.loads(capsys.readouterr().out)["search"]
    assert (search["best"]["trial"], search["trials"]) == (1, {"SUCCEEDED": 2})
    assert (run.id, search["budget"]["trials"]) == ("digits-1", {"used": 2, "limit": 3})


@pytest.mark.parametrize(("best", "code"), [(None, 1), ("PRUNED", 1), ("SUCCEEDED", 0)])
def test_wait_for_a_search_is_well_when_it_found_something(
    workdir: Path, capsys: Any, best: str | None, code: int
) -> None:
    run = make_search(workdir / "runs", search_of(2), fresh=True, kind="none")
    accuracies(run, [0.5, None])
    found = {"trial": 0, "state": best, "values": {"val/accuracy": 0.5}, "point": {}} if best else None
    budget = {"trials": {"used": 2, "limit": 2}, "gpu_hours": {"used": 0, "reserved": 0, "limit": None}}
    search = {
        "best": found,
        "trials": {},
        "slots": None,
        "over": "it is",
        "budget": {**budget, "wall_min": {"used": 1, "limit": 9}},
    }
    write_json(run.result, {"best_member": 0, "metrics": {}, "members": {}, "search": search})

    assert cli.main(["wait"]) == code

    assert "  over         it is" in capsys.readouterr().out


def test_list_as_json_is_every_job(workdir: Path, capsys: Any) -> None:
    ended_run(workdir, "a-1")
    ended_run(workdir, "b-1", state="CANCELLED")

    assert cli.main(["list", "--json"]) == 0

    rows = json.loads(capsys.readouterr().out)
    assert {d["job"]: d["state"] for d in rows} == {"a-1": "SUCCEEDED", "b-1": "CANCELLED"}


def test_list_as_json_has_times_that_any_program_reads(workdir: Path, capsys: Any) -> None:
    run = ended_run(workdir, "a-1")
    write_json(run.provenance, {"created": "2026-01-02T03:04:05+00:00"})
    make_private(run.ended)
    os.utime(run.ended, (0, 1_767_323_050))

    assert cli.main(["list", "--json"]) == 0

    (row,) = json.loads(capsys.readouterr().out)
    assert (row["launched"], row["ended"]) == ("2026-01-02T03:04:05+00:00", "2026-01-02T03:04:10+00:00")


def test_list_one_broken_run_does_not_hide_the_others(workdir: Path, capsys: Any) -> None:
    ended_run(workdir, "a-1")
    broken = ended_run(workdir, "b-1")
    broken.plan.write_text("{")

    cli.main(["list"])

    assert "a-1" in capsys.readouterr().out


def test_list_without_runs_is_empty_and_fine(workdir: Path, capsys: Any) -> None:
    assert cli.main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    "overrides", [[], ["launcher=slurm", "machine=cpu-small", "seed=1,2,3", "-m", "--member", "2"]]
)
def test_plan_as_json_is_a_document(workdir: Path, fairlead: Command, overrides: list[str]) -> None:
    done = fairlead("plan", "--json", *overrides)

    document = json.loads(done.stdout)
    assert {"plan", "step"} <= set(document)
    assert list(document["scripts"]) == (["job.sbatch"] if overrides else [])
    assert document["step"]["env"]["FAIRLEAD_MEMBER"] == ("2" if overrides else "0")
    assert list(workdir.iterdir()) == []


def test_logs_of_a_failed_run_say_why(workdir: Path, capsys: Any) -> None:
    ended_run(workdir, state="FAILED")

    assert cli.main(["logs", "--errors"]) == 0

    assert "    boom" in capsys.readouterr().out.splitlines()


def test_logs_as_json_are_an_object_for_each_line(workdir: Path, capsys: Any) -> None:
    run = ended_run(workdir, state="FAILED")
    (run.member(0).path / "attempt-0" / "rank-1.log").write_text("other\n")

    assert cli.main(["logs", "--json"]) == 0

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        {"member": 0, "rank": 0, "line": "hello"},
        {"member": 0, "rank": 0, "line": "wörld"},
        {"member": 0, "rank": 1, "line": "other"},
    ]
    assert cli.main(["logs", "--errors", "--json"]) == 0
    assert [json.loads(line)["error"] for line in capsys.readouterr().out.splitlines()][1] == "    boom"


def test_logs_of_a_chosen_member_and_rank_as_json_name_them(workdir: Path, capsys: Any) -> None:
    run = make_search(workdir / "runs", search_of(3), fresh=True, kind="none")
    accuracies(run, [0.5, 0.7])
    (run.member(1).path / "attempt-0" / "rank-0.log").write_text("hello\n")

    assert cli.main(["logs", "--json", "--member", "1", "--rank", "0"]) == 0

    assert json.loads(capsys.readouterr().out) == {"member": 1, "rank": 0, "line": "hello"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--member", "2"], "nothing was said yet: fairlead status digits-1"),
        (["--errors"], "no member has failed: fairlead status digits-1"),
    ],
)
def test_logs_that_are_empty_say_so(workdir: Path, capsys: Any, words: list[str], said: str) -> None:
    run = make_search(workdir / "runs", search_of(3), fresh=True, kind="none")
    accuracies(run, [0.5, 0.7])

    assert cli.main(["logs", *words]) == 0

    assert capsys.readouterr() == ("", f"{said}\n")


def test_logs_of_what_is_not_there_are_a_mistake(workdir: Path, capsys: Any) -> None:
    run = make_search(workdir / "runs", search_of(3), fresh=True, kind="none")

    for words in (["--rank", "9"], ["--member", "99"], ["--errors", "--member", "99"], ["--follow", "--rank", "9"]):
        assert cli.main(["logs", run.id, *words]) == 2

        assert "there is no " in capsys.readouterr().err


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELLED", 1)])
def test_wait_for_an_ended_job_exits_as_it_ended(workdir: Path, capsys: Any, state: str, code: int) -> None:
    ended_run(workdir, state=state, launcher="local")

    assert cli.main(["wait"]) == code


def test_cancel_of_an_ended_job_says_so(workdir: Path, capsys: Any) -> None:
    run = ended_run(workdir)

    assert cli.main(["cancel", "d-1", "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == {"job": "d-1", "cancelled": False}
    assert not run.cancelled.exists()


def test_config_dir_may_come_from_the_environment(workdir: Path, fairlead: Command) -> None:
    (workdir / "mine" / "site").mkdir(parents=True)
    (workdir / "mine" / "site" / "mine.yaml").write_text("name: mine\npython: /my/python\n")

    done = fairlead("plan", "site=mine", "--json", env={"FAIRLEAD_CONFIG_DIR": str(workdir / "mine")})

    assert json.loads(done.stdout)["plan"]["python"] == "/my/python"


@pytest.mark.parametrize("words", [["launch", "launcher=slurm"], ["pool", "up", "mine"]])
def test_cli_job_for_slurm_where_there_is_none_leaves_no_run_behind(
    workdir: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("PATH", str(workdir))

    code = cli.main([*words, "machine=cpu-small"])

    said = capsys.readouterr().err
    assert code == 3 and "Slurm's commands are not on PATH: sbatch" in said and "login node" in said
    assert not list(workdir.rglob("*"))


def test_cli_version_names_the_folder_it_runs_from(capsys: Any, root: Path) -> None:
    assert cli.main(["--version"]) == 0

    said = capsys.readouterr().out
    assert said.startswith("fairlead") and str(root) in said


def test_report_of_a_job_that_took_no_time_says_so(workdir: Path, capsys: Any) -> None:
    run = ended_run(workdir)

    assert cli.main(["report", str(run.path)]) == 0

    assert "nothing has run yet" in capsys.readouterr().err


def test_status_of_a_member_without_a_cause_is_its_message_alone(workdir: Path, capsys: Any) -> None:
    run = ended_run(workdir)
    shutil.rmtree(run.member(0).path)

    assert cli.main(["status", str(run.path)]) == 0

    assert "FAILED      the launch was interrupted" in capsys.readouterr().out
