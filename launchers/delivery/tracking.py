"""Which runs of the tracking store belong to a job: made once, found again ever after.

One member is one run; several are a parent with a child each. Ids are kept in tracking.json; a crash
before that is written costs nothing, because runs carry the job's and the member's name as tags and are
looked for first. How a store is opened is store.py's, what is delivered into the runs forward.py's.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf import schema
from conf.document import from_document
from conf.sweep_schema import Search
from launchers.delivery.store import ARTIFACTS, Client, StoreError, default_uri, opened, sqlite_path, sqlite_uri
from launchers.run_folder.provenance import digest_of
from launchers.run_folder.record import (
    Run,
    locked,
    make_private,
    read_json,
    read_lines,
    rows_of,
    started_members,
    write_json,
)

PARAMS_A_CALL, RUNS_A_PAGE = 100, 1000
PARAM_LENGTH, TAG_LENGTH, NAME_LENGTH = 6000, 5000, 250
CUT = " ... [cut]"
REQUESTS_AT_ONCE = 8
"""To a server. A SQLite file takes one writer."""
LOCK_LIMIT_S = 300
COMPARED = ("data", "engine", "model", "optimizer", "train")
COMPARED_OF_MACHINE = ("partition", "nodes", "ranks_per_node", "cpus_per_rank", "mem_gb")
COMPARED_OF_ACCELERATOR = ("kind", "slurm_type", "count", "precision")
PARENT = "parent"


@dataclass(frozen=True)
class Tracking:
    """Where a job is recorded."""

    uri: str
    experiment_id: str
    parent_run_id: str | None
    """None for a job of one member, whose run is the job's."""
    runs: Mapping[int, str]
    """Run id of each member."""

    @property
    def run_id(self) -> str:
        """The run that stands for the whole job."""
        return self.parent_run_id or next(iter(self.runs.values()))


def ensure_runs(run: Run) -> Tracking | None:
    """The runs of a job and of its members that have started, made where they are missing; None where tracking
    is `none`.

    Idempotent and safe against a kill at any point; opens no store when nothing is missing.
    Raises StoreError when the store cannot be reached.
    """
    spec = spec_of(run)
    if spec.tracking.kind == "none":
        return None
    with locked(run.path / "tracking.lock", LOCK_LIMIT_S):
        rows, known = read_lines(run.members_file), recorded(run)
        have = set(known.runs if known else ())
        missing = _begun(run, rows, have) if len(rows) > 1 else {0} - have
        if known and not missing:
            return known
        uri = store_uri(run, spec)
        with opened(uri, run.id, create=True) as client:
            tracking = _Maker(client, run, spec, rows).tracking(uri, known, missing)
        write_json(run.tracking, _document(tracking))
        return tracking


def _begun(run: Run, rows: Sequence[Mapping[str, Any]], have: Collection[int]) -> set[int]:
    """Members that have started and have no run yet; of a search, whose runs are made with their points' values,
    those that have a point."""
    late = {row["index"] for row in rows if row.get("late")}
    return {i for i in started_members(run).difference(have) if i not in late or run.member(i).point.exists()}


def recorded(run: Run) -> Tracking | None:
    """What tracking.json says, if there is one."""
    document = read_json(run.tracking)
    if document is None:
        return None
    return Tracking(**{**document, "runs": {int(k): v for k, v in document["runs"].items()}})


def spec_of(run: Run) -> schema.Spec:
    """The spec of a job's first member."""
    return from_document(schema.Spec, read_json(run.spec))


def store_uri(run: Run, spec: schema.Spec) -> str:
    """The store's URI. A relative SQLite path is relative to the folder of the runs, whoever asks."""
    uri = spec.tracking.uri
    path = sqlite_path(uri) if uri else None
    if uri is None:
        return default_uri(run.path.parent)
    return uri if path is None or path.is_absolute() else sqlite_uri(run.path.parent.resolve() / path)


def experiment_name(spec: schema.Spec) -> str:
    return spec.tracking.experiment or spec.name


