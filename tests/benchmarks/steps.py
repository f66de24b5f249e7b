"""Steps a second of the built-in trainer, beside a hand-written PyTorch loop, Lightning and Accelerate.

    python -m tests.benchmarks.steps [--full] [mlp|cnn|gpt ...]       (--full: twice as many processes and turns)

Model, data, batch, precision, schedule, optimizer and ranks are the same; no gradient clipping, one report in 50 steps,
no evaluation and no checkpoint. Several processes of each program (programs/by_*.py) take turns (turns.py), and each
round of turns gives a ratio. Where torch sees a card they run on it in bf16, with as many ranks as there are cards, at
most two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conf.machine_schema import Accelerator
from conf.schema import Component, Objective, Spec
from tests.benchmarks import peers, turns
from tests.trainer.ranks import ROOT, Member, make_spec

PROGRAMS: dict[str, Sequence[str]] = {
    "Fairlead": ("-m", "trainer"),
    **{
        name: (str(peers.PROGRAMS / f"by_{name.lower().replace(' ', '_')}.py"),)
        for name in ("hand", "Lightning", "Accelerate")
    },
}
PROCESSES, ROUNDS, TURN_S = 2, 8, 3.0
LOG_EVERY_STEPS = 50
STEPS = 10_000_000
"""More than anybody makes: the programs end when their turns are over."""
SIZES = ("first_step_s", "peak_mb", "card_mb", "mfu")
PEAK_BF16_TFLOPS = {"H200": 989.5, "H100": 989.5, "A100": 312.0}
"""Of conf/accelerator/, by a word in the card's name: for train/mfu of ours."""


@dataclass(frozen=True)
class Case:
    """What is trained."""

    name: str
    batch_size: int
    data: Component
    model: Component


def part(kind: str, **options: Any) -> Component:
    """Data or a model of ours."""
    return Component(kind=kind, options=options)


CASES = (
    Case("mlp iris", 24, part("sklearn", set="iris"), part("mlp", width=16)),
    # Training sets are whole multiples of the batch: no step has fillers.
    Case("cnn digits", 64, part("sklearn", set="digits", split={"fraction": 0.1452}), part("cnn")),
    Case("gpt bytes", 16, part("bytes", max_mb=1.0, context_length=64), part("gpt", n_layer=2, width=64)),
)


@dataclass(frozen=True)
class Measured:
    """One process of one program, or all ranks of it; sizes are rank 0's."""

    paces: Sequence[turns.Pace]
    """Round by round."""
    first_step_s: float
    """From before its processes were started, nothing else running."""
    peak_mb: float
    card_mb: float = 0.0
    mfu: float = 0.0


def main() -> None:
    full, names = "--full" in sys.argv, [word for word in sys.argv[1:] if not word.startswith("--")]
    processes, rounds = (2 * PROCESSES, 2 * ROUNDS) if full else (PROCESSES, ROUNDS)
    card, cards = card_of()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # programs that are stopped would stay for ever
    print(f"{card or 'CPU'}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, of each program", end=" ")
    print(f"{processes} processes, {rounds} turns of {TURN_S:.0f} s", flush=True)
    for case in CASES:
        if names and case.name.split()[0] not in names:
            continue
        for ranks in (1, 2) if cards in (0, 2) else (1,):
            print(lines(case, ranks, in_turn(case, ranks, card, (processes, rounds))), flush=True)


def in_turn(case: Case, ranks: int, card: str, often: tuple[int, int]) -> dict[str, list[Measured]]:
    """Every program's processes, which took so many turns each that are counted."""
    processes, rounds = often
    with contextlib.ExitStack() as ends:
        started: list[tuple[str, Member, float]] = []
        for name in [*PROGRAMS] * processes:
            member = ends.enter_context(_member(PROGRAMS[name], spec_of(case, card), ranks))
            started.append((name, member, turns.begin(member)))
        taken: list[list[turns.Turn]] = [[] for _ in started]
        for number in range(rounds + 2):
            for place in range(len(started))[:: -1 if number % 2 else 1]:
                taken[place].append(turns.take(started[place][1], TURN_S))
        found: dict[str, list[Measured]] = {name: [] for name in PROGRAMS}
        for (name, member, first_s), mine in zip(started, taken, strict=True):
            found[name].append(_measured(member, first_s, mine))
        return found


@contextlib.contextmanager
def _member(program: Sequence[str], spec: Spec, ranks: int) -> Iterator[Member]:
    """The ranks of a program, which are killed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join(map(str, (ROOT, peers.loops())))
        member = Member(Path(folder), spec, ranks, {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}, program)
        try:
            yield member
        finally:
            member.end()


def _measured(member: Member, first_step_s: float, taken: Sequence[turns.Turn]) -> Measured:
    reports = turns.reports(member)
    last: Mapping[str, Any] = reports[-1]["metrics"]
    return Measured(
        paces=turns.paces(taken, reports),
        first_step_s=first_step_s,
        peak_mb=turns.peak_mb(member),
        card_mb=1000 * last.get("train/memory_gb", 0.0) if "cuda" in str(member.spec.pools) else 0.0,
        mfu=float(np.median([line["metrics"].get("train/mfu", 0.0) for line in reports])),
    )


def spec_of(case: Case, card: str = "") -> Spec:
    """The spec that all of them read."""
    train = {
        "max_steps": STEPS,
        "batch_size": case.batch_size,
        "schedule": "cosine",
        "warmup_steps": 20,
        "log_every_steps": LOG_EVERY_STEPS,
        "eval_every_steps": STEPS,
        "checkpoint_every_steps": STEPS,
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


def lines(case: Case, ranks: int, found: Mapping[str, Sequence[Measured]]) -> str:
    """One program a line: medians, and ours over its, with the quartiles of all rounds."""
    head = f"{'steps/s':>9} {'ours/its':>21} {'CPU/step':>11} {'ours/its':>21}"
    head += f" {'first step':>11} {'peak MB':>8} {'card MB':>8}"
    rows = [f"\n{case.name + ', ranks: ' + str(ranks):<22} {head}"]
    for name, runs in found.items():
        of = {field: float(np.median([getattr(run, field) for run in runs])) for field in SIZES}
        mfu = f"  train/mfu {of['mfu']:.4f}" if of["mfu"] else ""
        rows.append(
            f"  {name:<20} {np.median(_by_round(runs, 'steps_per_s')):>9.1f} {_over(found, name, 'steps_per_s')}"
            f" {np.median(_by_round(runs, 'cpu_ms')):>8.3f} ms {_over(found, name, 'cpu_ms')}"
            f" {of['first_step_s']:>9.2f} s {of['peak_mb']:>8.0f} {of['card_mb']:>8.0f}{mfu}"
        )
    return "\n".join(rows)


def _over(found: Mapping[str, Sequence[Measured]], name: str, field: str) -> str:
    ratios = _by_round(found["Fairlead"], field) / _by_round(found[name], field)
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    return f"{middle:.3f} ({low:.3f}-{high:.3f})".rjust(21)


def _by_round(runs: Sequence[Measured], field: str) -> np.ndarray[Any, Any]:
    """The mean of a program's processes, round by round."""
    return np.mean([[getattr(pace, field) for pace in run.paces] for run in runs], axis=0)


def card_of() -> tuple[str, int]:
    """The name of the card that torch sees and how many there are. Asked elsewhere: what this process holds would count
    as its children's."""
    code = "import torch; n = torch.cuda.device_count(); print(n, torch.cuda.get_device_name() if n else '')"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    count, _, name = said.stdout.strip().partition(" ")
    return name, min(2, int(count))


if __name__ == "__main__":
    main()
