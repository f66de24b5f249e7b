"""What a user's processes share on a node: made once, whole or not there, held by who reads it, gone when others need
the room. On real processes, and real disks that are too small."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.ranks import ROOT
from trainer.data import node, room
from trainer.data.staged import DIGESTS, staged
from trainer.failure import UserError, cause

MB = 1_000_000
PROGRAM = """
import sys, time
from pathlib import Path
from trainer.data.staged import staged

def make(folder):
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")
    for number in range(int(sys.argv[4])):
        (folder / f"{number}.bin").write_bytes(bytes(1_000_000))
        time.sleep(float(sys.argv[3]))
    return {"by": "me"}

folder, document = staged(sys.argv[1], make)
print(folder, len(list(folder.glob("*.bin"))), flush=True)
sys.stdin.read()
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's folder, as the launcher names it."""
    monkeypatch.setenv(node.FOLDER, str(tmp_path / "staged"))
    return tmp_path / "staged"


@pytest.fixture
def small(top: Path) -> Iterator[Path]:
    """The node's folder on a disk of 10 MB, of which staged data may take all."""
    top.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m,mode=700", "tmpfs", str(top)], check=True)
    yield top
    subprocess.run(["umount", "--lazy", str(top)], check=True)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A process that stages files of 1 MB, says where, and holds them until it is ended."""
    running: list[subprocess.Popen[str]] = []

    def run(content: str, pause_s: float = 0.0, count: int = 3) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", PROGRAM, content, str(tmp_path / "made"), str(pause_s), str(count)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        running.append(subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> tuple[Path, int]:
    assert process.stdout is not None
    folder, _, count = process.stdout.readline().rpartition(" ")
    return Path(folder), int(count)


def ended(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(20)


def writing(content: bytes, name: str = "x.bin", digest: bool = False) -> Callable[[Path], Mapping[str, Any]]:
    def make(folder: Path) -> Mapping[str, Any]:
        (folder / name).write_bytes(content)
        return {DIGESTS: {name: hashlib.sha256(content).hexdigest()}} if digest else {}

    return make


def never(folder: Path) -> Mapping[str, Any]:
    raise AssertionError("it was there")


# --- made once, whole or not there ---------------------------------------------------------------------------------


def test_staged_by_several_processes_at_once_is_made_by_one(top: Path, start: Start, tmp_path: Path) -> None:
    processes = [start("same", pause_s=0.1) for _ in range(4)]

    assert len({said(process) for process in processes}) == 1
    assert (tmp_path / "made").read_text() == "made\n"
    assert top.stat().st_mode & 0o777 == 0o700


def test_staged_by_one_that_was_killed_meanwhile_is_made_anew(top: Path, start: Start, tmp_path: Path) -> None:
    first, second = start("same", pause_s=10.0), None
    while not list(top.glob("*.part/0.bin")):
        assert first.poll() is None
    second = start("same")
    first.send_signal(signal.SIGKILL)

    assert said(second)[1] == 3
    assert (tmp_path / "made").read_text() == "made\nmade\n"
    assert not list(top.glob("*.part"))


def test_staged_before_is_found_again(top: Path) -> None:
    first = staged(("x", 1), writing(b"one"))

    assert staged(("x", 1), never) == first
    assert staged(("x", 2), writing(b"two"))[0] != first[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"on"),
        lambda path: path.write_bytes(b"two"),
        lambda path: (path.parent / "index.json").write_text("{"),
        lambda path: (path.parent / "index.json").write_text("[]"),
    ],
    ids=["missing", "cut", "changed", "index-cut", "index-other"],
)
@pytest.mark.parametrize("digest", [False, True])
def test_staged_that_was_damaged_is_made_anew(top: Path, damage: Callable[[Path], Any], digest: bool) -> None:
    folder, _ = staged("x", writing(b"one", digest=digest))
    damage(folder / "x.bin")

    folder, _ = staged("x", writing(b"one", digest=digest))

    assert (folder / "x.bin").read_bytes() == b"one"


def test_staged_that_was_only_touched_is_compared_by_its_digest(top: Path) -> None:
    folder, _ = staged("x", writing(b"one", digest=True))
    os.utime(folder / "x.bin", (1, 1))

    assert staged("x", never)[0] == folder


def test_staged_that_fails_leaves_nothing_unless_it_goes_on_later(top: Path) -> None:
    def fails(folder: Path) -> Mapping[str, Any]:
        (folder / "begun").touch()
        raise ValueError("no")

    for resumes in (False, True):
        with pytest.raises(ValueError, match="no"):
            staged("x", fails, resumes=resumes)
        assert [path.name for path in top.glob("*.part/*")] == ["begun"] * resumes

    folder, _ = staged("x", writing(b"one"), resumes=True)
    assert sorted(path.name for path in folder.iterdir()) == ["begun", "index.json", "x.bin"]


@pytest.mark.parametrize("how", ["others write", "a link", "a file"])
def test_folder_that_is_not_the_users_alone_is_refused(top: Path, how: str) -> None:
    if how == "others write":
        top.mkdir()
        top.chmod(0o777)
    elif how == "a link":
        (top.parent / "elsewhere").mkdir()
        top.symlink_to(top.parent / "elsewhere")
    else:
        top.touch()

    with pytest.raises(UserError, match="is not a folder that is yours alone"):
        staged("x", writing(b"one"))


def test_folder_that_cannot_be_made_is_told(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (top.parent / "file").touch()
    monkeypatch.setenv(node.FOLDER, str(top.parent / "file" / "staged"))

    with pytest.raises(UserError, match=r"file/staged, cannot be made: Not a directory[\s\S]*site.scratch_dir"):
        staged("x", never)


# --- room ----------------------------------------------------------------------------------------------------------


def test_room_is_made_by_what_was_unused_longest(top: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(node.MOST_GB, "0.01")
    folders = {}
    for number, name in enumerate("abc"):
        process = start(name)
        folders[name], _ = said(process)
        ended(process)
        os.utime(folders[name].with_suffix(".use"), (number, number))
    ended_again = start("a")  # used now
    assert said(ended_again)[0] == folders["a"]
    ended(ended_again)

    staged("d", writing(bytes(3 * MB)), needs=3 * MB)

    assert {name for name, folder in folders.items() if folder.exists()} == {"a", "c"}


def test_room_is_not_made_by_what_somebody_reads(top: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(node.MOST_GB, "0.005")
    reader = start("a")
    folder, _ = said(reader)

    with pytest.raises(OSError, match=r"need 0.001 GB more") as caught:
        staged("b", writing(bytes(3 * MB)), needs=3 * MB)
    ended(reader)
    made, _ = staged("b", writing(bytes(3 * MB)), needs=3 * MB)

    assert caught.value.errno == errno.ENOSPC
    assert cause(caught.value) == "site"
    assert made.exists() and not folder.exists()


def test_room_counts_what_others_are_bringing(top: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(node.MOST_GB, "0.005")
    key = "1" * 32
    node.folder()
    room.promise(top, key, 4 * MB)
    (top / f"{key}.part").mkdir()

    with node.alone(top / f"{key}.lock"), pytest.raises(OSError, match=r"need 0.002 GB more"):
        staged("b", writing(bytes(3 * MB)), needs=3 * MB)

    assert staged("b", writing(bytes(3 * MB)), needs=3 * MB)[0].exists()  # its maker has died


def test_more_than_may_ever_be_staged_is_refused(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(node.MOST_GB, "0.005")

    with pytest.raises(UserError, match=r"the data need 0.006 GB .* may take 0.005 GB[\s\S]*site.stage_gb"):
        staged("x", never, needs=6 * MB)


def test_full_disk_makes_those_leave_that_nobody_reads(small: Path, start: Start) -> None:
    """Of what is made its size is not known before."""
    idle, reader = start("idle"), start("read")
    (left, _), (kept, _) = said(idle), said(reader)
    ended(idle)

    made, _ = staged("x", writing(bytes(6 * MB)))

    assert made.exists() and kept.exists() and not left.exists()
    assert said(start("read"))[0] == kept
    with pytest.raises(OSError, match="No space left") as caught:
        staged("y", writing(bytes(6 * MB)))
    assert cause(caught.value) == "site"
    assert sorted(path for path in small.iterdir() if path.is_dir()) == sorted([kept, made])
