"""The plan of a spec: resources, names and argument lists, the same every time and for every name."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conf import machine_schema, schema
from conf.document import from_document, to_document
from launchers.config.check import check_all
from launchers.errors import SpecError
from launchers.parts import Part
from launchers.plan import Plan
from launchers.planning import Facts, plan_of
from launchers.queue import slurm
from launchers.run_folder.record import make_private
from launchers.search.expand import compose_all
from launchers.show import Planned, plan_text
from launchers.step import Step, step_of
from tests.launchers.tracked import put_our_code

PYTHON = "/opt/python"
DIGEST = "sha256:" + "0" * 64
TWO_BY_TWO = ("machine=cpu-small", "machine.nodes=2", "machine.ranks_per_node=2", "launcher=slurm")
A100 = ("machine=gpu-8", "accelerator=a100", "accelerator.count=8", "launcher=slurm")
MI300X = ("machine=gpu-8", "accelerator=mi300x", "accelerator.count=8", "launcher=slurm")
COMMAND = ("job=command", "job.command=[python3,train.py]")
IN_IMAGE = "container.runtime=apptainer"
Compare = Callable[[str, str], None]


@functools.cache
def composed(*overrides: str) -> schema.Spec:
    return check_all(compose_all(overrides))[0]


def boxed(spec: schema.Spec) -> schema.Spec:
    """The spec in an image, whatever the files of this machine are."""
    (pool,) = spec.pools
    container = dataclasses.replace(pool.container, runtime="apptainer", image="/images/x.sif", python="python3")
    return dataclasses.replace(spec, pools=(dataclasses.replace(pool, container=container),))


def changed(spec: schema.Spec, **of_container: Any) -> schema.Spec:
    (pool,) = spec.pools
    container = dataclasses.replace(pool.container, **of_container)
    return dataclasses.replace(spec, pools=(dataclasses.replace(pool, container=container),))


def planned(spec: schema.Spec, run_dir: str = "/runs/digits-1", members: int = 1) -> Plan:
    is_boxed = spec.pools[0].container.runtime == "apptainer"
    image = {"image": "/images/pytorch.sif", "digest": DIGEST} if is_boxed else {}
    return plan_of(spec, Facts(job="digits-1", run_dir=Path(run_dir), python=PYTHON, members=members, **image))


def shown(plan: Plan, member: int = 0, params: Mapping[str, Any] | None = None) -> str:
    """Everything a golden file freezes, a section each."""
    step = step_of(plan, member, 0, params or {})
    rank_argv = shlex.split(step.rank_script.splitlines()[-1].removeprefix("exec ").removeprefix("$held "))
    parts = {
        "job.sbatch": slurm.member_script(plan, Part.whole(*range(plan.members)), plan.job),
        "finish.sbatch": slurm.finish_script(plan, f"{plan.job}.finish", "4242"),
        "srun": "\n".join(step.argv),
        "rank": "\n".join(rank_argv),
        "environment": "\n".join(f"{k}={v}" for k, v in step.env.items()),
        "rank.sh": step.rank_script,
    }
    return "".join(f"=== {title} ===\n{text.rstrip()}\n" for title, text in parts.items())


# --- golden files -------------------------------------------------------------------------------------


def test_plan_cpu_two_by_two_in_a_container_is_golden(golden: Compare) -> None:
    golden("cpu-2x2.txt", shown(planned(boxed(composed(*TWO_BY_TWO)))))


def test_plan_a100_times_eight_is_golden(golden: Compare) -> None:
    golden("a100x8.txt", shown(planned(boxed(composed(*A100)))))


def test_plan_mi300x_times_eight_is_golden(golden: Compare) -> None:
    golden("mi300x-8.txt", shown(planned(boxed(composed(*MI300X)))))


def test_plan_array_of_four_is_golden(golden: Compare) -> None:
    spec = composed("machine=cpu-small", "launcher=slurm", "launcher.max_parallel=2")

    golden("array-4.txt", shown(planned(spec, members=4), member=3))


def test_plan_local_is_golden(golden: Compare) -> None:
    step = step_of(planned(composed("machine.ranks_per_node=2")), 0, 1)

    golden("local.txt", "\n".join([*step.argv, "", step.rank_script]))


def test_plan_hostile_run_folder_is_golden(golden: Compare) -> None:
    run_dir = """/runs/it's a "dir" 100% $HOME `id` ünïcode, x=1/digits-1"""

    golden("hostile-path.txt", shown(planned(boxed(composed(*TWO_BY_TWO)), run_dir)))


