"""A search as one HTML page: head, figures, timeline of slots, table of trials. It needs nothing but a browser.

Pure: what time it is and how the trials were run comes in as `Facts`. What each part shows is its own file's.
"""

from __future__ import annotations

from collections.abc import Sequence

from conf.sweep_schema import Goal, Search
from sweeps.best import best, pareto
from sweeps.drawing import Plot, Section
from sweeps.facts import Facts
from sweeps.page_head import Shown, cards, head
from sweeps.page_skin import SCRIPT, STYLE, policy
from sweeps.slots_figure import timeline
from sweeps.space_figures import contour, importances, parallel, slices
from sweeps.spelling import escape, moment
from sweeps.subject import Subject, subject_of
from sweeps.timeline import Usage, usage
from sweeps.trials import Trial
from sweeps.trials_table import table
from sweeps.value_figures import curves, history, pareto_set


def page(search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial], facts: Facts) -> str:
    """The whole page. It asks for nothing over the network, and a policy in it has the browser refuse to.

    Names, values and errors may hold anything: they are shown letter by letter. A figure that cannot be drawn
    is a sentence that says why.
    """
    from plotly.offline import get_plotlyjs

    winner = best(search, goals, trials)
    front = pareto(search, goals, trials) if len(goals) > 1 else [winner] if winner else []
    leading = tuple(t.number for t in front)
    over = bool(facts.stopped) or len(trials) >= search.trials
    account = usage(trials, facts, over)
    shown = Shown(search=search, goals=goals, trials=trials, facts=facts, best=leading, account=account)
    sections = _sections(subject_of(search, goals, trials, leading), trials, facts, account)
    library = get_plotlyjs()
    title = escape(facts.title)
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy(library, SCRIPT)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title} · {escape(facts.job)}</title><style>{STYLE}</style></head><body>",
            head(shown),
            cards(shown),
            "<noscript><p class='why'>The figures need JavaScript.</p></noscript>",
            _links(sections),
            f'<main><div class="figures">{"".join(map(_section, sections))}</div>',
            '<section id="trials" aria-labelledby="trials-title"><h2 id="trials-title">Trials</h2>',
            table(search, goals, trials, facts, frozenset(leading)),
            f"</section></main><footer>Written {moment(facts.now)} by fairlead; figures by Optuna and Plotly.</footer>",
            f"<script>{library}</script><script>{SCRIPT}</script></body></html>\n",
        )
    )


def _sections(subject: Subject, trials: Sequence[Trial], facts: Facts, account: Usage | None) -> tuple[Section, ...]:
    important, ranked = importances(subject)
    fronts = (pareto_set(subject),) if len(subject.goals) > 1 else ()
    return (
        history(subject),
        *fronts,
        curves(subject),
        important,
        contour(subject, ranked),
        timeline(trials, facts, account),
        parallel(subject),
        slices(subject, ranked),
    )


def _links(sections: Sequence[Section]) -> str:
    targets = [(s.key, s.title) for s in sections] + [("trials", "Trials")]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title in targets)
    return f'<nav aria-label="On this page">{links}</nav>'


def _section(section: Section) -> str:
    heading = f"{section.key}-title"
    parts = [f'<h2 id="{heading}">{section.title}</h2>']
    if section.note:
        parts.append(f'<p class="note">{section.note}</p>')
    if section.why:
        parts.append(f'<p class="why">{section.why}</p>')
    plots = "".join(_plot(f"{section.key}-{i}", plot) for i, plot in enumerate(section.plots))
    parts.append(f'<div class="many">{plots}</div>' if len(section.plots) > 1 else plots)
    wide = ' class="wide"' if section.wide else ""
    return f'<section id="{section.key}" aria-labelledby="{heading}"{wide}>{"".join(parts)}</section>'


def _plot(key: str, plot: Plot) -> str:
    size = f"height:{plot.height_px}px" + (f";min-width:{plot.min_width_px}px" if plot.min_width_px else "")
    place = (
        f'<div class="plot" data-figure="data-{key}" role="img" aria-label="{plot.label}" style="{size}"></div>'
        f'<script type="application/json" id="data-{key}">{plot.json}</script>'
    )
    if plot.min_width_px:
        return f'<div class="scroll" role="region" aria-label="{plot.label}" tabindex="0">{place}</div>'
    return place
