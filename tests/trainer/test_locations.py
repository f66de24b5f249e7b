"""Addresses: what is secret in them, which files are there; and files brought whole from real servers."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf import locations as addresses
from tests.trainer import servers
from tests.trainer.ranks import ROOT, free_port
from trainer.data import locations, patience, transfer
from trainer.data.locations import Location
from trainer.failure import UserError

BIG = os.urandom(6_000_000)
Web = tuple[str, Path, Path]
"""Address of nginx, its files, and the folder of its log."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tries at once, and shorter silences; no proxies or credentials of the machine's."""
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(patience, "SILENT_S", 20.0)
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    top = tmp_path_factory.mktemp("web")
    files = top / "files"
    for name in ("open/a.csv", "open/sub dir/ü #1?.csv", "open/sub dir/deep/c.txt", "private/p.csv", "silent/x.csv"):
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text(name)
    (files / "open" / "big.bin").write_bytes(BIG)
    with servers.nginx(files, top / "nginx") as address:
        yield address, files, top / "nginx"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with servers.s3() as address:
        for name in ("a.csv", "sub dir/ü #1?.csv", "sub dir/deep/c.txt"):
            servers.put(address, "bucket", f"open/{quote(name)}", f"open/{name}".encode())
        servers.put(address, "bucket", "open/big.bin", BIG)
        yield address


def bring(path: str, into: Path, glob: str = "**/*", sums: str | None = None, **options: object) -> dict[str, bytes]:
    """What is on the disk afterwards, by name."""
    where = locations.location(path, glob, options)
    digests, _ = transfer.brought(where, locations.listed(where, sums), into)
    found = {p.relative_to(into).as_posix(): p.read_bytes() for p in into.rglob("*") if p.is_file()}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in found.items()} == digests
    return found


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("s3://bucket/a b/c.csv", "s3://bucket/a b/c.csv"),
        ("https://me:word@host:8/x?X-Amz-Signature=1f#y", "https://***@host:8/x?***"),
        ("https://host/x?sig=1 and http://a:b@c", "https://host/x?*** and http://***@c"),
        ("https://me:p@ss@host/x", "https://***@host/x"),
        ("https://host?token=1", "https://host?***"),
        ("s3://bucket/me@home.csv", "s3://bucket/me@home.csv"),
        ("/data/wine.csv?x", "/data/wine.csv?x"),
        ("abfss://box@me.dfs.core.windows.net/a", "abfss://box@me.dfs.core.windows.net/a"),
        ("abfss://me:word@me.dfs.core.windows.net/a", "abfss://***@me.dfs.core.windows.net/a"),
        ("abfs://box@me.dfs.core.windows.net/a?sv=2&sig=1f", "abfs://box@me.dfs.core.windows.net/a?***"),
    ],
)
def test_masked_address_has_no_secret_left(said: str, shown: str) -> None:
    assert addresses.masked(said) == shown
    assert addresses.has_secrets(said) == (said != shown)


def test_secret_options_are_found_at_any_depth() -> None:
    options = {"endpoint_url": "http://x", "anon": True, "key": "a", "client_kwargs": {"aws_secret_access_key": "b"}}

    assert list(addresses.secret_options(options)) == ["key", "client_kwargs.aws_secret_access_key"]


NAMES = st.lists(st.sampled_from(["a", "b.csv", "x1", "y.txt", ".h"]), min_size=1, max_size=3).map("/".join)
PATTERNS = st.lists(
    st.sampled_from(["**", "*", "*.csv", "x?", "[ab]*", "[!a]*", "a", ".*"]), min_size=1, max_size=3
).map("/".join)


@given(names=st.lists(NAMES, min_size=1, max_size=5), pattern=PATTERNS)
def test_matches_names_as_pathlib_finds_them(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], pattern: str
) -> None:
    top = tmp_path_factory.mktemp("glob")
    for name in names:
        if not any((top / parent).is_file() for parent in Path(name).parents) and not (top / name).exists():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).touch()
    there = [p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file()]

    found = {p.relative_to(top).as_posix() for p in top.glob(pattern) if p.is_file()}

    assert {name for name in there if locations.matches(pattern, name)} == found


# --- real servers -----------------------------------------------------------------------------------------------------


def test_bring_folder_that_nginx_lists_is_all_of_it(web: Web, tmp_path: Path) -> None:
    found = bring(f"{web[0]}/open/", tmp_path)

    assert sorted(found) == ["a.csv", "big.bin", "sub dir/deep/c.txt", "sub dir/ü #1?.csv"]
    assert found["big.bin"] == BIG
    assert found["sub dir/ü #1?.csv"] == b"open/sub dir/\xc3\xbc #1?.csv"


