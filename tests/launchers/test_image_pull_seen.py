"""What a person sees of an image that comes slowly from a registry: how much of it there is, and nothing else."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.launchers.registries import Registry
from tests.launchers.test_image_pull import in_image, push_sif
from tests.terminal import Terminal
from tests.trainer.servers import Line

pytestmark = pytest.mark.apptainer
SIZE_MB = 6
"""At least."""
OFTEN = """
import sys
from launchers.apptainer import waiting
waiting.SAY_S = 0.2
from launchers import cli
sys.exit(cli.main(sys.argv[1:]))
"""
"""The command, which says more often how far it is."""
FETCHED = re.compile(r"fetched (\d+) (MB|kB) of (\d+) MB")


@pytest.fixture
def line(registry: Registry) -> Iterator[Line]:
    one = Line(registry.host, [], bytes_per_s=1.5e6)
    yield one
    one.close()


@pytest.fixture
def argv(line: Line, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`image pull` of what is named by the words that follow."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    host = line.address.removeprefix("http://")
    site = [f"site.images_dir={workdir}/images", f"site.registry_http=['{host}']"]
    return [sys.executable, "-c", OFTEN, "image", "pull", *site]


def push(registry: Registry, tag: str) -> str:
    """Noise, which no compression makes less; its digest."""
    return registry.push("lab/large", tag, random.Random(7).randbytes(SIZE_MB * 1_000_000).decode("latin-1"))


def must_grow(said: list[str]) -> None:
    """How much has come is said more than once, and is always more, and never more than there is."""
    found = [match for text in said if (match := FETCHED.fullmatch(text))]
    come = [float(match[1]) / (1 if match[2] == "MB" else 1000) for match in found]
    (whole,) = {int(match[3]) for match in found}
    assert whole >= SIZE_MB and f" {whole} MB (log: " in said[1]
    assert len(set(come)) >= 3 and come == sorted(come) and come[-1] <= whole, said


def test_pull_on_a_terminal_says_how_much_has_come_line_by_line(
    argv: list[str], registry: Registry, line: Line, workdir: Path
) -> None:
    digest, host = push(registry, "1"), line.address.removeprefix("http://")
    name = f"docker://{host}/lab/large"

    with Terminal([*argv, f"{name}:1"], workdir, size=(40, 200)) as screen:
        assert screen.ended(200) == 0, screen.shown
        said = screen.shown.splitlines()

    (image,) = (workdir / "images").glob("*.sif")
    assert said[0] == f"{name}:1 is {digest}"
    assert said[1].startswith(f"pulling {name}@{digest}, ") and said[1].endswith(f" MB (log: {image}.log)")
    middle = said.index(f"computing the digest of {image.name}")
    assert all(FETCHED.fullmatch(text) for text in said[2:middle]), "what Apptainer says is in its log alone"
    must_grow(said)
    assert "\x1b" not in screen.shown and "INFO" in Path(f"{image}.log").read_text()
    assert json.loads(Path(f"{image}.json").read_text())["digests"] == [digest]


def test_pull_of_a_sif_into_a_log_says_the_same(argv: list[str], registry: Registry, line: Line, workdir: Path) -> None:
    push(registry, "1")
    made = workdir / "made.sif"
    argv_of_pull = ["apptainer", "pull", "--no-https", str(made), f"docker://{registry.host}/lab/large:1"]
    subprocess.run(argv_of_pull, capture_output=True, timeout=100, check=True)
    push_sif(made, registry, "lab/sif:1")
    name = f"oras://{line.address.removeprefix('http://')}/lab/sif:1"

    done = subprocess.run([*argv, name], capture_output=True, text=True, timeout=200, check=False, env=os.environ)

    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert said[0].startswith(f"{name} is sha256:") and said[1].startswith("pulling oras://")
    must_grow(said)
    (image,) = (workdir / "images").glob("*.sif")
    assert image.read_bytes() == made.read_bytes() and str(image) in done.stdout
    assert in_image(image, "sh", "-c", "echo it runs") == "it runs\n"
