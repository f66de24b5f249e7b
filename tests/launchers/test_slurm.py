"""Batch scripts: what sbatch reads in them, and what the batch shell executes."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conf import schema
from launchers.config.check import check_all
from launchers.errors import SpecError
from launchers.parts import Part
from launchers.plan import Plan
from launchers.planning import Facts, plan_of
from launchers.queue import slurm
from launchers.search.expand import compose_all

HOSTILE_FOLDERS = (
    "a b",
    "it's",
    'say "x"',
    "$(touch canary)",
    "`touch canary`",
    "100%j",
    "ünïcode",
    "a=b,c",
    "; touch canary;",
    "#x",
    "back\\slash",
    "-x",
)


@functools.cache
def composed(*overrides: str) -> schema.Spec:
    return check_all(compose_all(["launcher=slurm", *overrides]))[0]


def planned(*overrides: str, run_dir: str = "/runs/d-1", python: str = "/opt/python", members: int = 1) -> Plan:
    return plan_of(composed(*overrides), Facts(job="d-1", run_dir=Path(run_dir), python=python, members=members))


def options(script: str) -> Mapping[str, str]:
    """The #SBATCH lines, unquoted as sbatch does it."""
    lines = [shlex.split(line)[1] for line in script.splitlines() if line.startswith("#SBATCH ")]
    return dict(line.removeprefix("--").partition("=")[::2] for line in lines)


def test_member_script_one_member_is_a_plain_job() -> None:
    script = slurm.member_script(planned(), Part.whole(3), "d-1.r1")

    assert "array" not in options(script)
    assert shlex.split(script.splitlines()[-1])[-2:] == ["--member", "3"]
    assert options(script)["job-name"] == "d-1.r1"


@pytest.mark.parametrize(
    ("indices", "array"),
    [((0, 1, 2, 3), "0-3"), ((0, 2, 3, 7), "0,2-3,7"), ((5, 4), "4-5"), (range(1001), "0-1000")],
)
def test_member_script_several_members_are_one_array(indices: Any, array: str) -> None:
    script = slurm.member_script(planned(members=1001), Part.whole(*indices), "d-1")

    assert options(script)["array"] == array
    assert "--member" not in script


def test_member_script_array_is_throttled_as_told() -> None:
    said = options(slurm.member_script(planned("launcher.max_parallel=3", members=9), Part.whole(*range(9)), "d-1"))

    assert said["array"] == "0-8%3"


def test_member_script_tells_the_batch_shell_in_time_and_may_be_requeued() -> None:
    said = options(slurm.member_script(planned("job.notice_s=90"), Part.whole(0), "d-1"))

    assert said["signal"] == "B:USR2@90"
    assert "requeue" in said
    assert said["open-mode"] == "append"


def test_member_script_asks_for_what_the_machine_says() -> None:
    said = options(
        slurm.member_script(
            planned(
                "machine=cpu-large",
                "machine.partition=long",
                "machine.qos=q",
                "machine.account=a",
                "machine.constraint='x&y'",
                "machine.exclusive=true",
                "machine.disk.size_gb=3",
            ),
            Part.whole(0),
            "d",
        )
    )

    wanted = {
        "partition": "long",
        "qos": "q",
        "account": "a",
        "constraint": "x&y",
        "exclusive": "",
        "tmp": "3072M",
        "mem": "16384M",
        "cpus-per-task": "4",
        "time": "480",
        "nodes": "1",
    }
    assert {k: said[k] for k in wanted} == wanted


def test_member_script_sites_defaults_stand_in() -> None:
    spec = composed()
    site = dataclasses.replace(spec.site, default_partition="batch", default_account="acc")
    plan = plan_of(dataclasses.replace(spec, site=site), Facts(job="d", run_dir=Path("/r"), python="p", members=1))
    said = options(slurm.member_script(plan, Part.whole(0), "d"))

    assert (said["partition"], said["account"]) == ("batch", "acc")


def test_member_script_says_nothing_that_was_not_asked() -> None:
    """submitit's own defaults (a wckey, srun arguments, a log of its own) are none of ours."""
    said = options(slurm.member_script(planned(), Part.whole(0), "d"))

    assert not {"wckey", "partition", "account", "qos", "gres", "error", "exclusive"} & set(said)


@pytest.mark.parametrize("name", ["reservation", "wckey", "mail-user", "mail_user", "exclude", "gpu-bind", "licenses"])
def test_member_script_further_option_is_said_once(name: str) -> None:
    script = slurm.member_script(planned(f"launcher.sbatch.{name}=x"), Part.whole(0), "d")

    assert script.count(f"#SBATCH --{name.replace('_', '-')}=x\n") == 1


@pytest.mark.parametrize(
    "name",
    [
        "setup",
        "teardown",
        "srun_args",
        "map_count",
        "array_parallelism",
        "folder",
        "command",
        "use_srun",
        "signal_delay_s",
        "additional_parameters",
        "stderr_to_stdout",
    ],
)
def test_member_script_submitits_own_parameter_is_no_way_in(name: str) -> None:
    """These are not sbatch's options: refused by the check, or handed to sbatch, which refuses them."""
    try:
        script = slurm.member_script(planned(f"launcher.sbatch.{name}=touch"), Part.whole(0), "d")
    except SpecError:
        return

    assert f"#SBATCH --{name.replace('_', '-')}=touch" in script
    assert sum("touch" in line for line in script.splitlines()) == 1


