"""Is a file an image, for these processors, and the one it was? SIF files, and the sha256 of their bytes.

Standard library only: a node verifies with it before a container starts. Which file a run uses is image.py's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import struct
from pathlib import Path

from launchers.errors import SiteError
from launchers.run_folder import record

ARCHITECTURES = {
    b"01": "386", b"02": "amd64", b"03": "arm", b"04": "arm64", b"05": "ppc64", b"06": "ppc64le", b"11": "s390x",
    b"12": "riscv64",
}  # fmt: skip
"""The two digits at byte 45 of a SIF (package sif, pkg/sif/arch.go)."""
HEADER = 128
"""Bytes of a SIF that describe it."""


def digest_of(path: Path, *, fresh: bool = False) -> str:
    """sha256 of a file's bytes, as `sha256:<hex>`.

    Read once and remembered beside the file for as long as its size, time and inode stay the same;
    `fresh` reads it again in any case.
    """
    cache, known_as = cache_of(path), identity(path)
    with contextlib.suppress(SiteError, OSError):
        known = record.read_json(cache)
        if not fresh and isinstance(known, dict) and known.items() >= known_as.items() and "digest" in known:
            return str(known["digest"])
    with path.open("rb") as f:
        digest = f"sha256:{hashlib.file_digest(f, 'sha256').hexdigest()}"
    if identity(path) == known_as:
        with contextlib.suppress(OSError):  # an image in a folder of somebody else's is read each time
            record.write_json(cache, {"digest": digest, **known_as})
    return digest


def verify(path: Path, expected: str | None, architecture: str | None = None, *, fresh: bool = False) -> None:
    """Make sure that an image is there, is a SIF for these processors (None: this host's) and has the digest it must
    have (None: any).

    Raises SiteError, with both digests or architectures, when not. `fresh` reads the whole file, see `digest_of`.
    """
    check(path)
    runs_on(path, architecture or here())
    if expected is not None and (digest := digest_of(path, fresh=fresh)) != expected:
        what = f"image {path.name} has digest {digest}, expected {expected}"
        do = "it is another image, or was changed since: give the file of that digest, or correct container.digest"
        raise SiteError(what, str(path), do)


def check(path: Path) -> None:
    """Make sure that a file is a whole SIF, which starts with a line for the shell, has its magic at byte 32, and at
    byte 112 where its data begin and how long they are (package sif, pkg/sif/sif.go).

    Raises SiteError when not.
    """
    try:
        with path.open("rb") as f:
            head, size = f.read(HEADER), os.fstat(f.fileno()).st_size
    except IsADirectoryError:
        do = f"run `apptainer build NAME.sif {path}` and give NAME.sif"
        raise SiteError(f"image {path.name} is a folder, not a SIF", str(path), do) from None
    except FileNotFoundError:
        raise SiteError(f"there is no image {path.name}", str(path), "check the path, or build it") from None
    except OSError as e:
        raise SiteError(f"image {path.name} cannot be read: {e.strerror}", str(path), "check permissions") from None
    if head[32:41] != b"SIF_MAGIC":
        what = f"image {path.name} is not a SIF: it begins with {head[:16]!r}"
        raise SiteError(what, str(path), "give a file that `apptainer build` or `apptainer pull` made")
    whole = sum(struct.unpack_from("<qq", head, HEADER - 16)) if len(head) == HEADER else 0
    if size < whole:
        what = f"image {path.name} is cut off: it has {size} bytes, and says itself that it has {whole}"
        raise SiteError(what, str(path), "copy, pull or build it again, and see that its disk is not full")


def architecture_of(path: Path) -> str | None:
    """The processors that a SIF is for, by the names that registries use; None where it names none that we know."""
    with path.open("rb") as f:
        return ARCHITECTURES.get(f.read(48)[45:47])


def runs_on(path: Path, architecture: str) -> None:
    """Make sure that a SIF is for these processors. Raises SiteError, with both, when not."""
    made_for = architecture_of(path)
    if made_for not in (None, architecture):
        what = f"image {path.name} is for {made_for} processors, and has to run on {architecture}"
        do = f"take an image for {architecture}, or set container.architecture to what the nodes have"
        raise SiteError(what, str(path), do)


def here() -> str:
    """The processors of this host, by the names that registries use."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def identity(path: Path) -> dict[str, int]:
    """What changes when somebody writes the file anew."""
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def cache_of(image: Path) -> Path:
    """Where the digest of an image is remembered."""
    return image.with_name(f".{image.name}.digest.json")
