"""Checkpoints are whole or not there, and the way back finds the newest that is whole."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.trainer.ranks import ROOT
from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import Checkpoints, committed, damage, step_of
from trainer.durable import sha256
from trainer.failure import cause
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


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from trainer import durable
from trainer.checkpoints import checkpoint
from trainer.parallel.group import Group

OURS = {checkpoint.__file__, durable.__file__}

def store(folder, attempt):
    return checkpoint.Checkpoints(folder, attempt, 2, Group(0, 1))

def write(folder):
    (folder / "state").mkdir()
    files = [folder / "a", folder / "state" / "b"]
    for path in files:
        path.write_text(folder.name)
    return files

def killed(folder, count):
    left = [count]
    def trace(frame, event, argument):
        if frame.f_code.co_filename not in OURS:
            return None
        if event == "line":
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    if not (child := os.fork()):
        sys.settrace(trace)
        store(folder, "attempt-1").save(4, write)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

begun, count, found = Path("begun"), 0, []
for step in (1, 2, 3):
    store(begun, "attempt-0").save(step, write)
if sys.argv[1] == "again":  # there is one already, which was passed over when the run went back
    shutil.copytree(begun / "step-3", begun / "step-4")
    (begun / "step-4" / "a").write_text("half")
going = True
while going:
    count += 1
    folder = Path(f"killed-{count}")
    shutil.copytree(begun, folder)
    going = killed(folder, count)
    after = store(folder, "attempt-2")
    newest = after.newest()
    kept = [path.name for path in checkpoint.committed(folder)]
    assert newest and newest.name in ("step-3", "step-4"), (count, newest, kept)
    assert (newest / "a").read_text().startswith(newest.name), (count, newest)
    assert not list(folder.glob("*.tmp.*")), (count, kept)
    found.append(newest.name)
    assert after.save(5, write) == after.newest(), count
print(count - 1, found.count("step-3"), found.count("step-4"))
"""


@pytest.mark.parametrize("how", ["new", "again"])
def test_save_killed_at_any_line_leaves_a_whole_newest_one(tmp_path: Path, how: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", KILLED, how]

    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=280)

    assert done.returncode == 0, done.stderr
    kills, before, after = map(int, done.stdout.split())
    assert kills > 60 and before > 20 and after > 10


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


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often reading a file of a checkpoint fails yet, by the checkpoint's name."""
    failing: dict[str, int] = {}

    def read(path: Path) -> str:
        if failing.get(path.parent.name, 0) > 0:
            failing[path.parent.name] -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return sha256(path)

    monkeypatch.setattr(checkpoint, "sha256", read)
    monkeypatch.setattr(checkpoint, "AGAIN_S", (0, 0))
    return failing


def test_newest_that_cannot_be_read_for_a_moment_is_the_newest(
    checkpoints: Checkpoints, storage: dict[str, int]
) -> None:
    checkpoints.save(5, content("five"))
    checkpoints.save(6, content("six"))
    storage["step-6"] = 2

    assert checkpoints.newest() == checkpoints.folder / "step-6"


