"""The plan of a spec: what is asked of Slurm and of the container, the same every time."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from conf import schema
from conf.document import from_document, to_document
from launchers.errors import SpecError
from launchers.parts import Part
from launchers.plan import Plan
from launchers.queue import slurm
from launchers.step import step_of
from tests.launchers.planned import A100, MI300X, TWO_BY_TWO, boxed, composed, planned


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


def test_plan_without_accelerator_asks_for_no_card() -> None:
    plan = planned(boxed(composed(*TWO_BY_TWO)))

    assert not any("gres" in word for word in step_of(plan, 0, 0).argv)
    assert "gres" not in slurm.member_script(plan, Part.whole(0), plan.job)


def test_plan_accelerator_without_a_type_asks_for_any_gpu() -> None:
    plan = planned(composed(*A100, "accelerator.slurm_type=null"))

    assert plan.pools[0].gres == "gpu:8"


def test_plan_step_has_the_shape_of_the_machine() -> None:
    argv = step_of(planned(composed(*TWO_BY_TWO)), 0, 0).argv

    assert {
        "--nodes=2",
        "--ntasks=4",
        "--ntasks-per-node=2",
        "--cpus-per-task=1",
        "--kill-on-bad-exit=0",
        "--wait=0",
    } <= set(argv)


def test_plan_members_have_folders_of_their_own() -> None:
    plan = planned(composed(*TWO_BY_TWO), members=3)
    folders = {step_of(plan, m, a).env["FAIRLEAD_ATTEMPT_DIR"] for m in range(3) for a in range(2)}

    assert folders == {f"/runs/digits-1/members/{m}/attempt-{a}" for m in range(3) for a in range(2)}


def test_plan_checkpoints_are_kept_across_attempts() -> None:
    plan = planned(composed())
    first, second = step_of(plan, 1, 0).env, step_of(plan, 1, 1).env

    assert first["AIP_CHECKPOINT_DIR"] == second["AIP_CHECKPOINT_DIR"] == "/runs/digits-1/members/1/checkpoints/"
    assert first["FAIRLEAD_ATTEMPT"] != second["FAIRLEAD_ATTEMPT"]


@pytest.mark.parametrize("mem_gb", ["0.0001", "0.0004", "1e-9"])
def test_plan_little_memory_is_not_all_memory(mem_gb: str) -> None:
    """`--mem=0` means the whole node's: refused, or rounded up."""
    try:
        spec = composed(*TWO_BY_TWO, f"machine.mem_gb={mem_gb}")
    except SpecError:
        return

    assert planned(spec).sbatch["mem"] != "0M"


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


@pytest.mark.parametrize(
    ("begin", "folder"), [("/w/model.safetensors", "/w"), ("/runs/a/members/0", "/runs/a/members/0")]
)
def test_plan_container_sees_weights_to_begin_with_and_what_vouches_for_them(begin: str, folder: str) -> None:
    spec = boxed(composed(*TWO_BY_TWO))
    spec = dataclasses.replace(spec, train=dataclasses.replace(spec.train, start_from=begin))

    assert f"type=bind,src={folder},dst={folder},ro" in step_of(planned(spec), 0, 0).program
