"""Devices by the Container Device Interface: what nodes say of them, and what a container gets, a real one too."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launchers import cli
from launchers.apptainer import cdi
from launchers.apptainer.cdi_specs import found_in
from launchers.apptainer.container import Mount
from launchers.errors import SiteError
from launchers.step import step_of
from tests.cluster.harness import ROOT, Cluster, attempts
from tests.launchers.planned import TWO_BY_TWO, boxed, composed, planned
from tests.launchers.test_programs import CONF, entry_image

KIND, ALL = "fairlead.test/card", "fairlead.test/card=all"
FULL = Mount(source="/dev/full", target="/dev/full", writable=True)
FUSE = Mount(source="/dev/fuse", target="/dev/fuse", writable=True)
DEVICES = ROOT / "launchers/host/devices.py"


def device(name: str, *nodes: str, **edits: Any) -> dict[str, Any]:
    return {"name": name, "containerEdits": {"deviceNodes": [{"path": node} for node in nodes], **edits}}


def write(file: Path, *devices: dict[str, Any], kind: str = KIND, **edits: Any) -> str:
    """A specification in the form that its name ends in; its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {"cdiVersion": "0.6.0", "kind": kind, "devices": list(devices), "containerEdits": edits}
    file.write_text(json.dumps(document) if file.suffix == ".json" else yaml.safe_dump(document))
    return str(file.parent)


def library(folder: Path) -> Path:
    """As a driver's on its host: a file and the names that lead to it."""
    folder.mkdir(exist_ok=True)
    (folder / "libcard.so.5.1").write_text("of the host\n")
    (folder / "libcard.so.1").symlink_to("libcard.so.5.1")
    (folder / "libcard.so").symlink_to("libcard.so.1")
    (folder / "libcard.so.4.0").write_text("an older one\n")
    return folder / "libcard.so.5.1"


# --- what a node says -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_devices_of_a_file_have_their_own_edits_and_the_files(tmp_path: Path, suffix: str) -> None:
    one, two = device("0", "/dev/full", env=["CARD=0", "BOTH=own"]), device("gpu-1", "/dev/fuse", env=["CARD=1"])
    folder = write(tmp_path / f"cdi/vendor.{suffix}", one, two, env=["BOTH=common=x"], mounts=None)

    shown = cdi.shown([f"{KIND}=0", f"{KIND}=gpu-1", f"{KIND}=0"], [folder])

    assert shown.mounts == (FULL, FUSE)
    assert shown.env == {"CARD": "1", "BOTH": "common=x"}
    assert cdi.shown([f"{KIND}=0"], [folder]).mounts == (FULL,)


def test_later_folder_comes_first_and_other_files_do_not_count(tmp_path: Path) -> None:
    static = write(tmp_path / "etc/a.yaml", device("all", "/dev/full"), device("0", "/dev/full"))
    dynamic = write(tmp_path / "run/a.json", device("all", "/dev/fuse"))
    write(tmp_path / "run/a.yml", device("all", "/dev/null"))
    write(tmp_path / "run/below/a.json", device("all", "/dev/null"))

    assert cdi.shown([ALL], [static, "/not/there", dynamic]).mounts == (FUSE,)
    assert cdi.shown([ALL], [dynamic, static]).mounts == (FULL,)
    assert cdi.shown([f"{KIND}=0"], [static, dynamic]).mounts == (FULL,)


def test_files_of_one_folder_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "cdi/a.yaml", device("all", "/dev/full"), device("0", "/dev/full"))
    write(tmp_path / "cdi/b.json", device("all", "/dev/fuse"))
    above = write(tmp_path / "run/c.json", device("all", "/dev/fuse"))

    with pytest.raises(SiteError, match=f"has the device {ALL} twice, in .*/a.yaml and .*/b.json\n"):
        cdi.shown([ALL], [folder])
    assert cdi.shown([f"{KIND}=0"], [folder]).mounts == (FULL,)
    assert cdi.shown([ALL], [folder, above]).mounts == (FUSE,)


