"""A run folder is whole or not there, private, and holds everything that is needed later."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conf import schema
from conf.document import from_document
from launchers import freeze as freeze_module
from launchers.config.check import check_all
from launchers.errors import SiteError
from launchers.freeze import Launch, freeze, new_job_id
from launchers.plan import plans_from
from launchers.run_folder import provenance
from launchers.run_folder.record import Run, read_json, read_lines
from launchers.search.expand import compose_all


@functools.cache
def composed(*overrides: str) -> tuple[tuple[schema.Spec, ...], tuple[Any, ...]]:
    composition = compose_all(overrides)
    return tuple(check_all(composition)), tuple(m.point for m in composition.members)


@pytest.fixture
def launch(workdir: Path) -> Callable[..., Launch]:
    def make(*overrides: str, command: tuple[str, ...] = ("fairlead", "launch")) -> Launch:
        specs, points = composed(*overrides)
        return Launch(specs=specs, points=points, command=command, cwd=workdir, python=sys.executable)

    return make


def test_freeze_says_what_the_members_were_made_of(launch: Any, fakes: Any, workdir: Path) -> None:
    fakes.put("sbatch", "print('slurm-wlm 22.05.8')")

    run, _ = freeze(launch("launcher=slurm", "seed=7"), workdir / "runs")

    found, document = read_json(run.provenance), read_json(run.spec)
    assert (found["seed"], found["slurm"], found["image"]) == (7, "22.05.8", None)
    assert found["spec_digest"] == provenance.digest_of(document)
    assert found["data"]["of"] == "the source and its options" and found["data"]["digest"].startswith("sha256:")


def test_freeze_folder_holds_spec_plan_members_and_code(launch: Any, workdir: Path) -> None:
    (workdir / "net.py").write_text("mine")
    run, (plan,) = freeze(launch("launcher=slurm", "seed=1,2"), workdir / "runs")

    assert from_document(schema.Spec, read_json(run.spec)) == composed("launcher=slurm", "seed=1,2")[0][0]
    assert plans_from(read_json(run.plan)) == (plan,)
    assert plan.run_dir == str(run.path)
    assert (run.code / "project" / "net.py").read_text() == "mine"
    assert (run.code / "fairlead" / "launchers" / "host" / "supervise.py").is_file()
    assert str(run.path) in (run.path / "job.sbatch").read_text()
    assert ".new" not in (run.path / "job.sbatch").read_text()


@pytest.mark.parametrize(("runtime", "shapes"), [("none", (0, 0)), ("apptainer", (0, 1))])
def test_launch_members_with_other_data_have_containers_of_their_own(
    launch: Any, workdir: Path, sif: Path, runtime: str, shapes: tuple[int, ...]
) -> None:
    """Each sees its own data, and no other's."""
    for name in ("a", "b"):
        (workdir / name).mkdir()
    boxed = (f"container.runtime={runtime}", *([f"container.image={sif}"] if runtime == "apptainer" else []))

    made = launch("data=tokens", "model=gpt", f"data.path={workdir}/a,{workdir}/b", *boxed)

    assert made.shape_of == shapes


def test_freeze_members_say_what_differs(launch: Any, workdir: Path) -> None:
    run, _ = freeze(launch("optimizer.lr=0.1,0.2"), workdir / "runs")
    rows = read_lines(run.members_file)

    assert [r["point"] for r in rows] == [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}]
    assert rows[0]["sections"] == {}
    assert list(rows[1]["sections"]) == ["optimizer"]
    assert rows[1]["sections"]["optimizer"]["options"]["lr"] == 0.2


def test_freeze_every_members_spec_can_be_put_together(launch: Any, workdir: Path) -> None:
    run, _ = freeze(launch("seed=1,2", "train.epochs=1,3"), workdir / "runs")
    specs, _ = composed("seed=1,2", "train.epochs=1,3")

    found = [from_document(schema.Spec, {**read_json(run.spec), **r["sections"]}) for r in read_lines(run.members_file)]

    assert found == list(specs)


def test_freeze_is_private(launch: Any, workdir: Path) -> None:
    old = os.umask(0o022)
    try:
        run, _ = freeze(launch(), workdir / "runs")
    finally:
        os.umask(old)

    folders = [run.path, run.code, run.logs, run.path / "members"]
    assert {stat.S_IMODE(p.stat().st_mode) & 0o700 for p in folders} == {0o700}
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700


def test_freeze_spec_digest_is_that_of_the_spec(launch: Any, workdir: Path) -> None:
    run, _ = freeze(launch(), workdir / "runs")

    assert read_json(run.provenance)["spec_digest"] == provenance.digest_of(read_json(run.spec))


def test_freeze_secrets_of_the_command_are_not_in_its_provenance(launch: Any, workdir: Path) -> None:
    command = ("fairlead", "launch", "container.env.API_TOKEN=hunter2", "container.env.password=hunter2")

    run, _ = freeze(launch(command=command), workdir / "runs")

    assert "hunter2" not in run.provenance.read_text()


