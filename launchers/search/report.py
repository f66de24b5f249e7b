"""The verb `report`: a search or a grid as one HTML page, from what its run folder has now.

`python -m launchers.search.report RUN` is how the finish step writes it: in a process of its own, so that nothing
that goes wrong with a picture touches a result. What the page shows is sweeps/page.py's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from launchers.errors import EXIT_DONE, EXIT_SITE, FairleadError, SiteError
from launchers.jobs.spending import Spending, spending
from launchers.jobs.status import status_of
from launchers.plan import Plan, plans_from
from launchers.run_folder.record import Run, last_sign, read_json, read_lines, write_text
from launchers.search.compared import Compared, compared, pools_of
from launchers.search.standing import gone_of, parallel_of
from launchers.search.warm_start import counts
from sweeps.facts import Attempt as Stretch
from sweeps.facts import Facts
from sweeps.trials import State, Trial


def report(run: Run, output: Path | None = None, *, over: bool = False, used: Spending | None = None) -> Path:
    """Write the page, by default to report.html in the run folder; where it is. `over`: nothing of it runs any more.
    `used` is what it used so far, of who knows that already: thousands of ledgers take their time.

    Raises SpecError for a job with nothing to compare, and SiteError where the page cannot be made or written.
    """
    of = compared(run, {member.index for member in run.members()} if over else _gone(run))
    text = _page(of, facts_of(of, plans_from(read_json(run.plan))[0], time.time(), used))
    path = (output or run.path / "report.html").absolute()
    try:
        write_text(path, text)
    except OSError as e:
        raise SiteError(f"the report cannot be written: {e.strerror}", str(path), "choose another --output") from None
    return path


def _gone(run: Run) -> set[int]:
    """Without an answer of Slurm's, what did not end is taken to run."""
    with contextlib.suppress(SiteError):
        return gone_of(status_of(run, progress_of=0))
    return set()


def _page(of: Compared, facts: Facts) -> str:
    try:
        from sweeps.page import page

        return page(of.search, of.goals, of.trials, facts)
    except ImportError as e:
        raise SiteError(f"the report needs a package: {e}", do="pip install 'fairlead[search]'") from None


def facts_of(of: Compared, plan: Plan, now: float, used: Spending | None = None) -> Facts:
    """What the page says beyond the trials: slots, attempts, prices, and why it is over."""
    used = used or spending(of.run, [t.number for t in of.trials if t.state == "RUNNING"])
    several = {t.number: tuple(_stretches(of, t)) for t in of.trials if t.attempts > 1}
    return Facts(
        job=of.run.id,
        title=of.search.study or of.spec.name,
        now=now,
        parallel=parallel_of(of, plan),
        stopped=of.over,
        attempts={number: stretches for number, stretches in several.items() if stretches},
        prices=dict(_prices(of, several, now)),
        currency=of.spec.site.currency,
        begun_with=counts(of.run),
        rank_s=used.rank_s,
    )


def _stretches(of: Compared, trial: Trial) -> Iterator[Stretch]:
    attempts = of.run.member(trial.number).attempts()
    for attempt in attempts:
        outcome = read_json(attempt.outcome) or {}
        begun = (read_json(attempt.path / "started.json") or outcome).get("started")
        if begun is not None:
            is_last = attempt == attempts[-1]
            ended = outcome.get("ended", trial.ended if is_last else last_sign(attempt))
            yield Stretch(started=begun, ended=ended, state=_state(outcome, trial, is_last))


def _state(outcome: dict[str, object], trial: Trial, is_last: bool) -> State:
    """An attempt that was not the last one was taken away by the site, or failed and was tried again."""
    if is_last:
        return trial.state if outcome.get("state") not in ("REQUEUED", "RESTARTED") else "LOST"
    return "FAILED" if outcome.get("state") == "FAILED" and outcome.get("cause") == "user_error" else "LOST"


def _prices(of: Compared, several: Mapping[int, Sequence[Stretch]], now: float) -> Iterator[tuple[int, float]]:
    """Time of nodes at their price; nothing where no price is known."""
    rows = {row["index"]: row for row in read_lines(of.run.members_file)}
    for trial in of.trials:
        machines = [pool.machine for pool in pools_of(of.spec, rows[trial.number])]
        if any(machine.hourly_cost is not None for machine in machines):
            hourly = sum((machine.hourly_cost or 0.0) * machine.nodes for machine in machines)
            yield trial.number, hourly * _seconds(trial, several.get(trial.number, ()), now) / 3600


def _seconds(trial: Trial, stretches: Sequence[Stretch], now: float) -> float:
    """What a trial held its place for, over all attempts."""
    if stretches:
        return sum((now if s.ended is None else s.ended) - s.started for s in stretches)
    return 0.0 if trial.started is None else (now if trial.ended is None else trial.ended) - trial.started


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launchers.search.report", description="Write the report of a job.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--over", action="store_true", help="nothing of it runs any more")
    arguments = parser.parse_args(argv)
    os.umask(0o077)
    try:
        print(report(Run(arguments.run.resolve()), over=arguments.over))
    except FairleadError as e:
        print(e, file=sys.stderr)
        return EXIT_SITE
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