def test_plan_command_in_a_container_is_golden(golden: Compare) -> None:
    spec = boxed(composed(*TWO_BY_TWO, *COMMAND, "params.lr=0.1", "params.model.width=32"))

    golden("command.txt", shown(planned(spec), params=spec.params))


def test_golden_files_are_all_used(root: Path) -> None:
    used = "".join(p.read_text(encoding="utf-8") for p in Path(__file__).parent.glob("test_*.py"))

    assert [p.name for p in (root / "tests" / "golden").iterdir() if f'golden("{p.name}"' not in used] == []


def test_golden_files_name_no_place_of_this_machine(root: Path) -> None:
    texts = [p.read_text(encoding="utf-8") for p in (root / "tests" / "golden").iterdir()]

    assert texts
    assert not any(word in text for text in texts for word in (str(root), sys.prefix, str(Path.home())))


# --- what golden files would hide ---------------------------------------------------------------------


def options(script: str) -> Mapping[str, str]:
    """The #SBATCH lines of a script."""
    lines = [shlex.split(line)[1] for line in script.splitlines() if line.startswith("#SBATCH ")]
    return dict(line.removeprefix("--").partition("=")[::2] for line in lines)


def test_plan_a100_asks_for_cards_and_ranks_alike() -> None:
    spec = boxed(composed(*A100))
    plan = planned(spec)
    said = options(slurm.member_script(plan, Part.whole(0), plan.job))

    assert said["gres"] == "gpu:a100:8"
    assert said["ntasks-per-node"] == "8"
    assert "--gres=gpu:a100:8" in step_of(plan, 0, 0).argv
    assert "--nv" in step_of(plan, 0, 0).rank_script
    assert (schema.precision(spec), spec.pools[0].accelerator.backend) == ("bf16", "nccl")


def test_plan_mi300x_asks_for_rocm() -> None:
    script = step_of(planned(boxed(composed(*MI300X))), 0, 0).rank_script

    assert "--rocm" in script
    assert "--nv" not in script


def test_plan_hands_a_databases_url_on_by_name_and_never_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_DB_URL", "sqlite:///canary.db")
    said = ("data=sql", "data.url_env=MY_DB_URL", "data.query=SELECT 1", "data.target=kind", "model=mlp")
    plan = planned(boxed(composed(*TWO_BY_TWO, *said)))

    script = step_of(plan, 0, 0).rank_script

    assert '[ -z "${MY_DB_URL+set}" ] || export APPTAINERENV_MY_DB_URL="$MY_DB_URL"' in script.splitlines()
    assert "canary" not in f"{plan} {script}"


def test_plan_without_accelerator_asks_for_no_card() -> None:
    plan = planned(boxed(composed(*TWO_BY_TWO)))

    assert not any("gres" in word for word in step_of(plan, 0, 0).argv)
    assert "gres" not in slurm.member_script(plan, Part.whole(0), plan.job)


def test_plan_accelerator_without_a_type_asks_for_any_gpu() -> None:
    plan = planned(composed(*A100, "accelerator.slurm_type=null"))

    assert plan.pools[0].gres == "gpu:8"


def test_plan_step_has_the_shape_of_the_machine() -> None:
    argv = step_of(planned(composed(*TWO_BY_TWO)), 0, 0).argv

    assert {"--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=1", "--kill-on-bad-exit=1"} <= set(argv)


def test_plan_members_have_folders_of_their_own() -> None:
    plan = planned(composed(*TWO_BY_TWO), members=3)
    folders = {step_of(plan, m, a).env["FAIRLEAD_ATTEMPT_DIR"] for m in range(3) for a in range(2)}

    assert folders == {f"/runs/digits-1/members/{m}/attempt-{a}" for m in range(3) for a in range(2)}


