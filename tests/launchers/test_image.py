"""The image store: names, one builder, kills at any moment, digests; and one real build with a real Apptainer."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conf import machine_schema, schema
from launchers import images
from launchers.apptainer import image, image_build
from launchers.apptainer.sif import digest_of, verify
from launchers.errors import CommandError, SiteError, SpecError
from launchers.launch import Request
from launchers.show import image_text
from tests.conftest import ROOT, Fakes

RECIPES = ROOT / "containers"
BUILD = schema.ImageBuild(bootstrap="localimage", base="/bases/debian 12, slim", options=("--fakeroot",))

RECIPE = """\
Bootstrap: {{ BOOTSTRAP }}
From: {{ BASE }}
%files
    "{{ WHEELS }}" /wheels
"""

# What `apptainer build [options] IMAGE RECIPE` does to files, in three moods.
APPTAINER = """
import time
if sys.argv[1] == "--version":
    print("apptainer version 9.9")
    sys.exit()
mood = os.environ.get("MOOD", "good")
made = sys.argv[-2]
if mood == "bad":
    print("\\n".join(f"line {n}" for n in range(40)))
    sys.exit(255)
if mood == "slow":
    open(made, "wb").write(b"half")
    open(os.environ["STARTED"], "w").write(str(os.getpid()))
    while os.path.exists(os.environ["STARTED"]):
        time.sleep(0.05)
time.sleep(float(os.environ.get("TAKES_S", "0")))
open(made, "wb").write(b"#!/usr/bin/env run-singularity\\n\\0SIF_MAGIC\\0" + os.urandom(64))
"""

ASK = """\
import sys
from pathlib import Path
from conf import machine_schema, schema
from launchers.apptainer import image_build
site = schema.Site(name="here", image_build=schema.ImageBuild(bootstrap="localimage", base="/bases/debian 12, slim",
                                                              options=("--fakeroot",)))
box = machine_schema.Container(runtime="apptainer", recipe="small")
say = lambda text: print(text, file=sys.stderr)
built = image_build.ensure_built(box, site, Path(sys.argv[1]), Path(sys.argv[2]), say)
print(built.digest, built.path)
"""


@dataclasses.dataclass(frozen=True)
class Store:
    """A recipe of ours, the folder of its images, and how to ask for one, here or in a process of its own."""

    recipes: Path
    images: Path

    def ask(self, progress: Callable[[str], None] = lambda _: None, **container: Any) -> image.BuiltImage:
        box = machine_schema.Container(runtime="apptainer", **(container or {"recipe": "small"}))
        return image_build.ensure_built(
            box, schema.Site(name="here", image_build=BUILD), self.recipes, self.images, progress
        )

    def start(self, **env: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", ASK, str(self.recipes), str(self.images)]
        streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(ROOT), **env}, **streams)

    def names(self) -> set[str]:
        """What lies in the store: `*` stands for the image's name."""
        name = next(p.name for p in self.images.glob("*.lock")).removesuffix(".lock")
        return {p.name.replace(name, "*") for p in self.images.iterdir()}


@pytest.fixture
def store(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Store:
    fakes.put("apptainer", APPTAINER)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "small.def").write_text(RECIPE)
    (tmp_path / "local").mkdir()
    monkeypatch.setenv("APPTAINER_TMPDIR", str(tmp_path / "local"))
    return Store(tmp_path / "recipes", tmp_path / "images")


COMPLETE = {"*", "*.json", "*.log", "*.lock", ".*.digest.json"}


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
    python = fakes.put("python", 'open(sys.argv[-1] + "/a.whl", "w").close()\n')
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


def test_build_eight_ask_at_once_one_builds_and_the_others_are_told(store: Store, fakes: Fakes) -> None:
    asking = [store.start(TAKES_S="1.5") for _ in range(8)]
    ends = [p.communicate(timeout=60) for p in asking]

    assert [p.returncode for p in asking] == [0] * 8, ends
    assert len({said for said, _ in ends}) == 1
    assert [c["argv"][0] for c in fakes.calls("apptainer")] == ["--version", "build"]
    waiting = [told for _, told in ends if "is being made by" in told]
    assert waiting and all("; waiting" in told for told in waiting)
    assert store.names() == COMPLETE


def test_build_killed_in_the_middle_the_next_ask_starts_clean(store: Store, tmp_path: Path) -> None:
    started = tmp_path / "started"
    first = store.start(MOOD="slow", STARTED=str(started))
    _until(lambda: started.exists() and started.read_text() != "")
    first.kill()
    first.communicate(timeout=60)

    built = store.ask()  # while the first one's Apptainer still runs

    orphan = int(started.read_text())
    started.unlink()
    _until(lambda: _ended(orphan))
    verify(built.path, built.digest, fresh=True)
    assert store.names() == COMPLETE
    assert list((tmp_path / "local").iterdir()) == []


