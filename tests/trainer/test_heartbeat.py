"""A rank's beat: what stands in the file, how often it is written, and the stacks behind it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conf.job_schema import Hang
from launchers.host.beats import KEYS, Limit, culprit, described, limit, longest, main_thread, stacks_of
from launchers.run_folder.beat import Beat as Read
from launchers.run_folder.beat import beat_of
from tests.trainer.ranks import ROOT
from trainer.insight import heartbeat
from trainer.insight.heartbeat import PACED, SECTIONS, SIZE, Beat, host_of
from trainer.insight.spool import Ledger


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    return now


def said(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes()[:SIZE])
    return document


def test_beat_is_read_as_it_was_written(tmp_path: Path, clock: list[float]) -> None:
    beat = Beat(tmp_path / "beat-0")
    beat.begin("train")
    for step in range(1, 4):
        clock[0] += 2.0
        beat.stepped(step)

    found = beat_of(tmp_path / "beat-0")

    assert (found.section, found.step, found.pace_s, found.host) == ("train", 3, 2.0, os.uname().nodename)
    assert (tmp_path / "beat-0").stat().st_size == SIZE


def test_beat_within_a_section_is_written_now_and_then(tmp_path: Path, clock: list[float]) -> None:
    beat = Beat(tmp_path / "beat-0")
    beat.begin("train")
    for step in range(1, 12):
        clock[0] += 0.1
        beat.at("data wait")
        beat.stepped(step)

    assert said(tmp_path / "beat-0")["step"] in (8, 9), "half a second after the third"
    beat.begin("checkpoint")
    assert (said(tmp_path / "beat-0")["section"], said(tmp_path / "beat-0")["step"]) == ("checkpoint", 11)


def test_beat_pace_is_known_after_the_first_steps_and_is_the_median(tmp_path: Path, clock: list[float]) -> None:
    beat = Beat(tmp_path / "beat-0")
    clock[0] += 300  # the first step compiles
    beat.stepped(1)
    assert said(tmp_path / "beat-0")["pace_s"] is None
    for step, seconds in enumerate((0.01, 50.0, 0.02), 2):
        clock[0] += seconds
        beat.stepped(step)
    clock[0] += 1
    beat.at("train")

    assert PACED == 3 and said(tmp_path / "beat-0")["pace_s"] == 0.02


def test_beat_without_a_file_and_on_a_disk_that_takes_none_is_no_error(tmp_path: Path) -> None:
    for path in (None, tmp_path / "nowhere" / "beat-0"):
        beat = Beat(path)
        beat.begin("train")
        beat.stepped(1)


def test_ledger_moves_the_beat_on_every_rank(tmp_path: Path) -> None:
    ledger = Ledger(None, Beat(tmp_path / "beat-1"))
    for event, section in SECTIONS.items():
        ledger.mark(event)
        assert said(tmp_path / "beat-1")["section"] == section
    ledger.mark("checkpoint_durable")
    assert said(tmp_path / "beat-1")["section"] == "shutdown"


def test_stacks_of_all_threads_stand_behind_the_beat(tmp_path: Path) -> None:
    code = """
import os, signal, sys, threading, time
from pathlib import Path
from trainer.insight.heartbeat import Beat
def writer():
    time.sleep(60)
threading.Thread(target=writer, daemon=True).start()
def in_c():
    print("ready", flush=True)
    time.sleep(60)
