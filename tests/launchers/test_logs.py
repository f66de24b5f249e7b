"""What ranks said: of which attempt, under which label, now and as it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launchers.errors import SpecError
from launchers.jobs import logs
from launchers.jobs.logs import Choice
from launchers.run_folder.record import Run, append_line, read_json, write_json
from tests.launchers.tracked import make_run

ALL = Choice()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = Run(tmp_path / "d-1")
    found.path.mkdir()
    return found


def say(run: Run, text: str | bytes, member: int = 0, attempt: int = 0, rank: int = 0) -> None:
    if not run.members_file.exists() or f'"index": {member}}}' not in run.members_file.read_text():
        append_line(run.members_file, {"index": member})
    path = run.member(member).path / f"attempt-{attempt}" / f"rank-{rank}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as f:
        f.write(text.encode() if isinstance(text, str) else text)


def test_lines_of_one_rank_have_no_label(run: Run) -> None:
    say(run, "a\nb")

    assert list(logs.lines(run, ALL)) == [("", "a"), ("", "b")]


def test_lines_of_several_ranks_have_their_number(run: Run) -> None:
    for rank in (10, 2, 0):
        say(run, f"r{rank}\n", rank=rank)

    assert list(logs.lines(run, ALL)) == [("0", "r0"), ("2", "r2"), ("10", "r10")]


def test_lines_of_several_members_have_both_numbers(run: Run) -> None:
    say(run, "a\n", member=0)
    say(run, "b\n", member=1)

    assert list(logs.lines(run, ALL)) == [("0/0", "a"), ("1/0", "b")]


def test_lines_chosen_member_and_rank_alone(run: Run) -> None:
    for member in (0, 1):
        for rank in (0, 1):
            say(run, f"{member}{rank}\n", member=member, rank=rank)

    assert [line for _, line in logs.lines(run, Choice(1, 0))] == ["10"]


@pytest.mark.parametrize(
    ("choice", "what", "do"),
    [
        (Choice(7), "there is no member 7", "members are 0-2"),
        (Choice(1, 9), "there is no rank 9", "ranks are 0-3"),
        (Choice(None, 4), "there is no rank 4", "ranks are 0-3"),
        (Choice(7, 9), "there is no member 7", "members are 0-2"),
    ],
)
def test_must_be_there_what_is_not_is_told_with_what_there_is(
    tmp_path: Path, choice: Choice, what: str, do: str
) -> None:
    run = ranked(tmp_path)

    with pytest.raises(SpecError) as caught:
        logs.must_be_there(run, choice)

    (problem,) = caught.value.problems
    assert (problem.what, problem.do) == (what, do)


@pytest.mark.parametrize("choice", [ALL, Choice(2), Choice(0, 3), Choice(None, 3)])
def test_must_be_there_what_has_not_started_is_there(tmp_path: Path, choice: Choice) -> None:
    logs.must_be_there(ranked(tmp_path), choice)


def ranked(folder: Path) -> Run:
    """Three members of four ranks."""
    run = make_run(folder, [{}, {}, {}], fresh=True)
    document = read_json(run.plan)
    document["plans"][0]["pools"][0] |= {"nodes": 2, "ranks_per_node": 2}
    write_json(run.plan, document)
    return run


def test_lines_of_every_member_are_the_newest_attempts_alone(run: Run) -> None:
    for member in (0, 1, 2):
        for attempt in (0, 1):
            say(run, f"{member}.{attempt}\n", member=member, attempt=attempt)

    assert [line for _, line in logs.lines(run, ALL)] == ["0.1", "1.1", "2.1"]


def test_lines_before_anything_started_are_none(run: Run) -> None:
    append_line(run.members_file, {"index": 0})

    assert list(logs.lines(run, ALL)) == []


def test_lines_any_bytes_are_shown(run: Run) -> None:
    say(run, b"\xff\xfe\nok\n")

    assert [line for _, line in logs.lines(run, ALL)][-1] == "ok"


class Script:
    """What happens between two looks of `follow`, and then the end."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)

    def __call__(self) -> bool:
        if self.steps:
            self.steps.pop(0)()
        return not self.steps


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL_S", 0.001)


def followed(run: Run, *steps: Any) -> list[str]:
    return [line for _, line in logs.follow(run, ALL, Script(*steps))]


def test_follow_new_lines_come_in_order_and_once(run: Run, quick: None) -> None:
    steps = [lambda: say(run, "a\nb"), lambda: say(run, "c\n"), lambda: say(run, "d")]

    assert followed(run, *steps) == ["a", "bc", "d"]


def test_follow_character_cut_in_two_is_whole(run: Run, quick: None) -> None:
    word = "é☃".encode()

    assert followed(
        run, lambda: say(run, word[:1]), lambda: say(run, word[1:3]), lambda: say(run, word[3:] + b"\n")
    ) == ["é☃"]


def test_follow_attempt_that_comes_later_is_followed_too(run: Run, quick: None) -> None:
    steps = [lambda: say(run, "old\n"), lambda: say(run, "new\n", attempt=1), lambda: None]

    assert followed(run, *steps) == ["old", "new"]


def test_follow_attempts_that_were_over_before_are_not_shown(run: Run, quick: None) -> None:
    say(run, "old\n", attempt=0)
    say(run, "now\n", attempt=1)

    assert followed(run, lambda: None, lambda: say(run, "then\n", attempt=1), lambda: None) == ["now", "then"]


def test_follow_run_that_has_not_begun_waits(run: Run, quick: None) -> None:
    append_line(run.members_file, {"index": 0})

    assert followed(run, lambda: None, lambda: say(run, "a\n"), lambda: None) == ["a"]


def test_errors_say_cause_rank_and_last_lines(run: Run) -> None:
    for index, state in enumerate(("SUCCEEDED", "FAILED", "REQUEUED")):
        say(run, "x", member=index)
        outcome = {
            "state": state,
            "cause": "user_error",
            "message": "KeyError: 'x'",
            "first_rank": 3,
            "host": "n2",
            "last_lines": ["a", "b"],
        }
        write_json(run.member(index).attempts()[0].outcome, outcome)

    assert list(logs.errors(run, ALL)) == [
        "member 1: FAILED (user_error), first to fail: rank 3 on n2: KeyError: 'x'",
        "    a",
        "    b",
    ]
    assert list(logs.errors(run, Choice(0))) == []
    assert list(logs.errors(run, Choice(1))) == list(logs.errors(run, ALL))


def test_errors_of_rank_zero_are_told(run: Run) -> None:
    say(run, "x")
    write_json(
        run.member(0).attempts()[0].outcome,
        {"state": "FAILED", "cause": "c", "message": "m", "first_rank": 0, "last_lines": []},
    )

    assert list(logs.errors(run, ALL)) == ["member 0: FAILED (c), first to fail: rank 0: m"]


def test_errors_end_with_what_to_do(run: Run) -> None:
    say(run, "x")
    outcome = {"state": "FAILED", "cause": "out_of_memory", "message": "m", "first_rank": 0, "last_lines": ["a"]}
    write_json(run.member(0).attempts()[0].outcome, outcome)

    assert list(logs.errors(run, ALL))[-1].startswith("    do  lower train.batch_size")
