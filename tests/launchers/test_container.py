"""The argument list of `apptainer exec`: what is seen inside, and what is not."""

from __future__ import annotations

import csv
import dataclasses
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conf import machine_schema, schema
from launchers.apptainer.container import (
    DEVICE_VARIABLES,
    ContainerPlan,
    Mount,
    argv_of,
    environment_lines,
    mountpoint_lines,
    plan_of,
    presence_lines,
    shm_lines,
    with_options,
)
from launchers.config.check import check_all
from launchers.search.expand import compose_all


@pytest.fixture(scope="module")
def spec() -> schema.Spec:
    return check_all(compose_all(["machine=gpu-8", "accelerator=a100", "launcher=slurm"]))[0]


def box(spec: schema.Spec, flag: str | None = "nv", **container: object) -> ContainerPlan:
    (pool,) = spec.pools
    pool = dataclasses.replace(
        pool,
        container=dataclasses.replace(pool.container, runtime="apptainer", image="/i/x.sif", **container),  # type: ignore[arg-type]
        accelerator=dataclasses.replace(pool.accelerator, container_flag=flag),  # type: ignore[arg-type]
    )
    return plan_of(pool, spec, Path("/runs/d-1"), None, None)


def mounts(argv: tuple[str, ...]) -> dict[str, tuple[str, bool]]:
    """target -> (source, writable), read as Apptainer reads `--mount`."""
    found = {}
    for i, word in enumerate(argv):
        if word == "--mount":
            fields = next(csv.reader([argv[i + 1]], strict=True))
            pairs = dict(f.partition("=")[::2] for f in fields)
            assert pairs.pop("type") == "bind"
            found[pairs["dst"]] = (pairs["src"], "ro" not in pairs)
    return found


def argv(plan: ContainerPlan) -> tuple[str, ...]:
    return argv_of(plan, Path("/runs/d-1/members/0"), "/scratch/x", "/runs/d-1/members/0")


def test_container_is_isolated(spec: schema.Spec) -> None:
    words = argv(box(spec))

    assert words[0] == "apptainer"
    assert {"--contain", "--cleanenv", "--no-eval"} <= set(words)
    assert words[words.index("--workdir") + 1] == "/scratch/x"
    assert words[-1] == "/i/x.sif"


def test_container_sees_code_read_only_and_its_member_writable(spec: schema.Spec) -> None:
    seen = mounts(argv(box(spec)))

    assert seen == {
        "/runs/d-1/code": ("/runs/d-1/code", False),
        "/runs/d-1/members/0": ("/runs/d-1/members/0", True),
    }


def test_container_sees_data_read_only(spec: schema.Spec) -> None:
    data = schema.Component(kind="bytes", options={"path": "/data/texts"})

    assert mounts(argv(box(dataclasses.replace(spec, data=data))))["/data/texts"] == ("/data/texts", False)


def test_container_data_by_address_is_not_mounted(spec: schema.Spec) -> None:
    data = schema.Component(kind="bytes", options={"path": "s3://bucket/texts"})

    assert len(mounts(argv(box(dataclasses.replace(spec, data=data))))) == 2


@pytest.mark.parametrize(("writable", "target"), [(True, None), (False, "/inside")])
def test_container_bind_is_as_declared(spec: schema.Spec, writable: bool, target: str | None) -> None:
    bind = machine_schema.Bind(source="/host", target=target, writable=writable)

    assert mounts(argv(box(spec, binds=(bind,))))[target or "/host"] == ("/host", writable)


@pytest.mark.parametrize(
    "path", ["/a,b", '/a"b', "/a=b", "/a:b", "/a b", "/ü", '/","ro', "/a,dst=/etc", "/a'b", "/$(x)"]
)
def test_container_hostile_bind_path_is_one_field(spec: schema.Spec, path: str) -> None:
    seen = mounts(argv(box(spec, binds=(machine_schema.Bind(source=path, target=path),))))

    assert seen[path] == (path, False)
    assert len(seen) == 3


@pytest.mark.parametrize(("flag", "words"), [("nv", ["--nv"]), ("rocm", ["--rocm"]), (None, [])])
def test_container_flag_is_the_accelerators(spec: schema.Spec, flag: str | None, words: list[str]) -> None:
    assert [w for w in argv(box(spec, flag)) if w in ("--nv", "--rocm")] == words


def test_container_built_image_wins_over_the_named_one(spec: schema.Spec) -> None:
    (pool,) = spec.pools

    plan = plan_of(pool, spec, Path("/r"), "/built.sif", "sha256:" + "1" * 64)

    assert (plan.image, plan.digest) == ("/built.sif", "sha256:" + "1" * 64)


def test_container_options_stand_before_the_image(spec: schema.Spec) -> None:
    """After it they would be the program's."""
    words = argv(box(spec))

    assert words.index("/i/x.sif") == len(words) - 1
    assert words.index("exec") < words.index("--contain")


def test_container_home_is_an_empty_folder_and_not_the_users(spec: schema.Spec) -> None:
    words = argv(box(spec))

    source, target = words[words.index("--home") + 1].split(":")
    assert source == "/scratch/x/home"
    assert target != str(Path.home())


def test_environment_lines_hand_names_on_by_reference_and_values_quoted() -> None:
    """Under the prefix alone: a PATH for inside is none for the host's commands."""
    lines = environment_lines({"A": "x", "PATH": "it's $HOME"})

    assert {"export APPTAINERENV_A=x", 'export APPTAINERENV_RANK="$RANK"'} <= set(lines)
    assert """export APPTAINERENV_PATH='it'"'"'s $HOME'""" in lines
    assert len(lines) == len(set(lines))


