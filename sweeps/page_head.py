"""The top of a report: whose search, whether it goes on, and four cards: best, trials, budget, slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from conf.sweep_schema import Goal, Search
from sweeps.drawing import STATE_COLOURS
from sweeps.facts import Facts
from sweeps.spelling import count, duration, escape, moment, number, share
from sweeps.timeline import Usage
from sweeps.trials import Trial, values_of

MOST_PHASES = 4
"""Besides the steps, on the card of the time."""
MOST_BEST = 5


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the cards are about."""

    search: Search
    goals: tuple[Goal, ...]
    trials: Sequence[Trial]
    facts: Facts
    best: tuple[int, ...]
    """Numbers: the best trial, or the Pareto set."""
    account: Usage | None


def head(shown: Shown) -> str:
    """Title, job, goals, and how the search stands."""
    search, facts = shown.search, shown.facts
    aims = ", ".join(f"{g.goal} <code>{escape(g.metric)}</code>" for g in shown.goals)
    how = search.algorithm.replace("_", " ") + (f", {search.pruning.rule} pruning" if search.pruning else "")
    return (
        f'<header><h1>{escape(facts.title)}</h1><p class="soft">Job {escape(facts.job)} · {aims} · {how} · '
        f"{moment(facts.now)}</p>{_standing(shown)}{_begun_with(facts)}</header>"
    )


def _standing(shown: Shown) -> str:
    if shown.facts.stopped:
        return f'<p class="stopped">Over: {escape(shown.facts.stopped)}</p>'
    running = sum(t.state == "RUNNING" for t in shown.trials)
    left = max(0, shown.search.trials - len(shown.trials))
    if not left and not running:
        return "<p>Over: every trial has ended.</p>"
    return f"<p>Going on: {count(running, 'trial')} running or waiting to go on, {left:,} to come.</p>"


def _begun_with(facts: Facts) -> str:
    """What it learnt from before its first trial; none of that is in what follows."""
    jobs = [f"{count(many, 'trial')} of {escape(job)}" for job, many in facts.begun_with.items()]
    return f'<p class="soft">It began with {" and ".join(jobs)}, which are not shown here.</p>' if jobs else ""


def cards(shown: Shown) -> str:
    """What one wants to know first."""
    parts = (_best(shown), _trials(shown), _budget(shown), _slots(shown.account), _time(shown.facts))
    return f'<div class="cards">{"".join(parts)}</div>'


def _card(title: str, body: str, kind: str = "card") -> str:
    return f'<section class="{kind}"><h2>{title}</h2>{body}</section>'


def _best(shown: Shown) -> str:
    known = {t.number: t for t in shown.trials}
    best = [known[number] for number in shown.best]
    title = "Best so far" if len(shown.goals) == 1 else f"Pareto set: {count(len(best), 'trial')}"
    if not best:
        kept = " and keeps all constraints" if shown.search.constraints else ""
        return _card(title, f"<p>No trial has ended with a value{kept} yet.</p>", "card lead")
    if len(shown.goals) == 1:
        said = values_of(best[0], shown.goals, shown.search.measurement) or ()
        which = f"<p>trial {best[0].number}{_short(best[0])}</p>"
        body = f'<p class="big">{", ".join(map(number, said))}</p>{which}{_point(best[0])}'
        return _card(title, body, "card lead")
    heads = "".join(f'<th scope="col">{escape(h)}</th>' for h in ("trial", *(g.metric for g in shown.goals)))
    rows = "".join(_pareto_row(shown, trial) for trial in best[:MOST_BEST])
    more = (
        f'<p class="soft">and {len(best) - MOST_BEST:,} more, marked in the table</p>' if len(best) > MOST_BEST else ""
    )
    table = f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    return _card(title, table + more, "card lead")


def _short(trial: Trial) -> str:
    """Where nothing has succeeded, what was cut short stands in."""
    return "" if trial.state == "SUCCEEDED" else f", {trial.state.lower()}"


