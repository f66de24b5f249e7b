"""A file fetched from a server that cuts lines, knows no ranges, or gives something else."""

from __future__ import annotations

import hashlib
import random
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import pytest

from launchers.apptainer import blob
from launchers.errors import SiteError
from tests.trainer.servers import Line, plain

CONTENT = random.Random(3).randbytes(700_000)
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Python's own: it sends all, whatever range is asked for."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "blob").write_bytes(CONTENT)
    with plain(tmp_path / "files") as address:
        yield address


def opened(address: str) -> blob.Opened:
    def at(begin: int) -> HTTPResponse:
        asked = urllib.request.Request(f"{address}/blob", headers={"Range": f"bytes={begin}-"})
        answer: HTTPResponse = urllib.request.urlopen(asked, timeout=20)
        return answer

    return at


def test_fetch_from_a_server_without_ranges_takes_all_anew(server: str, tmp_path: Path) -> None:
    path = tmp_path / "came"
    path.write_bytes(CONTENT[:1000])

    blob.fetch(opened(server), DIGEST, len(CONTENT), path, lambda: None)

    assert path.read_bytes() == CONTENT


def test_fetch_what_has_another_digest_is_gone(server: str, tmp_path: Path) -> None:
    path = tmp_path / "came"
    path.write_bytes(b"x" * len(CONTENT))

    with pytest.raises(SiteError, match=f"has digest sha256:[0-9a-f]{{64}}, expected {DIGEST}"):
        blob.fetch(opened(server), DIGEST, len(CONTENT), path, lambda: None)

    assert not path.exists()


def test_fetch_of_a_line_that_brings_nothing_more_says_how_much_came(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob, "PAUSES_S", (0, 0))
    line = Line(server, [300_000] * 9)
    path = tmp_path / "came"

    with pytest.raises(SiteError, match=r"of 700000 bytes (\d+) came, and then no more: "):
        blob.fetch(opened(line.address), DIGEST, len(CONTENT), path, lambda: None)

    line.close()
    assert path.read_bytes() == CONTENT[: path.stat().st_size]
