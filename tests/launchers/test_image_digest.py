"""Images that are there: their digests, and what lists and verifies them."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from launchers import images
from launchers.apptainer import image
from launchers.apptainer.sif import digest_of, verify
from launchers.errors import SiteError, SpecError
from launchers.launch import Request
from launchers.show import image_text
from tests.conftest import Fakes
from tests.launchers.image_store import Store, new_store


@pytest.fixture
def store(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Store:
    return new_store(tmp_path, fakes, monkeypatch)


def test_image_given_by_path_only_gets_its_digest(store: Store, sif: Path, fakes: Fakes) -> None:
    built = store.ask(image=str(sif))

    assert built == image.BuiltImage(sif, digest_of(sif))
    assert re.fullmatch("sha256:[0-9a-f]{64}", built.digest)
    assert fakes.calls("apptainer") == [] and not store.images.exists()


def test_image_given_by_path_another_digest_than_expected_is_refused(store: Store, sif: Path) -> None:
    with pytest.raises(SiteError) as e:
        store.ask(image=str(sif), digest="sha256:" + "0" * 64)

    what, where, do = str(e.value).splitlines()
    assert digest_of(sif) in what and "sha256:" + "0" * 64 in what
    assert str(sif) in where and do.startswith("  do ")


def test_verify_what_is_no_sif_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("hello, I am not an image at all, however long I am")
    (tmp_path / "short").write_bytes(b"\x7fELF")
    reasons = {"missing": "there is no image", "folder": "is a folder", "text": "is not a SIF", "short": "is not a SIF"}

    for name, reason in reasons.items():
        with pytest.raises(SiteError, match=reason) as e:
            verify(tmp_path / name, None)
        assert len(str(e.value).splitlines()) == 3


def test_digest_is_remembered_until_the_file_changes(sif: Path) -> None:
    first = digest_of(sif)
    stat = sif.stat()
    with sif.open("r+b") as f:  # behind the clock's back
        f.seek(60)
        f.write(b"x")
    os.utime(sif, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    assert digest_of(sif) == first
    assert digest_of(sif, fresh=True) != first
    os.utime(sif, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert digest_of(sif) == digest_of(sif, fresh=True)


@pytest.mark.parametrize("rubbish", ["", "[]", "null", '{"digest": "sha256:0"}', '{"size": [1]}', "\x00"])
def test_digest_rubbish_in_the_cache_is_not_believed(sif: Path, rubbish: str) -> None:
    true = digest_of(sif)
    (sif.parent / f".{sif.name}.digest.json").write_text(rubbish)

    assert digest_of(sif) == true


def test_changed_image_is_refused_by_ask(store: Store) -> None:
    built = store.ask()
    with built.path.open("ab") as f:
        f.write(b"one byte more")

    with pytest.raises(SiteError, match=f"expected {built.digest}"):
        store.ask()


def test_list_images_gives_plain_rows(store: Store, sif: Path) -> None:
    built = store.ask()
    shutil.copy(sif, store.images / "foreign.sif")

    foreign, small = image.list_images(store.images)

    assert (foreign["name"], foreign["recipe"], foreign["digest"]) == ("foreign.sif", None, None)
    assert foreign["size"] == sif.stat().st_size
    assert (small["recipe"], small["digest"], small["path"]) == ("small", built.digest, str(built.path))
    assert json.loads(json.dumps(small)) == small
    assert all("foreign.sif" in line or "small-" in line for line in image_text([foreign, small]))


def act(action: str, name: str | None, *overrides: str) -> list[dict[str, Any]]:
    return images.act(action, name, Request(overrides=overrides), lambda _: None)


def test_image_list_of_an_empty_store_is_empty(workdir: Path) -> None:
    assert act("list", None, f"site.images_dir={workdir}/none") == []
    assert act("list", "pytorch-cpu", f"site.images_dir={workdir}/none") == []


def test_image_list_of_an_unknown_recipe_names_the_known(workdir: Path) -> None:
    with pytest.raises(SpecError, match=r"no recipe 'pytorch-cpuu'[\s\S]*did you mean pytorch-cpu\?"):
        act("list", "pytorch-cpuu")


def test_image_name_with_an_equals_sign_is_an_override(store: Store, workdir: Path) -> None:
    store.ask()

    (row,) = act("list", f"site.images_dir={store.images}")

    assert row["recipe"] == "small"
    assert act("list", "small", f"site.images_dir={store.images}") == [row]
    assert act("list", f"site.images_dir={store.images}", "small") == [row]
    with pytest.raises(SpecError, match="image build needs a name"):
        act("build", f"site.images_dir={store.images}")


def test_image_verify_reads_every_byte(store: Store, sif: Path, workdir: Path) -> None:
    chosen = (f"container.image={sif}", f"container.digest={digest_of(sif)}")
    stat = sif.stat()

    assert act("verify", "pytorch-cuda", *chosen)[0]["digest"] == chosen[1].partition("=")[2]
    with sif.open("r+b") as f:
        f.seek(60)
        f.write(b"x")
    os.utime(sif, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(SiteError, match="has digest"):
        act("verify", "pytorch-cuda", *chosen)
