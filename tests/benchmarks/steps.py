"""Steps a second of the built-in trainer, beside a hand-written PyTorch loop, Lightning and Accelerate.

    python -m tests.benchmarks.steps [--full]       (five times as many rounds; no cluster is needed)

Model, data, batch, precision, schedule, optimizer and ranks are the same; no gradient clipping, one report in 50 steps,
evaluation and checkpoint after the last. The programs (programs/by_*.py) run in turn, A B C D A B C D, and are compared
round by round, by the clock and by the CPU time of a step (rank 0's). Where torch sees a card they run on it in bf16,
with as many ranks as there are cards, at most two.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conf.machine_schema import Accelerator
from conf.schema import Component, Objective, Spec
from tests.benchmarks import peers
from tests.trainer.ranks import ROOT, Member, make_spec

PROGRAMS: dict[str, Sequence[str]] = {
    "Fairlead": ("-m", "trainer"),
    **{
        name: (str(peers.PROGRAMS / f"by_{name.lower().replace(' ', '_')}.py"),)
        for name in ("hand", "Lightning", "Accelerate")
    },
}
ROUNDS, FULL_ROUNDS = 3, 15
LOG_EVERY_STEPS = 50
LIMIT_S = 300
PEAK_BF16_TFLOPS = {"H200": 989.5, "H100": 989.5, "A100": 312.0}
"""Of conf/accelerator/, by a word in the card's name: for train/mfu of ours."""


@dataclass(frozen=True)
class Case:
    """What is trained."""

    name: str
    steps: int
    batch_size: int
    data: Component
    model: Component


def part(kind: str, **options: Any) -> Component:
    """Data or a model of ours."""
    return Component(kind=kind, options=options)


CASES = (
    Case("mlp iris", 6000, 24, part("sklearn", set="iris"), part("mlp", width=16)),
    # Training sets are whole multiples of the batch: no step has fillers.
    Case("cnn digits", 450, 64, part("sklearn", set="digits", split={"fraction": 0.1452}), part("cnn")),
    Case("gpt bytes", 300, 16, part("bytes", max_mb=1.0, context_length=64), part("gpt", n_layer=2, width=64)),
)


@dataclass(frozen=True)
class Measured:
    """One run of one program; sizes are rank 0's."""

    steps_per_s: float
    """From a third of the steps to the last."""
    first_step_s: float
    """From before its processes were started."""
    peak_mb: float
    cpu_ms: float = 0.0
    """User and system time of a step, all threads: steadier than the clock where others use the machine too."""
    card_mb: float = 0.0
    mfu: float = 0.0


def main() -> None:
    rounds = FULL_ROUNDS if "--full" in sys.argv else ROUNDS
    card, cards = card_of()
    print(f"{card or 'CPU'}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {rounds} rounds", flush=True)
    for case in CASES:
        for ranks in (1, 2) if cards in (0, 2) else (1,):
            found = [in_turn(case, ranks, card) for _ in range(rounds)]
            print(lines(case, ranks, found), flush=True)


def in_turn(case: Case, ranks: int, card: str = "") -> dict[str, Measured]:
    """One round: every program once."""
    return {name: measured(program, spec_of(case, card), ranks) for name, program in PROGRAMS.items()}


def spec_of(case: Case, card: str = "") -> Spec:
    """The spec that all of them read."""
    train = {
        "max_steps": case.steps,
        "batch_size": case.batch_size,
        "schedule": "cosine",
        "warmup_steps": 20,
        "log_every_steps": LOG_EVERY_STEPS,
        "eval_every_steps": case.steps,
    }
    spec = make_spec(
        train=train, data=case.data, model=case.model, objective=Objective(metric="val/loss", goal="minimize")
    )
    if not card:
        return spec
    peak = next((tflops for word, tflops in PEAK_BF16_TFLOPS.items() if word in card), None)
    accelerator = Accelerator(
        kind="cuda", count=2, precisions=("fp32", "bf16"), precision="bf16", device="cuda", backend="nccl",
        peak_tflops={"bf16": peak} if peak else {},
    )  # fmt: skip
    return dataclasses.replace(spec, pools=(dataclasses.replace(spec.pools[0], accelerator=accelerator),))


