"""Values that nobody may read become `***`: in what a program prints, and in what is said about it.

Besides a value itself its usual spellings are found: each longer line of it, within JSON, in a URL, in base64.
Standard library only, because the filter beside each rank and the trainer in a container use it too.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote

MASK = "***"
SHORTEST = 4
"""A shorter value would mask half of a log, and could be guessed from what is left."""
SHORTEST_PART = 8
"""Of a line of a value, or of its base64: `}` and the like are no secrets."""
NAMES = "FAIRLEAD_SECRETS"
"""Variable that tells a program's side which of its variables hold secrets: names with commas between them."""


def spellings(values: Iterable[str]) -> list[bytes]:
    """What is to be found, longest first, so that no part of a longer one is left over."""
    found = {spelt.encode("utf-8", "surrogateescape") for value in values for spelt in _spellings(value)}
    return sorted(found, key=lambda spelt: (-len(spelt), spelt))


def pattern_of(values: Iterable[str]) -> re.Pattern[bytes] | None:
    """An expression that matches every spelling of these values; None where there is none."""
    found = spellings(values)
    return re.compile(b"|".join(re.escape(spelt) for spelt in found)) if found else None


def masked(text: str, values: Iterable[str]) -> str:
    """The text without the values."""
    pattern = pattern_of(values)
    if pattern is None:
        return text
    data = text.encode("utf-8", "surrogateescape")
    return pattern.sub(MASK.encode(), data).decode("utf-8", "surrogateescape")


def here(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The values that a program was given; of those in files what the files hold."""
    found = []
    for name in filter(None, environ.get(NAMES, "").split(",")):
        if name in environ:
            found.append(environ[name])
        elif (path := environ.get(f"{name}_FILE")) is not None:
            try:
                with open(path, encoding="utf-8", errors="surrogateescape") as f:  # noqa: PTH123 (no pathlib needed)
                    found.append(f.read())
            except OSError:
                continue
    return found


def _spellings(value: str) -> Iterator[str]:
    if len(value) < SHORTEST:
        return
    yield value
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    data = value.encode("utf-8", "surrogateescape")
    yield quote(data, safe="")
    yield quote(data)
    yield from (line for line in value.splitlines() if len(line) >= SHORTEST_PART)
    yield from _in_base64(data)


def _in_base64(data: bytes) -> Iterator[str]:
    """Without the first and last characters, which depend on what stands beside the value: one for each place that it
    can have in a group of three bytes."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + data).rstrip(b"=").decode()
        text = text[(0, 2, 3)[before] :]
        text = text[: len(text) - (1 if (before + len(data)) % 3 else 0)]
        if len(text) >= SHORTEST_PART:
            yield text
            yield text.replace("+", "-").replace("/", "_")
