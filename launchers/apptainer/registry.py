"""What a registry says of an image: the digest behind a tag, for which processors, how large; and a part of a SIF.

Source: OCI distribution specification («Pulling manifests»), OCI image specification (index, manifest), and the token
authentication of the Docker registry. No client package of the field asks for a digest alone without `requests`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from conf import schema
from conf.reference import HUB, Reference
from launchers.apptainer.made_for import Cards, cards_of
from launchers.errors import SiteError
from launchers.folders import folder_of

INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
DOCUMENTS = {"Accept": ", ".join(INDEXES + MANIFESTS)}
SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
ANSWER_S = 30
MOST_BYTES = 8 * 1024 * 1024
"""Of a manifest or a configuration: twice what registries take."""
USERS = ("~/.apptainer/docker-config.json", "~/.docker/config.json")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One image, for one kind of processors."""

    digest: str
    size: int
    """Bytes to be fetched."""
    sif: str | None
    """sha256 of the SIF, where the registry holds one."""
    workdir: str | None = None
    """Where its entry point starts (WORKDIR), which Apptainer forgets; None where it does not say."""
    cards: Cards | None = None
    """Those that it is made for, as far as it says so; a SIF has to be fetched to be asked."""


def digest_of(ref: Reference, site: schema.Site) -> str:
    """The digest that the reference's tag has now. Raises SiteError when the registry does not say."""
    with _ask(ref, site, "HEAD", f"manifests/{ref.tag}", DOCUMENTS) as answer:
        digest = answer.headers.get("Docker-Content-Digest")
    if digest and digest.startswith("sha256:"):
        return digest
    _, body = _manifest(ref, site, ref.tag)
    return _sha256(body)


def manifest_of(ref: Reference, digest: str, architecture: str, site: schema.Site) -> Manifest:
    """The image of a digest for these processors: of an index the one it names for them.

    Raises SiteError when there is none for them, or what comes is not what the digest says.
    """
    document = _checked(ref, site, digest)
    if "manifests" in document:
        digest = _of_index(ref, document["manifests"], architecture)
        document = _checked(ref, site, digest)
    layers = document.get("layers") or []
    sif = next((layer["digest"] for layer in layers if layer.get("mediaType") == SIF_LAYER), None)
    if (ref.scheme == "oras") != (sif is not None):
        other = "oras" if sif else "docker"
        what = f"{ref} is {'a SIF' if sif else 'no SIF'}, which {ref.scheme}:// cannot name"
        raise SiteError(what, "container.image", f"write {other}://{ref.host}/{ref.name}:{ref.tag}")
    says = {} if sif else _fits(ref, site, document["config"]["digest"], architecture)
    size = sum(int(layer["size"]) for layer in layers if sif in (None, layer["digest"]))
    return Manifest(digest=digest, size=size, sif=sif, workdir=_workdir(says), cards=cards_of(_environment(says)))


def blob(ref: Reference, site: schema.Site, digest: str, begin: int) -> HTTPResponse:
    """A part of an image, from this byte on where the registry can (status 206). Raises SiteError when it refuses."""
    return _ask(ref, site, "GET", f"blobs/{digest}", {"Accept": "*/*", "Range": f"bytes={begin}-"})


def credentials_file(site: schema.Site) -> Path | None:
    """Where the credentials for registries are; None where there are none."""
    if site.registry_auth:
        return folder_of(site.registry_auth)
    return next((path for path in map(folder_of, USERS) if path.is_file()), None)


def _of_index(ref: Reference, entries: list[Mapping[str, Any]], architecture: str) -> str:
    there = {(e.get("platform") or {}).get("architecture"): str(e["digest"]) for e in reversed(entries)}
    if architecture not in there:
        has = ", ".join(sorted(name for name in there if name and name != "unknown"))
        what = f"{ref} has no image for {architecture} processors, only for: {has or 'none'}"
        raise SiteError(
            what, "container.image", "take another tag, or set container.architecture to what the nodes have"
        )
    return there[architecture]


def _fits(ref: Reference, site: schema.Site, config: str, architecture: str) -> Mapping[str, Any]:
    """How a program of it is started. A single manifest says in its configuration alone for which processors it is."""
    with _ask(ref, site, "GET", f"blobs/{config}", {"Accept": "*/*"}) as answer:
        said = json.loads(answer.read(MOST_BYTES))
    made_for = said.get("architecture")
    if made_for and made_for != architecture:
        what = f"{ref} is for {made_for} processors, and has to run on {architecture}"
        raise SiteError(
            what, "container.image", "take another tag, or set container.architecture to what the nodes have"
        )
    says: Mapping[str, Any] = said.get("config") or {}
    return says


def _workdir(says: Mapping[str, Any]) -> str | None:
    workdir = says.get("WorkingDir")
    return workdir if isinstance(workdir, str) and workdir.startswith("/") else None


def _environment(says: Mapping[str, Any]) -> dict[str, str]:
    return dict(str(text).partition("=")[::2] for text in says.get("Env") or ())


