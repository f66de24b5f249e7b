"""One maker of an image at a time, on whatever hosts they ask; and what it makes is whole, or not there.

The lock is a file beside the image; a killed maker leaves nothing that would be taken for an image, and what it had
fetched stays for the next. What is made, and how, is image_build.py's and image_pull.py's.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.apptainer import sif
from launchers.apptainer.image import record_of
from launchers.apptainer.waiting import Progress
from launchers.errors import CommandError, SiteError
from launchers.run_folder import record

BUILD_S = 2 * 3600
WAIT_S = 3 * 3600
"""For another who makes the same image: fetching and building together."""
LOOK_S = 0.5


@dataclass(frozen=True)
class Bench:
    """The folders in which one image is made. All but the last two vanish with it."""

    work: Path
    """Beside the final image, because a rename does not cross file systems."""
    scratch: Path
    """Apptainer's own, on a local disk."""
    fetched: Path
    """Wheels, and Apptainer's cache of what it fetched: kept when the making is broken off, removed at its end."""
    log: Path


def make_once(image: Path, progress: Progress, make: Callable[[Bench], None]) -> None:
    """Have an image made, unless it is there or another makes it meanwhile.

    Raises SiteError when its folder cannot be written, and whatever `make` raises; then nothing is left but a log
    and what was fetched.
    """
    local = Path(os.environ.get("APPTAINER_TMPDIR") or tempfile.gettempdir())
    try:
        image.parent.mkdir(parents=True, exist_ok=True)
        with only_maker(image, progress):
            if image.exists():
                return
            remove_leftovers(image, local)
            try:
                work = Path(tempfile.mkdtemp(prefix=f".{image.name}.", dir=image.parent))
                scratch = Path(tempfile.mkdtemp(prefix=_scratch_of(image), dir=local))
                log = image.with_name(f"{image.name}.log")
                log.write_bytes(b"")
                make(Bench(work, scratch, fetched_of(image), log))
            finally:
                remove_leftovers(image, local)
    except OSError as e:
        what = f"image {image.name} cannot be made: {e.strerror or e}"
        raise SiteError(what, str(e.filename or image.parent), "see site.images_dir: access, free space") from e


def _scratch_of(image: Path) -> str:
    """What the names of its scratch folders begin with: of the same image in another store they are others."""
    store = hashlib.sha256(os.fsencode(image.parent.resolve())).hexdigest()[:12]
    return f"fairlead-{image.name}.{store}."


def fetched_of(image: Path) -> Path:
    """Where what was fetched lies while an image is made; of other content it would have another name."""
    return image.with_name(f".{image.name}.fetched")


def publish(made: Path, image: Path, bench: Bench, origin: Mapping[str, Any]) -> None:
    """Digest first, name last: who sees the image has its digest, and nothing else is left to do.

    What its making took is removed before: beside the image then lies nothing that has to go.
    """
    with made.open("rb") as f:
        os.fsync(f.fileno())
        digest = f"sha256:{hashlib.file_digest(f, 'sha256').hexdigest()}"
    aside = made.replace(image.with_name(f".{image.name}.made"))
    for folder in (bench.work, bench.scratch, bench.fetched):
        remove(folder)
    identity = sif.identity(aside)
    built = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    known = {"digest": digest, "size": identity["size"], "built": built, **origin}
    record.write_json(record_of(image), known)
    record.write_json(sif.cache_of(image), {"digest": digest, **identity})
    aside.replace(image)


def run_logged(argv: list[str], bench: Bench, cwd: Path, look: Callable[[], None], do: str = "") -> None:
    """Run a command of an hour, perhaps; what it says goes behind what the log has, and `look` is called now and then.

    Raises CommandError, with the log's last lines and its path, when it fails.
    """
    folders = {"TMPDIR": bench.scratch, "CACHEDIR": bench.fetched}
    env = {f"{who}_{name}": str(path) for who in ("APPTAINER", "SINGULARITY") for name, path in folders.items()}
    with bench.log.open("ab") as log:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        with subprocess.Popen(argv, env={**os.environ, **env}, cwd=cwd, **streams) as process:
            status = _watched(process, look)
    if status != 0:
        how = f"did not end within {BUILD_S} s" if status is None else f"exited with status {status}"
        said = bench.log.read_text(encoding="utf-8", errors="replace")
        raise CommandError(argv, how, said, do=f"{do}; " * bool(do) + f"read the whole log: {bench.log}")


def _watched(process: subprocess.Popen[bytes], look: Callable[[], None]) -> int | None:
    """The exit status of a command, which is ended with us; None where it took too long."""
    end = time.monotonic() + BUILD_S
    try:
        while time.monotonic() < end:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=LOOK_S)
            look()
        return None
    finally:
        process.kill()


@contextlib.contextmanager
def only_maker(image: Path, progress: Progress) -> Iterator[None]:
    """Hold the image's lock, and say who has it while we wait."""
    lock, holder = image.with_name(f"{image.name}.lock"), image.with_name(f".{image.name}.holder")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(record.locked(lock, timeout_s=0))
        except SiteError:
            progress(f"{image.name} is being made by {_holder(holder)}; waiting")
            try:
                held.enter_context(record.locked(lock, timeout_s=WAIT_S))
            except SiteError:
                what = f"{image.name} was not made within {WAIT_S} s by {_holder(holder)}"
                raise SiteError(what, str(lock), "end that process, then launch again") from None
        user = os.environ.get("USER", f"user {os.getuid()}")
        record.write_text(holder, f"{user} on {socket.gethostname()}, process {os.getpid()}")
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return "another process"


def remove_leftovers(image: Path, local: Path) -> None:
    """Everything a maker that was killed may have left, but for what it fetched: only called under the lock.

    If its Apptainer still runs, it now fails for want of its folders, and harms nobody.
    """
    keep = {f".{image.name}.holder", fetched_of(image).name} | ({sif.cache_of(image).name} if image.exists() else set())
    beside = [p for p in image.parent.iterdir() if p.name.startswith((f".{image.name}.", f"..{image.name}."))]
    scratch = [p for p in local.iterdir() if p.name.startswith(_scratch_of(image))]
    for path in (*beside, *scratch):
        with contextlib.suppress(FileNotFoundError):  # another process is just writing a digest
            if path.name not in keep and path.lstat().st_uid == os.getuid():
                remove(path)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        if f" {path}/" not in mounts:  # a bootstrap may have left /proc or /dev mounted inside
            shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
