"""Where do data lie that are not on a path? Addresses as users write them, and what of them is secret.

Pure, standard library only: the check on the login node and the trainer both ask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

PACKAGES = {
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "gs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
"""Protocol -> the Python package with which fsspec speaks it."""
EXTRAS = {"aiohttp": "remote", "s3fs": "s3", "gcsfs": "gs", "adlfs": "az"}
"""Package -> the extra of Fairlead's that brings it."""
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
VARIABLES = {
    "aiohttp": (),
    "s3fs": (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE",
    ),
    "gcsfs": (
        "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "STORAGE_EMULATOR_HOST",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT",
    ),
    "adlfs": (
        "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_ANON", "AZURE_STORAGE_TENANT_ID", "AZURE_STORAGE_CLIENT_ID",
        "AZURE_STORAGE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET",
    ),
}  # fmt: skip
"""Package -> variables by which it learns who asks and whom."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s'\"<>]+")
"""Of a longer scheme the end: without a limit a word of 128 KiB, which may stand in a command, takes half a minute."""
_SECRET_QUERY = re.compile(r"(?i)\?.*(sig|token|key|secret|credential|passw|auth|[?&]s[vpe]=)")
_SECRET_OPTION = re.compile(r"(?i)key|secret|token|passw|credential|sas|connection_string|auth")


def protocol(path: str) -> str:
    """`s3` of s3://bucket/x; empty of a path on this host."""
    name, separator, _ = path.partition("://")
    return name.lower() if separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", name) else ""


def is_remote(path: str) -> bool:
    """Whether a path is an address that data are brought from."""
    return protocol(path) in PACKAGES


def on_this_host(path: str) -> str:
    """The path of a file:// address; anything else as it is."""
    return unquote(urlsplit(path).path) if protocol(path) == "file" else path


def variables(path: str) -> tuple[str, ...]:
    """The environment that reading an address may need: credentials, proxies, and fsspec's own configuration."""
    name = protocol(path)
    return (*VARIABLES[PACKAGES[name]], f"FSSPEC_{name.upper()}", *PROXIES) if name in PACKAGES else ()


def masked(text: str) -> str:
    """A text without the secrets of the addresses in it: user:password@, and what follows a question mark."""
    return _ADDRESS.sub(lambda found: _masked(found[0]), text)


def has_secrets(path: str) -> bool:
    """Whether an address has a user's name or password in it, or is signed: that must not be written into a run."""
    name, _, rest = path.partition("://")
    place = rest.partition("/")[0]
    return bool(protocol(path)) and (_masked_place(name, place) != place or _SECRET_QUERY.search(path) is not None)


def secret_options(options: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Names of options, also of those below others, that look like credentials."""
    for name, value in options.items():
        if _SECRET_OPTION.search(str(name)):
            yield f"{above}{name}"
        elif isinstance(value, Mapping):
            yield from secret_options(value, f"{above}{name}.")


def _masked(address: str) -> str:
    name, _, rest = address.partition("://")
    place, slash, path = rest.partition("/")
    place = _masked_place(name, place)
    path, question, _ = path.partition("?")
    place, asked, _ = place.partition("?")
    return f"{name}://{place}{'?***' if asked else ''}{slash}{path}{'?***' if question else ''}"


def _masked_place(name: str, place: str) -> str:
    """The part before the path, without who asks. In abfs://container@account that is a container: it stays."""
    who = place.rpartition("@")[0]
    return place if PACKAGES.get(name.lower()) == "adlfs" and ":" not in who else re.sub(r"^.*@", "***@", place)
