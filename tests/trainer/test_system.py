"""Samples of the node: names, units, and agreement of the two ways to read them."""

from __future__ import annotations

import json
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.ranks import FRESH, Member, own
from trainer.insight import shares, system
from trainer.insight.cards import Cards
from trainer.insight.shares import Process
from trainer.insight.system import MB, Counters, from_proc, rates, sampled
from trainer.rank import Rank

NAMES = {
    "cpu_utilization_percentage",
    "system_memory_usage_megabytes",
    "system_memory_usage_percentage",
    "network_receive_megabytes",
    "network_transmit_megabytes",
    "disk_usage_percentage",
    "disk_usage_megabytes",
    "disk_available_megabytes",
}


def rank(local: int = 0, node: int = 0, world: int = 1) -> Rank:
    return Rank(local, local, world, 1, node, ("127.0.0.1", 1))


def test_rates_use_since_the_last_sample_and_traffic_since_the_beginning() -> None:
    begin = Counters(10, 90, 1 * MB, 4 * MB, 0, 5 * MB)
    before = Counters(10, 90, 1 * MB, 4 * MB, 1 * MB, 5 * MB)
    now = Counters(13, 91, 2 * MB, 4 * MB, 3 * MB, 6 * MB)

    assert rates(begin, before, now) == {
        "cpu_utilization_percentage": 75.0,
        "system_memory_usage_megabytes": 2.0,
        "system_memory_usage_percentage": 50.0,
        "network_receive_megabytes": 3.0,
        "network_transmit_megabytes": 1.0,
    }


def test_rates_of_no_time_at_all_are_no_use() -> None:
    same = Counters(1, 1, 1, 1, 1, 1)

    assert rates(same, same, same)["cpu_utilization_percentage"] == 0


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux")
def test_from_proc_agrees_with_psutil() -> None:
    pytest.importorskip("psutil")

    ours, theirs = from_proc(Path("/proc")), system.read()

    assert ours.total == theirs.total
    assert ours.used == pytest.approx(theirs.used, rel=0.2)
    assert ours.idle_s == pytest.approx(theirs.idle_s, rel=0.05)
    assert ours.received == pytest.approx(theirs.received, rel=0.05, abs=MB)


@pytest.mark.parametrize(("world", "prefix"), [(1, "system/"), (2, "system/node-1/")])
def test_sampled_short_run_has_a_line_with_the_names_of_its_node(tmp_path: Path, world: int, prefix: str) -> None:
    with sampled(tmp_path, rank(node=1, world=world), interval_s=60):
        pass

    (line,) = [json.loads(row) for row in (tmp_path / "system-1.jsonl").read_text().splitlines()]
    assert {name.removeprefix(prefix) for name in line["metrics"]} == NAMES


def test_sampled_tells_of_every_rank_of_the_node_and_of_its_loaders(member: Callable[..., Member]) -> None:
    slow = own("own.blobs", rows=400, pause_s=0.02)
    run = member(ranks=2, data=slow, train={"max_steps": 1000, "workers": 1, "batch_size": 4})
    run.program = FRESH
    run.start()
    while not (run.attempt / "ledger.jsonl").exists():
        time.sleep(0.05)
    found: dict[int, shares.Process] = {}
    while not {(p.rank, p.loads) for p in found.values()} >= {(0, False), (1, False), (0, True), (1, True)}:
        assert all(process.poll() is None for process in run.running), run.log()
        begun = any(line["event"] == "first_step" for line in run.lines("ledger.jsonl"))
        found = shares.processes(run.attempt) if begun else {}
        time.sleep(0.05)

    run.running[0].send_signal(signal.SIGUSR2)
    assert run.wait() == [75, 75], run.log()
    last = run.lines("system-0.jsonl")[-1]["metrics"]
    assert {"system/rank-0/memory_megabytes", "system/rank-0/cpu_utilization_percentage"} <= set(last)
    assert {p.pid for p in run.running} == {number for number, p in found.items() if not p.loads}
    told = shares.shares({}, found, 10.0)
    assert told["rank-1/memory_megabytes"] > 50
    assert told["rank-0/loaders_memory_megabytes"] > 10
    assert 0 < told["rank-0/cpu_utilization_percentage"] < 1000
    assert shares.processes(run.path / "attempt-9") == {}


