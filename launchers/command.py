"""Run an external command: a list, a timeout, and an error that shows what was run and what it said."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from launchers.errors import CommandError, NoAnswer


def output_of(
    argv: Sequence[str],
    *,
    timeout_s: float = 30,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    do: str = "",
) -> str:
    """Standard output of a command that succeeded.

    Raises CommandError when it is not found, does not answer within `timeout_s` (NoAnswer) or exits with anything
    but zero. No shell is involved, so nothing in `argv` is ever parsed.
    """
    try:
        done = subprocess.run(
            list(argv),
            capture_output=True,
            timeout=timeout_s,
            env=env,
            cwd=cwd,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise CommandError(argv, "was not found", "no such command on PATH", do) from None
    except OSError as e:
        raise CommandError(argv, "could not be started", str(e), do) from None
    except subprocess.TimeoutExpired as e:
        said = (e.stderr or e.stdout or b"").decode(errors="replace")
        raise NoAnswer(argv, f"did not answer within {timeout_s:g} s", said, do) from None
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace") or text
        raise CommandError(argv, f"exited with status {done.returncode}", said, do)
    return text