def _point(trial: Trial) -> str:
    """As overrides, with every digit: what one copies to run it again."""
    pairs = "<br>".join(f"<code>{escape(f'{key}={said}')}</code>" for key, said in trial.point.items())
    return f"<p>{pairs}</p>"


def _pareto_row(shown: Shown, trial: Trial) -> str:
    said = values_of(trial, shown.goals, shown.search.measurement) or ()
    cells = "".join(f"<td>{number(v)}</td>" for v in said)
    return f'<tr><th scope="row">{trial.number}</th>{cells}</tr>'


def _trials(shown: Shown) -> str:
    counts = Counter(t.state for t in shown.trials)
    rows = "".join(
        f'<dt><span class="state {state}">{state.lower()}</span></dt><dd>{counts[state]:,}</dd>'
        for state in STATE_COLOURS
        if counts[state]
    )
    return _card("Trials", f"<dl>{_spent('asked', len(shown.trials), shown.search.trials)}{rows}</dl>")


def _budget(shown: Shown) -> str:
    limits, trials = shown.search.limits, shown.trials
    started = min((t.started for t in trials if t.started is not None), default=shown.facts.now)
    ends = [shown.facts.now if t.ended is None else t.ended for t in trials if t.started is not None]
    wall_min = (max(ends, default=started) - started) / 60
    failed = sum(t.state == "FAILED" for t in trials)
    rows = _spent("GPU-hours", sum(t.gpu_hours for t in trials), limits.gpu_hours)
    if limits.wall_min is None:
        rows += f"<dt>wall time</dt><dd>{duration(wall_min * 60)}</dd>"
    else:
        said = f"{duration(wall_min * 60)} of {duration(limits.wall_min * 60)}"
        rows += f"<dt>wall time</dt><dd>{said}</dd>{_meter(wall_min, limits.wall_min)}"
    if limits.max_failed is not None:
        rows += f"<dt>failed</dt><dd>{failed:,}, {limits.max_failed:,} allowed</dd>"
    if prices := shown.facts.prices:
        rows += f"<dt>cost</dt><dd>{number(sum(prices.values()))} {escape(shown.facts.currency)}</dd>"
    return _card("Budget used", f"<dl>{rows}</dl>")


def _spent(what: str, spent: float, limit: float | None) -> str:
    if limit is None:
        return f"<dt>{what}</dt><dd>{number(spent)}</dd>"
    return f"<dt>{what}</dt><dd>{number(spent)} of {number(limit)}</dd>{_meter(spent, limit)}"


def _meter(spent: float, limit: float) -> str:
    """Beside the same numbers in words, so nothing is read out twice."""
    part = min(1.0, spent / limit) if limit else 1.0
    return f'<div class="meter" aria-hidden="true"><i style="width:{100 * part:.1f}%"></i></div>'


def _slots(account: Usage | None) -> str:
    if account is None:
        return _card("Slots", "<p>No trial has started yet.</p>")
    rows = [("slots", f"{account.slots:,}"), ("idle", share(account.idle))]
    if account.tail_s > 0:
        rows += [("idle before the tail", share(account.idle_before_tail)), ("tail", duration(account.tail_s))]
    rows += [("lost attempts", f"{account.lost:,}"), ("lost GPU-hours", number(account.lost_gpu_hours))]
    return _card("Slots", "<dl>" + "".join(f"<dt>{name}</dt><dd>{said}</dd>" for name, said in rows) + "</dl>")


def _time(facts: Facts) -> str:
    """Goodput, and what took most of the rest."""
    whole = sum(facts.rank_s.values())
    if not whole:
        return ""
    others = sorted((item for item in facts.rank_s.items() if item[0] != "steps"), key=lambda item: -item[1])
    rows = [("kept steps", facts.rank_s.get("steps", 0.0)), *others[:MOST_PHASES]]
    said = "".join(f"<dt>{escape(phase.replace('_', ' '))}</dt><dd>{share(s / whole)}</dd>" for phase, s in rows)
    return _card("Where the time went", f"<dl>{said}<dt>rank-seconds</dt><dd>{number(round(whole))}</dd></dl>")