def test_plan_checkpoints_are_kept_across_attempts() -> None:
    plan = planned(composed())
    first, second = step_of(plan, 1, 0).env, step_of(plan, 1, 1).env

    assert first["AIP_CHECKPOINT_DIR"] == second["AIP_CHECKPOINT_DIR"] == "/runs/digits-1/members/1/checkpoints/"
    assert first["FAIRLEAD_ATTEMPT"] != second["FAIRLEAD_ATTEMPT"]


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


def test_plan_program_is_told_its_trial_and_where_to_report() -> None:
    first, second = (step_of(planned(composed(), members=8), 7, attempt).env for attempt in (0, 1))

    assert (first["CLOUD_ML_JOB_ID"], first["CLOUD_ML_TRIAL_ID"]) == ("digits-1", "7")
    assert first["CLOUD_ML_HP_METRIC_FILE"] == "/runs/digits-1/members/7/attempt-0/hypertune.metrics"
    assert first["FAIRLEAD_REPORTS"] == "/runs/digits-1/members/7/attempt-0/program.jsonl"
    assert first["FAIRLEAD_REPORTS"] != second["FAIRLEAD_REPORTS"]


def test_plan_command_starts_in_the_project_and_sees_none_of_our_packages() -> None:
    """A user's package may be called `trainer` or `conf`."""
    spec = composed(*COMMAND)
    plan = plan_of(spec, Facts(job="d-1", run_dir=Path("/runs/d-1"), python=PYTHON, members=1, below="sub/x"))
    top = planned(spec)

    assert plan.pools[0].cwd == "/runs/d-1/code/project/sub/x"
    assert plan.pools[0].env["PYTHONPATH"] == "/runs/d-1/code/project/sub/x:/runs/d-1/code/project"
    assert top.pools[0].env["PYTHONPATH"] == "/runs/digits-1/code/project"
    assert step_of(plan, 0, 0).program == ("python3", "train.py")


def test_plan_command_in_a_container_starts_in_the_project() -> None:
    words = step_of(planned(boxed(composed(*TWO_BY_TWO, *COMMAND))), 0, 0).program
    ours = step_of(planned(boxed(composed(*TWO_BY_TWO))), 0, 0).program

    assert words[words.index("--pwd") + 1] == "/runs/digits-1/code/project"
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


@pytest.mark.parametrize("mem_gb", ["0.0001", "0.0004", "1e-9"])
def test_plan_little_memory_is_not_all_memory(mem_gb: str) -> None:
    """`--mem=0` means the whole node's: refused, or rounded up."""
    try:
        spec = composed(*TWO_BY_TWO, f"machine.mem_gb={mem_gb}")
    except SpecError:
        return

    assert planned(spec).sbatch["mem"] != "0M"


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
        assert (planned(other).pools[0].cwd or "").endswith("code/project")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((), None),
        (("machine.constraint=rome",), "rome"),
        (("machine.disk.kind=nvme",), "nvme"),
        (("machine.constraint=rome", "machine.disk.kind=ssd"), "rome&ssd"),
        (("machine.constraint='rome|milan'", "machine.disk.kind=ssd"), "(rome|milan)&ssd"),
    ],
)
def test_plan_kind_of_disk_is_a_feature_of_the_nodes(words: tuple[str, ...], wanted: str | None) -> None:
    assert planned(composed("machine=cpu-small", "launcher=slurm", *words)).sbatch.get("constraint") == wanted


def test_plan_sites_python_is_used_on_the_host_alone() -> None:
    spec = boxed(composed(*TWO_BY_TWO))
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, python="/site/python"))
    plan = planned(spec)

    assert "/site/python" in slurm.member_script(plan, Part.whole(0), plan.job)
    assert plan.pools[0].program[0] == "python3"


def test_plan_is_pure(workdir: Path) -> None:
    spec = boxed(composed(*A100))

    assert planned(spec) == planned(spec)
    assert step_of(planned(spec), 0, 0) == step_of(planned(spec), 0, 0)
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize("overrides", [(), TWO_BY_TWO, A100, MI300X])
def test_plan_survives_its_file(overrides: tuple[str, ...]) -> None:
    plan = planned(boxed(composed(*overrides)), members=4)

    assert from_document(Plan, json.loads(json.dumps(to_document(plan)))) == plan


