"""Whose processors an image must be for when an attempt begins: this host's, or those of another pool's nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from launchers.apptainer.container import ContainerPlan
from launchers.errors import SiteError
from launchers.host.trying import Try
from launchers.run_folder.record import Attempt, Run
from tests.plans import plan_of_run, pool_plan


def box(folder: Path, digits: bytes, architecture: str | None) -> ContainerPlan:
    """A container whose image is for the processors that a SIF's header names so."""
    path = folder / f"{digits.decode()}.sif"
    path.write_bytes(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0" + b"01\0" + digits + b"\0" + bytes(64))
    return ContainerPlan(
        executable="apptainer", image=str(path), digest=None, flags=(), mounts=(), architecture=architecture
    )


def verify(folder: Path, *boxes: ContainerPlan) -> None:
    run = Run(folder / "run")
    pools = tuple(pool_plan(("true",), name=f"workerpool{n}", container=of) for n, of in enumerate(boxes))
    Try(
        run, plan_of_run(run, pools[0], pools=pools), Attempt(run.path / "members/0/attempt-0"), set(), 0.0
    )._verify_image()


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launchers.apptainer.sif.here", lambda: "amd64")


def test_image_of_another_pool_is_for_the_processors_that_its_container_names(tmp_path: Path) -> None:
    verify(tmp_path, box(tmp_path, b"02", None), box(tmp_path, b"04", "arm64"))


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [((b"04", "arm64"), (b"02", None), "amd64"), ((b"02", None), (b"02", "arm64"), "arm64")],
    ids=["the first pool is this host", "not what its container names"],
)
def test_image_for_other_processors_is_refused_with_both(
    tmp_path: Path, first: tuple[bytes, str | None], second: tuple[bytes, str | None], wanted: str
) -> None:
    with pytest.raises(SiteError, match=f"is for (amd64|arm64) processors, and has to run on {wanted}"):
        verify(tmp_path, box(tmp_path, *first), box(tmp_path, *second))