def test_newest_that_cannot_be_read_is_passed_over_until_it_can_where_an_older_one_is_whole(
    checkpoints: Checkpoints, storage: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.save(5, content("five"))
    checkpoints.save(6, content("six"))
    storage["step-6"] = 99

    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest() == checkpoints.folder / "step-5"

    assert names(checkpoints) == ["step-5", "step-6.unread"] and "Stale file handle" in caplog.text
    assert checkpoints.newest() == checkpoints.folder / "step-5"
    storage.clear()
    assert checkpoints.newest() == checkpoints.folder / "step-6"
    assert names(checkpoints) == ["step-5", "step-6"]


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("step", [6, 9])
def test_newest_is_what_was_saved_after_one_was_passed_over(
    checkpoints: Checkpoints, storage: dict[str, int], monkeypatch: pytest.MonkeyPatch, step: int, killed: bool
) -> None:
    """Also where its step is lower, and where the attempt is killed as soon as it is on disk."""
    checkpoints.save(5, content("five"))
    checkpoints.save(9, content("nine"))
    storage["step-9"] = 99
    assert checkpoints.newest() == checkpoints.folder / "step-5"
    storage.clear()
    with monkeypatch.context() as patch:
        if killed:
            patch.setattr(Checkpoints, "_retain", lambda *_: None)
        checkpoints.save(step, content("anew"))

    assert checkpoints.newest() == checkpoints.folder / f"step-{step}"
    assert (checkpoints.folder / f"step-{step}" / "a").read_text() == "anew"
    assert names(checkpoints) == ["step-5", f"step-{step}"]


def test_newest_passed_over_stays_where_the_next_save_fails(checkpoints: Checkpoints, storage: dict[str, int]) -> None:
    checkpoints.save(5, content("five"))
    checkpoints.save(6, content("six"))
    storage["step-6"] = 99
    checkpoints.newest()
    storage.clear()

    def full(_: Path) -> list[Path]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(7, full)

    assert checkpoints.newest() == checkpoints.folder / "step-6"


def test_run_with_checkpoints_of_which_none_can_be_read_does_not_begin_anew(
    checkpoints: Checkpoints, storage: dict[str, int]
) -> None:
    checkpoints.save(5, content("five"))
    storage["step-5"] = 99

    with pytest.raises(OSError, match=r"step-5 cannot be read .*Stale file handle") as error:
        checkpoints.newest()
    assert names(checkpoints) == ["step-5"] and cause(error.value) == "site"


@pytest.mark.parametrize(("times", "found"), [(2, True), (99, False)])
def test_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(
    checkpoints: Checkpoints, storage: dict[str, int], monkeypatch: pytest.MonkeyPatch, times: int, found: bool
) -> None:
    checkpoints.save(5, content("five"))
    left, listed = [times], Path.iterdir

    def failing(path: Path) -> Iterator[Path]:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", failing)

    if found:
        assert checkpoints.newest() == checkpoints.folder / "step-5"
    else:
        with pytest.raises(OSError, match="Permission denied") as error:
            checkpoints.newest()
        assert cause(error.value) == "site"


def test_newest_is_found_where_a_damaged_one_cannot_be_put_aside(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(5, content("five"))
    checkpoints.save(6, content("six"))
    truncate(checkpoints.folder / "step-6" / "a")

    def refused(path: Path, _why: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(checkpoint, "_put_aside", refused)

    assert checkpoints.newest() == checkpoints.folder / "step-5"


def test_damage_is_found_by_the_rank_whose_share_it_is_and_a_missing_file_by_the_first(
    checkpoints: Checkpoints,
) -> None:
    path = checkpoints.save(5, content("x"))
    flip_a_bit(path / "b")

    assert [bool(damage(path, share, 2)) for share in (0, 1)] == [False, True]
    (path / "b").unlink()
    assert damage(path, 0, 2) == "b is missing"
    with pytest.raises(FileNotFoundError):
        damage(path, 1, 2)


def test_newest_all_damaged_is_none_and_they_are_kept(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    """Also those that were put aside earlier, while there was still one to go on from."""
    for step in (5, 6):
        checkpoints.save(step, content("x"))
    truncate(checkpoints.folder / "step-6" / "b")
    assert checkpoints.newest() == checkpoints.folder / "step-5" and checkpoints.lost() == []
    truncate(checkpoints.folder / "step-5" / "b")

    for _ in range(2):  # it may be killed before it saves
        caplog.clear()
        assert checkpoints.newest() is None
        assert "begins anew: all checkpoints were damaged; they are kept as step-6.lost, step-5.lost" in caplog.text
    for step in (2, 4, 5):
        checkpoints.save(step, content("anew"))

    assert names(checkpoints) == ["step-4", "step-5", "step-5.lost", "step-6.lost"]
    assert checkpoints.newest() == checkpoints.folder / "step-5"


def test_newest_is_none_in_silence_where_there_never_was_one(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    assert checkpoints.newest() is None
    assert checkpoints.lost() == [] and caplog.text == ""


def test_save_after_damage_keeps_new_ones_though_their_steps_are_lower(checkpoints: Checkpoints) -> None:
    for step in (5, 8, 9):
        checkpoints.save(step, content("x"))
    for step in (8, 9):
        truncate(checkpoints.folder / f"step-{step}" / "a")
    assert checkpoints.newest() is None
    checkpoints.save(6, content("x"))
    checkpoints.save(7, content("x"))

    assert checkpoints.newest() == checkpoints.folder / "step-7"
    assert names(checkpoints) == ["step-6", "step-7", "step-8.lost", "step-9.lost"]


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
