"""Whose turn it is when a rank dies, and the file that says so."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from tests.trainer.ranks import ROOT
from trainer import failure
from trainer.failure import RendezvousError, UserError, cause

ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT)}


def raised(action: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as caught:
        action()
    return caught.value


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_cause_of_an_error_of_the_disk_is_the_site(number: int) -> None:
    assert cause(OSError(number, os.strerror(number), "/runs/x")) == "site"
    assert cause(OSError(f"rank 3: [Errno {number}] {os.strerror(number)}: '/runs/x'")) == "site"


def test_cause_of_a_full_disk_is_the_site_whoever_writes() -> None:
    def wrapped() -> None:
        try:
            Path("/dev/full").write_text("x")
        except OSError as e:
            raise ValueError("cannot save") from e

    assert cause(raised(lambda: Path("/dev/full").write_text("x"))) == "site"
    assert cause(raised(wrapped)) == "site"
    # As the writers of safetensors and torch say it; torch's ends the process when it is freed, so neither runs here.
    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert cause(SafetensorError(said)) == "site"
    assert cause(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")) == "site"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("No space left on device"), "user_error"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/x"), "user_error"),
        (UserError("no space left on device", "", ""), "user_error"),
        (RuntimeError("[enforce fail at inline_container.cc:200] . file not found: archive/data.pkl"), "user_error"),
        (MemoryError(), "out_of_memory"),
        (RendezvousError("No space left on device"), "rendezvous"),
        (RuntimeError("Connection closed by peer [10.0.0.1]"), "rendezvous"),
        (RuntimeError("DataLoader worker (pid(s) 7, 11) exited unexpectedly"), "crash"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly with exit code 3"), "user_error"),
    ],
)
def test_cause_of_other_errors_is_their_own(error: Exception, expected: str) -> None:
    assert cause(error) == expected


@pytest.mark.parametrize(("ends", "expected"), [("os.kill(os.getpid(), 9)", "crash"), ("os._exit(3)", "user_error")])
def test_cause_of_a_reader_that_was_killed_is_a_crash_and_of_one_that_ends_itself_its_own(
    ends: str, expected: str
) -> None:
    script = f"""
import os, numpy as np, torch
from trainer.data.datasets import Mapped
from trainer.data.feed import Feed
from trainer.failure import cause
class Ends:
    def __len__(self): return 9
    def __getitem__(self, index): {ends}
try:
    list(Feed(Mapped(Ends()), torch.device("cpu"), workers=1).batches([(0, np.arange(3))]))
except RuntimeError as error:
    print(cause(error))
"""
    done = subprocess.run([sys.executable, "-c", script], env=ENVIRON, capture_output=True, text=True, timeout=100)

    assert done.stdout == f"{expected}\n", done.stderr


def test_cause_of_a_read_only_place_is_the_site_only_where_the_member_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's own files are read-only on purpose: to write there is the program's mistake."""
    monkeypatch.setenv("FAIRLEAD_MEMBER_DIR", "/runs/d-1/members/0")

    assert cause(OSError(errno.EROFS, "Read-only file system", "/runs/d-1/members/0/checkpoints/x")) == "site"
    assert cause(OSError(errno.EROFS, "Read-only file system", "/opt/results.txt")) == "user_error"


def test_cause_of_a_mistake_while_a_disk_error_was_put_aside_is_the_mistake() -> None:
    def put_aside() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise KeyError("x") from None

    assert cause(raised(put_aside)) == "user_error"


def test_write_leaves_the_file(tmp_path: Path) -> None:
    failure.write(tmp_path, 3, OSError(errno.ENOSPC, "No space left on device"))

    document = json.loads((tmp_path / "rank-3.error.json").read_text())
    assert (document["rank"], document["cause"], document["type"]) == (3, "site", "OSError")


def test_write_where_nothing_can_be_written_is_silent(tmp_path: Path) -> None:
    """The error itself is what people must see, and the exit code what the supervisor goes by."""
    failure.write(tmp_path / "gone", 0, OSError(errno.ENOSPC, "No space left on device"))

    assert list(tmp_path.iterdir()) == []


def test_failure_file_names_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRLEAD_SECRETS", "TOKEN")
    monkeypatch.setenv("TOKEN", "canary-1234")

    failure.write(tmp_path, 0, ValueError("bad token canary-1234"))

    said = (tmp_path / "rank-0.error.json").read_text()
    assert "canary" not in said and "bad token ***" in said
