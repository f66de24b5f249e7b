"""Data in object stores (gs, az, and s3 where they share a fault), from real servers that ask who is there."""

from __future__ import annotations

import base64
import json
import os
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from azure.storage.blob import ContainerClient
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from safetensors.torch import load_file

from conf import locations as addresses
from conf.schema import Component
from tests.trainer import servers
from tests.trainer.ranks import Member, make_spec
from trainer.data import locations, node, patience, staging, transfer
from trainer.failure import UserError

NAMES = ("a.csv", "sub dir/ü #1?.csv", "sub dir/deep/c.txt")
BIG = os.urandom(6_000_000)
KEY, OTHER = (base64.b64encode(word * 8).decode() for word in (b"word", b"mine"))
Make = Callable[..., Member]


@dataclass(frozen=True)
class Store:
    """A server with a bucket."""

    bucket: str
    endpoint: str
    """Where it asks who is there."""
    put: Callable[[str, bytes], None]
    env: Mapping[str, str]
    """Of one who may read."""
    strangers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Of those who may not, by what they are told."""

    def behind(self, line: servers.Line) -> dict[str, str]:
        """The environment of a reader who gets there over a line."""
        host = f"http://{self.endpoint.split('/')[2]}"
        return {name: value.replace(host, line.address) for name, value in self.env.items()}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Other tries at once; no proxies, credentials or staged data of the machine's."""
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv(node.FOLDER, str(tmp_path_factory.mktemp("node") / "staged"))
    known = {name for names in addresses.VARIABLES.values() for name in names}
    for name in [n for n in os.environ if n.lower().endswith("_proxy") or n in known]:
        monkeypatch.delenv(name)


def service_account(folder: Path, key: str, token_uri: str) -> dict[str, str]:
    """What names an account's file; the account gets its tokens there."""
    path = folder / f"{token_uri.rpartition('/')[2]}-{len(list(folder.iterdir()))}.json"
    account = {"type": "service_account", "client_email": "me@lab", "project_id": "lab", "private_key": key}
    path.write_text(json.dumps({**account, "token_uri": token_uri}))
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}


@pytest.fixture(scope="module")
def private_key() -> str:
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(pem, pkcs8, serialization.NoEncryption()).decode()


@pytest.fixture(scope="module")
def gs(tmp_path_factory: pytest.TempPathFactory, private_key: str) -> Iterator[Store]:
    top = tmp_path_factory.mktemp("gs")
    with servers.gs(top / "nginx", "bucket") as (store, gate):

        def put(name: str, content: bytes) -> None:
            url = f"{store}/upload/storage/v1/b/bucket/o?uploadType=media&name={quote(name, safe='')}"
            with urllib.request.urlopen(urllib.request.Request(url, data=content, method="POST"), timeout=20):
                pass

        said = {"STORAGE_EMULATOR_HOST": gate}
        reader, other = (service_account(top, private_key, f"{gate}/token/{who}") for who in ("reader", "other"))
        strangers = {"HttpError: Anonymous caller, 401": said, "OSError: Forbidden: .*no access": {**said, **other}}
        yield filled(Store("gs://bucket", gate, put, {**said, **reader}, strangers))


@pytest.fixture(scope="module")
def az() -> Iterator[Store]:
    with servers.azure("me", KEY) as endpoint:
        connection = f"DefaultEndpointsProtocol=http;AccountName=me;AccountKey={KEY};BlobEndpoint={endpoint};"
        with ContainerClient.from_connection_string(connection, "bucket") as container:
            container.create_container()

            def put(name: str, content: bytes) -> None:
                container.upload_blob(name, content, overwrite=True)

            strangers = {
                "Must provide either a connection_string or account_name": {},
                "Connection string is either blank or malformed": told("dont-show-me"),
                "Server failed to authenticate the request": told(connection.replace(KEY, OTHER)),
                "Incorrect padding": told(connection.replace(KEY, "dont-show-me!")),
            }
            yield filled(Store("az://bucket", endpoint, put, told(connection), strangers))


def told(connection: str) -> dict[str, str]:
    return {"AZURE_STORAGE_CONNECTION_STRING": connection}


@pytest.fixture(scope="module")
def s3() -> Iterator[Store]:
    with servers.s3() as endpoint:

        def put(name: str, content: bytes) -> None:
            servers.put(endpoint, "bucket", quote(name), content)

        env = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "word", "AWS_ENDPOINT_URL": endpoint}
        yield filled(Store("s3://bucket", endpoint, put, env))


