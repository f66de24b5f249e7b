"""What a program is given by its plan: where it starts, its environment, its parameters and its data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from launchers.planning import Facts, plan_of
from launchers.step import step_of
from tests.launchers.planned import COMMAND, PYTHON, TWO_BY_TWO, boxed, changed, composed, planned


def test_plan_hands_a_databases_url_on_by_name_and_never_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_DB_URL", "sqlite:///canary.db")
    said = ("data=sql", "data.url_env=MY_DB_URL", "data.query=SELECT 1", "data.target=kind", "model=mlp")
    plan = planned(boxed(composed(*TWO_BY_TWO, *said)))

    script = step_of(plan, 0, 0).rank_script

    assert '[ -z "${MY_DB_URL+set}" ] || export APPTAINERENV_MY_DB_URL="$MY_DB_URL"' in script.splitlines()
    assert "canary" not in f"{plan} {script}"


def test_plan_users_environment_cannot_break_the_contract() -> None:
    spec = changed(composed(), env={"FAIRLEAD_SPEC": "mine", "PYTHONPATH": "mine", "A": "mine"})
    env = step_of(planned(spec), 0, 0).env

    assert env["FAIRLEAD_SPEC"] == "/runs/digits-1/members/0/spec.json"
    assert env["PYTHONPATH"] == "/runs/digits-1/code/fairlead:/runs/digits-1/code/project"
    assert env["A"] == "mine"


def test_plan_containers_environment_wins_over_the_sites() -> None:
    spec = changed(composed(), env={"A": "container"})
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, env={"A": "site", "B": "site"}))
    env = step_of(planned(spec), 0, 0).env

    assert (env["A"], env["B"]) == ("container", "site")


def test_plan_program_is_told_where_to_report() -> None:
    first, second = (step_of(planned(composed(), members=8), 7, attempt).env for attempt in (0, 1))

    assert first["CLOUD_ML_JOB_ID"] == "digits-1"
    assert "CLOUD_ML_TRIAL_ID" not in first, "it is no trial of a search"
    assert first["CLOUD_ML_HP_METRIC_FILE"] == "/runs/digits-1/members/7/attempt-0/hypertune.metrics"
    assert first["FAIRLEAD_REPORTS"] == "/runs/digits-1/members/7/attempt-0/program.jsonl"
    assert first["FAIRLEAD_REPORTS"] != second["FAIRLEAD_REPORTS"]


def test_plan_command_starts_in_the_project_and_sees_none_of_our_packages() -> None:
    """A user's package may be called `trainer` or `conf`."""
    spec = composed(*COMMAND)
    plan = plan_of(spec, Facts(job="d-1", run_dir=Path("/runs/d-1"), python=PYTHON, members=1, below="sub/x"))
    top = planned(spec)

    assert plan.pools[0].cwd == "project/sub/x"
    assert plan.pools[0].env["PYTHONPATH"] == "/runs/d-1/code/project/sub/x:/runs/d-1/code/project"
    assert top.pools[0].env["PYTHONPATH"] == "/runs/digits-1/code/project"
    assert step_of(plan, 0, 0).program == ("python3", "train.py")


def test_plan_command_in_a_container_starts_in_the_project() -> None:
    words = step_of(planned(boxed(composed(*TWO_BY_TWO, *COMMAND))), 0, 0).program
    ours = step_of(planned(boxed(composed(*TWO_BY_TWO))), 0, 0).program

    assert words[words.index("--pwd") + 1] == "/runs/digits-1/members/0/project"
    assert ours[ours.index("--pwd") + 1] == "/runs/digits-1/members/0"


@pytest.mark.parametrize(
    ("way", "argv", "variables"),
    [
        ("arguments", ("--lr=0.1", "--model.width=32"), {}),
        ("environment", (), {"LR": "0.1", "MODEL_WIDTH": "32"}),
        ("none", (), {}),
    ],
)
def test_plan_parameters_reach_a_command_as_the_job_says(
    way: str, argv: tuple[str, ...], variables: dict[str, str]
) -> None:
    spec = composed(*COMMAND, "params.lr=0.1", "params.model.width=32", f"job.parameters={way}")
    step = step_of(planned(spec), 0, 0, spec.params)

    assert step.program == ("python3", "train.py", *argv)
    assert {k: v for k, v in step.env.items() if k in ("LR", "MODEL_WIDTH")} == variables


