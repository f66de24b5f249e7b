"""Checkpoints are whole or not there, and the way back finds the newest that is whole."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.ranks import ROOT
from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import Checkpoints, committed, damage, step_of
from trainer.parallel.group import Group


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "attempt-1", keep=2, group=Group(0, 1))


def content(text: str) -> Callable[[Path], list[Path]]:
    """Write two files, as an engine does."""

    def write(folder: Path) -> list[Path]:
        for name in ("a", "b"):
            (folder / name).write_text(text)
        return [folder / "a", folder / "b"]

    return write


def names(store: Checkpoints) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_save_manifest_names_every_file_with_size_and_digest(checkpoints: Checkpoints) -> None:
    path = checkpoints.save(5, content("hello"))

    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 5
    assert manifest["files"]["a"]["size"] == 5
    assert manifest["files"]["b"]["sha256"] == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert damage(path) is None


def test_save_keeps_the_newest_by_number_and_not_by_name(checkpoints: Checkpoints) -> None:
    for step in (8, 9, 10, 100):
        checkpoints.save(step, content("x"))

    assert [step_of(path) for path in committed(checkpoints.folder)] == [100, 10]


def test_save_that_fails_commits_nothing_and_leaves_the_older_one(checkpoints: Checkpoints) -> None:
    checkpoints.save(5, content("old"))

    def full(folder: Path) -> list[Path]:
        (folder / "a").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"rank 0: .*No space left"):
        checkpoints.save(6, full)
    assert checkpoints.newest() == checkpoints.folder / "step-5"
    assert names(checkpoints) == ["step-5"]


@pytest.mark.parametrize("function", ["sha256", "write_json", "sync", "_retain"])
def test_save_killed_at_any_point_leaves_a_whole_newest_one(tmp_path: Path, function: str) -> None:
    script = f"""
import os, signal
from pathlib import Path
from trainer.checkpoints import checkpoint
from trainer.parallel.group import Group
store = checkpoint.Checkpoints(Path("checkpoints"), "attempt-1", 2, Group(0, 1))
def write(folder):
    (folder / "a").write_text("x")
    return [folder / "a"]
store.save(1, write)
die = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
place = checkpoint.Checkpoints if hasattr(checkpoint.Checkpoints, {function!r}) else checkpoint
setattr(place, {function!r}, die)
store.save(2, write)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, check=False)
    assert killed.returncode == -signal.SIGKILL
    after = Checkpoints(tmp_path / "checkpoints", "attempt-2", 2, Group(0, 1))

    newest = after.newest()

    assert newest is not None
    assert step_of(newest) == (2 if function == "_retain" else 1)
    assert damage(newest) is None
    assert not list(after.folder.glob("*.tmp.*"))


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("harm", [flip_a_bit, truncate, Path.unlink])
@pytest.mark.parametrize("name", ["a", "manifest.json"])
def test_newest_damaged_ones_are_passed_over_and_put_aside_with_the_reason(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None], name: str
) -> None:
    checkpoints.save(5, content("five"))
    checkpoints.save(6, content("six"))
    harm(checkpoints.folder / "step-6" / name)

    with caplog.at_level(logging.WARNING):
        newest = checkpoints.newest()

    assert newest == checkpoints.folder / "step-5"
    assert f"step-6 skipped: {name}" in caplog.text
    assert names(checkpoints) == ["step-5", "step-6.damaged"]


def test_newest_all_damaged_is_none(checkpoints: Checkpoints) -> None:
    checkpoints.save(5, content("five"))
    truncate(checkpoints.folder / "step-5" / "b")

    assert checkpoints.newest() is None


def test_save_after_damage_keeps_new_ones_though_their_steps_are_lower(checkpoints: Checkpoints) -> None:
    for step in (5, 8, 9):
        checkpoints.save(step, content("x"))
    for step in (8, 9):
        truncate(checkpoints.folder / f"step-{step}" / "a")
    assert checkpoints.newest() is None
    checkpoints.save(6, content("x"))
    checkpoints.save(7, content("x"))

    assert checkpoints.newest() == checkpoints.folder / "step-7"
    assert names(checkpoints) == ["step-6", "step-7"]


def test_newest_deletes_what_an_earlier_attempt_left_unfinished(checkpoints: Checkpoints) -> None:
    checkpoints.save(5, content("x"))
    (checkpoints.folder / "step-6.tmp.attempt-0").mkdir()

    checkpoints.newest()

    assert names(checkpoints) == ["step-5"]


def test_damage_of_another_format_is_said(checkpoints: Checkpoints) -> None:
    path = checkpoints.save(5, content("x"))
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))

    assert damage(path) == f"its format is 99, and this program reads {checkpoint.FORMAT}"
