"""Batches come to the loop the same whoever reads them, and by as many workers as their reading is worth."""

from __future__ import annotations

import itertools
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.ranks import ROOT
from trainer.data import feed
from trainer.data.datasets import Mapped
from trainer.data.demand import Demand
from trainer.data.feed import Batch, Feed, Place
from trainer.data.hand import Hand
from trainer.data.order import PADDING
from trainer.data.windows import Tokens, Windows
from trainer.signals import Notice
from trainer.sources import TensorSamples

CPU = torch.device("cpu")


class Noise:
    """A user's data set with noise from every kind of random number; the class is the process that read it."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return index + torch.rand(1) + random.random() + np.random.rand(), os.getpid()


DRAWN = Mapped(Noise())


def places(batches: int, epoch: int = 0) -> Iterator[Place]:
    for number in range(batches):
        yield epoch, np.arange(3 * number, 3 * number + 3)


def looped(fed: Feed, order: Iterator[Place]) -> Iterator[Batch]:
    """As a loop takes them, one for each step."""
    demand = Demand()
    hand = Hand(fed.batches(order, demand), fed.device, demand)
    while True:
        hand.fill(1, 0, Notice())
        if (batch := hand.next()) is None:
            return
        yield batch


@pytest.mark.parametrize("workers", [0, 2])
def test_random_numbers_of_reading_depend_on_epoch_and_samples_alone(workers: int) -> None:
    def noise(first: int, epoch: int, workers: int) -> list[float]:
        rows = [place for place in places(6, epoch) if place[1][0] >= first]
        return [round(batch.inputs.sum().item(), 4) for batch in Feed(DRAWN, CPU, workers, seed=1).batches(rows)]

    torch.manual_seed(5)
    expected = noise(0, 0, workers=0)
    torch.manual_seed(6)

    assert noise(0, 0, workers) == expected
    assert noise(9, 0, workers) == expected[3:]  # as after a stop
    assert noise(0, 1, workers) != expected


def test_random_numbers_of_a_sample_are_its_own_whatever_else_is_in_its_batch() -> None:
    """So that another number of ranks, which cuts batches otherwise, sees the same."""
    together, apart = (list(Feed(DRAWN, CPU, seed=1).batches((3, np.array(i)) for i in which)) for which in CUTS)

    assert together[0].inputs.tolist() == [row for batch in apart for row in batch.inputs.tolist()]


CUTS = ([[7, 1, 5, 0]], [[7], [1, 5], [0]])


def test_reading_leaves_the_models_random_numbers_alone() -> None:
    def drawn(read: bool) -> list[float]:
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        if read:
            list(Feed(DRAWN, CPU, 0, seed=1).batches(places(2)))
        return [torch.rand(1).item(), random.random(), np.random.rand()]

    assert drawn(read=True) == drawn(read=False)


def test_fillers_weigh_nothing() -> None:
    samples = TensorSamples(torch.arange(4.0), torch.arange(4))

    full, short = Feed(samples, CPU).batches([(0, np.array([1, 0, 2])), (0, np.array([2, 3, PADDING]))])

    assert full.weights is None
    assert short.inputs.tolist() == [2.0, 3.0, 2.0]
    assert short.weights is not None and short.weights.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("width", [1, 3, 4, 100_000])
def test_batches_of_samples_in_memory_are_those_of_workers_and_begin_where_a_tensor_may(width: int) -> None:
    generator = torch.Generator().manual_seed(1)
    samples = TensorSamples(torch.rand(50, width, generator=generator), torch.arange(50))
    order = [*places(13), (1, np.array([49, 7, PADDING]))]

    cut, read = list(Feed(samples, CPU).batches(order)), list(Feed(samples, CPU, workers=1).batches(order))

    assert len(cut) == len(order)
    for ours, theirs in zip(cut, read, strict=True):
        assert torch.equal(ours.inputs, theirs.inputs) and torch.equal(ours.targets, theirs.targets)
        assert (ours.weights is None) == (theirs.weights is None)
        assert ours.inputs.data_ptr() % feed.ALIGNED_BYTES == ours.targets.data_ptr() % feed.ALIGNED_BYTES == 0
    assert cut[-1].weights is not None and cut[-1].weights.tolist() == [1, 1, 0]


@pytest.fixture
def mapped(tmp_path: Path) -> Windows:
    """50 windows of 6 tokens of a file."""
    content = np.random.default_rng(1).integers(0, 256, 301, np.uint8)
    (tmp_path / "t.bin").write_bytes(content.tobytes())
    row = Tokens(tmp_path / "t.bin", 0, "uint8", len(content))
    return Windows((row,), np.array([50]), 6, range(50))


@pytest.mark.parametrize("workers", [None, 0])
def test_windows_that_are_read_many_at_once_are_those_read_one_by_one(mapped: Windows, workers: int | None) -> None:
    order = [*places(16), (1, np.array([49, 7, PADDING]))]

    many, single = list(Feed(mapped, CPU, workers).batches(iter(order))), [Feed(mapped, CPU)[place] for place in order]

    assert len(many) == len(order)
    for batch, (inputs, targets, weights) in zip(many, single, strict=True):
        assert torch.equal(batch.inputs, inputs) and torch.equal(batch.targets, targets)
        assert (batch.weights is None) == (weights is None)
    assert many[-1].weights is not None and many[-1].weights.tolist() == [1, 1, 0]


@pytest.mark.parametrize("kind", ["in memory", "mapped", "drawn"])
def test_batches_for_a_card_are_read_into_pinned_memory(
    mapped: Windows, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pinned: set[int] = set()
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: (pinned.add(self.untyped_storage().data_ptr()), self)[1])
    samples = {"in memory": TensorSamples(torch.rand(50, 3), torch.arange(50)), "mapped": mapped, "drawn": DRAWN}[kind]

    batches = list(Feed(samples, torch.device("cuda"), 0).batches([*places(5), (0, np.array([1, 2, PADDING]))]))

    parts = [part for batch in batches for part in batch if part is not None]
    assert len(parts) == 2 * 6 + 1
    assert {part.untyped_storage().data_ptr() for part in parts} <= pinned


@pytest.mark.parametrize(("took_s", "parcels"), [(0.001, [1, 2, 4, 8, 5]), (1.0, [1] * 20)])
def test_slow_reading_is_done_in_small_parcels(
    mapped: Windows, monkeypatch: pytest.MonkeyPatch, took_s: float, parcels: list[int]
) -> None:
    clock, seen = itertools.count(0, took_s), list[int]()
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    read = Windows.batch
    monkeypatch.setattr(
        Windows, "batch", lambda self, indices: (seen.append(len(indices) // 2), read(self, indices))[1]
    )

    list(Feed(mapped, CPU, 0).batches((0, np.arange(2 * i, 2 * i + 2)) for i in range(20)))

    assert seen == parcels


@pytest.mark.parametrize(("spare_cores", "readers"), [(2, 2), (0, 1)])
def test_workers_take_over_after_the_first_batches_when_reading_is_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spare_cores: int, readers: int
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))  # every reading takes as long as every step
    caplog.set_level(logging.INFO, "trainer.data.feed")

    batches = list(looped(Feed(DRAWN, CPU, None, spare_cores, seed=1), places(feed.MEASURED + 6)))

    assert {batch.targets[0].item() for batch in batches[: feed.MEASURED]} == {os.getpid()}
    later = {batch.targets[0].item() for batch in batches[feed.MEASURED :]}
    assert len(later) == readers and (os.getpid() in later) == (readers == 1)
    assert (f"{spare_cores} workers read ahead" in caplog.text) == bool(spare_cores)
    whole = Feed(DRAWN, CPU, 0, seed=1).batches(places(feed.MEASURED + 6))
    assert [b.inputs.tolist() for b in batches] == [b.inputs.tolist() for b in whole]


@pytest.mark.parametrize("workers", [1, None])
def test_workers_read_farther_ahead_where_the_loop_waits_and_every_batch_comes_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, workers: int | None
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))  # every wait takes as long as every step
    monkeypatch.setattr(feed, "AGAIN", 4)
    caplog.set_level(logging.INFO, "trainer.data.feed")

    batches = list(looped(Feed(DRAWN, CPU, workers, 2, seed=1), places(32)))

    said = [line.split("data: ")[1] for line in caplog.text.splitlines()]
    farther = [f"{workers or 2} workers read ahead from now on, {ahead} batches each" for ahead in (8, 32)]
    assert said == [*([] if workers else ["2 workers read ahead (train.workers)"]), *farther]
    whole = Feed(DRAWN, CPU, 0, seed=1).batches(places(32))
    assert [b.inputs.tolist() for b in batches] == [b.inputs.tolist() for b in whole]


def ended(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A Python program in a process of its own."""
    told = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run([sys.executable, "-c", script], env=told, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("notice", ["SIGTERM", "SIGUSR2"])
def test_notice_to_workers_that_are_just_starting_ends_none(notice: str) -> None:
    """Slurm sends it to each process of a step, and torch does things of its own before our first word there."""
    script = f"""
import os, signal
import numpy as np, torch
from torch.utils.data._utils import signal_handling
from trainer import signals
from trainer.data.feed import Feed
from trainer.sources import TensorSamples
begin = signal_handling._set_worker_signal_handlers
def told():
    os.kill(os.getpid(), signal.{notice})
    begin()
    os.kill(os.getpid(), signal.{notice})
signal_handling._set_worker_signal_handlers = told
signals.install().breaks = True
feed = Feed(TensorSamples(torch.arange(40.0), torch.arange(40)), torch.device("cpu"), workers=2)
print([batch.inputs.sum().item() for batch in feed.batches((0, np.arange(4 * i, 4 * i + 4)) for i in range(3))])
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""

    done = ended(script)

    assert done.stdout == "[6.0, 22.0, 38.0]\nset()\n", done.stderr


def test_rank_that_leaves_while_it_takes_a_batch_leaves_no_traceback_of_its_workers() -> None:
    script = """
from multiprocessing import connection, process, resource_sharer
import numpy as np, torch
from trainer.data.feed import Feed
from trainer.signals import Broken
from trainer.sources import TensorSamples
def left(ident):
    connection.Client(ident[0], authkey=process.current_process().authkey).close()
    raise Broken
feed = Feed(TensorSamples(torch.arange(40.0), torch.arange(40)), torch.device("cpu"), workers=1)
batches = feed.batches((0, np.arange(4 * i, 4 * i + 4)) for i in range(6))
print(next(batches).inputs.sum().item())
resource_sharer._ResourceSharer.get_connection = staticmethod(left)
try:
    next(batches)
except Broken:
    print("left")
"""

    done = ended(script)

    assert (done.stdout, done.stderr) == ("6.0\nleft\n", "")


def test_workers_hand_batches_over_where_the_temporary_folder_has_a_long_name(
    tmp_path: Path,
) -> None:
    long = tmp_path / ("long" * 30)
    long.mkdir()
    script = """
import numpy as np, torch
from trainer.data.feed import Feed
from trainer.sources import TensorSamples
feed = Feed(TensorSamples(torch.arange(40.0), torch.arange(40)), torch.device("cpu"), workers=1)
print([batch.inputs.sum().item() for batch in feed.batches((0, np.arange(4 * i, 4 * i + 4)) for i in range(3))])
"""

    done = ended(script, TMPDIR=str(long))

    assert done.stdout == "[6.0, 22.0, 38.0]\n", done.stderr
