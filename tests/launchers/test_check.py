"""Every rule and every kind of mistake: what is told, where it was said, and what to do."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conf import schema
from conf.bounds import IN_WORDS
from launchers.config import rules
from launchers.config.check import RULES, check_all
from launchers.errors import Problem, SpecError
from launchers.search.expand import compose_all, expand
from tests.conftest import ROOT
from tests.launchers.pooled import make_pool


def problems(*overrides: str, folder: Path | None = None) -> list[Problem]:
    """What is wrong with a command line."""
    with pytest.raises(SpecError) as caught:
        check_all(compose_all(overrides, [folder] if folder else []))
    assert all(len(str(p).splitlines()) == 3 for p in caught.value.problems)
    return list(caught.value.problems)


def sound(*overrides: str, folder: Path | None = None) -> schema.Spec:
    return check_all(compose_all(overrides, [folder] if folder else []))[0]


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


# --- each rule ----------------------------------------------------------------------------------------

SEARCH = (
    "+sweep={kind: search, algorithm: random, trials: 2, parameters: {optimizer.lr: {type: double, min: 0.1, max: 1}}}",
)
COMMAND = ("job=command", "job.command=[program]")
TPU = ("machine=gpu-1", "accelerator.kind=tpu", "accelerator.count=1", "launcher=slurm")
AT_ADDRESS = ("data=tokens", "model=gpt")
IN_VARIABLES = ("job.parameters=environment",)
BY_PATTERN = (*COMMAND, "job.metrics.kind=pattern")
BY_LOSS = ("objective.metric=train/loss", "objective.goal=minimize")
IN_POOL = ("launcher=pool", "launcher.pool=small", "machine=cpu-small")
MODULE = ("job=module", "job.source=.", "job.module=my.task", "job.metrics.kind=none")
RULE_CASES: dict[str, list[tuple[tuple[str, ...], tuple[str, ...], str]]] = {
    "accelerators_fit_the_machine": [
        (
            ("machine=gpu-8", "accelerator=a100", "accelerator.count=9", "train.batch_size=72"),
            ("9", "8"),
            "accelerator.count",
        ),
        (("machine=cpu-small", "accelerator=a100", "launcher=slurm"), ("1", "0"), "accelerator/a100.yaml:"),
        (("machine=gpu-8", "accelerator=a100", "accelerator.count=0"), ("'cuda'", "0"), "accelerator.count=0"),
    ],
    "ranks_fit_the_machine": [
        (("machine=cpu-small", "machine.cpus_per_rank=9"), ("9", "8"), "machine.cpus_per_rank=9"),
        (("machine=gpu-8", "accelerator=a100", "machine.ranks_per_node=2"), ("2", "1"), "machine.ranks_per_node=2"),
    ],
    "container_drives_the_accelerator": [
        (("container.accelerators=[cuda]",), ("'none'", "drive: cuda"), "container.accelerators=[cuda]"),
        (("container=pytorch-cuda", "launcher=slurm"), ("'none'", "drive: cuda"), "container/pytorch-cuda.yaml:"),
        (("container=pytorch-rocm", "launcher=slurm"), ("'none'", "drive: rocm"), "container/pytorch-rocm.yaml:"),
        (
            ("machine=gpu-8", "accelerator=a100", "container.accelerators=[none,rocm]"),
            ("'cuda'", "none, rocm"),
            "container.accelerators=[none,rocm]",
        ),
    ],
    "precision_is_native": [
        (
            ("machine=gpu-1", "accelerator=v100", "train.precision=bf16"),
            ("'bf16'", "fp32, fp16"),
            "train.precision=bf16",
        ),
        (
            ("machine=gpu-1", "accelerator=h100", "train.precision=fp8", "engine=deepspeed"),
            ("'fp8'", "'deepspeed'"),
            "engine=deepspeed",
        ),
        (("accelerator.precision=fp8",), ("'fp8'", "fp32, bf16"), "accelerator.precision=fp8"),
    ],
    "engine_can_do_as_told": [
        (
            ("engine=deepspeed", "engine.offload_weights=true"),
            ("stage 3", "engine.stage is 2"),
            "engine.offload_weights=true",
        ),
        (("engine.compression=bf16",), ("'bf16'", "'cpu'"), "engine.compression=bf16"),
    ],
    "batch_has_a_sample_for_each_rank": [
        (("machine.ranks_per_node=3", "train.batch_size=2"), ("2", "3 ranks"), "train.batch_size=2"),
        (("train.accumulate=65", "train.batch_size=64"), ("64", "65"), "train.batch_size=64"),
    ],
    "training_ends": [(("train.epochs=null",), ("train.epochs", "train.max_steps"), "train.epochs=null")],
    "launcher_has_the_nodes": [(("machine.nodes=2",), ("2", "local"), "machine.nodes=2")],
    "notice_fits_the_limit": [
        (("machine.time_limit_min=1", "job.notice_s=60"), ("60", "1 min"), "job.notice_s=60"),
    ],
    "hangs_are_seen_before_the_limit": [
        (
            ("launcher=slurm", *SEARCH, "job.silent_min=90", "machine.time_limit_min=60"),
            ("90", "60 minutes"),
            "job.silent_min=90",
        ),
    ],
    "heartbeats_are_our_trainers": [
        (
            ("job=command", "job.command=[program]", "+job.hang.step_s=60"),
            ("job.hang", "a command"),
            "+job.hang.step_s=60",
        ),
    ],
    "sbatch_options_are_free": [
        (("launcher=slurm", "launcher.sbatch.nodes=4"), ("launcher.sbatch.nodes",), "launcher.sbatch.nodes=4"),
        (("launcher=slurm", "launcher.sbatch.cpus_per_task=4"), ("cpus_per_task",), "launcher.sbatch.cpus_per_task=4"),
    ],
    "image_is_there": [
        (("container.runtime=apptainer",), ("neither an image nor a recipe",), "container.image"),
        (
            ("container.runtime=apptainer", "container.image=/nowhere/x.sif"),
            ("/nowhere/x.sif",),
            "container.image=/nowhere/x.sif",
        ),
        (("container.runtime=apptainer", "container.image=/tmp"), ("'/tmp'", "not a file"), "container.image=/tmp"),
        (("container.runtime=apptainer", "container.image=/etc/passwd"), ("not a SIF",), "container.image=/etc/passwd"),
        (
            ("container.runtime=apptainer", "container.image=library://x/y"),
            ("library://x/y", "docker:// and oras:// are"),
            "container.image=library://x/y",
        ),
        (
            ("container.runtime=apptainer", "container.image='docker://me:word@h.org/x'"),
            ("docker://***@h.org/x", "name or password"),
            "container.image=",
        ),
        (("container.runtime=apptainer", "container.recipe=nope"), ("nope.def",), "container.recipe=nope"),
        (
            ("container.runtime=apptainer", "container.dockerfile=no/file"),
            ("'no/file'",),
            "container.dockerfile=no/file",
        ),
        (
            ("container.runtime=apptainer", "container.dockerfile=no/file", "container.recipe=pytorch-cpu"),
            ("stands beside",),
            "container.dockerfile=no/file",
        ),
    ],
    "shared_memory_fits_the_machine": [
        (("container.shm_gb=1",), ("1", "there is no container"), "container.shm_gb=1"),
        (
            ("container=pytorch-cpu", "launcher=slurm", "machine=cpu-small", "container.shm_gb=900"),
            ("900", "machine.mem_gb is 2"),
            "container.shm_gb=900",
        ),
    ],
    "binds_are_there": [
        (("container.binds=[{source: data}]",), ("'data'",), "container.binds=[{source: data}]"),
        (("container.binds=[{source: /nowhere/at/all}]",), ("'/nowhere/at/all'",), "container.binds"),
        (("container.binds=[{source: /tmp, target: rel}]",), ("'rel'",), "container.binds"),
    ],
    "data_is_there": [
        (("data={kind: bytes, path: /nowhere/at/all}",), (), ""),
    ],
    "tracking_is_sound": [
        (("tracking.uri=ftp://x",), ("'ftp://x'",), "tracking.uri=ftp://x"),
        (("tracking.uri=http://me:pw@host:5000",), ("password",), "tracking.uri"),
        (("tracking=none", "+tracking.register=digits"), ("'digits'", "'none'"), "+tracking.register=digits"),
    ],
    "targets_are_names": [
        (("model={_target_: 3}",), ("3", "dotted path"), "model={_target_: 3}"),
        (("model={_target_: Net}",), ("'Net'", "dotted path"), "model={_target_: Net}"),
    ],
    "folders_can_be_named": [((r'site.scratch_dir="/a\nb"',), (), "")],
    "program_is_said_by_its_kind": [
        (("job.command=[a,b]",), ("'a b'", "'trainer'"), "job.command=[a,b]"),
        (("job.arguments=[a,b]",), ("'a b'", "'trainer'"), "job.arguments=[a,b]"),
        ((*COMMAND, "job.script=x.py"), ("'x.py'", "'command'"), "job.script=x.py"),
        (("job=script", "job.script=x.py", "job.source=x"), ("job.source is 'x'", "'script'"), "job.source=x"),
        (("job=command", "job.command=[]"), ("no program", "without a container"), "job.command=[]"),
        (("job=command", "job.command=['',x]"), ("['', 'x']",), "job.command=['',x]"),
        (("job=script", "job.script=null"), ("names no file",), "job.script=null"),
        (("job=module",), ("neither job.module nor job.source",), "job/module.yaml:"),
        (("job=module", "job.module=m", "job.wheelhouse=w"), ("'w'", "no job.source"), "job.wheelhouse=w"),
    ],
    "words_can_be_arguments": [
        ((*COMMAND, f"job.arguments=[{'x' * 131072}]"), ("131072 bytes", "131071"), "job.arguments"),
    ],
    "at_launch_script_is_frozen_with_the_job": [
        (("job=script", "job.script=trian.py"), ("'trian.py'", "not among the files"), "job.script=trian.py"),
        (("job=script", "job.script=/x/train.py"), ("'/x/train.py'", "the copy of your project"), "job.script="),
        (("job=script", "job.script='pkg://conf/x.py'"), ("does not have",), "job.script="),
    ],
    "at_launch_source_can_be_installed": [
        (("job=module", "job.source=nowhere"), ("'nowhere'", "no such file or folder"), "job.source=nowhere"),
        (("job=module", "job.source=/etc"), ("'/etc'", "neither pyproject.toml nor setup.py"), "job.source=/etc"),
        (("job=module", "job.source=/etc/passwd"), ("no wheel and no source distribution",), "job.source=/etc/passwd"),
        (("job=module", "job.source=.", "job.wheelhouse=x"), ("'x'", "no wheel"), "job.wheelhouse=x"),
    ],
    "parameters_reach_a_command": [
        (("params.lr=1",), ("lr", "'trainer'"), "params.lr=1"),
        ((*COMMAND, *IN_VARIABLES, "params.a-b=1", "params.a_b=2"), ("params.a-b", "A_B"), "params.a_b=2"),
        ((*COMMAND, *IN_VARIABLES, "params.a.b=1", "params.a_b=2"), ("params.a.b", "A_B"), "params.a_b=2"),
        ((*COMMAND, *IN_VARIABLES, "params.path=1"), ("variable PATH",), "params.path=1"),
        ((*COMMAND, *IN_VARIABLES, "params.fairlead.spec=1"), ("FAIRLEAD_SPEC",), "params.fairlead.spec=1"),
        ((*COMMAND, *IN_VARIABLES, "params.pythonpath=1"), ("PYTHONPATH",), "params.pythonpath=1"),
    ],
    "reports_can_be_read": [
        (("job.metrics.kind=jsonl",), ("'jsonl'", "'trainer'"), "job.metrics.kind=jsonl"),
        ((*COMMAND, "job.metrics.kind=pattern"), ("'pattern'", "None"), "job.metrics.kind=pattern"),
        ((*COMMAND, "job.metrics.pattern=x"), ("'hypertune'", "'x'"), "job.metrics.pattern=x"),
        ((*BY_PATTERN, "job.metrics.pattern='(?P<value>x'"), ("no regular expression",), "job.metrics.pattern"),
        ((*BY_PATTERN, "job.metrics.pattern=loss"), ("'loss'", "no group"), "job.metrics.pattern=loss"),
        ((*BY_PATTERN, "job.metrics.pattern='(?P<step>x)'"), ("no group",), "job.metrics.pattern"),
        ((*BY_PATTERN, "job.metrics.pattern='(?P<metric>x)(?P<a>x)'"), ("none named value",), "job.metrics.pattern"),
        ((*BY_PATTERN, "job.metrics.pattern='(?P<value>x)'"), ("None",), "job.metrics.pattern"),
        ((*COMMAND, "job.metrics.path=/tmp/x"), ("'/tmp/x'",), "job.metrics.path=/tmp/x"),
        ((*COMMAND, "job.metrics.path=../x"), ("'../x'",), "job.metrics.path=../x"),
    ],
    "sweep_is_of_a_command": [
        ((*COMMAND, "sweep={kind: grid, product: {model.width: [1, 2]}}"), (), ""),
    ],
    "folders_are_no_files": [
        (("site.runs_dir=/etc/passwd",), ("'/etc/passwd'", "is a file, not a folder"), "site.runs_dir=/etc/passwd"),
        (("site.images_dir=/etc/passwd/a/b",), ("/etc/passwd is a file",), "site.images_dir=/etc/passwd/a/b"),
    ],
    "registries_are_told": [
        (("site.registry_auth=/nowhere/auth.json",), ("'/nowhere/auth.json'", "no such file"), "site.registry_auth="),
        (("site.image_keys=[/nowhere/key.pub]",), ("'/nowhere/key.pub'", "no such file"), "site.image_keys="),
        (("site.registry_http=['http://h:1']",), ("'http://h:1'", "no host"), "site.registry_http="),
    ],
    "cards_are_here": [
        (("machine=gpu-8", "accelerator=a100"), ("'cuda'", "launcher=local"), "accelerator/a100.yaml:"),
        (("machine=gpu-8", "accelerator=mi300x"), ("'rocm'", "launcher=local"), "accelerator/mi300x.yaml:"),
    ],
    "model_takes_the_data": [
        (("model=gpt",), ("gpt takes tokens", "sklearn gives images"), "model/gpt.yaml:"),
        (("data=stdlib",), ("cnn takes images", "bytes gives tokens"), "(chosen by: model=cnn)"),
        (("data=stdlib", "model=mlp"), ("mlp takes images or numbers", "gives tokens"), "(chosen by: model=mlp)"),
        (("data.set=wine",), ("cnn takes images", "sklearn gives numbers"), "model.kind"),
    ],
    "data_options_go_together": [
        (("data.split.by=time",), ("data.split.by is time", "cannot do"), "data.split.by=time"),
    ],
    "data_can_be_exported": [
        (("job.data_format=csv",), ("'csv'", "'trainer'"), "job.data_format=csv"),
        (
            (*COMMAND, "data=stdlib", "job.data_format=jsonl"),
            ("'jsonl'", "bytes are no rows with columns"),
            "job.data_format=jsonl",
        ),
    ],
    "at_launch_exported_data_are_as_said": [  # and tests/launchers/test_exported.py
        (
            (*COMMAND, "job.data_format=csv", "data=table", "data.path=pyproject.toml", "data.target=kind"),
            ("pyproject.toml", "does not end in"),
            "data.path",
        ),
    ],
    "objective_is_measured": [
        (("objective.metric=val/f1",), ("'val/f1'", "does not measure"), "objective.metric=val/f1"),
        (("data.split.fraction=0",), ("'val/loss'", "nothing is kept for validation"), "objective.metric"),
    ],
    "end_is_evaluated": [
        ((*BY_LOSS, "train.stop_after={evaluations: 3}"), ("train.stop_after", "'train/loss'"), "train.stop_after="),
        ((*BY_LOSS, "train.export=best"), ("train.export", "'train/loss'"), "train.export=best"),
    ],
    "search_is_measured": [
        (
            (*SEARCH, "sweep.objectives=[{metric: val/f1, goal: maximize}]"),
            ("sweep.objectives.0.metric", "'val/f1'"),
            "sweep.objectives",
        ),
        (
            (*SEARCH, "sweep.constraints=[{metric: memory, max: 1}]"),
            ("sweep.constraints.0.metric", "'memory'"),
            "sweep.constraints",
        ),
        *(
            ((*SEARCH, f"sweep.constraints=[{{metric: {name}, max: 1}}]"), (f"'{name}'",), "sweep.constraints")
            for name in ("train/tokens_per_s", "train/mfu", "train/memory_gb")  # of images, on a CPU
        ),
    ],
    "pool_is_named_for_a_pool": [
        (("launcher.pool=small",), ("'small'", "'local'"), "launcher.pool=small"),
        ((*IN_POOL, "launcher.members_per_allocation=2"), ("2", "one allocation"), "launcher.members_per"),
        ((*IN_POOL, "+launcher.sbatch.nice=1"), ("nice",), "launcher.sbatch"),
    ],
    "held_nodes_are_alike": [
        ((*IN_POOL, "pools=[{},{machine: {nodes: 1}}]", *COMMAND), ("2 worker pools", "'pool'"), "pools=")
    ],
    "pool_is_known": [(("launcher=pool", "launcher.pool=smal"), ("'smal'", "small"), "launcher.pool=smal")],
    "members_fit_the_pool": [
        ((*IN_POOL, "machine.nodes=2"), ("2", "1 node"), "machine.nodes=2"),
        ((*IN_POOL, "machine.mem_gb=3"), ("3072", "1000"), "machine.mem_gb=3"),
        (
            (*IN_POOL, "machine.cpus_per_rank=2"),
            ("1 rank(s) with 2", "1 CPU"),
            "machine.cpus_per_rank=2",
        ),
    ],
    "members_end_before_the_pool": [((*IN_POOL, "machine.time_limit_min=11"), ("11", "10"), "machine.time_limit_min")],
    "secrets_have_one_source": [
        (("+secrets.A={env: X, file: /x}",), ("env and file",), "secrets.A"),
        (("+secrets.A={through: file}",), ("none",), "secrets.A"),
        (("+secrets.A.command=[]",), ("no program",), "secrets.A.command"),
    ],
    "a_source_is_installed_once": [
        (
            (*MODULE, "pools=[{},{machine: {mem_gb: 2}, job: {module: other.task}}]"),
            ("pool 1", "another program"),
            "override pools=",
        ),
        (
            (
                "job=command",
                "job.command=[a]",
                "job.metrics.kind=none",
                "pools=[{},{machine: {mem_gb: 2}, job: {base: module, source: ., module: m}}]",
            ),
            ("pool 1",),
            "override pools=",
        ),
        ((*MODULE, "pools=[{},{machine: {mem_gb: 2}}]"), (), ""),
    ],
    "secrets_are_not_said_in_plain_words": [
        (("+container.env.WANDB_API_KEY=x",), ("WANDB_API_KEY", "secret"), "container.env.WANDB_API_KEY"),
        (("+site.env={DB_PASSWORD: x}",), ("DB_PASSWORD",), "site.env"),
        (("+container.env.HF_TOKEN=x",), ("HF_TOKEN",), "container.env.HF_TOKEN"),
        (("+container.env.PAD_TOKEN=x", "+container.env.TOKENIZERS_PARALLELISM='false'"), (), ""),
        (("+container.env.SSH_PRIVATE_KEY=/home/ada/key",), (), ""),
    ],
    "secrets_have_names_of_their_own": [
        (("+secrets.RANK.env=X",), ("RANK",), "secrets.RANK"),
        (("+secrets.A.env=X", "+container.env.A=x"), ("A", "container.env"), "secrets.A"),
        (("+secrets.A={file: /x, through: file}", "+secrets.A_FILE.env=X"), ("A_FILE",), "secrets.A"),
    ],
    "tensorboard_is_there": [((), (), "")],
    "event_files_can_be_read": [((), (), "")],
    "objective_is_what_the_pattern_finds": [((), (), "")],
    "location_is_known": [
        ((*AT_ADDRESS, "data.path=ftp://host/x"), ("ftp://host/x", "protocol ftp"), "data.path=ftp://host/x"),
    ],
    "location_shows_no_secrets": [
        ((*AT_ADDRESS, "data.path=https://me:word@host/x"), ("'https://***@host/x'",), "https://***@host/x"),
        ((*AT_ADDRESS, "'data.path=\"https://host/x?X-Amz-Signature=1\"'"[1:-1]), ("'https://host/x?***'",), "x?***"),
        (
            (*AT_ADDRESS, "data.path=s3://b/x", "staging.options={client_kwargs: {aws_secret_access_key: x}}"),
            ("staging.options.client_kwargs.aws_secret_access_key",),
            "staging.options=",
        ),
    ],
    "weights_are_there": [
        (("train.start_from=/nowhere/at/all",), ("'/nowhere/at/all'", "no such file"), "train.start_from="),
        (("train.start_from=/etc/passwd",), ("'/etc/passwd'", "no .safetensors file"), "train.start_from="),
        (("train.trust_unverified=true",), ("nothing to trust",), "train.trust_unverified=true"),
    ],
    "pools_are_at_most_four": [
        (("machine=cpu-small", "pools.4.machine.nodes=2"), ("5 pools", "4", "3 evaluators"), "pools.4.machine.nodes=2"),
    ],
    "chief_is_one_replica": [
        (
            (*COMMAND, "machine=cpu-small", "machine.nodes=3", "launcher=slurm", "pools.1.machine=cpu-large"),
            ("is 3", "one replica"),
            "pools",
        ),
    ],
    "tpu_is_one_replica": [
        ((*COMMAND, *TPU, "machine.nodes=2"), ("'tpu'", "2 node(s)"), "accelerator.kind=tpu"),
        ((*COMMAND, *TPU, "pools.1.accelerator=none"), ("'tpu'", "2 pool(s)"), "pools"),
    ],
    "trainers_are_one_group": [
        (
            ("machine=cpu-small", "pools.1.job={base: command, command: [a]}"),
            ("'command' in pool 1", "'trainer' in pool 0"),
            "pools.1.job",
        ),
        (
            ("machine=gpu-1", "accelerator=h100", "launcher=slurm", "pools.1.accelerator=none"),
            ("cpu with gloo", "cuda with nccl"),
            "pools.1.accelerator=none",
        ),
    ],
    "waiting_is_in_a_queue": [
        (("launcher.max_wait_min=5",), ("is 5", "launcher=local"), "launcher.max_wait_min=5"),
    ],
    "staging_stages_something": [
        ((*COMMAND, "staging.copy=true"), ("'command'",), "staging.copy=true"),
        (("staging.copy=true",), ("no path",), "staging.copy=true"),
        (("staging.options={anon: true}",), ("data.path is no address",), "staging.options="),
        (("staging.sums=SUMS",), ("nothing is staged", "staging.copy is false"), "staging.sums=SUMS"),
    ],
}
CASES = [(name, *case) for name, cases in RULE_CASES.items() for case in cases if case[1]]


@pytest.fixture(autouse=True)
def small_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "pools-state"))
    make_pool(tmp_path / "small")


@pytest.fixture(autouse=True)
def no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without accelerators, whatever this one has."""
    monkeypatch.setattr(rules, "CARDS", {kind: ("/nowhere/at/all*",) for kind in rules.CARDS})


