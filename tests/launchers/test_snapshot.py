"""The code that a run executes: what is copied, what is not, and that nothing changes it afterwards."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from launchers.errors import SiteError
from launchers.run_folder import snapshot


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(workdir: Path) -> Path:
    """A repository with a committed file, an edited one, a new one and an ignored one."""
    folder = workdir / "project"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "net.py").write_text("committed = 1\n")
    (folder / "old.py").write_text("old = 1\n")
    (folder / ".gitignore").write_text("*.log\ndata/\n")
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "x")
    (folder / "package" / "net.py").write_text("edited = 2\n")
    (folder / "new.py").write_text("new = 3\n")
    (folder / "x.log").write_text("ignored")
    (folder / "data").mkdir()
    (folder / "data" / "big.bin").write_text("ignored")
    (folder / "old.py").unlink()
    return folder


def taken(code: Path) -> dict[str, str]:
    return {str(p.relative_to(code / "project")): p.read_text() for p in (code / "project").rglob("*") if p.is_file()}


def test_snapshot_holds_edits_and_new_files_but_nothing_ignored(project: Path, tmp_path: Path) -> None:
    said = snapshot.take(tmp_path / "code", project)

    assert taken(tmp_path / "code") == {
        "package/net.py": "edited = 2\n",
        "new.py": "new = 3\n",
        ".gitignore": "*.log\ndata/\n",
    }
    assert (said.project, said.files, said.skipped) == (str(project), 3, ())


def test_snapshot_holds_submodules_with_their_edits(project: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    for name in ("kept.py", "edited.py"):
        (library / name).write_text("committed = 1\n")
    git(library, "init")
    git(library, "add", ".")
    git(library, "commit", "-m", "x")
    git(project, "-c", "protocol.file.allow=always", "submodule", "add", str(library), "lib")
    (project / "lib" / "edited.py").write_text("edited = 2\n")

    snapshot.take(tmp_path / "code", project)

    found = taken(tmp_path / "code")
    assert {name: found[name] for name in ("lib/kept.py", "lib/edited.py", "new.py", "package/net.py")} == {
        "lib/kept.py": "committed = 1\n",
        "lib/edited.py": "edited = 2\n",
        "new.py": "new = 3\n",
        "package/net.py": "edited = 2\n",
    }
    assert "x.log" not in found and not [name for name in found if ".git/" in name]


def test_snapshot_from_a_folder_inside_is_the_whole_repository(project: Path, tmp_path: Path) -> None:
    snapshot.take(tmp_path / "code", project / "package")

    assert "new.py" in taken(tmp_path / "code")


def test_snapshot_says_where_in_it_the_command_was_given(project: Path, tmp_path: Path) -> None:
    """A command starts there, also in a folder that holds no file of the project."""
    (project / "data" / "here").mkdir()
    snapshot.take(tmp_path / "code", project / "data" / "here")

    assert snapshot.below(project / "package") == "package"
    assert snapshot.below(project) == "."
    assert snapshot.below(tmp_path) == ""
    assert (tmp_path / "code" / "project" / snapshot.below(project / "data" / "here")).is_dir()


def test_snapshot_through_a_link_is_of_the_same_folder(project: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(project / "package")

    snapshot.take(tmp_path / "code", tmp_path / "link")

    assert snapshot.below(tmp_path / "link") == "package"
    assert "package/net.py" in taken(tmp_path / "code")


def test_snapshot_without_git_has_scripts_that_a_command_may_name(workdir: Path, tmp_path: Path) -> None:
    for name in ("train.py", "train.sh", "train.R", "data.csv"):
        (workdir / name).write_text("x")

    snapshot.take(tmp_path / "code", workdir)

    assert sorted(taken(tmp_path / "code")) == ["train.R", "train.py", "train.sh"]


def test_snapshot_later_edit_does_not_change_it(project: Path, tmp_path: Path) -> None:
    snapshot.take(tmp_path / "code", project)

    (project / "new.py").write_text("changed")

    assert taken(tmp_path / "code")["new.py"] == "new = 3\n"


def test_snapshot_link_to_a_file_elsewhere_is_frozen_too(project: Path, tmp_path: Path) -> None:
    """A link that leads out of the project would let a later edit reach a waiting job."""
    (tmp_path / "elsewhere.py").write_text("before")
    (project / "link.py").symlink_to(tmp_path / "elsewhere.py")

    snapshot.take(tmp_path / "code", project)
    (tmp_path / "elsewhere.py").write_text("after")

    assert taken(tmp_path / "code")["link.py"] == "before"


def test_snapshot_link_within_the_project_leads_within_the_snapshot(project: Path, tmp_path: Path) -> None:
    (project / "alias.py").symlink_to("new.py")

    snapshot.take(tmp_path / "code", project)
    (project / "new.py").write_text("changed")

    assert taken(tmp_path / "code")["alias.py"] == "new = 3\n"


def test_snapshot_dangling_link_and_pipe_are_no_crash(project: Path, tmp_path: Path) -> None:
    import os

    (project / "dangling").symlink_to("/nowhere/at/all")
    os.mkfifo(project / "pipe")

    snapshot.take(tmp_path / "code", project)

    assert "new.py" in taken(tmp_path / "code")


@pytest.mark.parametrize("name", ["a b.py", "it's.py", 'say "x".py', "ü☃.py", "-x.py", "a\nb.py", "$(touch canary).py"])
def test_snapshot_any_file_name_is_copied(project: Path, tmp_path: Path, name: str) -> None:
    (project / name).write_text("x")

    snapshot.take(tmp_path / "code", project)

    assert taken(tmp_path / "code")[name] == "x"


def test_snapshot_file_that_is_too_large_is_left_out_and_told(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "MAX_FILE_MB", 0.001)
    (project / "weights.bin").write_bytes(bytes(2000))

    said = snapshot.take(tmp_path / "code", project)

    assert said.skipped == ("weights.bin",)
    assert "weights.bin" not in taken(tmp_path / "code")


def test_snapshot_project_that_is_too_large_is_an_error_that_says_why(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "MAX_TOTAL_MB", 0.001)
    (project / "many.bin").write_bytes(bytes(2000))

    with pytest.raises(SiteError, match="gitignore"):
        snapshot.take(tmp_path / "code", project)


def test_snapshot_without_git_is_the_python_files_here(workdir: Path, tmp_path: Path) -> None:
    (workdir / "mine").mkdir()
    for name in ("net.py", "notes.txt", "mine/__init__.py", "mine/deep.py"):
        (workdir / name).write_text(name)
    (workdir / "other").mkdir()
    (workdir / "other" / "x.py").write_text("no package")

    snapshot.take(tmp_path / "code", workdir)

    assert set(taken(tmp_path / "code")) == {"net.py", "mine/__init__.py", "mine/deep.py"}


def test_snapshot_without_git_has_yaml_here_and_in_folders_of_it(workdir: Path, tmp_path: Path) -> None:
    """A Hydra application's conf is no package; its outputs are no code."""
    wanted = ("a.yaml", "conf/config.yaml", "conf/db/x.yml")
    for name in (*wanted, "conf/readme.txt", "multirun/multirun.yaml", "multirun/0/.hydra/config.yaml"):
        (workdir / name).parent.mkdir(parents=True, exist_ok=True)
        (workdir / name).write_text("x")

    snapshot.take(tmp_path / "code", workdir)

    assert set(taken(tmp_path / "code")) == set(wanted)


