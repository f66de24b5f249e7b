"""Copies of images and installed sources on a node's disk: once, verified, kept while used, and never in the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launchers.apptainer import sif
from launchers.apptainer.container import Mount, words_of
from launchers.host.copies import Copies, NotNear, Origin, Told
from launchers.host.nearby import moved
from launchers.jobs.trouble import not_near
from launchers.programs import layer
from launchers.run_folder.record import Attempt, read_lines, write_json
from tests.cluster.harness import until
from tests.conftest import ROOT

NEARBY = ROOT / "launchers/host/nearby.py"
SAYS = ("sh", "-c", 'echo "$0 $1"; [ -z "$2" ] || { touch "$2"; exec sleep 60; }')
"""A program that says its first two words, and then stays if it is told to."""


def image(folder: Path, name: str, mb: int = 1) -> Origin:
    path = folder / f"{name}.sif"
    path.write_bytes(os.urandom(mb * 1_000_000))
    return Origin("image", path, sif.digest_of(path))


def installed(folder: Path) -> Origin:
    modules = folder / "mine-0123" / "modules"
    (modules / "trainer").mkdir(parents=True)
    (modules / "trainer/task.py").write_text("print('hello')\n")
    sizes = {"trainer/task.py": 15}
    digest = layer.digest_of_modules(modules)
    told = {"digest": digest, "source": "", "own": [], "packages": [], "sizes": sizes}
    write_json(modules.parent / "layer.json", told)
    return Origin("layer", modules, digest)


@pytest.fixture
def shared(workdir: Path) -> Path:
    (workdir / "shared").mkdir()
    return workdir / "shared"


def start(
    folder: Path, origins: list[Origin], *words: str, most_gb: float | None = None, rank: int = 0, patch: str = ""
) -> subprocess.Popen[str]:
    """A rank whose first process is nearby.py; `patch` is Python that runs before it."""
    attempt = folder.parent / "attempt-0"
    attempt.mkdir(exist_ok=True)
    documents = [{"kind": o.kind, "path": str(o.path), "digest": o.digest} for o in origins]
    settings: dict[str, Any] = {"folder": str(folder), "most_gb": most_gb, "attempt": str(attempt), "boxed": True}
    settings |= {"begin": "program_begin", "origins": documents}
    env = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    patched = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{patch}\nnearby.main(sys.argv)"
    program = ["-c", patched] if patch else [str(NEARBY)]
    argv = [sys.executable, "-IS", *program, json.dumps(settings), *SAYS, *words]
    return subprocess.Popen(argv, text=True, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_four_ranks_copy_image_and_layer_once_and_the_ledger_says_when(workdir: Path, shared: Path) -> None:
    origins, folder = [image(shared, "a", mb=40), installed(shared)], workdir / "copies"
    mount = words_of([Mount(source=str(origins[1].path), target=str(origins[1].path))])[1]
    ranks = [start(folder, origins, str(origins[0].path), mount, rank=rank) for rank in range(4)]

    ends = [rank.communicate(timeout=60) for rank in ranks]

    assert [rank.returncode for rank in ranks] == [0] * 4, ends
    copies = [folder / origin.name for origin in origins]
    mounted = words_of([Mount(source=f"{copies[1]}/modules", target=str(origins[1].path))])[1]
    assert {out for out, _ in ends} == {f"{copies[0]} {mounted}\n"}
    assert sum("copied a.sif" in said for _, said in ends) == 1
    assert sum("mine-0123" in said for _, said in ends) == 1
    assert copies[0].read_bytes() == origins[0].path.read_bytes() and folder.stat().st_mode & 0o777 == 0o700
    assert (copies[1] / "modules/trainer/task.py").read_text() == "print('hello')\n"
    events = [row["event"] for row in read_lines(workdir / "attempt-0/ledger.jsonl")]
    assert events == ["copy_begin", "program_begin"]
    told = json.loads((workdir / "attempt-0/near-0.json").read_text())
    assert told["warnings"] == [] and told["seconds"] >= 0


HELD = """
import time
from launchers.host import copies, nearby
def half(source, target):
    target.write_bytes(source.read_bytes()[:2_000_000])
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("patch", "size"),
    [("copies.shutil.copyfile = half", 2_000_000), ("copies._named = lambda *_: time.sleep(600)", 4_000_000)],
    ids=["while it copies", "before it has its name"],
)
def test_copier_that_is_killed_leaves_nothing_that_is_taken_for_a_copy(
    workdir: Path, shared: Path, patch: str, size: int
) -> None:
    origin, folder = image(shared, "large", mb=4), workdir / "copies"
    killed = start(folder, [origin], "x", "y", patch=HELD + patch)
    until(lambda: any(p.stat().st_size == size for p in folder.glob(".making.*")), pause_s=0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=100)
    assert not (folder / origin.name).exists() and list(folder.glob(".making.*"))

    out, said = start(folder, [origin], str(origin.path), "y").communicate(timeout=60)

    assert out == f"{folder / origin.name} y\n" and "copied large.sif" in said
    assert not list(folder.glob(".making.*"))
    assert sif.digest_of(folder / origin.name, fresh=True) == origin.digest


