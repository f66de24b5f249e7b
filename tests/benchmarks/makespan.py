"""How long a search takes on eight slots, when trials take unequally long, and how much of that the slots stand idle.

    python -m tests.benchmarks.makespan [--full]       (tests/benchmarks/run starts the cluster first)

Trial k takes equally long whoever runs it (its duration is drawn beforehand; the program sleeps). Batches are Hydra's
Optuna sweeper with joblib, the loop is eight processes on one Optuna journal, and Fairlead runs on the real cluster,
with all that it costs to start a member there. The ideal begins the next trial at once wherever one ends.
"""

from __future__ import annotations

import heapq
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import peers
from tests.benchmarks.startup import CLI, ROOT, WHERE

SLOTS, TRIALS = 8, 48
LIMIT_S = 1500
TRIAL = """\
seconds=$(sed -n "$((FAIRLEAD_MEMBER + 1))p" "$BENCH_TRIALS/durations")
date +%s.%N > "$BENCH_TRIALS/$FAIRLEAD_MEMBER.begun"
sleep "$seconds"
date +%s.%N > "$BENCH_TRIALS/$FAIRLEAD_MEMBER.ended"
x=${1#--x=}
awk "BEGIN {printf \\"{\\\\\\"step\\\\\\": 1, \\\\\\"loss\\\\\\": %g}\\n\\", ($x - 0.3) ^ 2}" >> "$FAIRLEAD_REPORTS"
"""
SEARCH = """\
kind: search
algorithm: tpe
trials: 1
parameters:
  params.x: {type: double, min: 0.0, max: 1.0}
"""


@dataclass(frozen=True)
class Result:
    """One way of running all trials."""

    name: str
    command_s: float
    """From the command to the end of the last trial."""
    span_s: float
    """From the beginning of the first trial to the end of the last."""
    idle: float
    """Share of the slots' time within the span in which no trial ran."""
    pause_s: float
    """Between the end of a trial and the beginning of the one that takes its place, the mean."""


def main() -> None:
    full = "--full" in sys.argv
    _simulated()
    for sigma in (0.5, 1.0) if full else (0.5,):
        _real(sigma, median_s=20 if full else 8)


# --- with a clock of its own --------------------------------------------------------------------------


def durations_of(sigma: float, median_s: float, seed: int) -> list[float]:
    """Log-normal."""
    drawn = random.Random(seed)
    return [median_s * drawn.lognormvariate(0, sigma) for _ in range(TRIALS)]


def listed(durations: Sequence[float]) -> list[tuple[float, float]]:
    """Begin and end of each trial when it takes the first slot that is free."""
    free, found = [0.0] * SLOTS, []
    for duration in durations:
        begun = heapq.heappop(free)
        heapq.heappush(free, begun + duration)
        found.append((begun, begun + duration))
    return found


def batched(durations: Sequence[float]) -> list[tuple[float, float]]:
    """The same when each batch waits for the slowest of the one before."""
    found: list[tuple[float, float]] = []
    for first in range(0, len(durations), SLOTS):
        begun = max((end for _, end in found), default=0.0)
        found += [(begun, begun + duration) for duration in durations[first : first + SLOTS]]
    return found


def _result(name: str, times: Sequence[tuple[float, float]], busy_s: float, command: float | None = None) -> Result:
    begun, ended = sorted(b for b, _ in times), sorted(e for _, e in times)
    span = ended[-1] - begun[0]
    pauses = [b - e for b, e in zip(begun[SLOTS:], ended, strict=False)]
    since = begun[0] if command is None else command
    return Result(name, ended[-1] - since, span, 1 - busy_s / (SLOTS * span), statistics.fmean(pauses))


def _simulated(seeds: int = 40) -> None:
    print(f"{TRIALS} trials on {SLOTS} slots, a clock of its own, the mean over {seeds} seeds")
    print(f"{'sigma of log duration':<24} {'batches / list':>14} {'idle, batches':>14} {'idle, list':>11}")
    for sigma in (0.25, 0.5, 1.0):
        pairs = []
        for seed in range(seeds):
            drawn = durations_of(sigma, 1.0, seed)
            pairs.append([_result("", way(drawn), sum(drawn)) for way in (batched, listed)])
        ratio = statistics.fmean(b.span_s / a.span_s for b, a in pairs)
        idle = [statistics.fmean(pair[i].idle for pair in pairs) for i in (0, 1)]
        print(f"{sigma:<24} {ratio:>12.2f} x {idle[0]:>14.0%} {idle[1]:>11.0%}")


