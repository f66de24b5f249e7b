"""The verb `logs`: what the ranks of a job said, one or all, now or as it comes, or only what went wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launchers.errors import Problem, SpecError
from launchers.outcome import remedy
from launchers.parts import ranges
from launchers.plan import plans_from
from launchers.run_folder.log_parts import PART, place_of
from launchers.run_folder.record import Attempt, Run, read_json, read_lines

POLL_S = 0.5


@dataclass(frozen=True)
class Choice:
    """Which logs are wanted; None is all."""

    member: int | None = None
    rank: int | None = None


def must_be_there(run: Run, choice: Choice) -> None:
    """Raises SpecError for a member or a rank that the job does not have, whether it has started or not."""
    rows = read_lines(run.members_file)
    chosen = [row for row in rows if choice.member in (None, row["index"])]
    if not chosen:
        do = f"members are {ranges([row['index'] for row in rows])}"
        raise SpecError([Problem(f"there is no member {choice.member}", f"job {run.id}", do)])
    if choice.rank is None:
        return
    plans = plans_from(read_json(run.plan))
    count = max(plans[row.get("shape", 0)].ranks for row in chosen)
    if choice.rank >= count:
        do = f"ranks are {ranges(range(count))}"
        raise SpecError([Problem(f"there is no rank {choice.rank}", f"job {run.id}", do)])


def lines(run: Run, choice: Choice) -> Iterator[tuple[str, str]]:
    """(label, line) of the newest attempt of each chosen member, rank by rank."""
    follower = _Follower(run, choice)
    yield from follower.new_lines()
    yield from follower.rest()


def follow(run: Run, choice: Choice, ended: Callable[[], bool]) -> Iterator[tuple[str, str]]:
    """Like `lines`, and then each new line, across attempts, until `ended()` is true and all is read."""
    follower = _Follower(run, choice)
    while True:
        last = ended()
        yield from follower.new_lines()
        if last:
            yield from follower.rest()
            return
        time.sleep(POLL_S)


def errors(run: Run, choice: Choice) -> Iterator[str]:
    """For each chosen member whose newest attempt failed: cause, first rank, and its last lines."""
    for member in (m for m in run.members() if choice.member in (None, m.index)):
        attempts = member.attempts()
        outcome = read_json(attempts[-1].outcome) if attempts else None
        if not outcome or outcome["state"] in ("SUCCEEDED", "REQUEUED"):
            continue
        place = f" on {outcome['host']}" if outcome.get("host") else ""
        rank = f", first to fail: rank {outcome['first_rank']}{place}" if outcome.get("first_rank") is not None else ""
        yield f"member {member.index}: {outcome['state']} ({outcome['cause']}){rank}: {outcome['message']}"
        yield from (f"    {line}" for line in outcome["last_lines"])
        if do := remedy(outcome["cause"], run.id):
            yield f"    do  {do}"


def _replicas(attempt: Attempt) -> dict[int, str]:
    """Of several pools the replica of each rank, such as workerpool1-0; where it has several ranks the rank, too."""
    names = list[str]()
    for pool in read_json(attempt.path / "pools.json") or []:
        for i in range(len(pool["hosts"])):
            count = pool["ranks_per_node"]
            own = f"{pool['name']}-{i}"
            names += [own] if count == 1 else [f"{own}/{len(names) + k}" for k in range(count)]
    return dict(enumerate(names))


@dataclass
class _Follower:
    run: Run
    choice: Choice
    read: dict[Path, int] = field(default_factory=dict)
    partial: dict[Path, bytes] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    """Number of the attempt that was each member's newest when we began: older ones are not shown."""

    def new_lines(self) -> Iterator[tuple[str, str]]:
        for label, path in self._files():
            yield from ((label, line) for line in self._whole_lines(path))

    def rest(self) -> Iterator[tuple[str, str]]:
        """Last lines that never got their line break."""
        for label, path in self._files():
            if data := self.partial.pop(path, b""):
                yield label, data.decode("utf-8", errors="replace")

    def _files(self) -> Iterator[tuple[str, Path]]:
        members = list(self.run.members())
        if self.choice.member is not None:
            members = [m for m in members if m.index == self.choice.member]
        for member in members:
            attempts = member.attempts()
            if attempts:
                self.first.setdefault(member.index, attempts[-1].number)
            for attempt in attempts:
                if attempt.number >= self.first[member.index]:
                    yield from self._ranks(attempt, f"{member.index}/" if len(members) > 1 else "")

    def _ranks(self, attempt: Attempt, prefix: str) -> Iterator[tuple[str, Path]]:
        files = [path for path in attempt.path.glob("rank-*.log") if PART.fullmatch(path.name)]
        ranks = {place_of(path)[0] for path in files}
        names = _replicas(attempt)
        for path in sorted(files, key=place_of):
            rank, _ = place_of(path)
            if self.choice.rank in (None, rank):
                several = prefix or (len(ranks) > 1 and self.choice.rank is None)
                yield f"{prefix}{names.get(rank, rank)}" if several else "", path

    def _whole_lines(self, path: Path) -> Sequence[str]:
        try:
            with path.open("rb") as f:
                f.seek(self.read.get(path, 0))
                data = f.read()
        except OSError:
            return []
        self.read[path] = self.read.get(path, 0) + len(data)
        *whole, self.partial[path] = (self.partial.get(path, b"") + data).split(b"\n")
        return [line.decode("utf-8", errors="replace") for line in whole]