def test_snapshot_knows_which_files_it_will_hold(project: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text("x")

    held = [snapshot.holds(project, p) for p in (project / "new.py", project / "x.log", tmp_path / "outside.py")]

    assert held == [True, False, False]


def test_snapshot_without_a_git_command_still_works(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    snapshot.take(tmp_path / "code", project)

    assert "new.py" in taken(tmp_path / "code")


def test_snapshot_of_fairlead_can_be_imported(workdir: Path, tmp_path: Path) -> None:
    import sys

    snapshot.take(tmp_path / "code", workdir)
    code = "import launchers.host.supervise, conf.schema, launchers; print(launchers.__file__)"

    said = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path / "code" / "fairlead")},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert said.startswith(str(tmp_path / "code" / "fairlead"))


def test_snapshot_in_a_clone_of_fairlead_has_what_the_user_put_beside_it(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / "clone"
    for name in (*(f"{package}/__init__.py" for package in snapshot.PACKAGES), "tests/run", "README.md", ".gitignore"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).touch()
    subprocess.run(["git", "init", "-q", str(clone)], check=True)
    monkeypatch.setattr(snapshot, "ROOT", clone)

    bare = snapshot.take(tmp_path / "bare", clone)
    (clone / "my_package").mkdir()
    (clone / "my_package" / "net.py").write_text("net")
    (clone / "mine.py").write_text("mine")
    said = snapshot.take(tmp_path / "code", clone / "my_package")

    assert (bare.project, taken(tmp_path / "bare")) == (None, {})
    assert (said.project, said.files) == (str(clone), 2)
    assert taken(tmp_path / "code") == {"my_package/net.py": "net", "mine.py": "mine"}
    assert (tmp_path / "code" / "fairlead" / "launchers" / "__init__.py").is_file()
    assert snapshot.below(clone / "my_package") == "my_package"
    assert snapshot.why_not_frozen("mine.py", clone) is None
