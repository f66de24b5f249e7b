"""What are classes called, and which number has each? A class is a text; whole numbers go by their size.

0, 1, ... are the labels that occur, in order: by number if all are whole numbers, else by text.
"""

from __future__ import annotations

from collections.abc import Iterable

from trainer.failure import UserError

CLASSES = "choose a column of classes: whole numbers, or text"
NUMBERS = "choose a column of classes (whole numbers, or text); or predict its numbers: data.task=regression"
"""What to do about fractions where classes should be: the second in a table, whose numbers could be predicted."""
VALUES = "split by a column of whole numbers or text, or by=time, or by=filter"
"""The same of what a split goes by."""


def in_order(labels: Iterable[str], called: str, key: str, do: str = CLASSES) -> list[str]:
    """The labels in the order of their numbers.

    Raises UserError for a number with a fraction, which is no class: `called` is what has it, `key` where it was said.
    """
    found = list(labels)
    try:
        numbers = {label: float(label) for label in found}
    except ValueError:
        return sorted(found)
    for label, number in numbers.items():
        if not number.is_integer():
            what = f"{called} has {label!r}, which is a number and no class"
            raise UserError(what, key, do)
    return sorted(found, key=lambda label: (numbers[label], label))


def final(seen: Iterable[str], ordered: Iterable[str]) -> list[int]:
    """The number of each label, for labels that were numbered as they came."""
    places = {label: number for number, label in enumerate(ordered)}
    return [places[label] for label in seen]