def test_shares_use_is_since_the_sample_before_and_new_processes_count_whole() -> None:
    before = {7: Process(0, False, 10.0, 5)}
    now = {7: Process(0, False, 12.0, 3_000_000), 8: Process(0, True, 1.0, 1_000_000), 9: Process(0, True, 1.0, 10**6)}

    assert shares.shares(before, now, 2.0) == {
        "rank-0/cpu_utilization_percentage": 100.0,
        "rank-0/memory_megabytes": 3.0,
        "rank-0/loaders_cpu_utilization_percentage": 100.0,
        "rank-0/loaders_memory_megabytes": 2.0,
    }
    assert shares.shares(now, now, 0.0)["rank-0/cpu_utilization_percentage"] == 0


class Nvml(types.ModuleType):
    """In place of NVIDIA's library, which needs a card: two cards, the second of which tells less."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.driver, self.calls = driver, []

    def __getattr__(self, name: str) -> Any:
        def asked(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            if not self.driver or (name == "nvmlDeviceGetPowerUsage" and arguments == ("card 1",)):
                raise self.NVMLError(name)
            return {
                "nvmlDeviceGetCount": lambda: 2,
                "nvmlDeviceGetHandleByIndex": lambda index: f"card {index}",
                "nvmlDeviceGetHandleByUUID": lambda name: f"card {name}",
                "nvmlDeviceGetMemoryInfo": lambda _: types.SimpleNamespace(used=3e9, total=12e9),
                "nvmlDeviceGetUtilizationRates": lambda _: types.SimpleNamespace(gpu=97, memory=5),
                "nvmlDeviceGetPowerUsage": lambda _: 350_000,
                "nvmlDeviceGetEnforcedPowerLimit": lambda _: 700_000,
                "nvmlDeviceGetTemperature": lambda _, sensor: 61 + sensor,
            }.get(name, lambda *_: None)(*arguments)

        return asked


def test_cards_tell_use_power_and_heat_and_one_that_cannot_tell_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    found = Cards().read()

    told = {
        "memory_usage_megabytes": 3000.0,
        "memory_usage_percentage": 25.0,
        "utilization_percentage": 97,
        "temperature_celsius": 61,
    }
    power = {"power_usage_watts": 350.0, "power_usage_percentage": 50.0}
    first = {f"gpu_0_{name}": value for name, value in {**told, **power}.items()}
    assert found == {**first, **{f"gpu_1_{name}": value for name, value in told.items()}}


@pytest.mark.parametrize(
    ("visible", "asked"),
    [
        ("1", [("nvmlDeviceGetHandleByIndex", 1)]),
        ("GPU-5c, 0", [("nvmlDeviceGetHandleByUUID", "GPU-5c"), ("nvmlDeviceGetHandleByIndex", 0)]),
        ("", []),
    ],
)
def test_cards_are_those_that_the_run_can_see(
    monkeypatch: pytest.MonkeyPatch, visible: str, asked: list[tuple[str, object]]
) -> None:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    Cards()

    assert nvml.calls == [("nvmlInit",), *asked]


@pytest.mark.parametrize("nvml", [None, Nvml(driver=False)])
def test_cards_without_the_library_or_a_driver_are_torchs(
    monkeypatch: pytest.MonkeyPatch, nvml: types.ModuleType | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)

    assert Cards().read() == {}  # no card has been used here


def test_sampled_other_ranks_of_a_node_write_nothing(tmp_path: Path) -> None:
    with sampled(tmp_path, rank(local=1, world=2)):
        pass

    assert not list(tmp_path.iterdir())
