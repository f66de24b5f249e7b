"""The report page in a real browser: every figure is drawn, nothing complains, nothing is fetched, headings sort."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.page import page
from tests.sweeps.browser import Look, browser, look
from tests.sweeps.reported import ACCURACY, BEGAN, LOSS, SAMPLE, SECONDS, facts_of, lost_once, trials_of
from tests.sweeps.test_page import HOSTILE, hostile_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser() is None, reason="no Chromium (apt-get install --no-install-recommends chromium)"),
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """One goal, conditional parameters, a lost attempt; at the width of a desk."""
    trials = trials_of(SAMPLE)
    facts = facts_of(parallel=8, attempts={10: lost_once(trials[10])})
    return look(page(SAMPLE, (ACCURACY,), trials, facts), tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Two goals, in the dark, at the width of a phone."""
    goals = (LOSS, SECONDS)
    text = page(replace(SAMPLE, objectives=goals), goals, trials_of(SAMPLE, goals), facts_of())
    return look(text, tmp_path_factory.mktemp("night"), width=390, dark=True)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Look:
    return look(hostile_page(), tmp_path_factory.mktemp("hostile"))


@pytest.fixture(params=["sample", "night", "hostile"])
def any_look(request: pytest.FixtureRequest) -> Look:
    found: Look = request.getfixturevalue(request.param)
    return found


def test_browser_any_page_every_figure_is_drawn(any_look: Look) -> None:
    assert len(any_look.figures()) >= 8
    for key, figure in any_look.figures().items():
        assert figure["svg"] >= 1, key
        assert figure["marks"] >= 1, key
        assert figure["texts"], key


def test_browser_any_page_says_nothing_on_the_console(any_look: Look) -> None:
    assert any_look.told["errors"] == []
    assert any_look.console == []


def test_browser_any_page_fetches_nothing_and_asks_for_nothing(any_look: Look) -> None:
    assert any_look.told["fetched"] == []
    assert any_look.told["violations"] == []


def test_browser_any_page_is_not_wider_than_the_window(any_look: Look) -> None:
    assert not any_look.told["sideways"]
    assert [key for key, figure in any_look.figures().items() if figure["wider"]] == []


def test_browser_sample_has_all_its_figures(sample: Look) -> None:
    single = {"history-0", "curves-0", "importances-0", "contour-0", "timeline-0", "parallel-0"}

    assert set(sample.figures()) == single | {f"slices-{i}" for i in range(len(SAMPLE.parameters))}
    assert sample.told["width"] == 1280
    shown = sample.figures()
    assert "LOST" in shown["timeline-0"]["texts"]
    assert "val/accuracy" in shown["history-0"]["texts"]


def test_browser_two_goals_have_their_front(night: Look) -> None:
    assert {"history-0", "history-1", "pareto-0"} <= set(night.figures())
    assert night.told["width"] == 390


@pytest.mark.parametrize("name", ["sample", "night"])
def test_browser_light_and_dark_can_be_read(name: str, request: pytest.FixtureRequest) -> None:
    seen: Look = request.getfixturevalue(name)
    paper = luminance(seen.told["paper"])

    assert (paper < 0.1) == (name == "night")
    inks = [seen.told["ink"], *(figure["ink"] for figure in seen.figures().values() if figure["ink"])]
    assert len(inks) > 5
    for ink in inks:
        low, high = sorted((paper, luminance(ink)))
        assert (high + 0.05) / (low + 0.05) > 4.5, ink


def luminance(colour: str) -> float:
    """Of the WCAG: 0 black, 1 white."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_browser_headings_sort_by_number_and_by_word(sample: Look) -> None:
    columns = sample.told["sorted"]

    assert list(columns)[:3] == ["trial", "state", "val/accuracy"]
    for name, ((up_said, up), (down_said, down)) in columns.items():
        assert (up_said, down_said) == ("ascending", "descending")
        there = [value for value in up if value != ""]
        assert up == there + [""] * (len(up) - len(there)), name
        assert down == sorted_as_shown(there)[::-1] + [""] * (len(up) - len(there)), name
        assert there == sorted_as_shown(there), name
    assert columns["trial"][0][1] == [str(i) for i in range(60)]
    assert "" in columns["optimizer.momentum"][0][1]


def sorted_as_shown(values: list[str]) -> list[str]:
    try:
        return sorted(values, key=float)
    except ValueError:
        return sorted(values, key=str.lower)


def test_browser_hostile_names_are_read_letter_by_letter(hostile: Look) -> None:
    assert hostile.told["title"] == f"{HOSTILE[3]}{HOSTILE[1]} · {HOSTILE[0]}"
    figures = hostile.figures()
    assert "<img src=x onerror=alert(2)>&'\"" in figures["history-0"]["texts"]
    assert set(HOSTILE) <= {text for figure in figures.values() for text in figure["texts"]}
    assert all(figure["links"] == 0 for figure in figures.values())


def test_browser_two_thousand_trials_are_drawn(tmp_path: Path) -> None:
    search = replace(SAMPLE, trials=2000)
    trials = trials_of(search, count=2000)

    seen = look(page(search, (ACCURACY,), trials, facts_of(now=BEGAN + 1e6)), tmp_path)

    assert [f for f in seen.told["figures"] if not f["svg"] or not f["marks"]] == []
    assert seen.told["errors"] == []
    assert len(seen.told["sorted"]["trial"][0][1]) >= 1000


def test_browser_no_trials_is_a_page_all_the_same(tmp_path: Path) -> None:
    seen = look(page(SAMPLE, (ACCURACY,), (), facts_of()), tmp_path)

    assert (seen.told["figures"], seen.told["errors"], seen.console) == ([], [], [])


def test_browser_something_slipped_in_can_neither_run_nor_call_home(tmp_path: Path, server: list[str]) -> None:
    """The page's own policy holds: what the other tests find clean is not clean by luck."""
    base, *_ = server
    intruder = f'<script>fetch("{base}/script")</script><img src="{base}/image" onerror="fetch(\'{base}/on\')">'
    text = page(SAMPLE, (ACCURACY,), (), facts_of()).replace("<main>", f"<main>{intruder}", 1)

    seen = look(text, tmp_path)

    assert len(server) == 1, server
    assert seen.console  # so an empty console means something in the other tests
    assert {said.split()[0] for said in seen.told["violations"]} >= {"script-src-elem", "img-src"}


@pytest.fixture
def server() -> Iterator[list[str]]:
    """An address, then every path that was asked for at it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        asked.append(f"http://127.0.0.1:{listening.server_port}")
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield asked
        listening.shutdown()
        thread.join()
