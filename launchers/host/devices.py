"""Become a rank's container, with the devices of this node that were asked for: `python -I devices.py SETTINGS
apptainer ...`.

What a node has stands in its own specifications (apptainer/cdi.py). The container is this very process (exec), so that
signals reach it. What SETTINGS are is near.py's. Standard library only, but for specifications in YAML.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn


def main(argv: Sequence[str]) -> NoReturn:
    from launchers.apptainer import cdi
    from launchers.apptainer.container import mountpoint_lines, with_options, words_of
    from launchers.errors import FairleadError

    settings, words = json.loads(argv[1]), argv[2:]
    try:
        shown = cdi.shown(settings["devices"], settings["folders"])
    except (FairleadError, OSError) as e:
        sys.exit(f"fairlead: {in_a_line(str(e))}")
    for name in ("PIPE", "XFSZ"):  # which Python ignores, and a program would inherit that
        signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_DFL)
    points = mountpoint_lines(shown.mounts, settings["scratch"])  # a socket of CUDA's MPS is below /tmp
    if points and (code := subprocess.run(["/bin/sh", "-c", "\n".join(points)], check=False).returncode):
        sys.exit(code)
    words = with_options(words, words_of(shown.mounts))
    try:
        os.execvpe(words[0], words, environment_of(os.environ, shown.env))
    except OSError as e:
        print(f"fairlead: {words[0]}: {e.strerror}", file=sys.stderr, flush=True)
        os._exit(127 if isinstance(e, FileNotFoundError) else 126)


def in_a_line(said: str) -> str:
    """An error as the log's last line, which is what the outcome of an attempt tells."""
    what, *more = (line.removeprefix("  where  ").removeprefix("  do     ") for line in said.splitlines())
    return f"{what} ({'; '.join(more)})" if more else what


def environment_of(environment: Mapping[str, str], said: Mapping[str, str]) -> dict[str, str]:
    """With the devices' variables for inside. What the user says, or Slurm of the cards it assigned, stays."""
    from launchers.apptainer.container import PREFIX

    return {**{f"{PREFIX}{name}": value for name, value in said.items()}, **environment}


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120
    main(sys.argv)
