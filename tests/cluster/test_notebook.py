"""JupyterLab on a compute node, in a container or in an allocation that is held: installed where it lacks, reached over
the network, with a kernel that runs there."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import TESTBED, Cluster, left_of, until
from tests.terminal import commands

pytestmark = [pytest.mark.slurm, pytest.mark.apptainer, pytest.mark.timeout(900)]


def asked(found: dict[str, Any], token: str, path: str, body: dict[str, Any] | None = None, method: str = "GET") -> Any:
    """What the server says, at the node's own address."""
    url = f"http://{found['address']}:{found['port']}{path}"
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def test_notebook_in_an_image_without_jupyterlab_on_a_node(cluster: Cluster) -> None:
    words = ("--config-dir", str(TESTBED / "conf"), "--json", *cluster.first, "container=pytorch-cpu")
    found = json.loads(cluster.fairlead("notebook", *words, timeout_s=600).stdout)
    run = cluster.work / "runs" / found["job"]
    token = json.loads(Path(found["token_file"]).read_text())["token"]
    try:
        assert found["host"] in ("n1", "n2", "n3", "n4") and f":{found['address']}:" in found["tunnel"]
        assert asked(
            found, token, "/api/contents/written.txt", {"type": "file", "format": "text", "content": "x"}, "PUT"
        )
        assert (cluster.work / "written.txt").read_text() == "x"
        kernel = asked(found, token, "/api/kernels", {"name": "python3"}, "POST")["id"]
        until(lambda: asked(found, token, f"/api/kernels/{kernel}")["execution_state"] in ("starting", "idle"))
        page = urllib.request.Request(f"http://{found['address']}:{found['port']}/lab?token={token}")
        with urllib.request.urlopen(page, timeout=60) as answer:
            assert b"jupyter-config-data" in answer.read(), "its pages are there, too"
        seen = commands()
        assert "jupyterlab" in seen and "ipykernel" in seen and token not in seen
    finally:
        cluster.fairlead("cancel", found["job"])
    assert cluster.wait(run)["state"] in ("SUCCEEDED", "CANCELLED")
    (layer,) = (cluster.work / "runs/.layers").glob("fairlead-notebook-*/modules")
    assert (layer / "jupyterlab").is_dir(), "the image has none"


def test_notebook_in_a_held_allocation_begins_at_once_and_leaves_it_free(cluster: Cluster) -> None:
    where = ("--config-dir", str(TESTBED / "conf"), "site=testbed", "machine=cpu-small")
    cluster.fairlead("pool", "up", "mine", *where, "machine.time_limit_min=20", "--wait")
    try:
        limits = ("machine.mem_gb=0.5", "machine.time_limit_min=5", "job.notice_s=10")
        words = ("--json", *where, "launcher=pool", "launcher.pool=mine", *limits)
        found = json.loads(cluster.fairlead("notebook", *words, timeout_s=600).stdout)
        run, (node,) = cluster.work / "runs" / found["job"], nodes_of_pool(cluster)
        token = json.loads(Path(found["token_file"]).read_text())["token"]

        assert found["host"] == node and cluster.queue(found["job"]) == []
        kernel = asked(found, token, "/api/kernels", {"name": "python3"}, "POST")["id"]
        until(lambda: asked(found, token, f"/api/kernels/{kernel}")["execution_state"] in ("starting", "idle"))
        assert token not in commands()
        cluster.fairlead("cancel", found["job"])
        assert cluster.wait(run)["state"] in ("SUCCEEDED", "CANCELLED")
        until(lambda: not left_of(run))
        (row,) = json.loads(cluster.fairlead("pool", "list", "--json").stdout)
        assert (row["state"], row["running"]) == ("UP", [])
    finally:
        cluster.fairlead("pool", "down", "mine", "--force")


def nodes_of_pool(cluster: Cluster) -> list[str]:
    (row,) = json.loads(cluster.fairlead("pool", "list", "--json").stdout)
    return list(row["nodes"])