def measured(program: Sequence[str], spec: Spec, ranks: int) -> Measured:
    """Start the ranks of a program, and see what they wrote."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join(map(str, (ROOT, peers.loops())))
        member = Member(Path(folder), spec, ranks, {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}, program)
        begun = time.time()
        member.start()
        try:
            seen = [watched(process, begun + LIMIT_S) for process in member.running]
        except RuntimeError as e:
            raise SystemExit(f"{' '.join(program)}: {e}\n{member.log()[-2000:]}") from e
        finally:
            member.end()
        return read(member, begun, seen[0])


@dataclass(frozen=True)
class Seen:
    """What a process took."""

    peak_mb: float
    cpu_s: tuple[tuple[float, float], ...] = ((0.0, 0.0),)
    """Moments, and seconds until then."""


def watched(process: subprocess.Popen[bytes], until: float) -> Seen:
    """Return once a process has ended."""
    cpu_s = [(time.time(), 0.0)]
    while time.time() < until:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise RuntimeError(f"ended with {process.returncode}")
            return Seen(used.ru_maxrss / 1024, tuple(cpu_s))
        cpu_s.append((time.time(), cpu_of(process.pid)))
        time.sleep(0.05)
    raise RuntimeError(f"still runs after {LIMIT_S} s")


def cpu_of(pid: int) -> float:
    """Seconds of all threads, user and system (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read(member: Member, begun: float, seen: Seen) -> Measured:
    """From the two files that all programs write."""
    first = next(line["t"] for line in member.lines("ledger.jsonl") if line["event"] == "first_step")
    reports = [line for line in member.lines("metrics.jsonl") if "train/loss" in line.get("metrics", ())]
    last = reports[-1]
    assert last["step"] == member.spec.train.max_steps, f"ended at step {last['step']}"
    early = next(line for line in reports if line["step"] * 3 >= last["step"])
    steps, ms = last["step"] - early["step"], last["t"] - early["t"]
    cpu_s = np.interp([early["t"] / 1000, last["t"] / 1000], *zip(*seen.cpu_s, strict=True))
    metrics: Mapping[str, Any] = last["metrics"]
    return Measured(
        steps_per_s=1000 * steps / ms,
        first_step_s=first - begun,
        peak_mb=seen.peak_mb,
        cpu_ms=1000 * float(cpu_s[1] - cpu_s[0]) / steps,
        card_mb=1000 * metrics.get("train/memory_gb", 0.0) if "cuda" in str(member.spec.pools) else 0.0,
        mfu=metrics.get("train/mfu", 0.0),
    )


def lines(case: Case, ranks: int, rounds: Sequence[Mapping[str, Measured]]) -> str:
    """One program a line: medians, and ours over its, round by round."""
    units = f"{'steps/s':>9} {'ours/its':>9} {'CPU/step':>11} {'ours/its':>9}"
    head = f"{units} {'first step':>11} {'peak MB':>8} {'card MB':>8}"
    rows = [f"\n{case.name + ', ranks: ' + str(ranks):<22} {head}"]
    for name in PROGRAMS:
        runs = [found[name] for found in rounds]
        rate, cpu = (over(rounds, name, of) for of in ("steps_per_s", "cpu_ms"))
        middle = {field: statistics.median(getattr(run, field) for run in runs) for field in Measured.__annotations__}
        mfu = f"  train/mfu {middle['mfu']:.4f}" if middle["mfu"] else ""
        rows.append(
            f"  {name:<20} {middle['steps_per_s']:>9.1f} {rate:>9.3f} {middle['cpu_ms']:>8.3f} ms {cpu:>9.3f}"
            f" {middle['first_step_s']:>9.2f} s {middle['peak_mb']:>8.0f} {middle['card_mb']:>8.0f}{mfu}"
        )
    return "\n".join(rows)


def over(rounds: Sequence[Mapping[str, Measured]], name: str, of: str) -> float:
    """Ours over its: the median of all rounds."""
    return statistics.median(getattr(r["Fairlead"], of) / (getattr(r[name], of) or 1.0) for r in rounds)


def card_of() -> tuple[str, int]:
    """The name of the card that torch sees and how many there are. Asked elsewhere: what this process holds would count
    as its children's."""
    code = "import torch; n = torch.cuda.device_count(); print(n, torch.cuda.get_device_name() if n else '')"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=LIMIT_S)
    count, _, name = said.stdout.strip().partition(" ")
    return name, min(2, int(count))


if __name__ == "__main__":
    main()
