"""How good the points are that a search finds, and what pruning saves.

    python -m tests.benchmarks.regret [--full]

Samplers: ours (`sweeps.sampler.suggest`, which rebuilds everything at each ask) beside Optuna used directly, one
trial after the other, the same number of trials. Seeds are not pairs: ours gives each trial a generator of its own.
That nothing else differs is what tests/sweeps/test_as_optuna.py says.

Pruning: eight trials at a time on learning curves of really trained networks, the very same points with and without it.
"""

from __future__ import annotations

import heapq
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from conf.sweep_schema import Goal, Pruning, Search
from sweeps.pruning import verdict
from sweeps.sampler import suggest
from sweeps.trials import Report, Trial
from tests.benchmarks import problems
from tests.benchmarks.curves import EPOCHS, PARAMETERS, Curves
from tests.benchmarks.problems import Point, Problem

LOSS = Goal(metric="loss", goal="minimize")
TRIALS = {"tpe": 100, "gp": 50}
SLOTS, PRUNED_TRIALS = 8, 64
RULES = {
    "median": Pruning(rule="median", min_trials=5, min_step=3),
    "median, 25": Pruning(rule="median", min_trials=5, min_step=3, percentile=25),
    "asha": Pruning(rule="asha", min_step=1, reduction=3, max_step=EPOCHS),
    "hyperband": Pruning(rule="hyperband", min_step=1, reduction=3, max_step=EPOCHS),
    "decay_curve": Pruning(rule="decay_curve", min_trials=5, min_step=4, max_step=EPOCHS),
}


def main() -> None:
    full = "--full" in sys.argv
    _samplers(full)
    _pruning(seeds=20 if full else 5)


# --- samplers -----------------------------------------------------------------------------------------


def _samplers(full: bool) -> None:
    functions = [problems.branin(), problems.hartmann6()]
    tables = [problems.table("HPOBench", "vehicle"), problems.table("HPOLib", "protein_structure"),
              problems.table("NASBench201", "cifar100")]  # fmt: skip
    print("Simple regret: median [quartiles] over seeds; at best: the share of seeds that end in the deepest minimum;")
    print("better: the chance that one of ours is below one of Optuna's, p: Mann-Whitney's test of it, two-sided")
    print(f"{'':<28} {'':>4} {'seeds':>5} {'trials':>6}   {'Fairlead':<28} {'Optuna, directly':<28}", end=" ")
    print(f"{'at best':>11} {'better':>6} {'p':>5} {'CPU s/ask':>12}")
    for problem in [*functions, *tables]:
        _line(problem, "tpe", seeds=100 if full else 8)
    for problem in [*functions, tables[0]] if full else functions:
        _line(problem, "gp", seeds=40 if full else 3)


def _line(problem: Problem, algorithm: str, seeds: int) -> None:
    trials = TRIALS[algorithm]
    found: list[list[Point]] = [[], []]
    took = [0.0, 0.0]
    for seed in range(seeds):
        for place, way in enumerate((_ours, _direct)):
            begun = time.process_time()
            found[place].append(min(way(problem, algorithm, seed, trials), key=problem.loss))
            took[place] += time.process_time() - begun
    ours, theirs = ([problem.regret(point) for point in points] for points in found)
    shares = " and ".join(f"{100 * statistics.fmean(map(problem.is_at_best, points)):.0f}" for points in found)
    better, p = _compared(ours, theirs)
    each = " ".join(f"{s / seeds / trials:.3f}" for s in took)
    print(
        f"{problem.name:<28} {algorithm:>4} {seeds:>5} {trials:>6}   {_spread(ours):<28} {_spread(theirs):<28} "
        f"{shares + ' %' if problem.minima else '':>11} {better:>6.2f} {p:>5.2f} {each:>12}",
        flush=True,
    )


def _ours(problem: Problem, algorithm: str, seed: int, trials: int) -> list[Point]:
    search = Search(kind="search", algorithm=algorithm, parameters=problem.parameters, trials=trials, seed=seed)
    done: list[Trial] = []
    for number in range(trials):
        point = suggest(search, (LOSS,), done, number)
        report = Report(step=1, metrics={"loss": problem.loss(point)})
        t = float(number)
        done.append(
            Trial(number=number, point=point, state="SUCCEEDED", reports=(report,), asked=t, started=t, ended=t + 1)
        )
    return [trial.point for trial in done]


