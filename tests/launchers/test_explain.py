"""`fairlead explain`: each key that the check takes is told, with what it may be, in the words of its own file."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from launchers.config.explained import Key, all_names, explained
from launchers.errors import SpecError
from tests.conftest import Command
from tests.launchers.test_cli import KEYS


def every(keys: tuple[Key, ...]) -> Iterator[Key]:
    for key in keys:
        yield key
        yield from every(key.below)


@pytest.mark.parametrize("name", all_names())
def test_explain_everything_that_can_be_asked_for_has_words_and_each_of_its_keys_can_be_asked_for(name: str) -> None:
    (found,) = explained(name)

    assert found.about or found.keys[0].meaning
    for key in every(found.keys):
        assert key.takes and "<class" not in key.takes and "typing" not in key.takes
        assert key.name in {one.keys[0].name for one in explained(key.name)}


def test_explain_has_the_keys_that_the_check_takes() -> None:
    (train,) = explained("train")

    assert [key.name for key in train.keys] == [f"train.{name}" for name in KEYS["Train"].split()]


@pytest.mark.parametrize(
    ("asked", "takes", "default", "words"),
    [
        ("train.accumulate", "a whole number at least 1", "1", "Micro-batches per optimizer step"),
        ("machine.mem_gb", "a number above 0", "", "Memory per node, in GB"),
        ("accelerator.container_flag", "nv | rocm | null", "null", "Apptainer's switch"),
        (
            "container.digest",
            "sha256: and 64 digits from 0-9 and a-f (see sha256sum) | null",
            "null",
            "sha256 of the SIF",
        ),
        ("sweep.trials", "a whole number at least 1", "", "In all"),
        ("job.restarts.crash", "a whole number at least 0", "0", "killed by a signal"),
        ("engine.fsdp.shard_ranks", "a whole number at least 1 | null", "null", "hybrid sharding"),
        (
            "secrets.HF_TOKEN.env",
            "letters, digits or _, the first no digit | null",
            "null",
            "Variable of your environment",
        ),
        ("pools.1.machine.nodes", "a whole number at least 1", "1", ""),
        ("container.env.OMP_NUM_THREADS", "names, each with: text without null bytes", "{}", "Environment the program"),
        ("seed", "a whole number at least 0", "", "random number"),
        ("container.host_env", "a list of: letters, digits or _, the first no digit", "[]", "Names of variables"),
    ],
)
def test_explain_key_says_what_it_takes_and_means(asked: str, takes: str, default: str, words: str) -> None:
    (found,) = explained(asked)
    (key,) = found.keys

    assert (key.takes, key.default) == (takes, default)
    assert words in key.meaning


def test_explain_key_of_several_kinds_is_told_of_each_that_has_it() -> None:
    assert [one.name for one in explained("engine.stage")] == ["engine.deepspeed"]
    assert {"data.images", "data.table"} <= {one.name for one in explained("data.path")}


def test_explain_section_names_the_files_to_choose_from() -> None:
    (found,) = explained("machine")

    assert found.options["gpu-1"].startswith("One card of a shared node of eight")


@pytest.mark.parametrize(
    ("asked", "do"),
    [
        ("train.accumulat", "train.accumulate"),
        ("trian", "train"),
        ("data.image.path", "data.path"),
        ("engine.fsdp.shard_rank", "engine.shard_ranks"),
    ],
)
def test_explain_what_there_is_not_names_what_is_near(asked: str, do: str) -> None:
    with pytest.raises(SpecError) as e:
        explained(asked)

    (problem,) = e.value.problems
    assert problem.what.startswith("there is no key") and do in problem.do


def test_explain_as_a_person_and_a_script_meet_it(fairlead: Command) -> None:
    said = fairlead("explain", "train.accumulate", "machine")
    listed = fairlead("explain")
    document = json.loads(fairlead("explain", "train.accumulate", "--json").stdout)

    assert "train.accumulate   a whole number at least 1; 1 where nothing is said\n    Micro-batches" in said.stdout
    assert "machine=...\n" in said.stdout and "machine.disk.kind   nvme | ssd | hdd | any" in said.stdout
    assert "data.images" in listed.stdout
    assert document[0]["keys"][0]["name"] == "train.accumulate"
    assert fairlead("explain", "train.nothing").returncode == 2
