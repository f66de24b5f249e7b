"""Progress is a new checkpoint: how often a member went back to the queue since, over all its supervisors."""

from __future__ import annotations

from pathlib import Path

import pytest

from launchers.run_folder.record import Member, make_private, write_json
from launchers.run_folder.saved import requeues_in_a_row, saved_by


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(make_private(tmp_path / "members/0/checkpoints").parent)


def save(member: Member, *names: str) -> None:
    """These checkpoints, and no others."""
    for path in member.checkpoints.iterdir():
        if path.name not in names:
            path.unlink()
    for name in names:
        if not (member.checkpoints / name).exists():
            (member.checkpoints / name).touch()


def begin(member: Member, number: int) -> Path:
    folder = make_private(member.path / f"attempt-{number}")
    write_json(folder / "started.json", {"host": "n1", "saved": sorted(saved_by(member))})
    return folder


def tried(member: Member, number: int, state: str, *saved: str) -> None:
    folder = begin(member, number)
    if saved:
        save(member, *saved)
    write_json(folder / "outcome.json", {"state": state})


def test_saved_by_is_what_is_whole(member: Member) -> None:
    save(member, "step-2", "step-3.tmp.1", "step-1.damaged", "step-4.unread", "step-5.lost", ".hidden")

    assert {name for name, _ in saved_by(member)} == {"step-2"}
    assert saved_by(Member(member.path / "none")) == frozenset()


def test_requeues_without_a_checkpoint_are_all_counted(member: Member) -> None:
    for number in range(3):
        tried(member, number, "REQUEUED")
    begin(member, 3)

    assert requeues_in_a_row(member) == 3


def test_requeues_are_counted_from_the_last_new_checkpoint_on(member: Member) -> None:
    for number in range(12):
        tried(member, number, "REQUEUED", f"step-{number}")  # of which only the newest is kept
    assert requeues_in_a_row(member) == 1

    tried(member, 12, "RESTARTED")
    tried(member, 13, "REQUEUED")
    begin(member, 14)
    assert requeues_in_a_row(member) == 2

    save(member, "step-11", "step-14")
    assert requeues_in_a_row(member) == 0


def test_requeues_a_checkpoint_that_went_or_was_put_aside_is_no_progress(member: Member) -> None:
    tried(member, 0, "REQUEUED", "step-2", "step-4")
    tried(member, 1, "REQUEUED", "step-2", "step-4.damaged")
    begin(member, 2)

    assert requeues_in_a_row(member) == 2


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
def test_requeues_before_a_final_end_count_no_more(member: Member, state: str) -> None:
    tried(member, 0, "REQUEUED")
    tried(member, 1, state)
    tried(member, 2, "REQUEUED")
    begin(member, 3)

    assert requeues_in_a_row(member) == 1


def test_requeues_attempt_that_was_killed_before_it_began_adds_nothing(member: Member) -> None:
    tried(member, 0, "REQUEUED", "step-2")
    write_json(make_private(member.path / "attempt-1") / "outcome.json", {"state": "REQUEUED"})
    tried(member, 2, "REQUEUED")

    assert requeues_in_a_row(member) == 3
