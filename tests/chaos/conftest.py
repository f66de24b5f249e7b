"""What the tests of a campaign share: the trainings that nobody disturbed, and the rows for the table at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.drive import Bench
from tests.chaos.training import Undisturbed
from tests.chaos.verdict import Row, document


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Bench:
    """A folder for the cases of this process; all processes of this test run compare with the same."""
    mine = tmp_path_factory.getbasetemp()
    shared: Path = mine if worker_id == "master" else mine.parent
    return Bench(mine / "chaos", Undisturbed(shared / "undisturbed"))


@pytest.fixture
def judged(record_property: Callable[[str, object], None]) -> Callable[[Row], None]:
    """Put a row into the table, and fail if a promise was broken."""

    def judge(row: Row) -> None:
        record_property("chaos", document(row))
        assert not row.broken, "\n".join(row.broken)

    return judge
