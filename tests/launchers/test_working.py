"""A member's copy of the project: whole files, the program's own kept, the rest gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.host import working
from launchers.plan import plans_document
from launchers.programs.words import Installed
from launchers.run_folder.record import Run, append_line, write_json
from tests.launchers.attempted import Start, ended
from tests.launchers.supervised import outcome
from tests.plans import plan_of_run, pool_plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    folder = tmp_path / "code" / "project"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    for name in ("train.py", "sub/ü b.txt", "sub/deep/run.sh"):
        (folder / name).write_text(name)
        os.utime(folder / name, ns=(10**18, 10**18))
    (folder / "sub/deep/run.sh").chmod(0o755)
    return folder


def seen(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_member_gets_the_whole_project_and_keeps_what_it_wrote(snapshot: Path, tmp_path: Path) -> None:
    mine = tmp_path / "members" / "0" / "project"
    mine.parent.mkdir(parents=True)
    before = seen(snapshot)

    working.lay_out(snapshot, mine)
    assert seen(mine) == before
    assert (mine / "empty").is_dir()
    assert os.access(mine / "sub/deep/run.sh", os.X_OK)
    assert mine.stat().st_mode & 0o777 == 0o700
    (mine / "train.py").write_text("TRAIN.PY")  # of the same length
    (mine / "sub" / "model.joblib").write_text("weights")
    (mine / "out").mkdir()
    for name in ("__pycache__", "sub/__pycache__"):
        (mine / name).mkdir()
        (mine / name / "train.cpython-311.pyc").write_bytes(b"x")
    working.clear(snapshot, mine)

    assert seen(mine) == {"train.py": "TRAIN.PY", "sub/model.joblib": "weights"}
    assert sorted(str(p.relative_to(mine)) for p in mine.rglob("*") if p.is_dir()) == ["out", "sub"]
    working.lay_out(snapshot, mine)
    assert seen(mine) == {**before, "train.py": "TRAIN.PY", "sub/model.joblib": "weights"}
    assert seen(snapshot) == before


def test_member_that_wrote_nothing_keeps_nothing(snapshot: Path, tmp_path: Path) -> None:
    working.lay_out(snapshot, tmp_path / "mine")
    working.clear(snapshot, tmp_path / "mine")

    assert not (tmp_path / "mine").exists()


def test_link_of_the_program_is_its_own(snapshot: Path, tmp_path: Path) -> None:
    """A dangling one, too: it is not written through."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "train.py").symlink_to(tmp_path / "elsewhere")

    working.lay_out(snapshot, mine)
    working.clear(snapshot, mine)

    assert (mine / "train.py").is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_folder_that_the_program_made_a_link_or_a_file_leads_nowhere(snapshot: Path, tmp_path: Path) -> None:
    """Files of the user's own project have size and time of the snapshot's."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    working.lay_out(snapshot, theirs)
    before = seen(theirs)
    mine.mkdir()
    (mine / "sub").symlink_to(theirs / "sub")
    (mine / "empty").write_text("no folder")
    (theirs / "sub/deep/run.sh").rename(theirs / "kept")

    working.lay_out(snapshot, mine)
    assert not (theirs / "sub/deep/run.sh").exists()
    working.clear(snapshot, mine)

    (theirs / "kept").rename(theirs / "sub/deep/run.sh")
    assert seen(theirs) == before
    assert (mine / "sub").is_symlink() and (mine / "empty").read_text() == "no folder"


@pytest.mark.parametrize("copied", [0, 1, 2])
def test_killed_while_it_copies_no_file_is_half_there(snapshot: Path, tmp_path: Path, copied: int) -> None:
    mine = tmp_path / "mine"
    code = f"""
import os, shutil, signal, sys
from pathlib import Path
from launchers.host import working
done = []
def copy(source, target):
    done.append(source)
    if len(done) > {copied}:
        Path(target).write_text("ha")
        os.kill(os.getpid(), signal.SIGKILL)
    shutil.copyfile(source, target); shutil.copystat(source, target)
shutil.copy2 = copy
working.lay_out(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    argv = [sys.executable, "-c", code, str(snapshot), str(mine)]
    killed = subprocess.run(argv, env={"PYTHONPATH": str(ROOT)}, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    whole = {k: v for k, v in seen(mine).items() if not k.endswith(working.UNFINISHED)}
    assert len(whole) == copied
    assert whole.items() <= seen(snapshot).items()

    working.lay_out(snapshot, mine)
    assert seen(mine) == seen(snapshot)
    working.clear(snapshot, mine)
    assert not mine.exists()


def test_attempt_that_ends_before_its_ranks_leaves_no_copy(workdir: Path, start: Start) -> None:
    run = Run(workdir / "runs" / "d-1")
    (run.code / "project").mkdir(parents=True)
    (run.code / "project" / "train.py").write_text("print(1)")
    gone = Installed(folder=str(workdir / "gone" / "modules"), digest="", start=())
    plan = plan_of_run(run, pool_plan(("true",), cwd="project", installed=gone))
    write_json(run.plan, plans_document([plan]))
    write_json(run.spec, {"name": "d"})
    append_line(run.members_file, {"index": 0, "point": {}, "sections": {}})

    assert ended(start(run)) == 1

    assert outcome(run)["cause"] == "site" and "what was installed of job.source" in outcome(run)["message"]
    assert not run.member(0).project.exists()