def test_copy_in_use_stays_and_one_that_nobody_uses_makes_room(workdir: Path, shared: Path) -> None:
    first, second, third = (image(shared, name, mb=4) for name in ("first", "second", "third"))
    folder, held = workdir / "copies", workdir / "held"
    user = start(folder, [first], str(first.path), "", str(held), most_gb=0.01)
    until(held.exists)
    copies = Copies(folder, 0.01)
    other = start(folder, [second], "", "", most_gb=0.01)
    assert "copied second.sif" in other.communicate(timeout=100)[1]

    copies.have(third, Told())

    assert [(folder / each.name).exists() for each in (first, second, third)] == [True, False, True]
    with pytest.raises(NotNear, match=r"it has 4 MB, and there is no room: .* copies in use take 8"):
        copies.have(second, Told())  # by the other process, and by this one
    user.kill()
    user.communicate(timeout=100)
    copies.have(second, Told())
    assert not (folder / first.name).exists()


def test_rank_without_room_runs_the_shared_image_and_says_why(workdir: Path, shared: Path) -> None:
    origin, folder = image(shared, "big", mb=3), workdir / "copies"

    out, said = start(folder, [origin], str(origin.path), "y", most_gb=0.002).communicate(timeout=100)

    assert out == f"{origin.path} y\n"
    why = f"{os.uname().nodename} has no copy of big.sif in {folder}, and runs the shared one: it has 3 MB"
    assert f"fairlead: warning: {why}, and copies may take 2 (site.local_gb)" in said
    assert not_near([Attempt(workdir / "attempt-0")]).startswith(why)
    assert list(folder.glob("*big.sif")) == []


def test_copy_of_an_image_that_was_changed_is_refused_and_one_that_is_broken_is_made_anew(
    workdir: Path, shared: Path
) -> None:
    origin, copies = image(shared, "a"), Copies(workdir / "copies", None)
    with pytest.raises(NotNear, match="the copy is not what it must be: its digest is sha256:"):
        copies.have(Origin("image", origin.path, "sha256:" + "0" * 64), Told())
    copy = copies.have(Origin("image", origin.path, origin.digest), Told())
    other = image(shared, "b")
    copy_of_other = copies.folder / other.name
    copy_of_other.write_bytes(b"half")

    told = Told()
    assert copies.have(other, told) == copy_of_other and told.copied == ["b.sif"]
    assert copy.exists() and sif.digest_of(copy_of_other, fresh=True) == other.digest


def test_words_of_a_host_program_are_moved_wherever_they_name_the_layer_and_of_a_container_once() -> None:
    found = {"/runs/.layers/a/modules": "/tmp/c/a/modules"}
    words = ["python3", "/runs/.layers/a/modules/bin/train", "--x=/runs/.layers/a/modules"]
    assert moved(words, found, boxed=False) == [words[0], "/tmp/c/a/modules/bin/train", words[2]]
    mount, path = "type=bind,src=/runs/.layers/a/modules,dst=/runs/.layers/a/modules,ro", "/i/x.sif"
    boxed = ["apptainer", "--mount", mount, path, "python3", words[1], path]
    assert moved(boxed, {**found, path: "/tmp/c/x.sif"}, boxed=True) == [
        "apptainer", "--mount", "type=bind,src=/tmp/c/a/modules,dst=/runs/.layers/a/modules,ro", "/tmp/c/x.sif",
        "python3", words[1], path,
    ]  # fmt: skip
