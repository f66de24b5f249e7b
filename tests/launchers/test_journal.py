"""What was meant and what became of it, readable after an end at any line."""

from __future__ import annotations

from pathlib import Path

import pytest

from launchers.errors import SiteError
from launchers.parts import Part
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import Run, append_line


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    run = Run(tmp_path / "digits-1")
    run.path.mkdir()
    return Journal(run)


def test_journal_nothing_written_is_no_submission(journal: Journal) -> None:
    assert journal.submissions() == []


def test_journal_intent_is_open_until_it_is_reached(journal: Journal) -> None:
    wanted = journal.intend(Part.whole(0, 1))
    (before,) = journal.submissions()

    journal.reached(wanted.intent, "42")

    (after,) = journal.submissions()
    assert (before.is_open, before.indices) == (True, (0, 1))
    assert (after.is_open, after.slurm_id, after.abandoned) == (False, "42", None)


def test_journal_abandoned_intent_is_not_open(journal: Journal) -> None:
    journal.abandon(journal.intend(Part.whole(0)).intent, "refused")

    (found,) = journal.submissions()
    assert (found.is_open, found.slurm_id, found.abandoned) == (False, None, "refused")


def test_journal_names_are_never_used_twice(journal: Journal) -> None:
    kinds = ("members", "finish", "members", "finish", "members")
    names = [(journal.intend(Part.whole(0)) if k == "members" else journal.intend_finish([])).intent for k in kinds]

    assert names == ["digits-1", "digits-1.finish", "digits-1.r1", "digits-1.r1.finish", "digits-1.r2"]


def test_journal_finish_knows_what_it_waits_for(journal: Journal) -> None:
    journal.intend_finish(["42", "43"])

    assert journal.submissions()[0].after == "42:43"


def test_journal_torn_intent_never_happened(journal: Journal) -> None:
    journal.reached(journal.intend(Part.whole(0)).intent, "1")
    with journal.run.journal.open("a") as f:
        f.write('{"intent": "digits-1.fin')

    assert [s.intent for s in journal.submissions()] == ["digits-1"]


def test_journal_written_on_after_a_torn_line_keeps_what_is_new(journal: Journal) -> None:
    with journal.run.journal.open("a") as f:
        f.write('{"intent": "digits-1", "ki')

    wanted = journal.intend(Part.whole(0))
    journal.reached(wanted.intent, "42")

    assert [(s.intent, s.slurm_id) for s in journal.submissions()] == [("digits-1", "42")]


def test_journal_of_another_version_is_told_with_its_file(journal: Journal) -> None:
    append_line(journal.run.journal, {"intent": "x", "kind": "members", "indices": "0", "after": "", "t": 1.0})

    with pytest.raises(SiteError, match=r"has no 'offset'.*another version(.|\n)*submit\.jsonl"):
        journal.submissions()


def test_journal_attempts_before_are_those_of_the_newest_submission(journal: Journal) -> None:
    journal.intend(Part.whole(0, 1))
    for n in range(3):
        (journal.run.member(1).path / f"attempt-{n}").mkdir(parents=True)
    journal.intend(Part.whole(1))

    assert journal.submissions()[1].tried == {"1": 3}
