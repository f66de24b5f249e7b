"""Verbs that begin something: launch, plan, check, prove, notebook."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from launchers.errors import EXIT_DONE, EXIT_JOB_FAILED, EXIT_SITE, Problem, SpecError
from launchers.verbs.following import follow, log_line, until_end
from launchers.verbs.printed import print_json, print_lines, request_of, say

if TYPE_CHECKING:
    pass


def launch(arguments: argparse.Namespace) -> int:
    """Compose, check, freeze and submit a run; returns when it is queued, or here: when it has ended."""
    from launchers.launch import launch

    run, plan = launch(request_of(arguments), say)
    here = plan.launcher == "local"
    if not arguments.json:
        what = "started here" if here else "queued"
        print(f"{run.id}   {what}, {plan.members} member(s)   {run.path}", flush=True)
    if not here:
        from launchers.delivery.sync import prepare

        prepare(run, plan)
    if arguments.follow:
        from launchers.jobs.logs import Choice

        out = sys.stderr if arguments.json else sys.stdout
        follow(run, Choice(), lambda label, line: print(log_line(label, line), file=out, flush=True))
    if here or arguments.wait or arguments.follow:
        return until_end(run, arguments, timeout_s=None, cancel_on_interrupt=here)
    if arguments.json:
        print_json({"job": run.id, "run_dir": str(run.path), "members": plan.members})
    else:
        print(f"fairlead status {run.id}   fairlead logs --follow {run.id}   fairlead wait {run.id}")
    return EXIT_DONE


def plan(arguments: argparse.Namespace) -> int:
    """Print what would run, exactly: batch script, srun and apptainer arguments, mounts, environment."""
    from conf.document import to_document
    from launchers import contract, show
    from launchers.freeze import scripts
    from launchers.launch import checked, not_installed, planned
    from launchers.plan import units_of
    from launchers.queue import slurm
    from launchers.step import Start, step_of, told

    wanted = checked(request_of(arguments))
    for each in wanted.earlier:
        say(f"it begins with {each}")
    for hint in not_installed(wanted):
        say(hint)
    plans, member = planned(wanted), arguments.member
    if not 0 <= member < len(wanted.specs):
        what = f"there is no member {member}: the launch has {len(wanted.specs)}"
        raise SpecError([Problem(what, f"--member {member}", "members count from 0")])
    plan = plans[wanted.shape_of[member]]
    params = wanted.specs[member].params
    step = step_of(plan, member, 0, params)
    if not arguments.rank < (ranks := contract.ranks_of(step.cluster)):
        what = f"there is no rank {arguments.rank}: member {member} has {ranks}"
        raise SpecError([Problem(what, f"--rank {arguments.rank}", "ranks count from 0")])
    others = {unit.pool: unit for unit in reversed(units_of(plan)[1:])}.values() if len(plan.pools) > 1 else ()
    starts = ((unit.name, Start(None, unit)) for unit in reversed(list(others)))
    shown = show.Planned(
        plan=plan,
        scripts=scripts(wanted, plans) if plan.launcher == "slurm" else {},
        step=step,
        others=tuple((name, step_of(plan, member, 0, params, start)) for name, start in starts),
        member=member,
        rank=arguments.rank,
        environment=told(plan, member, arguments.rank, params),
        points=wanted.points,
        spec=to_document(wanted.specs[member]),
        finish=slurm.finish_script(plan, f"{plan.job}.finish") if plan.launcher == "slurm" else "",
        alike=len(plans) == 1,
    )
    if arguments.json:
        print_json(show.plan_document(shown))
    else:
        print_lines(show.plan_text(shown))
    return EXIT_DONE


def check(arguments: argparse.Namespace) -> int:
    """Check the YAML, then ask the real site: limits, image, folders, tracking store."""
    from launchers.launch import checked, planned
    from launchers.probe import Finding, probe

    wanted = checked(request_of(arguments))
    shapes = zip(wanted.shapes, planned(wanted), strict=True)
    begun = [Finding(True, f"it begins with {each}") for each in wanted.earlier]
    findings = [*begun, *dict.fromkeys(f for spec, plan in shapes for f in probe(spec, plan))]
    if arguments.json:
        print_json([vars(f) for f in findings])
    else:
        print_lines(f"{'ok  ' if f.good else 'BAD '} {f.text}" for f in findings)
    return EXIT_DONE if all(f.good for f in findings) else EXIT_SITE


def prove(arguments: argparse.Namespace) -> int:
    """Run a job twice, once with a chain of kills, and compare what both leave: the same, bit for bit?"""
    from launchers.proof.prove import Wish, prove
    from launchers.proof.show_proof import proof_text

    found = prove(request_of(arguments), Wish(arguments.kills, arguments.seed, arguments.keep), say)
    if arguments.json:
        print_json(found.document())
    else:
        print_lines(proof_text(found))
    return EXIT_DONE if found.holds else EXIT_JOB_FAILED


def notebook(arguments: argparse.Namespace) -> int:
    """Start JupyterLab as a job and say how to reach it; with the JOB of one that runs, say it again."""
    from launchers import notebook
    from launchers.run_folder import index

    words = arguments.overrides
    again = len(words) == 1 and "=" not in words[0]
    run = index.find(words[0]) if again else notebook.start(request_of(arguments), say)
    try:
        found = notebook.reached(run, say)
    except KeyboardInterrupt:
        say(f"\n{run.id} goes on: fairlead notebook {run.id}   end it: fairlead cancel {run.id}")
        raise
    if arguments.json:
        print_json(found)
    else:
        print_lines(notebook.text(found))
    return EXIT_DONE
