"""The fixtures `member`, a folder in which a test starts ranks, and `node`, a temporary folder of a test's own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.ranks import Member, make_spec
from trainer.data.node import FOLDER, MOST_GB


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's temporary folder, where data are staged: nothing is there yet."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for name in (FOLDER, MOST_GB):  # what the test may set itself goes with it
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return folder


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Callable[..., Member]]:
    """Make a member in a folder of its own. Whatever it started is ended with the test."""
    made: list[Member] = []

    def make(name: str = "0", ranks: int = 1, **changes: Any) -> Member:
        made.append(Member(tmp_path / name, make_spec(**changes), ranks))
        made[-1].path.mkdir()
        return made[-1]

    yield make
    for one in made:
        one.end()
