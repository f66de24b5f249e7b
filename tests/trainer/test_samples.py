"""Each sample once in each epoch: proven on real ranks that are killed and come back as more or fewer of them."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.schema import Component, Objective
from conf.train_schema import Train
from tests.trainer.ranks import ROOT, Member, own
from trainer.checkpoints.checkpoint import committed
from trainer.samples import mistakes

Make = Callable[..., Member]
ROWS = 90
BATCH = 16
PER_EPOCH = -(-ROWS // BATCH)
BLIND = {"objective": Objective(metric="train/loss", goal="minimize")}
"""For a run that keeps nothing for validation."""


# --- chains of kills -----------------------------------------------------------------------------------------------


def in_memory(folder: Path) -> dict[str, Any]:
    return {"data": own("own.blobs", rows=ROWS), "model": own("own.Net")}


def in_tokens(folder: Path) -> dict[str, Any]:
    """Two files of windows, 45 in each."""
    for name in ("a", "b"):
        np.random.default_rng(1).integers(0, 9, 45 * 4 + 1).astype("<u2").tofile(folder / f"{name}.bin")
    options = {"path": str(folder), "glob": "*.bin", "context_length": 4, "split": {"fraction": 0.0}}
    gpt = Component(kind="gpt", options={"n_layer": 1, "n_head": 1, "width": 8})
    return {"data": Component(kind="tokens", options=options), "model": gpt, **BLIND}


def in_shards(folder: Path) -> dict[str, Any]:
    """Three tar files of 30 arrays."""
    for shard in range(3):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for row in range(30):
                array = io.BytesIO()
                np.save(array, np.array([shard, row], np.float32))
                for name, content in (("npy", array.getvalue()), ("cls", str(row % 2).encode())):
                    info = tarfile.TarInfo(f"{row:03d}.{name}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    options = {"path": str(folder), "input": ["npy"], "split": {"fraction": 0.0}}
    return {"data": Component(kind="webdataset", options=options), "model": Component(kind="mlp"), **BLIND}


def killed_after(run: Member, step: int) -> None:
    """Start the ranks, and kill all of them as soon as one has made that step and a checkpoint is there."""
    processes = run.start()
    log, deadline = run.attempt / "samples-0.jsonl", time.monotonic() + 90
    while not (log.exists() and len(log.read_text().splitlines()) > step and committed(run.path / "checkpoints")):
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes), run.log()
        time.sleep(0.01)
    run.end()


@pytest.mark.parametrize("source", [in_memory, in_tokens, in_shards])
def test_chain_of_kills_on_two_one_and_four_ranks_shows_each_sample_once(
    member: Make, tmp_path: Path, source: Callable[[Path], dict[str, Any]]
) -> None:
    (tmp_path / "data").mkdir()
    train = {"max_steps": 10**6, "batch_size": BATCH, "checkpoint_every_steps": 4, "eval_every_steps": 10**6}
    workers = int(source is in_memory)
    run = member(ranks=2, **source(tmp_path / "data"), train={**train, "log_samples": True, "workers": workers})

    killed_after(run, 9)
    run.ranks = 1
    killed_after(run, 9)
    run.ranks, came_to = 4, max(step for step, _ in steps_of(run.path))
    end = (came_to // PER_EPOCH + 2) * PER_EPOCH
    run.spec = changed(run, max_steps=end)
    assert run.run() == [0] * 4, run.log()

    seen = steps_of(run.path)
    worlds = [json.loads(path.read_text().splitlines()[0])["world"] for path in logs(run.path, rank=0)]
    assert worlds == [2, 1, 4]
    assert len(seen) > len({step for step, _ in seen}), "nothing was made twice: the kills came too late"
    assert {step for step, _ in seen} == set(range(1, end + 1))
    assert mistakes(run.path) == []
    said = subprocess.run(
        [sys.executable, "-m", "trainer.samples", str(run.path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout == "each sample was seen once in each epoch\n"
    path = logs(run.path, rank=3)[-1]
    path.write_text(path.read_text().replace('"ids": [', '"ids": [0, ', 1))
    assert mistakes(run.path)


def steps_of(member: Path) -> list[tuple[int, Path]]:
    """Every step that rank 0 made, in whichever attempt."""
    return [(row["step"], path) for path in logs(member, rank=0) for row in rows_of(path)[1:]]


def logs(member: Path, rank: int) -> list[Path]:
    return sorted(member.glob(f"attempt-*/samples-{rank}.jsonl"))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def changed(run: Member, **train: Any) -> Any:
    return dataclasses.replace(run.spec, train=dataclasses.replace(run.spec.train, **train))


@pytest.mark.parametrize("workers", [0, 2])
def test_log_names_the_samples_that_the_model_was_given(member: Make, workers: int) -> None:
    train = {"max_steps": 12, "batch_size": 8, "accumulate": 2, "workers": workers, "log_samples": True}
    run = member(ranks=2, data=own("own.numbered", rows=40), model=own("own.Witness"), train=train)

    assert run.run() == [0, 0], run.log()

    for rank in range(2):
        given = [int(word) for word in (run.attempt / f"witness-{rank}").read_text().split()]
        told = [i for row in rows_of(run.attempt / f"samples-{rank}.jsonl")[1:] for i in row["ids"]]
        assert told == given
    assert mistakes(run.path) == []


def test_without_being_asked_no_log_is_written(member: Make) -> None:
    run = member(train={"max_steps": 2})

    assert run.run() == [0], run.log()

    assert not Train(batch_size=1).log_samples
    assert not list(run.attempt.glob("samples-*"))


# --- the check -----------------------------------------------------------------------------------------------------


@pytest.fixture
def attempts(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Write an attempt: the step that it went on from, and what each rank trained on in each step after it."""
    count = 0

    def write(began: int | None, *ranks: list[list[int]], size: int = 4, epoch_steps: int = 2) -> Path:
        nonlocal count
        folder = tmp_path / f"attempt-{count}"
        folder.mkdir()
        count += 1
        marks = [] if began is None else [{"event": "restore_done", "step": began}]
        (folder / "ledger.jsonl").write_text("".join(json.dumps(mark) + "\n" for mark in marks))
        for rank, steps in enumerate(ranks):
            rows: list[dict[str, Any]] = [{"size": size, "world": len(ranks), "epoch_steps": epoch_steps}]
            for step, ids in enumerate(steps, (began or 0) + 1):
                rows.append({"step": step, "epoch": (step - 1) // epoch_steps, "ids": ids})
            (folder / f"samples-{rank}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path

    yield write


def test_mistakes_of_a_chain_without_any_are_none(attempts: Any) -> None:
    attempts(0, [[0], [2], [1]], [[1], [3], [0]])  # two ranks: steps 1 to 3
    attempts(None)
    attempts(2, [[3, 1]])  # step 3 again, on one rank
    assert mistakes(attempts(2, [[3, 1], [0, 2], [2, 0]])) == []


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ([[0, 1], [3, 0]], "epoch 1 saw 1 samples more than once: 0"),
        ([[0, 1], [2, 9]], "epoch 1 saw 1 samples though there are none: 9"),
        ([[0, 1], [2], [0, 1]], "epoch 1 saw 1 samples never: 3"),
        ([[0, 1], [2]], "epoch 1 saw 1 samples never: 3"),  # the last one, which was trained to its end
    ],
)
def test_mistakes_are_named(attempts: Any, second: list[list[int]], words: str) -> None:
    attempts(0, [[0, 1], [2, 3], [1, 2]])

    assert words in mistakes(attempts(2, second))


def test_mistakes_step_that_nobody_made_is_named(attempts: Any) -> None:
    attempts(0, [[0, 1]])

    assert "step 2 was not logged" in mistakes(attempts(2, [[0, 1]]))


def test_mistakes_step_that_one_rank_did_not_make_counts_for_nothing(attempts: Any) -> None:
    attempts(0, [[0], [2]], [[1]])

    assert mistakes(attempts(1, [[2, 3]])) == []


def test_mistakes_without_a_log_says_so(tmp_path: Path) -> None:
    assert mistakes(tmp_path) == ["no step was logged"]


def test_mistakes_of_other_data_are_named(attempts: Any) -> None:
    attempts(0, [[0, 1]])

    assert mistakes(attempts(1, [[2]], size=5)) == ["the training set had [4, 5] samples"]