@pytest.mark.parametrize(
    ("path", "glob", "names"),
    [
        ("open", "*.csv", ["a.csv"]),
        ("open/", "*/*", ["sub dir/ü #1?.csv"]),
        ("open/sub*/**/*.txt", "*", ["sub dir/deep/c.txt"]),
        ("open/a.csv", "**/*", ["a.csv"]),
        ("silent/x.csv", "**/*", ["x.csv"]),
    ],
)
def test_bring_from_nginx_only_what_matches(web: Web, tmp_path: Path, path: str, glob: str, names: list[str]) -> None:
    assert sorted(bring(f"{web[0]}/{path}", tmp_path, glob)) == names


def test_bring_from_a_server_without_ranges_is_whole(web: Web, tmp_path: Path) -> None:
    with servers.plain(web[1] / "open") as address:
        found = bring(f"{address}/", tmp_path)

    assert sorted(found) == ["a.csv", "big.bin", "sub dir/deep/c.txt", "sub dir/ü #1?.csv"]
    assert found["big.bin"] == BIG


def test_bring_from_s3_is_as_from_http(endpoint: str, tmp_path: Path) -> None:
    found = bring("s3://bucket/open", tmp_path / "all", endpoint_url=endpoint)
    some = bring("s3://bucket/open/sub*/*.csv", tmp_path / "some", endpoint_url=endpoint)
    one = bring("s3://bucket/open/a.csv", tmp_path / "one", endpoint_url=endpoint)

    assert sorted(found) == ["a.csv", "big.bin", "sub dir/deep/c.txt", "sub dir/ü #1?.csv"]
    assert found["big.bin"] == BIG
    assert (list(some), list(one)) == (["sub dir/ü #1?.csv"], ["a.csv"])


