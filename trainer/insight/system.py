"""How busy is this node? A thread of each node's first rank writes a line every few seconds.

Names and units are those of MLflow's system metrics, so that its charts know them. What each rank of the node uses is
in shares.py, what its cards do in cards.py.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer.insight.cards import Cards
from trainer.insight.shares import processes, shares
from trainer.insight.spool import Lines, plain
from trainer.rank import Rank

INTERVAL_S = 5.0
MB = 1e6


@dataclass(frozen=True)
class Counters:
    """What the system counts since it booted, and what it holds now. Times in seconds, sizes in bytes."""

    busy_s: float
    idle_s: float
    used: float
    total: float
    received: float
    sent: float


@contextmanager
def sampled(attempt: Path, rank: Rank, interval_s: float = INTERVAL_S) -> Iterator[None]:
    """Sample the node while the block runs; once more at its end, so that a short run has a line too."""
    if rank.local != 0:
        yield
        return
    done = threading.Event()
    path = attempt / f"system-{rank.node}.jsonl"
    prefix = f"system/node-{rank.node}/" if rank.nodes > 1 else "system/"
    thread = threading.Thread(target=_sample, args=(path, prefix, interval_s, done), name="system", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=interval_s)


def _sample(path: Path, prefix: str, interval_s: float, done: threading.Event) -> None:
    lines, begin, before, step = Lines(path), read(), read(), 0
    cards, mine, looked = Cards(), processes(path.parent), time.monotonic()
    over = False
    while not over:
        over = done.wait(interval_s)
        now, now_mine, seconds = read(), processes(path.parent), time.monotonic() - looked
        metrics = {**rates(begin, before, now), **_disk(), **cards.read()}
        prefixed = {prefix + name: value for name, value in metrics.items()}
        prefixed |= {f"system/{name}": value for name, value in shares(mine, now_mine, seconds).items()}
        lines.add(
            {
                "t": time.time_ns() // 1_000_000,
                "step": step,
                "metrics": {name: plain(round(value, 1)) for name, value in prefixed.items()},
            }
        )
        before, mine, looked, step = now, now_mine, looked + seconds, step + 1
    lines.close()


def rates(begin: Counters, before: Counters, now: Counters) -> dict[str, float]:
    """Processor use since the last sample, memory now, traffic since the program began."""
    busy, idle = now.busy_s - before.busy_s, now.idle_s - before.idle_s
    return {
        "cpu_utilization_percentage": 100 * busy / (busy + idle) if busy + idle > 0 else 0.0,
        "system_memory_usage_megabytes": now.used / MB,
        "system_memory_usage_percentage": 100 * now.used / now.total,
        "network_receive_megabytes": (now.received - begin.received) / MB,
        "network_transmit_megabytes": (now.sent - begin.sent) / MB,
    }


def read() -> Counters:
    """Through psutil where it is installed, else from /proc."""
    try:
        import psutil
    except ModuleNotFoundError:
        return from_proc(Path("/proc"))
    times, memory, network = psutil.cpu_times(), psutil.virtual_memory(), psutil.net_io_counters()
    idle = times.idle + getattr(times, "iowait", 0.0)
    busy = times.user + times.system + getattr(times, "nice", 0.0)
    return Counters(busy, idle, memory.used, memory.total, network.bytes_recv, network.bytes_sent)


def from_proc(proc: Path) -> Counters:
    """From the kernel's own files, for images without psutil."""
    user, nice, system, idle, iowait = (int(n) for n in (proc / "stat").read_text().split()[1:6])
    sizes = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
    total, available = (int(sizes[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    cards = [line.split(":")[1].split() for line in (proc / "net/dev").read_text().splitlines()[2:]]
    ticks = os.sysconf("SC_CLK_TCK")
    return Counters(
        busy_s=(user + nice + system) / ticks,
        idle_s=(idle + iowait) / ticks,
        used=total - available,
        total=total,
        received=sum(int(card[0]) for card in cards),
        sent=sum(int(card[8]) for card in cards),
    )


def _disk() -> dict[str, float]:
    usage = shutil.disk_usage(os.sep)
    return {
        "disk_usage_percentage": 100 * usage.used / usage.total,
        "disk_usage_megabytes": usage.used / MB,
        "disk_available_megabytes": usage.free / MB,
    }
