"""Variables of the site's file: every rank has them as they are written, in a container and without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from launchers.run_folder.record import read_json
from tests.cluster.harness import ROOT, Cluster, attempts

VALUES = {"FABRIC_IFACE": "eth0", "FABRIC_HINT": "a 'quoted' $HOME $(id) `id` ü,=", "BOTH": "of the site"}
SAYS = """
import json, os, pathlib
if not pathlib.Path("/.singularity.d").exists():
    above = pathlib.Path(f"/proc/{os.getppid()}/environ").read_bytes()
    print(json.dumps([name for name in ("FABRIC_IFACE", "BOTH") if name.encode() in above]))
print(json.dumps({name: os.environ.get(name) for name in ("FABRIC_IFACE", "FABRIC_HINT", "BOTH")}))
"""
JOB = ("job=script", "job.script=says.py", "tracking=none", "job.metrics.kind=none", "machine.ranks_per_node=2")


@pytest.fixture
def here(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A folder whose configuration has a site."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (workdir / "conf/site").mkdir(parents=True)
    site = {"name": "lab", "env": VALUES, "images_dir": "/tmp/fairlead-test-images"}
    site |= {"image_build": {"bootstrap": "localimage", "base": "/tmp/fairlead-test-base", "options": ["--fakeroot"]}}
    (workdir / "conf/site/lab.yaml").write_text(json.dumps(site))
    (workdir / "says.py").write_text(SAYS)
    return Cluster(workdir, first=("--config-dir", str(workdir / "conf"), "site=lab"))


@pytest.mark.parametrize("where", ["host", pytest.param("image", marks=pytest.mark.apptainer)])
def test_every_rank_has_the_variables_of_the_site_and_the_containers_come_before(here: Cluster, where: str) -> None:
    if where == "image" and shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    box = ("container=pytorch-cpu",) if where == "image" else ()

    run = here.launch(*JOB, *box, "container.env.BOTH='of the container'")
    here.wait(run)

    logs = [(run / f"members/0/attempt-0/rank-{rank}.log").read_text() for rank in (0, 1)]
    assert [a["state"] for a in attempts(run)] == ["SUCCEEDED"], logs
    seen = {**VALUES, "BOTH": "of the container"}
    assert [json.loads(log.splitlines()[-1]) for log in logs] == [seen, seen]


def test_variables_of_the_site_are_the_ranks_alone_and_no_secrets(here: Cluster) -> None:
    run = here.launch(*JOB)
    here.wait(run)

    (pool,) = read_json(run / "plan.json")["plans"][0]["pools"]
    assert {name: pool["env"][name] for name in VALUES} == VALUES
    assert read_json(run / "spec.json")["secrets"] == {} and read_json(run / "plan.json")["plans"][0]["secrets"] == {}
    assert [a["state"] for a in attempts(run)] == ["SUCCEEDED"]
    first, _ = (run / "members/0/attempt-0/rank-0.log").read_text().splitlines()[-2:]
    assert json.loads(first) == [], "who starts it has none of them"
    assert VALUES["FABRIC_HINT"] not in (run / "provenance.json").read_text()
    refused = here.fairlead("plan", *here.first, *JOB, "site.env.LAB_PASSWORD=hunter2", check=False)
    assert refused.returncode == 2 and "site.env.LAB_PASSWORD looks like a secret" in refused.stderr
    refused = here.fairlead("plan", *here.first, *JOB, "secrets.FABRIC_IFACE.env=HOME", check=False)
    assert refused.returncode == 2 and "and site.env sets that, too" in refused.stderr
