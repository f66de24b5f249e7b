"""Put a member's model into the model registry: once, however often it is asked. Our trainer exports it; any other
program leaves what it likes in its model folder (model_folder.py).

Each step looks for what an earlier, interrupted call left: the logged model and the version carry the
job, the member and the export's digest as tags. Nothing is pickled and torch is not imported; how the
model is loaded again is predictor.py's. Which member is registered is finish.py's choice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from conf.schema import chiefs_job
from launchers.delivery.forward import datasets_of, digest_of
from launchers.delivery.model_folder import SAVED, ModelFolder
from launchers.delivery.store import Client
from launchers.delivery.tracking import TAG_LENGTH, Tracking, member_tags, spec_of, text_of
from launchers.errors import SiteError
from launchers.run_folder.record import Member, Run, read_json, read_lines

PREDICTOR = Path(__file__).with_name("predictor.py")
"""Read, not imported: it brings numpy and its threads, which follow.py's signals must not find."""
EXPORT = "model.pt2"
LOADER = "fairlead_predictor"
LOGGED_NAME = "model"
"""Of the logged model in its run; the registry's name is the user's."""
NO_LINEAGE: Mapping[str, str] = MappingProxyType({})
IDENTITY = ("fairlead.job", "fairlead.member", "fairlead.model_sha256")


@dataclass(frozen=True)
class Export:
    """An exported model, as its card describes it."""

    folder: Path
    card: Mapping[str, Any]

    @property
    def files(self) -> list[Path]:
        return [self.folder / name for name in (*self.card["files"], "card.json")]


@dataclass(frozen=True)
class ToLog:
    """A model that the store is to have once."""

    tags: Mapping[str, str]
    save: Callable[[Path, Any], None]
    """Puts the files into a folder, for the logged model that is given."""
    params: Mapping[str, str] = field(default_factory=dict)
    kind: str | None = None
    step: int = 0
    name: str = LOGGED_NAME


def has_model(run: Run, member: Member) -> bool:
    """Whether there is something to register."""
    if chiefs_job(spec_of(run)).kind == "trainer":
        return (member.model / "card.json").exists()
    return bool(ModelFolder(member.model).files)


def keep(client: Client, run: Run, tracking: Tracking, index: int) -> None:
    """Upload what a program left in its model folder; where that is too large, its run says so.

    Raises OSError, and what MLflow raises.
    """
    spec, folder = spec_of(run), ModelFolder(run.member(index).model)
    if chiefs_job(spec).kind == "trainer" or not folder.files:
        return
    if why := folder.too_large(spec.tracking.model_gb):
        client.set_tag(tracking.runs[index], "fairlead.model", f"not uploaded: {why}")
        return
    logged_model(client, run, tracking, index, _folder_to_log(run, index, NO_LINEAGE))


def register(
    client: Client, run: Run, tracking: Tracking, index: int, lineage: Mapping[str, str] = NO_LINEAGE
) -> dict[str, Any]:
    """The registered version of this member's model: made, or found from an earlier call.

    `plain` says of one that it is files which MLflow can only download.
    `lineage` are further tags of it, such as the search that chose it. The alias moves to it, but never back from
    a later version. The caller holds tracking.lock.
    Raises SiteError when the export is not whole or the folder too large, and what MLflow raises.
    """
    spec = spec_of(run)
    to_log = _export_to_log if chiefs_job(spec).kind == "trainer" else _folder_to_log
    what = to_log(run, index, {name: text_of(value, TAG_LENGTH) for name, value in lineage.items()})
    logged = logged_model(client, run, tracking, index, what)
    version = add_version(client, spec.tracking.register or spec.name, logged, tracking.runs[index], what.tags)
    move_alias(client, version, spec.tracking.alias)
    uri = f"models:/{version.name}@{spec.tracking.alias}"
    said = {"name": version.name, "version": str(version.version), "alias": spec.tracking.alias, "uri": uri}
    plain = chiefs_job(spec).kind != "trainer" and SAVED not in ModelFolder(run.member(index).model).files
    return {**said, "plain": True} if plain else said


def _checked(member: Member) -> Export:
    export = Export(member.model, read_json(member.model / "card.json"))
    if EXPORT not in export.card["files"]:
        do = "its weights are in model.safetensors; tracking.register=null registers nothing"
        raise SiteError("the model was not registered: torch.export could not take it", str(member.model), do)
    for name, wanted in export.card["files"].items():
        path = export.folder / name
        if not path.exists() or _sha256(path) != wanted:
            do = "the model was changed or cut after its export; `fairlead retry` trains and exports it again"
            raise SiteError(f"{name} is not what its card says ({wanted})", str(path), do)
    return export


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return "sha256:" + hashlib.file_digest(f, "sha256").hexdigest()


def _export_to_log(run: Run, index: int, lineage: Mapping[str, str]) -> ToLog:
    export = _checked(run.member(index))
    card = export.card
    return ToLog(
        tags={**lineage, **_tags(run, index, card["files"][EXPORT], card.get("metrics", {}))},
        save=lambda folder, logged: _save(folder, export, logged),
        params={"kind": str(card["model"]["kind"]), "parameters": str(card["parameters"])},
        kind=card.get("task"),
        step=card.get("step") or 0,
    )


