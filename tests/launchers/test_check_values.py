"""Values of a wrong type, range or name: each is told once, and all at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launchers.config.check import check_all
from launchers.search.expand import compose_all
from tests.launchers.checked import problems, sound, write


def test_check_value_of_a_word_or_a_list_says_both() -> None:
    (found,) = problems("train.profile.ranks=some")

    assert found.what == 'train.profile.ranks is "some", and must be one of all or a list'


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


def test_check_command_prints_all_problems_in_three_lines_each(fairlead: Callable[..., Any]) -> None:
    done = fairlead("plan", "train.epochs=0", "seed=x", "machine.nodes=2")

    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    blocks = done.stderr.split("\n\n")
    assert len(blocks) == 3
    assert all(re.match(r".+\n  where  .+\n  do     .+", block) for block in blocks)
    assert done.stderr.endswith("3 problems\n")
