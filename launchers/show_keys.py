"""What `fairlead explain` prints: keys, what they may be and what they mean, as text. Nothing is looked up here."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from launchers.config.explained import Explanation, Key

WIDTH = 110
INDENT = "    "


def names_text(names: Sequence[str]) -> Iterator[str]:
    """What can be asked for."""
    yield "fairlead explain KEY, for one of these or a key in it:"
    yield from _filled("  ".join(names), INDENT)


def text(found: Sequence[Explanation]) -> Iterator[str]:
    """One after the other: what a section is, its keys, and the files of conf/ that choose it."""
    for one in found:
        if one.about or "." in one.name:  # of a key, which kind's it is
            yield one.name
            yield from _filled(one.about, "  ")
        for key in one.keys:
            yield from _key(key)
        if one.options:
            yield f"{one.name}=..."
            for name, sentence in one.options.items():
                first, *others = textwrap.wrap(f"{name:<16} {sentence}", WIDTH - 2, subsequent_indent=" " * 17)
                yield from (f"  {line}" for line in (first, *others))


def _key(key: Key) -> Iterator[str]:
    default = f"; {key.default} where nothing is said" if key.default else ""
    if not key.below or key.default:
        yield from _filled(f"{key.name}   {key.takes}{default}", "", INDENT)
    else:
        yield key.name
    yield from _filled(key.meaning, INDENT)
    for inner in key.below:
        yield from _key(inner)


def _filled(said: str, indent: str, further: str | None = None) -> list[str]:
    further = indent if further is None else further
    return textwrap.wrap(said, WIDTH, initial_indent=indent, subsequent_indent=further, break_on_hyphens=False)
