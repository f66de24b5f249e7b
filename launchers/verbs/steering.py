"""Verbs that change what becomes of a job: wait for it, cancel, retry, extend, sync."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from launchers.errors import EXIT_DONE, EXIT_SITE
from launchers.verbs.following import until_end
from launchers.verbs.printed import print_json, print_lines, say

if TYPE_CHECKING:
    pass


def wait(arguments: argparse.Namespace) -> int:
    """Wait until a job has ended; exit code 0 when every member succeeded (a search: when one did), 1 when not."""
    from launchers.run_folder import index

    return until_end(index.find(arguments.job), arguments, arguments.timeout_s, cancel_on_interrupt=False)


def cancel(arguments: argparse.Namespace) -> int:
    """End a job; what its members saved stays."""
    from launchers.jobs.cancel import cancel
    from launchers.run_folder import index

    run = index.find(arguments.job)
    asked = cancel(run)
    text = f"{run.id} is being cancelled" if asked else f"{run.id} had already ended"
    print(json.dumps({"job": run.id, "cancelled": asked}) if arguments.json else text)
    return EXIT_DONE


def retry(arguments: argparse.Namespace) -> int:
    """Run again the members that did not succeed; they go on from their checkpoints. With overrides: on another
    machine, with another number of ranks, in another container, or under other limits."""
    from launchers.jobs.retry import retry
    from launchers.run_folder import index

    run, wish = index.find(arguments.job), None
    if arguments.overrides:
        from launchers.jobs.changed import Wish

        command = ("fairlead", *arguments.words)
        wish = Wish(overrides=tuple(arguments.overrides), config_dirs=tuple(arguments.config_dir), command=command)
    members = retry(run, arguments.member, wish, say)
    which = f"member {members[0]} runs" if len(members) == 1 else f"{len(members)} members run"
    text = f"{run.id}   {which} again, from the newest checkpoint if there is one: fairlead wait {run.id}"
    print(json.dumps({"job": run.id, "members": members}) if arguments.json else text)
    return EXIT_DONE


def extend(arguments: argparse.Namespace) -> int:
    """Give a search more trials, time or GPU-hours, whether it runs or has ended."""
    from launchers import show_search
    from launchers.run_folder import index
    from launchers.search.extend import Wish, extend

    run = index.find(arguments.job)
    names = ("trials", "wall_min", "gpu_hours", "max_failed", "again")
    said = extend(run, Wish(**{name: getattr(arguments, name) for name in names})).document()
    if arguments.json:
        print_json(said)
    else:
        print(show_search.extend_text(said))
    return EXIT_DONE


def sync(arguments: argparse.Namespace) -> int:
    """Deliver what a job measured to the tracking store; what was delivered before is not sent again."""
    from launchers import show
    from launchers.delivery.sync import sync
    from launchers.run_folder import index

    said = sync(index.find(arguments.job))
    if arguments.json:
        print_json(said)
    else:
        print_lines(show.sync_text(said))
    return EXIT_SITE if said["problem"] else EXIT_DONE