def origin_tags(run: Run) -> dict[str, str]:
    """Tags that say where a run or a model comes from."""
    origin = read_json(run.provenance) or {}
    git = origin.get("git") or {}
    tags = {
        "fairlead.job": run.id,
        "fairlead.spec_digest": origin.get("spec_digest"),
        "fairlead.image_digest": (origin.get("image") or {}).get("digest"),
        "fairlead.git_revision": git.get("revision"),
        "fairlead.git_dirty": "true" if git.get("dirty") else None,
    }
    return {k: str(v) for k, v in tags.items() if v is not None}


def member_tags(run: Run, index: int) -> dict[str, str]:
    """`origin_tags` of a member: its own configuration may differ from the first's, and its image."""
    (row,) = rows_of(run, {index})
    return _with_own(origin_tags(run), row, read_json(run.spec), read_json(run.plan))


def _with_own(
    tags: Mapping[str, str], row: Mapping[str, Any], spec: Mapping[str, Any], plan: Mapping[str, Any]
) -> dict[str, str]:
    own: dict[str, str | None] = {}
    if row.get("sections"):
        own["fairlead.spec_digest"] = digest_of({**spec, **row["sections"]})
    if row.get("shape"):
        box = plan["plans"][row["shape"]]["pools"][0]["container"] or {}
        own["fairlead.image_digest"] = box.get("digest")
    return {k: v for k, v in {**tags, **own}.items() if v is not None}


def params_of(document: Mapping[str, Any]) -> dict[str, str]:
    """The leaf values of a spec that runs are compared by; a component's options stand beside its kind."""
    trained = COMPARED if document["job"]["kind"] == "trainer" else ()
    chosen: dict[str, Any] = {"seed": document["seed"], **{name: _flat(document[name]) for name in trained}}
    chosen["params"] = document.get("params") or {}
    for i, pool in enumerate(document["pools"]):
        prefix = f"pools.{i}." if i else ""
        chosen[f"{prefix}machine"] = {k: pool["machine"][k] for k in COMPARED_OF_MACHINE}
        chosen[f"{prefix}accelerator"] = {k: pool["accelerator"][k] for k in COMPARED_OF_ACCELERATOR}
    return dict(_leaves("", chosen))


