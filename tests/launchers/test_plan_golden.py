"""Plans as they are frozen in golden files, and as they are shown."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from conf.document import to_document
from launchers.parts import Part
from launchers.plan import Plan
from launchers.queue import slurm
from launchers.show import Planned, plan_text
from launchers.step import step_of
from tests.launchers.planned import A100, COMMAND, MI300X, TWO_BY_TWO, boxed, composed, planned

Compare = Callable[[str, str], None]


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
def test_plan_text_says_where_no_script_does_which_limits_are_kept(launcher: str, said: bool) -> None:
    plan = planned(composed(f"launcher={launcher}", "experiment=digits"))
    step = step_of(plan, 0, 0)
    seen = {"rank": 0, "environment": step.env}
    shown = Planned(plan=plan, scripts={}, step=step, member=0, points=[{}], spec={}, alike=True, **seen)

    text = "\n".join(plan_text(shown))
    assert ("10080 min at a time (machine.time_limit_min)" in text) is said
    assert ("1024 GB on a node (machine.mem_gb)" in text) is said


@pytest.mark.parametrize("free", [True, False])
def test_plan_text_says_what_a_program_without_a_container_sees_and_whence_a_secret_comes(free: bool) -> None:
    secrets = ("secrets.TOKEN.env=HF_TOKEN", "secrets.KEY.file=/srv/key", "secrets.KEY.through=file")
    spec = composed("launcher=slurm", "experiment=digits", *COMMAND, *secrets)
    plan = planned(spec if free else boxed(spec))
    step = step_of(plan, 0, 0)
    seen = {"rank": 0, "environment": step.env}
    shown = Planned(plan=plan, scripts={}, step=step, member=0, points=[{}], spec={}, alike=True, **seen)

    text = "\n".join(plan_text(shown))
    assert ("  no container: the program sees all of its host" in text) is free
    assert "\nKEY_FILE=<secret, from file /srv/key>\nTOKEN=<secret, from env HF_TOKEN>\n" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data.path=s3://lab/in", "site.stage_gb=30"), "s3://lab/in is copied to each node whole, into /"),
        (("data.path=s3://lab/in", "site.stage_gb=30"), "where it may take 30 GB (site.stage_gb)"),
        (("data.path=s3://lab/in",), "where it may take half of the disk"),
        (("data.path=.", "staging.copy=true"), " is copied to each node whole"),
        (("data.path=.",), ""),
    ],
)
def test_plan_text_says_what_is_copied_to_the_nodes(words: tuple[str, ...], said: str) -> None:
    spec = composed("data=images", "model=cnn", *words)
    plan = planned(spec)
    step = step_of(plan, 0, 0)
    seen = {"rank": 0, "environment": step.env, "spec": to_document(spec)}
    shown = Planned(plan=plan, scripts={}, step=step, member=0, points=[{}], alike=True, **seen)

    text = "\n".join(plan_text(shown))
    assert (said in text) if said else ("is copied to" not in text)
