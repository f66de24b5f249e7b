"""An `extend` that is killed, refused by Slurm or not alone queues each member once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launchers.errors import CommandError, SpecError
from launchers.search import extend as extend_module
from launchers.search.extend import Wish, extend
from launchers.search.study import Study
from tests.launchers.extended import emptied, indices, launched, queue
from tests.launchers.tried import accuracies

STEPS = ("write_json", "append_lines", "set_aside", "unmark_ended", "submit_members")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True])
def test_extend_killed_at_any_step_is_completed_by_the_next(
    cluster: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    run = launched(workdir)
    accuracies(run, [0.5, 0.6, 0.7, 0.8])
    emptied(cluster)
    real = getattr(extend_module, step)

    def die(*arguments: Any) -> None:
        if after:
            real(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        setattr(extend_module, step, die)
        extend(run, Wish(trials=6))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    was_complete = step == "submit_members" and after
    if was_complete:
        with pytest.raises(SpecError, match="trials is 6, and 6 is not more"):
            extend(run, Wish(trials=6))
    else:
        assert extend(run, Wish(trials=6)).members == (4, 5)

    assert indices(run) == [0, 1, 2, 3, 4, 5]
    assert Study(run).search.trials == 6
    assert [j["array"] for j in queue(workdir) if j["array"]] == ["0-3", "4-5"]


def test_extend_after_a_torn_line_writes_whole_ones(cluster: Any, workdir: Path) -> None:
    run = launched(workdir)
    with run.members_file.open("a") as f:
        f.write('{"index": 4, "late": tr')

    assert extend(run, Wish(trials=6)).members == (4, 5)
    assert indices(run) == [0, 1, 2, 3, 4, 5]


def test_extend_that_slurm_refused_is_made_good_by_the_next(cluster: Any, workdir: Path) -> None:
    run = launched(workdir)
    accuracies(run, [0.5, 0.6, 0.7, 0.8])
    emptied(cluster)
    cluster.put("sbatch", "sys.exit('sbatch: error: invalid partition')")

    with pytest.raises(CommandError):
        extend(run, Wish(trials=6))
    cluster.put("sbatch", cluster.texts["sbatch"])

    assert extend(run, Wish(trials=6)).members == (4, 5)


def test_extend_by_several_at_once_queues_each_member_once(cluster: Any, workdir: Path, root: Path) -> None:
    run = launched(workdir)
    words = [sys.executable, "-m", "launchers.cli", "extend", str(run.path), "--json", "--trials"]
    env = {**os.environ, "PYTHONPATH": str(root)}
    clients = [
        subprocess.Popen([*words, str(n)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for n in (6, 8, 10)
    ]
    said = [client.communicate(timeout=60)[0] for client in clients]

    queued = [json.loads(text)["members"] for text, c in zip(said, clients, strict=True) if c.returncode == 0]
    assert sorted(i for members in queued for i in members) == list(range(4, 10))
    assert indices(run) == list(range(10))
