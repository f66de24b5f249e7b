"""Verbs for what jobs run in: image, pool; and shell, which goes into one that runs."""

from __future__ import annotations

import argparse

from launchers.errors import EXIT_DONE, EXIT_JOB_FAILED, Problem, SpecError
from launchers.verbs.printed import print_json, print_lines, request_of, say

KINDS = {"images": "image(s)", "layers": "layer(s)", "splits": "export(s) of splits"}
"""What `image prune` removes."""


def image(arguments: argparse.Namespace) -> int:
    """Build, pull, list or verify the images of container options, or remove those that nobody needs, and likewise
    installed sources and exported splits."""
    from launchers import images, show

    request = request_of(arguments)
    if arguments.action == "prune":
        return _prune(arguments)
    rows = images.act(arguments.action, arguments.name, request, say)
    if arguments.json:
        print_json(rows)
    else:
        print_lines(show.image_text(rows))
    if not rows:
        say("no images yet: fairlead image build pytorch-cpu")
    return EXIT_DONE


def _prune(arguments: argparse.Namespace) -> int:
    from launchers import images, layers, show, split_pruning
    from launchers.programs.layer_pruning import Limits

    words = [*([arguments.name] if arguments.name else []), *arguments.overrides]
    if wrong := next((word for word in words if "=" not in word), None):
        what = f"image prune takes no name, and {wrong!r} is one"
        raise SpecError([Problem(what, f"image prune {wrong}", "what nobody names goes; see: fairlead image prune")])
    request = request_of(argparse.Namespace(**{**vars(arguments), "overrides": words}))
    limits = Limits(days=arguments.days, gb=arguments.gb)
    done = {
        "images": images.prune(request, arguments.yes),
        "layers": layers.prune(request, limits, really=arguments.yes),
        "splits": split_pruning.prune(request, really=arguments.yes),
    }
    if arguments.json:
        print_json({**show.prune_document(done), "removed": arguments.yes})
    else:
        print_lines(line for what, each in done.items() for line in show.prune_text(each, KINDS[what]))
    return EXIT_DONE


def pool(arguments: argparse.Namespace) -> int:
    """Hold an allocation that jobs run in without queueing, list those there are, or end one."""
    from launchers import pools

    wish = pools.Wish(wait=arguments.wait, force=arguments.force)
    rows = pools.act(arguments.action, arguments.name, request_of(arguments), wish, say)
    if arguments.json:
        print_json(rows)
    elif not print_lines(pools.pool_text(rows)):
        say("no pools yet: fairlead pool up mine machine=cpu-small machine.nodes=2")
    return EXIT_DONE


def shell(arguments: argparse.Namespace) -> int:
    """Open a shell beside a running rank: in its container, with its mounts, environment (but for its secrets) and
    scratch folder.
    With `-- COMMAND ...` run that and return: 0 when it succeeded, 1 when not."""
    from launchers import shell
    from launchers.run_folder import index

    of = shell.beside(index.find(arguments.job), arguments.member, arguments.rank)
    command = tuple(arguments.command)
    if not command:
        say(f"member {of.member}, rank {of.rank} on {of.host}; leave with: exit")
    code, output = shell.enter(of, command, capture=arguments.json)
    if arguments.json:
        place = {"job": of.run.id, "member": of.member, "attempt": of.attempt.number, "rank": of.rank, "host": of.host}
        print_json({**place, "exit_code": code, "output": output})
    elif command and code:
        say(f"{command[0]} exited with status {code}")
    return EXIT_JOB_FAILED if command and code else EXIT_DONE