def test_check_every_rule_has_a_case() -> None:
    assert {rule.__name__ for rule, _ in RULES} == set(RULE_CASES)


def test_check_every_rule_names_sections_only() -> None:
    known = {f.name for f in schema.Spec.__dataclass_fields__.values()} | set(
        schema.POOL_GROUPS
    )  # `pools`: all of them

    for rule, wanted in RULES:
        assert set(wanted) <= known - {"name", "seed"}, rule.__name__


@pytest.mark.parametrize(
    ("rule", "overrides", "words", "where"), CASES, ids=lambda v: v if isinstance(v, str) else None
)
def test_check_rule_broken_says_values_and_where(
    rule: str, overrides: tuple[str, ...], words: tuple[str, ...], where: str
) -> None:
    found = problems(*overrides)

    assert any(all(w in p.what for w in words) and where in p.where and p.do for p in found), found


@pytest.mark.parametrize("metric", ["train/tokens_per_s", "train/mfu", "train/memory_gb", "train/data_wait"])
def test_check_search_may_constrain_what_its_data_and_cards_report(metric: str) -> None:
    on_cards = ("launcher=slurm", "machine=gpu-1", "accelerator=h100")
    constraint = f"sweep.constraints=[{{metric: {metric}, max: 1}}]"

    assert sound(*SEARCH, *on_cards, "data=stdlib", "model=gpt", constraint)


