"""Pools that run modules, scripts and an image's own entry point, for real on this machine: each replica has the
program that its pool says, and is told who the others are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import ROOT, Cluster, attempts
from tests.launchers.programs import project, wheelhouse
from tests.launchers.test_programs import entry_image

TELLS = """
import json, os, pathlib, sys, time
import {packages}
folder, rank = pathlib.Path(os.environ["AIP_CHECKPOINT_DIR"]), os.environ["RANK"]
told = {{name: os.environ[name] for name in ("CLUSTER_SPEC", "TF_CONFIG", "WORLD_SIZE", "FAIRLEAD_REPLICA")}}
told |= {{"argv": sys.argv[1:], "file": __file__, "imported": [m.__file__ for m in ({packages},)]}}
(folder / f"{{rank}}.part").write_text(json.dumps(told))
(folder / f"{{rank}}.part").rename(folder / f"told-{{rank}}.json")
while os.environ["FAIRLEAD_POOL"] == "workerpool0" and len(list(folder.glob("told-*"))) < int(os.environ["WORLD_SIZE"]):
    time.sleep(0.05)
"""
ENTRY = """
  printf '{"CLUSTER_SPEC": %s, "TF_CONFIG": %s, "argv": "%s"}' "$CLUSTER_SPEC" "$TF_CONFIG" "$*" > "$AIP_CHECKPOINT_DIR/$RANK.part"
  mv "$AIP_CHECKPOINT_DIR/$RANK.part" "$AIP_CHECKPOINT_DIR/told-$RANK.json"
  while [ "$RANK" = 0 ] && [ ! -e "$AIP_CHECKPOINT_DIR/told-1.json" ]; do sleep 0.1; done
  while [ "$RANK" = 0 ] && [ ! -e "$AIP_CHECKPOINT_DIR/told-2.json" ]; do sleep 0.1; done
