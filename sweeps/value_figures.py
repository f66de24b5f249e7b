"""Optuna's plots of what trials reached: history, Pareto set, curves; or the sentence that says why there is none."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from sweeps.drawing import BEST, GOOD, PLAIN, Plot, Section, dressed, embedded
from sweeps.subject import Subject, log_if_wide, measure, partly, spread, thinned

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

MOST_POINTS, MOST_CURVES, MOST_STEPS = 2000, 200, 150
"""Drawn at most: a large search is thinned so that the page stays light, and its notes say so."""


def history(subject: Subject) -> Section:
    """Every value in the order of the trials, and the best so far."""
    from optuna.visualization import plot_optimization_history

    title = "Optimisation history"
    valued = subject.may_win()
    if not valued:
        return Section(key="history", title=title, why=subject.no_value())
    shown = thinned(subject, valued, MOST_POINTS, _records(subject, valued))
    # Optuna's plot takes a trial's number for its place: it is given places, and the axis our numbers.
    places = []
    for place, trial in enumerate(shown):
        places.append(copy.copy(trial))
        places[-1].number = place
    plots = []
    for i, goal in enumerate(subject.goals):
        target = measure(subject.goals, i)
        figure = plot_optimization_history(subject.only(places), target=target, target_name=goal.metric)
        axis = {"title": {"text": goal.metric}, **log_if_wide(t.values[i] for t in shown)}
        drawn = dressed(figure, xaxis={"title": {"text": "trial"}}, yaxis=axis)
        for trace in drawn["data"]:
            trace["x"] = [shown[place].number for place in trace["x"]]
            _dress_history(trace)
        plots.append(Plot(label=f"{goal.metric} of every trial in order", json=embedded(drawn)))
    note = "One point per trial with a value" + ("; the line is the best so far." if len(plots) == 1 else ".")
    note += " Pale points break a constraint." if any(t.constraints for t in valued) else ""
    return Section(
        key="history",
        title=title,
        note=note + partly(shown, valued, "trial"),
        plots=tuple(plots),
        wide=len(plots) > 1,
    )


def _records(subject: Subject, valued: Sequence[FrozenTrial]) -> set[int]:
    """Trials that were better than all before them: the steps of the line."""
    sign = 1 if subject.goals[0].goal == "minimize" else -1
    found, best = set(), math.inf
    for trial in valued:
        if all(broken <= 0 for broken in trial.constraints.values()) and sign * trial.values[0] < best:
            best = sign * trial.values[0]
            found.add(trial.number)
    return found


def _dress_history(trace: dict[str, Any]) -> None:
    if trace.get("name") == "Best Value":
        trace.update(name="best so far", line={"color": BEST, "width": 2, "shape": "hv"})
    elif trace.get("name") == "Infeasible Trial":
        trace.update(name="breaks a constraint", marker={"color": PLAIN, "size": 6, "opacity": 0.5})
    else:
        trace.update(marker={"color": GOOD, "size": 6, "opacity": 0.75})


def pareto_set(subject: Subject) -> Section:
    """Every pair of goals; the Pareto set is that of all goals together."""
    from optuna.visualization import plot_pareto_front

    title = "Pareto set"
    valued = subject.may_win()
    if len(subject.goals) > 3:
        why = f"With {len(subject.goals)} goals a front cannot be seen on paper; the parallel coordinates show it."
        return Section(key="pareto", title=title, why=why)
    if not valued:
        return Section(key="pareto", title=title, why=subject.no_value())
    shown = thinned(subject, valued, MOST_POINTS)
    plots = []
    for i, j in combinations(range(len(subject.goals)), 2):
        names = [subject.goals[i].metric, subject.goals[j].metric]
        figure = plot_pareto_front(subject.only(shown), target_names=names, targets=_both(i, j))
        drawn = dressed(figure)
        for trace in drawn["data"]:
            best = "Best Trial" in trace["hovertemplate"]
            trace["marker"] = {"color": BEST if best else PLAIN, "size": 9 if best else 6}
        plots.append(Plot(label=f"{names[0]} against {names[1]}", json=embedded(drawn)))
    wanted = "; ".join(f"{g.metric}: {'more' if g.goal == 'maximize' else 'less'} is better" for g in subject.goals)
    note = f"Orange: trials that no other beats in every goal. {wanted}." + partly(shown, valued, "trial")
    return Section(key="pareto", title=title, note=note, plots=tuple(plots), wide=len(plots) > 1)


def _both(i: int, j: int) -> Callable[[FrozenTrial], list[float]]:
    return lambda trial: [trial.values[i], trial.values[j]]


def curves(subject: Subject) -> Section:
    """What trials reported on their way."""
    from optuna.visualization import plot_intermediate_values

    title, metric = "Curves", subject.goals[0].metric
    able = [t for t in subject.frozen if len(t.intermediate_values) > 1]
    if not able:
        why = f"No trial has reported {metric} at more than one step."
        return Section(key="curves", title=title, why=why)
    # Optuna leaves failed trials out.
    drawable = [t for t in able if t.state.name in ("COMPLETE", "PRUNED", "RUNNING")]
    if not drawable:
        return Section(key="curves", title=title, why="Every trial that reported has failed.")
    shown = thinned(subject, drawable, MOST_CURVES)
    figure = plot_intermediate_values(subject.only(_fewer_steps(t) for t in shown))
    values = [v for t in shown for v in t.intermediate_values.values()]
    axis = {"title": {"text": metric}, **log_if_wide(values)}
    drawn = dressed(figure, xaxis={"title": {"text": "step"}}, yaxis=axis, showlegend=False)
    states = {f"Trial{t.number}": t.state.name for t in shown}
    leading = {f"Trial{number}" for number in subject.leading}
    for trace in drawn["data"]:
        _dress_curve(trace, states[trace["name"]], trace["name"] in leading)
    drawn["data"].sort(key=lambda trace: trace["line"]["width"])
    note = "Blue: ended. Grey: pruned. Dashed: running. Orange: the best."
    if len(subject.goals) > 1:
        note = note.replace("the best", "the Pareto set")
    note += partly(shown, drawable, "curve")
    return Section(
        key="curves",
        title=title,
        note=note,
        plots=(Plot(label=f"{metric} at every step of every trial", json=embedded(drawn)),),
    )


def _fewer_steps(trial: FrozenTrial) -> FrozenTrial:
    thin = copy.copy(trial)
    # Optuna's trial has no setter of its own for all values at once, but a plain attribute.
    finite = {k: v for k, v in sorted(trial.intermediate_values.items()) if math.isfinite(v)}
    thin.intermediate_values = dict(spread(list(finite.items()), MOST_STEPS))
    return thin


def _dress_curve(trace: dict[str, Any], state: str, leads: bool) -> None:
    colour = {"PRUNED": PLAIN}.get(state, GOOD)
    trace.update(
        mode="lines",
        name=trace["name"].replace("Trial", "trial "),
        opacity=1.0 if leads else 0.55,
        line={
            "color": BEST if leads else colour,
            "width": 2 if leads else 1.2 if state == "PRUNED" else 1.4,
            "dash": "dash" if state == "RUNNING" else "solid",
        },
    )