def test_plan_parameters_of_a_member_are_its_own() -> None:
    """The plan is shared; a sweep's members differ in what they are given."""
    plan = planned(composed(*COMMAND, "params.lr=0.1"))

    assert [step_of(plan, k, 0, {"lr": lr}).program[-1] for k, lr in enumerate((0.2, 0.3))] == ["--lr=0.2", "--lr=0.3"]


def test_plan_parameter_cannot_break_the_contract() -> None:
    """The check refuses it; a plan that was made by hand is no worse off."""
    plan = planned(composed(*COMMAND, "job.parameters=environment"))

    assert step_of(plan, 3, 0, {"fairlead_member": 9}).env["FAIRLEAD_MEMBER"] == "3"


def test_plan_trainer_is_given_no_parameters() -> None:
    assert step_of(planned(composed()), 0, 0, {"lr": 1}).program == (PYTHON, "-m", "trainer")


def test_plan_entry_point_of_an_image_starts_where_the_image_says_with_its_own_python_path() -> None:
    command = ("machine=cpu-small", "job=command", "job.command=[a]", "job.metrics.kind=none")
    named = changed(boxed(composed(*command)), workdir="/app")
    there = dataclasses.replace(named, job=dataclasses.replace(named.job, command=()))
    entry = changed(there, workdir=None)

    (pool,) = planned(there).pools
    assert (pool.cwd, "PYTHONPATH" in pool.env) == ("/app", False)
    argv = step_of(planned(there), 0, 0).program
    assert argv[argv.index("--pwd") + 1] == "/app"
    for other in (entry, named):
        assert planned(other).pools[0].cwd == "project"


def test_plan_container_sees_exported_images_at_the_paths_that_the_lines_name(tmp_path: Path) -> None:
    (tmp_path / "flowers/red").mkdir(parents=True)
    for name in ("1.png", "2.png"):
        (tmp_path / "flowers/red" / name).touch()
    words = ("data=images", f"data.path={tmp_path}/flowers", "job.data_format=jsonl", "data.split.fraction=0.5")
    plan = planned(boxed(composed(*COMMAND, *words)))

    program = step_of(plan, 0, 0).program

    lines, images = "/runs/digits-1/splits/0", f"{tmp_path}/flowers"
    for folder in (lines, images):
        assert f"type=bind,src={folder},dst={folder},ro" in program
    assert plan.export is not None and plan.export.format == "jsonl"


def test_plan_staged_data_are_shared_by_the_jobs_of_a_user_on_a_node() -> None:
    """Not in the container's private /tmp, which goes with the attempt."""
    spec = boxed(composed(*TWO_BY_TWO))
    site = dataclasses.replace(spec.site, scratch_dir="/nvme", stage_gb=1.5)
    facts = {"run_dir": Path("/runs/d"), "python": PYTHON, "members": 2, "image": "/x.sif", "user": 1007}
    plans = [plan_of(dataclasses.replace(spec, site=site), Facts(job=job, **facts)) for job in ("d-1", "d-2")]

    for step in (step_of(plans[0], 0, 0), step_of(plans[0], 1, 3), step_of(plans[1], 0, 0)):
        assert step.env["FAIRLEAD_STAGE_DIR"] == "/nvme/fairlead-data-1007"
        assert step.env["FAIRLEAD_STAGE_GB"] == "1.5"
        assert "type=bind,src=/nvme/fairlead-data-1007,dst=/nvme/fairlead-data-1007" in step.program
        assert step.scratch is not None and not "/nvme/fairlead-data-1007".startswith(step.scratch)
    command = plan_of(boxed(composed(*COMMAND)), Facts(job="d-1", **facts))
    assert "fairlead-data" not in step_of(command, 0, 0).rank_script