EARLY = """
import os, signal
os.kill(os.getpid(), signal.SIGTERM)
from trainer import signals
notice = signals.install()
assert not notice.given
signals.listen()
print(notice.signal.name)
"""


@pytest.mark.parametrize(("before", "code", "said"), [("", 0, "SIGTERM"), ("kill -USR2 $$", 75, "")])
def test_rank_script_holds_back_what_comes_before_the_trainer_listens(
    workdir: Path, root: Path, before: str, code: int, said: str
) -> None:
    """Told by then, it begins nothing."""
    plan = planned(composed("machine=cpu-small"), run_dir=str(workdir / "d-1"))
    pool = dataclasses.replace(plan.pools[0], program=(sys.executable, "-c", EARLY), env={"PYTHONPATH": str(root)})
    step = step_of(dataclasses.replace(plan, pools=(pool,)), 0, 0)
    (workdir / "d-1" / "members" / "0" / "attempt-0").mkdir(parents=True)
    script = step.rank_script.replace('[ -z "$told" ]', f'{before}\n[ -z "$told" ]')

    done = subprocess.run(
        ["sh", "-c", script], env={**os.environ, "RANK": "0"}, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stdout.strip()) == (code, said), done.stderr


def test_plan_text_shows_what_is_executed() -> None:
    plan = planned(boxed(composed(*A100)))
    step = step_of(plan, 0, 0)
    scripts = {"job.sbatch": slurm.member_script(plan, Part.whole(0), plan.job)}
    finish = slurm.finish_script(plan, "d-1.finish")
    seen = {"rank": 0, "environment": step.env}
    shown = Planned(
        plan=plan, scripts=scripts, step=step, member=0, points=[{}], spec={}, alike=True, finish=finish, **seen
    )
    text = "\n".join(plan_text(shown))

    assert step.rank_script.rstrip().endswith(f"exec $held {shlex.join(step.program)}")
    assert scripts["job.sbatch"].rstrip() in text
    assert all(shlex.quote(word) in text for word in (*step.argv, *step.program))
    assert f"\n{finish.splitlines()[-1]}\n" in text
    assert "-m launchers.delivery.finish" in text


@pytest.mark.parametrize(("launcher", "said"), [("local", True), ("slurm", False)])
def test_plan_text_says_where_no_time_limit_is_kept(launcher: str, said: bool) -> None:
    plan = planned(composed(f"launcher={launcher}", "experiment=digits"))
    step = step_of(plan, 0, 0)
    seen = {"rank": 0, "environment": step.env}
    shown = Planned(plan=plan, scripts={}, step=step, member=0, points=[{}], spec={}, alike=True, **seen)

    assert ("nothing holds it to machine.time_limit_min" in "\n".join(plan_text(shown))) is said


# --- hostile values -----------------------------------------------------------------------------------

HOSTILE = (
    "it's",
    'a "b" c',
    "$(touch canary)",
    "`touch canary`",
    "a\nb",
    "a\ntouch canary\n",
    "100%",
    "%j%t",
    "ünïcode ☃",
    "a=b,c=d",
    "  spaces  ",
    "; touch canary",
    "&& touch canary",
    "$HOME",
    "${HOME}",
    "\\",
    "\\n",
    "a\tb",
    "!!",
    "*",
    "~",
    "-x",
    "--nv",
    "",
    "'",
    '"',
    "$'\\x41'",
    "#",
    "a\rb",
    "<x>|y",
    "\x1b[31m",
    "%%",
    "\u2028",
    "'\"'\"'",
)
TEXT = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=30),
    st.lists(st.sampled_from([*"\"'`$(){}\\;&|<>*?[]#~%=, \n\t!-", "touch canary"]), max_size=8).map("".join),
)
NAMES = st.from_regex(r"\A[A-Z_][A-Z0-9_]{0,8}\Z").map(lambda n: f"X_{n}")
PATHS = TEXT.map(lambda t: "/p/" + t.replace("\n", " "))
DUMP = """
import json, os, sys
with open(os.environ["DUMP"], "w", encoding="utf-8", errors="surrogateescape") as f:
    json.dump({"argv": sys.argv[1:], "env": dict(os.environ)}, f)
"""


