"""How a tracking store is opened: by one process at a time where it is a SQLite file, with a bound on
every wait, silently, and with MLflow's many exceptions turned into one.

A SQLite database is built or migrated in a temporary folder and renamed into place, so that no kill
leaves half a schema. Which runs are in the store is tracking.py's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import urllib.parse
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launchers.command import output_of
from launchers.errors import SiteError
from launchers.run_folder.record import locked, make_private

Client = Any
"""An mlflow.MlflowClient; MLflow is imported only where a store is opened."""

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
CREATE_LOCK_LIMIT_S, LOCK_LIMIT_S = 60, 600
"""A person waits for the first; behind the second another job may be uploading its model."""
MIGRATION_LIMIT_S = 600
ALWAYS = {
    "MLFLOW_ALLOW_FILE_STORE": "true",  # what programs wrote is read from there
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
}
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
"""Answers that the same request will always get: of a run that somebody deleted, for one."""

_folders: dict[Path, int] = {}


class StoreError(SiteError):
    """The tracking store cannot be reached, or does not do what it is asked. Nothing is lost: the run
    folder keeps everything until it is delivered."""


def default_uri(runs_dir: Path) -> str:
    """The SQLite file beside the runs."""
    return sqlite_uri(runs_dir.resolve() / DATABASE)


def sqlite_uri(path: Path) -> str:
    """A URI for a database at an absolute path, also one with `%` or `?` in it."""
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI; None for any other store."""
    found = re.match(r"sqlite(?:\+\w+)?:///([^?]*)", uri)
    return Path(urllib.parse.unquote(found[1])) if found else None


def shown(uri: str) -> str:
    """A URI without the user name and password it may carry."""
    return re.sub(r"//[^/@]*@", "//", uri)


@contextlib.contextmanager
def opened(uri: str, job: str, *, create: bool = False, answer_s: int = 10) -> Iterator[Client]:
    """A client of the store, alone with it if it is a SQLite file, for as long as the block lasts.

    `create` also makes a SQLite database. An older MLflow's is migrated, and kept as `mlflow.db.<revision>`.
    A server is waited for `answer_s` seconds at a time and asked once. Whatever goes wrong in the block
    with the store or its disk is raised as StoreError, naming `job` in what to do.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise StoreError("MLflow is not installed", sys.executable, "install it there, or use tracking=none")
    database = sqlite_path(uri)
    with contextlib.ExitStack() as stack:
        with _errors(uri, job, SiteError):
            stack.enter_context(_silence())
            stack.enter_context(_environment(_settings(uri, database, answer_s)))
            if database is None:
                client = _client(uri)
            else:
                make_private(database.parent)
                lock = database.with_name(f"{database.name}.lock")
                stack.enter_context(locked(lock, CREATE_LOCK_LIMIT_S if create else LOCK_LIMIT_S))
                client = _sqlite_client(database, lock, create)
        with _errors(uri, job):
            yield client


def is_refusal(error: Exception) -> bool:
    """Whether the store would answer the same whenever it is asked."""
    return getattr(error, "error_code", None) in REFUSALS


def _settings(uri: str, database: Path | None, answer_s: int) -> dict[str, str]:
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(answer_s), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    settings = {**ALWAYS, **{k: v for k, v in limits.items() if k not in os.environ}}
    if database is None:
        return {**settings, "MLFLOW_TRACKING_URI": uri}
    return {
        **settings,
        "MLFLOW_TRACKING_URI": _usable_uri(database),
        # No connection outlives its transaction: the file is really closed when the lock is given back.
        "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
        # Without it MLflow's own "Default" experiment points into whatever folder we were started in.
        "_MLFLOW_SERVER_ARTIFACT_ROOT": (database.parent / ARTIFACTS).as_uri(),
    }


def _sqlite_client(database: Path, lock: Path, create: bool) -> Client:
    """A client of a database that this MLflow understands. The lock file says which one last did, as
    finding out takes half a second."""
    import mlflow

    if not database.exists():
        if not create:
            raise FileNotFoundError(f"{database.name} is gone")
        _build(database)
    elif lock.read_text() != mlflow.__version__:
        _bring_up_to_date(database)
    client = _client(_usable_uri(database))
    lock.write_text(mlflow.__version__)
    return client


def _client(uri: str) -> Client:
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def _usable_uri(database: Path) -> str:
    """A URI that every SQLAlchemy and MLflow understand alike.

    They differ on `%` and `?` in a path (seen with SQLAlchemy 2.0 and 2.1, MLflow 3.17, which also makes
    a folder of the undecoded name): such a folder is opened once and named by its descriptor.
    """
    if not re.search("[%?]", str(database)):
        return f"sqlite:///{database}"
    if database.parent not in _folders:
        _folders[database.parent] = os.open(database.parent, os.O_RDONLY | os.O_DIRECTORY)
    return f"sqlite:////proc/self/fd/{_folders[database.parent]}/{database.name}"


def _build(database: Path) -> None:
    with _quick_folder() as folder:
        fresh = Path(folder, DATABASE)
        _client(f"sqlite:///{fresh}")
        _install(fresh, database)


def _bring_up_to_date(database: Path) -> None:
    """Migrate an older MLflow's database, keeping the old file. (MLflow would do it in place, or refuse.)"""
    import mlflow.store
    from alembic.script import ScriptDirectory

    wanted = ScriptDirectory(str(Path(mlflow.store.__file__).parent / "db_migrations")).get_current_head()
    with _quick_folder() as folder:
        copy = Path(folder, DATABASE)
        with (
            contextlib.closing(sqlite3.connect(database)) as old,
            contextlib.closing(sqlite3.connect(copy)) as new,
        ):
            old.backup(new)
            row = new.execute("SELECT version_num FROM alembic_version").fetchone()
        if row is None or row[0] == wanted:
            return
        argv = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{copy}"]
        output_of(argv, timeout_s=MIGRATION_LIMIT_S)
        kept = database.with_name(f"{database.name}.{row[0]}")
        kept.unlink(missing_ok=True)
        kept.hardlink_to(database)
        _install(copy, database)


def _quick_folder() -> tempfile.TemporaryDirectory[str]:
    """In memory where there is such a place: sixty migrations, each synced, take 15 s on a busy disk."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


def _install(source: Path, database: Path) -> None:
    aside = database.with_name(f".{database.name}.new")
    shutil.copyfile(source, aside)
    aside.chmod(0o600)
    with aside.open("rb") as f:
        os.fsync(f.fileno())
    aside.replace(database)


@contextlib.contextmanager
def _errors(uri: str, job: str, *also: type[Exception]) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except (*_raised_by_stores(), *also) as e:
        do = f"see that the store is there and lets you in; `fairlead sync {job}` delivers it later"
        raise StoreError(f"the tracking store {_reason(e)}", shown(uri), do) from e


def _raised_by_stores() -> tuple[type[Exception], ...]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return OSError, sqlite3.Error, MlflowException, SQLAlchemyError


def _reason(error: BaseException) -> str:
    """One line: the first cause in the chain is what a person can act on, the wrappers around it are not."""
    origin = error
    while origin.__cause__ or origin.__context__:
        origin = origin.__cause__ or origin.__context__ or origin
    waited = isinstance(origin, OSError | sqlite3.Error | SiteError)
    text = str(origin if waited else error)
    line = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return f"{'is unreachable' if waited else 'answered with an error'}: {shown(line)[:300]}"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """MLflow reads most of its settings from the environment, at each call."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
