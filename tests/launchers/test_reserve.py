"""A full disk: the supervisor keeps room for its last word, says what it was, and `retry` goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launchers.host.reserve import ROOM, free_space, reserve_space, why_not_writable
from tests.cluster.harness import QUICK, ROOT, Cluster, attempts, steps, until


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 20 MB."""
    if os.getuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    path = disk / "fill"
    with pytest.raises(OSError, match="No space left"), path.open("wb", buffering=0) as f:
        while f.write(bytes(4096)):
            pass
    return path


def test_reserve_is_there_and_gone(tmp_path: Path) -> None:
    reserve_space(tmp_path)
    assert [p.stat().st_size for p in tmp_path.iterdir()] == [ROOM]

    free_space(tmp_path)
    free_space(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_reserve_gives_room_on_a_full_disk(small_disk: Path) -> None:
    reserve_space(small_disk)
    fill(small_disk)
    assert why_not_writable(small_disk) == f"No space left on device where the runs are ({small_disk})"

    free_space(small_disk)

    assert why_not_writable(small_disk) == ""
    (small_disk / "outcome.json").write_bytes(bytes(ROOM // 2))


def test_reserve_where_nothing_can_be_written_is_silent(tmp_path: Path) -> None:
    reserve_space(tmp_path / "gone")
    free_space(tmp_path / "gone")

    assert "No such file" in why_not_writable(tmp_path / "gone")


HOLDS = """
from trainer.checkpoints import keeping
keeping.PATIENCE_S = (0, 1)  # else it would try for four minutes to write the last checkpoint
forward, seen = Probe.forward, []
def waiting(self, x):
    seen.append(x)
    while len(seen) > 9 and os.path.exists(HOLD):
        time.sleep(0.02)
    return forward(self, x)
Probe.forward = waiting
"""
"""A model that trains for some steps, and then only when its test has filled the disk."""


def test_disk_that_fills_while_training_is_the_sites_fault_and_retry_goes_on(
    small_disk: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    laptop = Cluster(workdir, first=())
    slow = (*QUICK, "tracking=none", "tracking.register=null", "train.epochs=60", "train.log_every_steps=1")
    probe, hold = laptop.probe(sleep_s=0.1), workdir / "hold"
    hold.touch()
    with (workdir / "probing.py").open("a") as f:
        f.write(HOLDS.replace("HOLD", repr(str(hold))))
    client = laptop.start(*slow, *probe, f"site.runs_dir={small_disk}/runs")
    (run,) = until(lambda: list((small_disk / "runs").glob("digits-*")), 90)
    until(lambda: len(steps(run)) > 2, 90)

    filled = fill(small_disk)
    hold.unlink()
    said, _ = client.communicate(timeout=90)

    (outcome,) = attempts(run)
    assert (outcome["state"], outcome["cause"]) == ("FAILED", "site")
    assert "No space left on device" in outcome["message"]
    assert f"then: fairlead retry {run.name}" in said
    filled.unlink()
    done = len(steps(run))
    laptop.fairlead("retry", str(run))
    until(lambda: len(steps(run)) > done + 3, 90)
    laptop.fairlead("cancel", str(run))
    assert laptop.wait(run)["state"] == "CANCELLED"
