"""A member gets its parent's checkpoints before its first attempt, whole or not at all; and a whole population."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launchers.host import heir
from launchers.run_folder.record import Member, Run, make_private, write_json
from launchers.search.study import Study
from sweeps.population import generation_of, lineage
from tests.cluster.harness import QUICK, ROOT, Cluster, attempts


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Member 3 has two checkpoints and what a kill left beside them; 5 is its heir."""
    run = Run(tmp_path / "study.v1")
    parent, child = run.member(3), run.member(5)
    for name in (
        "step-20/state",
        "step-10/state",
        "step-30.tmp.attempt-0",
        "step-15.damaged",
        "step-40.unread",
        "step-50.lost",
    ):
        make_private(parent.checkpoints / name)
        (parent.checkpoints / name / "shard").write_text(name)
    (parent.checkpoints / "newest").symlink_to("step-20")
    make_private(child.checkpoints)
    write_json(child.point, {"point": {}, "parent": 3, "follows": 3})
    return run


def names(member: Member) -> set[str]:
    return {path.name for path in member.checkpoints.iterdir()}


def test_our_trainers_checkpoints_are_linked_and_only_whole_ones(run: Run) -> None:
    heir.inherit(run, run.member(5), linked=True)

    shard = Path("step-20/state/shard")
    assert {"step-20", "step-10"} <= names(run.member(5)) <= {"step-20", "step-10", "newest"}
    assert (run.member(5).checkpoints / shard).samefile(run.member(3).checkpoints / shard)


def test_another_programs_are_copied_as_they_are(run: Run) -> None:
    heir.inherit(run, run.member(5), linked=False)

    shard = run.member(5).checkpoints / "step-20/state/shard"
    shard.write_text("of the heir")
    assert names(run.member(5)) == names(run.member(3))
    assert (run.member(3).checkpoints / "step-20/state/shard").read_text() == "step-20/state"
    assert (run.member(5).checkpoints / "newest").is_symlink()


def test_inherited_once_and_nothing_without_a_parent(run: Run) -> None:
    for _ in range(2):
        heir.inherit(run, run.member(5), linked=True)
        (run.member(5).checkpoints / "own").touch()
    write_json(make_private(run.member(6).path) / "point.json", {"point": {}})
    heir.inherit(run, run.member(6), linked=True)

    assert "own" in names(run.member(5))
    assert not run.member(6).checkpoints.exists()


def test_killed_at_any_call_the_next_try_gives_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    child, real = run.member(5), {name: getattr(os, name) for name in ("link", "mkdir", "rename", "rmdir")}
    left = 0

    def dies(name: str) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return real[name](*given, **more)

        return call

    for many in range(40):
        shutil.rmtree(child.path)
        make_private(child.checkpoints)
        write_json(child.point, {"point": {}, "parent": 3, "follows": 3})
        left = many
        with monkeypatch.context() as patched:
            for name in real:
                patched.setattr(os, name, dies(name))
            try:
                heir.inherit(run, child, linked=True)
            except KeyboardInterrupt:
                died = True
            else:
                died = False
        heir.inherit(run, child, linked=True)
        assert {"step-20", "step-10"} <= names(child)
        assert (child.checkpoints / "step-10/state/shard").read_text() == "step-10/state"
        if not died:
            break
    assert not died and many > 5


@pytest.mark.timeout(900)
def test_population_of_our_trainer_trains_generations_and_the_best_says_its_line(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    laptop = Cluster(workdir, first=())
    sweep = {
        "kind": "search",
        "algorithm": "population",
        "measurement": "last",
        "trials": 9,
        "population": {"size": 3, "quantile": 0.34},
        "parameters": {"optimizer.lr": {"type": "double", "min": 1e-5, "max": 1e-2, "scale": "log"}},
    }
    (workdir / "mine" / "sweep").mkdir(parents=True)
    (workdir / "mine" / "sweep" / "population.yaml").write_text(json.dumps(sweep))
    words = (
        "--config-dir",
        "mine",
        "sweep=population",
        "tracking=none",
        "tracking.register=null",
        "name=family",
        "launcher.max_parallel=2",
    )

    done = laptop.fairlead("launch", *QUICK, *words, "train.epochs=3", timeout_s=600)

    (run,) = (workdir / "runs").glob("family.v1")
    study = Study(Run(run))
    trials = {t.number: t for t in study.trials()}
    assert [t.state for t in trials.values()] == ["SUCCEEDED"] * 9, done.stdout
    assert sorted(generation_of(t, trials) for t in trials.values()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    steps = {n: json.loads((run / f"members/{n}/attempt-0/result.json").read_text())["steps"] for n in trials}
    whole = max(steps.values())
    assert {steps[n] for n, t in trials.items() if t.parent is None} == {-(-whole // 3)}, "whoever asked first"
    for number in (n for n, t in trials.items() if t.parent is not None):
        log = (run / f"members/{number}/attempt-0/rank-0.log").read_text()
        assert f"goes on from step {steps[trials[number].parent or 0]}" in log
        assert len(attempts(run, number)) == 1
    best = json.loads(laptop.fairlead("best", str(run), "--json").stdout)
    winner = trials[best["best"]["trial"]]
    assert [each["trial"] for each in best["best"]["lineage"]] == [
        t.number for t in lineage(winner, list(trials.values()))
    ][:-1]
    assert any("begins from nothing" in said for said in best["differences"])
    assert "went on from the checkpoints of" in laptop.fairlead("best", str(run)).stdout

    more = laptop.fairlead("extend", str(run), "--trials", "12", check=False)
    assert more.returncode == 2 and "generations" in more.stderr