def text_of(value: Any, limit: int) -> str:
    """A value as the store can keep it: no lone surrogates, at most `limit` characters, a cut one marked."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


def name_of(name: str) -> str:
    """A metric's or parameter's name as MLflow takes it."""
    plain = re.sub(r"[^/\w.\- :]", "_", text_of(name, NAME_LENGTH), flags=re.ASCII)
    return posixpath.normpath(plain).lstrip("/.") or "_"


def _flat(section: Mapping[str, Any]) -> dict[str, Any]:
    return {**{k: v for k, v in section.items() if k != "options"}, **section.get("options", {})}


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), below)
    elif value is not None:
        yield name_of(prefix), text_of(value, PARAM_LENGTH)


def _document(tracking: Tracking) -> dict[str, Any]:
    return {
        "uri": tracking.uri,
        "experiment_id": tracking.experiment_id,
        "parent_run_id": tracking.parent_run_id,
        "runs": {str(k): v for k, v in tracking.runs.items()},
    }


@dataclass(frozen=True)
class _Wanted:
    """A run as it should be."""

    key: str
    """Member index, or PARENT."""
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]


class _Maker:
    """Finds or makes the runs of one job through an open store."""

    def __init__(self, client: Client, run: Run, spec: schema.Spec, rows: Sequence[Mapping[str, Any]]) -> None:
        self.client, self.run, self.spec, self.rows = client, run, spec, rows
        self.document: dict[str, Any] = read_json(run.spec)
        self.plan: dict[str, Any] = read_json(run.plan)
        self.tags = {**origin_tags(run), **self._shown_by_mlflow()}

    def tracking(self, uri: str, known: Tracking | None, missing: Collection[int]) -> Tracking:
        """What is known, and a run for each member that is missing."""
        self.experiment_id = self._experiment(uri)
        self.found = dict(self._found())
        parent = known.parent_run_id if known else None
        if parent is None and len(self.rows) > 1:
            parent, missing = self._made(self._parent()), {*missing, *(known.runs if known else ())}
        wanted = rows_of(self.run, missing)
        at_once = 1 if sqlite_path(uri) else REQUESTS_AT_ONCE
        with ThreadPoolExecutor(at_once) as pool:
            ids = list(pool.map(lambda row: self._made(self._member(row, parent)), wanted))
        made = {row["index"]: i for row, i in zip(wanted, ids, strict=True)}
        return Tracking(uri, self.experiment_id, parent, {**(known.runs if known else {}), **made})

    def _experiment(self, uri: str) -> str:
        from mlflow.exceptions import MlflowException

        name = experiment_name(self.spec)
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name, artifact_location=self._artifacts(uri, name)))
            except MlflowException as e:
                if e.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)
        if found.lifecycle_stage != "active":
            do = f"`mlflow experiments restore -x {found.experiment_id}`, or another tracking.experiment"
            raise StoreError(f"the experiment {name!r} was deleted in the tracking store", uri, do)
        return str(found.experiment_id)

    def _artifacts(self, uri: str, name: str) -> str | None:
        """Beside the database, or beside the runs; a server has its own place."""
        if uri.startswith("http"):
            return None
        database = sqlite_path(uri)
        folder = make_private((database.parent if database else self.run.path.parent.resolve()) / ARTIFACTS)
        return Path(folder, re.sub(r"[^\w.-]", "_", name).lstrip(".") or "_").as_uri()

    def _found(self) -> Iterator[tuple[str, Any]]:
        """Runs of this job that an earlier call made, by member index or PARENT."""
        page, chosen = None, f"tags.`fairlead.job` = '{self.run.id}'"
        while True:
            runs = self.client.search_runs([self.experiment_id], chosen, max_results=RUNS_A_PAGE, page_token=page)
            yield from ((r.data.tags.get("fairlead.member", PARENT), r) for r in runs)
            page = runs.token
            if not page:
                return

    def _made(self, wanted: _Wanted) -> str:
        from mlflow.entities import Param, RunTag

        run = self.found.get(wanted.key)
        if run is None:
            run = self.client.create_run(self.experiment_id, tags=dict(wanted.tags), run_name=wanted.name)
        run_id = str(run.info.run_id)
        params = [Param(k, v) for k, v in wanted.params.items() if k not in run.data.params]
        tags = [RunTag(k, v) for k, v in wanted.tags.items() if k not in run.data.tags]
        for i in range(0, len(params) or len(tags), PARAMS_A_CALL):
            self.client.log_batch(run_id, params=params[i : i + PARAMS_A_CALL], tags=tags)
        return run_id

    def _parent(self) -> _Wanted:
        varied = {key for row in self.rows for key in row["point"]}
        if isinstance(self.spec.sweep, Search):
            varied = set(self.spec.sweep.parameters)
        params = {k: v for k, v in params_of(self.document).items() if k not in varied}
        tags = {**self.tags, "fairlead.members": str(len(self.rows))}
        return _Wanted(PARENT, self.run.id, tags, params)

    def _member(self, row: Mapping[str, Any], parent: str | None) -> _Wanted:
        point = dict(row.get("point") or {})
        params = {**params_of({**self.document, **row.get("sections", {})}), **dict(_leaves("", point))}
        tags = {**_with_own(self.tags, row, self.document, self.plan), "fairlead.member": str(row["index"])}
        if point:
            tags["fairlead.point"] = text_of(point, TAG_LENGTH)
        if parent is None:
            return _Wanted(str(row["index"]), self.run.id, tags, params)
        tags["mlflow.parentRunId"] = parent
        return _Wanted(str(row["index"]), f"{self.run.id}.{row['index']}", tags, params)

    def _shown_by_mlflow(self) -> dict[str, str]:
        origin = read_json(self.run.provenance) or {}
        tags = {
            "mlflow.user": origin.get("user"),
            "mlflow.source.name": text_of(shlex.join(origin.get("command") or ["fairlead"]), TAG_LENGTH),
            "mlflow.source.type": "JOB",
            "mlflow.source.git.commit": (origin.get("git") or {}).get("revision"),
        }
        return {k: str(v) for k, v in tags.items() if v}