def _direct(problem: Problem, algorithm: str, seed: int, trials: int) -> list[Point]:
    """As Optuna's tutorial has it, with its own defaults."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers = optuna.samplers
    sampler = samplers.TPESampler(seed=seed) if algorithm == "tpe" else samplers.GPSampler(seed=seed)
    study = optuna.create_study(sampler=sampler)
    points: list[Point] = []

    def objective(trial: optuna.Trial) -> float:
        points.append(problem.suggest(trial))
        return problem.loss(points[-1])

    study.optimize(objective, n_trials=trials)
    return points


def _compared(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """The chance that one of ours is less than one of theirs (alike count half), and p of its being other than 0.5."""
    from scipy.stats import mannwhitneyu

    test = mannwhitneyu(ours, theirs)
    return 1 - float(test.statistic) / len(ours) / len(theirs), float(test.pvalue)


def _paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    from scipy.stats import wilcoxon

    if all(a == b for a, b in zip(ours, theirs, strict=True)):
        return 1.0
    return float(wilcoxon(ours, theirs).pvalue)


def _spread(values: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.4g} [{low:.3g}, {high:.3g}]"


# --- pruning ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Searched:
    """What a search came to."""

    regret: float
    epochs: int


def _pruning(seeds: int) -> None:
    curves = Curves()
    print(f"\nPruning, {PRUNED_TRIALS} trials of {EPOCHS} epochs on {SLOTS} slots, {seeds} seeds", end=": ")
    print("median [quartiles]; p: Wilcoxon's test of a difference in regret, two-sided")
    print(f"{'points by':<10} {'rule':<12} {'epochs saved':<24} {'regret (loss)':<30} {'without pruning':<30} {'p':>6}")
    for algorithm in ("random", "tpe"):
        plain = [_search(curves, algorithm, None, seed) for seed in range(seeds)]
        for name, rule in RULES.items():
            found = [_search(curves, algorithm, rule, seed) for seed in range(seeds)]
            saved = [1 - a.epochs / b.epochs for a, b in zip(found, plain, strict=True)]
            regrets, others = [f.regret for f in found], [p.regret for p in plain]
            print(
                f"{algorithm:<10} {name:<12} {_spread([100 * s for s in saved]) + ' %':<24} {_spread(regrets):<30} "
                f"{_spread(others):<30} {_paired_difference(regrets, others):>6.2f}",
                flush=True,
            )


def _search(curves: Curves, algorithm: str, rule: Pruning | None, seed: int) -> Searched:
    """A search on SLOTS slots with a clock of its own: an epoch of any network takes one second."""
    search = Search(
        kind="search", algorithm=algorithm, parameters=PARAMETERS, trials=PRUNED_TRIALS, seed=seed, pruning=rule
    )
    trials: dict[int, Trial] = {}
    ahead: list[tuple[float, int]] = []

    def begin(now: float) -> None:
        number = len(trials)
        if number < PRUNED_TRIALS:
            point = suggest(search, (LOSS,), list(trials.values()), number)
            trials[number] = Trial(number=number, point=point, state="RUNNING", asked=now, started=now)
            # a hair apart, as on a real cluster: no two report at the very same moment
            heapq.heappush(ahead, (now + 1 + number * 1e-3, number))

    for slot in range(SLOTS):
        begin(slot * 1e-2)
    while ahead:
        now, number = heapq.heappop(ahead)
        trial = _after_an_epoch(curves, trials[number], now)
        trials[number] = trial
        if len(trial.reports) == EPOCHS:
            trials[number] = replace(trial, state="SUCCEEDED", ended=now)
        elif rule is not None and verdict(search, LOSS, trial, list(trials.values())):
            trials[number] = replace(trial, state="PRUNED", ended=now)
        if trials[number].state == "RUNNING":
            heapq.heappush(ahead, (now + 1, number))
        else:
            begin(now)
    best = min(min(curves.losses(t.point)[: len(t.reports)]) for t in trials.values())
    return Searched(best - curves.least, sum(len(t.reports) for t in trials.values()))


def _after_an_epoch(curves: Curves, trial: Trial, now: float) -> Trial:
    epoch = len(trial.reports) + 1
    loss = curves.losses(trial.point)[epoch - 1]
    return replace(trial, reports=(*trial.reports, Report(step=epoch, metrics={"loss": loss}, t=now)))


if __name__ == "__main__":
    main()
