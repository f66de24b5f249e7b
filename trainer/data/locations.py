"""Which files are there at an address? fsspec asks: https://filesystem-spec.readthedocs.io

Names are what the server says: none may lead out of the folder that they are brought to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from conf.locations import EXTRAS, PACKAGES, masked, protocol
from trainer.data import files, patience
from trainer.failure import UserError
from trainer.packages import needed

AT_ONCE = 8
"""Files asked for, or brought, at the same time."""
VERSIONS = ("ETag", "etag", "md5Hash", "generation", "Last-Modified", "LastModified", "last_modified", "mtime")
"""What the protocols call that which changes with a file's content, the best first."""
BY_ONE_SERVICE = ("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
"""Else gcsfs asks another of Google's services, for every file, in what kind of bucket it lies; that one knows neither
anonymous readers nor servers that are not Google's. Zonal buckets need it: the environment may say so."""
WILD = re.compile(r"[*?\[]")
SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
"""A line as sha256sum writes it."""


@dataclass(frozen=True)
class Remote:
    """A file at an address."""

    name: str
    """Below the location, with slashes."""
    path: str
    """As fsspec calls it."""
    size: int | None
    """None where the server does not say."""
    version: str
    """Changes when the content does; empty where the server says nothing."""
    sha256: str = ""
    """As a list of digests has it; empty where there is none."""


@dataclass(frozen=True)
class Location:
    """An address, and what speaks its protocol."""

    address: str
    """Without wildcards."""
    pattern: str
    """Which files below it."""
    system: Any
    """fsspec's file system."""

    @property
    def shown(self) -> str:
        """For messages and cards."""
        return masked(self.address)

    @property
    def name(self) -> str:
        """Of the folder, for the one that its files are brought to."""
        last = unquote((urlsplit(self.address).path if self.is_http else self.address).rstrip("/").rpartition("/")[2])
        return last if last.isprintable() and last not in ("", ".", "..") and "/" not in last else "data"

    @property
    def is_http(self) -> bool:
        return protocol(self.address) in ("http", "https")

    def address_of(self, remote: Remote) -> str:
        """The address of a file of a listing, as who gave this one would write it."""
        whole = self.is_http or remote.path == self.address
        return remote.path if whole else f"{self.address.rstrip('/')}/{remote.name}"

    def is_file(self, listing: Sequence[Remote]) -> bool:
        """Whether the address is that of one file."""
        return len(listing) == 1 and listing[0].path == self.address


def location(path: str, glob: str, options: Mapping[str, Any]) -> Location:
    """The location of a `data.path` that is an address; wildcards in it stand for `glob`.

    Raises UserError when the protocol's package is not installed, or cannot make sense of the credentials it finds.
    """
    address, pattern = _cut(path, glob)
    return Location(address, pattern, _system(path, options))


def on_the_network(path: str, glob: str) -> Location:
    """The location of a `data.path` that this node sees."""
    fsspec = needed("fsspec", "fsspec", "staging.copy", "remote")
    return Location(path, glob, fsspec.filesystem("file", skip_instance_cache=True))


def listed(where: Location, sums: str | None = None) -> list[Remote]:
    """The files there, in order of name. `sums` names a list of digests below it, which says what there is.

    Raises UserError when there is nothing, or it may not be read, or does not answer.
    """
    ask = partial(patience.patiently, where.shown)
    if sums:
        found = ask(partial(_summed, where, sums))
    elif not protocol(where.address):
        seen = files.found(where.address, where.pattern)
        found = [Remote(file.name, str(file.path), file.size, "") for file in seen]
    else:
        top = ask(partial(where.system.info, where.address))
        if top["type"] == "file" and not (where.is_http and str(top.get("url", where.address)).endswith("/")):
            found = [Remote(where.name, where.address, top.get("size"), _version(top))]
        else:
            found = ask(partial(_below, where))
    if not found:
        what = f"no file matches {sums or where.pattern}"
        raise UserError(what, f"data.path: {where.shown}", "check data.path and data.glob")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sorted(pool.map(partial(_known, where), found), key=lambda remote: remote.name)


def matches(pattern: str, name: str) -> bool:
    """Whether pathlib's glob of `pattern` would find `name` below a folder."""
    parts = [_segment(part) for part in pattern.strip("/").split("/")]
    return re.fullmatch("".join(parts).removesuffix("/"), name) is not None


def now(where: Location, remote: Remote) -> Remote:
    """The same file as it is at this moment."""
    info = where.system.info(remote.path)
    return Remote(remote.name, remote.path, info.get("size"), _version(info), remote.sha256)


def _segment(part: str) -> str:
    """A part of a pattern as a regular expression; one of two stars stands for any number of folders."""
    if part == "**":
        return "(?:[^/]+/)*"
    pieces = re.split(r"(\*|\?|\[!?[^\]]+\])", part)
    return "".join(_piece(piece) for piece in pieces) + "/"


def _piece(text: str) -> str:
    if text.startswith("[") and len(text) > 1:
        return text.replace("[!", "[^", 1)
    return {"*": "[^/]*", "?": "[^/]"}.get(text) or re.escape(text)


def _cut(path: str, glob: str) -> tuple[str, str]:
    """An address up to its first part with a wildcard, and the rest, or `glob`. In HTTP a question mark is none."""
    wild = re.compile(r"[*\[]") if protocol(path) in ("http", "https") else WILD
    head, *parts = path.split("/")
    for number, part in enumerate(parts):
        if number > 1 and wild.search(part):
            return "/".join([head, *parts[:number]]) + "/", "/".join(parts[number:])
    return path, glob


def _below(where: Location) -> list[Remote]:
    """Files that match. What a listing says beside names is kept; HTTP's says names alone."""
    depth = None if "**" in where.pattern else where.pattern.strip("/").count("/") + 1
    found: Mapping[str, Any] = where.system.find(where.address, maxdepth=depth, detail=True)
    root = where.system._strip_protocol(where.address).rstrip("/") + "/"
    remotes = []
    for path, info in found.items():
        name = path.removeprefix(root)
        if where.is_http:
            if not path.startswith(root) or "?" in name or "#" in name:
                continue  # a listing's own links: to sort it, or elsewhere
            name = unquote(name)
        if matches(where.pattern, name):
            remotes.append(Remote(_safe(name, where), path, info.get("size"), "" if where.is_http else _version(info)))
    return remotes


def _summed(where: Location, sums: str) -> list[Remote]:
    """The files that a list of digests names."""
    root = where.address.rstrip("/")
    text = where.system.cat_file(f"{root}/{sums}").decode("utf-8", "surrogateescape")
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        seen = SUM.fullmatch(line)
        if not seen:
            what = f"line {number} of {where.shown.rstrip('/')}/{sums} is not a digest and a name"
            raise UserError(what, f"staging.sums: {sums}", "write it with: sha256sum FILES")
        name = _safe(seen[2].removeprefix("./"), where)
        if matches(where.pattern, name):
            found.append(Remote(name, f"{root}/{name}", None, "", seen[1].lower()))
    return found


def _known(where: Location, remote: Remote) -> Remote:
    """With size and version, which some listings do not say."""
    return remote if remote.version else patience.patiently(where.shown, partial(now, where, remote))


def _version(info: Mapping[str, Any]) -> str:
    """Without an ETag's quotation marks, which some clients leave away in listings alone."""
    name = next((name for name in VERSIONS if info.get(name)), "")
    return f"{name} {info[name]}".replace('"', "") if name else ""


def _safe(name: str, where: Location) -> str:
    """Raises UserError for a name that would lie elsewhere."""
    if not name or name.startswith("/") or "\0" in name or {"..", ".", ""} & set(name.split("/")):
        what = f"{where.shown} names a file {name!r}, which would lie outside of its folder"
        raise UserError(what, "data.path", "use another location, or another data.glob")
    return name


def _system(path: str, options: Mapping[str, Any]) -> Any:
    """What speaks the protocol of an address, told who asks by the environment."""
    name, where = protocol(path), f"data.path: {masked(path)}"
    package = PACKAGES[name]
    if package == "gcsfs":
        os.environ.setdefault(*BY_ONE_SERVICE)
    needed(package, package, where, EXTRAS[package])
    fsspec = needed("fsspec", "fsspec", where, "remote")
    try:
        kind = fsspec.get_filesystem_class(name)  # an address of Azure's may say whose account it is in
        known = {**_limits(package), **kind._get_kwargs_from_urls(path)}
        return fsspec.filesystem(name, skip_instance_cache=True, **_merged(known, options))
    except Exception as e:  # before anybody is asked: of credentials that are missing, or malformed
        do = "check the credentials in the environment where you launch, and staging.options"
        raise UserError(f"{masked(path)} may not be read: {patience.reason(e)}", "data.path", do) from None


def _limits(package: str) -> dict[str, Any]:
    """How long each protocol waits, in its own words, and that no listing is kept: it would hide what has changed."""
    connect_s, silent_s = patience.CONNECT_S, patience.SILENT_S
    if package == "s3fs":
        waits = {"connect_timeout": connect_s, "read_timeout": silent_s}
        return {"config_kwargs": waits, "use_listings_cache": False}
    if package == "adlfs":
        return {"connection_timeout": connect_s, "read_timeout": silent_s, "use_listings_cache": False}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=silent_s)
    # Proxies are those that the environment names, as everywhere.
    if package == "gcsfs":
        return {"requests_timeout": timeout, "session_kwargs": {"trust_env": True}, "use_listings_cache": False}
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}, "simple_links": False}


def _merged(ours: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """What the user says, over ours."""
    both = {**ours, **said}
    nested = (name for name in ours if isinstance(ours[name], Mapping) and isinstance(said.get(name), Mapping))
    return {**both, **{name: _merged(ours[name], said[name]) for name in nested}}
