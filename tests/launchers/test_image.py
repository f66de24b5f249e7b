"""The image store: names, one builder for all who ask, and what a build says when it cannot be."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import json
import os
import re
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launchers.apptainer import image, making
from launchers.errors import CommandError, SiteError, SpecError
from tests.conftest import Fakes
from tests.launchers.image_store import APPTAINER, BUILD, COMPLETE, Store, new_store


@pytest.fixture
def store(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Store:
    return new_store(tmp_path, fakes, monkeypatch)


def test_key_every_ingredient_changes_it_and_nothing_else_does() -> None:
    keys = [
        image.image_key("recipe", "lock", BUILD),
        image.image_key("recipe.", "lock", BUILD),
        image.image_key("recipe", "lock.", BUILD),
        image.image_key("recip", "elock", BUILD),
        *(
            image.image_key("recipe", "lock", dataclasses.replace(BUILD, **{name: value}))  # type: ignore[arg-type]
            for name, value in {"bootstrap": "docker", "base": "/other", "options": ()}.items()
        ),
    ]

    assert len(set(keys)) == len(keys)
    assert image.image_key("recipe", "lock", BUILD) == keys[0]
    # Written down: a change of how the key is made builds every image of every site anew.
    assert keys[0].startswith("09039138a205")


def test_same_image_of_two_stores_is_made_at_once_and_neither_takes_the_others_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPTAINER_TMPDIR", str(tmp_path))
    there: list[bool] = []

    def first(bench: making.Bench) -> None:
        making.make_once(tmp_path / "other" / "tiny.sif", print, lambda bench: there.append(bench.scratch.is_dir()))
        there.append(bench.scratch.is_dir())

    making.make_once(tmp_path / "mine" / "tiny.sif", print, first)

    assert there == [True, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other"]


def test_build_first_ask_builds_with_what_the_site_says(store: Store, fakes: Fakes) -> None:
    built = store.ask()

    version, build = fakes.calls("apptainer")
    assert version["argv"] == ["--version"]
    *options, made, definition = build["argv"]
    wheels = str(Path(made).parent / "wheels")
    assert options == [
        "build", "--fakeroot",
        "--build-arg", '"BOOTSTRAP=localimage"',
        "--build-arg", '"BASE=/bases/debian 12, slim"',
        "--build-arg", f'"WHEELS={wheels}"',
    ]  # fmt: skip
    assert definition == str(store.recipes / "small.def")
    assert built.path.parent == store.images and re.fullmatch(r"small-[0-9a-f]{12}\.sif", built.path.name)
    known = json.loads(Path(f"{built.path}.json").read_text())
    assert known["digest"] == built.digest and known["apptainer"] == "apptainer version 9.9"
    assert store.names() == COMPLETE


def test_build_second_ask_starts_nothing(store: Store, fakes: Fakes) -> None:
    first = store.ask()
    calls = len(fakes.calls("apptainer"))
    said: list[str] = []

    assert store.ask(said.append) == first
    assert len(fakes.calls("apptainer")) == calls and said == []


def test_build_recipe_that_uses_no_arguments_gets_none(store: Store, fakes: Fakes) -> None:
    (store.recipes / "small.def").write_text("Bootstrap: docker\nFrom: alpine\n")

    store.ask()

    assert "--build-arg" not in fakes.calls("apptainer")[1]["argv"]


def test_build_lock_is_downloaded_by_hash_for_the_images_python(
    store: Store, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = fakes.put("python", 'open(sys.argv[sys.argv.index("--dest") + 1] + "/a.whl", "w").close()\n')
    (store.recipes / "small.lock").write_text("a==1 --hash=sha256:00\n")
    keep = 'import shutil; shutil.copytree(os.path.dirname(made) + "/wheels", os.environ["SEEN"])\n'
    fakes.put("apptainer", APPTAINER + keep)
    monkeypatch.setenv("SEEN", str(store.recipes / "seen"))
    monkeypatch.setattr(sys, "executable", str(python))

    store.ask()

    (pip,) = fakes.calls("python")
    assert pip["argv"][:3] == ["-m", "pip", "download"]
    assert "--require-hashes" in pip["argv"]
    assert {"3.11", "cp311", "manylinux_2_28_x86_64"} <= set(pip["argv"])
    assert {p.name for p in (store.recipes / "seen").iterdir()} == {"a.whl", "requirements.lock"}
    assert store.names() == COMPLETE


def test_build_broken_off_fetches_no_wheel_again(
    store: Store, fakes: Fakes, monkeypatch: pytest.MonkeyPatch, index: tuple[Path, list[str]]
) -> None:
    """The second wheel is not there the first time."""
    folder, asked = index
    wheels = {name: _wheel(folder, name) for name in ("a", "b")}
    lock = "".join(f"{name}==1 --hash=sha256:{digest}\n" for name, digest in wheels.items())
    (store.recipes / "small.lock").write_text(lock)
    second = folder / "b-1-py3-none-any.whl"
    later = second.rename(store.recipes / "later")

    with pytest.raises(CommandError, match="404"):
        store.ask()
    later.rename(second)
    store.ask()

    assert [path[1] for path in asked if path.endswith(".whl")] == ["a", "b", "b"]
    assert [c["argv"][0] for c in fakes.calls("apptainer")] == ["--version", "--version", "build"]
    assert store.names() == COMPLETE


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, list[str]]]:
    """The folder of an index of a and b on loopback, which alone pip knows, and what was asked of it."""
    folder, asked = tmp_path / "index", list[str]()
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def end_headers(self) -> None:
            self.send_header("Cache-Control", "max-age=1000, immutable" if self.path.endswith(".whl") else "no-store")
            super().end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    (folder / "index.html").write_text("".join(f'<a href="{n}-1-py3-none-any.whl">x</a>' for n in ("a", "b")))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"  # trusted, because pip caches nothing else that comes without TLS
        known = {"FIND_LINKS": f"http://{host}/", "TRUSTED_HOST": host, "NO_INDEX": "1", "CONFIG_FILE": os.devnull}
        for name, value in known.items():
            monkeypatch.setenv(f"PIP_{name}", value)
        yield folder, asked
        server.shutdown()


def _wheel(folder: Path, name: str) -> str:
    """The digest of an empty package's wheel."""
    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(f"{name}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        made.writestr(f"{name}-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{name}-1.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_build_eight_ask_at_once_one_builds_and_the_others_are_told(store: Store, fakes: Fakes) -> None:
    asking = [store.start(TAKES_S="1.5") for _ in range(8)]
    ends = [p.communicate(timeout=60) for p in asking]

    assert [p.returncode for p in asking] == [0] * 8, ends
    assert len({said for said, _ in ends}) == 1
    assert [c["argv"][0] for c in fakes.calls("apptainer")] == ["--version", "build"]
    waiting = [told for _, told in ends if "is being made by" in told]
    assert waiting and all("; waiting" in told for told in waiting)
    assert store.names() == COMPLETE


def test_build_fails_shows_argv_status_last_lines_and_the_log(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOOD", "bad")

    with pytest.raises(CommandError) as e:
        store.ask()

    text = str(e.value)
    assert e.value.status == "exited with status 255" and e.value.argv[:3] == ("apptainer", "build", "--fakeroot")
    assert "line 39" in text and "line 20" not in text
    log = Path(text.rsplit("log: ", 1)[1])
    assert len(log.read_text().splitlines()) == 40
    assert store.names() == {"*.log", "*.lock"}

    monkeypatch.delenv("MOOD")
    store.ask()
    assert store.names() == COMPLETE


def test_build_without_apptainer_says_what_to_do(store: Store, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    (fakes.folder / "apptainer").unlink()
    fakes.alone(monkeypatch)

    with pytest.raises(CommandError, match=r"apptainer was not found[\s\S]*site\.apptainer"):
        store.ask()


def test_build_store_that_cannot_be_written_is_the_sites_problem(store: Store) -> None:
    store.images.write_text("a file, where a folder should be")

    with pytest.raises(SiteError, match=r"cannot be made[\s\S]*images_dir"):
        store.ask()


def test_recipe_unknown_names_the_nearest(store: Store) -> None:
    with pytest.raises(SpecError, match=r"no recipe 'smal'[\s\S]*did you mean small\?"):
        store.ask(recipe="smal")
