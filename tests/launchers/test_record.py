"""Files of a run folder: whole or not there, readable after any interruption, one writer at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launchers.errors import SiteError
from launchers.run_folder import record
from launchers.run_folder.record import (
    LockBusy,
    Run,
    append_line,
    locked,
    make_private,
    read_json,
    read_lines,
    write_json,
    write_text,
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
DOCUMENTS = st.recursive(
    SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3), max_leaves=8
)


@given(DOCUMENTS.filter(lambda d: "\\ud" not in json.dumps(d)))
@settings(max_examples=50, deadline=None)
def test_write_json_document_is_read_back(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"

    write_json(path, document)

    assert read_json(path) == document
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_write_json_path_that_is_not_utf8_survives(tmp_path: Path) -> None:
    name = b"/runs/\xff\xfe".decode("utf-8", "surrogateescape")

    write_json(tmp_path / "x", {"path": name})

    assert read_json(tmp_path / "x") == {"path": name}


def test_read_json_no_file_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "x") is None


def test_read_json_broken_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": ')

    with pytest.raises(SiteError, match=r"x\.json is not valid JSON"):
        read_json(tmp_path / "x.json")


def test_write_text_disk_full_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "x", "old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.os, "fsync", full)

    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "x", "new")

    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "old")]


def test_write_json_killed_any_time_is_never_half(tmp_path: Path, root: Path) -> None:
    """A process that rewrites a file all the time is killed: what is there is always whole."""
    code = (
        "import sys; from pathlib import Path; from launchers.run_folder.record import write_json\n"
        "i = 0\nwhile True:\n    write_json(Path(sys.argv[1]), {'i': i, 'x': 'y' * 20000}); i += 1"
    )
    for pause_s in (0.0, 0.007, 0.02):
        path = tmp_path / str(pause_s)
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], env={**os.environ, "PYTHONPATH": str(root)})
        while not path.exists():
            time.sleep(0.005)
        time.sleep(pause_s)
        process.kill()
        process.wait()

        assert len(read_json(path)["x"]) == 20000


def test_read_lines_torn_last_line_is_left_for_later(tmp_path: Path) -> None:
    (tmp_path / "x").write_text('{"a": 1}\n{"b": 2')

    assert read_lines(tmp_path / "x") == [{"a": 1}]


def test_read_lines_garbage_in_between_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b'{"a": 1}\n\xff\xfe{{\n\n{"b": 2}\n')

    assert read_lines(tmp_path / "x") == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("text", ["a\u2028b", "a\x1eb", "a\x85b", "a\rb", "a\nb"])
def test_append_line_text_with_separators_stays_one_line(tmp_path: Path, text: str) -> None:
    append_line(tmp_path / "x", {"t": text})
    append_line(tmp_path / "x", {"t": 2})

    assert read_lines(tmp_path / "x") == [{"t": text}, {"t": 2}]


def test_append_line_after_a_torn_line_is_not_lost(tmp_path: Path) -> None:
    """A disk that was full for a moment tears a line; what is written next must be readable."""
    (tmp_path / "x").write_text('{"a": 1}\n{"torn": ')

    append_line(tmp_path / "x", {"b": 2})

    assert read_lines(tmp_path / "x") == [{"a": 1}, {"b": 2}]


def test_append_line_disk_takes_only_a_part_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """write(2) may write less than it was given; a journal line that is not whole must not pass for written."""
    real = os.write
    monkeypatch.setattr(record.os, "write", lambda fd, data: real(fd, data[:5]))

    try:
        append_line(tmp_path / "x", {"a": 1})
    except OSError:
        return

    assert read_lines(tmp_path / "x") == [{"a": 1}]


def _append_many(path: str, who: int) -> None:
    for i in range(50):
        append_line(Path(path), {"who": who, "i": i, "x": "y" * 500})


def test_append_line_several_writers_do_not_mix(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(str(tmp_path / "x"), n)) for n in range(3)]
    for w in writers:
        w.start()
    for w in writers:
        w.join()

    rows = read_lines(tmp_path / "x")
    assert len(rows) == 150
    assert all([r["i"] for r in rows if r["who"] == n] == list(range(50)) for n in range(3))


def test_append_line_file_is_private(tmp_path: Path) -> None:
    append_line(tmp_path / "x", {})

    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


def test_make_private_folder_is_the_owners_alone(tmp_path: Path) -> None:
    assert make_private(tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_locked_second_holder_is_told_who_is_busy(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "x"),
        pytest.raises(LockBusy, match="x was held by another process"),
        locked(tmp_path / "x", 0.1),
    ):
        pass


def test_locked_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "x"):
        raise ZeroDivisionError

    with locked(tmp_path / "x", 0.1):
        pass


def test_locked_holder_killed_frees_it(tmp_path: Path, root: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from launchers.run_folder.record import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "x")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    with pytest.raises(LockBusy), locked(tmp_path / "x", 0.1):
        pass

    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()

    with locked(tmp_path / "x", 2):
        pass


def test_locked_is_not_inherited_by_children(tmp_path: Path) -> None:
    """A job that a client started must not keep the client's lock."""
    with locked(tmp_path / "x"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], close_fds=False)
    try:
        with locked(tmp_path / "x", 0.2):
            pass
    finally:
        child.kill()
        child.wait()


def test_member_attempts_are_in_order_of_their_number(tmp_path: Path) -> None:
    member = Run(tmp_path).member(0)
    for name in ("attempt-10", "attempt-9", "attempt-0", "attempt-x", "attempt-1.tmp", "model"):
        (member.path / name).mkdir(parents=True)

    assert [a.number for a in member.attempts()] == [0, 9, 10]


def test_run_members_are_those_of_the_file(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for i in (0, 1, 5):
        append_line(run.members_file, {"index": i})

    assert [m.index for m in run.members()] == [0, 1, 5]
