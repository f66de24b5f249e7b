"""hydra/launcher=fairlead and hydra/sweeper=fairlead with real applications: grids, searches, what fails, detached."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.harness import until
from tests.conftest import ROOT
from tests.launchers.hydra_apps import BOTH, HERE, Application, make

OPTUNA_LIKE = """
from dataclasses import dataclass
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

class Batches(Sweeper):
    '''As other people's sweepers do: batch after batch, looking at what came back.'''
    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments):
        first = self.launcher.launch([["lr=0.5", *arguments], ["lr=0.75", *arguments]], initial_job_idx=0)
        second = self.launcher.launch([["lr=1", "x=13", *arguments], ["lr=2", "x=14"]], initial_job_idx=2)
        for each in (*first, *second):
            value = each.return_value if each.status.name == "COMPLETED" else "failed"
            print("BACK", each.overrides, each.status.name, value, each.cfg and each.cfg.lr, each.task_name,
                  each.hydra_cfg and each.hydra_cfg.hydra.job.num)

@dataclass
class Conf:
    _target_: str = "hydra_plugins.batches.Batches"

ConfigStore.instance().store(group="hydra/sweeper", name="batches", node=Conf)
"""


@pytest.fixture
def app(workdir: Path) -> Application:
    return make(workdir / "project")


def test_plugin_grid_is_one_job_whose_members_are_hydras_jobs(app: Application) -> None:
    said = app(*BOTH, "lr=0.25,0.75", "optimizer=glob(*)", "name='a, b'").stdout

    (run,) = app.runs()
    assert run.name in said and run.name.startswith("app-")
    assert [app.seen(i)[0] for i in range(4)] == ["0", "1", "2", "3"]
    assert {app.seen(i)[1] for i in range(4)} == {"MULTIRUN"}
    assert len({app.seen(i)[2] for i in range(4)}) == 4
    assert [app.yaml(f"{i}/.hydra/config.yaml")["lr"] for i in range(4)] == [0.25, 0.25, 0.75, 0.75]
    assert [app.yaml(f"{i}/.hydra/config.yaml")["optimizer"]["rate"] for i in range(4)] == [0.2, 0.1, 0.2, 0.1]
    assert {app.seen(i)[4] for i in range(4)} == {"a, b"}
    assert app.yaml("3/.hydra/overrides.yaml") == ["name='a, b'", "lr=0.75", "optimizer=sgd"]
    assert app.yaml("multirun.yaml")["hydra"]["launcher"]["launcher"] == "local"


def test_plugin_jobs_have_the_output_folders_and_options_of_the_command_line(app: Application) -> None:
    (app.folder / "other").mkdir()
    (app.folder / "other" / "extra.yaml").write_text("lr: 0.125\nx: 1\nname: other\noptimizer: {rate: 3}\n")
    words = ("hydra.sweep.subdir=${hydra.job.override_dirname}", "hydra.job.chdir=true")

    replace(app, options=("--config-dir", "other", "-cn", "extra"))(*BOTH, *words, "x=2,3")

    assert app.seen("x=2")[3:] == ["x=2", "other"]
    assert app.seen("x=3")[0] == "1"


def test_plugin_application_started_as_a_module_is_started_so_again(app: Application) -> None:
    package = app.folder / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "start.py").write_text((app.folder / "app.py").read_text().replace('"conf"', '"../conf"'))

    replace(app, how=("-m", "mine.start"))(*BOTH, "x=1,2")

    assert [app.seen(i)[0] for i in (0, 1)] == ["0", "1"]


def test_plugin_works_beside_packages_of_the_same_names_as_ours(app: Application) -> None:
    for name in ("conf", "launchers", "trainer"):
        (app.folder / name).mkdir(exist_ok=True)
        (app.folder / name / "__init__.py").write_text("raise ImportError('this is the application own')\n")

    replace(app, path=f"{app.folder}:{app.path}")(*BOTH, "x=1,2")

    assert app.seen(1)[0] == "1"


def test_plugin_other_sweepers_get_honest_returns_batch_after_batch(app: Application, tmp_path: Path) -> None:
    plugins = tmp_path / "others" / "hydra_plugins"
    plugins.mkdir(parents=True)
    (plugins / "batches.py").write_text(OPTUNA_LIKE)

    said = replace(app, path=f"{app.path}:{plugins.parent}")(*HERE, "hydra/sweeper=batches").stdout

    assert [line for line in said.splitlines() if line.startswith("BACK")] == [
        "BACK ['lr=0.5'] COMPLETED 0.0625 0.5 app 0",
        "BACK ['lr=0.75'] COMPLETED 0.25 0.75 app 1",
        "BACK ['lr=1', 'x=13'] FAILED failed 1 app 2",
        "BACK ['lr=2', 'x=14'] COMPLETED None 2 app 3",
    ]
    assert app.seen(3)[0] == "3"


def test_plugin_job_that_fails_ends_the_command_with_its_own_words(app: Application) -> None:
    said = app(*BOTH, "x=12,13", code=1)

    assert "job 1 is FAILED: user_error: ValueError: thirteen" in said.stderr
    assert "Traceback" in said.stderr and "JobFailed" not in said.stderr
    assert app.seen(0)[0] == "0"


def test_plugin_detached_says_what_is_queued_and_invents_nothing(app: Application) -> None:
    said = app(*BOTH, "hydra.launcher.detach=true", "x=1,2").stdout

    (run,) = app.runs()
    assert f"queued, and nothing has ended yet: fairlead status {run.name}" in said
    argv = [sys.executable, "-m", "launchers.cli", "wait", str(run), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert json.loads(done.stdout)["state"] == "SUCCEEDED"


def test_plugin_interrupted_ends_what_runs_here(app: Application) -> None:
    program = app.folder / "app.py"
    stays = "import time; time.sleep(600)\n    if cfg.x == 13"
    program.write_text(program.read_text().replace("if cfg.x == 13", stays))
    argv = [sys.executable, "app.py", "-m", "hydra.sweep.dir=out", *BOTH, "x=1,2"]
    env = {**os.environ, "PYTHONPATH": app.path}
    with subprocess.Popen(argv, cwd=app.folder, env=env, stderr=subprocess.DEVNULL, start_new_session=True) as started:
        until(lambda: all((app.folder / "out" / each / "seen.txt").exists() for each in "01"), 150)
        os.killpg(started.pid, signal.SIGINT)
        assert started.wait(timeout=90) != 0

    (run,) = app.runs()
    until(lambda: len(list(run.glob("members/*/attempt-0/outcome.json"))) == 2, 150)
    states = [json.loads(p.read_text())["state"] for p in run.glob("members/*/attempt-0/outcome.json")]
    assert states == ["CANCELLED", "CANCELLED"]


def test_plugin_search_asks_late_and_writes_what_it_found(app: Application) -> None:
    words = ("hydra.sweeper.trials=6", "lr=interval(0,1)", "optimizer=sgd,adam", "optimizer.rate=choice(1,2)", "x=2")

    said = app(*BOTH, *words).stdout

    found = app.yaml("optimization_results.yaml")
    (run,) = app.runs()
    points = [json.loads(p.read_text()) for p in run.glob("members/*/point.json")]
    assert run.name == "app.v1" and len(points) == 6
    assert all(set(each["sections"]) == {"params"} for each in points)
    values = {(each["point"]["params.lr"] - 0.25) ** 2 for each in points}
    assert found["best_evaluated_result"] == pytest.approx(min(values))
    assert set(found["best_evaluated_params"]) == {"lr", "optimizer", "optimizer.rate"}
    assert f"best: trial {found['best_trial']}" in said
    assert app.yaml("5/.hydra/config.yaml")["x"] == 2


def test_plugin_search_again_goes_on_and_another_space_is_refused(app: Application) -> None:
    search = (*BOTH, "hydra.sweeper.algorithm=random")
    app(*search, "hydra.sweeper.trials=2", "lr=interval(0,1)")

    app(*search, "hydra.sweeper.trials=3", "lr=interval(0,1)")
    said = app(*search, "hydra.sweeper.trials=3", "lr=interval(0,2)", code=1).stderr

    assert [run.name for run in app.runs()] == ["app.v1"]
    assert len(list(app.runs()[0].glob("members/*/attempt-*"))) == 3
    assert "lr: max 1 -> 2" in said and "+hydra.sweeper.sweep.new_version=true" in said


def test_plugin_search_with_several_goals_has_a_pareto_set(app: Application) -> None:
    sweep = "{algorithm:random,parameters:{lr:{type:double,min:0,max:1}}}"
    words = (f"+hydra.sweeper.sweep={sweep}", "hydra.sweeper.trials=4", "hydra.sweeper.goal=[minimize,maximize]")

    app(*BOTH, *words, "x=15")

    found = app.yaml("optimization_results.yaml")
    assert set(found["best_evaluated_result"]) == {"objective_0", "objective_1"}
    assert len(found["pareto_trials"]) >= 1


def test_plugin_search_that_finds_nothing_is_no_success(app: Application) -> None:
    said = app(*BOTH, "hydra.sweeper.trials=2", "lr=interval(0,1)", "x=14", code=1).stderr

    assert "the search has found nothing" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*BOTH, "lr=interval(0,1)"), "nothing says how many trials"),
        ((*BOTH, "lrr=1,2"), "Could not override 'lrr'"),
        ((*BOTH, "optimizer=sgd,adm"), "optimizer/adm"),
        ((*BOTH, "hydra.sweeper.trials=2", "lrr=interval(0,1)"), "Could not override 'lrr'"),
        ((*BOTH, "hydra.launcher.machine=gpu-77", "x=1,2"), "where  override hydra.launcher.machine=gpu-77"),
        ((*BOTH, "hydra.sweeper.trials=2", "lr=tag(log,interval(0,1))"), "lr has scale log and min 0"),
        ((*BOTH, "hydra.sweeper.trials=2", "+new=interval(0,1)"), "give new a value in its YAML"),
        (("hydra/sweeper=fairlead", "lr=interval(0,1)"), "add hydra/launcher=fairlead"),
        ((*HERE, "lr=interval(0,1)"), "add hydra/sweeper=fairlead"),
    ],
)
def test_plugin_mistake_is_told_before_anything_is_queued(app: Application, words: tuple[str, ...], said: str) -> None:
    error = app(*words, code=1).stderr

    assert said in error and "Traceback" not in error
    assert app.runs() == []


def test_plugin_keys_of_submitits_launcher_are_told_by_what_takes_their_place(app: Application) -> None:
    words = (
        "hydra.launcher.timeout_min=60",
        "hydra.launcher.array_parallelism=8",
        "hydra.launcher.setup=[module load]",
    )

    error = app(*HERE, *words, "x=1,2", code=1).stderr

    assert "add machine.time_limit_min=60 to the list hydra.launcher.overrides" in error
    assert "write hydra.launcher.max_parallel=8" in error and "`setup:` in a site file" in error
    assert app.runs() == []


def test_plugin_application_that_would_not_be_in_the_snapshot_is_refused(app: Application) -> None:
    (app.folder / "conf" / "app.py").write_text((app.folder / "app.py").read_text().replace('"conf"', '"."'))

    said = replace(app, how=("conf/app.py",))(*BOTH, "x=1,2", code=1).stderr

    assert "conf/app.py would not be among the files that are frozen with the job" in said
    assert app.runs() == []
