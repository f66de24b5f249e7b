"""The report page as text: what stands where, that nothing breaks out, that nothing is fetched.

Whether a browser draws it is test_page_browser.py's.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from conf.sweep_schema import Constraint, Goal, Limits, Parameter
from sweeps.page import page
from sweeps.page_skin import SCRIPT, STYLE
from sweeps.spelling import duration, number
from sweeps.trials import Report, Trial
from tests.sweeps.parsed import Parsed
from tests.sweeps.reported import ACCURACY, BEGAN, LOSS, SAMPLE, SECONDS, facts_of, search_of, trials_of

HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<a href='https://evil.example/'>x</a>",
    'it\'s "quoted" & <b>bold</b> \\ %{x}',
    "学習率/λ 🤖",
)


@pytest.fixture(scope="module")
def sample() -> Parsed:
    """A search with everything a single goal can have."""
    return Parsed(page(SAMPLE, (ACCURACY,), trials_of(SAMPLE), facts_of(parallel=8)))


def hostile_page() -> str:
    """Every text a user or a program can set says something nasty."""
    words, metric = HOSTILE, "<img src=x onerror=alert(2)>&'\""
    parameters = {
        words[0]: Parameter(type="categorical", values=words),
        words[1]: Parameter(type="double", min=0.0, max=1.0),
        words[2]: Parameter(type="double", min=1e-4, max=1.0, scale="log", when={words[0]: words[:3]}),
        "listed": Parameter(type="categorical", values=(["</script>", 1], "\ud800\x00\u202e", None)),
    }
    search = search_of(parameters, constraints=(Constraint(metric=words[3], max=0.5),))
    goals = (Goal(metric=metric, goal="maximize"),)
    trials = tuple(
        replace(t, error=words[i % 5], reports=tuple(_with_constraint(r, words[3], i) for r in t.reports))
        for i, t in enumerate(trials_of(search, goals))
    )
    facts = facts_of(job=words[0], title=words[3] + words[1], stopped=words[0], currency=words[1], prices={0: 1.5})
    return page(search, goals, trials, facts)


def _with_constraint(report: Report, metric: str, i: int) -> Report:
    return replace(report, metrics={**report.metrics, metric: float(i % 2)})


def test_page_sample_has_every_section_once_with_its_heading(sample: Parsed) -> None:
    ids = [attrs["id"] for tag, attrs in sample.tags if tag == "section" and "id" in attrs]
    links = [attrs["href"] for tag, attrs in sample.tags if tag == "a"]

    sections = ["history", "curves", "importances", "contour", "timeline", "parallel", "slices", "trials"]
    assert ids == sections
    assert links == [f"#{key}" for key in sections]
    every = [attrs["id"] for _, attrs in sample.tags if "id" in attrs]
    assert len(every) == len(set(every))
    labelled = {attrs["aria-labelledby"] for _, attrs in sample.tags if "aria-labelledby" in attrs}
    assert labelled <= set(every)


def test_page_sample_every_plot_has_its_data_and_a_label(sample: Parsed) -> None:
    places = [attrs for _, attrs in sample.tags if attrs.get("class") == "plot"]

    assert {place["data-figure"] for place in places} == {f"data-{key}" for key in sample.figures()}
    assert len(places) == 6 + len(SAMPLE.parameters)
    assert all(place["aria-label"] and place["role"] == "img" for place in places)


def test_page_same_arguments_same_page() -> None:
    arguments = (SAMPLE, (ACCURACY,), trials_of(SAMPLE, count=20), facts_of())

    assert page(*arguments) == page(*arguments)


def test_page_head_names_the_best_trial_with_its_whole_point(sample: Parsed) -> None:
    trials = trials_of(SAMPLE)
    best = max(
        (t for t in trials if t.state == "SUCCEEDED"), key=lambda t: max(r.metrics[ACCURACY.metric] for r in t.reports)
    )

    words = sample.words()

    assert f"trial {best.number}" in words
    assert all(f"{key}={value}" in words for key, value in best.point.items())


def test_page_head_says_counts_budget_and_slots() -> None:
    search = replace(SAMPLE, limits=Limits(gpu_hours=100, wall_min=600, max_failed=7), trials=200)
    trials = trials_of(search, count=40)
    failed = sum(t.state == "FAILED" for t in trials)

    words = Parsed(page(search, (ACCURACY,), trials, facts_of(parallel=8))).words()

    assert "40 of 200" in words
    assert f"{number(sum(t.gpu_hours for t in trials))} of 100" in words
    assert f"of {duration(36000)}".replace("\u00a0", " ") in words
    assert f"{failed}, 7 allowed" in words
    assert "Going on: 1 trial running or waiting to go on, 160 to come." in words


def test_page_nothing_is_fetched(sample: Parsed) -> None:
    for tag, attrs in sample.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form"), tag
        assert "src" not in attrs, (tag, attrs)
        assert attrs.get("href", "#").startswith("#"), attrs
        assert not [name for name in attrs if name.startswith("on")], attrs
    assert not re.search(r"@import|url\(|//", STYLE)
    assert not re.search(r"https?:|fetch|XMLHttp|import\(", SCRIPT)


def test_page_policy_allows_its_own_scripts_and_no_source_at_all(sample: Parsed) -> None:
    (policy,) = [a["content"] for t, a in sample.tags if a.get("http-equiv") == "Content-Security-Policy"]

    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == ["'none'"]
    assert all(source.startswith("'sha256-") for source in rules["script-src"])
    assert len(rules["script-src"]) == len([1 for attrs, _ in sample.scripts if "type" not in attrs]) == 2


def test_page_hostile_texts_stay_texts() -> None:
    text = hostile_page()

    parsed = Parsed(text)
    assert [t for t, _ in parsed.tags if t in ("img", "b")] == []
    assert all(attrs["href"].startswith("#") for tag, attrs in parsed.tags if tag == "a")
    assert len([1 for attrs, _ in parsed.scripts if "type" not in attrs]) == 2
    words = parsed.words()
    assert f"{HOSTILE[3]}{HOSTILE[1]}" in words
    assert f"Job {HOSTILE[0]} ·" in words
    assert all(text in words for text in HOSTILE)
    assert "\u202e" not in text and "\x00" not in text
    text.encode()


def test_page_hostile_texts_are_escaped_for_plotly_too() -> None:
    """Its labels know some HTML: links, bold, line breaks."""
    text = hostile_page()

    figures = Parsed(text).figures()
    assert figures.keys() >= {"history-0", "curves-0", "parallel-0", "slices-0", "contour-0", "timeline-0"}
    own = re.compile(r"</?(br|extra|b)>|<extra></extra>")
    for key, figure in figures.items():
        for said in _strings(figure):
            assert "<" not in own.sub("", said), (key, said)
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, flags=re.DOTALL)
    assert len(blocks) == len(figures)
    assert not any(re.search(r"[<>&\u2028]", block) for block in blocks)


def _strings(node: Any) -> list[str]:
    if isinstance(node, str):
        return [node]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [said for child in children for said in _strings(child)]


def test_page_no_trials_says_so_everywhere() -> None:
    parsed = Parsed(page(SAMPLE, (ACCURACY,), (), facts_of()))

    assert parsed.figures() == {}
    words = parsed.words()
    assert "No trial has ended with a value of val/accuracy yet." in words
    assert "No trial has asked for a point yet." in words
    assert "No trial has started yet." in words
    assert "0 of 60" in words


def test_page_all_failed_has_a_timeline_and_the_error_and_no_value() -> None:
    trials = [
        replace(t, state="FAILED", reports=(), error="ValueError: no such file") for t in trials_of(SAMPLE, count=12)
    ]

    parsed = Parsed(page(SAMPLE, (ACCURACY,), trials, facts_of(stopped="12 trials in a row failed the same way")))

    assert list(parsed.figures()) == ["timeline-0"]
    words = parsed.words()
    assert "Over: 12 trials in a row failed the same way" in words
    assert words.count("ValueError: no such file") == 12
    assert "No trial has ended with a value yet." in words


def test_page_one_trial_is_drawn_where_one_is_enough() -> None:
    trials = [t for t in trials_of(SAMPLE, count=20) if t.state == "SUCCEEDED"][:1]

    parsed = Parsed(page(SAMPLE, (ACCURACY,), trials, facts_of()))

    assert list(parsed.figures()) == ["history-0", "curves-0", "timeline-0"]
    words = parsed.words()
    assert "1 trial ended with a value; importances need 10." in words
    assert "One trial has ended with a value; it takes two." in words


def test_page_one_parameter_says_what_cannot_be_compared() -> None:
    search = search_of({"optimizer.lr": Parameter(type="double", min=1e-5, max=0.1, scale="log")})

    parsed = Parsed(page(search, (ACCURACY,), trials_of(search), facts_of()))

    assert list(parsed.figures()) == ["history-0", "curves-0", "timeline-0", "slices-0"]
    assert "Fewer than two parameters varied: there is nothing to compare." in parsed.words()


def test_page_equal_values_say_that_importances_cannot_be_told() -> None:
    same = Report(step=1, metrics={ACCURACY.metric: 0.5})
    trials = [replace(t, reports=(same,)) for t in trials_of(SAMPLE)]

    parsed = Parsed(page(SAMPLE, (ACCURACY,), trials, facts_of()))

    assert "importances-0" not in parsed.figures()
    assert "too much alike" in parsed.words()
    assert "No trial has reported val/accuracy at more than one step." in parsed.words()


def test_page_two_goals_show_the_pareto_set_and_mark_it_in_the_table() -> None:
    goals = (LOSS, SECONDS)
    search = replace(SAMPLE, objectives=goals)
    trials = trials_of(search, goals)

    parsed = Parsed(page(search, goals, trials, facts_of()))

    figures = parsed.figures()
    assert figures.keys() >= {"history-0", "history-1", "pareto-0"}
    front = next(t for t in figures["pareto-0"]["data"] if t["hovertemplate"].endswith("Best Trial</extra>"))
    marked = [1 for tag, attrs in parsed.tags if tag == "tr" and attrs.get("class") == "best"]
    assert len(front["text"]) == len(marked) > 1
    assert f"Pareto set: {len(marked)} trials" in parsed.words()


def test_page_three_goals_show_each_pair_and_four_say_why_not() -> None:
    three = (LOSS, SECONDS, ACCURACY)
    four = (*three, Goal(metric="memory", goal="minimize"))

    drawn = Parsed(page(SAMPLE, three, trials_of(SAMPLE, three), facts_of()))
    told = Parsed(page(SAMPLE, four, trials_of(SAMPLE, four), facts_of()))

    assert [key for key in drawn.figures() if key.startswith("pareto")] == ["pareto-0", "pareto-1", "pareto-2"]
    assert [key for key in told.figures() if key.startswith("pareto")] == []
    assert "With 4 goals" in told.words()


def test_page_several_goals_importances_know_which_way_is_better() -> None:
    """The same search with a goal turned round has the same importances."""
    other = Goal(metric="other", goal="minimize")

    def importances(sign: int, goal: Goal) -> Any:
        trials = [
            replace(
                t,
                reports=(
                    Report(step=1, metrics={goal.metric: sign * t.point["model.width"], "other": 1.0 * t.number}),
                ),
            )
            for t in trials_of(SAMPLE)
        ]
        return Parsed(page(SAMPLE, (goal, other), trials, facts_of())).figures()["importances-0"]["data"][0]["x"]

    assert importances(1, replace(ACCURACY)) == importances(-1, LOSS)


def test_page_conditional_parameter_is_empty_where_it_is_not_there(sample: Parsed) -> None:
    assert any("optimizer.momentum" not in t.point for t in trials_of(SAMPLE))
    assert "A trial without a parameter passes through None." in sample.words()
    heads = sample.figures()["parallel-0"]["layout"]["xaxis"]["ticktext"]
    assert "optimizer<br>momentum" in heads


def test_page_constraint_broken_by_the_best_value_is_not_the_best() -> None:
    search = replace(SAMPLE, constraints=(Constraint(metric="memory", max=10),))
    trials = [
        replace(t, reports=tuple(replace(r, metrics={**r.metrics, "memory": 20.0}) for r in t.reports))
        if t.state == "SUCCEEDED"
        else t
        for t in trials_of(search, count=30)
    ]

    words = Parsed(page(search, (ACCURACY,), trials, facts_of())).words()

    assert "Pale points break a constraint." in words
    assert "No trial has ended with a value and keeps all constraints yet." in words


def test_page_numbers_with_gaps_keep_their_numbers() -> None:
    """Elements start in any order: trial 40 may have asked before trial 7."""
    kept = [t for t in trials_of(SAMPLE) if t.number % 3 == 1]

    parsed = Parsed(page(SAMPLE, (ACCURACY,), kept, facts_of()))

    (points, *_) = parsed.figures()["history-0"]["data"]
    assert points["x"] == [t.number for t in kept if t.state == "SUCCEEDED"]


def test_page_history_line_ends_at_the_best_though_a_timed_out_trial_was_better() -> None:
    trials = list(trials_of(SAMPLE))
    reports = (Report(step=1, metrics={ACCURACY.metric: 0.999}),)
    trials[5] = replace(trials[5], state="TIMEOUT", reports=reports)

    parsed = Parsed(page(SAMPLE, (ACCURACY,), trials, facts_of()))

    line = next(t for t in parsed.figures()["history-0"]["data"] if t["name"] == "best so far")
    assert line["y"][-1] < 0.999
    assert f"Best so far{number(line['y'][-1])}" in parsed.words()


def test_page_nothing_succeeded_shows_what_was_cut_short_and_says_so() -> None:
    trials = [replace(t, state="PRUNED") for t in trials_of(SAMPLE, count=10)]

    words = Parsed(page(SAMPLE, (ACCURACY,), trials, facts_of())).words()

    assert re.search(r"trial \d, pruned", words)
    assert "No trial has ended with a value of val/accuracy yet." in words


def test_page_values_that_are_no_numbers_do_not_stop_it() -> None:
    trials = [
        replace(t, reports=(*t.reports, Report(step=99, metrics={ACCURACY.metric: float("nan")})))
        for t in trials_of(SAMPLE, count=20)
    ] + [
        Trial(
            number=20,
            point={"optimizer": "adamw", "optimizer.lr": 0.01, "model.width": 20, "batch": 16},
            state="INFEASIBLE",
            asked=BEGAN,
            started=BEGAN,
            ended=BEGAN + 9,
            reports=tuple(Report(step=s, metrics={ACCURACY.metric: float("inf")}) for s in (1, 2)),
        )
    ]

    figures = Parsed(page(SAMPLE, (ACCURACY,), trials, facts_of())).figures()

    assert "NaN" not in json.dumps(figures) and "Infinity" not in json.dumps(figures)


def test_page_two_thousand_trials_stay_light_and_the_best_is_in_the_table() -> None:
    search = replace(SAMPLE, trials=2000)
    trials = trials_of(search, count=2000, steps=30)
    best = max(
        (t for t in trials if t.state == "SUCCEEDED"), key=lambda t: max(r.metrics[ACCURACY.metric] for r in t.reports)
    )

    text = page(search, (ACCURACY,), trials, facts_of(now=BEGAN + 1e6))

    assert len(text.encode()) < 8_000_000
    parsed = Parsed(text)
    body = [attrs for tag, attrs in parsed.tags if tag == "th" and attrs.get("scope") == "row"]
    assert str(best.number) in [attrs["data-v"] for attrs in body]
    assert 1000 <= len(body) <= 1001
    assert "The first 1,000 of 2,000 trials" in parsed.words()
    assert len(parsed.figures()["curves-0"]["data"]) <= 201


def test_page_table_headings_name_columns_and_rows(sample: Parsed) -> None:
    heads = [attrs for tag, attrs in sample.tags if tag == "th" and attrs.get("scope") == "col"]
    buttons = [attrs for tag, attrs in sample.tags if tag == "button"]

    assert len(heads) == len(buttons)
    assert all(head["aria-sort"] == "none" for head in heads)
    assert "caption" in [tag for tag, _ in sample.tags]


def test_page_prices_are_shown_only_where_there_are_some(sample: Parsed) -> None:
    priced = Parsed(page(SAMPLE, (ACCURACY,), trials_of(SAMPLE), facts_of(currency="EUR", prices={0: 1.25, 1: 2.5})))

    assert "cost EUR" in priced.words() and "3.75 EUR" in priced.words()
    assert "cost" not in sample.words()
