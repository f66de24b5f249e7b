"""How long a member of a search waits for its point, beside Optuna's own journal with the same trials.

    python -m tests.benchmarks.ask [--full]

Askers are processes of their own that all want a point at the same moment. `ask` counts from there (waiting for the
others included); `from process start` adds the interpreter and all imports.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launchers.run_folder.record import Run
from launchers.search.study import Study
from tests.benchmarks import searched
from tests.benchmarks.startup import ROOT

ASKERS = {1: 12, 8: 3, 32: 1}
"""Processes at once, and rounds."""
LIMIT_S = 300


@dataclass(frozen=True)
class Peer:
    """Something that can be asked."""

    name: str
    kind: str
    where: Path
    reset: Callable[[], None]


def main() -> None:
    full = "--full" in sys.argv
    os.environ["PYTHONPATH"] = str(ROOT)
    for ended in (1000, 10000):
        with tempfile.TemporaryDirectory() as folder:
            _compare(Path(folder), ended, repeat=3 if full else 1)


def _compare(work: Path, ended: int, repeat: int) -> None:
    run = searched.make(work / "runs", ended, max(ASKERS))
    journal = _journal(work / "journal", Study(run))
    kept = journal.with_suffix(".kept")
    shutil.copy(journal, kept)
    peers = [
        Peer("Fairlead", "fairlead", run.path, lambda: _forget(run, ended)),
        Peer("Optuna, JournalStorage", "optuna", journal, lambda: shutil.copy(kept, journal)),
    ]
    print(f"\nA point for a new trial, {ended} trials have ended (seconds)")
    asked, whole = f"{'ask p50':>8} {'p95':>7} {'CPU':>7}", f"{'from process start p50':>22} {'p95':>7}"
    print(f"{'':<14} {'':<24} {asked}   {whole} {'ratio':>6}")
    for askers, rounds in ASKERS.items():
        _table(peers, askers, rounds * repeat, ended)


def _table(peers: Sequence[Peer], askers: int, rounds: int, first: int) -> None:
    """One line for each peer; the ratio is that of asks, ours to theirs, the median over pairs of rounds."""
    warm: dict[str, list[list[dict[str, float]]]] = {peer.name: [] for peer in peers}
    cold: dict[str, list[list[dict[str, float]]]] = {peer.name: [] for peer in peers}
    for _ in range(rounds):
        for peer in peers:
            warm[peer.name].append(_round(peer, askers, first, warm=True))
            cold[peer.name].append(_round(peer, askers, first, warm=False))
    ours, theirs = ([statistics.median(row["wall_s"] for row in found) for found in warm[peer.name]] for peer in peers)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    for peer in peers:
        asks = sorted(row["wall_s"] for found in warm[peer.name] for row in found)
        cpu = statistics.median(row["cpu_s"] for found in warm[peer.name] for row in found)
        whole = sorted(row["whole_s"] for found in cold[peer.name] for row in found)
        label = f"{askers} asker{'s' * (askers > 1)}" if peer is peers[0] else ""
        print(
            f"{label:<14} {peer.name:<24} {_share(asks, 0.5):>8.3f} {_share(asks, 0.95):>7.3f} {cpu:>7.3f}   "
            f"{_share(whole, 0.5):>22.3f} {_share(whole, 0.95):>7.3f} {f'{ratio:.2f}' if peer is peers[0] else '':>6}",
            flush=True,
        )


def _round(peer: Peer, askers: int, first: int, warm: bool) -> list[dict[str, float]]:
    """All askers once, at the same moment."""
    peer.reset()
    go = peer.where.parent / "go"
    go.unlink(missing_ok=True)
    begun = time.time()
    processes = []
    for i in range(askers):
        ready = peer.where.parent / f"ready-{i}"
        ready.unlink(missing_ok=True)
        files = [str(ready), str(go)] if warm else ["-", "-"]
        argv = [sys.executable, "-m", "tests.benchmarks.asker", peer.kind, str(peer.where), str(first + i), *files]
        processes.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
    if warm:
        _until(lambda: len(list(peer.where.parent.glob("ready-*"))) == askers)
        time.sleep(0.2)
        go.touch()
    said = [process.communicate(timeout=LIMIT_S)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"an asker of {peer.name} failed")
    rows = [json.loads(text) for text in said]
    return [{**row, "whole_s": row["ended"] - begun} for row in rows]


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not true():
        if time.monotonic() > end:
            raise SystemExit("the askers did not start")
        time.sleep(0.01)


def _forget(run: Run, first: int) -> None:
    """Take back the points of the round before."""
    for i in range(first, first + max(ASKERS)):
        shutil.rmtree(run.member(i).path, ignore_errors=True)


def _journal(path: Path, study: Study) -> Path:
    """The same trials in Optuna's journal. Made in memory, since its file takes a lock and a sync for each."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend

    class Memory(BaseJournalBackend):
        def __init__(self) -> None:
            self.logs: list[dict[str, object]] = []

        def read_logs(self, log_number_from: int) -> list[dict[str, object]]:  # type: ignore[override]
            return self.logs[log_number_from:]

        def append_logs(self, logs: list[dict[str, object]]) -> None:
            self.logs += json.loads(json.dumps(logs))

    memory, goal = Memory(), study.goals[0]
    storage = JournalStorage(memory)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study(study_name="bench", storage=storage, direction=goal.goal)
    axes = {
        "optimizer.lr": optuna.distributions.FloatDistribution(1e-4, 3e-2, log=True),
        "model.width": optuna.distributions.IntDistribution(0, 3),
        "model.dropout": optuna.distributions.FloatDistribution(0.0, 0.6),
    }
    widths = list(study.search.parameters["model.width"].values)
    for trial in study.trials():
        params = {**trial.point, "model.width": widths.index(trial.point["model.width"])}
        values = [r.metrics[goal.metric] for r in trial.reports]
        steps = {r.step: value for r, value in zip(trial.reports, values, strict=True)}
        done = optuna.trial.create_trial(
            params=params, distributions=axes, value=max(values), intermediate_values=steps
        )
        made.add_trial(done)
    path.write_text("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in memory.logs))
    return path


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


if __name__ == "__main__":
    main()
