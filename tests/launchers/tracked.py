"""Run folders as the launcher and the trainer leave them, written by hand, and a look into the store."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conf import job_schema, machine_schema, schema, train_schema
from conf.document import to_document
from launchers.delivery.store import opened, sqlite_uri
from launchers.delivery.tracking import recorded
from launchers.plan import plans_document
from launchers.planning import Facts, plan_of
from launchers.run_folder.record import Run, make_private, write_json

T0_MS = 1_800_000_000_000


def spec_of(**tracking: Any) -> schema.Spec:
    return schema.Spec(
        name="digits",
        seed=7,
        job=job_schema.Job(kind="trainer"),
        pools=(
            schema.Pool(
                machine=machine_schema.Machine(nodes=2, mem_gb=4, max_cpus=8, time_limit_min=10),
                accelerator=machine_schema.Accelerator(kind="none"),
                container=machine_schema.Container(runtime="none"),
            ),
        ),
        data=schema.Component(kind="digits"),
        engine=schema.Component(kind="ddp"),
        model=schema.Component(kind="mlp", options={"width": 16, "sizes": [1, 2]}),
        optimizer=schema.Component(kind="adamw", options={"lr": 0.001, "note": None}),
        train=train_schema.Train(batch_size=64, epochs=2),
        objective=schema.Objective(metric="val/accuracy", goal="maximize"),
        tracking=schema.Tracking(**{"kind": "mlflow", **tracking}),
        launcher=schema.Launcher(kind="local"),
        site=schema.Site(name="here"),
    )


def put_our_code(folder: Path) -> None:
    """In a run folder that was not frozen, our packages where a rank's script looks for them."""
    (folder / "code").mkdir(parents=True, exist_ok=True)
    (folder / "code" / "fairlead").symlink_to(Path(__file__).parents[2])


def make_run(
    folder: Path,
    points: Sequence[Mapping[str, Any]] = ({},),
    *,
    job: str = "digits-1",
    fresh: bool = False,
    **tracking: Any,
) -> Run:
    """A frozen run whose members have started. Unless `fresh`, the default store's empty database is there already."""
    run = Run(folder / job)
    make_private(run.path / "members")
    whole = spec_of(**tracking)
    spec = to_document(whole)
    facts = Facts(job=run.id, run_dir=run.path, python=sys.executable, members=len(points))
    write_json(run.plan, plans_document([plan_of(whole, facts)]))
    rows = []
    for i, point in enumerate(points):
        model = {**spec["model"], "options": {**spec["model"]["options"], **_options(point)}}
        rows.append({"index": i, "point": dict(point), "sections": {"model": model} if point else {}})
        make_private(run.member(i).path)
    write_json(run.spec, spec)
    run.members_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    origin = {
        "command": ["fairlead", "launch", "note=a b"],
        "user": "ada",
        "git": {"revision": "c0ffee", "dirty": True},
        "spec_digest": "sha256:5bec",
        "image": {"path": "/i.sif", "digest": "sha256:1ace"},
    }
    write_json(run.provenance, origin)
    if not fresh and not (folder / "mlflow.db").exists():
        shutil.copyfile(empty_database(), folder / "mlflow.db")
    return run


@functools.cache
def empty_database() -> Path:
    database = Path(tempfile.mkdtemp(), "mlflow.db")
    with opened(sqlite_uri(database), "none", create=True):
        return database


def _options(point: Mapping[str, Any]) -> dict[str, Any]:
    return {k.removeprefix("model."): v for k, v in point.items()}


def spool(
    run: Run, lines: Iterable[Mapping[str, Any]], member: int = 0, attempt: int = 1, name: str = "metrics.jsonl"
) -> Path:
    """Append lines to a file of an attempt."""
    path = make_private(run.member(member).path / f"attempt-{attempt}") / name
    with path.open("a") as f:
        f.writelines(json.dumps(line) + "\n" for line in lines)
    return path


def steps(numbers: Iterable[int], **metrics: Any) -> list[dict[str, Any]]:
    """Spool lines of training steps; the loss tells the step."""
    return [{"t": T0_MS + 1000 * n, "step": n, "metrics": {"train/loss": 1 / (n + 1), **metrics}} for n in numbers]


def dataset(context: str = "train", digest: str = "d1") -> dict[str, Any]:
    of = {"name": "digits", "digest": digest, "context": context, "rows": 10, "source": "sklearn"}
    return {"t": T0_MS, "dataset": of}


def end(run: Run, member: int = 0, attempt: int = 1, state: str = "SUCCEEDED", **metrics: Any) -> None:
    """What the supervisor and a trainer that succeeded write last."""
    path = make_private(run.member(member).path / f"attempt-{attempt}")
    (path / "rank-0.log").write_text("hello\n")
    if state == "SUCCEEDED":
        write_json(path / "result.json", {"metrics": metrics, "steps": 9})
    outcome = {"state": state, "cause": "succeeded", "message": "", "ended": T0_MS / 1000 + 60}
    write_json(path / "outcome.json", outcome)


def fake_export(run: Run, member: int = 0, content: bytes = b"weights") -> None:
    """An export whose files are not what torch writes: enough to register, not to load."""
    folder = make_private(run.member(member).model)
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    for name in ("model.pt2", "model.safetensors"):
        (folder / name).write_bytes(content)
    write_json(folder / "card.json", card({"model.pt2": digest, "model.safetensors": digest}))


def card(files: Mapping[str, str], shape: Sequence[int] = (-1, 4), classes: int = 3) -> dict[str, Any]:
    return {
        "format": 1,
        "inputs": [{"name": "input", "dtype": "float32", "shape": list(shape)}],
        "outputs": [{"name": "output", "dtype": "float32", "shape": [-1, classes]}],
        "input_example": [[0.0] * shape[-1]] * 2,
        "model": {"kind": "mlp", "options": {}},
        "parameters": 15,
        "torch": "2.13.0+cpu",
        "files": dict(files),
        "metrics": {"val/accuracy": 0.9},
        "task": "classification",
    }


def history(run: Run, key: str, member: int = 0) -> list[tuple[int, int, float]]:
    """Step, time and value of every point in the store, by step."""
    tracking = recorded(run)
    assert tracking is not None
    with opened(tracking.uri, run.id) as client:
        found = client.get_metric_history(tracking.runs[member], key)
    return sorted((m.step, m.timestamp, m.value) for m in found)


def dies_at(number: int, act: Callable[[], object], events: Collection[str] = ("sqlite3.connect",)) -> bool:
    """Do it in a process that is killed -9 at the n-th of these audit events; False if it ended before."""
    import mlflow  # noqa: F401  (before the fork, so that each child is quick)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python >= 3.12, about threads
        child = os.fork()
    if child == 0:
        left = [number]

        def on_event(event: str, _arguments: object) -> None:
            if event in events:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(on_event)
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