BROKEN = {
    "cut.json": ('{"kind": ', "Expecting value"),
    "cut.yaml": ("kind: [", "it is no YAML"),
    "list.json": ("[]", "it is no mapping"),
    "nothing.yaml": ("", "it is no mapping"),
    "kind.yaml": ("kind: card\ndevices: [{name: a}]", "kind is 'card'"),
    "none.yaml": (f"kind: {KIND}\ndevices: []", "it has no devices"),
    "name.yaml": (f"kind: {KIND}\ndevices: [{{name: a b}}]", "name is 'a b'"),
    "twice.yaml": (f"kind: {KIND}\ndevices: [{{name: a}}, {{name: a}}]", "device 'a' is there twice"),
    "word.yaml": (f"kind: {KIND}\ndevices: [a]", "devices has 'a'"),
    "edits.yaml": (f"kind: {KIND}\ndevices: [{{name: a, containerEdits: [b]}}]", "containerEdits is ['b']"),
    "node.yaml": (f"kind: {KIND}\ndevices: [{{name: a}}]\ncontainerEdits: {{deviceNodes: [{{}}]}}", "path is None"),
    "rel.yaml": (
        f"kind: {KIND}\ndevices: [{{name: a}}]\ncontainerEdits: {{mounts: [{{hostPath: a, containerPath: /a}}]}}",
        "hostPath is 'a', and must be an absolute path",
    ),
    "env.yaml": (f"kind: {KIND}\ndevices: [{{name: a}}]\ncontainerEdits: {{env: [A]}}", "env has 'A'"),
    "latin.json": ("\udcff", "can't decode"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_named_with_its_reason_and_the_others_count(tmp_path: Path, name: str) -> None:
    text, why = BROKEN[name]
    folder = write(tmp_path / "cdi/sound.json", device("all", "/dev/full"))
    (tmp_path / "cdi" / name).write_text(text, errors="surrogateescape")

    assert why in found_in([folder]).broken[tmp_path / "cdi" / name]
    assert cdi.shown([ALL], [folder]).mounts == (FULL,)
    with pytest.raises(SiteError) as caught:
        cdi.shown([f"{KIND}=a"], [folder])
    what, where, do = str(caught.value).split("\n")
    assert f"{name} cannot be read: " in what and why in what and ALL in what
    assert folder in where and "site.cdi_dirs" in where and "repaired" in do


def test_device_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    folder = write(tmp_path / "cdi/a.json", *(device(str(i), "/dev/full") for i in range(30)))

    with pytest.raises(SiteError, match=f"has no device {ALL} by CDI; it has {KIND}=0, .* and 10 more\n"):
        cdi.shown([ALL], [folder])
    with pytest.raises(SiteError, match=r"it has no devices by CDI\n.*looked in /a, /b .*\n.*nvidia-ctk cdi generate"):
        cdi.shown(["nvidia.com/gpu=all"], ["/a", "/b"])


# --- what a container gets ------------------------------------------------------------------------------


def test_library_is_seen_under_each_of_its_names_where_the_loader_looks(tmp_path: Path) -> None:
    lib = library(tmp_path / "lib")
    mount = {"hostPath": str(lib), "containerPath": "/usr/lib64/libcard.so.5.1", "options": ["ro", "nosuid", "rbind"]}
    tool = {"hostPath": "/bin/sh", "containerPath": "/usr/bin/tool", "type": "none", "options": ["rw"]}
    folder = write(tmp_path / "cdi/a.yaml", device("all", mounts=[mount, tool]))

    mounts = cdi.shown([ALL], [folder]).mounts

    names = ("libcard.so", "libcard.so.1", "libcard.so.5.1")
    assert mounts == (
        Mount(source=str(lib), target="/usr/lib64/libcard.so.5.1"),
        *(Mount(source=str(lib), target=f"/.singularity.d/libs/{name}") for name in names),
        Mount(source="/bin/sh", target="/usr/bin/tool", writable=True),
    )


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"deviceNodes": [{"path": "/dev/not-there"}]}, "a.yaml names /dev/not-there, which you do not find on"),
        ({"deviceNodes": [{"path": "/dev/card9", "hostPath": "/dev/full"}]}, "has the device node /dev/full as"),
        ({"deviceNodes": [{"path": "/opt/full", "hostPath": "/dev/full"}]}, "has the device node /dev/full as"),
        (
            {"mounts": [{"hostPath": "/not/there", "containerPath": "/x"}]},
            "a.yaml names /not/there, which you do not find on",
        ),
        ({"mounts": [{"hostPath": "/tmp", "containerPath": "/x", "type": "tmpfs"}]}, "a mount of type 'tmpfs' at /x"),
    ],
)
def test_what_apptainer_would_pass_over_in_silence_is_refused(tmp_path: Path, edits: Any, said: str) -> None:
    folder = write(tmp_path / "cdi/a.yaml", device("all", "/dev/full"), **edits)

    with pytest.raises(SiteError, match=said) as caught:
        cdi.shown([ALL], [folder])
    assert len(str(caught.value).splitlines()) == 3


def test_device_of_a_drivers_own_folder_is_that_of_dev(tmp_path: Path) -> None:
    """As a driver in a container has them: /run/nvidia/driver/dev/nvidia0."""
    (tmp_path / "dev-full").symlink_to("/dev/full")
    node = {"path": "/dev/full", "hostPath": str(tmp_path / "dev-full")}
    folder = write(tmp_path / "cdi/a.yaml", device("all", deviceNodes=[node]))

    assert cdi.shown([ALL], [folder]).mounts == (FULL,)


def test_rank_asks_for_its_devices_directly_before_its_container() -> None:
    spec = boxed(composed(*TWO_BY_TWO, "site.image_local=true"))
    pool = dataclasses.replace(
        spec.pools[0], accelerator=dataclasses.replace(spec.pools[0].accelerator, cdi=("a.org/b=0",))
    )
    plan = planned(dataclasses.replace(spec, pools=(pool,)))
    line = step_of(plan, 0, 0).rank_script.splitlines()[-1]

    asked = json.dumps({"devices": ["a.org/b=0"], "folders": ["/etc/cdi", "/var/run/cdi"], "scratch": "S"})
    scratch = step_of(plan, 0, 0).scratch or ""
    front = f" -I /runs/digits-1/code/fairlead/launchers/host/devices.py '{asked.replace('S', scratch)}' apptainer "
    assert front in line and line.index("nearby.py") < line.index("devices.py")
    assert "devices.py" not in step_of(planned(boxed(composed(*TWO_BY_TWO))), 0, 0).rank_script