@st.composite
def hostile_specs(draw: st.DrawFn) -> schema.Spec:
    """A spec that the check would take, with the worst text in every place that takes text."""
    base = boxed(composed(*TWO_BY_TWO))
    bind = st.builds(machine_schema.Bind, source=PATHS, target=st.none() | PATHS)
    binds = draw(st.lists(bind, max_size=2))
    spec = changed(base, env=draw(st.dictionaries(NAMES, TEXT, max_size=3)), binds=tuple(binds), image=draw(PATHS))
    target = schema.Component(kind="_target_", options={"_target_": draw(TEXT), "a": {draw(TEXT): [draw(TEXT)]}})
    return dataclasses.replace(
        spec,
        model=target,
        data=schema.Component(kind="bytes", options={"path": draw(PATHS)}),
        tracking=schema.Tracking(kind="mlflow", experiment=draw(TEXT), register="x", uri=draw(TEXT)),
        objective=schema.Objective(metric=draw(TEXT), goal="minimize"),
        site=dataclasses.replace(spec.site, env=draw(st.dictionaries(NAMES, TEXT, max_size=2))),
    )


@given(hostile_specs())
@settings(max_examples=60, deadline=None)
def test_spec_hostile_text_survives_its_file(spec: schema.Spec) -> None:
    assert from_document(schema.Spec, json.loads(json.dumps(to_document(spec), ensure_ascii=False))) == spec


@given(hostile_specs())
@settings(max_examples=40, deadline=None)
def test_plan_hostile_text_survives_its_file(spec: schema.Spec) -> None:
    plan = planned(spec)

    assert from_document(Plan, json.loads(json.dumps(to_document(plan), ensure_ascii=False))) == plan


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


@pytest.mark.parametrize(
    ("begin", "folder"), [("/w/model.safetensors", "/w"), ("/runs/a/members/0", "/runs/a/members/0")]
)
def test_plan_container_sees_weights_to_begin_with_and_what_vouches_for_them(begin: str, folder: str) -> None:
    spec = boxed(composed(*TWO_BY_TWO))
    spec = dataclasses.replace(spec, train=dataclasses.replace(spec.train, start_from=begin))

    assert f"type=bind,src={folder},dst={folder},ro" in step_of(planned(spec), 0, 0).program


def test_rank_script_credentials_of_an_address_are_handed_on_and_written_nowhere(tmp_path: Path, fakes: Any) -> None:
    fakes.put("apptainer")
    spec = boxed(composed("data=tokens", "model=gpt", "data.path=s3://bucket/x"))
    site = dataclasses.replace(spec.site, scratch_dir=str(tmp_path))
    step = step_of(planned(dataclasses.replace(spec, site=site)), 0, 0)
    script = tmp_path / "rank.sh"
    script.write_text(step.rank_script.replace("/runs/digits-1/members/0/attempt-0/", f"{tmp_path}/"))
    env = {"PATH": os.environ["PATH"], "RANK": "0", "AWS_SECRET_ACCESS_KEY": "it's $x", "AWS_PROFILE": ""}

    subprocess.run(["sh", str(script)], env=env, check=True, timeout=60)

    (call,) = fakes.calls("apptainer")
    assert call["env"]["APPTAINERENV_AWS_SECRET_ACCESS_KEY"] == "it's $x"
    assert call["env"]["APPTAINERENV_AWS_PROFILE"] == ""
    assert "APPTAINERENV_AWS_ACCESS_KEY_ID" not in call["env"]
    assert (tmp_path / "fairlead-data-0").stat().st_mode & 0o777 == 0o700