def leads_to(plan: ContainerPlan) -> str:
    """What its /dev/shm is: Apptainer mounts a scratch folder there, which is a link."""
    words = argv(plan)
    assert words[words.index("--scratch") + 1] == "/dev/shm"
    (line,) = (line for line in shm_lines(plan, "/scratch/x") if "/scratch/x/scratch/dev/shm" in line)
    return line.partition("ln -s ")[2].partition(" ")[0]


def test_container_sees_the_whole_shm_only_when_told_and_the_plan_names_it(spec: schema.Spec) -> None:
    plan = box(
        spec, host_shm=True, host_env=("HTTPS_PROXY",), binds=(machine_schema.Bind(source="/lab", writable=True),)
    )

    assert leads_to(plan) == "/dev/shm" and leads_to(box(spec)) == "/dev/shm/x"
    assert plan.escapes == (
        "/lab of the host is written to (container.binds)",
        "the host's HTTPS_PROXY (container.host_env)",
        "all of the node's /dev/shm is written to (container.host_shm)",
    )
    assert box(spec).escapes == ()


@pytest.mark.parametrize(("free", "own", "begins"), [(600, 0, True), (400, 0, False), (400, 150, True)])
def test_node_whose_shared_memory_is_short_is_named_with_both_sizes(
    spec: schema.Spec, tmp_path: Path, fakes: Any, free: int, own: int, begins: bool
) -> None:
    fakes.put("df", f"print('  Avail')\nprint('{free}MB')\n")
    fakes.put("du", f"print('{own}MB\\t/dev/shm/mine')\n")
    (line,) = (line for line in shm_lines(box(spec, shm_gb=0.5), str(tmp_path)) if "free_mb" in line)

    done = [
        subprocess.run(["/bin/sh", "-c", line], env={**os.environ, "LOCAL_RANK": rank}, capture_output=True, text=True)
        for rank in "01"
    ]

    assert [each.returncode for each in done] == [0 if begins else 1, 0]
    here = f"fairlead: /dev/shm of {os.uname().nodename} has {free} MB free, and container.shm_gb asks for 500 MB\n"
    assert done[0].stderr == ("" if begins else here)


@pytest.mark.parametrize("flag", ["nv", "rocm", None])
def test_container_cdi_devices_stand_in_place_of_the_flag(spec: schema.Spec, flag: str | None) -> None:
    (pool,) = spec.pools
    named = ("nvidia.com/gpu=all", "nvidia.com/gpu=all", "a.org/b=0")
    accelerator = dataclasses.replace(pool.accelerator, container_flag=flag, cdi=named)  # type: ignore[arg-type]
    boxed = dataclasses.replace(pool.container, runtime="apptainer", image="/i/x.sif")
    plan = plan_of(dataclasses.replace(pool, container=boxed, accelerator=accelerator), spec, Path("/r"), None, None)

    assert (plan.devices, plan.cdi_dirs) == (("nvidia.com/gpu=all", "a.org/b=0"), ("/etc/cdi", "/var/run/cdi"))
    assert not {"--nv", "--rocm", "--nvccli", "--device"} & set(argv(plan))
    assert with_options([*argv(plan), "run", "exec"], ("--x", "y"))[:6] == [*argv(plan)[:3], "--x", "y", argv(plan)[3]]


@pytest.mark.parametrize("cards", ["0", "3,1", "GPU-1234", "", None])
@pytest.mark.parametrize("name", DEVICE_VARIABLES)
def test_environment_lines_never_map_the_cards_anew(name: str, cards: str | None) -> None:
    script = "\n".join(["unset RANK", *environment_lines({}), f'echo "${{APPTAINERENV_{name}-none}}"'])
    env = {} if cards is None else {name: cards}
    done = subprocess.run(["/bin/sh", "-c", script], env=env, capture_output=True, text=True, timeout=20, check=True)

    assert done.stdout == f"{'none' if cards is None else cards}\n"


@pytest.mark.parametrize("name", ["missing", 'it\'s $(touch x) "here" %s'])
def test_presence_lines_name_the_path_and_the_node(tmp_path: Path, name: str) -> None:
    argv = ["/bin/sh", "-c", "\n".join([*presence_lines([str(tmp_path / name)]), "echo on"])]
    gone = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path)
    (tmp_path / name).mkdir()
    there = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path)

    assert gone.returncode == 1 and f"{tmp_path / name} is not on {os.uname().nodename}" in gone.stderr
    assert (there.returncode, there.stdout) == (0, "on\n")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_mount_is_not_writable_unless_told() -> None:
    assert not Mount(source="/a", target="/a").writable


def test_mountpoints_below_tmp_are_made_for_all_ranks_of_a_node_at_once(workdir: Path) -> None:
    """Apptainer itself fails over a folder that another container has just made."""
    folder, file, scratch = workdir / "a 'b' $HOME", workdir / "file", workdir / "scratch"
    folder.mkdir()
    file.write_text("kept")
    targets = {f"/tmp/x/{folder.name}": folder, "/tmp/x/one": file, "/var/tmp/deep/er": folder, "/data": folder}
    mounts = [Mount(source=str(source), target=target) for target, source in targets.items()]
    script = "\n".join(mountpoint_lines(mounts, str(scratch)))

    ranks = [subprocess.Popen(["sh", "-c", script]) for _ in range(8)]

    assert [rank.wait(60) for rank in ranks] == [0] * 8
    made = {str(path.relative_to(scratch)): path.is_dir() for path in scratch.rglob("*")}
    assert made == {
        "tmp": True,
        "tmp/x": True,
        f"tmp/x/{folder.name}": True,
        "tmp/x/one": False,
        "var_tmp": True,
        "var_tmp/deep": True,
        "var_tmp/deep/er": True,
    }
