"""Bring what a program's own MLflow client wrote into its member's folder (client_store.py) into the real store.

The run that the program was given is the member's run, any other that it made is a child of it: parameters, tags,
metrics with their times, data sets, artifacts, logged models and versions in the registry. Each is there once, however
often this is done and wherever it was cut short: a file's mark says how far it was delivered, runs and models carry
where they come from as tags. States, names and tags of ours stay ours. Nothing is unpickled. Of a job with secrets all
but the points of metrics waits until it was looked through for them (checked.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from launchers.delivery.checked import Checked
from launchers.delivery.model_folder import ModelFolder
from launchers.delivery.register import ToLog, add_version, logged_model, move_alias
from launchers.delivery.store import Client
from launchers.delivery.tracking import PARAM_LENGTH, TAG_LENGTH, Tracking, member_tags, name_of, text_of
from launchers.run_folder import client_store
from launchers.run_folder.record import Member, Run

A_CALL, POINTS_A_CALL = 100, 1000
KEPT = ("mlflow.note.content", "mlflow.autologging")
"""Tags of MLflow's own that say something of the program."""
OF_PROGRAM = "fairlead.program_run"
ENDED = ("FINISHED", "FAILED", "KILLED")


class Marks(Protocol):
    """How far each file was delivered."""

    def offset(self, path: Path) -> int: ...
    def advance(self, path: Path, end: int) -> None: ...
    def save(self) -> None: ...


def has_news(run: Run, member: Member, marks: Marks) -> bool:
    """Whether a program's client wrote something since. Opens no store."""
    root, own = member.path / client_store.FOLDER, client_store.run_folder(member, run.id)
    given = (own / "meta.yaml", own.parent / "meta.yaml")  # say nothing of the program
    news = (path for path, state in _states(root) if path not in given and marks.offset(path) != state)
    checked = Checked(run, member)
    return any(checked.passes(path) for path in news)


@dataclass(frozen=True)
class Replay:
    """A job's, through an open store."""

    client: Client
    run: Run
    tracking: Tracking
    marks: Marks

    def member(self, index: int) -> int:
        """Deliver what is new of a member; how many points. Raises OSError, and what MLflow raises."""
        return _OfMember(self, index).all()


def _states(root: Path) -> Iterator[tuple[Path, int]]:
    """All files that are there, whatever comes and goes meanwhile."""
    for path in client_store.files(root):
        with contextlib.suppress(FileNotFoundError):
            yield path, _state(path, root)


def _state(path: Path, root: Path) -> int:
    """Of a metric, which only grows, its length; of any other file when it was written."""
    return path.stat().st_size if client_store.is_metric(path, root) else path.stat().st_mtime_ns