def test_check_tensorboard_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "find_spec", lambda name: None)

    (found,) = problems("tracking.tensorboard=true")

    assert found.what == "tracking.tensorboard is true, but the package tensorboard is not installed here"
    assert "fairlead[tensorboard]" in found.do
    assert sound("tracking.tensorboard=true", "site.python=/opt/python")  # which may have it


def test_check_password_in_an_address_is_in_no_line(tmp_path: Path) -> None:
    folder = write(tmp_path, "data/mine.yaml", "kind: tokens\npath: https://me:word@host/x\n")

    for found in (problems("data=mine", "model=gpt", folder=folder), problems(*AT_ADDRESS, "data.path=s3://me:word@b")):
        assert found and not [p for p in found if "me:" in p.what + p.where + p.do]


def test_check_address_of_a_file_is_its_path(tmp_path: Path) -> None:
    (tmp_path / "a b.bin").write_bytes(bytes(400))

    (spec,) = check_all(compose_all([*AT_ADDRESS, f"data.path='file://{tmp_path}/a%20b.bin'"]))

    assert spec.data.options["path"] == f"{tmp_path}/a b.bin"


def test_check_weights_to_begin_with_are_found_from_everywhere(workdir: Path) -> None:
    """Ranks start elsewhere than where the command was given."""
    (workdir / "mine.safetensors").touch()

    (spec,) = check_all(compose_all(["train.start_from=mine.safetensors"]))

    assert spec.train.start_from == str(workdir / "mine.safetensors")


