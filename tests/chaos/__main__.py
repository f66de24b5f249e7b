"""make chaos: a longer campaign, two thirds of it on this machine and a third on the test cluster; then the table.

    python -m tests.chaos --seed 7 --cases 200 --folder /tmp/chaos

Leaves table.txt, rows.jsonl, and the folders of cases that broke a promise. Exit status 1 if one did. The folder must
be outside of this repository: a case is a user's project of its own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.cases import BOXED, DEEPSPEED, campaign
from tests.chaos.drive import Bench
from tests.chaos.pool import run_all
from tests.chaos.table import text
from tests.chaos.training import Undisturbed
from tests.chaos.verdict import Row, document


def main() -> int:
    parser = argparse.ArgumentParser(description="Disturb trainings, and see whether anything is lost.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32), help="of the campaign")
    parser.add_argument("--cases", type=int, default=63)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "fairlead-chaos"))
    arguments = parser.parse_args()
    folder = arguments.folder.absolute() / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-seed-{arguments.seed}"
    on_slurm = arguments.cases // 3
    cases = campaign(arguments.seed, "slurm", on_slurm) + campaign(arguments.seed, "local", arguments.cases - on_slurm)
    cases += [case for case in (*DEEPSPEED, *BOXED) if case.launcher == "local" or on_slurm]
    bench = Bench(folder, Undisturbed(folder / "undisturbed"))
    print(f"seed {arguments.seed}, {len(cases)} cases, in {folder}", flush=True)

    def look(row: Row) -> None:
        with (folder / "rows.jsonl").open("a") as f:
            f.write(json.dumps(document(row)) + "\n")
        print(f"{row.case.name}: {'; '.join(row.broken) or 'kept every promise'}", flush=True)
        if not row.broken:
            shutil.rmtree(folder / row.case.key)

    rows = run_all(bench, cases, look)
    said = text([document(row) for row in rows])
    (folder / "table.txt").write_text(f"seed {arguments.seed}\n{said}\n")
    print(f"\n{said}\nseed {arguments.seed}; table in {folder / 'table.txt'}")
    return int(any(row.broken for row in rows))


if __name__ == "__main__":
    sys.exit(main())