def filled(store: Store) -> Store:
    for name in NAMES:
        store.put(f"open/{name}", f"open/{name}".encode())
    store.put("open/big.bin", BIG)
    return store


@pytest.fixture
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The one that a test names, for one who may read there."""
    found: Store = request.getfixturevalue(request.param)
    for name, value in found.env.items():
        monkeypatch.setenv(name, value)
    return found


each = pytest.mark.parametrize("store", ["gs", "az"], indirect=True)
each_and_s3 = pytest.mark.parametrize("store", ["gs", "az", "s3"], indirect=True)


def bring(path: str, into: Path, **options: object) -> tuple[dict[str, bytes], int]:
    """What is on the disk afterwards, by name, and how many bytes were asked for."""
    where = locations.location(path, "**/*", options)
    digests, crossed = transfer.brought(where, locations.listed(where), into)
    found = {p.relative_to(into).as_posix(): p.read_bytes() for p in into.rglob("*") if p.is_file()}
    assert found.keys() == digests.keys()
    return found, crossed


# --- reading ----------------------------------------------------------------------------------------------------------


@each
def test_bring_from_store_is_as_from_http(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found, _ = bring(f"{store.bucket}/open", tmp_path / "all")
    some, _ = bring(f"{store.bucket}/open/sub*/*.csv", tmp_path / "some")
    one, _ = bring(f"{store.bucket}/open/a.csv", tmp_path / "one")

    assert found == {**{name: f"open/{name}".encode() for name in NAMES}, "big.bin": BIG}
    assert (list(some), list(one)) == (["sub dir/ü #1?.csv"], ["a.csv"])
    assert not [row for row in caplog.records if row.levelname in ("WARNING", "ERROR")]


@pytest.mark.parametrize("place", ["abfs://bucket", "abfss://bucket@me.dfs.core.windows.net"])
def test_bring_by_the_other_names_of_azures_protocol(
    az: Store, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in az.env.items():
        monkeypatch.setenv(name, value)

    assert list(bring(f"{place}/open/*.csv", tmp_path)[0]) == ["a.csv"]


def test_address_of_azures_may_say_whose_account_it_is_in() -> None:
    anybody = locations.location("abfs://bucket@me.blob.core.windows.net/open", "*", {"anon": True})
    other = locations.location("abfs://bucket@me.blob.core.windows.net/open", "*", {"account_name": "you"})

    assert (anybody.system.account_name, other.system.account_name) == ("me", "you")


@each
def test_bring_what_is_half_there_asks_for_the_other_half(store: Store, tmp_path: Path) -> None:
    (tmp_path / "big.bin.unfinished").write_bytes(BIG[:2_000_000])

    assert bring(f"{store.bucket}/open/big.bin", tmp_path) == ({"big.bin": BIG}, 4_000_000)


@each
def test_bring_from_store_over_a_line_that_breaks_is_whole(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PIECE", 1 << 20)
    with closing(servers.Line(store.endpoint.removesuffix("/me"), [500_000, 700_000])) as line:
        for name, value in store.behind(line).items():
            monkeypatch.setenv(name, value)
        found, _ = bring(f"{store.bucket}/open/big.bin", tmp_path)

    assert found == {"big.bin": BIG}
    assert line.broken >= 1


def test_bring_a_piece_may_take_longer_than_a_silence(gs: Store, tmp_path: Path, monkeypatch: Any) -> None:
    """A server is given up when it says nothing, and not because a line is slow."""
    monkeypatch.setattr(patience, "SILENT_S", 1.5)
    for name, value in {**gs.env, "STORAGE_EMULATOR_HOST": gs.endpoint.replace("127.0.0.1", "localhost")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(patience, "TRIES", 1)

    assert bring("gs://bucket/open/big.bin", tmp_path) == ({"big.bin": BIG}, len(BIG))


def test_bring_through_the_proxy_that_the_environment_names(
    gs: Store, tmp_path: Path, private_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = service_account(tmp_path, private_key, "http://store.invalid/token/reader")
    env = {"STORAGE_EMULATOR_HOST": "http://store.invalid", "http_proxy": gs.endpoint, **account}
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    assert list(bring("gs://bucket/open/a.csv", tmp_path / "x")[0]) == ["a.csv"]


# --- what is not as it was, or not there ------------------------------------------------------------------------------


@each_and_s3
def test_bring_object_that_changes_meanwhile_is_told_apart(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a client remembers of its listing."""
    store.put("changing/x.csv", b"before")
    where = locations.location(f"{store.bucket}/changing", "*.csv", {})
    listing = locations.listed(where)
    store.put("changing/x.csv", b"after!")

    with pytest.raises(patience.Changed, match=r"x\.csv"):
        transfer.brought(where, listing, tmp_path)

    assert not list(tmp_path.iterdir())