def run_rank(step: Step, folder: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """Execute rank.sh by the real /bin/sh; what apptainer, or the program itself, was given."""
    dump, script = folder / "dump.json", folder / "rank.sh"
    dump.unlink(missing_ok=True)
    script.write_text(step.rank_script, encoding="utf-8", errors="surrogateescape")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    inherited = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "DUMP": str(dump)}
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "NODE_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    done = subprocess.run(
        [str(script)], env={**inherited, **rank, **names}, cwd=folder, capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(dump.read_text(encoding="utf-8", errors="surrogateescape"))
    return found


@given(spec=hostile_specs(), part=TEXT)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_rank_script_hostile_text_arrives_and_nothing_runs(
    workdir: Path, fakes: Any, spec: schema.Spec, part: str
) -> None:
    fakes.put("apptainer", DUMP)
    part = part.replace("\n", " ").replace("/", "")
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, scratch_dir=str(workdir / "scratch")))
    plan = planned(spec, f"/runs/{part}x/digits-1")
    (pool,) = plan.pools
    assert pool.container is not None
    there = dataclasses.replace(pool.container, needs=())  # as if this host had the paths (test_container.py)
    plan = dataclasses.replace(plan, pools=(dataclasses.replace(pool, container=there),))
    step = step_of(plan, 0, 0)

    got = run_rank(step, workdir, step.env)

    inside = {k.removeprefix("APPTAINERENV_"): v for k, v in got["env"].items() if k.startswith("APPTAINERENV_")}
    assert all(inside[k] == v for k, v in step.env.items())
    assert got["argv"][-3:] == list(plan.pools[0].program)
    box = plan.pools[0].container
    assert box is not None
    mounted = [got["argv"][i + 1] for i, word in enumerate(got["argv"]) if word == "--mount"]
    for mount, text in zip(box.mounts, mounted, strict=False):
        assert f"src={mount.source}".replace('"', '""') in text
    assert not (workdir / "canary").exists()


@pytest.mark.parametrize("value", HOSTILE)
def test_rank_script_without_a_container_hands_values_on(workdir: Path, value: str) -> None:
    code = (
        "import json,os,sys;json.dump({'argv': sys.argv[1:], 'env': dict(os.environ)}, open(os.environ['DUMP'], 'w'))"
    )
    plan = planned(changed(composed(), env={"X_A": value}))
    (pool,) = plan.pools
    program = (sys.executable, "-ISc", code, value)
    plan = dataclasses.replace(plan, pools=(dataclasses.replace(pool, program=program),))
    step = step_of(plan, 0, 0)

    got = run_rank(step, workdir, step.env)

    assert (got["argv"], got["env"]["X_A"]) == ([value], value)
    assert not (workdir / "canary").exists()


def with_our_code(plan: Plan) -> Plan:
    """A plan that can be run here: what stands before a command's program is in the run's snapshot of our code."""
    put_our_code(Path(plan.run_dir))
    return dataclasses.replace(plan, python=sys.executable)


@pytest.mark.parametrize("way", ["arguments", "environment"])
@pytest.mark.parametrize("value", HOSTILE)
def test_rank_script_hands_hostile_parameters_on(workdir: Path, way: str, value: str) -> None:
    code = "import json,os,sys;json.dump([sys.argv[1:], dict(os.environ)], open(os.environ['DUMP'], 'w'))"
    spec = composed(*COMMAND, f"job.parameters={way}")
    job = dataclasses.replace(spec.job, command=(sys.executable, "-ISc", code))
    plan = planned(dataclasses.replace(spec, job=job), str(workdir / f"r{value}".replace("/", "").replace("\n", " ")))
    Path(plan.pools[0].cwd or "").mkdir(parents=True)
    plan = with_our_code(plan)

    argv, environ = run_rank(step_of(plan, 0, 0, {"some": {"key": value}}), workdir, {})

    assert (argv == [f"--some.key={value}"]) == (way == "arguments")
    assert (environ.get("SOME_KEY") == value) == (way == "environment")
    assert not (workdir / "canary").exists()