# --- for real -----------------------------------------------------------------------------------------


def _real(sigma: float, median_s: float) -> None:
    drawn = durations_of(sigma, median_s, seed=1)
    results = [_result("the ideal list schedule", listed(drawn), sum(drawn))]
    for name, way in (
        ("Fairlead on Slurm, max_parallel=8", _fairlead),
        ("Optuna, 8 processes on a journal", _loop),
        ("hydra-optuna-sweeper, joblib, n_jobs=8", _batches),
    ):
        results.append(_measured(name, way, drawn))
    print(f"\n{TRIALS} trials on {SLOTS} slots, for real: log-normal, sigma {sigma}, median {median_s} s")
    print(f"{'':<40} {'makespan':>10} {'/ Fairlead':>11} {'idle':>6} {'pause':>8} {'first begins':>13}")
    for r in results:
        ratio = r.command_s / results[1].command_s
        first = f"{r.command_s - r.span_s:.1f} s"
        print(
            f"{r.name:<40} {r.command_s:>8.1f} s {ratio:>11.2f} {r.idle:>6.0%} {r.pause_s:>6.2f} s {first:>13}",
            flush=True,
        )


def _measured(name: str, way: Callable[[Path], None], drawn: Sequence[float]) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        trials = Path(folder) / "trials"
        trials.mkdir()
        (trials / "durations").write_text("".join(f"{d:.3f}\n" for d in drawn))
        os.environ.update(BENCH_TRIALS=str(trials), PYTHONPATH=str(ROOT), XDG_STATE_HOME=f"{folder}/state")
        command = time.time()
        way(Path(folder))
        numbers = range(len(drawn))
        times = [tuple(float((trials / f"{k}.{when}").read_text()) for when in ("begun", "ended")) for k in numbers]
    return _result(name, [(begun, ended) for begun, ended in times], sum(drawn), command)


def _fairlead(work: Path) -> None:
    (work / "conf" / "sweep").mkdir(parents=True)
    (work / "conf" / "sweep" / "sleeps.yaml").write_text(SEARCH)
    (work / "trial.sh").write_text(TRIAL)
    words = [
        *CLI, "launch", *WHERE, "--config-dir", str(work / "conf"), "name=makespan", "job=command",
        "job.command=[sh,trial.sh]", "job.metrics.kind=jsonl", "params.x=0.5", "objective.metric=loss",
        "objective.goal=minimize", "tracking=none", "machine.mem_gb=0.5", "sweep=sleeps", f"sweep.trials={TRIALS}",
        f"launcher.max_parallel={SLOTS}", f"+container.env.BENCH_TRIALS={os.environ['BENCH_TRIALS']}",
        "--wait", "--json",
    ]  # fmt: skip
    _run(words, work)


def _loop(work: Path) -> None:
    program = str(peers.PROGRAMS / "looped.py")
    started = [subprocess.Popen([sys.executable, program, "journal"], cwd=work) for _ in range(SLOTS)]
    if any(process.wait(LIMIT_S) for process in started):
        raise SystemExit("a process of the plain Optuna loop failed")


def _batches(work: Path) -> None:
    words = [
        peers.python(), str(peers.PROGRAMS / "batched.py"), "-m", "hydra/sweeper=optuna", "hydra/launcher=joblib",
        "hydra/sweeper/sampler=tpe", f"hydra.sweeper.n_trials={TRIALS}", f"hydra.sweeper.n_jobs={SLOTS}",
        f"hydra.launcher.n_jobs={SLOTS}", "hydra.sweep.dir=out", "x=interval(0,1)",
    ]  # fmt: skip
    _run(words, work)


def _run(words: Sequence[str], work: Path) -> None:
    done = subprocess.run(words, cwd=work, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words[:4])} ... failed:\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}")


if __name__ == "__main__":
    main()