def test_plan_shows_what_will_be_asked_for_and_needs_no_device_here(workdir: Path, sif: Path, capsys: Any) -> None:
    """As YAML has it, and as a shell does."""
    (workdir / "conf/accelerator").mkdir(parents=True)
    (workdir / "conf/accelerator/by_cdi.yaml").write_text("defaults: [none]\ncdi: [a.org/b=0]\n")
    for words in (("accelerator=by_cdi",), ('accelerator.cdi=["a.org/b=0"]',)):
        box = ("container=pytorch-cpu", f"container.image={sif}", "tracking=none", *words)
        assert cli.main(["plan", "--config-dir", str(workdir / "conf"), *box]) == 0
        said = capsys.readouterr().out
        assert (
            "devices by CDI, as each node has them in /etc/cdi, /var/run/cdi (the last comes first)\na.org/b=0" in said
        )


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "CARD"])
def test_what_slurm_or_the_user_said_stays(tmp_path: Path, fakes: Any, name: str) -> None:
    fakes.put("apptainer")
    socket = {"hostPath": "/bin/sh", "containerPath": "/tmp/mps/pipe"}
    folder = write(tmp_path / "cdi/a.yaml", device("all", "/dev/full", env=[f"{name}=spec", "NEW=1"], mounts=[socket]))
    settings = json.dumps({"devices": [ALL], "folders": [folder], "scratch": f"{tmp_path}/scratch"})
    words = ("apptainer", "--silent", "exec", "--contain", "x.sif", "program", "exec")

    argv = [sys.executable, "-I", str(DEVICES), settings, *words]
    subprocess.run(argv, env={**os.environ, f"APPTAINERENV_{name}": "1,3"}, check=True, timeout=60)

    (call,) = fakes.calls("apptainer")
    full, pipe = "type=bind,src=/dev/full,dst=/dev/full", "type=bind,src=/bin/sh,dst=/tmp/mps/pipe"
    assert call["argv"] == ["--silent", "exec", "--mount", full, "--mount", pipe, *words[3:]]
    assert (call["env"][f"APPTAINERENV_{name}"], call["env"]["APPTAINERENV_NEW"]) == ("1,3", "1")
    assert (tmp_path / "scratch/tmp/mps/pipe").is_file()


# --- real containers ------------------------------------------------------------------------------------

SEES = """
  printf 'card=%s cards=%s\\n' "$CARD" "$CUDA_VISIBLE_DEVICES"
  for path in /dev/full /dev/fuse; do [ ! -c "$path" ] || echo "device $path"; done
  ( echo x > /dev/full ) 2>/dev/null || echo full
  for name in libcard.so.1 libcard.so.4.0; do
    IFS=:; for folder in $LD_LIBRARY_PATH; do [ ! -e "$folder/$name" ] || cat "$folder/$name"; done
  done
"""


@pytest.mark.apptainer
def test_job_has_the_devices_of_its_node_and_says_which_it_lacks(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    here, lib = Cluster(workdir, first=()), library(workdir / "lib")
    mount = {"hostPath": str(lib), "containerPath": "/usr/lib/libcard.so.5.1", "options": ["ro"]}
    hook = {"hookName": "createContainer", "path": "/usr/bin/nvidia-ctk", "args": ["nvidia-ctk", "hook"]}
    edits = {"mounts": [mount], "hooks": [hook], "env": ["CARD=a, b", "CUDA_VISIBLE_DEVICES=0"]}
    folder = write(workdir / "cdi/a.yaml", device("0", "/dev/full"), **edits)
    image = entry_image(workdir, SEES, ("sh", "cat"))
    words = ("job=command", "container=pytorch-cpu", f"container.image={image}", "tracking=none")

    def launched(name: str) -> tuple[Path, str]:
        asked = (f'accelerator.cdi=["{KIND}={name}"]', f"site.cdi_dirs=[/etc/cdi,{folder}]")
        argv = ("--config-dir", CONF, "--json", *words, "job.metrics.kind=none", *asked)
        run = Path(json.loads(here.fairlead("launch", *argv, check=False).stdout)["run_dir"])
        here.wait(run)
        return run, (run / "members/0/attempt-0/rank-0.log").read_text()

    (run, said), (without, told) = launched("0"), launched("1")

    assert said.splitlines() == ["card=a, b cards=3", "device /dev/full", "full", "of the host"]
    assert [a["state"] for a in attempts(run)] == ["SUCCEEDED"]
    (outcome,) = attempts(without)
    assert outcome["state"] == "FAILED" and outcome["message"] in told
    assert f"has no device {KIND}=1 by CDI; it has {KIND}=0 (accelerator.cdi; looked in /etc/cdi, {folder}" in told
