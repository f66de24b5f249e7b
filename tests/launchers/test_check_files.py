"""Files that cannot be composed, or not be read: the line, and what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launchers.config.check import check_all
from launchers.search.expand import compose_all
from tests.launchers.checked import problems, sound, write

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
