"""The arithmetic of a campaign: a campaign that could not find a fault would prove nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos import lineage
from tests.chaos.cases import EACH_HERE, HERE, KINDS, ON_SLURM, TWO, Case, Launcher, campaign
from tests.chaos.faults import ACTS
from tests.chaos.lineage import Known, Try
from tests.chaos.table import text
from tests.chaos.verdict import Seen, _broken, _return, _too_much, document, failed


def attempt(begun: float, resumed: int, steps: Sequence[int], durable: Sequence[int] = ()) -> Try:
    """One step a second, and a checkpoint half a second after its step."""
    at = {step: begun + n + 1 for n, step in enumerate(steps)}
    events = [{"event": "process_start", "t": begun}, {"event": "restore_done", "t": begun, "step": resumed}]
    for step in durable:
        events.append({"event": "checkpoint_begin", "t": at[step], "step": step})
        events.append({"event": "checkpoint_durable", "t": at[step] + 0.5, "step": step})
    return Try(list(at.items()), events, {}, begun)


def struck(fault: str) -> Case:
    """A case on this machine, which saves every six steps."""
    return Case(0, fault, "local", "ddp", TWO, TWO, at_step=10, phase=0.5, victim=0, form="rows")


KILLED = [attempt(0, 0, range(1, 11), [4, 8]), attempt(20, 8, range(9, 13))]


def test_kept_drops_what_was_made_again() -> None:
    assert lineage.kept(KILLED) == list(range(1, 13))


@pytest.mark.parametrize(
    ("again", "kept"),
    [
        (attempt(20, 9, range(10, 13)), [*range(1, 10), 10, 11, 12]),
        (attempt(20, 8, range(10, 13)), [*range(1, 9), 10, 11, 12]),
        (attempt(20, 8, range(8, 13)), [*range(1, 9), *range(8, 13)]),
        (attempt(20, 0, range(1, 13)), list(range(1, 13))),
    ],
    ids=["later checkpoint", "a step left out", "a step twice", "from the beginning"],
)
def test_kept_shows_gaps_and_doubles(again: Try, kept: list[int]) -> None:
    assert lineage.kept([KILLED[0], again]) == kept


def test_walking_back_twice_keeps_only_what_led_on() -> None:
    tries = [KILLED[0], attempt(20, 8, range(9, 12)), attempt(40, 4, range(5, 13))]

    assert lineage.kept(tries) == list(range(1, 13))


def test_steps_and_times_around_a_fault() -> None:
    fault = 10.2  # step 10 was reported at 10 s
    assert lineage.reached(KILLED, fault) == 10
    assert lineage.resumed_after(KILLED, fault) == 8
    assert lineage.durable(KILLED, fault) == [0, 4, 8]
    assert lineage.next_useful_s(KILLED, fault) == pytest.approx(23 - 10.2)  # step 11, the third of the second attempt
    assert lineage.next_useful_s(KILLED[:1], 4.2) == pytest.approx(0.8)  # nothing was interrupted
    assert not lineage.saving(KILLED, fault) and lineage.saving(KILLED, 8.2)


@pytest.mark.parametrize(
    ("destroyed", "resumed", "broken"),
    [(0, 8, 0), (1, 4, 0), (1, 8, 0), (0, 4, 1), (1, 0, 1)],
    ids=["newest", "the one before", "newest survived", "newest passed over", "both passed over"],
)
def test_going_on_from_an_older_checkpoint_than_need_be_breaks_a_promise(
    destroyed: int, resumed: int, broken: int
) -> None:
    case = struck("newest checkpoint truncated" if destroyed else "kill all ranks")

    assert len(list(_too_much(case, KILLED, 10.2, resumed))) == broken


def test_more_than_an_interval_lost_breaks_a_promise() -> None:
    never_saved = [attempt(0, 0, range(1, 11)), attempt(20, 0, range(1, 13))]

    assert list(_too_much(struck("kill all ranks"), never_saved, 10.2, 0)) == ["10 steps lost, more than 6"]


@pytest.mark.parametrize(("interval_s", "broken"), [(3.0, []), (0.2, ["7 steps lost, more than 5"])])
def test_more_lost_than_a_training_has_chosen_itself_breaks_a_promise(interval_s: float, broken: list[str]) -> None:
    first, again = attempt(0, 0, range(1, 14), [2, 6]), attempt(20, 6, range(7, 13))
    for mark in first.marks("checkpoint_durable"):
        mark["interval_s"] = interval_s if mark["step"] == 6 else 60.0

    case = dataclasses.replace(struck("kill all ranks"), every="auto")

    assert list(_too_much(case, [first, again], 13.2, 6)) == broken


@pytest.mark.parametrize(
    ("fault", "message", "broken"),
    [
        ("kill one rank", "killed by signal 9 (Killed)", 0),
        ("kill one rank", "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed. ", 1),
        ("kill a loader process", "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed. ", 0),
        ("kill a loader process", "killed by signal 9 (Killed)", 1),
    ],
)
def test_kill_of_something_else_than_its_name_says_breaks_a_promise(fault: str, message: str, broken: int) -> None:
    case = next(case for case in campaign(7, "local", len(HERE)) if case.fault == fault)
    said = dataclasses.replace(KILLED[0], outcome={"message": message})

    assert len(list(_broken(Seen(case, Path(), Path(), 10.2, 0, ()), [said, KILLED[1]], 2))) == broken


@pytest.mark.parametrize(
    ("fault", "launcher", "state", "retries", "broken"),
    [
        ("kill one rank", "slurm", "RESTARTED", 0, 0),
        ("kill one rank", "slurm", "REQUEUED", 0, 1),
        ("kill all ranks", "slurm", "FAILED", 1, 2),
        ("host off", "slurm", "REQUEUED", 0, 0),
        ("host off", "slurm", "FAILED", 1, 1),
        ("TERM in a save", "slurm", "CANCELLED", 1, 1),
        ("TERM in a save", "local", "CANCELLED", 1, 0),
        ("fewer ranks", "local", "FAILED", 2, 1),
    ],
)
def test_run_that_does_not_come_back_as_it_should_breaks_a_promise(
    fault: str, launcher: Launcher, state: str, retries: int, broken: int
) -> None:
    case = next(case for case in campaign(7, launcher, len(HERE)) if case.fault == fault)
    ended = dataclasses.replace(KILLED[0], outcome={"state": state})

    assert len(list(_return(Seen(case, Path(), Path(), 10.2, retries, ()), [ended, KILLED[1]]))) == broken


def test_prediction_is_the_formula_worked_by_hand() -> None:
    one = Known(step_s=1.0, stall_s=0.5, evaluation_s=2.0, start_s=5.0, end_s=3.0)

    share = lineage.predicted(one, (40, 6, 4), restarts=1, again=3.0)

    assert share == pytest.approx(40 / (40 + 6 * 0.5 + 4 * 2 + 3 + 2 * 5 + 3 * 1))


def test_campaign_is_the_same_for_a_seed_however_long_and_has_every_kind() -> None:
    short, long = campaign(7, "local", 10), campaign(7, "local", 70)

    assert long[:10] == short and campaign(8, "local", 10) != short
    assert {case.fault for case in campaign(7, "local", len(HERE))} == {*EACH_HERE, "store down"}
    assert {*ON_SLURM} == set(KINDS) == set(ACTS) and {*HERE} < {*ON_SLURM}


def test_table_names_the_case_and_what_it_broke() -> None:
    (case,) = campaign(7, "slurm", 1)

    said = text([document(failed(case, AssertionError("it did not come back")))])

    assert f"BROKEN {case.name}: AssertionError: it did not come back" in said
    assert "0 of 1 cases kept every promise" in said
