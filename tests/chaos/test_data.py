"""A case's data are the same numbers in each form: else its weights could not be compared with those of another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conf.schema import Component
from tests.chaos import data
from tests.chaos.cases import FORMS, HERE, ON_SLURM, Form, Launcher, campaign
from tests.chaos.project import chaotic
from trainer.assemble import load_data


@pytest.mark.parametrize("form", [form for form in FORMS if form != "rows"])
def test_shards_hold_the_rows_in_their_order(form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRLEAD_STAGE_DIR", str(tmp_path / "node"))
    options: dict[str, Any] = dict(data.written(form, tmp_path / "data"))

    read = load_data(Component(kind=options.pop("kind"), options=options))

    for samples, rows in zip((read.train, read.validation), chaotic.rows(**data.SIZES), strict=True):
        points, labels = samples.batch(np.arange(len(samples)))
        assert torch.equal(points, rows.tensors[0]) and torch.equal(labels, rows.tensors[1])


@pytest.mark.parametrize(("launcher", "faults"), [("local", HERE), ("slurm", ON_SLURM)])
def test_each_fault_meets_several_forms(launcher: Launcher, faults: Sequence[str]) -> None:
    cases = campaign(7, launcher, 3 * len(faults))

    for fault in faults:
        assert len({case.form for case in cases if case.fault == fault}) > 1


def test_slurm_tells_loader_processes_whenever_it_tells_a_rank() -> None:
    told = [case for case in campaign(7, "slurm", len(ON_SLURM)) if case.kind.graceful]

    assert told and all(case.form != "rows" for case in told)
