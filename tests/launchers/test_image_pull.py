"""Images from a real registry on loopback, with a real Apptainer: digests, passwords, signatures, processors."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from conf import machine_schema, schema
from launchers import images
from launchers.apptainer import image, image_build, sif, waiting
from launchers.errors import SiteError, SpecError
from launchers.launch import Request
from launchers.run_folder.record import locked
from tests.conftest import ROOT
from tests.launchers.attempted import until
from tests.launchers.registries import PASSWORD, Registry
from tests.trainer.servers import Line

pytestmark = pytest.mark.apptainer
CANARY = "bGFiOmEgc2VjcmV0IHdvcmQ="  # both, as base64 has them


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Registry]:
    one = Registry(tmp_path / "private", private=True)
    try:
        yield one.start()
    finally:
        one.stop()


@dataclasses.dataclass
class Store:
    folder: Path
    site: schema.Site
    said: list[str]

    def get(self, name: str, **container: Any) -> image.BuiltImage:
        box = machine_schema.Container(runtime="apptainer", image=name, **container)
        return image_build.ensure_built(box, self.site, ROOT / "containers", self.folder, self.said.append)

    def pulls(self) -> int:
        return sum(1 for line in self.said if line.startswith("pulling"))

    def trusts(self, **site: Any) -> None:
        self.site = dataclasses.replace(self.site, **site)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Store(tmp_path / "images", schema.Site(name="here"), [])


def in_image(path: Path, *argv: str) -> str:
    words = ["apptainer", "--silent", "exec", "--contain", str(path), *argv]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout


def push_sif(path: Path, registry: Registry, name: str, *options: str) -> None:
    argv = ["apptainer", "push", "--no-https", *options, str(path), f"oras://{registry.host}/{name}"]
    subprocess.run(argv, capture_output=True, timeout=60, check=True)


def test_pull_tag_becomes_the_digest_and_is_pulled_once(store: Store, registry: Registry) -> None:
    digest = registry.push("lab/tiny", "1", "first")
    store.trusts(registry_http=(registry.host,))

    first = store.get(f"docker://{registry.host}/lab/tiny:1")
    again = store.get(f"docker://{registry.host}/lab/tiny:1")

    assert first == again and store.pulls() == 1
    assert first.workdir == "/app"
    assert first.source == f"docker://{registry.host}/lab/tiny@{digest}"
    assert first.path.name == f"tiny-{digest[7:19]}.sif"
    assert first.digest == sif.digest_of(first.path, fresh=True)
    assert in_image(first.path, "sh", "-c", "read word < /word || echo $word") == "first\n"
    left = {p.name.replace(first.path.name, "*") for p in store.folder.iterdir()}
    assert left == {"*", "*.json", "*.log", "*.lock", ".*.digest.json"}


def test_pull_tag_that_moved_is_another_image(store: Store, registry: Registry) -> None:
    store.trusts(registry_http=(registry.host,))
    name = f"docker://{registry.host}/lab/tiny:latest"
    pin = registry.push("lab/tiny", "latest", "first")
    first = store.get(name)
    registry.push("lab/tiny", "latest", "second")

    second = store.get(name)

    assert first.path != second.path and store.pulls() == 2
    assert store.get(name, digest=pin) == first and store.get(f"{name}@{pin}") == first and store.pulls() == 2


def test_pull_pinned_in_the_store_needs_no_registry(store: Store, registry: Registry) -> None:
    store.trusts(registry_http=(registry.host,))
    name = f"docker://{registry.host}/lab/tiny:1"
    pin = registry.push("lab/tiny", "1")
    first = store.get(name)
    registry.stop()

    assert store.get(name, digest=pin) == first
    with pytest.raises(SiteError, match=f"does not answer: [\\s\\S]*container.digest={pin}"):
        store.get(name)


def test_pull_oras_gives_the_very_sif(store: Store, registry: Registry) -> None:
    store.trusts(registry_http=(registry.host,))
    registry.push("lab/tiny", "1")
    made = store.get(f"docker://{registry.host}/lab/tiny:1")
    push_sif(made.path, registry, "lab/sif:2")

    with pytest.raises(SiteError, match=r"is a SIF, which docker:// cannot name[\s\S]*write oras://"):
        store.get(f"docker://{registry.host}/lab/sif:2")
    pulled = store.get(f"oras://{registry.host}/lab/sif:2")
    registry.push("lab/other", "1", "other")

    assert pulled.digest == made.digest and pulled.path != made.path
    with pytest.raises(SiteError, match="is no SIF, which oras:// cannot name"):
        store.get(f"oras://{registry.host}/lab/other:1")


def test_pull_oras_of_an_artifact_to_which_something_was_added_is_of_its_sif(store: Store, registry: Registry) -> None:
    store.trusts(registry_http=(registry.host,))
    registry.push("lab/tiny", "1")
    made = store.get(f"docker://{registry.host}/lab/tiny:1")
    registry.push_sif("lab/two", "1", made.path.read_bytes())

    assert store.get(f"oras://{registry.host}/lab/two:1").digest == made.digest


def test_pull_oras_goes_on_where_a_line_broke_and_where_it_was_killed(store: Store, registry: Registry) -> None:
    store.trusts(registry_http=(registry.host,))
    registry.push("lab/tiny", "1")
    made = store.get(f"docker://{registry.host}/lab/tiny:1")
    push_sif(made.path, registry, "lab/sif:2")
    size, whole = made.path.stat().st_size, 1 << 40
    lines = [Line(registry.host, [whole, whole, size // 3], goes_silent=silent) for silent in (False, True)]
    try:
        hosts = [line.address.removeprefix("http://") for line in lines]
        argv = [sys.executable, "-c", ASK, str(store.folder), hosts[1], "oras", "sif:2"]
        with subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}) as asking:
            until(lambda: lines[1].broken and sum(p.stat().st_size for p in store.folder.glob(".*.fetched/sif")) > 0)
            asking.kill()
        (part,) = store.folder.glob(".*.fetched/sif")
        had = part.stat().st_size

        store.trusts(registry_http=tuple(hosts))
        killed = store.get(f"oras://{hosts[1]}/lab/sif:2")
        killed.path.unlink()
        broken = store.get(f"oras://{hosts[0]}/lab/sif:2")
    finally:
        for line in lines:
            line.close()

    assert killed.digest == broken.digest == made.digest
    assert lines[0].broken == 1
    assert 0 < had < size // 3
    assert f"http.response.status=206 http.response.written={size - had}" in (registry.folder / "log").read_text()
    assert not list(store.folder.glob("*.fetched"))


ASK = """\
import sys
from pathlib import Path
from conf import machine_schema, schema
from launchers.apptainer import image_build
site = schema.Site(name="here", registry_http=(sys.argv[2],))
box = machine_schema.Container(runtime="apptainer", image=f"{sys.argv[3]}://{sys.argv[2]}/lab/{sys.argv[4]}")
print(image_build.ensure_built(box, site, Path("none"), Path(sys.argv[1]), lambda t: print(t, file=sys.stderr)).digest)
"""


def test_pull_six_ask_at_once_one_pulls(store: Store, registry: Registry) -> None:
    registry.push("lab/tiny", "1")
    argv = [sys.executable, "-c", ASK, str(store.folder), registry.host, "docker", "tiny:1"]
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    asking = [subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, **streams) for _ in range(6)]
    ends = [p.communicate(timeout=100) for p in asking]

    assert [p.returncode for p in asking] == [0] * 6, ends
    assert len({said for said, _ in ends}) == 1
    assert sum("pulling" in told for _, told in ends) == 1


def test_pull_password_comes_from_the_file_and_goes_nowhere(
    store: Store, private: Registry, fairlead: Callable[..., Any], workdir: Path
) -> None:
    private.push("lab/tiny", "1")
    name, place = f"docker://{private.host}/lab/tiny:1", private.credentials(store.folder.parent / "auth.json")
    store.trusts(registry_http=(private.host,))

    with pytest.raises(SiteError, match=r"refuses lab/tiny without credentials[\s\S]*site\.registry_auth"):
        store.get(name)
    plain = f"site.registry_http=['{private.host}']"
    words = ["job=command", "job.command=[sh,-c,'echo it runs']", "container.runtime=apptainer", "tracking=none"]
    words += [f"container.image='{name}'", f"site.images_dir={store.folder}", plain, f"site.registry_auth={place}"]
    done = fairlead("launch", *words)

    assert done.returncode == 0, done.stdout + done.stderr
    everything = [p for top in (store.folder, workdir) for p in top.rglob("*") if p.is_file()]
    assert any(p.name == "rank-0.log" and "it runs" in p.read_text() for p in everything)
    assert [p for p in everything for word in (PASSWORD, CANARY) if word.encode() in p.read_bytes()] == []
    assert PASSWORD not in done.stdout + done.stderr
    (spec,) = (json.loads(p.read_text()) for p in workdir.glob("runs/*/spec.json"))
    assert spec["pools"][0]["container"]["source"].startswith(f"docker://{private.host}/lab/tiny@sha256:")


def test_pull_oras_with_a_password(store: Store, private: Registry) -> None:
    place = private.credentials(store.folder.parent / "auth.json")
    store.trusts(registry_http=(private.host,), registry_auth=str(place))
    private.push("lab/tiny", "1")
    made = store.get(f"docker://{private.host}/lab/tiny:1")
    push_sif(made.path, private, "lab/sif:1", "--authfile", str(place))

    assert store.get(f"oras://{private.host}/lab/sif:1").digest == made.digest


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pem").write_bytes(secret)
    (folder / f"{name}.pub").write_bytes(public)
    return folder / f"{name}.pem", folder / f"{name}.pub"


def test_signature_is_asked_for_where_the_site_names_keys(store: Store, registry: Registry, tmp_path: Path) -> None:
    registry.push("lab/tiny", "1")
    store.trusts(registry_http=(registry.host,))
    made = store.get(f"docker://{registry.host}/lab/tiny:1")
    push_sif(made.path, registry, "lab/bare:1")
    secret, public = key_pair(tmp_path, "ours")
    argv = ["apptainer", "sign", "--key", str(secret), str(made.path)]
    subprocess.run(argv, capture_output=True, timeout=60, check=True)
    push_sif(made.path, registry, "lab/signed:1")
    store.trusts(image_keys=(str(key_pair(tmp_path, "others")[1]), str(public)))

    assert store.get(f"oras://{registry.host}/lab/signed:1").source is not None
    with pytest.raises(SiteError, match=r"signed by none of site\.image_keys .*signature not found"):
        store.get(f"oras://{registry.host}/lab/bare:1")
    with pytest.raises(SiteError, match="cannot carry the signature"):
        store.get(f"docker://{registry.host}/lab/tiny:1")
    store.trusts(image_keys=(str(tmp_path / "others.pub"),))
    with pytest.raises(SiteError, match="signed by none"):
        store.get(f"oras://{registry.host}/lab/signed:1")


def test_pull_takes_these_processors_out_of_an_index(store: Store, registry: Registry) -> None:
    store.trusts(registry_http=(registry.host,))
    ours, others = registry.push("lab/tiny", "a"), registry.push("lab/tiny", "b", "arm", architecture="arm64")
    index = registry.put_index("lab/tiny", "1", arm64=others, amd64=ours)
    registry.put_index("lab/tiny", "arm", arm64=others)

    built = store.get(f"docker://{registry.host}/lab/tiny:1", architecture="amd64")

    assert built.source == f"docker://{registry.host}/lab/tiny@{ours}"
    assert store.get(f"docker://{registry.host}/lab/tiny@{index}", architecture="amd64") == built
    with pytest.raises(SiteError, match="no image for amd64 processors, only for: arm64"):
        store.get(f"docker://{registry.host}/lab/tiny:arm", architecture="amd64")
    with pytest.raises(SiteError, match="is for arm64 processors, and has to run on amd64"):
        store.get(f"docker://{registry.host}/lab/tiny:b", architecture="amd64")
    foreign = store.get(f"docker://{registry.host}/lab/tiny:1", architecture="arm64")
    assert sif.architecture_of(foreign.path) == "arm64"
    with pytest.raises(SiteError, match="is for arm64 processors, and has to run on amd64"):
        sif.verify(foreign.path, None, "amd64")


def test_pull_what_is_not_there_names_it(store: Store, registry: Registry) -> None:
    store.trusts(registry_http=(registry.host,))
    for name in ("lab/none:1", f"lab/none@sha256:{'0' * 64}"):
        with pytest.raises(SiteError, match="has no image lab/none"):
            store.get(f"docker://{registry.host}/{name}")
    store.trusts(registry_http=())
    with pytest.raises(SiteError, match=r"does not answer[\s\S]*site\.registry_http"):
        store.get(f"docker://{registry.host}/lab/tiny:1")


def test_pull_that_fails_leaves_its_log_and_what_was_fetched(store: Store, registry: Registry) -> None:
    store.trusts(registry_http=(registry.host,))
    registry.push("lab/tiny", "1")
    blobs = registry.folder / "data/docker/registry/v2/blobs/sha256"
    (layer,) = (path for path in blobs.rglob("data") if path.stat().st_size > 100_000)
    layer.rename(registry.folder / "away")

    with pytest.raises(SiteError, match=r"pull --no-https[\s\S]*read the whole log"):
        store.get(f"docker://{registry.host}/lab/tiny:1")
    left = {p.name.partition(".sif")[2] for p in store.folder.iterdir()}
    (registry.folder / "away").rename(layer)

    assert left == {".lock", ".log", ".fetched"}
    assert store.get(f"docker://{registry.host}/lab/tiny:1").path.exists()
    assert not list(store.folder.glob("*.fetched"))


def test_progress_says_how_much_has_come_and_what_a_build_is_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SAY_S", 0)
    (tmp_path / "blob").mkdir()
    (tmp_path / "blob" / "a").write_bytes(bytes(3_000_000))
    log = tmp_path / "log"
    log.write_bytes(b"INFO:    Starting build...\n\x1b[33mUnpacking numpy\x1b[0m 10%\rUnpacking numpy 20%\n\n")
    said: list[str] = []

    waiting.bytes_come(tmp_path / "blob", 12_000_000, said.append)()
    waiting.lines_come(log, said.append)()

    assert said == ["fetched 3 MB of 12 MB", "0:00  Unpacking numpy 20%"]


def test_check_and_plan_name_the_image_before_it_is_pulled(
    store: Store, registry: Registry, fairlead: Callable[..., Any]
) -> None:
    digest = registry.push("lab/tiny", "1")
    words = ["job=command", "job.command=[sh]", "container.runtime=apptainer", "tracking=none"]
    words += [f"site.images_dir={store.folder}", f"site.registry_http=['{registry.host}']"]

    good = fairlead("check", *words, f"container.image='docker://{registry.host}/lab/tiny:1'")
    bad = fairlead("check", *words, f"container.image='docker://{registry.host}/lab/tiny:2'")
    shown = fairlead("plan", *words, f"container.image='docker://{registry.host}/lab/tiny:1'")

    assert good.returncode == 0 and f"lab/tiny@{digest}" in good.stdout, good.stdout + good.stderr
    assert bad.returncode == 3 and "has no image lab/tiny:2" in bad.stdout
    assert f"docker://{registry.host}/lab/tiny:1\ndigest: taken at launch" in shown.stdout
    assert not store.folder.exists()


def test_prune_removes_what_nobody_names(
    store: Store, registry: Registry, fairlead: Callable[..., Any], workdir: Path
) -> None:
    base = (f"site.images_dir={store.folder}", f"site.registry_http=['{registry.host}']")
    for tag in ("run", "option", "nobody"):
        registry.push("lab/tiny", tag, tag)
    store.trusts(registry_http=(registry.host,))
    got = {tag: store.get(f"docker://{registry.host}/lab/tiny:{tag}").path for tag in ("run", "option", "nobody")}
    words = ["job=command", "job.command=[sh,-c,'exit 0']", "container.runtime=apptainer", "tracking=none", *base]
    assert fairlead("launch", *words, f"container.image='docker://{registry.host}/lab/tiny:run'").returncode == 0
    option = workdir / "mine" / "container" / "lab.yaml"
    option.parent.mkdir(parents=True)
    option.write_text(f"runtime: apptainer\nimage: docker://{registry.host}/lab/tiny:option\n")
    request = Request(overrides=base, config_dirs=(workdir / "mine",))

    dry = images.prune(request, really=False)
    assert {e.path: e.kept for e in dry.entries} == {
        got["run"]: next(p.name for p in (workdir / "runs").iterdir()),
        got["option"]: "container=lab",
        got["nobody"]: "",
    }
    assert got["nobody"].exists() and dry.freed > 1_000_000
    with locked(got["nobody"].with_name(f"{got['nobody'].name}.lock")):
        assert {e.kept for e in images.prune(request, really=True).entries if e.path == got["nobody"]} == {"being made"}
    images.prune(request, really=True)

    assert [path.exists() for path in got.values()] == [True, True, False]
    assert [p.name for p in store.folder.glob(f"*{got['nobody'].name}*")] == [f"{got['nobody'].name}.lock"]
    assert [e.path for e in images.prune(request, really=False).entries if not e.kept] == []


def test_image_verbs_name_each_other(workdir: Path) -> None:
    def act(action: str, name: str) -> None:
        images.act(action, name, Request(overrides=()), lambda _: None)

    with pytest.raises(SpecError, match=r"names no registry[\s\S]*fairlead image build pytorch-cpu"):
        act("pull", "pytorch-cpu")
    with pytest.raises(SpecError, match=r"has no recipe, but an image[\s\S]*fairlead image pull docker://a/b:1"):
        act("build", "docker://a/b:1")