def test_check_data_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path, "data/mine.yaml", "kind: bytes\npath: /nowhere/at/all\n")

    (found,) = problems("data=mine", "model=gpt", folder=folder)

    assert "'/nowhere/at/all'" in found.what
    assert found.where == f"{folder}/data/mine.yaml:2 data.path   (chosen by: data=mine)"


SPACES = {
    "optimizer.lrr: {type: double, min: 0.1, max: 1}": "lrr",
    "optimizer.lr: {type: double, min: -1, max: 1}": "optimizer.lr",
    "train.batch_size: {type: double, min: 8.5, max: 9.5}": "train.batch_size",
    "model.width: {type: categorical, values: [wide]}": "model.width",
    "model: {type: categorical, values: [cnn, cnnn]}": "cnnn",
    "model.dropout: {type: double, min: 0, max: 0.5, when: {model.kindd: [cnn]}}": "model.kindd",
    "machine.nodes: {type: integer, min: 1, max: 2}": "machine.nodes",
    "seed: {type: integer, min: 9, max: 1}": "seed",
}
"""A line of a space, and a word of what is wrong with it."""


@pytest.mark.parametrize("line", SPACES)
def test_check_space_that_does_not_fit_the_schema_is_told_by_its_line(tmp_path: Path, line: str) -> None:
    head = "kind: search\nalgorithm: random\ntrials: 3\nparameters:\n"
    text = f"{head}  optimizer.eps: {{type: double, min: 1.0e-9, max: 1.0e-6}}\n  {line}\n"
    folder = write(tmp_path, "sweep/mine.yaml", text)

    with pytest.raises(SpecError) as refused:
        expand(["sweep=mine"], [folder])
    found = refused.value.problems

    assert found and all(p.do for p in found)
    assert any(f"{folder}/sweep/mine.yaml:6" in p.where and SPACES[line] in f"{p.what} {p.where}" for p in found), found


