"""Several cases at once: each on hosts of its own, as many as there are hosts and cores for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.chaos.cases import Case
from tests.chaos.drive import Bench
from tests.chaos.verdict import Row, failed

HOSTS = (1, 2, 3, 4)
"""Of the test cluster."""
AT_ONCE = 4


class Free:
    """The hosts that no case uses: a fault that hits a host hits one case."""

    def __init__(self, hosts: Sequence[int]) -> None:
        self._free, self._changed = list(hosts), threading.Condition()

    @contextlib.contextmanager
    def taken(self, count: int) -> Iterator[tuple[int, ...]]:
        """Wait for so many, and have them while the block runs."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._free) >= count)
            mine, self._free = self._free[:count], self._free[count:]
        try:
            yield tuple(mine)
        finally:
            with self._changed:
                self._free += mine
                self._changed.notify_all()


def run_all(bench: Bench, cases: Sequence[Case], look: Callable[[Row], None] = lambda _: None) -> list[Row]:
    """A row per case, in order; `look` sees each as soon as it is there. One that could not be run says so."""
    free = Free(HOSTS)

    def run(case: Case) -> Row:
        on = max(case.layout.nodes, case.back.nodes) if case.launcher == "slurm" else 0
        with free.taken(on) as hosts:
            row = attempted(bench, case, hosts)
        look(row)
        return row

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(run, cases))


def attempted(bench: Bench, case: Case, hosts: tuple[int, ...] = ()) -> Row:
    """A case's row, whatever happens."""
    try:
        return bench.run(case, hosts)
    except Exception as error:
        return failed(case, error)
