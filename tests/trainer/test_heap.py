"""A process that keeps what it has freed does not ask the kernel for it again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.trainer.ranks import ROOT

SCRIPT = """
import resource, sys
import torch
from trainer import heap
if sys.argv[1] == "kept":
    heap.keep_freed()
for warm in (True, False):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        made = [torch.ones(2**20) for _ in range(6)]
        del made
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize(("how", "least", "most"), [("kept", 0, 100), ("as it is", 10_000, 10**6)])
def test_tensors_made_and_freed_again_and_again_cost_page_faults_only_once(how: str, least: int, most: int) -> None:
    begun_with = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}  # glibc's, before it learns
    env = {**os.environ, **begun_with, "PYTHONPATH": str(ROOT)}

    done = subprocess.run([sys.executable, "-c", SCRIPT, how], env=env, capture_output=True, text=True, timeout=60)

    assert least <= int(done.stdout) <= most, done.stderr
