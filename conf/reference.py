"""What names an image in a registry: docker://host/name:tag@digest, oras://host/name:tag. Pure.

Source of the grammar: distribution/reference of the OCI distribution specification, and what Docker Hub leaves out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEMES = ("docker", "oras")
HUB = "docker.io"
HUB_API = "registry-1.docker.io"
HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
NAME = re.compile(rf"{PART}(?:/{PART})*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """An image in a registry."""

    scheme: str
    host: str
    """host or host:port; Docker Hub is docker.io."""
    name: str
    tag: str
    digest: str | None = None
    """Of the manifest; wins over the tag."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/{self.name}:{self.tag}"

    def by(self, digest: str) -> str:
        """The reference that always names this very image."""
        return f"{self.scheme}://{self.host}/{self.name}@{digest}"

    @property
    def api(self) -> str:
        """The host that answers."""
        return HUB_API if self.host == HUB else self.host

    @property
    def stem(self) -> str:
        """How its files in the store begin."""
        return self.name.rpartition("/")[2]


def parse(text: str) -> Reference:
    """Read a reference. Raises ValueError that says what is wrong."""
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        known = " and ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(f"{scheme}:// images are not pulled at launch; {known} are")
    host, separator, path = rest.partition("/")
    if "@" in host:
        raise ValueError("a name or password must not stand in a reference, which is written into the run")
    if not separator or not ("." in host or ":" in host or host == "localhost"):
        host, path = HUB, rest if separator else f"library/{rest}"
    host = HUB if host in ("index.docker.io", HUB_API) else host
    path, at, digest = path.partition("@")
    name, colon, tag = path.partition(":")
    wrong = {
        f"{host!r} is no host": re.fullmatch(HOST, host),
        f"{name!r} is no name of an image (lower-case letters, digits, / . _ -)": NAME.fullmatch(name),
        f"{tag!r} is no tag": not colon or TAG.fullmatch(tag),
        f"{digest!r} is no digest (sha256: and 64 digits)": not at or DIGEST.fullmatch(digest),
    }
    if said := [what for what, fits in wrong.items() if not fits]:
        raise ValueError("; ".join(said))
    return Reference(scheme, host, name, tag or "latest", digest or None)


def masked(text: str) -> str:
    """A reference as it may be shown: without what stands before an @ of its host."""
    return re.sub(r"(?<=://)[^/]*@", "***@", text, count=1)