def _checked(ref: Reference, site: schema.Site, digest: str) -> dict[str, Any]:
    _, body = _manifest(ref, site, digest)
    if (found := _sha256(body)) != digest:
        what = f"the registry gave a manifest with digest {found}, expected {digest}"
        raise SiteError(what, ref.by(digest), "ask who runs the registry, or what stands between")
    document: dict[str, Any] = json.loads(body)
    return document


def _manifest(ref: Reference, site: schema.Site, which: str) -> tuple[str, bytes]:
    with _ask(ref, site, "GET", f"manifests/{which}", DOCUMENTS) as answer:
        return answer.headers.get_content_type(), answer.read(MOST_BYTES)


def _sha256(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _ask(ref: Reference, site: schema.Site, method: str, what: str, headers: Mapping[str, str]) -> HTTPResponse:
    """A registry's answer, after its challenge was met where it has one. Raises SiteError for anything else."""
    scheme = "http" if ref.host in site.registry_http else "https"
    url = f"{scheme}://{ref.api}/v2/{ref.name}/{what}"
    try:
        try:
            return _open(method, url, headers, None)
        except urllib.error.HTTPError as e:
            challenge = e.headers.get("WWW-Authenticate", "")
            if e.code != 401 or not challenge:
                raise
        return _open(method, url, headers, _authorization(ref, site, challenge))
    except urllib.error.HTTPError as e:
        raise _refused(ref, site, e.code) from None
    except (OSError, HTTPException, ValueError) as e:
        why = getattr(e, "reason", None) or e
        do = "check the host and the network; with container.digest an image that the store has needs no registry"
        if scheme == "https" and "SSL" in str(why).upper():
            do = f"where it speaks plain HTTP: site.registry_http=['{ref.host}']"
        raise SiteError(f"registry {ref.host} does not answer: {why}", str(ref), do) from None


def _refused(ref: Reference, site: schema.Site, code: int) -> SiteError:
    place = credentials_file(site)
    given = f"with the credentials of {place}" if place and _basic(ref, site) else "without credentials"
    if code in (401, 403):
        do = f"apptainer registry login --username NAME oras://{ref.host}, or name the file in site.registry_auth"
        return SiteError(f"registry {ref.host} refuses {ref.name} {given} (HTTP status {code})", str(ref), do)
    if code == 404:
        what = f"registry {ref.host} has no image {ref.name}:{ref.tag}" + (f" @{ref.digest}" if ref.digest else "")
        return SiteError(what, "container.image", "check the name, the tag and the digest")
    do = "try again later" if code in (429, 500, 502, 503, 504) else "check the reference"
    return SiteError(f"registry {ref.host} answers with HTTP status {code}", str(ref), do)


def _open(method: str, url: str, headers: Mapping[str, str], authorization: str | None) -> HTTPResponse:
    """Credentials are for this host alone: where it sends us elsewhere they stay behind."""
    request = urllib.request.Request(url, method=method, headers=dict(headers))
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=ANSWER_S)
    return answer


def _authorization(ref: Reference, site: schema.Site, challenge: str) -> str:
    """The header that meets a challenge: the password itself, or a token that another server gives for it."""
    kind, _, rest = challenge.partition(" ")
    basic = _basic(ref, site)
    if kind.lower() == "basic":
        return f"Basic {basic}" if basic else ""
    asked = urllib.request.parse_keqv_list(urllib.request.parse_http_list(rest))
    realm = asked.pop("realm")
    if urlsplit(realm).scheme != "https" and ref.host not in site.registry_http:
        raise ValueError(f"it asks for credentials over plain HTTP, at {realm}")
    asked.pop("error", None)
    query = urlencode({"scope": f"repository:{ref.name}:pull", **asked})
    with _open("GET", f"{realm}?{query}", {}, f"Basic {basic}" if basic else None) as answer:
        said = json.loads(answer.read(MOST_BYTES))
    return f"Bearer {said.get('token') or said.get('access_token')}"


def _basic(ref: Reference, site: schema.Site) -> str | None:
    """Name and password for a host, as they stand in the file and are sent: from Apptainer's variables, or the file."""
    names = [os.environ.get(f"APPTAINER_DOCKER_{name}") for name in ("USERNAME", "PASSWORD")]
    if all(names):
        return base64.b64encode(":".join(map(str, names)).encode()).decode()
    place = credentials_file(site)
    if place is None:
        return None
    try:
        auths = json.loads(place.read_text(encoding="utf-8")).get("auths") or {}
    except (OSError, ValueError, AttributeError) as e:
        do = "let `apptainer registry login` or `docker login` write it"
        raise SiteError(f"the credentials for registries cannot be read: {type(e).__name__}", str(place), do) from None
    keys = [
        ref.host,
        f"https://{ref.host}",
        f"http://{ref.host}",
        *(["https://index.docker.io/v1/"] * (ref.host == HUB)),
    ]
    return next((str(auths[key]["auth"]) for key in keys if (auths.get(key) or {}).get("auth")), None)
