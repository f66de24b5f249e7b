"""Points from no experience: drawn at random, or spread evenly by a quasi-random sequence.

Needs the standard library alone. What learns from earlier trials is learning.py's.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from conf.sweep_schema import Search
from sweeps.axis import axes_of, make_point

Propose = Callable[[int], dict[str, Any]]
"""A point for one trial: its first attempt is 0, and each further one gives another."""


def seed_of(search: Search, number: int, attempt: int) -> int:
    """32 bits that differ for every trial and every attempt at it."""
    text = f"{search.seed}/{number}/{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def drawn(search: Search, given: Mapping[str, Any], number: int, attempt: int) -> dict[str, Any]:
    """A point with `given` values, every other parameter drawn for itself, evenly along its axis."""
    axes, chance = axes_of(search), random.Random(seed_of(search, number, attempt))
    shares = {name: chance.random() for name in sorted(axes)}
    return make_point(search, lambda name: given[name] if name in given else axes[name].value_below(shares[name]))


def spread(search: Search, given: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Point `number` of a scrambled Halton sequence: it needs no memory, and takes conditions and categories.

    (Optuna's QMCSampler counts in the study and takes its axes from the first trial, so it has neither.)
    Source: Halton 1960; a random permutation of each digit breaks the correlation of large bases (Owen 2017).
    """
    axes = axes_of(search)
    shares = {
        name: _radical_inverse(number, base, search.seed) for name, base in zip(sorted(axes), _primes(), strict=False)
    }
    return make_point(search, lambda name: given[name] if name in given else axes[name].value_below(shares[name]))


def _radical_inverse(number: int, base: int, seed: int) -> float:
    """The digits of `number` behind the point, each place with a permutation of its own."""
    share, scale, place = 0.0, 1.0 / base, 0
    while scale > 1e-9:  # leading zeros are digits too
        digits = list(range(base))
        random.Random(f"{seed}/{base}/{place}").shuffle(digits)
        number, digit = divmod(number, base)
        share, scale, place = share + digits[digit] * scale, scale / base, place + 1
    return share


def _primes() -> Iterator[int]:
    found: list[int] = []
    candidate = 2
    while True:
        if all(candidate % prime for prime in found):
            found.append(candidate)
            yield candidate
        candidate += 1
