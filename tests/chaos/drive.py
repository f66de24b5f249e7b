"""One case from its launch to its verdict: start, wait for the moment, strike, mend, retry, look at what is left."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import data, faults, left
from tests.chaos.cases import STEP_S, Case, Layout
from tests.chaos.faults import Live, until
from tests.chaos.lineage import Try, read
from tests.chaos.stored import Store
from tests.chaos.training import DROPOUT, Place, Training, Undisturbed
from tests.chaos.verdict import Row, Seen, verdict
from tests.cluster.served import HERE

ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
RETRIES = 3
LIMIT_S = 240
BORNE_S = 6
"""So long a fault lasts that the training may bear."""


@dataclass(frozen=True)
class Bench:
    """Where cases run: a folder for theirs, and what they are compared with."""

    folder: Path
    undisturbed: Undisturbed

    def run(self, case: Case, hosts: tuple[int, ...] = ()) -> Row:
        """The verdict on a case. Raises AssertionError when it could not be brought to its end."""
        dropout = DROPOUT if case.same_layout else 0.0
        training = Training(case.engine, case.layout, dropout, case.launcher, case.every)
        expected = self.undisturbed.weights(training)
        place = Place(self.folder / case.key)
        held = {"hold": case.kind.moment, "at_step": case.at_step, "struck": str(place.folder / "struck")}
        place.made({"step_s": STEP_S, "dropout": training.dropout, **held}, case.form)
        began = time.time()
        with contextlib.ExitStack() as undo:
            if case.fault == "disk full":
                undo.callback(faults.small_disk(place.work / "runs"))
            store = _store(case, place, undo)
            live = _started(case, place, hosts, (training.words(), store))
            undo.callback(live.mend)
            undo.callback(_end, live)
            await_moment(live)
            fault = faults.strike(live)
            if case.kind.bearable and not store:
                _bear(live)
            retries = _brought_to_end(live)
            leftovers = left.behind(live, began)
            problems = _delivered(live) if store else []
            seen = Seen(case, live.run, expected, fault, retries, (*leftovers, *problems))
            return verdict(seen)


def _store(case: Case, place: Place, undo: contextlib.ExitStack) -> Store | None:
    if case.fault != "store down":
        return None
    store = Store(place.folder / "store", HERE if case.launcher == "local" else faults.CONTROLLER)
    undo.callback(store.kill)
    return store


def _started(case: Case, place: Place, hosts: tuple[int, ...], what: tuple[tuple[str, ...], Store | None]) -> Live:
    words, store = what
    tracking = f"tracking.uri={store.uri}" if store else "tracking=none"
    on = [*data.words(case.form), *case.kind.words, f"site.scratch_dir={place.tmp}"]
    if case.container != "none":  # where the test's image is, and the folder in which the model waits
        binds = f"container.binds=[{{source: {place.folder}, writable: true}}]"
        on += [f"container={case.container}", binds, *(["site=testbed"] if case.launcher == "local" else [])]
    if case.launcher == "slurm":
        on.append(f"launcher.sbatch.nodelist='{_hosts(hosts, case.layout)}'")
    client = place.start(*words, tracking, *on)
    until(lambda: place.runs() or client.poll() not in (None, 0), LIMIT_S)
    assert place.runs(), (place.folder / "launch.log").read_text()
    (run,) = place.runs()
    return Live(case, place, run, hosts, client, store)


def await_moment(live: Live) -> None:
    """Return when the case's fault is due."""
    case = live.case
    due = {"step": _at_step, "evaluation": _in_evaluation, "checkpoint": _in_save}[case.kind.moment]

    def is_due() -> bool:
        now = _now(live)
        return due(now, case.at_step) and (case.every != "auto" or bool(now.marks("checkpoint_durable")))

    until(lambda: _ran_out(live) or is_due(), LIMIT_S, pause_s=0.01)
    assert not _ran_out(live), f"the training ended before the fault: {_now(live).outcome}"
    time.sleep(case.phase * STEP_S)


def _now(live: Live) -> Try:
    """The newest attempt."""
    return (read(live.member) or [Try([], [], {})])[-1]


def _ran_out(live: Live) -> bool:
    return _now(live).outcome.get("state") in ENDED


def _at_step(one: Try, step: int) -> bool:
    return any(made >= step for made, _ in one.steps)


def _in_evaluation(one: Try, step: int) -> bool:
    begun = [e["step"] for e in one.marks("evaluation_begin")]
    return bool(begun) and begun[-1] >= step and len(begun) > len(one.marks("evaluation_end"))


def _in_save(one: Try, step: int) -> bool:
    begun = {e["step"] for e in one.marks("checkpoint_begin") if e["step"] >= step}
    return bool(begun - {e["step"] for e in one.marks("checkpoint_durable")})


def _bear(live: Live) -> None:
    """Mend the site when it has shown; the program may have ended by then."""
    with contextlib.suppress(AssertionError):
        until(lambda: _ran_out(live) or _now(live).marks("checkpoint_failed"), BORNE_S)
    live.mend()


def _brought_to_end(live: Live) -> int:
    """How often it had to be retried by hand."""
    for retries in range(RETRIES + 1):
        end = _ended(live)
        if end["state"] == "SUCCEEDED":
            return retries
        live.mend()
        said = live.place.fairlead("retry", str(live.run), *_otherwise(live))
        assert said.returncode == 0, f"retry: {said.returncode}\n{said.stdout}\n{said.stderr}"
    raise AssertionError(f"not done after {RETRIES} retries: {[one.outcome for one in read(live.member)]}")


def _otherwise(live: Live) -> list[str]:
    """What the command says where a case goes on with another number of ranks."""
    case, back = live.case, live.case.back
    if case.same_layout:
        return []
    on = [f"launcher.sbatch.nodelist='{_hosts(live.hosts, back)}'"] if case.launcher == "slurm" else []
    return [f"machine.nodes={back.nodes}", f"machine.ranks_per_node={back.ranks_per_node}", *on]


def _hosts(hosts: tuple[int, ...], layout: Layout) -> str:
    return ",".join(f"n{host}" for host in hosts[: layout.nodes])


def _ended(live: Live) -> dict[str, Any]:
    said = live.place.fairlead("wait", str(live.run), "--json", timeout_s=2 * LIMIT_S)
    assert said.returncode in (0, 1), f"wait: {said.returncode}\n{said.stdout}\n{said.stderr}"
    document: dict[str, Any] = json.loads(said.stdout)
    return document


def _end(live: Live) -> None:
    """Leave nothing running of a case that went wrong."""
    (live.place.folder / "struck").touch()
    if live.client.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):  # what went wrong is to be seen, not this
            live.client.wait(20)
    left.end(live)


def _delivered(live: Live) -> list[str]:
    """What is wrong with the curve in the store, once it is back and was synced."""
    assert live.store is not None
    live.store.start()
    said = live.place.fairlead("sync", str(live.run))
    if said.returncode != 0:
        return [f"sync: {said.returncode} {said.stderr}"]
    curve = live.store.curve(json.loads((live.run / "tracking.json").read_text())["runs"]["0"])
    reported = [step for one in read(live.member) for step, _ in one.steps]
    return [] if curve == reported else [f"the store has steps {curve}, reported were {reported}"]
