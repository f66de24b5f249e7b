"""What a rank prints, made fit for a log, a piece at a time: no secret, no control characters, no endless lines.

Pure: bytes in, bytes out, in bounded memory. Where they go is log_parts.py's. Standard library only, and little of it:
a process beside each rank imports this.
"""

from __future__ import annotations

import codecs
import math
import re
import time
from collections.abc import Sequence

LONGEST_LINE = 64 * 1024 - 200
"""Bytes of one line that are kept. (tailing.py passes over lines longer than 64 KiB.)"""
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]")
"""All but tabs, ends of lines, and escape, with which colours begin."""
ESCAPES = {chr(code): f"\\x{code:02x}" for code in (*range(32), 127)}


class Mask:
    """Replaces secrets, also one that comes in two pieces: what may be the beginning of one waits for the rest."""

    def __init__(self, spellings: Sequence[bytes], shown: bytes = b"***") -> None:
        """`shown` stands where a secret was."""
        self._shown = shown
        self._spellings = sorted(spellings, key=len, reverse=True)
        self._longest = len(self._spellings[0]) if spellings else 0
        self._pattern = re.compile(b"|".join(map(re.escape, self._spellings))) if spellings else None
        self._rest = b""

    def feed(self, data: bytes, last: bool = False) -> bytes:
        """What can be shown of it now."""
        if self._pattern is None:
            return data
        data = self._rest + data
        cut = len(data) if last else self._beginning(data)
        shown, self._rest = data[:cut], data[cut:]
        there = any(spelt in shown for spelt in self._spellings)  # ten times as fast as the expression
        return self._pattern.sub(self._shown, shown) if there else shown

    def _beginning(self, data: bytes) -> int:
        """Where a secret may begin whose end has not come yet; the end where there is none."""
        assert self._pattern is not None
        near = max(0, len(data) - 2 * self._longest)
        inside = [match.span() for match in self._pattern.finditer(data, near)]
        for start in range(max(0, len(data) - self._longest + 1), len(data)):
            tail = data[start:]
            if any(begin < start < end for begin, end in inside):
                continue
            if any(len(tail) < len(spelt) and spelt.startswith(tail) for spelt in self._spellings):
                return start
        return len(data)


class Cleaned:
    """Text out of any bytes: each line whole or cut, and of a bar that is drawn over itself a line now and then."""

    def __init__(self, progress_s: float) -> None:
        """`progress_s`: so often at most such a bar leaves a line; 0 keeps every state of it."""
        self._progress_s = progress_s
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
        self._drawn_at = -math.inf
        self._held = ""
        """What is drawn just now, or a carriage return that may be half of an end of line."""
        self._state = ""
        """What was drawn before, and is not written."""
        self._length = self._left_out = 0
        """Characters of the line that is being written, and those of it that are not."""

    def feed(self, data: bytes, last: bool = False) -> bytes:
        """What to add to the log."""
        text = self._held + CONTROL.sub(lambda found: ESCAPES[found[0]], self._decode(data, last))
        if "\r" in text:
            text = self._drawn(text.replace("\r\n", "\n"), last)
        else:
            text, self._held = self._ended(text), ""
        if last:
            text += self.rest().decode()
        return self._cut(text).encode("utf-8", "backslashreplace")

    def rest(self) -> bytes:
        """What a bar shows, when nothing more comes for a while."""
        text, self._held, self._state = self._held.strip("\r") or self._state, "", ""
        self._drawn_at = time.monotonic()
        return self._cut(f"{text}\n").encode("utf-8", "backslashreplace") if text else b""

    def _ended(self, text: str) -> str:
        """A bar that ends, or was drawn over by what is no bar."""
        if not self._state or not text:
            return text
        state, self._state = self._state, ""
        return state + text if text.startswith("\n") else f"{state}\n{text}"

    def _drawn(self, text: str, last: bool) -> str:
        """Text with carriage returns: what follows one is drawn over what was before it."""
        found, self._held = [], ""
        for line in _lines(text):
            *states, shown = line.split("\r")
            if states and not shown and not last:  # a return at the end may be half of an end of line
                shown = f"{states.pop()}\r"
            found += [self._now_and_then(state) for state in states if state]
            if line.endswith("\n") or last or "\r" not in line:
                found.append(self._ended(shown) if shown == "\n" else shown)
                self._state = "" if shown else self._state
            elif len(shown) < LONGEST_LINE:
                self._held = "\r" + shown
            else:
                found.append(shown)
        return "".join(found)

    def _now_and_then(self, state: str) -> str:
        if time.monotonic() - self._drawn_at < self._progress_s:
            self._state = state
            return ""
        self._drawn_at, self._state = time.monotonic(), ""
        return f"{state}\n"

    def _cut(self, text: str) -> str:
        """Without the middle of what is on one line for too long."""
        end = text.rfind("\n")
        longest = max(map(len, text.split("\n"))) if len(text) > LONGEST_LINE else len(text)
        if self._length + longest <= LONGEST_LINE and not self._left_out:
            self._length = len(text) - end - 1 if end >= 0 else self._length + len(text)
            return text
        return "".join(self._cut_line(line) for line in _lines(text))

    def _cut_line(self, line: str) -> str:
        ends = line.endswith("\n")
        body = line[:-1] if ends else line
        shown = body[: max(0, LONGEST_LINE - self._length)]
        self._length += len(shown)
        self._left_out += len(body) - len(shown)
        if not ends:
            return shown
        said = f" [fairlead: {self._left_out} more characters of this line are left out]" if self._left_out else ""
        self._length = self._left_out = 0
        return f"{shown}{said}\n"


def _lines(text: str) -> list[str]:
    """With their ends; the last one may have none."""
    *whole, rest = text.split("\n")
    return [*(f"{line}\n" for line in whole), *([rest] if rest else [])]
