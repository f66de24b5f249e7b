"""Data at an address, or on a disk that nodes share, come to the node once: real ranks, real servers."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.schema import Component, Staging
from tests.trainer import servers
from tests.trainer.ranks import Member, assert_same
from trainer.data import locations, node, patience, staging, transfer
from trainer.insight.heartbeat import Beat
from trainer.insight.spool import Ledger
from trainer.parallel.group import Group

Make = Callable[..., Member]
ALONE = Group(0, 1)


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy of the machine's; a node's folder of the test's own."""
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(node.FOLDER, str(tmp_path / "staged"))


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Three files of a table, and another."""
    folder = tmp_path / "files" / "tables"
    folder.mkdir(parents=True)
    for number in range(3):
        numbers = np.random.default_rng(number).random((20, 2)).round(3).tolist()
        rows = [f"{x},{y},{int(x > y)}" for x, y in numbers]
        (folder / f"{number}.csv").write_text("\n".join(["x,y,kind", *rows, ""]))
    (folder / "notes.txt").write_text("other")
    return folder


@pytest.fixture
def web(tables: Path, tmp_path: Path) -> Iterator[str]:
    with servers.nginx(tables.parent, tmp_path / "nginx") as address:
        yield address


def table(path: object) -> dict[str, Any]:
    data = Component(kind="table", options={"path": str(path), "glob": "*.csv", "target": "kind"})
    return {"data": data, "model": Component(kind="mlp"), "train": {"max_steps": 4, "batch_size": 4}}


def fetched(tmp_path: Path) -> list[str]:
    """Files that nginx was asked to send."""
    rows = servers.requests_of(tmp_path / "nginx", wanted='"GET /tables/', count=0)
    return sorted(name for row in rows if (name := row.split('"')[1].split()[1].rpartition("/")[2]))


def test_members_at_once_of_several_ranks_bring_each_file_once(
    member: Make, web: str, tables: Path, tmp_path: Path
) -> None:
    changes, elsewhere = table(f"{web}/tables"), table(tables)
    pair = [member(name, ranks=2, **table(f"{web}/tables")) for name in ("one", "two")]
    there = member("there", ranks=2, **elsewhere)
    for run in (*pair, there):
        run.start()

    for run in (*pair, there):
        assert run.wait() == [0, 0], run.log()

    assert fetched(tmp_path) == ["0.csv", "1.csv", "2.csv"]
    logs = "".join(run.log() for run in pair)
    assert logs.count("data: brought 3 file(s), 0.0 MB in") + logs.count("0.0 MB, on the node already") == 2
    for run in pair:
        assert_same(run, there)
        rows = run.lines("metrics.jsonl")
        sources = [row["dataset"]["source"] for row in rows if "dataset" in row]
        assert sources == [f"{web}/tables/*.csv"] * 2
        names = [line["event"] for line in run.lines("ledger.jsonl")]
        begin = names.index("staging_begin")
        assert names[begin - 1 : begin + 3] == ["rendezvous_done", "staging_begin", "staging_end", "data_ready"]
        (seen,) = [row["metrics"] for row in rows if "data/staged_mb" in row.get("metrics", {})]
        assert seen["data/staged_mb"] == pytest.approx(sum(path.stat().st_size for path in tables.glob("*.csv")) / 1e6)
    assert "staging" not in there.log()
    again = member("again", **changes)
    assert again.run() == [0], again.log()
    assert "data: 3 file(s), 0.0 MB, on the node already" in again.log()
    assert fetched(tmp_path) == ["0.csv", "1.csv", "2.csv"]


def test_data_from_s3_train_as_those_on_the_disk(member: Make, tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "dont-show-me")
    with servers.s3() as endpoint:
        for path in tables.iterdir():
            servers.put(endpoint, "bucket", f"some/{path.name}", path.read_bytes())
        ours = member("s3", **table("s3://bucket/some"), staging=Staging(options={"endpoint_url": endpoint}))
        theirs = member("disk", **table(tables))
        for run in (ours, theirs):
            assert run.run() == [0], run.log()

    assert_same(ours, theirs)
    written = [path.read_bytes() for path in ours.path.rglob("*") if path.is_file()]
    assert written and not [content for content in written if b"dont-show-me" in content]


def test_copy_that_was_damaged_is_made_again_and_trains_the_same(member: Make, tables: Path, tmp_path: Path) -> None:
    first, second = (member(name, **table(tables), staging=Staging(copy=True)) for name in ("first", "second"))
    assert first.run() == [0], first.log()
    (copy,) = (tmp_path / "staged").glob("*/files/tables/1.csv")
    copy.write_bytes(bytes(copy.stat().st_size))

    assert second.run() == [0], second.log()

    assert copy.read_bytes() == (tables / "1.csv").read_bytes()
    assert not list((tmp_path / "staged").glob("*/files/tables/notes.txt"))
    assert "data: brought 3 file(s)" in second.log()
    assert_same(first, second)


def test_copy_to_a_disk_that_is_too_small_is_the_sites(member: Make, tables: Path, tmp_path: Path) -> None:
    (tables / "3.csv").write_bytes(bytes(3_000_000))
    disk = tmp_path / "staged"
    disk.mkdir(mode=0o700)
    run = member(**table(tables), staging=Staging(copy=True))
    run.env = {node.MOST_GB: "1"}

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(disk)], check=True)
    try:
        assert run.run() == [1]
    finally:
        subprocess.run(["umount", str(disk)], check=True)

    error = json.loads((run.attempt / "rank-0.error.json").read_text())
    assert error["cause"] == "site"
    assert "staged data need" in error["message"]


def test_address_where_nothing_is_ends_all_ranks_with_the_reason(member: Make, web: str) -> None:
    run = member(ranks=2, **table(f"{web}/none/"))

    assert run.run() == [1, 1]

    errors = [json.loads((run.attempt / f"rank-{rank}.error.json").read_text()) for rank in range(2)]
    assert f"there is nothing at {web}/none/" in errors[0]["message"]
    assert [error["cause"] for error in errors] == ["user_error", "rendezvous"]
    assert "Traceback" not in run.log()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_rank_that_ends_while_data_are_brought_goes_on_where_it_was(
    member: Make, web: str, tables: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """The line falls silent after 2 of 6 MB; told to leave, nobody waits for it."""
    rows = "".join(f"{i / 7:.6f},{i / 3:.6f},{i % 2}\n" for i in range(250_000))
    (tables / "0.csv").write_text(f"x,y,kind\n{rows}")
    with closing(servers.Line(web, [2_000_000], goes_silent=True)) as line:
        run = member(**table(f"{line.address}/tables/0.csv"))
        (process,) = run.start()
        deadline = time.monotonic() + 150
        unfinished = "staged/*.part/files/0.csv.unfinished"
        while not line.broken or not any(path.stat().st_size for path in tmp_path.glob(unfinished)):
            assert time.monotonic() < deadline and process.poll() is None, run.log()
            time.sleep(0.05)
        process.send_signal(number)
        assert run.wait() == [code], run.log()
        (left,) = (tmp_path / "staged").glob("*.part/files/0.csv.unfinished")
        size = left.stat().st_size

        assert run.run() == [0], run.log()

    assert size > 0
    asked = servers.requests_of(tmp_path / "nginx", wanted='"GET /tables/0.csv', count=2)
    assert [row for row in asked if f" 206 {(tables / '0.csv').stat().st_size - size} " in row]


# --- what changes while it is brought ------------------------------------------------------------------------------


def changing(tables: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The first file is written anew so many times, each while it is being read."""
    pieces, left = transfer._pieces, list(range(times))

    def read(where: locations.Location, remote: locations.Remote, begin: int) -> Iterator[bytes | None]:
        for piece in pieces(where, remote, begin):
            if remote.name == "0.csv" and left:
                (tables / "0.csv").write_text("x,y,kind\n" + "1,2,0\n" * left.pop())
            yield piece

    monkeypatch.setattr(transfer, "_pieces", read)


def spec_of(member: Make, tables: Path) -> Any:
    return dataclasses.replace(member(**table(tables)).spec, staging=Staging(copy=True))


def test_files_that_change_while_they_are_brought_are_listed_again(
    member: Make, tables: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changing(tables, monkeypatch, times=2)

    component, done = staging.brought(spec_of(member, tables), ALONE, Ledger(None, Beat(None)))

    assert done.files == 3
    copies = {path.name: path.read_bytes() for path in Path(component.options["path"]).iterdir()}
    assert copies == {path.name: path.read_bytes() for path in tables.glob("*.csv")}


def test_files_that_never_stop_changing_are_given_up(
    member: Make, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing(tables, monkeypatch, times=9)
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.0)

    with pytest.raises(staging.UserError, match="changed 3 times while it was brought"):
        staging.brought(spec_of(member, tables), ALONE, Ledger(None, Beat(None)))
