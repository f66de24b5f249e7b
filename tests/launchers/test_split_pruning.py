"""Exported splits that no run has any more are removed, and none that one may still ask for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launchers import split_pruning
from launchers.errors import EXIT_DONE, SiteError
from launchers.launch import Request
from launchers.run_folder.record import locked
from tests.cluster.harness import ROOT
from tests.trainer.test_export_splits import part_of, run_of, table
from trainer import export_splits

REQUEST = Request(overrides=())


def pruned(really: bool = True) -> dict[Path, str]:
    return {entry.path: entry.kept for entry in split_pruning.prune(REQUEST, really=really).entries}


def exported(workdir: Path, job: str = "job", **options: Any) -> tuple[Path, Path]:
    """A run that has its splits, and the entry they come from, both of some days ago."""
    run = run_of(workdir, table(workdir, **options), job)
    export_splits.export(run, 0, "csv")
    (pin,) = (run / "splits").glob("*.json")
    entry = workdir / "runs/.splits" / json.loads(pin.read_text())["entry"]
    aged(entry)
    return run, entry


def same(run: Path, job: str) -> Path:
    """Another run of the same data, which has not begun."""
    other = run.with_name(job)
    shutil.copytree(run / "members", other / "members")
    return other


def aged(path: Path) -> None:
    os.utime(path, (time.time() - 3 * 24 * 3600,) * 2)


def test_prune_removes_what_no_run_has_and_says_why_others_stay(workdir: Path) -> None:
    run, entry = exported(workdir)
    other, gone = exported(workdir, "other", features=["id"])
    store = entry.parent
    left = store / f"{'0' * 32}.part"
    left.mkdir()
    (left / "training-00000-of-00001.csv").write_text("half")
    assert pruned() == {entry: "of job", gone: "of other", left: ""} and not left.exists()
    shutil.rmtree(other)

    assert pruned(really=False) == {entry: "of job", gone: ""} and gone.exists()
    with locked(store / f"{gone.name}.lock"):
        assert pruned() == {entry: "of job", gone: "being exported"}
    os.utime(gone)
    assert pruned() == {entry: "of job", gone: "used within the hour"}
    aged(gone)
    assert pruned() == {entry: "of job", gone: ""}
    assert [path for path in store.iterdir() if path.is_dir()] == [entry]
    assert len(part_of(run / "splits/0", "training", "csv")) == 63


def test_sizes_are_of_what_becomes_free(workdir: Path) -> None:
    run, entry = exported(workdir)
    whole = sum(path.stat().st_size for path in entry.iterdir())

    (with_run,) = split_pruning.prune(REQUEST, really=False).entries
    shutil.rmtree(run)
    (alone,) = split_pruning.prune(REQUEST, really=False).entries

    assert (with_run.size, alone.size) == (0, whole)


def test_run_that_waits_in_the_queue_makes_its_splits_anew(workdir: Path) -> None:
    run, entry = exported(workdir)
    queued = same(run, "queued")
    shutil.rmtree(run)
    pruned()
    assert not entry.exists()

    mine = export_splits.export(queued, 0, "csv")

    assert len(part_of(mine, "training", "csv")) == 63 and pruned() == {entry: "of queued"}


def test_entry_that_was_just_found_is_not_removed_before_its_run_names_it(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, entry = exported(workdir)
    second, found, write = same(run, "second"), dict[Path, str](), export_splits.write_json
    shutil.rmtree(run)

    def named(path: Path, document: Any) -> None:
        found.update(pruned())
        write(path, document)

    monkeypatch.setattr(export_splits, "write_json", named)
    export_splits.export(second, 0, "csv")

    assert found == {entry: "used within the hour"} and entry.exists()


def test_entry_that_is_named_between_the_look_and_the_removal_stays(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, entry = exported(workdir)
    aside = workdir / "aside"
    run.rename(aside)
    judged = split_pruning._judged

    def late(*words: Any) -> Any:
        entries = list(judged(*words))
        aside.rename(run)
        return entries

    monkeypatch.setattr(split_pruning, "_judged", late)

    assert pruned() == {entry: "in use, or not yours to remove"} and export_splits._whole(entry)


def test_removal_killed_in_the_middle_leaves_nothing_whole_and_the_next_one_ends_it(workdir: Path) -> None:
    run, entry = exported(workdir)
    shutil.rmtree(run)
    program = """
import os, shutil, signal
from pathlib import Path
from launchers import split_pruning
from launchers.launch import Request
def dies(path, ignore_errors=False):
    if not ignore_errors:
        next(Path(path).glob("*.csv")).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
shutil.rmtree = dies
split_pruning.prune(Request(overrides=()), really=True)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, cwd=workdir, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL and not entry.exists()
    left = entry.with_name(f"{entry.name}.part")
    assert left.exists()

    assert pruned() == {left: ""} and not left.exists()


def test_nothing_is_removed_while_a_run_cannot_say_what_it_has(workdir: Path) -> None:
    run, entry = exported(workdir)
    (pin,) = (run / "splits").glob("*.json")
    pin.write_text("{")

    with pytest.raises(SiteError, match="is not valid JSON"):
        pruned()
    assert entry.exists()


def test_image_prune_lists_splits_beside_images_and_layers(workdir: Path) -> None:
    run, entry = exported(workdir)
    shutil.rmtree(run)
    argv = [sys.executable, "-m", "launchers.cli", "image", "prune", f"site.images_dir={workdir}/none"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    dry = subprocess.run(argv, capture_output=True, text=True, env=env, check=False, timeout=60)
    done = subprocess.run([*argv, "--yes", "--json"], capture_output=True, text=True, env=env, check=False, timeout=60)

    assert dry.returncode == done.returncode == EXIT_DONE, dry.stderr + done.stderr
    assert f"{entry}" in dry.stdout and "1 export(s) of splits would be removed" in dry.stdout
    document = json.loads(done.stdout)
    (row,) = document["splits"]
    assert row == {"path": str(entry), "size": row["size"], "kept": None} and not entry.exists()
    assert document["freed"] == row["size"] > 0 and document["removed"] is True
