"""A key's place: the override, the file and line, or the file that should say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from launchers.config.where import Places
from launchers.errors import SpecError
from launchers.search.expand import compose_all


def places(*overrides: str, folder: Path | None = None, member: int = 0) -> Places:
    composition = compose_all(overrides, [folder] if folder else [])
    return Places(composition, composition.members[member])


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_where_overridden_key_is_the_override() -> None:
    assert places("train.epochs=3").of("train.epochs") == "override train.epochs=3"


def test_where_overridden_twice_is_the_last() -> None:
    assert places("train.epochs=3", "train.epochs=4").of("train.epochs") == "override train.epochs=4"


def test_where_override_of_a_parent_says_its_children() -> None:
    at = places("container.env={A: x}")

    assert at.of("container.env.A") == "override container.env={A: x}"


def test_where_override_of_a_key_with_a_common_beginning_is_not_meant() -> None:
    at = places("train.epochs=3")

    assert "override" not in at.of("train.epochs_more")


@pytest.mark.parametrize("prefix", ["+", "++"])
def test_where_override_with_plus_is_found(prefix: str) -> None:
    assert places(f"{prefix}train.clip_norm=1").of("train.clip_norm") == f"override {prefix}train.clip_norm=1"


def test_where_group_file_is_named_with_line_and_choice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    lines = (root / "conf/machine/cpu-small.yaml").read_text().splitlines()
    number = 1 + next(i for i, line in enumerate(lines) if line.startswith("mem_gb:"))

    said = places("machine=cpu-small").of("machine.mem_gb")

    assert said == f"conf/machine/cpu-small.yaml:{number} machine.mem_gb   (chosen by: machine=cpu-small)"


def test_where_nested_key_is_its_own_line(tmp_path: Path) -> None:
    write(tmp_path, "site/mine.yaml", "name: mine\nimage_build:\n  bootstrap: docker\n  base: x\n")

    assert places("site=mine", folder=tmp_path).of("site.image_build.base").startswith(f"{tmp_path}/site/mine.yaml:4 ")


def test_where_list_element_is_its_own_line(tmp_path: Path) -> None:
    write(tmp_path, "container/mine.yaml", "runtime: none\nbinds:\n  - source: /a\n  - source: /b\n")

    said = places("container=mine", folder=tmp_path).of("container.binds.1.source")

    assert said.startswith(f"{tmp_path}/container/mine.yaml:4 ")


def test_where_experiment_wins_over_the_group_it_overrides(tmp_path: Path) -> None:
    text = "# @package _global_\ndefaults:\n  - override /machine: cpu-small\nmachine:\n  mem_gb: 99\n"
    write(tmp_path, "experiment/mine.yaml", text)

    assert (
        places("experiment=mine", folder=tmp_path).of("machine.mem_gb").startswith(f"{tmp_path}/experiment/mine.yaml:5")
    )


def test_where_missing_key_names_the_file_that_should_say_it(tmp_path: Path) -> None:
    write(tmp_path, "machine/mine.yaml", "nodes: 1\n")

    said = places("machine=mine", folder=tmp_path).of("machine.mem_gb")

    assert said == f"{tmp_path}/machine/mine.yaml machine.mem_gb   (chosen by: machine=mine)"


def test_where_swept_group_is_the_members_own_file() -> None:
    second = places("machine=cpu-small,cpu-large", member=1)

    assert "machine/cpu-large.yaml:" in second.of("machine.mem_gb")


def test_where_nobody_said_it_is_the_root_file() -> None:
    assert places().of("nowhere.at_all") == "config.yaml nowhere.at_all"


def test_where_option_that_a_file_names_is_the_files_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "machine/mine.yaml", "# mine\ndefaults:\n  - cpu-small\n  - cpu-smal\n")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SpecError) as caught:
        places("machine=mine", folder=tmp_path)

    assert caught.value.problems[0].where == "machine/mine.yaml:4"
    assert "did you mean cpu-small?" in caught.value.problems[0].do


def test_where_interpolation_in_a_swept_member_is_the_file(tmp_path: Path) -> None:
    write(tmp_path, "experiment/mine.yaml", "# @package _global_\nname: run-${sede}\n")

    with pytest.raises(SpecError) as caught:
        places("experiment=mine", "seed=1,2", folder=tmp_path)

    assert [p.where for p in caught.value.problems] == [f"{tmp_path}/experiment/mine.yaml:2 name"]
