"""A search that begins with the trials of earlier jobs: which it takes, what it refuses, and that it keeps them."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.sweep_schema import Parameter
from launchers.errors import SpecError
from launchers.freeze import freeze
from launchers.jobs.status import status_of
from launchers.launch import Request, checked, submit
from launchers.plan import Plan
from launchers.run_folder.record import Run, read_json, read_lines
from launchers.search.ask import ask
from launchers.search.best import best
from launchers.search.extend import Wish, extend
from launchers.search.known import trial_of
from launchers.search.report import report
from launchers.search.standing import standing_of
from launchers.search.study import Study
from launchers.search.warm_start import counts
from tests.cluster.harness import ROOT, Cluster
from tests.cluster.searching import searching, trials_of
from tests.launchers.tried import asked_late, ended, frozen, make_search, search_of, tried

SEARCH = """\
kind: search
algorithm: tpe
trials: 20
startup_trials: 5
parameters:
  optimizer.lr: {type: double, min: 1.0e-4, max: 1.0e-1, scale: log}
"""
WIDTH = "model.width=int(interval(4,64))"
LR = {"optimizer.lr": Parameter(type="double", min=1e-6, max=1.0, scale="log")}


@pytest.fixture
def conf(workdir: Path) -> Path:
    """A folder of groups that has the search `mine`."""
    (workdir / "conf" / "sweep").mkdir(parents=True)
    (workdir / "conf" / "sweep" / "mine.yaml").write_text(SEARCH)
    return workdir / "conf"


@pytest.fixture
def earlier(workdir: Path) -> Run:
    """`lr.v1`: eight trials over the learning rate, of which the two at 0.01 and 0.02 are the best, one failed."""
    run = make_search(workdir / "runs", search_of(8, parameters=LR), job="lr.v1")
    for i, rate in enumerate([1e-5, 1e-4, 1e-3, 0.01, 0.02, 0.1, 0.5]):
        tried(run, i, {"optimizer.lr": rate}, {"val/accuracy": 1 - abs(rate - 0.015)})
    tried(run, 7, {"optimizer.lr": 0.01}, state="FAILED", cause="user_error", message="ValueError: no")
    return run


def words(*overrides: str) -> Request:
    named = ("experiment=digits", "sweep=mine", *overrides)
    return Request(overrides=named, config_dirs=(Path("conf"),))


def begun(*overrides: str) -> tuple[Run, Plan]:
    """A search as `launch` freezes it, before it is queued."""
    run, plans = freeze(checked(words(*overrides)), Path("runs").resolve(), "new.v1")
    return run, plans[0]


def points(run: Run) -> list[dict[str, Any]]:
    return [row["trial"]["point"] for row in read_lines(run.path / "study" / "extra.jsonl")]


def problems(*overrides: str) -> list[tuple[str, str, str]]:
    with pytest.raises(SpecError) as caught:
        checked(words(*overrides))
    assert all(len(str(problem).splitlines()) == 3 for problem in caught.value.problems)
    return [(problem.what, problem.where, problem.do) for problem in caught.value.problems]


# --- what is taken ------------------------------------------------------------------------------------


def test_launch_writes_the_trials_that_fit_and_says_which_do_not(conf: Path, earlier: Run) -> None:
    wanted = checked(words("sweep.warm_start=[lr.v1]"))
    run, _ = begun("sweep.warm_start=[lr.v1]")

    assert [str(each) for each in wanted.earlier] == [
        "5 of 8 trials of lr.v1: 2 out of the new range of optimizer.lr, 1 failed"
    ]
    kept = [trial_of(row) for row in read_lines(run.path / "study" / "extra.jsonl")]
    assert kept == Study(earlier).trials()[1:6], "points, reports and times as the earlier job has them"
    assert counts(run) == {"lr.v1": 5}


@pytest.mark.parametrize("name", ["lr.v1", "lr", "runs/lr.v1", "{here}/runs/lr.v1"])
def test_job_is_named_by_its_id_the_beginning_of_it_or_its_folder(conf: Path, earlier: Run, name: str) -> None:
    run, _ = begun(f"sweep.warm_start=['{name.format(here=Path.cwd())}']")

    assert len(points(run)) == 5


def test_several_jobs_may_be_named_in_yaml(conf: Path, earlier: Run) -> None:
    other = make_search(Path("runs").resolve(), search_of(1, parameters=LR), job="other.v1")
    tried(other, 0, {"optimizer.lr": 0.03}, {"val/accuracy": 0.5})
    (conf / "sweep" / "mine.yaml").write_text(f"{SEARCH}warm_start: [other.v1, lr.v1]\n")

    run, _ = begun()

    assert counts(run) == {"other.v1": 1, "lr.v1": 5}
    assert "5 trials of lr.v1" in report(run).read_text()


def test_search_without_warm_start_has_none(conf: Path, earlier: Run) -> None:
    run, _ = begun()

    assert not (run.path / "study" / "extra.jsonl").exists()
    assert "It began with" not in report(run).read_text()


def test_parameter_that_the_earlier_job_fixed_comes_from_its_spec(conf: Path, earlier: Run) -> None:
    run, _ = begun("sweep.warm_start=[lr.v1]", WIDTH)

    assert points(run) == [{"optimizer.lr": rate, "model.width": 16} for rate in (1e-4, 1e-3, 0.01, 0.02, 0.1)]


def test_option_of_a_group_that_the_earlier_search_fixed_is_known(conf: Path) -> None:
    old = frozen(Path("runs").resolve(), "experiment=digits", "model=mlp", "sweep=mine", config_dirs=[conf], job="old")
    asked_late(old, 0, {"optimizer.lr": 0.01})
    ended_with(old, 0, 0.9)

    run, _ = begun("sweep.warm_start=[old]", "+sweep.parameters.model={type: categorical, values: [cnn, mlp]}")

    assert points(run) == [{"optimizer.lr": 0.01, "model": "mlp"}]


def test_option_of_a_group_that_was_not_searched_for_a_trial_is_that_of_the_launch(conf: Path) -> None:
    """Where one group is a parameter only at one option of another."""
    optimizers = "+sweep.parameters.optimizer={type: categorical, values: [sgd, adamw]}"
    models = "+sweep.parameters.model={type: categorical, values: [cnn, mlp], when: {optimizer: [sgd]}}"
    overrides = ("experiment=digits", "model=mlp", "sweep=mine", optimizers, models)
    old = frozen(Path("runs").resolve(), *overrides, config_dirs=[conf], job="old")
    for i, point in enumerate([{"optimizer": "sgd", "model": "cnn"}, {"optimizer": "adamw"}]):
        asked_late(old, i, {"optimizer.lr": 0.01, **point})
        ended_with(old, i, 0.9)

    run, _ = begun("sweep.warm_start=[old]", "+sweep.parameters.model={type: categorical, values: [cnn, mlp]}")

    assert [point["model"] for point in points(run)] == ["cnn", "mlp"]


def test_value_that_a_trial_owed_to_its_choice_of_group_is_the_trials_own(conf: Path) -> None:
    """Each option of the group has a momentum of its own, or none."""
    groups = "+sweep.parameters.optimizer={type: categorical, values: [sgd, adamw]}"
    old = frozen(Path("runs").resolve(), "experiment=digits", "sweep=mine", groups, config_dirs=[conf], job="old")
    for i, name in enumerate(["sgd", "adamw"]):
        asked_late(old, i, {"optimizer.lr": 0.01, "optimizer": name})
        ended_with(old, i, 0.9)
    fixed = read_json(old.member(0).point)["sections"]["optimizer"]["options"]["momentum"]

    wanted = checked(words("optimizer=sgd", "sweep.warm_start=[old]", "optimizer.momentum=interval(0.0,0.99)"))

    assert [dict(t.point) for t in wanted.earlier[0].taken.trials] == [
        {"optimizer.lr": 0.01, "optimizer.momentum": fixed}
    ]
    assert wanted.earlier[0].taken.left_out == {"without a value of optimizer.momentum": 1}


def test_grid_gives_its_points_also_with_numbers_that_yaml_reads_as_words(conf: Path) -> None:
    (conf / "sweep" / "rates.yaml").write_text("kind: grid\nproduct: {optimizer.lr: [1e-3, 0.01, 5]}\n")
    grid = frozen(Path("runs").resolve(), "experiment=digits", "sweep=rates", config_dirs=[conf], job="grid")
    for i in range(3):
        ended_with(grid, i, 0.5 + i / 10)

    wanted = checked(words("sweep.warm_start=[grid]"))

    assert [dict(t.point) for t in wanted.earlier[0].taken.trials] == [{"optimizer.lr": 0.001}, {"optimizer.lr": 0.01}]
    assert str(wanted.earlier[0]) == "2 of 3 trials of grid: 1 out of the new range of optimizer.lr"


def test_metric_that_only_the_new_search_constrains_is_read_from_what_trials_reported(conf: Path) -> None:
    old = make_search(Path("runs").resolve(), search_of(2, parameters=LR), job="old.v1")
    tried(old, 0, {"optimizer.lr": 0.01}, {"val/accuracy": 0.5}, {"val/accuracy": 0.9, "val/loss": 3.0})
    tried(old, 1, {"optimizer.lr": 0.02}, {"val/accuracy": 0.8})
    Study(old).remember(Study(old).trials())  # where they are known without it

    wanted = checked(words("sweep.warm_start=[old.v1]", "+sweep.constraints=[{metric: val/loss, max: 2}]"))

    (kept,) = wanted.earlier[0].taken.trials
    assert kept.reports[-1].metrics == {"val/accuracy": 0.9, "val/loss": 3.0}
    assert str(wanted.earlier[0]).endswith(": 1 without a value of val/loss")


def ended_with(run: Run, index: int, accuracy: float) -> None:
    """What a supervisor and a trainer leave of a member that has its point."""
    attempt = run.member(index).path / "attempt-0"
    attempt.mkdir(mode=0o700, parents=True)
    row = {"t": 1000, "step": 1, "metrics": {"val/accuracy": accuracy}}
    (attempt / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    ended(run, index, {"val/accuracy": accuracy})


# --- what is refused ----------------------------------------------------------------------------------


def test_job_that_is_not_there_is_refused_with_the_nearest(conf: Path, earlier: Run) -> None:
    ((what, where, do),) = problems("sweep.warm_start=[lr.v2]")

    assert (what, where) == ("there is no job 'lr.v2'", "override sweep.warm_start=[lr.v2]")
    assert do.startswith("did you mean lr.v1?")


def test_mistake_in_yaml_is_told_with_its_line(conf: Path, earlier: Run) -> None:
    (conf / "sweep" / "mine.yaml").write_text(f"{SEARCH}warm_start:\n- lr.v1\n- nothing\n")

    ((what, where, _),) = problems()

    assert what == "there is no job 'nothing'"
    assert re.search(r"conf/sweep/mine\.yaml:\d+ sweep\.warm_start\.1   \(chosen by: sweep=mine\)$", where)


def test_single_run_is_refused(conf: Path, earlier: Run) -> None:
    frozen(Path("runs").resolve(), "experiment=digits", job="alone")

    ((what, _, do),) = problems("sweep.warm_start=[alone]")

    assert what == "alone is a single run: it has nothing to be compared with"
    assert do.startswith("name a search, or a grid")


@pytest.mark.parametrize("objective", ["{metric: val/loss, goal: maximize}", "{metric: val/accuracy, goal: minimize}"])
def test_other_objective_is_refused_with_both(conf: Path, earlier: Run, objective: str) -> None:
    metric, goal = re.findall(r": ([\w/]+)", objective)

    ((what, _, do),) = problems("sweep.warm_start=[lr.v1]", f"objective.metric={metric}", f"objective.goal={goal}")

    assert what == f"lr.v1 was to maximize val/accuracy, and this search is to {goal} {metric}"
    assert "same objective" in do


def test_job_none_of_whose_trials_fits_is_refused_with_the_reasons(conf: Path, earlier: Run) -> None:
    ((what, _, _),) = problems("sweep.warm_start=[lr.v1]", "optimizer.lr=interval(0.6,0.9)")

    assert what == "no trial of lr.v1 can be learnt from: 7 out of the new range of optimizer.lr, 1 failed"


def test_search_none_of_whose_trials_has_begun_is_refused(conf: Path) -> None:
    make_search(Path("runs").resolve(), search_of(3, parameters=LR), job="young.v1")

    ((what, _, _),) = problems("sweep.warm_start=[young.v1]")

    assert what == "no trial of young.v1 can be learnt from: it has none yet"


def test_algorithm_that_learns_nothing_is_refused(conf: Path, earlier: Run) -> None:
    ((what, where, do),) = problems("sweep.warm_start=[lr.v1]", "sweep.algorithm=quasi_random")

    assert what == "warm_start names [lr.v1], and algorithm quasi_random learns from no trial"
    assert where == "override sweep.warm_start=[lr.v1]"
    assert do.startswith("use algorithm: tpe, gp, nsga2 or cma_es")


def test_all_mistakes_are_told_at_once(conf: Path, earlier: Run) -> None:
    found = problems("sweep.warm_start=[nothing, lr.v1, runs/lr.v1]")

    assert [what for what, _, _ in found] == ["there is no job 'nothing'", "lr.v1 is named twice"]


@pytest.mark.parametrize("verb", ["check", "plan"])
def test_check_and_plan_say_and_refuse_it_and_write_nothing(
    conf: Path, earlier: Run, fairlead: Callable[..., subprocess.CompletedProcess[str]], verb: str
) -> None:
    files = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    common = (verb, "--config-dir", "conf", "experiment=digits", "sweep=mine")

    good = fairlead(*common, "sweep.warm_start=[lr.v1]")
    bad = fairlead(*common, "sweep.warm_start=[lr.v2]")

    said = "it begins with 5 of 8 trials of lr.v1: 2 out of the new range of optimizer.lr, 1 failed"
    assert said in (good.stdout if verb == "check" else good.stderr)
    assert (bad.returncode, "there is no job 'lr.v2'" in bad.stderr) == (2, True)
    assert {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()} == files


# --- what becomes of it -------------------------------------------------------------------------------


def test_trials_that_ask_begin_near_the_earlier_best(conf: Path, workdir: Path) -> None:
    fine = make_search(workdir / "runs", search_of(60, parameters=LR), job="fine.v1")
    for i in range(60):
        rate = 10 ** (-4 + 3 * i / 59)
        tried(fine, i, {"optimizer.lr": rate}, {"val/accuracy": 1 / (1 + 400 * abs(rate - 0.01))})
    run, plan = begun("sweep.warm_start=[fine.v1]")

    for index in range(12):
        assert ask(run, plan, index) is None

    asked = [read_json(run.member(index).point)["point"]["optimizer.lr"] for index in range(12)]
    assert 0.005 < statistics.median(asked) < 0.02
    assert statistics.quantiles(asked, n=4)[0] > 0.002, "by chance a quarter would be below 0.0006"


def test_earlier_trials_are_none_of_the_search(conf: Path, earlier: Run) -> None:
    run, _ = begun("sweep.warm_start=[lr.v1]")
    asked_late(run, 3, {"optimizer.lr": 0.05})
    ended_with(run, 3, 0.1)

    standing = standing_of(run, status_of(run))

    assert [trial.number for trial in Study(run).trials()] == [3]
    assert standing is not None
    assert standing["trials"] == {"SUCCEEDED": 1} and standing["budget"]["trials"] == {"used": 1, "limit": 20}
    assert best(run).document()["best"]["trial"] == 3, "worse than each of the earlier ones"
    assert "It began with 5 trials of lr.v1, which are not shown here." in report(run).read_text()


def test_same_command_goes_on_with_what_it_began_with(conf: Path, earlier: Run, cluster: Any, workdir: Path) -> None:
    common = ("launcher=slurm", "machine=cpu-small", "name=new")
    told: list[str] = []
    first, _ = submit(checked(words(*common, "sweep.warm_start=[lr.v1]")), told.append)
    before = (first.path / "study" / "extra.jsonl").read_bytes()
    assert told[0] == "new.v1 begins with 5 of 8 trials of lr.v1: 2 out of the new range of optimizer.lr, 1 failed"
    earlier.path.rename(workdir / "gone")

    for changed in ("sweep.warm_start=[lr.v1]", "sweep.warm_start=[nothing]", "sweep.warm_start=[]"):
        told.clear()
        again, _ = submit(checked(words(*common, changed, "sweep.trials=22")), told.append)

        assert again == first
        assert (first.path / "study" / "extra.jsonl").read_bytes() == before
        assert ("its sweep.warm_start was another" in told[-1]) == (changed != "sweep.warm_start=[lr.v1]")
    assert Study(first).search.trials == 22
    extend(first, Wish(trials=30))
    assert (first.path / "study" / "extra.jsonl").read_bytes() == before


def test_changed_space_is_refused_with_the_way_to_take_what_was_found(conf: Path, cluster: Any) -> None:
    common = ("launcher=slurm", "machine=cpu-small", "name=new")
    run, _ = submit(checked(words(*common)), str)
    asked_late(run, 0, {"optimizer.lr": 0.01})
    ended_with(run, 0, 0.9)
    wider = "optimizer.lr=interval(1e-4,1.0)"

    with pytest.raises(SpecError) as caught:
        submit(checked(words(*common, wider)), str)
    with pytest.raises(SpecError) as other:
        submit(checked(words(*common, wider, "objective.goal=minimize")), str)
    second, _ = submit(checked(words(*common, wider, "sweep.new_version=true", "sweep.warm_start=[new.v1]")), str)

    (problem,) = caught.value.problems
    assert "sweep.new_version=true begins the next version (add sweep.warm_start=[new.v1] to" in problem.do
    assert "warm_start" not in other.value.problems[0].do, "which would be refused in its turn"
    assert (second.id, counts(second)) == ("new.v2", {"new.v1": 1})


def test_two_real_searches_one_after_the_other(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    here = Cluster(workdir, first=())
    first = here.launch(*searching(here, {"trials": 4}, STEPS="2", PAUSE_S="0"), "name=first")
    here.wait(first)
    more = {"trials": 2, "algorithm": "tpe", "startup_trials": 3, "warm_start": ["first.v1"]}
    second = searching(here, more, STEPS="2", PAUSE_S="0")

    done = here.fairlead("launch", *second, "name=second")

    assert "second.v1 begins with 4 of 4 trials of first.v1\n" in done.stderr
    run = workdir / "runs" / "second.v1"
    assert [row["trial"]["number"] for row in read_lines(run / "study" / "extra.jsonl")] == [0, 1, 2, 3]
    assert {trial.state for trial in trials_of(run).values()} == {"SUCCEEDED"} and len(trials_of(run)) == 2
    found = json.loads(here.fairlead("best", str(run), "--json").stdout)
    assert (found["best"]["trial"] in (0, 1), found["differences"]) == (True, [])
