"""A search with many ended trials, as its members would have left it: the folder of a run that never ran."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

from launchers.freeze import freeze
from launchers.launch import Request, checked
from launchers.run_folder.record import Run, make_private, mark_ended, write_json, write_text
from launchers.search.study import Study
from sweeps.unlearned import drawn

EPOCHS = 10
WORDS = ("experiment=digits", "sweep=digits_tpe", "tracking=none", "tracking.register=null")
T0, TRIAL_S = 1.8e9, 40.0


def make(folder: Path, ended: int, free: int) -> Run:
    """A search with `ended` trials and room for `free` more."""
    wanted = checked(Request(overrides=(*WORDS, f"sweep.trials={ended + free}")))
    run, _ = freeze(wanted, folder)
    study = Study(run)
    for number in range(ended):
        _end(study, number)
    study.remember(study.trials())
    return run


def _end(study: Study, number: int) -> None:
    """A member that asked, ran and ended: what it, its supervisor and its program wrote."""
    member = study.run.member(number)
    attempt = make_private(member.path / "attempt-0")
    begun = T0 + number * TRIAL_S / 8
    point = drawn(study.search, {}, number, 0)
    claim = {"point": point, "sections": {}, "asked": begun, "reserved_gpu_hours": study.reserve_gpu_hours}
    outcome = {"state": "SUCCEEDED", "cause": "succeeded", "exit_code": 0, "message": "", "started": begun + 1}
    write_json(member.point, claim)
    write_json(attempt / "started.json", {"started": begun + 1})
    write_text(attempt / "metrics.jsonl", "".join(_spool(point, number, begun)))
    write_json(attempt / "outcome.json", {**outcome, "ended": begun + TRIAL_S})
    mark_ended(study.run, number, 0, "SUCCEEDED")


def _spool(point: dict[str, float], number: int, begun: float) -> Iterator[str]:
    """The trainer's lines: an accuracy that rises to what a smooth function of the point says."""
    noise = random.Random(number)
    best = 0.98 - 0.05 * abs(math.log10(point["optimizer.lr"] / 3e-3)) - 0.1 * (point["model.dropout"] - 0.2) ** 2
    for epoch in range(1, EPOCHS + 1):
        value = best - 0.3 / epoch + noise.gauss(0, 0.003)
        t = int((begun + 2 + epoch) * 1000)
        metrics = {"val/loss": 1 - value, "val/accuracy": value}
        yield json.dumps({"t": t, "step": 23 * epoch, "total_steps": 23 * EPOCHS, "metrics": metrics}) + "\n"