def test_rank_script_of_a_command_starts_where_its_script_is(workdir: Path) -> None:
    plan = planned(composed("job=command", "job.command=[sh,hello.sh]"), str(workdir / "a b"))
    folder = Path(plan.pools[0].cwd or "")
    folder.mkdir(parents=True)
    plan = with_our_code(plan)
    (folder / "hello.sh").write_text('echo "{\\"cwd\\": \\"$PWD\\"}" > "$DUMP"')

    assert run_rank(step_of(plan, 0, 0), workdir, {}) == {"cwd": str(folder)}


def test_rank_script_ranks_but_the_first_report_elsewhere(workdir: Path, fakes: Any) -> None:
    """A program whose ranks all report would otherwise write over what counts."""
    fakes.put("apptainer", DUMP)
    spec = boxed(composed(*TWO_BY_TWO, *COMMAND))
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, scratch_dir=str(workdir / "scratch")))
    step = step_of(with_our_code(planned(spec, str(workdir / "run"))), 0, 0)
    make_private(workdir / "run/members/0/attempt-0")

    names = ("CLOUD_ML_HP_METRIC_FILE", "FAIRLEAD_REPORTS")
    seen = [
        [run_rank(step, workdir, {"RANK": rank})["env"][f"APPTAINERENV_{name}"] for name in names]
        for rank in ("0", "3")
    ]

    assert seen[0] == [step.env[name] for name in names]
    assert seen[1] == [f"{step.env[name]}.rank-3" for name in names]


def test_rank_script_path_for_the_image_does_not_hide_the_hosts_commands(workdir: Path, fakes: Any) -> None:
    """PATH and LD_LIBRARY_PATH that a user sets are the program's, not of the apptainer that starts it."""
    fakes.put("apptainer", DUMP)
    env = {"PATH": "/inside/bin", "LD_LIBRARY_PATH": "/inside/lib"}
    spec = changed(boxed(composed(*TWO_BY_TWO)), env=env)
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, scratch_dir=str(workdir / "scratch")))
    step = step_of(planned(spec), 0, 0)

    got = run_rank(step, workdir, {})

    assert got["env"]["APPTAINERENV_PATH"] == "/inside/bin"
    assert got["env"]["APPTAINERENV_LD_LIBRARY_PATH"] == "/inside/lib"
    assert "LD_LIBRARY_PATH" not in got["env"]


def test_rank_script_names_come_from_slurm_where_it_is() -> None:
    step = step_of(planned(composed(*TWO_BY_TWO)), 0, 0)
    head = step.rank_script.split("exec ")[0]
    env = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NODEID": "1", "RANK": "9"}
    script = head + 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $NODE_RANK $LOCAL_WORLD_SIZE"'

    said = subprocess.run(["/bin/sh", "-c", script], env=env, capture_output=True, text=True, check=True).stdout

    assert said == "3 1 4 1 2\n"


def test_rank_script_refuses_a_scratch_folder_of_somebody_else(workdir: Path, fakes: Any) -> None:
    fakes.put("apptainer", DUMP)
    spec = boxed(composed(*TWO_BY_TWO))
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, scratch_dir=str(workdir)))
    (workdir / "fairlead-digits-1-0").write_text("a file is in the way")
    step = step_of(planned(spec), 0, 0)

    with pytest.raises(AssertionError):
        run_rank(step, workdir, step.env)

    assert fakes.calls("apptainer") == []


def test_rank_script_scratch_folder_is_private(workdir: Path, fakes: Any) -> None:
    fakes.put("apptainer", DUMP)
    spec = boxed(composed(*TWO_BY_TWO))
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, scratch_dir=str(workdir / "s p")))
    step = step_of(planned(spec), 0, 0)

    run_rank(step, workdir, step.env)

    assert (workdir / "s p" / "fairlead-digits-1-0").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
def test_rank_script_hands_on_the_cards_that_slurm_gave(workdir: Path, fakes: Any, name: str) -> None:
    fakes.put("apptainer", DUMP)
    spec = boxed(composed(*A100))
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, scratch_dir=str(workdir)))
    step = step_of(planned(spec), 0, 0)

    got = run_rank(step, workdir, {**step.env, name: "2,3"})
    without = run_rank(step, workdir, step.env)

    assert got["env"][f"APPTAINERENV_{name}"] == "2,3"
    assert f"APPTAINERENV_{name}" not in without["env"]