@each
def test_staged_objects_are_brought_once_and_again_when_one_has_changed(store: Store) -> None:
    store.put("staged/0.csv", b"x,kind\n1,0\n")
    store.put("staged/1.csv", b"x,kind\n1,1\n")
    data = Component(kind="table", options={"path": f"{store.bucket}/staged", "glob": "*.csv", "target": "kind"})
    spec = make_spec(data=data)

    first, second = (Path(staging.brought_alone(spec).options["path"]) for _ in range(2))
    store.put("staged/1.csv", b"x,kind\n2,1\n")
    third = Path(staging.brought_alone(spec).options["path"])

    assert first == second != third
    assert [(folder / "1.csv").read_text()[7:] for folder in (first, third)] == ["1,1\n", "2,1\n"]


@each
@pytest.mark.parametrize("path", ["bucket/none.csv", "bucket/none/", "nobucket/x"])
def test_bring_what_a_store_does_not_have_is_said_at_once(store: Store, tmp_path: Path, path: str) -> None:
    place = f"{addresses.protocol(store.bucket)}://{path}"

    with pytest.raises(UserError, match=f"there is nothing at {place}"):
        bring(place, tmp_path)


@pytest.mark.parametrize("name", ["gs", "az"])
def test_bring_without_the_right_credentials_says_so_at_once(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    store: Store = request.getfixturevalue(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for words, env in store.strangers.items():
        with monkeypatch.context() as here:
            for variable, value in env.items():
                here.setenv(variable, value)
            with pytest.raises(UserError, match=rf"may not be read: .*{words}[\s\S]*credentials in the env") as e:
                bring(f"{store.bucket}/open", tmp_path / "x")
        assert not [secret for secret in (KEY, OTHER, "dont-show-me") if secret in str(e.value) + caplog.text]

    assert "another try" not in caplog.text


# --- training ---------------------------------------------------------------------------------------------------------


def table(path: str) -> dict[str, Any]:
    data = Component(kind="table", options={"path": path, "glob": "*.csv", "target": "kind"})
    return {"data": data, "model": Component(kind="mlp"), "train": {"max_steps": 4, "batch_size": 4}}


@each
def test_data_from_a_store_train_as_those_on_the_disk(store: Store, member: Make, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    for number in range(3):
        rows = "".join(f"{i / 7:.3f},{(i + number) % 2}\n" for i in range(20))
        (folder / f"{number}.csv").write_text(f"x,kind\n{rows}")
        store.put(f"tables/{number}.csv", (folder / f"{number}.csv").read_bytes())
    ours, theirs = member("ours", **table(f"{store.bucket}/tables")), member("theirs", **table(str(folder)))

    for run in (ours, theirs):
        assert run.run() == [0], run.log()

    mine, his = (load_file(run.path / "model" / "model.safetensors") for run in (ours, theirs))
    assert all(mine[name].equal(his[name]) for name in his) and mine.keys() == his.keys()
    sources = [row["dataset"]["source"] for row in ours.lines("metrics.jsonl") if "dataset" in row]
    assert sources == [f"{store.bucket}/tables/*.csv"] * 2
    assert "data: brought 3 file(s)" in ours.log()
    written = b"".join(path.read_bytes() for path in ours.path.rglob("*") if path.is_file())
    assert KEY.encode() not in written and b"PRIVATE KEY" not in written


def test_run_without_credentials_ends_with_the_reason(member: Make) -> None:
    run = member(**table("az://bucket/tables"))

    assert run.run() == [1]

    error = json.loads((run.attempt / "rank-0.error.json").read_text())
    assert error["cause"] == "user_error"
    assert "credentials in the environment" in error["message"]
    assert "Traceback" not in run.log()