def test_check_value_of_a_block_that_does_not_fit_is_told_by_its_line(tmp_path: Path) -> None:
    text = "kind: grid\nblocks:\n  - product: {seed: [1, 2]}\n  - zip:\n      train.batch_size: [8, many]\n"
    folder = write(tmp_path, "sweep/mine.yaml", text)

    with pytest.raises(SpecError) as refused:
        expand(["sweep=mine"], [folder])

    assert any(p.where.startswith(f"{folder}/sweep/mine.yaml:5 ") for p in refused.value.problems), refused.value


def test_check_more_choices_of_groups_than_are_composed_is_told(tmp_path: Path) -> None:
    files = {f"optimizer/o{i}.yaml": "kind: adamw\n" for i in range(60)}
    for name, text in files.items():
        write(tmp_path, name, text)
    values = ", ".join(f"o{i}" for i in range(60))
    space = (
        f"  optimizer: {{type: categorical, values: [{values}]}}\n  model: {{type: categorical, values: [cnn, mlp]}}\n"
    )
    folder = write(tmp_path, "sweep/mine.yaml", f"kind: search\nalgorithm: random\ntrials: 3\nparameters:\n{space}")

    with pytest.raises(SpecError, match="more than 100 combinations"):
        expand(["sweep=mine"], [folder])


SWEPT = {
    "grid": ("kind: grid\nproduct:\n  {key}: [1, 2]\n", "sweep.product.{key}"),
    "block": ("kind: grid\nblocks:\n  - zip:\n      {key}: [1, 2]\n", "sweep.blocks.0.zip.{key}"),
    "search": (
        "kind: search\nalgorithm: random\ntrials: 3\nparameters:\n  {key}: {{type: integer, min: 1, max: 9}}\n",
        "sweep.parameters.{key}",
    ),
}


@pytest.mark.parametrize("kind", SWEPT)
def test_check_sweep_of_a_command_that_does_not_reach_it_is_told(tmp_path: Path, kind: str) -> None:
    text, place = SWEPT[kind]
    folder = write(tmp_path, "sweep/mine.yaml", text.format(key="model.width"))

    (found,) = problems("sweep=mine", *COMMAND, folder=folder)

    assert found.what == "model.width is swept, but it does not reach a command"
    assert place.format(key="model.width") in found.where
    assert sound("sweep=mine", *COMMAND, "job.parameters=none", folder=folder)


@pytest.mark.parametrize("kind", SWEPT)
def test_check_sweep_of_a_commands_own_parameters_is_sound(tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path, "sweep/mine.yaml", SWEPT[kind][0].format(key="params.width"))

    assert sound("sweep=mine", *COMMAND, folder=folder)


def test_check_search_over_a_command_that_reports_nothing_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path, "sweep/mine.yaml", SWEPT["search"][0].format(key="params.width"))

    (found,) = problems("sweep=mine", *COMMAND, "job.metrics.kind=none", folder=folder)

    assert found.what.startswith("job.metrics.kind is 'none', but a search")


def test_check_search_by_a_metric_that_no_pattern_finds_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path, "sweep/mine.yaml", SWEPT["search"][0].format(key="params.width"))
    words = ("sweep=mine", *BY_PATTERN, "job.metrics.pattern='a=(?P<a>x) b=(?P<value>y)'", "job.metrics.metric=b")

    (found,) = problems(*words, "objective.metric=c", folder=folder)

    assert found.what == "members are compared by 'c', but job.metrics.pattern finds a, b"
    assert sound(*words, "objective.metric=b", folder=folder)
    free = ("sweep=mine", *BY_PATTERN, "job.metrics.pattern='(?P<metric>x)=(?P<value>y)'", "objective.metric=c")
    assert sound(*free, folder=folder)


def test_check_event_files_without_what_reads_them_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "find_spec", lambda _: None)

    (found,) = problems(*COMMAND, "job.metrics.kind=tensorboard")

    assert found.what == "job.metrics.kind is 'tensorboard', but the package tensorboard is not installed here"
    assert sound(*COMMAND, "job.metrics.kind=tensorboard", "site.python=/opt/python")


def test_check_command_is_not_held_to_the_trainers_rules() -> None:
    spec = sound(*COMMAND, "machine.ranks_per_node=3", "train.batch_size=64", "train.epochs=null")

    assert spec.job.command == ("program",)


def test_check_command_that_is_not_given_is_asked_for() -> None:
    (found,) = problems("job=command")

    assert found.what.startswith("job.command names no program, and without a container")


def test_check_value_of_a_word_or_a_list_says_both() -> None:
    (found,) = problems("train.profile.ranks=some")

    assert found.what == 'train.profile.ranks is "some", and must be one of all or a list'


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("+params={a b: 1}", "'a b' is no name"),
        ("+params={1: 1}", "'1' is no name"),
        ("params.x=.nan", ""),
        ("params.x=nan", "params.x is NaN, which cannot be handed"),
        ("params.x=[1, inf]", "params.x is [1, Infinity], which cannot be handed"),
        ("params.x=???", "params.x must be given"),
        ("params=3", "params is 3, and must be a group of keys"),
    ],
)
def test_check_parameter_that_no_program_can_be_given_is_told(override: str, what: str) -> None:
    if not what:
        assert sound(*COMMAND, override).params == {"x": ".nan"}
        return

    (found,) = problems(*COMMAND, override)

    assert what in found.what


@pytest.mark.parametrize("name", ["a", "A_b", "batch-size", "model.width", "_x9"])
def test_check_parameter_of_any_ordinary_name_is_sound(name: str) -> None:
    assert sound(*COMMAND, f"params.{name}=1").params