class _OfMember:
    """One member's."""

    def __init__(self, job: Replay, index: int) -> None:
        import mlflow

        self.client, self.run, self.tracking, self.marks = job.client, job.run, job.tracking, job.marks
        self.index, run, tracking = index, job.run, job.tracking
        self.root = run.member(index).path / client_store.FOLDER
        self.source = mlflow.MlflowClient(tracking_uri=self.root.as_uri(), registry_uri=self.root.as_uri())
        self.runs = {client_store.run_id(run.id, index): tracking.runs[index]}
        self.checked = Checked(run, run.member(index))
        self.before = self.checked.state()
        self.seen = [(path, state) for path, state in _states(self.root) if self.checked.passes(path)]
        """As it is now: what is written meanwhile is for the next time."""

    def all(self) -> int:
        experiments = [e.experiment_id for e in self.source.search_experiments()]
        said = sorted(self.source.search_runs(experiments), key=lambda r: r.info.start_time)
        if not self.checked.stands(self.before):
            return sum(self._points(one, self.runs[one.info.run_id]) for one in said if one.info.run_id in self.runs)
        points = 0
        for one in said:
            target = self.runs.get(one.info.run_id) or self._child(one)
            self.runs[one.info.run_id] = target
            self._words(one, target)
            points += self._points(one, target)
            self._artifacts(self._folder(one) / "artifacts", target)
        self._models(experiments)
        for path, state in self.seen:
            if not client_store.is_metric(path, self.root):
                self.marks.advance(path, state)
        return points

    def _folder(self, one: Any) -> Path:
        return Path(self.root, one.info.experiment_id, one.info.run_id)

    def _points(self, one: Any, target: str) -> int:
        folder = self._folder(one) / "metrics"
        return sum(self._metric(path, folder, target) for path, _ in self._new(folder))

    def _artifacts(self, folder: Path, target: str) -> None:
        for path, state in self._new(folder):
            below = path.parent.relative_to(folder).as_posix()
            with self.checked.kept(path) as kept:
                if kept is not None:
                    self.client.log_artifact(target, str(kept), None if below == "." else below)
                    self.marks.advance(path, state)

    def _new(self, folder: Path) -> list[tuple[Path, int]]:
        return [(p, state) for p, state in self.seen if p.is_relative_to(folder) and self.marks.offset(p) != state]

    def _child(self, one: Any) -> str:
        """A run that the program made itself: below the one it was made in, else below the member's."""
        mark = f"{self.run.id}/{self.index}/{one.info.run_id}"
        found = self.client.search_runs([self.tracking.experiment_id], f"tags.`{OF_PROGRAM}` = '{mark}'")
        if found:
            return str(found[0].info.run_id)
        above = self.runs.get(one.data.tags.get("mlflow.parentRunId", ""), self.tracking.runs[self.index])
        tags = {OF_PROGRAM: mark, "mlflow.parentRunId": above}
        made = self.client.create_run(
            self.tracking.experiment_id, start_time=one.info.start_time, tags=tags, run_name=one.info.run_name
        )
        return str(made.info.run_id)

    def _words(self, one: Any, target: str) -> None:
        """Parameters, tags and data sets; of a child also how it ended."""
        from mlflow.entities import Param, RunTag

        there = self.client.get_run(target)
        said = {**one.data.params, **client_store.masked_params(self._folder(one))}
        params = [Param(k, v) for k, v in self._params(said, there.data.params).items()]
        tags = [RunTag(k, v) for k, v in self._tags(one.data.tags).items() if there.data.tags.get(k) != v]
        for i in range(0, max(len(params), len(tags)), A_CALL):
            self.client.log_batch(target, params=params[i : i + A_CALL], tags=tags[i : i + A_CALL])
        known = {(d.dataset.name, d.dataset.digest) for d in there.inputs.dataset_inputs} if there.inputs else set()
        given = one.inputs.dataset_inputs if one.inputs else []
        if new := [d for d in given if (d.dataset.name, d.dataset.digest) not in known]:
            self.client.log_inputs(target, datasets=new)
        if target != self.tracking.runs[self.index] and one.info.status in ENDED != there.info.status:
            self.client.set_terminated(target, one.info.status, one.info.end_time)

    def _params(self, said: dict[str, str], there: dict[str, str]) -> dict[str, str]:
        """One that means something else to us has `program.` before its name; the store takes no second value."""
        found = {}
        for name, value in ((name_of(k), text_of(v, PARAM_LENGTH)) for k, v in said.items()):
            free = name if there.get(name, value) == value else f"program.{name}"
            if free not in there:
                found[free] = value
        return found

    def _tags(self, said: dict[str, str]) -> dict[str, str]:
        ours = ("mlflow.", "fairlead.")
        chosen = {k: v for k, v in said.items() if k in KEPT or not k.startswith(ours)}
        return {name_of(k): text_of(v, TAG_LENGTH) for k, v in chosen.items()}

    def _metric(self, path: Path, folder: Path, target: str) -> int:
        from mlflow.entities import Metric

        name, begin = name_of(path.relative_to(folder).as_posix()), self.marks.offset(path)
        with path.open("rb") as f:
            f.seek(begin)
            lines = f.readlines()
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        for i in range(0, len(lines), POINTS_A_CALL):
            part = lines[i : i + POINTS_A_CALL]
            found = [Metric(name, *point) for point in map(_point, part) if point]
            self.client.log_batch(target, metrics=found)
            begin += sum(map(len, part))
            self.marks.advance(path, begin)
        return len(lines)

    def _models(self, experiments: list[str]) -> None:
        """Logged models, and the versions that were registered of them."""
        logged = {}
        for model in self.source.search_logged_models(experiments):
            folder = self.root / model.experiment_id / "models" / model.model_id
            target = self.runs.get(model.source_run_id or "")
            whole = model.status == "READY" and target is not None and folder.is_dir()
            if whole and target and (self._new(folder) or (self.root / "models").is_dir()):
                logged[model.model_id] = self._model(model, ModelFolder(folder / "artifacts"), target)
        for version in sorted(self.source.search_model_versions(), key=lambda v: int(v.version)):
            if version.model_id in logged:
                made, tags, target = logged[version.model_id]
                done = add_version(self.client, name_of(version.name), made, target, tags)
                for alias in self.source.get_model_version(version.name, version.version).aliases:
                    move_alias(self.client, done, alias)

    def _model(self, model: Any, folder: ModelFolder, target: str) -> tuple[Any, dict[str, str], str]:
        tags = {
            **self._tags(model.tags),
            **member_tags(self.run, self.index),
            "fairlead.member": str(self.index),
            "fairlead.model_sha256": folder.sha256,
        }
        what = ToLog(
            tags=tags,
            save=lambda place, _: folder.link_into(place / "saved"),
            params=dict(model.params),
            kind=model.model_type,
            name=model.name,
        )
        of = dataclasses.replace(self.tracking, runs={**self.tracking.runs, self.index: target})
        return logged_model(self.client, self.run, of, self.index, what), tags, target


def _point(line: bytes) -> tuple[float, int, int] | None:
    """Value, time in milliseconds and step; None for what is no such line."""
    words = line.split()
    try:
        return float(words[1]), int(words[0]), int(words[2]) if len(words) > 2 else 0
    except (ValueError, IndexError):
        return None
