"""What it costs to ask: which packages a command line loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.run_folder.record import write_json
from tests.launchers.over import ended_run
from tests.launchers.tried import accuracies, make_search, search_of

HEAVY = ("torch", "mlflow", "optuna", "hydra", "omegaconf", "submitit", "pydantic", "sklearn", "numpy")


def loaded(*words: str, cwd: Path, root: Path) -> set[str]:
    """Heavy packages that a command line brings in."""
    code = (
        "import sys\nfrom launchers.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"sys.stderr.write('\\nLOADED ' + ' '.join(n for n in {HEAVY!r} if n in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return set(done.stderr.rpartition("LOADED ")[2].split())


def test_cli_help_loads_nothing_heavy(workdir: Path, root: Path) -> None:
    assert loaded("--help", cwd=workdir, root=root) == set()


@pytest.mark.parametrize(
    "words", [["status"], ["status", "--json"], ["list"], ["logs"], ["logs", "--errors"], ["wait"]]
)
def test_cli_looking_at_a_run_loads_nothing_heavy(workdir: Path, root: Path, words: list[str]) -> None:
    ended_run(workdir)

    assert loaded(*words, cwd=workdir, root=root) == set()


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["wait"]])
def test_cli_looking_at_a_search_loads_nothing_heavy(workdir: Path, root: Path, words: list[str]) -> None:
    run = make_search(workdir / "runs", search_of(2), fresh=True, kind="none")
    accuracies(run, [0.5, 0.7])
    write_json(run.result, {"best_member": 1, "search": None})

    assert loaded(*words, cwd=workdir, root=root) == set()


def test_cli_planning_does_not_load_what_trains_or_tracks(workdir: Path, root: Path) -> None:
    assert loaded("plan", cwd=workdir, root=root) <= {"hydra", "omegaconf", "pydantic", "submitit"}
