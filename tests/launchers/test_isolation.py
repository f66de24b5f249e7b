"""What does a program see of its host, and where may it write? Where it starts, each member for itself; and, where its
image's own entry point runs or the user says so, anywhere in the image, each rank for itself. Real containers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cluster.harness import ROOT, Cluster, attempts
from tests.launchers.test_programs import CONF, IN_IMAGE, entry_image

QUIET = ("tracking=none", "job.metrics.kind=none")
WRITES = """
import os, pathlib, shutil, signal, sys
model, beside = pathlib.Path("model.joblib"), pathlib.Path(__file__).with_name("beside.txt")
if not model.exists():
    model.write_text(" ".join(sys.argv[1:]))
    os.kill(os.getpid(), signal.SIGKILL)
beside.write_text(model.read_text())
shutil.copyfile("data/base.yaml", "data/copy.yaml")
"""
LAYERS = """
  echo mine > "/etc/of-rank-$RANK" || exit 1
  echo there > "$AIP_CHECKPOINT_DIR/$RANK"
  while [ ! -e "$AIP_CHECKPOINT_DIR/0" ] || [ ! -e "$AIP_CHECKPOINT_DIR/1" ]; do sleep 0.1; done
  for file in /etc/of-rank-*; do printf '%s ' "$file"; done
"""
LOOKS = """
  printf 'undeclared=%s passed=%s\n' "$UNDECLARED" "$PASSED"
  for path in $LOOK_AT; do [ ! -e "$path" ] || echo "sees $path"; done
  for path in $WRITE_TO "$FAIRLEAD_MEMBER_DIR/../../code/project" "$FAIRLEAD_MEMBER_DIR" "$AIP_MODEL_DIR"; do
    ( : > "$path/x" ) 2>/dev/null && echo "writes to $path"
  done
  exit 0
"""


@pytest.fixture
def here(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Cluster(workdir, first=())


def files_in(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("where", ["host", pytest.param("image", marks=pytest.mark.apptainer)])
def test_members_write_where_they_start_and_a_later_attempt_finds_it(here: Cluster, where: str) -> None:
    if where == "image" and shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    box = IN_IMAGE if where == "image" else ()
    (here.work / "data").mkdir()
    (here.work / "data/base.yaml").write_text("base")
    (here.work / "train.py").write_text(WRITES)

    words = ("job=script", "job.script=train.py", "job.restarts.crash=1", "params.lr=0.1,0.01", "launcher=local")
    run = here.launch("-m", *box, *QUIET, *words)

    here.wait(run)
    frozen = files_in(run / "code/project")
    assert set(frozen) == {"data/base.yaml", "train.py"}
    for member, lr in enumerate(("0.1", "0.01")):
        assert [a["cause"] for a in attempts(run, member)] == ["crash", "succeeded"]
        said = f"--lr={lr}"
        wrote = {"model.joblib": said, "beside.txt": said, "data/copy.yaml": "base"}
        assert files_in(run / f"members/{member}/project") == wrote


@pytest.mark.apptainer
def test_entry_point_writes_anywhere_in_its_image_each_rank_for_itself(here: Cluster) -> None:
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    image = entry_image(here.work, LAYERS, ("sh", "sleep"))
    words = ("job=command", "container=pytorch-cpu", f"container.image={image}", "machine.ranks_per_node=2")
    scratch = here.work / "scratch"

    def launched(*more: str) -> Path:
        argv = ("--config-dir", CONF, "--json", *words, *QUIET, f"site.scratch_dir={scratch}", *more)
        run = Path(json.loads(here.fairlead("launch", *argv, check=False).stdout)["run_dir"])
        here.wait(run)
        return run

    free, closed = launched(), launched("container.writable=false")

    logs = [(free / f"members/0/attempt-0/rank-{rank}.log").read_text() for rank in (0, 1)]
    assert [a["state"] for a in attempts(free)] == ["SUCCEEDED"], logs
    assert logs == ["/etc/of-rank-0 ", "/etc/of-rank-1 "]
    assert [a["state"] for a in attempts(closed)] == ["FAILED"]
    logs = [(closed / f"members/0/attempt-0/rank-{rank}.log").read_text() for rank in (0, 1)]
    assert "Read-only file system" in "".join(logs)
    assert not list(scratch.rglob("layer-*"))


@pytest.mark.apptainer
def test_container_sees_what_was_declared_and_nothing_else(here: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    image, lab, other = entry_image(here.work, LOOKS, ("sh",)), here.work / "lab", here.work / "other"
    for folder in (lab, other):
        folder.mkdir()
        (folder / "file").write_text("")
    monkeypatch.setenv("UNDECLARED", "of-the-host")
    monkeypatch.setenv("PASSED", "of-the-host")
    monkeypatch.setenv("APPTAINER_BIND", str(other))
    words = ("job=command", "container=pytorch-cpu", f"container.image={image}", *QUIET)
    before = here.launch(*words)
    here.wait(before)
    look = [before / "members/0", lab / "file", other / "file", Path.home() / ".bashrc", ROOT / "README.md"]

    run = here.launch(
        *words, f"site.binds=[{lab},/not/on/this/node]", "container.host_env=[PASSED]",
        f"container.env.LOOK_AT={' '.join(map(str, look))}",
        f"container.env.WRITE_TO={lab}",
    )  # fmt: skip

    here.wait(run)
    assert [a["state"] for a in attempts(run)] == ["SUCCEEDED"]
    said = (run / "members/0/attempt-0/rank-0.log").read_text().splitlines()
    mine = run / "members/0"
    writes = [f"writes to {mine}", f"writes to {mine}/model/"]
    assert said == ["undeclared= passed=of-the-host", f"sees {lab}/file", *writes]
