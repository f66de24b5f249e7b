"""What `check` says of a command line, and the words with which several tests begin one."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf import schema
from launchers.config.check import check_all
from launchers.errors import Problem, SpecError
from launchers.search.expand import compose_all


def problems(*overrides: str, folder: Path | None = None) -> list[Problem]:
    """What is wrong with a command line."""
    with pytest.raises(SpecError) as caught:
        check_all(compose_all(overrides, [folder] if folder else []))
    assert all(len(str(p).splitlines()) == 3 for p in caught.value.problems)
    return list(caught.value.problems)


def sound(*overrides: str, folder: Path | None = None) -> schema.Spec:
    return check_all(compose_all(overrides, [folder] if folder else []))[0]


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


SEARCH = (
    "+sweep={kind: search, algorithm: random, trials: 2, parameters: {optimizer.lr: {type: double, min: 0.1, max: 1}}}",
)
COMMAND = ("job=command", "job.command=[program]")
AT_ADDRESS = ("data=tokens", "model=gpt")
BY_PATTERN = (*COMMAND, "job.metrics.kind=pattern")
Cases = dict[str, list[tuple[tuple[str, ...], tuple[str, ...], str]]]
"""By rule: the words of a command line, what is told of them, and where it is told that they were said."""
