"""How long until something happens: the command itself, a queued job, a first training step.

    python -m tests.benchmarks.startup       (make bench starts the cluster first)

Beside each stands what a user would do without Fairlead on the same machine in the same run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.paired import Row, compare, table

ROOT = Path(__file__).parents[2]
CLI = [sys.executable, "-m", "launchers.cli"]
WHERE = [
    "--config-dir",
    str(ROOT / "tests" / "testbed" / "conf"),
    "launcher=slurm",
    "site=testbed",
    "machine=cpu-small",
]
RUN = ["experiment=digits", "train.epochs=1", "train.max_steps=3", "tracking=none", "tracking.register=null"]
LIMIT_S = 180

HAND_WRITTEN = """\
#!/bin/bash
#SBATCH --nodes=1 --ntasks-per-node=1 --cpus-per-task=1 --mem=2048M --time=60
#SBATCH --output=hand.log
date +%s.%N > {start}
export PYTHONPATH={code} FAIRLEAD_SPEC={spec} FAIRLEAD_MEMBER_DIR={member} FAIRLEAD_ATTEMPT_DIR={attempt}
export FAIRLEAD_JOB_ID=hand FAIRLEAD_MEMBER=0 FAIRLEAD_ATTEMPT=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29400
export RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 LOCAL_WORLD_SIZE=1 NODE_RANK=0 OMP_NUM_THREADS=1
srun {python} -m trainer
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.chdir(work)
        os.environ.update(PYTHONPATH=str(ROOT), XDG_STATE_HOME=str(work / "state"))
        rows = [
            compare("fairlead --help", lambda: _wall([*CLI, "--help"]), "python -c pass", _python),
            _status(work),
            compare("command to queued", _queued, "hand-written sbatch", lambda: _sbatch(work)),
            compare("job start to first step", lambda: _first_step(work), "the same under a bare srun",
                    lambda: _bare_srun(work), pairs=3),
        ]  # fmt: skip
        print(table(rows))


def _status(work: Path) -> Row:
    subprocess.run([*CLI, "launch", *WHERE, *RUN, "--wait"], check=True, timeout=LIMIT_S, capture_output=True)
    return compare("fairlead status", lambda: _wall([*CLI, "status"]), "squeue", lambda: _wall(["squeue"]))


def _wall(argv: list[str]) -> float:
    begun = time.monotonic()
    subprocess.run(argv, check=True, capture_output=True, timeout=LIMIT_S)
    return time.monotonic() - begun


def _python() -> float:
    return _wall([sys.executable, "-c", "pass"])


def _queued() -> float:
    """From the command to the line that says the job is queued."""
    begun = time.monotonic()
    with subprocess.Popen([*CLI, "launch", *WHERE, *RUN], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        said = client.stdout.readline()
        taken = time.monotonic() - begun
    assert "queued" in said, said
    subprocess.run(["scancel", "--name", said.split()[0]], check=True, timeout=30)
    return taken


def _sbatch(work: Path) -> float:
    script = work / "hand.sbatch"
    script.write_text("#!/bin/bash\n#SBATCH --ntasks=1 --mem=100M --time=1 --output=/dev/null\nsleep 0\n")
    return _wall(["sbatch", str(script)])


def _first_step(work: Path) -> float:
    """From the first line of the batch script (site.setup) to the first training step, as the ledger has it."""
    start = work / "start.ours"
    start.unlink(missing_ok=True)
    setup = f'site.setup=["[ -e {start} ] || date +%s.%N > {start}"]'  # the finish step has it too
    words = [*CLI, "launch", *WHERE, *RUN, setup, "--wait", "--json"]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=LIMIT_S)
    run = Path(json.loads(done.stdout)["run_dir"])
    return _ledger(run / "members" / "0" / "attempt-0") - float(start.read_text())


def _bare_srun(work: Path) -> float:
    """The same trainer and spec from a hand-written script."""
    run = max((work / "runs").glob("digits-*"), key=lambda p: p.stat().st_mtime)
    member = Path(tempfile.mkdtemp(dir=work))
    attempt = member / "attempt-0"
    for name in ("attempt-0", "checkpoints", "model"):
        (member / name).mkdir()
    names = {"start": member / "start", "code": run / "code" / "fairlead", "spec": run / "members" / "0" / "spec.json",
             "member": member, "attempt": attempt, "python": sys.executable}  # fmt: skip
    script = member / "hand.sbatch"
    script.write_text(HAND_WRITTEN.format(**names))
    subprocess.run(["sbatch", "--wait", str(script)], check=True, capture_output=True, timeout=LIMIT_S)
    return _ledger(attempt) - float((member / "start").read_text())


def _ledger(attempt: Path) -> float:
    rows = [json.loads(line) for line in (attempt / "ledger.jsonl").read_text().splitlines()]
    return float(next(row["t"] for row in rows if row["event"] == "first_step"))


if __name__ == "__main__":
    main()
