"""A Hydra application on the real cluster through the plugin: arrays, a search, and a container that has only Hydra."""

from __future__ import annotations

import json
import os
import sysconfig
from pathlib import Path

import pytest

from tests.cluster.harness import TESTBED, Cluster
from tests.launchers.hydra_apps import Application, make

pytestmark = pytest.mark.slurm
ON_SLURM = (
    "hydra/launcher=fairlead",
    "hydra/sweeper=fairlead",
    "hydra.launcher.site=testbed",
    "hydra.launcher.machine=cpu-small",
    f"hydra.launcher.config_dir={TESTBED}/conf",
)
UNTRACKED = 'hydra.launcher.overrides=["tracking=none"]'


@pytest.fixture
def app(cluster: Cluster) -> Application:
    """Its path is what the fixture `cluster` sets, and the plugin's."""
    return make(cluster.work / "project")


def _arrays(run: Path) -> int:
    rows = [json.loads(line) for line in (run / "submit.jsonl").read_text().splitlines()]
    return sum(1 for row in rows if row.get("kind") == "members")


def test_grid_of_an_application_is_one_array_and_returns_when_it_has_ended(app: Application) -> None:
    app(*ON_SLURM, UNTRACKED, "lr=0.25,0.5,0.75", "optimizer=sgd,adam", timeout_s=240)

    (run,) = app.runs()
    assert _arrays(run) == 1
    assert [app.seen(i)[0] for i in range(6)] == [str(i) for i in range(6)]
    assert [app.yaml(f"{i}/.hydra/config.yaml")["lr"] for i in range(6)] == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_failed_member_of_an_application_is_told_by_name(app: Application) -> None:
    said = app(*ON_SLURM, UNTRACKED, "x=1,13", code=1, timeout_s=240).stderr

    assert "job 1 is FAILED: user_error: ValueError: thirteen" in said


def test_search_of_an_application_needs_nobody_on_the_login_node(app: Application, cluster: Cluster) -> None:
    words = ("hydra.sweeper.trials=6", "hydra.launcher.max_parallel=2", "lr=interval(0,1)")

    app(*ON_SLURM, UNTRACKED, "hydra.launcher.detach=true", *words, timeout_s=240)
    (run,) = app.runs()
    end = cluster.wait(run)

    assert (end["state"], len(end["members"])) == ("SUCCEEDED", 6)
    best = json.loads(cluster.fairlead("best", str(run), "--json").stdout)["best"]
    assert best["values"]["objective"] == pytest.approx((best["point"]["params.lr"] - 0.25) ** 2)
    app(*ON_SLURM, UNTRACKED, *words, timeout_s=240)
    assert app.runs() == [run] and app.yaml("optimization_results.yaml")["best_trial"] == best["trial"]


@pytest.mark.apptainer
def test_application_in_a_container_finds_its_callback_and_writes_its_outputs(app: Application) -> None:
    site, inside = Path(sysconfig.get_path("purelib")), "/usr/local/lib/python3.11/dist-packages"
    binds = ",".join(
        f"{{source:{site / name},target:{inside}/{name}}}"
        for name in ("hydra", "omegaconf", "antlr4", "yaml", "packaging")
    )
    overrides = f'hydra.launcher.overrides=["tracking=none","+container.binds=[{binds}]"]'

    app(*ON_SLURM, overrides, "hydra.launcher.container=pytorch-cpu", "lr=0.25,0.5", timeout_s=400)

    (run,) = app.runs()
    returned = [json.loads(p.read_text())["value"] for p in sorted(run.glob("members/*/attempt-0/returned.json"))]
    assert returned == [0.0, 0.0625]
    assert app.seen(1)[:2] == ["1", "MULTIRUN"]
    assert "python3 app.py" in (run / "members/1/attempt-0/rank.sh").read_text()
    assert os.access(app.folder / "out" / "1" / ".hydra", os.W_OK)