def test_freeze_twice_is_two_folders(launch: Any, workdir: Path) -> None:
    runs = {freeze(launch(), workdir / "runs")[0].id for _ in range(3)}

    assert len(runs) == 3


def test_freeze_earlier_runs_are_not_in_the_snapshot(launch: Any, workdir: Path) -> None:
    """A project that has no .gitignore yet: runs, images and the store beside them are not its code."""
    (workdir / "net.py").write_text("mine")
    subprocess.run(["git", "init", "-q"], cwd=workdir, check=True)
    freeze(launch(), workdir / "runs")

    run, _ = freeze(launch(), workdir / "runs")

    inside = {p.relative_to(run.code / "project").parts[0] for p in (run.code / "project").rglob("*")}
    assert inside == {"net.py"}


def test_freeze_job_id_is_a_name_for_files_and_slurm() -> None:
    assert re.fullmatch(r"a-b-\d{8}-\d{6}-[0-9a-f]{4}", new_job_id("a b"))


# --- when it cannot be written ------------------------------------------------------------------------


def left(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir()] if folder.is_dir() else []


def test_freeze_runs_folder_below_a_file_is_a_site_error(launch: Any, workdir: Path) -> None:
    (workdir / "file").write_text("x")

    with pytest.raises(SiteError, match=r"site\.runs_dir") as caught:
        freeze(launch(), workdir / "file" / "runs")

    assert len(str(caught.value).splitlines()) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB; where mounting is not allowed, the test works without it."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_freeze_full_disk_says_so_and_leaves_nothing(launch: Any, small_disk: Path) -> None:
    with pytest.raises(SiteError) as caught:
        freeze(launch(), small_disk)

    assert "No space left on device" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3
    assert len(str(caught.value)) < 2000
    assert left(small_disk) == []


def test_freeze_read_only_disk_says_so(launch: Any, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    with pytest.raises(SiteError, match="Read-only file system"):
        freeze(launch(), small_disk / "runs")


@pytest.mark.parametrize("where", ["write_json", "write_text"])
def test_freeze_any_write_that_fails_leaves_nothing(
    launch: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(freeze_module, where, full)

    with pytest.raises(SiteError, match="No space left on device"):
        freeze(launch(), workdir / "runs")

    assert left(workdir / "runs") == []


def test_freeze_interrupted_by_the_user_leaves_nothing(
    launch: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(freeze_module.snapshot, "take", interrupted)

    with pytest.raises(KeyboardInterrupt):
        freeze(launch(), workdir / "runs")

    assert left(workdir / "runs") == []


def test_freeze_left_by_a_killed_one_is_swept_when_it_is_old(launch: Any, workdir: Path) -> None:
    old, young, other = (workdir / "runs" / name for name in (".a.new", ".b.new", "c-1"))
    for folder in (old, young, other):
        folder.mkdir(parents=True)
    os.utime(old, (0, time.time() - freeze_module.STALE_S - 60))

    freeze(launch(), workdir / "runs")

    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.06, 0.1])
def test_freeze_killed_at_any_time_leaves_whole_runs_or_none(workdir: Path, root: Path, after_s: float) -> None:
    code = """
import sys
from pathlib import Path
from launchers.config.check import check_all
from launchers.search.expand import compose_all
from launchers.freeze import Launch, freeze
specs = tuple(check_all(compose_all([])))
launch = Launch(specs=specs, points=({},), command=(), cwd=Path.cwd(), python=sys.executable)
print("ready", flush=True)
while True:
    freeze(launch, Path("runs"))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE
    )
    assert process.stdout and process.stdout.readline() == b"ready\n"
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    whole = [p for p in (workdir / "runs").glob("*") if not p.name.startswith(".")]
    for path in whole:
        run = Run(path)
        assert plans_from(read_json(run.plan))[0].job == run.id
        assert [r["index"] for r in read_lines(run.members_file)] == [0]
        assert (run.code / "fairlead" / "launchers" / "delivery" / "finish.py").is_file()
    shutil.rmtree(workdir / "runs", ignore_errors=True)


def test_launch_with_an_image_freezes_its_digest(launch: Any, workdir: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Built:
        path: Path = Path("/images/x.sif")
        workdir: str | None = None
        digest: str = "sha256:" + "1" * 64
        source: str = "docker://h.org/x@sha256:" + "2" * 64

    wanted = launch()
    (pool,) = wanted.specs[0].pools
    box = dataclasses.replace(pool.container, runtime="apptainer", image="/images/x.sif")
    spec = dataclasses.replace(wanted.specs[0], pools=(dataclasses.replace(pool, container=box),))
    run, _ = freeze(dataclasses.replace(wanted, specs=(spec,), images=((Built(),),)), workdir / "runs")

    found = read_json(run.provenance)["image"]
    source = "docker://h.org/x@sha256:" + "2" * 64
    assert found == {"path": "/images/x.sif", "digest": "sha256:" + "1" * 64, "source": source}
    assert json.loads(run.plan.read_text())["plans"][0]["pools"][0]["container"]["digest"] == "sha256:" + "1" * 64