beat = Beat(Path(sys.argv[1]))
beat.begin("restore")
in_c()
"""
    path = tmp_path / "beat-0"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    ) as rank:
        assert rank.stdout is not None and rank.stdout.readline() == b"ready\n"
        rank.send_signal(signal.SIGUSR1)
        while not (stacks := stacks_of(path)).endswith("<module>"):
            assert rank.poll() is None
        rank.kill()

    assert beat_of(path).section == "restore"
    assert "in writer" in stacks
    assert [line.rpartition(" in ")[2] for line in main_thread(stacks)] == ["<module>", "in_c"]


# --- who is to blame ----------------------------------------------------------------------------------

WORKER = '  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap'


def stack(*frames: str) -> str:
    """As faulthandler has it: the innermost first, another thread before."""
    inner = "\n".join(f'  File "{frame.partition(":")[0]}", line 3 in {frame.partition(":")[2]}' for frame in frames)
    return f"Thread 0x01 (most recent call first):\n{WORKER}\n\nCurrent thread 0x02 (most recent call first):\n{inner}"


REDUCING = stack(
    "/t/torch/distributed/distributed_c10d.py:all_reduce", "/c/trainer/parallel/group.py:sum", "/c/loop.py:train"
)
BACKWARD = stack("/t/torch/autograd/graph.py:_engine_run_backward", "/t/torch/_tensor.py:backward", "/c/loop.py:train")
LOOPING = stack("/u/model.py:forward", "/t/torch/nn/module.py:_call_impl", "/c/loop.py:train")
MEETING = stack("/c/trainer/parallel/group.py:join", "/c/trainer/assemble.py:prepare")
SAVING = stack(
    "/c/trainer/durable.py:sync",
    "/c/trainer/checkpoints/checkpoint.py:_written",
    "/c/trainer/parallel/group.py:together",
)


@pytest.mark.parametrize(
    ("stacks", "rank"),
    [
        ([REDUCING, LOOPING, BACKWARD], 1),
        ([BACKWARD, REDUCING, ""], 2),
        ([LOOPING, "", REDUCING], 1),
        ([MEETING, MEETING, LOOPING], 2),
        ([REDUCING, SAVING, REDUCING], 1),
        ([REDUCING, REDUCING, REDUCING], 1),
        (["", "", ""], 1),
        ([LOOPING, LOOPING, LOOPING], 1),
    ],
    ids=["loops", "stopped", "stopped and slow", "never came", "disk", "deadlock", "all stopped", "all alike"],
)
def test_culprit_is_the_one_that_the_others_wait_for(stacks: list[str], rank: int) -> None:
    """Of ranks that are alike, the one that is behind."""
    beats = [Read("train", step, 0.1, f"n{step}", 5.0) for step in (8, 7, 8)]

    found = culprit(beats, stacks, [""] * len(beats))

    assert (found.rank, found.beat) == (rank, beats[rank])
    assert found.stack == main_thread(stacks[rank])


def test_culprit_among_ranks_that_never_began_is_any_of_them() -> None:
    assert culprit([Read(), Read()], ["", ""], ["", ""]).rank == 0


# --- how long a rank may be silent --------------------------------------------------------------------


LIMITS = Hang(setup_s=900.0, first_step_s=800.0, step_s=60.0, data_wait_s=30.0, evaluation_s=70.0, checkpoint_s=400.0)


@pytest.mark.parametrize(
    ("beat", "seconds", "key"),
    [
        (Read(), 900.0, "setup_s"),
        (Read("imports"), 900.0, "setup_s"),
        (Read("first step", 0, None), 800.0, "first_step_s"),
        (Read("train", 1, None), 800.0, "first_step_s"),
        (Read("data wait", 0, None), 800.0, "first_step_s"),
        (Read("compiling", 5, 0.1), 800.0, "first_step_s"),
        (Read("train", 5, 0.1), 60.0, "step_s"),
        (Read("train", 5, 30.0), 90.0, "step_s"),
        (Read("data wait", 5, 0.1), 30.0, "data_wait_s"),
        (Read("data wait", 5, 30.0), 90.0, "data_wait_s"),
        (Read("evaluation", 0, None), 70.0, "evaluation_s"),
        (Read("evaluation", 5, 30.0), 90.0, "evaluation_s"),
        (Read("checkpoint", 5, 300.0), 400.0, "checkpoint_s"),
    ],
)
def test_limit_is_the_sections_and_of_a_step_by_the_pace(beat: Read, seconds: float, key: str) -> None:
    assert limit(beat, LIMITS) == Limit(seconds, key)


def test_limit_of_ranks_that_wait_for_each_other_is_the_longest_and_the_message_says_which_to_raise() -> None:
    beats = [Read("train", 8, 0.1, "n0"), Read("checkpoint", 8, 0.1, "n1"), Read("data wait", 8, 0.1, "n2")]
    blamed = culprit(beats, [REDUCING, SAVING, REDUCING], ["", "", ""])

    said = described(blamed, 401.2, longest(beats, LIMITS))

    assert said.startswith(
        "rank 1 (n1) gave no sign for 401 s in checkpoint (the limit is 400 s, job.hang.checkpoint_s); its last line: "
    )


def test_limit_is_there_for_every_section_that_the_trainer_names_and_none_besides() -> None:
    code = "".join(path.read_text() for path in (ROOT / "trainer").rglob("*.py"))
    named = re.findall(r'beat\.(?:at|begin)(?:\(|, )"([a-z ]+)"|self\.begin\("([a-z ]+)"\)', code)

    sections = {"start", *SECTIONS.values(), *("".join(pair) for pair in named)}

    assert {"compiling", "data wait", "profile", "evaluation"} <= sections
    assert set(KEYS) == sections
    assert set(KEYS.values()) == {field.name for field in dataclasses.fields(Hang)}


@pytest.mark.parametrize("content", [None, b"", b'{"section": "tra', b"[]", b'{"section": "train"}', b"\xff\x00"])
def test_beat_that_is_not_there_or_torn_is_one_of_the_start(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "beat-0").write_bytes(content)

    assert beat_of(tmp_path / "beat-0") == Read()
    assert host_of(tmp_path / "beat-0") is None


def test_host_of_a_rank_is_in_its_beat(tmp_path: Path) -> None:
    Beat(tmp_path / "beat-3")

    assert host_of(tmp_path / "beat-3") == os.uname().nodename