def test_build_killed_at_any_line_the_next_ask_gives_a_whole_image(store: Store, fakes: Fakes, tmp_path: Path) -> None:
    quick = '#!/bin/sh\nfor a; do made=$before; before=$a; done\n[ "$1" = --version ] || cp "$SIF" "$made"\n'
    (fakes.folder / "apptainer").write_text(quick)
    sif = tmp_path / "some.sif"
    sif.write_bytes(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0" + bytes(64))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SIF": str(sif), "SCRATCH": str(tmp_path / "local")}

    argv = [sys.executable, "-c", KILLED_AT_EACH_LINE, str(store.recipes), str(store.images)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80  # lines at which it was killed


# Forks a child for each line of ours that a build runs through; the child dies there without another word.
KILLED_AT_EACH_LINE = """\
import os, shutil, sys
from pathlib import Path
from conf import machine_schema, schema
from launchers.apptainer import image, image_build, making, sif
recipes, images = Path(sys.argv[1]), Path(sys.argv[2])
os.fsync = lambda fd: None
box = machine_schema.Container(runtime="apptainer", recipe="small")
site = schema.Site(name="here")

def ask():
    return image_build.ensure_built(box, site, recipes, images)

def die_after(lines):
    left = [lines]
    def trace(frame, event, arg):
        if frame.f_code.co_filename not in (image.__file__, image_build.__file__, making.__file__, sif.__file__):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
        return trace
    sys.settrace(trace)

lines = 0
while True:
    shutil.rmtree(images, ignore_errors=True)
    child = os.fork()
    if child == 0:
        die_after(lines)
        ask()
        sys.settrace(None)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for path in images.glob("*.sif"):  # its presence implies the right digest
        known = image.list_images(images)[0]["digest"]
        sif.verify(path, known, fresh=True)
        assert known is not None
    built = ask()
    sif.verify(built.path, built.digest, fresh=True)
    left = {p.name.replace(built.path.name, "*") for p in images.iterdir()}
    assert left - {".*.holder"} == {"*", "*.json", "*.log", "*.lock", ".*.digest.json"}, (lines, left)
    assert os.listdir(os.environ["SCRATCH"]) == [], lines
    if status == 0:
        break
    assert status == 9, status
    lines += 1
print(lines)
"""


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


@pytest.mark.parametrize("recipe", sorted(p.with_suffix(".def") for p in RECIPES.glob("*.lock")), ids=lambda p: p.stem)
def test_lock_every_requirement_is_exact_and_hashed(recipe: Path) -> None:
    lines = recipe.with_suffix(".lock").read_text().replace("\\\n", " ").splitlines()
    requirements = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]

    assert requirements
    assert [r for r in requirements if not re.fullmatch(r"[a-z0-9-]+==[^\s]+( +--hash=sha256:[0-9a-f]{64})+", r)] == []
    assert "://" not in recipe.read_text() + recipe.with_suffix(".lock").read_text()


@pytest.fixture
def base() -> Iterator[Path]:
    """A base root file system with Python, made once per machine."""
    path = Path(os.environ.get("FAIRLEAD_TEST_BASE", "/tmp/fairlead-test-base"))
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer: run `make test` as root on Debian")
    if not path.is_dir():
        if os.getuid() != 0 or shutil.which("mmdebstrap") is None:
            pytest.skip("needs a base root file system: set FAIRLEAD_TEST_BASE, or run `make test` as root on Debian")
        subprocess.run([str(ROOT / "tests/testbed/testbed"), "base", str(path)], check=True, timeout=900)
    yield path


@pytest.mark.apptainer
@pytest.mark.timeout(1500)
def test_real_build_runs_torch_for_cpus_and_nothing_of_cuda(base: Path) -> None:
    images = Path(os.environ.get("FAIRLEAD_TEST_IMAGES", "/tmp/fairlead-test-images"))
    build = schema.ImageBuild(bootstrap="localimage", base=str(base), options=("--fakeroot",))
    box = machine_schema.Container(runtime="apptainer", recipe="pytorch-cpu")

    built = image_build.ensure_built(box, schema.Site(name="here", image_build=build), RECIPES, images)

    program = (
        "import json, numpy, psutil, safetensors, sklearn, torch;"
        "from importlib.metadata import distributions as all;"
        "print(json.dumps([torch.__version__, torch.version.cuda, torch.eye(3).sum().item(),"
        " sorted(d.name.lower() for d in all())]))"
    )
    argv = ["apptainer", "exec", "--containall", "--cleanenv", str(built.path), "python3", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    version, cuda, total, packages = json.loads(done.stdout)
    assert (cuda, total) == (None, 3.0)
    assert f"torch=={version} " in (RECIPES / "pytorch-cpu.lock").read_text()
    unwanted = ("nvidia", "triton", "mlflow", "hydra", "submitit", "optuna")
    assert [p for p in packages if p.startswith(unwanted)] == []
    assert [row["digest"] for row in image.list_images(built.path.parent) if row["name"] == built.path.name] == [
        built.digest
    ]


def _until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True
