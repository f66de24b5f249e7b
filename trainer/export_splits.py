"""The splits of a run's data as files, for a program that is not our trainer: `job.data_format`, $AIP_*_DATA_URI.

    RUNS/.splits/<key>/              shards and splits.json, made once for each content, by one process at a time
    RUNS/<job>/splits/<digest>.json  which of them this job has: its members see the same rows, whatever changes later
    RUNS/<job>/splits/<k>/           a member's: the same files once more by link (a copy where there are no links)

`python -m trainer.export_splits JOB MEMBER FORMAT` runs on a node with the host's Python, before the ranks start: the
source is read where it is, and the program's container sees the shards alone. `--look DOCUMENT FORMAT` reads no rows:
it says as JSON what would be wrong. A kill at any time leaves nothing that would be taken for whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from conf.document import from_document, to_document
from conf.locations import is_remote
from conf.schema import Component, Spec
from trainer import components, durable, failure, leave
from trainer.data import listed, written
from trainer.data.listed import Format, Listed
from trainer.durable import write_json
from trainer.failure import UserError
from trainer.packages import needed

INDEX = "splits.json"
STORE = ".splits"
VERSION = 1
"""Of how shards are written."""
WAIT_S = 12 * 3600
"""For another process that exports the same; the job's own time limit is mostly earlier."""
LOOK_S = 0.2
log = logging.getLogger("trainer.export_splits")


def export(run: Path, member: int, form: Format) -> Path:
    """The folder with a member's shards, made or found whole.

    Raises UserError for data that cannot be exported, or that have changed since the job's first member began, OSError
    for a disk that is full.
    """
    splits = run / "splits"
    mine = splits / str(member)
    if _whole(mine):
        return mine
    spec = from_document(Spec, json.loads((run / "members" / str(member) / "spec.json").read_text(encoding="utf-8")))
    splits.mkdir(mode=0o700, exist_ok=True)
    store = run.parent / STORE
    store.mkdir(mode=0o700, exist_ok=True)
    said = _digest(to_document(spec.data), to_document(spec.staging), form)
    pin = splits / f"{said}.json"
    with _alone(splits / f"{said}.lock"):
        known = json.loads(pin.read_text(encoding="utf-8"))["entry"] if pin.exists() else None
        if known is None or not _whole(store / known):
            key = _entry(rows_of(spec), spec, form, store)
            if known not in (None, key):
                what = "the data are not those that this job's first member was given"
                raise UserError(what, "data", "launch anew, or bring the earlier data back")
            known = key
            write_json(pin, {"entry": known})
        _take(store / known, mine)
    return mine


def rows_of(spec: Spec) -> Listed:
    """The rows of a spec's data, brought to this node where they lie at an address. Files are named where they are, and
    not brought: another node would not find this one's, and when they may go nobody would know."""
    from trainer.data import locations, staging

    path, (module, options) = str(spec.data.options.get("path")), _source(spec.data)
    os.environ.setdefault("FAIRLEAD_STAGE_DIR", f"{spec.site.scratch_dir}/fairlead-data-{os.getuid()}")
    if spec.site.stage_gb:
        os.environ.setdefault("FAIRLEAD_STAGE_GB", f"{spec.site.stage_gb:g}")
    if hasattr(module, "listed_at"):
        if not is_remote(path):
            return listed_of(spec.data)
        where = locations.location(path, options.glob, spec.staging.options)
        return cast(Listed, module.listed_at(options, where, locations.listed(where, spec.staging.sums)))
    return listed_of(staging.brought_alone(spec) if staging.is_wanted(spec) else spec.data)


def listed_of(data: Component) -> Listed:
    """The rows of data. Raises UserError for a source that has none."""
    module, options = _source(data)
    return cast(Listed, module.listed(options))


def _source(data: Component) -> tuple[Any, Any]:
    """Module and options of a source that can be exported."""
    own = components.target("data", data) is not None
    module, options = (None, None) if own else components.part("data", data)
    if module is None or not hasattr(module, "listed"):
        what = f"data.kind is {data.kind!r}, which has neither rows with columns nor files of images to export"
        raise UserError(what, "data.kind", "use table, sql, sklearn, images, or huggingface with data.form=numbers")
    return module, options


