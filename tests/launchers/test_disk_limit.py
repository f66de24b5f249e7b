"""What a folder takes of its disk, and when that is too much."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from launchers.host.disk_limit import DiskLimit, bytes_in, excess, gb

MB = 10**6


def fill(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))


def test_holes_take_nothing_and_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    fill(tmp_path / "a/b/file", 2 * MB)
    (tmp_path / "other-name").hardlink_to(tmp_path / "a/b/file")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with (tmp_path / "hole").open("wb") as f:
        f.truncate(10**12)

    assert 2 * MB <= bytes_in(str(tmp_path)) < 2.2 * MB


def test_what_is_mounted_below_is_on_another_disk(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to mount a disk")
    (tmp_path / "mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "mounted")], check=True)
    try:
        fill(tmp_path / "mounted/file", 2 * MB)
        assert bytes_in(str(tmp_path)) < MB
    finally:
        subprocess.run(["umount", str(tmp_path / "mounted")], check=True)


def test_too_much_is_said_with_both_values_and_where(tmp_path: Path) -> None:
    fill(tmp_path / "file", 2 * MB)

    assert excess(str(tmp_path), 3 * MB) == ""
    said = excess(str(tmp_path), MB)
    assert said.startswith("it had 0.002") and f" GB in {tmp_path} on {os.uname().nodename}" in said
    assert said.endswith(", and job.max_disk_gb is 0.001")


def test_half_of_a_disk_that_is_nearly_full_is_what_a_program_may_have_where_nothing_is_said(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], check=True)
    try:
        (tmp_path / "own").mkdir()
        fill(tmp_path / "own/file", 5 * MB)
        assert excess(str(tmp_path / "own"), None) == ""
        fill(tmp_path / "others", 3 * MB)
        assert excess(str(tmp_path / "own"), None).endswith(
            ", more than half of a disk of 0.00839 GB that was nearly full, and job.max_disk_gb is null"
        )
        (tmp_path / "own/file").rename(tmp_path / "others-too")
        assert excess(str(tmp_path / "own"), None) == ""
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_folder_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    assert excess(str(tmp_path / "gone"), 0) == ""


def test_disk_of_which_less_is_in_use_is_not_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launchers.host.disk_limit.bytes_in", lambda folder: pytest.fail(folder))

    assert excess(str(tmp_path), 10**18) == ""


def test_thread_says_it_once_it_is_so(tmp_path: Path) -> None:
    limit = DiskLimit([str(tmp_path / "not-yet"), str(tmp_path)], MB, look_s=0.01)
    assert limit.why == ""

    fill(tmp_path / "file", 2 * MB)

    limit.thread.join(30)
    assert "job.max_disk_gb is 0.001" in limit.why


@pytest.mark.parametrize(("count", "said"), [(83_400_000, "0.0834"), (123_456_789_000, "123"), (4 * 10**12, "4000")])
def test_bytes_are_said_as_the_key_counts_them(count: int, said: str) -> None:
    assert gb(count) == said
