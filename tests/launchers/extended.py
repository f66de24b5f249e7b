"""Searches that were submitted to the fake cluster, what is in its queue, and their members."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from conf import schema
from launchers.plan import plans_from
from launchers.queue.handover import submit_members
from launchers.run_folder.record import Run, read_json, read_lines
from tests.launchers.tracked import spec_of
from tests.launchers.tried import make_search, search_of

POINT = {"optimizer.lr": 0.01, "model.width": 8}


def on_slurm(**launcher: Any) -> schema.Spec:
    return dataclasses.replace(spec_of(), launcher=schema.Launcher(kind="slurm", **launcher))


def launched(folder: Path, trials: int = 4, spec: schema.Spec | None = None, **search: Any) -> Run:
    """A search that was submitted to the fake cluster."""
    run = make_search(folder, search_of(trials, **search), spec=spec or on_slurm())
    submit_members(run, plans_from(read_json(run.plan)), range(trials))
    return run


def queue(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "queue.jsonl").read_text().splitlines()]


def emptied(cluster: Any) -> None:
    """Everything that was queued has ended."""
    cluster.put("squeue", "")
    cluster.put("sacct", "")


def indices(run: Run) -> list[int]:
    return [row["index"] for row in read_lines(run.members_file)]