def _folder_to_log(run: Run, index: int, lineage: Mapping[str, str]) -> ToLog:
    folder, member = ModelFolder(run.member(index).model), run.member(index)
    if why := folder.too_large(spec_of(run).tracking.model_gb):
        do = "raise tracking.model_gb in a launch of its own, or take it from there"
        raise SiteError(f"the model was not registered: {why}", str(member.model), do)
    attempts = member.attempts()
    rows = read_lines(attempts[-1].path / "reports.jsonl") if attempts else []
    said = {name: value for row in rows for name, value in row["metrics"].items()}
    tags = {**lineage, **_tags(run, index, folder.sha256, said)}
    return ToLog(tags=tags, save=lambda place, _: folder.link_into(place / "saved"))


def _tags(run: Run, index: int, sha256: str, metrics: Mapping[str, Any]) -> dict[str, str]:
    spec = spec_of(run)
    data = {f"fairlead.data.{d.get('context', 'train')}": digest_of(d) for d in datasets_of(run.member(index))}
    objective = metrics.get(spec.objective.metric)
    measured = {} if objective is None else {f"fairlead.{spec.objective.metric}": str(objective)}
    return {
        **member_tags(run, index),
        **data,
        **measured,
        "fairlead.member": str(index),
        "fairlead.model_sha256": sha256,
    }


def _is_same(entity: Any, tags: Mapping[str, str]) -> bool:
    return all(entity.tags.get(name) == tags[name] for name in IDENTITY)


def logged_model(client: Client, run: Run, tracking: Tracking, index: int, what: ToLog) -> Any:
    """The model in the tracking store, uploaded whole, and the output of its run."""
    from mlflow.entities import LoggedModelOutput

    run_id = tracking.runs[index]
    chosen = f"source_run_id = '{run_id}'"
    found = [m for m in client.search_logged_models([tracking.experiment_id], chosen) if _is_same(m, what.tags)]
    logged = (
        found[0]
        if found
        else client.create_logged_model(
            tracking.experiment_id,
            what.name,
            source_run_id=run_id,
            tags=dict(what.tags),
            params=dict(what.params),
            model_type=what.kind,
        )
    )
    if logged.status != "READY":
        _upload(client, run.member(index), what, logged)
        logged = client.finalize_logged_model(logged.model_id, "READY")
    outputs = client.get_run(run_id).outputs
    if logged.model_id not in [o.model_id for o in (outputs.model_outputs if outputs else [])]:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=what.step)])
    return logged


def _upload(client: Client, member: Member, what: ToLog, logged: Any) -> None:
    """Beside the model, as it may be too big for /tmp; what a killed call left there is removed."""
    for left in member.path.glob(".register-*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=member.path, prefix=".register-") as folder:
        what.save(Path(folder), logged)
        client.log_model_artifacts(logged.model_id, str(Path(folder, "saved")))


def _save(folder: Path, export: Export, logged: Any) -> None:
    import mlflow
    from mlflow.models import Model

    data, code = folder / "model", folder / f"{LOADER}.py"
    data.mkdir()
    for path in export.files:
        (data / path.name).symlink_to(path.resolve())
    shutil.copyfile(PREDICTOR, code)
    card = export.card
    mlflow.pyfunc.save_model(
        path=str(folder / "saved"),
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            run_id=logged.source_run_id,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
        ),
        loader_module=LOADER,
        data_path=str(data),
        code_paths=[str(code)],
        signature=_signature(card),
        input_example=_example(card),
        pip_requirements=[f"torch=={card['torch'].partition('+')[0]}", "numpy"],
    )


def _signature(card: Mapping[str, Any]) -> Any:
    """One input goes without its name, so that a plain array is taken. `raw` is the predictor's parameter."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    def schema_of(specs: list[Mapping[str, Any]]) -> Any:
        names = [None] if len(specs) == 1 else [s["name"] for s in specs]
        tensors = zip(specs, names, strict=True)
        return Schema([TensorSpec(np.dtype(s["dtype"]), tuple(s["shape"]), name) for s, name in tensors])

    return ModelSignature(
        inputs=schema_of(card["inputs"]),
        outputs=schema_of(card["outputs"]),
        params=ParamSchema([ParamSpec("raw", "boolean", False)]),
    )


def _example(card: Mapping[str, Any]) -> Any:
    import numpy as np

    given, specs = card.get("input_example"), card["inputs"]
    if given is None:
        return None
    if len(specs) == 1:
        return np.asarray(given, dtype=specs[0]["dtype"])
    return {s["name"]: np.asarray(given[s["name"]], dtype=s["dtype"]) for s in specs}


def add_version(client: Client, name: str, logged: Any, run_id: str, tags: Mapping[str, str]) -> Any:
    from mlflow.exceptions import MlflowException

    of_run = client.search_model_versions(f"run_id = '{run_id}'")
    found = [v for v in of_run if v.name == name and _is_same(v, tags)]
    if found:
        version = min(found, key=lambda v: int(v.version))
    else:
        try:
            client.create_registered_model(name)
        except MlflowException as e:
            if e.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"models:/{logged.model_id}"
        version = client.create_model_version(name, source, run_id=run_id, tags=dict(tags), model_id=logged.model_id)
    # What links the model's page to its versions; MLflow's own register_model writes it likewise.
    link = json.dumps([{"name": name, "version": int(version.version)}])
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": link})
    return version


def move_alias(client: Client, version: Any, alias: str) -> None:
    from mlflow.exceptions import MlflowException

    current = 0
    with contextlib.suppress(MlflowException):
        current = int(client.get_model_version_by_alias(version.name, alias).version)
    if current < int(version.version):
        client.set_registered_model_alias(version.name, alias, version.version)
