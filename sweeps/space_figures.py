"""Optuna's plots of which parameters mattered and how: importances, parallel coordinates, slices, contour.

Where one cannot be drawn, the sentence that says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from sweeps.best import FEWEST_FOR_IMPORTANCE
from sweeps.drawing import Plot, Section, darkness, dressed, embedded
from sweeps.spelling import count
from sweeps.subject import Subject, log_if_wide, measure, partly, thinned

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STEADY_IMPORTANCE = 50
MOST_LINES, MOST_SLICES, MOST_IN_SLICE, MOST_CELLS = 400, 12, 500, 80
"""Drawn at most: a large search is thinned so that the page stays light, and its notes say so."""


def importances(subject: Subject) -> tuple[Section, list[str]]:
    """How much each parameter mattered, and the parameters from the most important on."""
    title, names, valued = "Parameter importances", subject.names(), subject.valued()
    why = ""
    if any(trial.parent is not None for trial in subject.trials):
        why = "In a population a value belongs to a line of trials, each of which goes on from another: not to a point."
    elif len(valued) < FEWEST_FOR_IMPORTANCE:
        why = f"{count(len(valued), 'trial')} ended with a value; importances need {FEWEST_FOR_IMPORTANCE}."
    elif len([n for n in names if len({t.params[n] for t in valued if n in t.params}) > 1]) < 2:
        why = "Fewer than two parameters varied: there is nothing to compare."
    if why:
        return Section(key="importances", title=title, why=why), names
    figures = [_importance(subject, valued, i) for i in range(len(subject.goals))]
    if None in figures:
        why = "The values are too much alike to say which parameter mattered."
        return Section(key="importances", title=title, why=why), names
    drawn = [dressed(figure) for figure in figures]
    # Optuna writes names into the template, where `%{...}` has a meaning.
    told = {"hovertemplate": "%{y}: %{x:.3f}<extra></extra>"}
    traces = [{**d["data"][0], **told, "name": g.metric} for d, g in zip(drawn, subject.goals, strict=True)]
    # Bars lie in the order of the first goal, the longest on top.
    ranked = list(reversed(traces[0]["y"]))
    layout = {
        # Room for the numbers behind the bars.
        "xaxis": {"title": {"text": "importance"}, "range": [0, 1.2 * max(max(trace["x"]) for trace in traces)]},
        "yaxis": {"categoryorder": "array", "categoryarray": list(traces[0]["y"])},
        "showlegend": len(traces) > 1,
    }
    plot = Plot(
        label="Importance of each parameter",
        json=embedded({"data": traces, "layout": layout}),
        height_px=90 + 30 * len(names) * len(traces),
    )
    note = "PED-ANOVA: how much each parameter tells the best tenth of the trials from the others."
    if len(valued) < STEADY_IMPORTANCE:
        note += f" From {count(len(valued), 'trial')}: expect it to change."
    return Section(key="importances", title=title, note=note, plots=(plot,)), ranked


def _importance(subject: Subject, valued: Sequence[FrozenTrial], i: int) -> Any:
    """Of one goal; None where Optuna says that the values do not tell."""
    from optuna.visualization import plot_param_importances

    # With a measure of our own Optuna takes less for better, whatever the study's direction.
    sign = -1 if subject.goals[i].goal == "maximize" else 1
    target = None if len(subject.goals) == 1 else lambda trial: sign * trial.values[i]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        figure = plot_param_importances(subject.only(valued), target=target, target_name=subject.goals[i].metric)
    unclear = any("will be equal" in str(warning.message) for warning in said)
    return None if unclear or not figure.data else figure


def parallel(subject: Subject) -> Section:
    """One line per trial through its parameters and values."""
    from optuna.visualization import plot_parallel_coordinate

    title, names, valued = "Parallel coordinates", subject.names(), subject.valued()
    if len(valued) < 2 or len(names) < 2:
        why = subject.no_value() if not valued else "It takes two trials with a value and two parameters."
        return Section(key="parallel", title=title, why=why, wide=True)
    shown = thinned(subject, valued, MOST_LINES)
    figure = plot_parallel_coordinate(subject.only(shown), target_name=subject.goals[0].metric)
    heads = [g.metric for g in subject.goals] + names
    for trace in figure.data:
        if trace.customdata is not None:
            trace.opacity = 0.3 + 0.6 * darkness(trace.line.color)
            trace.customdata = [[head, said] for head, (_, said) in zip(heads, trace.customdata, strict=True)]
    drawn = dressed(figure, margin={"l": 30, "r": 10, "t": 24, "b": 60})
    drawn["data"].sort(key=lambda trace: trace.get("opacity", 1.0))
    for text in drawn["layout"]["annotations"]:
        text.pop("font", None)  # a grey that a dark page swallows
    # Optuna cuts long names; ours stand on two lines.
    drawn["layout"]["xaxis"]["ticktext"] = ["<br>".join(head.rsplit(".", 1)) for head in heads]
    plot = Plot(
        label="Parameters and values of every trial",
        json=embedded(drawn),
        height_px=420,
        min_width_px=110 * len(heads),
    )
    best = "nearest to the Pareto set" if len(subject.goals) > 1 else "best"
    note = f"Orange lines are the {best}, grey ones the worst."
    if any(len(t.params) < len(names) for t in shown):
        note += " A trial without a parameter passes through None."
    return Section(key="parallel", title=title, note=note + partly(shown, valued, "trial"), plots=(plot,), wide=True)


def slices(subject: Subject, ranked: Sequence[str]) -> Section:
    """The first goal over each parameter alone."""
    from optuna.visualization import plot_slice

    title, valued, metric = "Slices", subject.valued(), subject.goals[0].metric
    if len(valued) < 2:
        why = subject.no_value() if not valued else "One trial has ended with a value; it takes two."
        return Section(key="slices", title=title, why=why, wide=True)
    plots = []
    axis = {"title": {"text": metric}, **log_if_wide(t.values[0] for t in valued)}
    for name in ranked[:MOST_SLICES]:
        shown = thinned(subject, [t for t in valued if name in t.params], MOST_IN_SLICE)
        figure = plot_slice(subject.only(shown), params=[name], target=measure(subject.goals, 0), target_name=metric)
        drawn = dressed(figure)
        drawn["layout"]["yaxis"] = {**drawn["layout"].get("yaxis", {}), **axis}
        _unquote(drawn, subject, name)
        for trace in drawn["data"]:
            trace["marker"].update(size=6, line={"width": 0}, showscale=False)
        plots.append(Plot(label=f"{metric} over {name}", json=embedded(drawn), height_px=260))
    note = f"{metric} over each parameter; late trials are orange, early ones grey."
    if len(ranked) > MOST_SLICES:
        note += f" The {MOST_SLICES} most important of {len(ranked)} parameters."
    if len(valued) > MOST_IN_SLICE:
        note += f" At most {MOST_IN_SLICE} trials each, evenly chosen."
    return Section(key="slices", title=title, note=note, plots=tuple(plots), wide=True)


def _unquote(drawn: dict[str, Any], subject: Subject, name: str) -> None:
    """Optuna writes words as Python does, in quotes."""
    axis = next(t.distributions[name] for t in subject.frozen if name in t.distributions)
    words = {repr(choice): str(choice) for choice in getattr(axis, "choices", ())}
    if not words:
        return
    drawn["layout"]["xaxis"]["categoryarray"] = list(words.values())
    for trace in drawn["data"]:
        trace["x"] = [words[quoted] for quoted in trace["x"]]


def contour(subject: Subject, ranked: Sequence[str]) -> Section:
    """The first goal over the two most important parameters that trials had together."""
    from optuna.visualization import plot_contour

    title, goal, valued = "Contour", subject.goals[0], subject.valued()
    pair, both = _pair(valued, ranked)
    if not pair:
        why = subject.no_value() if not valued else "It takes two parameters, both with several values in one trial."
        return Section(key="contour", title=title, why=why)
    shown = thinned(subject, both, MOST_CELLS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = plot_contour(
            subject.only(shown), params=pair, target=measure(subject.goals, 0), target_name=goal.metric
        )
    drawn = dressed(figure)
    for trace in drawn["data"]:
        if trace["type"] == "contour":
            # With a measure of our own Optuna takes less for better, whatever the goal.
            trace.update(reversescale=goal.goal == "minimize", colorbar={"title": {"text": ""}, "thickness": 14})
        else:
            trace["marker"] = {"color": "#ffffff", "size": 5, "line": {"color": "#1a1f26", "width": 1}}
    note = f"{goal.metric} over the most important pair of parameters; orange is best, points are trials."
    plot = Plot(label=f"{goal.metric} over {pair[0]} and {pair[1]}", json=embedded(drawn))
    return Section(key="contour", title=title, note=note + partly(shown, both, "trial"), plots=(plot,))


def _pair(valued: Sequence[FrozenTrial], ranked: Sequence[str]) -> tuple[list[str], list[FrozenTrial]]:
    """Two numbers, if there are; between words there is nothing to interpolate."""
    numbers = {
        n for t in valued for n, v in t.params.items() if isinstance(v, (int, float)) and not isinstance(v, bool)
    }
    for one, other in sorted(combinations(ranked, 2), key=lambda pair: not numbers.issuperset(pair)):
        both = [t for t in valued if one in t.params and other in t.params]
        if all(len({t.params[name] for t in both}) > 1 for name in (one, other)) and len(both) > 3:
            return sorted((one, other)), both
    return [], []
