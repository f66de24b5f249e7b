"""How long until a large grid is in the queue, and until its status is known.

    python -m tests.benchmarks.queueing [--full]       (tests/benchmarks/run starts the cluster first)

Everything is queued on hold and cancelled again. The peer is Hydra's own launcher for Slurm, from the command to
the return of its last sbatch; Fairlead from the command to the prompt.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import peers
from tests.benchmarks.calls import Watched
from tests.benchmarks.startup import CLI, ROOT, RUN, WHERE

MEMBERS = ("optimizer.lr=range(1,26)", "seed=range(0,40)")
MANY = ("optimizer.lr=range(1,101)", "seed=range(0,100)")
HOLD = "launcher.sbatch.hold=true"
PEER = "fairlead-bench-peer"
PEER_WORDS = (
    "hydra/launcher=submitit_slurm", f"hydra.launcher.name={PEER}", "hydra.launcher.timeout_min=60",
    "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2", "hydra.launcher.array_parallelism=1000",
    "+hydra.launcher.additional_parameters.hold=true", "hydra.sweep.dir=peer",
)  # fmt: skip
LIMIT_S = 600
ROOM_LIMIT_S = 400
"""Slurm keeps cancelled members for MinJobAge (300 s), and they count until then."""


@dataclass(frozen=True)
class Took:
    """One measurement; CPU time is that of the command and all that it waited for."""

    wall_s: float
    cpu_s: float
    sbatch_s: float = 0.0
    sbatch_calls: int = 0
    squeue_calls: int = 0


def main() -> None:
    full = "--full" in sys.argv
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.chdir(work)
        os.environ.update(PYTHONPATH=str(ROOT), XDG_STATE_HOME=str(work / "state"), BENCH_CONF=str(ROOT / "conf"))
        watched = Watched(work / "bin")
        _against_the_peer(watched, pairs=3 if full else 1)
        _by_ourselves(watched, rounds=3 if full else 1)


def _against_the_peer(watched: Watched, pairs: int) -> None:
    """A B C A B C: ours, the peer with the very same configuration, the peer with one of two keys."""
    python = peers.python()
    with _queued(watched, MEMBERS):
        pass  # not counted: bytecode, caches
    rounds = []
    for _ in range(pairs):
        with _queued(watched, MEMBERS) as (ours, _run):
            pass
        same = _peer(watched, [python, str(peers.PROGRAMS / "composed.py"), "-m", "experiment=digits", *MEMBERS])
        two = _peer(watched, [python, str(peers.PROGRAMS / "two_keys.py"), "-m", *MEMBERS])
        rounds.append((ours, same, two))
    print(f"1,000 members into the queue ({pairs} pair{'s' * (pairs > 1)})")
    print(f"{'':<52} {'wall':>9} {'CPU':>9} {'peer / Fairlead':>16}")
    names = ("fairlead launch -m", "hydra-submitit-launcher, the same configuration",
             "hydra-submitit-launcher, a configuration of 2 keys")  # fmt: skip
    for i, name in enumerate(names):
        wall, cpu = (statistics.median(getattr(r[i], what) for r in rounds) for what in ("wall_s", "cpu_s"))
        ratio = statistics.median(r[i].wall_s / r[0].wall_s for r in rounds)
        print(f"{name:<52} {wall:>7.2f} s {cpu:>7.2f} s {f'{ratio:.0f} x' if i else '':>16}")


def _by_ourselves(watched: Watched, rounds: int) -> None:
    """10,000 members: more than the peer would do in a quarter of an hour."""
    launches, looks = [], []
    for _ in range(rounds):
        with _queued(watched, MANY) as (took, run):
            launches.append(took)
            _status(watched, run)
            looks.append(_status(watched, run))
    print(f"\n10,000 members ({rounds} round{'s' * (rounds > 1)})")
    print(f"{'':<22} {'wall':>9} {'own time':>9} {'own CPU':>9}   {'sbatch':<22} squeue calls")
    _say("fairlead launch -m", launches)
    _say("fairlead status", looks)


def _say(name: str, rounds: Sequence[Took]) -> None:
    wall, own = _median(rounds, lambda t: t.wall_s), _median(rounds, lambda t: t.wall_s - t.sbatch_s)
    cpu, asked = _median(rounds, lambda t: t.cpu_s), _median(rounds, lambda t: t.sbatch_s)
    sbatch = f"{rounds[-1].sbatch_calls} calls, {asked:.2f} s"
    print(f"{name:<22} {wall:>7.2f} s {own:>7.2f} s {cpu:>7.2f} s   {sbatch:<22} {rounds[-1].squeue_calls}")


def _median(rounds: Sequence[Took], of: Callable[[Took], float]) -> float:
    return statistics.median(of(took) for took in rounds)


@contextmanager
def _queued(watched: Watched, swept: Sequence[str]) -> Iterator[tuple[Took, Path]]:
    """A launch of ours, from the command to the prompt; cancelled at the end."""
    _room()
    run = [word for word in RUN if not word.startswith("train.")]
    argv = [*CLI, "launch", "--json", *WHERE, *run, HOLD, "-m", *swept]
    said, took = _measured(watched, argv)
    folder = Path(json.loads(said)["run_dir"])
    try:
        yield took, folder
    finally:
        rows = [json.loads(line) for line in (folder / "submit.jsonl").read_text().splitlines()]
        subprocess.run(["scancel", *(r["slurm_id"] for r in rows if "slurm_id" in r)], check=True, timeout=60)


def _status(watched: Watched, run: Path) -> Took:
    return _measured(watched, [*CLI, "status", str(run)])[1]


def _measured(watched: Watched, argv: Sequence[str]) -> tuple[str, Took]:
    watched.forget()
    before, begun = _cpu_s(), time.monotonic()
    said = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S).stdout
    wall, cpu = time.monotonic() - begun, _cpu_s() - before
    calls = (len(watched.calls(name)) for name in ("sbatch", "squeue"))
    return said, Took(wall, cpu, watched.seconds("sbatch"), *calls)


def _peer(watched: Watched, argv: Sequence[str]) -> Took:
    """The peer's client, until its sbatch has returned; it would stay until the last member has ended."""
    _room()
    watched.forget()
    before, begun = _cpu_s(), time.time()
    with Path("peer.log").open("w") as log, subprocess.Popen(
        [*argv, *PEER_WORDS], stdout=log, stderr=subprocess.STDOUT
    ) as client:  # fmt: skip
        while not watched.calls("sbatch") and client.poll() is None and time.time() - begun < LIMIT_S:
            time.sleep(0.05)
        client.kill()
    subprocess.run(["scancel", "--name", PEER], check=True, timeout=60)
    if not watched.calls("sbatch"):
        raise SystemExit(f"the peer queued nothing:\n{Path('peer.log').read_text()[-2000:]}")
    return Took(watched.calls("sbatch")[-1].ended - begun, _cpu_s() - before)


def _room(members: int = 10_100) -> None:
    """Wait until the controller has forgotten enough of what was cancelled: it refuses what is beyond MaxJobCount."""
    said = subprocess.run(["scontrol", "show", "config"], check=True, capture_output=True, text=True, timeout=60)
    most = next(int(line.split("=")[1]) for line in said.stdout.splitlines() if line.startswith("MaxJobCount"))
    end = time.monotonic() + ROOM_LIMIT_S
    argv = ["squeue", "--states=all", "--array", "--noheader", "--format=%i"]
    while time.monotonic() < end:
        known = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.count("\n")
        if known + members < most:
            return
        time.sleep(5)
    raise SystemExit("Slurm's queue has no room for another 10,000 members (MaxJobCount)")


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
