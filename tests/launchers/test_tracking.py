from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from launchers.delivery import store, tracking
from launchers.delivery.store import StoreError, opened
from launchers.delivery.tracking import ensure_runs
from launchers.errors import SiteError
from launchers.run_folder.record import make_private, read_json
from tests.launchers.tracked import dies_at, empty_database, make_run, spec_of
from tests.launchers.tried import ask, make_search, search_of


def test_import_of_tracking_does_not_import_mlflow() -> None:
    code = "from launchers.delivery import finish, tracking; import sys; print({'mlflow', 'torch'} & {*sys.modules})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"


def test_ensure_runs_kind_none_writes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, fresh=True, kind="none")

    assert ensure_runs(run) is None

    assert not run.tracking.exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_ensure_runs_one_member_makes_one_run_with_tags_and_params(tmp_path: Path) -> None:
    run = make_run(tmp_path)

    found = ensure_runs(run)

    assert found is not None
    assert found.parent_run_id is None
    assert found.uri == f"sqlite:///{tmp_path}/mlflow.db"
    with opened(found.uri, run.id) as client:
        seen = client.get_run(found.runs[0])
        assert client.get_experiment_by_name("digits").experiment_id == found.experiment_id
    assert seen.info.run_name == run.id
    assert seen.data.tags["fairlead.job"] == run.id
    assert seen.data.tags["fairlead.member"] == "0"
    assert seen.data.tags["fairlead.spec_digest"] == "sha256:5bec"
    assert seen.data.tags["fairlead.image_digest"] == "sha256:1ace"
    assert seen.data.tags["fairlead.git_revision"] == "c0ffee"
    assert seen.data.tags["fairlead.git_dirty"] == "true"
    assert seen.data.tags["mlflow.user"] == "ada"
    assert seen.data.tags["mlflow.source.name"] == "fairlead launch 'note=a b'"
    assert seen.data.params["model.width"] == "16"
    assert seen.data.params["model.sizes"] == "[1, 2]"
    assert seen.data.params["optimizer.kind"] == "adamw"
    assert seen.data.params["machine.nodes"] == "2"
    assert seen.data.params["accelerator.kind"] == "none"
    assert seen.data.params["seed"] == "7"
    assert "optimizer.note" not in seen.data.params
    assert seen.info.artifact_uri.startswith((tmp_path / "mlartifacts" / "digits").as_uri())


def test_ensure_runs_several_members_makes_parent_and_children(tmp_path: Path) -> None:
    run = make_run(tmp_path, [{"model.width": 16}, {"model.width": 32}])

    found = ensure_runs(run)

    assert found is not None
    with opened(found.uri, run.id) as client:
        parent = client.get_run(found.parent_run_id)
        child = client.get_run(found.runs[1])
    assert parent.info.run_name == run.id
    assert "model.width" not in parent.data.params
    assert parent.data.params["optimizer.lr"] == "0.001"
    assert child.info.run_name == f"{run.id}.1"
    assert child.data.tags["mlflow.parentRunId"] == found.parent_run_id
    assert child.data.tags["fairlead.point"] == '{"model.width": 32}'
    assert child.data.params["model.width"] == "32"
    document = read_json(run.tracking)
    assert document["runs"] == {"0": found.runs[0], "1": found.runs[1]}


def test_ensure_runs_again_opens_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    first = ensure_runs(run)
    monkeypatch.setattr(tracking, "opened", None)

    assert ensure_runs(run) == first


def test_ensure_runs_after_crash_before_tracking_json_finds_the_same_runs(tmp_path: Path) -> None:
    run = make_run(tmp_path, [{"model.width": 16}, {"model.width": 32}])
    first = ensure_runs(run)
    run.tracking.unlink()

    assert ensure_runs(run) == first

    assert first is not None
    with opened(first.uri, run.id) as client:
        assert len(client.search_runs([first.experiment_id])) == 3


