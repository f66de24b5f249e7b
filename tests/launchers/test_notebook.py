"""JupyterLab as a job on this machine: reached with its token, which stands in no process list and no log."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.cluster.harness import ROOT, Cluster, until
from tests.terminal import commands


@pytest.fixture
def laptop(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Cluster(workdir, first=())


def status_code(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        e.close()
        return e.code


@pytest.mark.timeout(900)
def test_notebook_is_reached_with_its_token_which_no_process_and_no_log_shows(laptop: Cluster) -> None:
    (laptop.work / "mine.txt").write_text("here")
    found = json.loads(laptop.fairlead("notebook", "--json", "job.notice_s=30", timeout_s=280).stdout)
    token = json.loads(Path(found["token_file"]).read_text())["token"]
    run = laptop.work / "runs" / found["job"]
    try:
        contents = f"http://127.0.0.1:{found['port']}/api/contents/mine.txt"
        assert status_code(contents) == 403
        assert status_code(f"{contents}?token={token}") == status_code(found["url"]) == 200
        seen = commands()
        assert "jupyterlab" in seen and token not in seen
        holding = [p for p in run.rglob("*") if p.is_file() and token.encode() in p.read_bytes()]
        assert Path(found["token_file"]) in holding and {p.stat().st_mode & 0o077 for p in holding} == {0}
        assert all("notebook" in p.relative_to(run).parts for p in holding), "it is in no log"
        again = laptop.fairlead("notebook", found["job"]).stdout
        assert found["url"] in again and found["tunnel"] in again and f"fairlead cancel {found['job']}" in again
    finally:
        laptop.fairlead("cancel", found["job"])
    assert laptop.wait(run)["state"] == "SUCCEEDED", "a server that is told to end leaves with 0"
    ended = laptop.fairlead("notebook", found["job"], check=False)
    assert ended.returncode == 1 and "has ended" in ended.stderr


def test_interpreter_that_cannot_install_jupyterlab_is_told_before_anything_begins(laptop: Cluster) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", laptop.work / "bare"], check=True, timeout=60)
    python = f"site.python={laptop.work / 'bare' / 'bin' / 'python'}"
    failed = laptop.fairlead("notebook", python, check=False)

    assert failed.returncode == 3 and "No module named pip" in failed.stderr
    assert not list((laptop.work / "runs").glob("notebook-*"))


def test_notebook_of_several_members_is_refused(laptop: Cluster) -> None:
    refused = laptop.fairlead("notebook", "launcher=slurm", "machine=cpu-small", "machine.nodes=2", check=False)

    assert refused.returncode == 2 and "a notebook is one, on one node" in refused.stderr
    assert until(lambda: not (laptop.work / "runs").exists())
