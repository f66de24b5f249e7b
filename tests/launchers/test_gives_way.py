"""A member of a search that waits for others gives them its allocation, where they wait for one themselves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from launchers.plan import Plan
from launchers.run_folder.record import (
    Run,
    append_line,
    gave_up,
    make_private,
    members_that_gave_up,
    read_json,
    write_json,
)
from launchers.search import ask as asking
from launchers.search import points
from launchers.search.study import Study
from tests.launchers.asked import Made, ask_all, end, maker, points_of
from tests.launchers.attempted import Start, made

POPULATION = (
    "launcher=slurm",
    "machine=cpu-small",
    "sweep.algorithm=population",
    "+sweep.population={size: 2}",
    "~sweep.parameters",
    "+sweep.parameters={optimizer.lr: {type: double, min: 1.0e-4, max: 1.0e-1}}",
)
GIVES_WAY = """
import launchers.search.ask as a, launchers.host.element as e
def ask(*_):
    raise a.GivesWay("it waits for 0")
a.ask, e.REQUEUE_WAIT_S, e.REQUEUE_PAUSES_S = ask, 0, (0,)
"""


@pytest.fixture
def population(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Plan]:
    """Its first generation of two has begun, and the clock runs fast."""
    monkeypatch.setattr(asking, "GIVE_WAY_S", 0.05)
    monkeypatch.setattr(asking, "WAIT_S", 0.5)
    monkeypatch.setattr(asking, "POLL_S", 0.02)
    search: Made = maker(workdir)
    run, plan = search(*POPULATION, "sweep.trials=4")
    ask_all(run, plan, [0, 1])
    for index in (0, 1):
        make_private(run.member(index).path / "attempt-0")
    return run, plan


def put_back(run: Run, index: int) -> None:
    write_json(run.member(index).path / "attempt-0" / "outcome.json", {"state": "REQUEUED", "cause": "preempted"})


def test_member_gives_way_to_one_that_was_put_back_and_for_which_it_waits(
    population: tuple[Run, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plan = population
    monkeypatch.setattr(asking, "WAIT_S", 60)
    put_back(run, 1)

    with pytest.raises(asking.GivesWay, match="have not ended their generation, and of these 1 wait for an allocation"):
        asking.ask(run, plan, 2)

    assert sorted(points_of(run)) == [0, 1] and not gave_up(run, 2).exists()


@pytest.mark.parametrize("again", [False, True], ids=["first attempts", "one that came back"])
def test_member_waits_for_those_that_run(population: tuple[Run, Plan], again: bool) -> None:
    run, plan = population
    if again:
        put_back(run, 1)
        make_private(run.member(1).path / "attempt-1")

    why = asking.ask(run, plan, 2)

    assert why and why.endswith("it is queued again when the others have ended")
    assert gave_up(run, 2).exists()


def test_member_whose_place_is_free_waits_for_nobody_in_the_queue(population: tuple[Run, Plan]) -> None:
    run, plan = population
    put_back(run, 1)
    end(run, 0)

    assert asking.ask(run, plan, 2) is None


def test_member_gives_no_way_to_one_that_is_lost_for_good(
    population: tuple[Run, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plan = population
    monkeypatch.setattr(points, "gone", lambda _: {1})
    monkeypatch.setattr(Study, "silent", lambda _: {1})
    ask_all(run, plan, [2])  # which takes its place

    why = asking.ask(run, plan, 3)

    assert why and why.endswith("it is queued again when the others have ended")


@pytest.fixture
def run(workdir: Path) -> Run:
    """On Slurm, of a member that asks for its point when it starts."""
    run = made(workdir, sys.executable, "-c", "print(1)", launcher="slurm")
    run.members_file.unlink()
    append_line(run.members_file, {"index": 0, "point": {}, "sections": {}, "late": True})
    return run


def test_supervisor_that_gives_way_goes_back_to_the_queue_without_an_attempt(
    fakes: Any, run: Run, start: Start
) -> None:
    fakes.put("scontrol", "pass")
    said, _ = (process := start(run, patch=GIVES_WAY, SLURM_JOB_ID="42")).communicate(timeout=60)

    assert "gives its allocation back: it waits for 0" in said
    assert [c["argv"][1] for c in fakes.calls("scontrol") if c["argv"][0] == "requeue"] == ["42"]
    assert process.returncode == 75 and not run.member(0).attempts() and not gave_up(run, 0).exists()


def test_supervisor_that_slurm_does_not_requeue_leaves_it_to_the_finish_step(
    fakes: Any, run: Run, start: Start
) -> None:
    fakes.put("scontrol", "import sys; sys.exit('Requested operation is presently disabled')")
    said, _ = (process := start(run, patch=GIVES_WAY, SLURM_JOB_ID="42")).communicate(timeout=60)

    assert process.returncode == 0 and "presently disabled" in said
    assert gave_up(run, 0).exists() and not run.member(0).attempts()


@pytest.fixture
def packed(workdir: Path, fakes: Any) -> Run:
    """The first allocation has members 0 to 3, of which 0 has ended, and 3 has its point from an earlier attempt."""
    fakes.put("squeue", "pass")
    fakes.put("srun", "pass")
    run = made(workdir, sys.executable, launcher="slurm", members=6, per_allocation=4)
    run.members_file.unlink()
    for index in range(6):
        append_line(run.members_file, {"index": index, "point": {}, "sections": {}, "late": True})
    for index in (0, 3):
        make_private(run.member(index).path)
        write_json(run.member(index).point, {"point": {}, "sections": {}})
    end(run, 0)
    return run


def begun(run: Run) -> list[int]:
    """Members with an attempt."""
    return [index for index in range(6) if run.member(index).attempts()]


def test_allocation_of_several_members_goes_back_to_the_queue_as_one_and_begins_none(
    fakes: Any, packed: Run, start: Start
) -> None:
    fakes.put("scontrol", "pass")
    said, _ = start(packed, patch=GIVES_WAY, SLURM_ARRAY_JOB_ID="42", SLURM_ARRAY_TASK_ID="0").communicate(timeout=60)

    assert [c["argv"] for c in fakes.calls("scontrol") if c["argv"][0] == "requeue"] == [["requeue", "42_0"]]
    assert "member=1 gives its allocation back" in said and "member=2" not in said
    assert begun(packed) == [0] and members_that_gave_up(packed) == {}


def test_rest_of_an_allocation_that_slurm_does_not_requeue_gives_up_but_for_who_has_a_point(
    fakes: Any, packed: Run, start: Start
) -> None:
    fakes.put("scontrol", "import sys; sys.exit('Requested operation is presently disabled')")
    process = start(packed, patch=GIVES_WAY, SLURM_ARRAY_JOB_ID="42", SLURM_ARRAY_TASK_ID="0")
    said, _ = process.communicate(timeout=60)

    assert process.returncode == 0, said
    why = {index: read_json(path)["why"] for index, path in members_that_gave_up(packed).items()}
    assert sorted(why) == [1, 2] and why[1] == why[2] and why[1].startswith("it waits for 0; it could not be requeued")
    assert begun(packed) == [0, 3]
    assert read_json(packed.member(3).attempts()[0].outcome)["state"] == "SUCCEEDED"


def test_rest_of_an_allocation_whose_search_is_over_is_not_queued_again(fakes: Any, packed: Run, start: Start) -> None:
    write_json(make_private(packed.path / "study") / "over.json", {"why": "ten trials were asked for"})
    process = start(packed, SLURM_ARRAY_JOB_ID="42", SLURM_ARRAY_TASK_ID="0")
    said, _ = process.communicate(timeout=60)

    assert process.returncode == 0 and said.count("has no point: ten trials were asked for") == 1, said
    assert begun(packed) == [0, 3] and members_that_gave_up(packed) == {}