def test_ensure_runs_found_run_without_params_gets_them(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = ensure_runs(run)
    assert first is not None
    run.tracking.unlink()
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        db.execute("DELETE FROM params WHERE key LIKE 'model.%'")
    db.close()

    ensure_runs(run)

    with opened(first.uri, run.id) as client:
        assert client.get_run(first.runs[0]).data.params["model.width"] == "16"


def test_ensure_runs_job_that_grew_puts_all_members_below_a_parent(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = ensure_runs(run)
    make_run(tmp_path / "grown", [{}, {}], fresh=True)
    run.members_file.write_bytes((tmp_path / "grown" / run.id / "members.jsonl").read_bytes())
    run.member(1).path.mkdir()

    found = ensure_runs(run)

    assert first is not None
    assert found is not None
    assert found.runs[0] == first.runs[0]
    with opened(found.uri, run.id) as client:
        parents = [client.get_run(i).data.tags["mlflow.parentRunId"] for i in found.runs.values()]
    assert parents == [found.parent_run_id] * 2


def test_ensure_runs_of_a_search_waits_for_the_points(tmp_path: Path) -> None:
    """A member has a folder before it has asked: a run made now would never have its parameters."""
    run = make_search(tmp_path, search_of(3))
    make_private(run.member(1).path)
    ask(run, 0, {"optimizer.lr": 0.5, "model.width": 8})
    before = ensure_runs(run)
    ask(run, 1, {"optimizer.lr": 0.25, "model.width": 16})
    after = ensure_runs(run)

    assert before is not None
    assert after is not None
    assert (set(before.runs), set(after.runs)) == ({0}, {0, 1})
    with opened(after.uri, run.id) as client:
        params = client.get_run(after.runs[1]).data.params
    assert (params["optimizer.lr"], params["model.width"]) == ("0.25", "16")


def test_ensure_runs_killed_anywhere_makes_nothing_twice(tmp_path: Path) -> None:
    run = make_run(tmp_path, [{"model.width": w} for w in range(6)])

    for event in (2, 9, 16, 23):
        assert dies_at(event, lambda: ensure_runs(run))
    found = ensure_runs(run)

    assert found is not None
    with opened(found.uri, run.id) as client:
        seen = client.search_runs([found.experiment_id])
    assert len(seen) == 7
    assert {r.data.params["model.width"] for r in seen if "fairlead.member" in r.data.tags} == set("012345")


def test_ensure_runs_many_and_long_params_are_batched_and_cut(tmp_path: Path) -> None:
    run = make_run(tmp_path, [{f"model.p{i}": "x" * 7000 for i in range(150)}])

    found = ensure_runs(run)

    assert found is not None
    with opened(found.uri, run.id) as client:
        params = client.get_run(found.runs[0]).data.params
    assert len([k for k in params if k.startswith("model.p")]) == 150
    assert len(params["model.p149"]) == 6000
    assert params["model.p149"].endswith("... [cut]")


@pytest.mark.parametrize("name", ["a b", "100%41", "a?b#c", "größe 'q\"&;"])
def test_ensure_runs_odd_folder_name_keeps_everything_in_it(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    run = make_run(folder)

    found = ensure_runs(run)

    assert found is not None
    assert store.sqlite_path(found.uri) == folder / "mlflow.db"
    with opened(found.uri, run.id) as client:
        client.log_artifact(found.runs[0], str(run.spec))
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert len(list(folder.glob("mlartifacts/digits/*/artifacts/spec.json"))) == 1


def test_ensure_runs_fresh_store_is_built_whole_private_and_silent(tmp_path: Path) -> None:
    run = make_run(tmp_path / "new", fresh=True)
    code = f"from launchers.delivery.tracking import *; ensure_runs(Run(Path({str(run.path)!r})))"

    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path, env=env)

    assert done.stdout + done.stderr == ""
    database = tmp_path / "new" / "mlflow.db"
    assert database.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new"]
    with sqlite3.connect(database) as db:
        places = [row[0] for row in db.execute("SELECT artifact_location FROM experiments")]
    db.close()
    assert all(place.startswith((tmp_path / "new" / "mlartifacts").as_uri()) for place in places)


def test_ensure_runs_older_database_is_migrated_and_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    revision = _downgrade(tmp_path / "mlflow.db")

    found = ensure_runs(run)

    assert found is not None
    assert (tmp_path / f"mlflow.db.{revision}").exists()


def _downgrade(database: Path) -> str:
    """An empty database as it was one migration ago; the revision it then has."""
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils

    database.unlink()
    config = utils._get_alembic_config(f"sqlite:///{database}")
    script = ScriptDirectory.from_config(config)
    revision = str(script.get_revision(script.get_current_head()).down_revision)
    engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{database}")
    utils.InitialBase.metadata.create_all(engine)
    engine.dispose()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        command.upgrade(config, revision)
    return revision


def test_ensure_runs_dead_server_is_noticed_in_seconds_with_three_lines(tmp_path: Path) -> None:
    run = make_run(tmp_path, uri="http://user:secret@127.0.0.1:9")
    with pytest.raises(StoreError):
        ensure_runs(run)  # with all that is imported for it

    begin = time.monotonic()
    with pytest.raises(StoreError) as raised:
        ensure_runs(run)

    assert time.monotonic() - begin < 10
    lines = str(raised.value).splitlines()
    assert lines[0] == "the tracking store is unreachable: [Errno 111] Connection refused"
    assert lines[1].split() == ["where", "http://127.0.0.1:9"]
    assert "`fairlead sync digits-1` delivers it later" in lines[2]
    assert isinstance(raised.value, SiteError)


def test_ensure_runs_deleted_experiment_says_how_to_restore_it(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = ensure_runs(run)
    assert first is not None
    run.tracking.unlink()
    with opened(first.uri, run.id) as client:
        client.delete_experiment(first.experiment_id)

    with pytest.raises(StoreError, match="mlflow experiments restore -x"):
        ensure_runs(run)


def test_opened_relative_sqlite_uri_is_beside_the_runs(tmp_path: Path) -> None:
    run = make_run(tmp_path, uri="sqlite:///other/store.db")
    (tmp_path / "other").mkdir()
    shutil.copyfile(empty_database(), tmp_path / "other" / "store.db")

    found = ensure_runs(run)

    assert found is not None
    assert found.uri == f"sqlite:///{tmp_path}/other/store.db"
    assert (tmp_path / "other" / "mlartifacts").is_dir()


def test_opened_missing_database_is_an_error_not_a_new_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"mlflow\.db is gone"), opened(f"sqlite:///{tmp_path}/mlflow.db", "job"):
        pass

    assert not (tmp_path / "mlflow.db").exists()


def test_opened_two_processes_on_one_database_take_turns(tmp_path: Path) -> None:
    make_run(tmp_path)
    lock = tmp_path / "mlflow.db.lock"
    script = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"

    with opened(f"sqlite:///{tmp_path}/mlflow.db", "job"):
        inside = subprocess.run([sys.executable, "-c", script, lock], capture_output=True, check=False)
    after = subprocess.run([sys.executable, "-c", script, lock], capture_output=True, check=False)

    assert (inside.returncode, after.returncode) == (1, 0)


def test_opened_leaves_the_environment_as_it_was(tmp_path: Path) -> None:
    make_run(tmp_path)
    before = dict(os.environ)

    with opened(f"sqlite:///{tmp_path}/mlflow.db", "job"):
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"

    assert dict(os.environ) == before


def test_params_of_second_pool_stand_apart() -> None:
    import dataclasses

    from conf.document import to_document

    spec = spec_of()
    document = to_document(dataclasses.replace(spec, pools=spec.pools * 2))

    params = tracking.params_of(document)

    assert params["machine.mem_gb"] == params["pools.1.machine.mem_gb"] == "4"


def test_text_of_lone_surrogate_can_be_stored() -> None:
    assert json.dumps(tracking.text_of("a\udc80b", 10)).isascii()
    assert tracking.text_of("a\udc80b", 10) == "a?b"