@pytest.mark.parametrize("key", ["runs_dir", "images_dir", "scratch_dir"])
def test_check_folder_with_a_line_break_is_refused(tmp_path: Path, key: str) -> None:
    folder = write(tmp_path, "site/mine.yaml", f'name: mine\n{key}: "/a\\nb"\n')

    assert [p.what for p in problems("site=mine", folder=folder)] == [
        f'site.{key} is "/a\\nb", and must be text on one line, without control characters'
    ]


def test_check_card_of_this_machine_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(rules, "CARDS", {"cuda": (f"{tmp_path}/nvidia[0-9]*",)})

    assert sound("machine=gpu-1", "accelerator=a100").pools[0].accelerator.kind == "cuda"


def test_check_model_and_data_of_the_users_own_are_not_judged(tmp_path: Path) -> None:
    """What they give and take is known when they are called."""
    write(tmp_path, "data/mine.yaml", "_target_: my.data\n")
    write(tmp_path, "model/mine.yaml", "_target_: my.Net\n")

    assert sound("data=mine", "model=gpt", folder=tmp_path).data.kind == "_target_"
    assert sound("model=mine", folder=tmp_path).model.kind == "_target_"


def test_check_search_may_name_all_that_a_trial_reports() -> None:
    assert sound(*SEARCH, "sweep.constraints=[{metric: train/samples_per_s, min: 1}]")


def test_check_every_pattern_is_told_in_words() -> None:
    """A regular expression is no answer."""
    patterns = re.findall(r'pattern=r"(.*?)"', "".join(p.read_text() for p in (ROOT / "conf").glob("*.py")))

    assert len(patterns) >= 9
    assert set(patterns) == set(IN_WORDS)


def test_check_rule_on_sound_values_is_silent(sif: Path) -> None:
    spec = sound(
        "machine=gpu-8",
        "accelerator=a100",
        "accelerator.count=8",
        "container=pytorch-cuda",
        f"container.image={sif}",
        "launcher=slurm",
        "launcher.sbatch.reservation=maint",
    )

    assert schema.precision(spec) == "bf16"
    assert schema.ranks_per_node(spec.pools[0]) == 8


def test_check_batch_size_suggestion_is_itself_sound() -> None:
    (found,) = problems("machine.ranks_per_node=3", "train.accumulate=5", "train.batch_size=14")

    suggested = int(found.do.removesuffix(" or more").rpartition(" ")[2])

    assert sound("machine.ranks_per_node=3", "train.accumulate=5", f"train.batch_size={suggested}")


# --- types, ranges, names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "what", "do"),
    [
        ("train.epochs=three", 'train.epochs is "three", and must be a whole number', ""),
        ("train.epochs=0", "train.epochs is 0, and must be at least 1", ""),
        ("train.epochs=1.5", "train.epochs is 1.5, and must be a whole number", ""),
        ("seed=True", "seed is true, and must be a whole number", ""),
        ("seed=-1", "seed is -1, and must be at least 0", ""),
        ("machine.exclusive=1", "machine.exclusive is 1, and must be true or false", ""),
        ("train.clip_norm=nan", "train.clip_norm is NaN, and must be a finite number", ""),
        ("launcher.kind=slrum", 'launcher.kind is "slrum", and must be one of local, slurm', "did you mean slurm?"),
        ("model.kind=cnnn", "model.kind is 'cnnn', which is none", "did you mean cnn?"),
        ("train.epoch=3", "train has no key 'epoch'", "did you mean epochs?"),
        ("machine.disk.sizegb=3", "machine has no key 'disk.sizegb'", "did you mean size_gb?"),
        ("machine.disk.nodes=3", "machine has no key 'disk.nodes'", "it is machine.nodes"),
        ("trian.epochs=3", "there is no key 'trian'", "did you mean train?"),
        ("experimnt=digits", "there is no key 'experimnt'", "did you mean experiment?"),
        ("model.widht=3", "model has no key 'widht'", "did you mean width?"),
        ("name='a b'", 'name is "a b", and must be at most 63 letters, digits, dots, _ or -,', ""),
        ("name=../../etc", 'name is "../../etc", and must be at most 63 letters,', ""),
        ("container.env={A-B: x}", 'container.env.A-B is "A-B", and must be letters, digits or _,', ""),
        ("container.digest=sha256:abc", 'container.digest is "sha256:abc", and must be sha256: and 64 digits', ""),
        ("tracking.alias='a b'", 'tracking.alias is "a b", and must be letters, digits, _ or -', ""),
        ("container.binds=[{target: /x}]", "container.binds.0.source is missing", ""),
        ("~machine.mem_gb", "machine.mem_gb is missing", "give it a value"),
        ("train=3", "train is 3, and must be a group of keys", ""),
    ],
)
def test_check_wrong_value_is_told_with_its_value(override: str, what: str, do: str) -> None:
    found = problems(override)

    assert any(p.what.startswith(what) and do in p.do and p.where == f"override {override}" for p in found), found


def test_check_one_mistake_is_told_once() -> None:
    """A value that fits no type of a union is one mistake, not one for each type."""
    assert len(problems("launcher.sbatch.x=[1]")) == 1


def test_check_many_mistakes_are_told_at_once(tmp_path: Path) -> None:
    folder = write(tmp_path, "machine/mine.yaml", "mem_gb: lots\nmax_cpus: 4\ntime_limit_min: 5\nnods: 2\n")

    found = problems(
        "machine=mine", "train.epochs=0", "seed=x", "model.widht=1", "tracking.uri=ftp://x", "nope=1", folder=folder
    )

    subjects = ["'nope'", "seed", "'widht'", "'nods'", "machine.mem_gb", "train.epochs", "tracking.uri"]
    assert all(any(s in p.what for p in found) for s in subjects), found
    assert len(found) == len(subjects)
    assert f"{folder}/machine/mine.yaml:1 machine.mem_gb" in {p.where.partition("   ")[0] for p in found}


def test_check_same_mistake_in_every_member_is_told_once() -> None:
    assert len(problems("train.epochs=0", "seed=1,2,3,4")) == 1


def test_check_mistake_in_one_member_is_told_with_its_value() -> None:
    (found,) = problems("train.epochs=1,0,2")

    assert found.what.startswith("train.epochs is 0,")


def test_check_sound_members_are_specs_in_order() -> None:
    specs = check_all(compose_all(["seed=5,6", "train.epochs=1,2"]))

    assert [(s.seed, s.train.epochs) for s in specs] == [(5, 1), (5, 2), (6, 1), (6, 2)]


@pytest.mark.parametrize("value", ["inf", "1e400", "-inf", "nan"])
@pytest.mark.parametrize(
    "key", ["machine.mem_gb", "machine.disk.size_gb", "accelerator.memory_gb", "machine.hourly_cost"]
)
def test_check_number_that_is_not_finite_is_refused(key: str, value: str) -> None:
    """JSON has no word for it, and `--mem` neither."""
    assert key in problems(f"{key}={value}")[0].what


