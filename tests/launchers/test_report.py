"""The verb `report`: the page of a search or a grid from its run folder. What the page looks like: tests/sweeps."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf import schema
from conf.document import to_document
from conf.sweep_schema import Goal
from launchers.errors import SiteError, SpecError
from launchers.parts import Part
from launchers.plan import plans_from
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import Run, make_private, read_json, write_json
from launchers.search import report as report_module
from launchers.search.compared import compared
from launchers.search.report import facts_of, report
from sweeps.facts import Attempt, Facts
from tests.launchers.tracked import end, make_run, spec_of
from tests.launchers.tried import T0, accuracies, ended, frozen, make_search, search_of, start, tried

Command = Callable[..., "subprocess.CompletedProcess[str]"]
POINT = {"optimizer.lr": 0.01, "model.width": 8}


def priced(cost: float | None = 2.0, nodes: int = 1, cards: int = 0) -> schema.Spec:
    spec = spec_of(kind="none")
    machine = dataclasses.replace(spec.pools[0].machine, hourly_cost=cost, nodes=nodes)
    accelerator = dataclasses.replace(spec.pools[0].accelerator, count=cards)
    pool = dataclasses.replace(spec.pools[0], machine=machine, accelerator=accelerator)
    return dataclasses.replace(spec, pools=(pool,), site=dataclasses.replace(spec.site, currency="CHF"))


def facts(run: Run, now: float = T0 + 1000) -> Facts:
    return facts_of(compared(run), plans_from(read_json(run.plan))[0], now)


def words(path: Path) -> str:
    """What the page says, without figures and marks."""
    text = re.sub(r"<(script|style).*?</\1>", " ", path.read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", text).replace("\u00a0", " ").split())


def test_report_of_a_search_says_how_it_stands(tmp_path: Path) -> None:
    run = make_search(tmp_path, search_of(6, study="learning rates"))
    accuracies(run, [0.5, 0.75, None])
    tried(run, 3, POINT, {"val/accuracy": 0.1}, state="PRUNED")
    write_json(run.path / "study" / "over.json", {"why": "it found <enough>", "t": 0})

    path = report(run)

    said = words(path)
    assert path == run.path / "report.html"
    assert "learning rates Job digits-1" in said
    assert "Over: it found &lt;enough&gt;" in said
    assert "Best so far 0.75 trial 1" in said
    assert "asked 4 of 6 succeeded 2 pruned 1 failed 1" in said
    assert "ValueError: no" in said


def test_report_before_anything_has_started_is_a_page(tmp_path: Path) -> None:
    run = make_search(tmp_path, search_of())

    assert "No trial has asked for a point yet" in words(report(run))


def test_report_of_a_running_search_draws_up_to_now(tmp_path: Path, fakes: Any) -> None:
    run = make_search(
        tmp_path, search_of(), spec=dataclasses.replace(spec_of(), launcher=schema.Launcher(kind="slurm"))
    )
    fakes.put("squeue", "sys.exit(1)")
    Journal(run).reached(Journal(run).intend(Part.whole(*range(4))).intent, "7")
    start(run, 0, POINT, {"val/accuracy": 0.5})

    assert "Going on: 1 trial running or waiting to go on, 3 to come" in words(report(run))


def test_report_of_a_grid_has_its_axes_and_values(tmp_path: Path) -> None:
    points: list[dict[str, Any]] = [
        {"model.width": width, "optimizer.lr": rate, "model.note": note, "model.sizes": sizes}
        for width, rate, note, sizes in [
            (8, 1e-4, "a", [1]),
            (8, 0.1, "<b>", [1, 2]),
            (16, 0.1, None, [1]),
            (32, 1, 3, [1]),
        ]
    ]
    run = make_run(tmp_path, points, kind="none", fresh=True)
    for member, accuracy in enumerate((0.5, 0.75, 0.25)):
        end(run, member, attempt=0, **{"val/accuracy": accuracy})
    ended(run, 3, state="FAILED", cause="user_error")
    search = compared(run).search

    said = words(report(run))

    assert (search.algorithm, search.trials, search.measurement) == ("grid", 4, "last")
    assert search.parameters["model.width"].values == (8, 16, 32)
    assert (search.parameters["optimizer.lr"].type, search.parameters["optimizer.lr"].scale) == ("discrete", "log")
    assert search.parameters["model.note"].type == search.parameters["model.sizes"].type == "categorical"
    assert "Best so far 0.75 trial 1" in said
    assert "asked 4 of 4 succeeded 3 failed 1" in said
    assert "&lt;b&gt;" in said


def test_report_of_a_grid_whose_blocks_differ_is_a_page(workdir: Path) -> None:
    (workdir / "mine" / "sweep").mkdir(parents=True)
    blocks = ["- product: {model: [cnn], model.width: [8, 16]}", "- product: {model: [mlp], model.depth: [1, 2]}"]
    (workdir / "mine" / "sweep" / "two.yaml").write_text("\n".join(["kind: grid", "blocks:", *blocks]))
    run = frozen(workdir / "runs", "experiment=digits", "sweep=two", config_dirs=[workdir / "mine"])
    for member in range(4):
        ended(run, member, {"val/accuracy": member / 10})

    said = words(report(run))

    assert "Best so far 0.3 trial 3" in said
    assert "model=mlp model.depth=2" in said


def test_report_of_several_goals_has_their_pareto_set(tmp_path: Path) -> None:
    goals = (Goal(metric="val/accuracy", goal="maximize"), Goal(metric="seconds", goal="minimize"))
    run = make_search(tmp_path, search_of(objectives=goals))
    for i, (accuracy, seconds) in enumerate([(0.9, 30), (0.8, 10), (0.7, 20)]):
        tried(run, i, POINT, {"val/accuracy": accuracy, "seconds": seconds})

    assert "Pareto set: 2 trials" in words(report(run))


def test_report_of_a_single_run_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path)

    with pytest.raises(SpecError, match="digits-1 is a single run"):
        report(run)


# --- what it says beyond the trials -------------------------------------------------------------------


def test_report_facts_name_the_attempts_of_a_trial_that_was_lost_once(tmp_path: Path) -> None:
    run = make_search(tmp_path, search_of(), spec=priced())
    tried(run, 0, POINT, {"val/accuracy": 0.5})
    first = run.member(0).path / "attempt-0"
    outcome = read_json(first / "outcome.json")
    write_json(first / "outcome.json", {**outcome, "state": "REQUEUED", "cause": "preempted"})
    second = make_private(run.member(0).path / "attempt-1")
    write_json(second / "started.json", {"started": T0 + 100})
    write_json(second / "outcome.json", {**outcome, "started": T0 + 100, "ended": T0 + 200})
    tried(run, 1, POINT, {"val/accuracy": 0.5})

    found = facts(run)

    assert found.attempts == {
        0: (
            Attempt(started=T0 + 1, ended=T0 + 10, state="LOST"),
            Attempt(started=T0 + 100, ended=T0 + 200, state="SUCCEEDED"),
        )
    }
    assert found.prices == pytest.approx({0: 2.0 * 109 / 3600, 1: 2.0 * 9 / 3600})
    assert found.currency == "CHF"


def test_report_facts_of_an_attempt_whose_supervisor_was_killed_end_with_its_last_sign(tmp_path: Path) -> None:
    run = make_search(tmp_path, search_of())
    attempt = start(run, 0, POINT, {"val/accuracy": 0.5})
    for path in (*attempt.iterdir(), attempt):
        os.utime(path, (T0 + 33, T0 + 33))
    write_json(make_private(run.member(0).path / "attempt-1") / "started.json", {"started": T0 + 100})

    assert facts(run).attempts[0] == (
        Attempt(started=T0 + 1, ended=T0 + 33, state="LOST"),
        Attempt(started=T0 + 100, ended=None, state="RUNNING"),
    )


@pytest.mark.parametrize(("cost", "nodes", "wanted"), [(2.0, 4, 8.0 * 9 / 3600), (0.0, 4, 0.0), (None, 4, None)])
def test_report_facts_price_is_of_all_nodes(
    tmp_path: Path, cost: float | None, nodes: int, wanted: float | None
) -> None:
    run = make_search(tmp_path, search_of(), spec=priced(cost, nodes))
    tried(run, 0, POINT, {"val/accuracy": 0.5})

    assert facts(run).prices == ({} if wanted is None else pytest.approx({0: wanted}))


def test_report_of_a_grid_over_machines_counts_each_ones_cards_and_price(tmp_path: Path) -> None:
    run = make_run(tmp_path, [{"machine": "a"}, {"machine": "b"}], kind="none", fresh=True)
    write_json(run.spec, to_document(priced(1.0, nodes=1, cards=1)))
    rows = [{"index": 0, "point": {"machine": "a"}, "sections": {}}]
    pools = to_document(priced(3.0, nodes=2, cards=8))["pools"]
    rows.append({"index": 1, "point": {"machine": "b"}, "sections": {"pools": pools}})
    run.members_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for member in (0, 1):
        tried_member = run.member(member).path / "attempt-0"
        tried_member.mkdir()
        write_json(tried_member / "started.json", {"started": T0})
        write_json(tried_member / "outcome.json", {"state": "SUCCEEDED", "started": T0, "ended": T0 + 3600})

    found = compared(run)

    assert [trial.gpu_hours for trial in found.trials] == [1.0, 16.0]
    assert facts(run).prices == {0: 1.0, 1: 6.0}


@pytest.mark.parametrize(("limit", "trials", "slots"), [(3, 9, 3), (30, 9, 9), (None, 9, 1)])
def test_report_facts_slots_are_no_more_than_there_are_trials(
    tmp_path: Path, limit: int | None, trials: int, slots: int
) -> None:
    spec = dataclasses.replace(spec_of(), launcher=schema.Launcher(kind="local", max_parallel=limit))
    run = make_search(tmp_path, search_of(trials), spec=spec)

    assert facts(run).parallel == slots


# --- written, or why not ------------------------------------------------------------------------------


def test_report_is_written_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_search(tmp_path, search_of())
    monkeypatch.chdir(tmp_path)

    path = report(run, Path("page.html"))

    assert path == tmp_path / "page.html"
    assert path.read_text().startswith("<!doctype html>")
    assert not (run.path / "report.html").exists()


def test_report_to_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    run = make_search(tmp_path, search_of())

    with pytest.raises(SiteError, match=r"the report cannot be written: No such file(?s:.*)nowhere/page\.html"):
        report(run, tmp_path / "nowhere" / "page.html")


def test_report_without_plotly_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_search(tmp_path, search_of())
    monkeypatch.setitem(sys.modules, "plotly.offline", None)

    with pytest.raises(SiteError, match=r"the report needs a package(?s:.*)pip install 'fairlead\[search\]'"):
        report(run)


def test_report_as_a_command(workdir: Path, fairlead: Command) -> None:
    run = make_search(workdir / "runs", search_of())
    accuracies(run, [0.5])

    done = fairlead("report", "digits-1")
    as_json = fairlead("report", "digits-1", "--output", "x.html", "--json")

    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, f"{run.path}/report.html", "")
    said = json.loads(as_json.stdout)
    assert (said["job"], said["report"]) == ("digits-1", f"{workdir}/x.html")
    assert sum(said["goodput"]["rank_seconds"].values()) == said["goodput"]["totals"]["rank_seconds"] > 0


def test_report_module_takes_what_did_not_end_for_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_search(tmp_path, search_of())
    start(run, 0, POINT, {"val/accuracy": 0.5})

    assert report_module.main(["--over", str(run.path)]) == 0

    assert capsys.readouterr().out == f"{run.path}/report.html\n"
    assert "lost 1" in words(run.path / "report.html")


def test_report_module_says_what_is_wrong_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)

    assert report_module.main([str(run.path)]) == 3

    assert capsys.readouterr().err.startswith("digits-1 is a single run")
