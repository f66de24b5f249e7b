"""Was each sample seen exactly once in each epoch, however often the run was broken off? A log of them, and its check.

    attempt-<n>/samples-<rank>.jsonl    {"size": 90, "world": 2, "epoch_steps": 6}, then each step:
                                        {"step": 1, "epoch": 0, "ids": [...]}

`python -m trainer.samples MEMBER_FOLDER` reads the logs of all attempts (train.log_samples=true wrote them), drops what
was trained after the checkpoint that a later attempt went on from, and says what is missing or was seen twice.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.insight.spool import Lines

if TYPE_CHECKING:
    from trainer.data.feed import Place
    from trainer.data.order import Order

SHOWN = 5


class SampleLog:
    """This rank's log of an attempt."""

    def __init__(self, attempt: Path, order: Order) -> None:
        self._lines = Lines(attempt / f"samples-{order.rank}.jsonl")
        self._lines.add({"size": order.size, "world": order.world, "epoch_steps": order.steps_per_epoch})
        self._on_the_way: deque[Place] = deque()

    def watched(self, places: Iterator[Place]) -> Iterator[Place]:
        """The places as they are asked for: data arrive in the same order, whoever reads them."""
        for place in places:
            self._on_the_way.append(place)
            yield place

    def trained(self, step: int, passes: int) -> None:
        """A step was made, of the data that came first in so many passes."""
        done = [self._on_the_way.popleft() for _ in range(passes)]
        ids = [int(i) for _, indices in done for i in indices if i >= 0]
        self._lines.add({"step": step, "epoch": done[0][0], "ids": ids})

    def close(self) -> None:
        self._lines.close()


@dataclass(frozen=True)
class Told:
    """What the ranks of an attempt wrote."""

    began_after: int | None
    """The step that it went on from; None where it did not come so far."""
    size: int
    world: int
    epoch_steps: int
    ids: dict[int, tuple[int, list[int]]]
    """Of each step its epoch, and the samples of all ranks."""


def mistakes(member: Path) -> list[str]:
    """What contradicts «each sample once in each epoch»; of an epoch that was not trained to its end, as far as it
    came."""
    told = [_told(attempt) for attempt in sorted(member.glob("attempt-*"), key=_number)]
    sizes = {one.size for one in told if one.ids}
    if len(sizes) != 1:
        return [f"the training set had {sorted(sizes)} samples" if sizes else "no step was logged"]
    kept, found = _kept(told)
    first = told[0].began_after or 0  # the heir of another member begins where that one ended
    found += [f"step {step} was not logged" for step in range(first + 1, max(kept, default=0) + 1) if step not in kept]
    epochs: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for epoch, ids in kept.values():
        epochs[epoch].update(ids)
    size, epoch_steps = sizes.pop(), max(one.epoch_steps for one in told)
    for epoch, seen in sorted(epochs.items()):
        twice = [i for i, count in seen.items() if count > 1]
        is_part = (epoch + 1) * epoch_steps > max(kept) if epoch_steps else epoch == max(epochs)
        is_part = is_part or (first > 0 and epoch == min(epochs))
        absent = [] if is_part else sorted(set(range(size)) - set(seen))
        strange = [i for i in seen if not 0 <= i < size]
        for ids, what in ((twice, "more than once"), (absent, "never"), (strange, "though there are none")):
            if ids:
                found.append(f"epoch {epoch} saw {len(ids)} samples {what}: {', '.join(map(str, ids[:SHOWN]))}")
    return found


def _kept(told: list[Told]) -> tuple[dict[int, tuple[int, list[int]]], list[str]]:
    """The steps that count, by number, and those that two attempts claim."""
    kept: dict[int, tuple[int, list[int]]] = {}
    found = []
    for number, attempt in enumerate(told):
        later = [one.began_after for one in told[number + 1 :] if one.began_after is not None]
        for step, seen in attempt.ids.items():
            if step > min(later, default=step):
                continue
            if step in kept:
                found.append(f"step {step} was made twice, and both count")
            kept[step] = seen
    return kept, found


def _told(attempt: Path) -> Told:
    marks = _rows(attempt / "ledger.jsonl")
    began = next((int(row["step"]) for row in marks if row["event"] == "restore_done"), None)
    files = [_rows(path) for path in sorted(attempt.glob("samples-*.jsonl"))]
    heads = [rows[0] for rows in files if rows]
    ids: dict[int, tuple[int, list[int]]] = {}
    ranks = Counter(row["step"] for rows in files for row in rows[1:])
    for row in (row for rows in files for row in rows[1:]):
        if ranks[row["step"]] == heads[0]["world"]:  # else it was broken off: it was made again, or is missing
            ids.setdefault(row["step"], (row["epoch"], []))[1].extend(row["ids"])
    size, world, epoch_steps = (heads[0].get(name, 0) if heads else 0 for name in ("size", "world", "epoch_steps"))
    return Told(began, size, world, epoch_steps, ids)


def _rows(path: Path) -> list[dict[str, Any]]:
    """A torn last line is that of a process that was killed."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _number(attempt: Path) -> int:
    return int(attempt.name.rpartition("-")[2])


def main(argv: list[str]) -> int:
    found = mistakes(Path(argv[0]))
    print("\n".join(found) if found else "each sample was seen once in each epoch")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