def test_check_environment_value_with_a_null_byte_is_refused(tmp_path: Path) -> None:
    """No process can be given one: execve ends values there."""
    folder = write(tmp_path, "container/mine.yaml", 'runtime: none\nenv:\n  A: "x\\0y"\n')

    assert "container.env" in problems("container=mine", folder=folder)[0].what


@pytest.mark.parametrize("key", ["reservation", "gpu_bind"])
@pytest.mark.parametrize("value", ["a\\ntouch canary", "a\\rb", "a\\0b"])
def test_check_sbatch_value_on_several_lines_is_refused(tmp_path: Path, key: str, value: str) -> None:
    """A second line of an #SBATCH option is a shell command."""
    folder = write(tmp_path, "launcher/mine.yaml", f'kind: slurm\nsbatch:\n  {key}: "{value}"\n')

    assert f"launcher.sbatch.{key}" in problems("launcher=mine", folder=folder)[0].what


@pytest.mark.parametrize("name", ["a b", "a\\ntouch canary", "x=y", "", "--uid", "a;b"])
def test_check_sbatch_option_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, "launcher/mine.yaml", f'kind: slurm\nsbatch:\n  "{name}": 1\n')

    assert "launcher.sbatch" in problems("launcher=mine", folder=folder)[0].what


@pytest.mark.parametrize("key", ["partition", "constraint", "account", "qos"])
def test_check_machine_word_on_several_lines_is_refused(tmp_path: Path, key: str) -> None:
    text = f'mem_gb: 1\nmax_cpus: 4\ntime_limit_min: 5\n{key}: "a\\ntouch canary"\n'

    folder = write(tmp_path, "machine/mine.yaml", text)

    assert f"machine.{key}" in problems("machine=mine", folder=folder)[0].what


def test_check_very_long_path_is_a_problem_and_no_crash() -> None:
    long = "/" + "a" * 5000

    assert problems("container.runtime=apptainer", f"container.image={long}")


def test_check_target_class_must_be_a_name(tmp_path: Path) -> None:
    folder = write(tmp_path, "model/mine.yaml", "_target_: 3\nwidth: 4\n")

    assert "_target_" in problems("model=mine", folder=folder)[0].what


def test_check_target_class_keeps_its_options(tmp_path: Path) -> None:
    folder = write(tmp_path, "model/mine.yaml", "_target_: my.Net\nwidth: 4\n")

    model = sound("model=mine", folder=folder).model

    assert (model.kind, model.options) == ("_target_", {"_target_": "my.Net", "width": 4})


@pytest.mark.parametrize("text", ["kind: bytes\npath: ???\n", "kind: sklearn\nset: ???\n"])
def test_check_required_option_of_a_component_must_be_given(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path, "data/mine.yaml", text)

    (found,) = problems("data=mine", folder=folder)

    assert "must be given" in found.what
    assert f"{folder}/data/mine.yaml:2" in found.where


def test_check_relative_data_path_is_absolute_afterwards(workdir: Path, tmp_path: Path) -> None:
    """Ranks start in another folder: on Slurm in the run's, in a container in the member's."""
    (workdir / "texts").mkdir()
    folder = write(tmp_path, "data/mine.yaml", "kind: bytes\npath: texts\n")

    assert sound("data=mine", "model=gpt", folder=folder).data.options["path"] == str(workdir / "texts")


# --- files that cannot be composed --------------------------------------------------------------------

FILE = "machine/mine.yaml"
BROKEN: dict[str, tuple[str | bytes, str, str]] = {
    "truncated": ("mem_gb: 2\ndisk: {kind: any\nnodes: 1\n", f"{FILE}:2", "a { is opened in this line"),
    "open bracket": ("mem_gb: 2\nqos: [a\nnodes: 1\n", f"{FILE}:2", "a [ is opened in this line"),
    "open quote": ('mem_gb: 2\nqos: "a\nnodes: 1\nmax_cpus: 2\n', f"{FILE}:2", "never closed"),
    "half a line": ("mem_gb: 2\nmax_c\nnodes: 1\n", f"{FILE}:2", "no `key: value`"),
    "tabs": ("mem_gb: 2\n\tmax_cpus: 3\n", f"{FILE}:2", "indent with spaces, not with tabs"),
    "a colon": ("mem_gb: 2\nqos: a: b\n", f"{FILE}:2", "in quotes"),
    "uneven": ("disk:\n   kind: any\n  size_gb: 3\n", f"{FILE}:3", "check the indentation"),
    "not text": (b"\xff\xfe\x00\x01\x02", FILE, "save the file as plain UTF-8 text"),
    "control characters": (b"mem_gb: 2\nqos: \x01\n", FILE, "save the file as plain UTF-8 text"),
    "a list": ("- a\n- b\n", FILE, "this file is a list, and must be keys and values"),
    "a word": ("hello\n", FILE, "no key 'hello'"),
    "double key": ("mem_gb: 2\nmem_gb: 3\n", f"{FILE}:2", "remove one of them"),
    "defaults not a list": ("defaults: 3\nmem_gb: 2\n", FILE, "defaults is not a list"),
    "includes itself": ("defaults:\n  - mine\nmem_gb: 2\n", "machine=mine", "include each other without end"),
    "unknown default": ("defaults:\n  - local_\nmem_gb: 2\n", f"{FILE}:2", "did you mean local?"),
    "python object": ("mem_gb: !!python/object/apply:os.system ['touch canary']\n", f"{FILE}:1", "without tags"),
    "base 60": ("mem_gb: 2\ntime_limit_min: 1:00:00\n", f"{FILE}:2 machine.time_limit_min", "is 1:00:00, which"),
    "base 60 with a fraction": ("mem_gb: 2\nqos: 1:30.5\n", f"{FILE}:2 machine.qos", "YAML reads as 90.5"),
    "base 60 in a list": ("mem_gb: 2\ndisk: {size_gb: [1, -2:30]}\n", f"{FILE}:2 machine.disk.size_gb.1", "-150"),
    "base 8": ("mem_gb: 2\nnodes: 010\n", f"{FILE}:2 machine.nodes", "YAML reads as 8"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_check_broken_file_is_named_without_a_traceback(tmp_path: Path, workdir: Path, kind: str) -> None:
    text, where, words = BROKEN[kind]
    folder = write(tmp_path / "overlay", FILE, text)

    found = problems("machine=mine", folder=folder)

    assert any(where in p.where and words in f"{p.what} {p.do}" for p in found), found
    assert not (workdir / "canary").exists()


def test_check_times_in_quotes_and_in_comments_are_text(tmp_path: Path) -> None:
    folder = write(tmp_path, "site/mine.yaml", "name: mine  # since 12:30\nenv: {AT: '12:30', B: x:1:2}\n")

    assert sound("site=mine", folder=folder).site.env == {"AT": "12:30", "B": "x:1:2"}


EXPERIMENTS = {
    "without package": (
        "defaults:\n  - override /model: mlp\nseed: 3\n",
        "experiment/mine.yaml:1",
        "write # @package _global_ as its first line",
    ),
    "without package or overrides": ("seed: 3\n", "experiment/mine.yaml:1", "# @package _global_"),
    "unknown option": (
        "# @package _global_\ndefaults:\n  - override /data: digits\n  - override /model: cnnn\n",
        "experiment/mine.yaml:4",
        "did you mean cnn?",
    ),
    "unknown group": (
        "# @package _global_\ndefaults:\n  - override /modle: cnn\n",
        "experiment/mine.yaml:3",
        "did you mean model?",
    ),
    "variable not set": (
        "# @package _global_\ntrain:\n  schedule: ${oc.env:SURELY_NOT_SET}\n",
        "experiment/mine.yaml:3 train.schedule",
        "set SURELY_NOT_SET in your environment, or give a default: ${oc.env:SURELY_NOT_SET,value}",
    ),
    "without an end": (
        "# @package _global_\ntrain:\n  schedule: ${seed\n",
        "experiment/mine.yaml:3 train.schedule",
        "close what begins with ${",
    ),
    "unknown resolver": (
        "# @package _global_\ntrain:\n  schedule: ${env:HOME}\n",
        "experiment/mine.yaml:3 train.schedule",
        "${oc.env:NAME,default}",
    ),
}


@pytest.mark.parametrize("kind", EXPERIMENTS)
def test_check_experiment_that_is_wrong_says_line_and_remedy(tmp_path: Path, kind: str) -> None:
    text, where, words = EXPERIMENTS[kind]

    (found,) = problems("experiment=mine", folder=write(tmp_path, "experiment/mine.yaml", text))

    assert found.where == f"{tmp_path}/{where}"
    assert words in found.do
    assert "Hydra" not in str(found)


def test_check_cycle_of_two_files_is_told(tmp_path: Path) -> None:
    write(tmp_path, "machine/one.yaml", "defaults:\n  - two\nmem_gb: 2\n")
    write(tmp_path, "machine/two.yaml", "defaults:\n  - one\nmem_gb: 2\n")

    assert problems("machine=one", folder=tmp_path)


def test_check_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "machine" / "mine.yaml").mkdir(parents=True)

    assert "mine" in str(problems("machine=mine", folder=tmp_path)[0])


def test_check_dangling_link_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "machine").mkdir()
    (tmp_path / "machine" / "mine.yaml").symlink_to("/nowhere/at/all.yaml")

    assert "mine" in str(problems("machine=mine", folder=tmp_path)[0])


