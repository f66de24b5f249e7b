"""What `extend` refuses, and how it says so."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from conf.sweep_schema import Limits
from launchers.errors import SpecError
from launchers.run_folder.record import write_json
from launchers.search.extend import Wish, extend
from launchers.search.study import Study
from tests.launchers.extended import emptied, indices, launched, queue
from tests.launchers.tracked import make_run
from tests.launchers.tried import accuracies

REFUSED: list[tuple[Wish, str]] = [
    (Wish(), "nothing is to be raised"),
    (Wish(trials=4), "trials is 4, and 4 is not more"),
    (Wish(trials=3), "trials is 4, and 3 is not more"),
    (Wish(trials=-1), "trials is 4, and -1 is not more"),
    (Wish(trials=10**9), "1000000000 trials are too many"),
    (Wish(gpu_hours=5.0), "gpu_hours is 5, and 5.0 is not more"),
    (Wish(gpu_hours=float("inf")), "gpu_hours is 5, and inf is not more"),
    (Wish(gpu_hours=float("nan")), "gpu_hours is 5, and nan is not more"),
    (Wish(trials=5, wall_min=100), "wall_min has no limit"),
    (Wish(trials=5, max_failed=2), "max_failed is 3, and 2 is not more"),
    (Wish(again=True), "the search is not over"),
]


@pytest.mark.parametrize(("wish", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_extend_refuses_what_raises_nothing(cluster: Any, workdir: Path, wish: Wish, said: str) -> None:
    run = launched(workdir, limits=Limits(gpu_hours=5, max_failed=3))
    before = queue(workdir)

    with pytest.raises(SpecError) as caught:
        extend(run, wish)

    assert said in str(caught.value)
    assert (queue(workdir), indices(run), Study(run).budget.exists()) == (before, [0, 1, 2, 3], False)


def test_extend_says_all_that_is_wrong_at_once(cluster: Any, workdir: Path) -> None:
    run = launched(workdir)

    with pytest.raises(SpecError) as caught:
        extend(run, Wish(trials=3, gpu_hours=1.0, max_failed=1))

    assert len(caught.value.problems) == 3


def test_extend_of_trials_alone_says_which_limit_still_holds(cluster: Any, workdir: Path) -> None:
    run = launched(workdir, limits=Limits(max_failed=0))
    accuracies(run, [0.5, None])
    write_json(Study(run).over, {"why": "1 trials failed, and max_failed is 0", "t": 0})
    emptied(cluster)

    with pytest.raises(SpecError, match="would still be over: 1 trials failed, and max_failed is 0"):
        extend(run, Wish(trials=8))

    assert Study(run).over.exists()
    assert extend(run, Wish(trials=8, max_failed=2)).members == (2, 3, 4, 5, 6, 7)


def test_extend_of_a_grid_says_so(workdir: Path) -> None:
    run = make_run(workdir, [{"model.width": 1}, {"model.width": 2}])

    with pytest.raises(SpecError, match="digits-1 is not a search"):
        extend(run, Wish(trials=4))


def test_extend_while_it_is_being_cancelled_says_so(cluster: Any, workdir: Path) -> None:
    run = launched(workdir)
    write_json(run.cancelled, {"by": "me", "t": time.time()})

    with pytest.raises(SpecError, match="the job is being cancelled"):
        extend(run, Wish(trials=8))
