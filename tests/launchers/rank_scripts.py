"""A rank.sh that the real /bin/sh executes, and what its program was given."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launchers.plan import Plan
from launchers.step import Step

DUMP = """
import json, os, sys
with open(os.environ["DUMP"], "w", encoding="utf-8", errors="surrogateescape") as f:
    json.dump({"argv": sys.argv[1:], "env": dict(os.environ)}, f)
"""


def run_rank(step: Step, folder: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """Execute rank.sh by the real /bin/sh; what apptainer, or the program itself, was given."""
    dump, script = folder / "dump.json", folder / "rank.sh"
    dump.unlink(missing_ok=True)
    script.write_text(step.rank_script, encoding="utf-8", errors="surrogateescape")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    inherited = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "DUMP": str(dump)}
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "NODE_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    done = subprocess.run(
        [str(script)], env={**inherited, **rank, **names}, cwd=folder, capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(dump.read_text(encoding="utf-8", errors="surrogateescape"))
    return found


def project_of(plan: Plan) -> Path:
    """Where the program of member 0 starts, which its supervisor makes."""
    folder = Path(plan.run_dir, "members", "0", plan.pools[0].cwd or "")
    folder.mkdir(parents=True)
    return folder
