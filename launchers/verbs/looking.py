"""Verbs that show what there is, and change nothing that runs: explain, status, list, logs, best, report."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import time
from typing import TYPE_CHECKING

from launchers.errors import EXIT_DONE, SiteError
from launchers.verbs.following import follow, log_line, log_row
from launchers.verbs.printed import print_json, print_lines, say, status_document, times

if TYPE_CHECKING:
    pass


def explain(arguments: argparse.Namespace) -> int:
    """What keys mean, what they may be and what they are where nothing is said; of a section all, and what there is to
    choose from. Without a key, what can be asked for."""
    from launchers import show_keys
    from launchers.config.explained import all_names, explained

    if not arguments.keys:
        names = all_names()
        print_json(names) if arguments.json else print_lines(show_keys.names_text(names))
        return EXIT_DONE
    found = [one for key in arguments.keys for one in explained(key)]
    print_json([dataclasses.asdict(one) for one in found]) if arguments.json else print_lines(show_keys.text(found))
    return EXIT_DONE


def status(arguments: argparse.Namespace) -> int:
    """What state a job and its members are in."""
    from launchers import show
    from launchers.jobs.spending import spending
    from launchers.jobs.status import SHOWN_MEMBERS, status_of
    from launchers.queue.repair import repair
    from launchers.run_folder import index
    from launchers.search.standing import standing_of

    run = index.find(arguments.job)
    repair(run)
    now = status_of(run, progress_of=None if arguments.json else SHOWN_MEMBERS)
    search = standing_of(run, now)
    if not arguments.json and len(now.members) > SHOWN_MEMBERS:  # thousands of ledgers take their time: see report
        print_lines(show.status_text(now, search))
        return EXIT_DONE
    used = spending(run, [m.index for m in now.members if m.state == "RUNNING"])
    if arguments.json:
        print_json({**status_document(now), "goodput": used.document(), **({"search": search} if search else {})})
    else:
        print_lines(show.status_text(now, search, used))
    return EXIT_DONE


def list_jobs(arguments: argparse.Namespace) -> int:
    """All jobs of this user, newest last."""
    from launchers import show
    from launchers.jobs.status import status_of
    from launchers.queue.repair import repair
    from launchers.run_folder import index

    statuses = []
    for run in index.all_runs():
        try:
            repair(run)
            statuses.append(status_of(run, progress_of=0))
        except SiteError as e:
            print(e, file=sys.stderr)
    if arguments.json:
        keys = ("job", "state", "run_dir")
        print_json([{**{k: getattr(s, k) for k in keys}, **times(s), "members": dict(s.counts)} for s in statuses])
    else:
        print_lines(show.list_text(statuses, time.time()))
    if not statuses:
        say("no jobs yet: fairlead launch experiment=digits")
    return EXIT_DONE


def logs(arguments: argparse.Namespace) -> int:
    """What the ranks of a job said."""
    from launchers.jobs import logs
    from launchers.run_folder import index

    run = index.find(arguments.job)
    choice = logs.Choice(arguments.member, arguments.rank)
    logs.must_be_there(run, choice)
    shown = functools.partial(log_row, choice) if arguments.json else log_line
    if arguments.follow and not arguments.errors:
        follow(run, choice, lambda label, line: print(shown(label, line), flush=True))
    elif arguments.errors:
        if not print_lines(
            json.dumps({"error": line}) if arguments.json else line for line in logs.errors(run, choice)
        ):
            say(f"no member has failed: fairlead status {run.id}")
    elif not print_lines(shown(label, line) for label, line in logs.lines(run, choice)):
        say(f"nothing was said yet: fairlead status {run.id}")
    return EXIT_DONE


def best(arguments: argparse.Namespace) -> int:
    """The winning values of a search or a grid, and a file and a command that run them again."""
    from launchers import show_search
    from launchers.run_folder import index
    from launchers.search.best import best

    found = best(index.find(arguments.job), arguments.member).document()
    if arguments.json:
        print_json(found)
    else:
        print_lines(show_search.best_text(found))
    return EXIT_DONE


def report(arguments: argparse.Namespace) -> int:
    """Say where a job's time and money went, and how long each rank takes alone; of a search or a grid, write a page
    that any browser shows: curves, importances, slots, every trial."""
    from launchers.jobs.ranks import ranks_of, ranks_text
    from launchers.jobs.spending import spending, spending_text
    from launchers.jobs.status import status_of
    from launchers.run_folder import index
    from launchers.search.report import report

    run = index.find(arguments.job)
    now = status_of(run, progress_of=0)
    used = spending(run, [m.index for m in now.members if m.state == "RUNNING"])
    ranks = ranks_of(run)
    path = report(run, arguments.output, used=used) if len(now.members) > 1 or arguments.output else None
    if arguments.json:
        each = {index: found.document() for index, found in ranks.items()}
        print_json({"job": run.id, "report": path and str(path), "goodput": used.document(), "ranks": each})
    else:
        print_lines([*spending_text(used), *ranks_text(ranks), *([str(path)] if path else [])])
        if not used.rank_s and not path:
            say(f"nothing has run yet that took time: fairlead status {run.id}")
    return EXIT_DONE
