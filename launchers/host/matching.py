"""What a regular expression finds in a line, asked of a process of its own: Python's `re` cannot be interrupted, and
while it searches nothing else of its process runs.

A pattern such as `(a+)+$` needs longer than anybody waits on one line in a thousand. The process ends itself then,
also when nobody asks any more. Standard library only; what is found means nothing here (reports.py).
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping

LIMIT_S = 1.0
"""Of processor time for one line; the system ends the process then."""
MOST_ENDED = 3
"""After so many lines that took too long the pattern is not tried any more."""


class Matcher:
    """One pattern's process, started when it is first asked."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._process: subprocess.Popen[str] | None = None
        self._ended = 0
        self._let_go: Callable[[], object] = lambda: None

    @property
    def trouble(self) -> str:
        """What a person should know of the pattern; empty while it does its work."""
        if not self._ended:
            return ""
        rest = "; no further line is searched" if self._ended >= MOST_ENDED else ""
        return f"the pattern {self._pattern!r} needs longer than {LIMIT_S:g} s for {self._ended} line(s){rest}"

    def found(self, text: str) -> list[Mapping[str, str | None]]:
        """The named groups of each match in a line; none where the pattern took too long."""
        if self._ended >= MOST_ENDED:
            return []
        process = self._process = self._process or self._begin()
        assert process.stdin and process.stdout
        try:
            print(json.dumps(text), file=process.stdin, flush=True)
            if answer := process.stdout.readline():
                found: list[Mapping[str, str | None]] = json.loads(answer)
                return found
        except BrokenPipeError:
            pass
        self._ended += 1
        self.close()
        return []

    def close(self) -> None:
        """End the process; it begins anew when it is asked again."""
        self._let_go()
        self._process = None

    def _begin(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-IS", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
            start_new_session=True,  # what a terminal sends to the supervisor is not for it
        )
        assert process.stdin
        print(json.dumps(self._pattern), file=process.stdin, flush=True)
        self._let_go = weakref.finalize(self, _end, process)  # whoever forgets to close it leaves no process
        return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def main() -> None:
    """The process: a pattern, and then lines, each a JSON string; an answer for each line."""
    pattern = re.compile(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        text = json.loads(line)
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
        found = [match.groupdict() for match in pattern.finditer(text)]
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