def test_check_missing_value_says_what_to_add(tmp_path: Path) -> None:
    (tmp_path / "container").mkdir()
    (tmp_path / "container" / "mine.yaml").write_text("runtime: apptainer\nimage: ???\naccelerators: [none, cuda]\n")
    found = problems("machine=gpu-1", "accelerator=a100", "container=mine", folder=tmp_path)

    (missing,) = [p for p in found if "container.image" in p.what]
    assert missing.what == "container.image must be given, and is not"
    assert re.search(r"container/mine\.yaml:\d+ container\.image", missing.where)
    assert "container.image=..." in missing.do


@pytest.mark.parametrize(
    "value", ["${nope}", "${train.nope}", "${oc.env:SURELY_NOT_SET}", "${seed", "${nope:}", "${name}-${name}${name"]
)
def test_check_interpolation_that_cannot_be_resolved_is_told(tmp_path: Path, value: str) -> None:
    folder = write(tmp_path, "experiment/mine.yaml", f"# @package _global_\ntrain:\n  schedule: '{value}'\n")

    assert problems("experiment=mine", folder=folder)


def test_check_interpolation_names_its_key(tmp_path: Path) -> None:
    folder = write(tmp_path, "experiment/mine.yaml", "# @package _global_\ntrain:\n  schedule: ${nope}\n")

    (found,) = problems("experiment=mine", folder=folder)

    assert "'nope'" in found.what
    assert "train.schedule" in found.where


# --- through the command ------------------------------------------------------------------------------


def test_check_command_prints_all_problems_in_three_lines_each(fairlead: Callable[..., Any]) -> None:
    done = fairlead("plan", "train.epochs=0", "seed=x", "machine.nodes=2")

    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    blocks = done.stderr.split("\n\n")
    assert len(blocks) == 3
    assert all(re.match(r".+\n  where  .+\n  do     .+", block) for block in blocks)
    assert done.stderr.endswith("3 problems\n")


@pytest.mark.parametrize("kind", ["truncated", "control characters", "a list"])
def test_check_command_with_a_broken_file_exits_with_2(fairlead: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path / "overlay", FILE, BROKEN[kind][0])

    done = fairlead("plan", "machine=mine", "--config-dir", str(folder))

    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


@pytest.fixture
def ordinary_user(tmp_path: Path, root: Path) -> Iterator[None]:
    """Not root, who reads everything; by the effective user id, where the tests run as root."""
    if os.getuid() != 0:
        yield
        return
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == 0 and len(path.parts) > 2:  # pytest's own, below the folder of all
            path.chmod(0o755)
    check_all(compose_all(["experiment=digits"], []))  # while Python's own modules can be read: they may be root's
    os.seteuid(65534)
    try:
        if not os.access(root / "conf" / "config.yaml", os.R_OK, effective_ids=True):
            pytest.skip("an ordinary user cannot read this checkout")
        yield
    finally:
        os.seteuid(0)


def test_check_unreadable_file_is_told(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = write(tmp_path / "overlay", "machine/mine.yaml", "mem_gb: 2\n")
    (folder / "machine" / "mine.yaml").chmod(0)
    for path in (folder, folder / "machine"):
        path.chmod(0o755)
    request.getfixturevalue("ordinary_user")

    assert "mine" in str(problems("machine=mine", folder=folder)[0])


def test_check_config_dir_in_a_closed_folder_is_told(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "closed" / "overlay").mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    request.getfixturevalue("ordinary_user")

    assert "is not a folder" in str(problems("experiment=digits", folder=tmp_path / "closed" / "overlay")[0])


def test_check_path_in_a_closed_folder_is_told(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0)
    request.getfixturevalue("ordinary_user")

    found = problems("container.runtime=apptainer", f"container.image={tmp_path}/closed/x.sif")

    assert "closed/x.sif" in found[0].what


def test_check_rules_change_nothing(workdir: Path) -> None:
    sound()

    assert list(workdir.iterdir()) == []


def test_check_rule_functions_are_public_generators() -> None:
    """A helper that is a generator would be run as a rule; it starts with an underscore."""
    for rule, _ in RULES:
        assert inspect.isgeneratorfunction(rule)
        assert vars(inspect.getmodule(rule))[rule.__name__] is rule