"""  # noqa: E501
ROLES = {"workerpool0": "chief", "workerpool1": "worker", "workerpool2": "ps", "workerpool3": "evaluator"}
PLACES = [("workerpool0", 0), ("workerpool1", 0), ("workerpool1", 1)]


@pytest.fixture
def here(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Cluster(workdir, ("launcher=local", "tracking=none", "job.metrics.kind=none"))


def told_in(run: Path, places: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """What each rank was told, which agrees with the others and is of its own place."""
    assert [a["state"] for a in attempts(run)] == ["SUCCEEDED"], (run / "members/0/attempt-0/rank-0.log").read_text()
    folder = run / "members/0/checkpoints"
    told = [json.loads((folder / f"told-{rank}.json").read_text()) for rank in range(len(places))]
    specs, configs = ([_document(each[name]) for each in told] for name in ("CLUSTER_SPEC", "TF_CONFIG"))
    assert [(spec["task"]["type"], spec["task"]["index"]) for spec in specs] == places
    assert [c["task"] for c in configs] == [{"type": ROLES[p], "index": i} for p, i in places]
    count = {pool: sum(name == pool for name, _ in places) for pool in dict.fromkeys(name for name, _ in places)}
    for spec, config in zip(specs, configs, strict=True):
        assert spec["cluster"] == specs[0]["cluster"] and config["cluster"] == configs[0]["cluster"]
        assert {pool: len(addresses) for pool, addresses in spec["cluster"].items() if addresses} == count
        assert set(config["cluster"]) == {ROLES[pool] for pool in count} - {"evaluator"}
    return told


def _document(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def test_pools_of_a_module_have_its_one_installation_and_arguments_of_their_own(here: Cluster) -> None:
    project(here.work / "mine", {"mine/__init__.py": "", "mine/task.py": TELLS.format(packages="greeting")})
    house = wheelhouse(here.work / "house")
    workers = "{machine: {nodes: 2}, job: {arguments: [worker]}}"

    run = here.launch(
        "job=module", "job.source=mine", "job.module=mine.task", f"job.wheelhouse={house}", "job.arguments=[chief]",
        f"pools=[{{}},{workers}]",
    )  # fmt: skip

    here.wait(run)
    told = told_in(run, PLACES)
    assert [each["argv"] for each in told] == [["chief"], ["worker"], ["worker"]]
    (layer,) = (here.work / "runs/.layers").glob("*/modules")
    assert {each["file"] for each in told} == {f"{layer}/mine/task.py"}
    assert {name for each in told for name in each["imported"]} == {f"{layer}/greeting.py"}


def test_pools_of_scripts_a_command_and_a_gap_have_the_snapshots_files(here: Cluster) -> None:
    (here.work / "shared.py").write_text("")
    for name in ("chief", "worker", "judge"):
        (here.work / f"{name}.py").write_text(TELLS.format(packages="shared"))
    workers = "{machine: {nodes: 2}, job: {script: worker.py, arguments: [a b]}}"
    judge = "{machine: {nodes: 1}, job: {base: command, command: [python3, judge.py]}}"

    run = here.launch("job=script", "job.script=chief.py", f"pools=[{{}},{workers},{{}},{judge}]")

    here.wait(run)
    told = told_in(run, [*PLACES, ("workerpool3", 0)])
    code = run / "members/0/project"
    files = [str(code / name) for name in ("chief.py", "worker.py", "worker.py")]
    assert [each["file"] for each in told[:3]] == files and Path(code, told[3]["file"]) == code / "judge.py"
    assert [each["argv"] for each in told] == [[], ["a b"], ["a b"], []]
    assert {name for each in told for name in each["imported"]} == {str(code / "shared.py")}


def test_pools_of_several_sources_have_each_its_own_installation(here: Cluster) -> None:
    """The same one twice is installed once."""
    for name in ("mine", "other"):
        files = {f"{name}/__init__.py": "", f"{name}/task.py": TELLS.format(packages="greeting")}
        project(here.work / name, files, name=name)
    house = wheelhouse(here.work / "house")
    own = f"job: {{base: module, source: other, module: other.task, wheelhouse: {house}}}"

    run = here.launch(
        "job=module", "job.source=mine", "job.module=mine.task", f"job.wheelhouse={house}",
        f"pools=[{{}},{{machine: {{nodes: 2}}, {own}}},{{}},{{machine: {{nodes: 1}}}}]",
    )  # fmt: skip

    here.wait(run)
    told = told_in(run, [*PLACES, ("workerpool3", 0)])
    layers = {path.parent.name.rpartition("-")[0]: path for path in (here.work / "runs/.layers").glob("*/modules")}
    assert set(layers) == {"mine", "other"}
    names = ["mine", "other", "other", "mine"]
    assert [each["file"] for each in told] == [f"{layers[name]}/{name}/task.py" for name in names]
    assert [each["imported"] for each in told] == [[f"{layers[name]}/greeting.py"] for name in names]
    installed = json.loads((run / "provenance.json").read_text())["installed"]
    assert [(each["folder"], each["pools"]) for each in installed] == [
        (str(layers["mine"]), ["workerpool0", "workerpool3"]),
        (str(layers["other"]), ["workerpool1"]),
    ]


def test_pools_of_a_module_and_of_a_script_beside_it(here: Cluster) -> None:
    project(here.work / "mine", {"mine/__init__.py": "", "mine/task.py": TELLS.format(packages="greeting")})
    (here.work / "worker.py").write_text(TELLS.format(packages="json"))
    house = wheelhouse(here.work / "house")
    workers = "{machine: {nodes: 2}, job: {base: script, script: worker.py}}"

    run = here.launch(
        "job=module", "job.source=mine", "job.module=mine.task", f"job.wheelhouse={house}", f"pools=[{{}},{workers}]"
    )

    here.wait(run)
    told = told_in(run, PLACES)
    assert Path(told[0]["file"]).name == "task.py"
    assert [each["file"] for each in told[1:]] == [str(run / "members/0/project/worker.py")] * 2


@pytest.mark.apptainer
def test_pools_of_an_images_own_entry_point_and_of_a_command_in_it(here: Cluster) -> None:
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    image = entry_image(here.work, ENTRY, ("sh", "grep", "mv", "sleep"))
    workers = "{machine: {nodes: 2}, job: {arguments: [as, worker]}}"

    run = here.launch(
        "job=command", "container=pytorch-cpu", f"container.image={image}", "job.arguments=[as,chief]",
        f"pools=[{{}},{workers}]",
    )  # fmt: skip

    here.wait(run)
    assert [each["argv"] for each in told_in(run, PLACES)] == ["as chief", "as worker", "as worker"]


FINDS = """
import json, os, pathlib, time
folder = pathlib.Path(os.environ["AIP_CHECKPOINT_DIR"])
(folder / f"{os.environ['RANK']}.part").write_text(json.dumps(dict(os.environ)))
(folder / f"{os.environ['RANK']}.part").rename(folder / f"told-{os.environ['RANK']}.json")
while os.environ["RANK"] == "0" and len(list(folder.glob("told-*"))) < int(os.environ["WORLD_SIZE"]):
    time.sleep(0.05)
"""


def test_plan_shows_each_replica_what_it_will_find_and_their_ports_differ(here: Cluster) -> None:
    (here.work / "finds.py").write_text(FINDS)
    workers = "{machine: {nodes: 2}, container: {env: {MINE: workers}}}"
    words = ("job=script", "job.script=finds.py", f"pools=[{{}},{workers},{{machine: {{nodes: 1}}}}]", "name=told")

    run = here.launch(*words)

    here.wait(run)
    found = [json.loads((run / f"members/0/checkpoints/told-{rank}.json").read_text()) for rank in range(4)]
    for rank, seen in enumerate(found):
        planned = json.loads(here.fairlead("plan", *here.first, *words, "--rank", str(rank), "--json").stdout)
        said = {k: v.replace("told-planned", run.name) for k, v in planned["environment"].items() if "<" not in v}
        assert {name: seen.get(name) for name in said} == said
        pool = "workerpool1" if rank in (1, 2) else f"workerpool{rank and 2}"
        assert (said["FAIRLEAD_POOL"], said.get("MINE")) == (pool, "workers" if rank in (1, 2) else None)
    ports = [seen[name] for seen in found for name in ("AIP_TF_PROFILER_PORT", "AIP_HTTP_HANDLER_PORT")]
    assert len(set(ports)) == 8