def test_bring_what_a_list_of_digests_names_needs_no_listing(web: Web, tmp_path: Path) -> None:
    folder = web[1] / "silent"
    right, wrong = (hashlib.sha256(text).hexdigest() for text in (b"silent/x.csv", b"other"))
    (folder / "GOOD").write_text(f"{right}  ./x.csv\n")
    (folder / "BAD").write_text(f"{wrong} *x.csv\n")
    (folder / "NONE").write_text("x.csv\n")

    assert bring(f"{web[0]}/silent", tmp_path / "good", sums="GOOD") == {"x.csv": b"silent/x.csv"}
    with pytest.raises(UserError, match=f"sha256:{right}, and the list of digests says sha256:{wrong}"):
        bring(f"{web[0]}/silent", tmp_path / "bad", sums="BAD")
    assert not list((tmp_path / "bad").iterdir())
    with pytest.raises(UserError, match=r"line 1 of .*/silent/NONE is not a digest and a name"):
        bring(f"{web[0]}/silent", tmp_path / "none", sums="NONE")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("open/none.csv", "there is nothing at"),
        ("open/none/", "there is nothing at"),
        ("private/p.csv", "may not be read: ClientResponseError: 401"),
        ("silent/", "may not be read: ClientResponseError: 403"),
        ("open/*.parquet", r"no file matches \*.parquet"),
    ],
)
def test_bring_what_is_not_there_or_closed_is_said_at_once(web: Web, tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        bring(f"{web[0]}/{path}", tmp_path)


def test_bring_with_a_password_shows_it_nowhere(web: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    here = web[0].removeprefix("http://")

    assert bring(f"http://me:word@{here}/private/p.csv", tmp_path) == {"p.csv": b"private/p.csv"}
    with pytest.raises(UserError) as caught:
        bring(f"http://me:wrong@{here}/private/p.csv?token=abc", tmp_path)

    assert f"http://***@{here}/private/p.csv?*** may not be read" in str(caught.value)
    assert not [word for word in ("wrong", "abc") if word in str(caught.value) + caplog.text]


def test_bring_with_a_header_from_the_environment_is_let_in(web: Web, tmp_path: Path) -> None:
    """As the check advises those who write a password into an address."""
    secret = base64.b64encode(b"me:word").decode()
    env = {"PYTHONPATH": str(ROOT), "FSSPEC_HTTP": json.dumps({"headers": {"Authorization": f"Basic {secret}"}})}
    program = """
import sys
from pathlib import Path
from trainer.data import locations, transfer
where = locations.location(sys.argv[1], "*", {})
transfer.brought(where, locations.listed(where), Path(sys.argv[2]))
"""
    argv = [sys.executable, "-c", program, f"{web[0]}/private/", str(tmp_path)]

    subprocess.run(argv, env={**os.environ, **env}, check=True, timeout=60)

    assert [path.read_text() for path in tmp_path.iterdir()] == ["private/p.csv"]


@pytest.mark.parametrize("path", ["s3://bucket/none", "s3://nobodys/x"])
def test_bring_what_s3_does_not_have_is_said_at_once(endpoint: str, tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=f"there is nothing at {path}"):
        bring(path, tmp_path, endpoint_url=endpoint)


def test_bring_without_credentials_says_so(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(UserError, match=r"may not be read: NoCredentialsError[\s\S]*credentials in the environment"):
        bring("s3://bucket/open", tmp_path / "x", endpoint_url=endpoint)


def test_bring_from_nobody_says_how_often_it_was_tried(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"could not be read in 6 tries: ConnectionRefusedError[\s\S]*fairlead retry"):
        bring(f"http://127.0.0.1:{free_port()}/x", tmp_path)

    assert caplog.text.count("another try in") == 5


# --- lines that break -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goes_silent", [False, True])
def test_bring_over_a_line_that_breaks_goes_on_where_it_was(
    web: Web, tmp_path: Path, goes_silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if goes_silent:
        monkeypatch.setattr(patience, "SILENT_S", 5.0)
    before = len(servers.requests_of(web[2]))
    with closing(servers.Line(web[0], [2_000_000, 1_500_000], goes_silent)) as line:
        found = bring(f"{line.address}/open/big.bin", tmp_path)

    assert found == {"big.bin": BIG}
    assert line.broken == 2
    asked = servers.requests_of(web[2], before, '"GET /open/big.bin', count=3)
    assert sorted(" 206 " in row for row in asked) == [False, True, True]


def test_bring_over_a_line_that_breaks_from_a_server_without_ranges_begins_anew(web: Web, tmp_path: Path) -> None:
    with servers.plain(web[1] / "open") as address, closing(servers.Line(address, [10**9, 2_000_000])) as line:
        found = bring(f"{line.address}/big.bin", tmp_path)

    assert (found, line.broken) == ({"big.bin": BIG}, 1)


def test_bring_from_s3_over_a_line_that_breaks_is_whole(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PIECE", 1 << 20)
    with closing(servers.Line(endpoint, [500_000, 700_000])) as line:
        found = bring("s3://bucket/open/big.bin", tmp_path, endpoint_url=line.address)

    assert found == {"big.bin": BIG}
    assert line.broken >= 1


KILLED = """
import os, signal, sys
from pathlib import Path
from trainer.data import locations, transfer
transfer.PIECE = 1 << 20
where = locations.location(sys.argv[1], "**/*", {"endpoint_url": sys.argv[3]} if len(sys.argv) > 3 else {})
pieces, count = transfer._pieces, 0
def dying(*arguments):
    global count
    for piece in pieces(*arguments):
        yield piece
        count += 1
        if count == 3:
            os.kill(os.getpid(), signal.SIGKILL)
transfer._pieces = dying
transfer.brought(where, locations.listed(where), Path(sys.argv[2]))
"""


def test_bring_after_a_kill_goes_on_where_it_was(web: Web, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", KILLED, f"{web[0]}/open/big.bin", str(tmp_path)]
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False)
    (left,) = tmp_path.iterdir()
    size, before = left.stat().st_size, len(servers.requests_of(web[2]))

    found = bring(f"{web[0]}/open/big.bin", tmp_path)

    assert done.returncode == -signal.SIGKILL
    assert left.name == "big.bin.unfinished" and 0 < size < len(BIG)
    assert found == {"big.bin": BIG}
    (asked,) = servers.requests_of(web[2], before, '"GET /open/big.bin', count=1)
    assert f" 206 {len(BIG) - size} " in asked


def test_bring_file_that_changes_meanwhile_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "x.bin").write_bytes(BIG)
    where = locations.on_the_network(str(source), "*")
    listing = locations.listed(where)
    pieces = transfer._pieces

    def changing(where: Location, remote: locations.Remote, begin: int) -> Iterator[bytes | None]:
        for piece in pieces(where, remote, begin):
            (source / "x.bin").write_bytes(BIG[::-1])
            yield piece

    monkeypatch.setattr(transfer, "_pieces", changing)
    with pytest.raises(patience.Changed, match=r"x\.bin"):
        transfer.brought(where, listing, tmp_path / "copy")

    assert not list((tmp_path / "copy").iterdir())


@pytest.mark.parametrize("name", ["../x", "/x", "a//x", "a/../../x", ""])
def test_list_that_leads_out_of_the_folder_is_refused(tmp_path: Path, web: Web, name: str) -> None:
    (web[1] / "silent" / "OUT").write_text(f"{'0' * 64}  {name}\n" if name else f"{'0' * 64}  ./\n")

    with pytest.raises(UserError, match="would lie outside of its folder"):
        bring(f"{web[0]}/silent", tmp_path / "x", sums="OUT")
