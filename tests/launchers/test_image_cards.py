"""Images that are made for cards, and a job without one: refused before it queues, where nobody says that it may be."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from conf import machine_schema, schema
from launchers.apptainer import suited
from launchers.apptainer.made_for import Cards, cards_of, cards_of_sif
from launchers.errors import SpecError
from tests.launchers.registries import Registry

CUDA = ("CUDA_VERSION=12.8.1", "NVIDIA_VISIBLE_DEVICES=all", "NV_CUDA_LIB_VERSION=12.8.1-1")
MACHINE = machine_schema.Machine(mem_gb=4, max_cpus=4)

Launched = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def ask(fairlead: Callable[..., Any], registry: Registry, workdir: Path) -> Launched:
    """A verb about a command in an image, and what else is said."""

    def asked(verb: str, image: str, *more: str) -> Any:
        words = ["job=command", "job.command=[sh,-c,'echo it runs']", "container.runtime=apptainer", "tracking=none"]
        words += [f"site.images_dir={workdir}/images", f"site.registry_http=['{registry.host}']"]
        return fairlead(verb, *words, f"container.image='{image}'", *more)

    return asked


def images(workdir: Path) -> list[Path]:
    return sorted((workdir / "images").glob("*.sif"))


def logs(workdir: Path) -> str:
    return "".join(path.read_text() for path in workdir.glob("runs/*/members/0/attempt-0/rank-0.log"))


@pytest.mark.apptainer
def test_image_for_cards_is_refused_without_one_and_before_it_is_pulled(
    ask: Launched, registry: Registry, workdir: Path
) -> None:
    registry.push("lab/torch", "cuda", env=CUDA)
    name = f"docker://{registry.host}/lab/torch:cuda"

    done, looked = ask("launch", name), ask("check", name)

    assert (done.returncode, looked.returncode) == (2, 3), done.stdout + done.stderr
    for text in ("'none'", "made for cuda", "CUDA_VERSION, NVIDIA_VISIBLE_DEVICES", f"container.image={name}"):
        assert text in done.stderr and text in looked.stdout
    assert "to try this one without a card: container.accelerators=[none]" in done.stderr
    assert not images(workdir) and not list(workdir.glob("runs/*"))

    tried = ask("launch", name, "container.accelerators=[none]")
    assert tried.returncode == 0 and "it runs" in logs(workdir), tried.stderr
    again = ask("launch", name)
    assert again.returncode == 2 and "made for cuda" in again.stderr, "the store has it now"


@pytest.mark.apptainer
def test_image_for_cards_that_is_a_file_or_a_sif_in_a_registry_is_refused_without_one(
    ask: Launched, registry: Registry, workdir: Path
) -> None:
    registry.push("lab/torch", "cuda", env=CUDA)
    ask("launch", f"docker://{registry.host}/lab/torch:cuda", "container.accelerators=[none]")
    (image,) = images(workdir)
    target = f"oras://{registry.host}/lab/sif:1"
    argv = ["apptainer", "push", "--no-https", str(image), target]
    subprocess.run(argv, capture_output=True, timeout=60, check=True)
    runs = len(list(workdir.glob("runs/*-*")))

    for name in (str(image), target):
        done = ask("launch", name)
        assert done.returncode == 2 and "made for cuda" in done.stderr, done.stderr
    assert "made for cuda" in ask("check", str(image)).stdout
    assert len(list(workdir.glob("runs/*-*"))) == runs


@pytest.mark.apptainer
def test_image_that_says_nothing_of_cards_runs_without_one(ask: Launched, registry: Registry, workdir: Path) -> None:
    registry.push("lab/tiny", "1", env=("NVIDIA_VISIBLE_DEVICES=void",))

    done = ask("launch", f"docker://{registry.host}/lab/tiny:1")

    assert done.returncode == 0 and "it runs" in logs(workdir), done.stderr
    assert cards_of_sif(images(workdir)[0], "apptainer") is None


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        (CUDA, "cuda"),
        (("NVIDIA_VISIBLE_DEVICES=0,1",), "cuda"),
        (("NVIDIA_VISIBLE_DEVICES=none", "CUDA_HOME="), None),
        (("ROCM_PATH=/opt/rocm", "PATH=/bin"), "rocm"),
        (("PATH=/bin", "LD_LIBRARY_PATH=/usr/local/nvidia/lib"), None),
    ],
)
def test_environment_says_which_cards_an_image_is_for(environment: Sequence[str], kind: str | None) -> None:
    found = cards_of(dict(text.split("=", 1) for text in environment))

    assert (found and found.kind) == kind


def pool(kind: Any, accelerators: tuple[Any, ...] | None = None, number: int = 0) -> schema.Pool:
    card = machine_schema.Accelerator(kind=kind, count=0 if kind == "none" else 1)
    box = machine_schema.Container(runtime="apptainer", image="/x.sif", accelerators=accelerators)
    return schema.Pool(number=number, machine=MACHINE, accelerator=card, container=box)


def test_what_a_container_says_of_itself_is_believed_and_other_cards_are_told() -> None:
    cuda = Cards("cuda", ("CUDA_VERSION",))

    for suits in (pool("cuda"), pool("none", ("none",)), pool("rocm", ("rocm", "none"))):
        suited.must_suit(suits, cuda)
    suited.must_suit(pool("none"), None)
    with pytest.raises(
        SpecError, match=r"'rocm', but this image is made for cuda[\s\S]*container\.accelerators=\[rocm\]"
    ):
        suited.must_suit(pool("rocm"), cuda)
    with pytest.raises(SpecError, match=r"where  pools\.1\.container\.image=/x\.sif"):
        suited.must_suit(dataclasses.replace(pool("none"), number=1), cuda)
