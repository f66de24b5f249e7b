"""How a job's members are cut into arrays: by what they ask for, and by how long an array may be.

Pure. An element is one allocation: of one member, or of several that run in it one after the other. Its
number is the member's divided by how many share one, so that element and member are found from each other
without a table. What becomes of a part is submit.py's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

MAX_ARRAY_SIZE = 1001
"""Slurm's own default: a job within it need not ask the cluster."""


@dataclass(frozen=True)
class Part:
    """What one sbatch queues."""

    shape: int
    """Which plan of the job its members have."""
    offset: int
    """Of an element's number over its array index, which stays below the cluster's MaxArraySize."""
    elements: tuple[int, ...]
    members: tuple[int, ...]

    @classmethod
    def whole(cls, *members: int) -> Part:
        """These members as one array, or job, each an element of its own."""
        return cls(0, 0, members, members)


def parts(
    members: Sequence[int],
    shapes: Mapping[int, int],
    per_allocation: int,
    max_array: int,
    apart: Collection[int] = (),
) -> list[Part]:
    """The fewest arrays for these members, in their order; `shapes` has the plan of those whose is not 0. Elements of
    the shapes `apart` are jobs of their own: Slurm has no arrays of heterogeneous jobs.

    MaxArraySize limits the index as well as the count (manual page of slurm.conf), so each array covers a
    range of element numbers that begins at a multiple of it.
    """
    groups: dict[tuple[int, int], dict[int, list[int]]] = {}
    for member in members:
        element = member // per_allocation
        shape = shapes.get(member, 0)
        key = (shape, element if shape in apart else element // max_array * max_array)
        groups.setdefault(key, {}).setdefault(element, []).append(member)
    ordered = sorted(groups.items())
    return [
        Part(shape, offset, tuple(elements), tuple(m for some in elements.values() for m in some))
        for (shape, offset), elements in ordered
    ]


def ranges(numbers: Sequence[int]) -> str:
    """0-3,7 for (0, 1, 2, 3, 7): what `--array` takes."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def numbers(text: str) -> Iterator[int]:
    """The other way round; the empty text is none."""
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
