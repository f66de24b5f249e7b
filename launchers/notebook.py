"""The verb `notebook`: JupyterLab as a job of ours, and how to reach it.

It is a job like any other, of a source of ours (programs/notebook), so that JupyterLab is installed once beside an
image that lacks it: run folder, status, cancel and time limit are those of every job. The folder that the command was
given in is what the notebook sees, and may write.
"""

from __future__ import annotations

import dataclasses
import getpass
import shlex
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from conf import machine_schema, schema
from launchers.errors import JobFailed, Problem, SiteError, SpecError
from launchers.jobs.status import TERMINAL, status_of
from launchers.launch import Request, checked, submit
from launchers.run_folder.record import Run, read_json

OURS = (
    "job=module", "job.source=pkg://launchers/programs/notebook", "job.module=fairlead_notebook", "job.parameters=none",
    "job.metrics.kind=none", "job.max_requeues=0", "tracking=none", "name=notebook",
)  # fmt: skip
POLL_S = 0.3
ASK_EVERY_S = 3.0
START_S = 300.0
"""How long the server may take once its job runs."""


def start(request: Request, say: Callable[[str], None]) -> Run:
    """Launch it. Raises SpecError as `launch` does, and where what was asked for is not one job on one node."""
    wanted = checked(dataclasses.replace(request, overrides=(*OURS, *request.overrides)))
    spec = wanted.specs[0]
    if len(wanted.specs) > 1 or spec.pools[0].machine.nodes > 1:
        what = f"{len(wanted.specs)} member(s) on {spec.pools[0].machine.nodes} node(s): a notebook is one, on one node"
        raise SpecError([Problem(what, f"overrides {' '.join(request.overrides)}", "leave sweeps and nodes out")])
    run, _ = submit(dataclasses.replace(wanted, specs=(_with_server(spec, Path.cwd()),)), say)
    return run


def reached(run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    """How to reach a notebook, as soon as it can be.

    Raises JobFailed when its job has ended, SiteError when it runs and its server does not begin within START_S.
    """
    asked, runs_since, last = -ASK_EVERY_S, None, ""
    while (found := _place(run)) is None:
        if time.monotonic() - asked >= ASK_EVERY_S:
            asked, now = time.monotonic(), status_of(run)
            if now.state in TERMINAL:
                member = now.members[0]
                raise JobFailed(f"{run.id} has ended: {member.cause or now.state}: {member.message}\n  do     "
                                f"fairlead logs {run.id}")  # fmt: skip
            if (said := f"{run.id} is {now.state}{f' ({now.reason})' if now.reason else ''}") != last:
                last = said
                say(said)
            runs_since = runs_since or (time.monotonic() if now.state == "RUNNING" else None)
        if runs_since is not None and time.monotonic() - runs_since > START_S:
            do = f"fairlead logs {run.id}   end it: fairlead cancel {run.id}"
            raise SiteError(f"the server has not begun within {START_S:g} s", where=f"job {run.id}", do=do)
        time.sleep(POLL_S)
    if status_of(run, progress_of=0).state in TERMINAL:
        raise JobFailed(f"{run.id} has ended")
    return found


def text(found: Mapping[str, Any]) -> list[str]:
    """What a person does now."""
    return [
        f"{found['job']}   on {found['host']}, for {found['time_limit_min']} min at most",
        f"  tunnel  {found['tunnel']}   (on your own machine, if that is another)",
        f"  open    {found['url']}",
        f"  end     fairlead cancel {found['job']}",
        f"  sees    {found['folder']} (may write there)",
        f"  again   fairlead notebook {found['job']}   (the token is in {found['token_file']}, for you alone)",
    ]


def _with_server(spec: schema.Spec, folder: Path) -> schema.Spec:
    """The spec whose program is the server, and whose container sees the folder."""
    chief = spec.pools[0]
    reach = "loopback" if spec.launcher.kind == "local" else "node"
    job = dataclasses.replace(spec.job, arguments=(reach, str(folder)))
    machine = dataclasses.replace(chief.machine, ranks_per_node=1)
    box = chief.container
    if box.runtime != "none":
        box = dataclasses.replace(box, binds=(*box.binds, machine_schema.Bind(source=str(folder), writable=True)))
    pool = dataclasses.replace(chief, container=box, machine=machine)
    return dataclasses.replace(spec, job=job, pools=(pool,))


def _place(run: Run) -> dict[str, Any] | None:
    """Where the newest attempt's server listens; None before it does."""
    attempts = run.member(0).attempts()
    folder = attempts[-1].path / "notebook" if attempts else None
    if folder is None or attempts[-1].outcome.exists() or not list(folder.glob("runtime/jpserver-*.json")):
        return None
    place, spec = read_json(folder / "place.json"), read_json(run.spec)
    here = f"{getpass.getuser()}@{socket.gethostname()}"
    port, address = place["port"], place["address"]
    tunnel = ["ssh", "-N", "-L", f"{port}:{address}:{port}", here]
    direct = f"http://127.0.0.1:{port}/lab?{urlencode({'token': place['token']})}"
    return {
        "job": run.id,
        "host": place["host"],
        "address": address,
        "port": port,
        "url": direct,
        "tunnel": shlex.join(tunnel),
        "token_file": str(folder / "place.json"),
        "folder": spec["job"]["arguments"][-1],
        "time_limit_min": spec["pools"][0]["machine"]["time_limit_min"],
    }
