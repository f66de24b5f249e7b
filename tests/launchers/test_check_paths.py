"""Paths and addresses: which are there and from where they count; their passwords are in no line."""

from __future__ import annotations

from pathlib import Path

import pytest

from launchers.config.check import check_all
from launchers.search.expand import compose_all
from tests.launchers.checked import AT_ADDRESS, problems, sound, write


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


@pytest.mark.parametrize("key", ["runs_dir", "images_dir", "scratch_dir"])
def test_check_folder_with_a_line_break_is_refused(tmp_path: Path, key: str) -> None:
    folder = write(tmp_path, "site/mine.yaml", f'name: mine\n{key}: "/a\\nb"\n')

    assert [p.what for p in problems("site=mine", folder=folder)] == [
        f'site.{key} is "/a\\nb", and must be text on one line, without control characters'
    ]


def test_check_very_long_path_is_a_problem_and_no_crash() -> None:
    long = "/" + "a" * 5000

    assert problems("container.runtime=apptainer", f"container.image={long}")


def test_check_relative_data_path_is_absolute_afterwards(workdir: Path, tmp_path: Path) -> None:
    """Ranks start in another folder: on Slurm in the run's, in a container in the member's."""
    (workdir / "texts").mkdir()
    folder = write(tmp_path, "data/mine.yaml", "kind: bytes\npath: texts\n")

    assert sound("data=mine", "model=gpt", folder=folder).data.options["path"] == str(workdir / "texts")
