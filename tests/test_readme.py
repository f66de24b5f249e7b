"""The README shows what the program prints: every console block is run, and its lines are looked for in order."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n\$ ((?:[^\n]*\\\n)*[^\n]*)\n(.*?)```", TEXT, re.DOTALL)
SHOWN_AS = ("site.images_dir=/srv/images", "site.python=/opt/fairlead/bin/python")
"""What differs between machines; the block shows these values."""


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=lambda text: text.split("\n")[0][:40])
def test_readme_block_is_what_the_command_prints(command: str, shown: str, workdir: Path) -> None:
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "fairlead"
    argv = [sys.executable, "-m", "launchers.cli", *words[1:], *SHOWN_AS]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": str(ROOT)})
    printed = (done.stdout + done.stderr).replace(str(workdir), "/srv/lab").replace(f"{ROOT}/", "")

    position = 0
    for line in filter(None, shown.splitlines()):
        found = printed.find(f"{line}\n", position)
        assert found >= 0, f"not printed (any more): {line}\n\n{printed}"
        position = found


def test_readme_has_both_blocks_and_is_short() -> None:
    assert len(BLOCKS) == 2
    assert len(TEXT.splitlines()) < 150


def test_readme_yaml_is_the_experiment_that_is_there() -> None:
    import yaml

    (shown,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    there = yaml.safe_load((ROOT / "conf" / "experiment" / "digits.yaml").read_text(encoding="utf-8"))
    shown_document = yaml.safe_load(shown)
    there["defaults"] = [entry for entry in there["defaults"] if entry in shown_document["defaults"]]
    assert shown_document == there