def test_member_script_switch_that_is_true_has_no_value() -> None:
    assert "#SBATCH --hold\n" in slurm.member_script(planned("launcher.sbatch.hold=true"), Part.whole(0), "d")


def test_member_script_switch_that_is_false_is_not_said() -> None:
    assert "hold" not in slurm.member_script(planned("launcher.sbatch.hold=false"), Part.whole(0), "d")


def test_member_script_setup_lines_come_before_the_command() -> None:
    spec = composed()
    site = dataclasses.replace(spec.site, setup=("module load x", "ulimit -n 4096"))
    plan = plan_of(dataclasses.replace(spec, site=site), Facts(job="d", run_dir=Path("/r"), python="p", members=1))
    lines = slurm.member_script(plan, Part.whole(0), "d").splitlines()

    assert lines.index("module load x") < lines.index("ulimit -n 4096") < len(lines) - 1
    assert lines[-1].startswith("exec ")


def test_member_script_parameters_come_before_any_command() -> None:
    """sbatch reads #SBATCH lines only up to the first command."""
    lines = slurm.member_script(planned(), Part.whole(0), "d").splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))

    assert all(not line or line.startswith("#") for line in lines[: last + 1])


def test_finish_script_waits_for_the_members_however_they_end() -> None:
    said = options(slurm.finish_script(planned("machine.partition=long"), "d-1.finish", "77"))

    assert said["dependency"] == "afterany:77"
    assert (said["nodes"], said["cpus-per-task"], said["partition"]) == ("1", "1", "long")


def test_finish_script_alone_waits_for_nothing() -> None:
    assert "dependency" not in slurm.finish_script(planned(), "d-1.finish")


def test_finish_script_asks_for_no_card() -> None:
    plan = planned("machine=gpu-8", "accelerator=a100", "accelerator.count=8")
    said = options(slurm.finish_script(plan, "x"))

    assert not {"gres", "exclusive", "constraint"} & set(said)
    assert int(said["time"]) <= 60


def test_finish_script_outlives_the_notice() -> None:
    said = options(slurm.finish_script(planned("job.notice_s=3600"), "x"))

    assert int(said["signal"].partition("@")[2]) < int(said["time"]) * 60


@pytest.mark.parametrize("which", ["members", "finish"])
@pytest.mark.parametrize("name", HOSTILE_FOLDERS)
def test_script_hostile_folder_runs_one_command_with_its_words(
    workdir: Path, fakes: Any, name: str, which: str
) -> None:
    python = fakes.put("py thon")
    plan = planned(run_dir=f"/runs/{name}/d-1", python=str(python))
    script = (
        slurm.member_script(plan, Part.whole(0), "d-1")
        if which == "members"
        else slurm.finish_script(plan, "d-1.finish")
    )
    (workdir / "job.sbatch").write_text(script, encoding="utf-8")

    subprocess.run(["bash", "-n", "job.sbatch"], check=True)
    done = subprocess.run(["bash", "job.sbatch"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    (call,) = fakes.calls("py thon")
    module = ["-m", "launchers.host.supervise"] if which == "members" else ["-m", "launchers.delivery.finish"]
    rest = ["--member", "0"] if which == "members" else []
    assert call["argv"] == [*module, f"/runs/{name}/d-1", *rest]
    assert call["env"]["PYTHONPATH"] == f"/runs/{name}/d-1/code/fairlead"
    assert not (workdir / "canary").exists()
    assert options(script)["chdir"] == f"/runs/{name}/d-1"
    assert options(script)["output"].replace("%%", "").count("%") == 1


@pytest.mark.parametrize("name", ["a\ntouch canary\nb", "a:b"])
def test_launch_from_a_folder_that_cannot_be_written_down_is_refused(fairlead: Any, workdir: Path, name: str) -> None:
    """What comes after a line break in an #SBATCH line is a command; a colon splits PYTHONPATH."""
    (workdir / name).mkdir()

    done = fairlead("plan", "launcher=slurm", cwd=workdir / name)

    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


def test_client_environment_forgets_the_enclosing_job() -> None:
    left = {
        "SLURM_JOB_ID": "1",
        "SLURM_CPU_BIND": "x",
        "SBATCH_PARTITION": "y",
        "APPTAINERENV_X": "1",
        "PMIX_RANK": "0",
        "SRUN_DEBUG": "1",
    }
    kept = {"SLURM_CONF": "/etc/x", "PATH": "/bin", "MLFLOW_TRACKING_TOKEN": "t", "APPTAINER_CACHEDIR": "/c", "X": "="}

    assert slurm.client_environment({**left, **kept}) == kept


def test_client_environment_does_not_change_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "5")

    assert "SLURM_JOB_ID" not in slurm.client_environment()
    assert os.environ["SLURM_JOB_ID"] == "5"


def test_scripts_are_plain_text_that_json_can_hold() -> None:
    script = slurm.member_script(planned(), Part.whole(0), "d")

    assert json.loads(json.dumps(script)) == script
    assert script.startswith("#!/bin/bash\n")
