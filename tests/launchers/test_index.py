"""Which runs there are, and how one is found by what a person types."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from launchers.errors import SpecError
from launchers.run_folder import index
from launchers.run_folder.record import Run, write_json


def make(workdir: Path, name: str, *, below: str = "elsewhere") -> Run:
    run = Run(workdir / below / name)
    run.path.mkdir(parents=True)
    write_json(run.plan, {})
    time.sleep(0.01)
    return run


def test_find_nothing_there_says_how_to_begin(workdir: Path) -> None:
    with pytest.raises(SpecError, match="no runs yet"):
        index.find(None)


def test_find_remembered_run_from_another_folder(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(workdir, "d-1")
    index.remember(run)
    monkeypatch.chdir(tmp_path)

    assert index.find("d-1").path == run.path


def test_find_run_below_here_that_nobody_remembers(workdir: Path) -> None:
    run = make(workdir, "d-1", below="runs")

    assert index.find("d-1").path == run.path


def test_find_by_path(workdir: Path) -> None:
    run = make(workdir, "d-1")

    assert index.find("elsewhere/d-1").path == run.path
    assert index.find(str(run.path) + "/").path == run.path


def test_find_beginning_of_one_is_enough_and_of_two_is_not(workdir: Path) -> None:
    for name in ("digits-20260101-aa", "digits-20260102-bb"):
        index.remember(make(workdir, name))

    assert index.find("digits-20260102").id == "digits-20260102-bb"
    with pytest.raises(SpecError, match="beginning of 2 jobs"):
        index.find("digits")


def test_find_whole_name_wins_over_longer_ones(workdir: Path) -> None:
    for name in ("d-1", "d-10"):
        index.remember(make(workdir, name))

    assert index.find("d-1").id == "d-1"


def test_find_misspelt_is_told_the_nearest(workdir: Path) -> None:
    index.remember(make(workdir, "digits-20260101-aa"))

    with pytest.raises(SpecError, match="did you mean digits-20260101-aa"):
        index.find("digitz-20260101-aa")


def test_find_without_a_name_is_the_one_launched_last(workdir: Path) -> None:
    """Whatever is written into the older one later on."""
    older, newer = make(workdir, "a-1"), make(workdir, "b-2")
    for run in (older, newer):
        index.remember(run)
    time.sleep(0.02)
    write_json(older.result, {})

    assert index.find(None).id == newer.id


def test_find_very_long_name_is_a_problem_and_no_crash(workdir: Path) -> None:
    index.remember(make(workdir, "d-1"))

    with pytest.raises(SpecError):
        index.find("x" * 5000)


def test_all_runs_removed_folder_is_passed_over(workdir: Path) -> None:
    run, gone = make(workdir, "d-1"), make(workdir, "d-2")
    for r in (run, gone):
        index.remember(r)
    gone.plan.unlink()
    gone.path.rmdir()

    assert [r.id for r in index.all_runs()] == ["d-1"]


def test_all_runs_folder_that_is_being_frozen_is_none(workdir: Path) -> None:
    make(workdir, ".d-1.new", below="runs")

    assert index.all_runs() == []


@pytest.mark.parametrize("line", ["null", "{}", '"', "\x00\x01"])
def test_all_runs_strange_line_in_the_index_is_passed_over(workdir: Path, tmp_path: Path, line: str) -> None:
    index.remember(make(workdir, "d-1"))
    path = tmp_path / "state" / "fairlead" / "runs.jsonl"
    path.write_text(f"{line}\n{path.read_text()}")

    assert [r.id for r in index.all_runs()] == ["d-1"]


def test_remember_home_that_cannot_be_written_is_no_failure(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")

    index.remember(make(workdir, "d-1"))


def test_remember_is_private(workdir: Path, tmp_path: Path) -> None:
    index.remember(make(workdir, "d-1"))
    path = tmp_path / "state" / "fairlead" / "runs.jsonl"

    assert path.stat().st_mode & 0o077 == 0
    assert json.loads(path.read_text())["job"] == "d-1"
    assert path.parent.stat().st_mode & 0o077 == 0