def _entry(rows: Listed, spec: Spec, form: Format, store: Path) -> str:
    """The key of the shards of some rows, which are written where they are not there yet."""
    options = spec.data.options
    split, target = (options.get(name) for name in ("split", "target"))
    parted = {name: options[name] for name in ("task", "label") if options.get(name) not in (None, "classification")}
    said = (VERSION, form, rows.columns, to_document(split), target, *([parted] if parted else []))
    key = _digest(*said, rows.records.content)
    with _alone(store / f"{key}.lock"):
        if _whole(store / key):
            os.utime(store / key)  # so that nobody removes it before our pin names it (launchers/split_pruning.py)
            return key
        aside = store / f"{key}.part"
        for left in (aside, store / key):  # of one that was killed, or was changed since
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir(mode=0o700)
        began = time.monotonic()
        try:
            made = written.write(rows, form, aside)
            times = {file["name"]: (aside / file["name"]).stat().st_mtime_ns for file in made["files"]}
            for file in made["files"]:
                file["changed_ns"] = times[file["name"]]
            write_json(aside / INDEX, {"source": rows.records.shown, "split": split, **made})
            durable.sync(aside)
            aside.rename(store / key)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        durable.sync(store)
        words = ", ".join(f"{count} rows for {part}" for part, count in made["rows"].items())
        log.info("data: exported %s, in %d file(s), in %.1f s", words, len(made["files"]), time.monotonic() - began)
    return key


def _take(entry: Path, mine: Path) -> None:
    """The files of an entry in a member's own folder, whole or not there."""
    aside = mine.with_name(f"{mine.name}.part")
    for left in (aside, mine):
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(mode=0o700)
    for path in sorted(entry.iterdir()):
        try:
            (aside / path.name).hardlink_to(path)
        except OSError:  # no links here, or a file has too many
            shutil.copy2(path, aside / path.name)
            durable.sync(aside / path.name)
    durable.sync(aside)
    aside.rename(mine)


def _whole(folder: Path) -> bool:
    """Whether every file is there as it was made; only those whose time has changed are read."""
    try:
        for file in json.loads((folder / INDEX).read_text(encoding="utf-8"))["files"]:
            path, seen = folder / file["name"], (folder / file["name"]).stat()
            if seen.st_size != file["bytes"]:
                return False
            if seen.st_mtime_ns != file["changed_ns"] and durable.sha256(path) != file["sha256"]:
                return False
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return False
    return True


def _digest(*said: Any) -> str:
    return hashlib.sha256(repr(said).encode(errors="surrogateescape")).hexdigest()[:32]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Have a lock while the block runs; the kernel frees that of a process that died. Raises OSError when another has
    it for WAIT_S."""
    until = time.monotonic() + WAIT_S
    with path.open("a") as f:
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise OSError(f"{path} is held by another process for {WAIT_S} s") from None
                time.sleep(LOOK_S)
        yield


def look(document: Mapping[str, Any], form: str) -> list[list[str]]:
    """What can be told of data without reading their rows: [] where nothing is wrong, else [what, where and do]."""
    data = from_document(Component, document)
    try:
        if data.kind == "sql":  # the database is asked on the node
            for module, package in (("sqlalchemy", "SQLAlchemy"), ("pyarrow", "pyarrow")):
                needed(module, package, "data.kind: sql")
            return []
        listed.plain_types(listed_of(data), cast(Format, form))
    except UserError as e:
        return [[e.what, e.where, e.do]]
    return []


def main(argv: list[str]) -> int:
    """0; 1 with the reason in rank-0.error.json of the attempt."""
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    if argv[0] == "--look":
        print(json.dumps(look(json.loads(argv[1]), argv[2])))
        return 0
    os.umask(0o077)
    try:
        export(Path(argv[0]), int(argv[1]), cast(Format, argv[2]))
    except Exception as error:
        if isinstance(error, UserError | OSError):
            log.error("%s", error)
        else:
            log.error("the data could not be exported", exc_info=error)
        if attempt := os.environ.get("FAIRLEAD_ATTEMPT_DIR"):
            failure.write(Path(attempt), 0, error)
        return 1
    return 0


if __name__ == "__main__":
    leave.now(main(sys.argv[1:]), run_exit_functions=True)
