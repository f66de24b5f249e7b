"""The rules of what a run reads from elsewhere: data at an address, and weights to begin with.

As in rules.py: a rule's parameters name the sections it looks at, and check.py finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from conf import locations
from conf.job_schema import Job
from conf.schema import Component, Staging
from conf.train_schema import Train

Finding = tuple[str, str, str]


def location_is_known(data: Component) -> Iterator[Finding]:
    path, glob = data.options.get("path"), data.options.get("glob")
    name = locations.protocol(path) if isinstance(path, str) else ""
    if name and glob is not None and name not in locations.PACKAGES:
        what = f"data.path is {locations.masked(str(path))!r}, whose protocol {name} data cannot be brought by"
        yield what, "data.path", f"use one of: {', '.join(locations.PACKAGES)}; or a path"


def location_shows_no_secrets(data: Component, staging: Staging) -> Iterator[Finding]:
    path = data.options.get("path")
    if isinstance(path, str) and locations.is_remote(path) and locations.has_secrets(path):
        do = (
            "take it out; credentials come from the environment where you launch: AWS_ACCESS_KEY_ID and so on, or "
            """FSSPEC_HTTPS='{"headers": {"Authorization": "Bearer ..."}}'"""
        )
        what = f"data.path is {locations.masked(path)!r}: its password or signature would be written into the run"
        yield what, "data.path", do
    for name in locations.secret_options(staging.options):
        what = f"staging.options.{name} looks like a credential, and would be written into the run"
        do = "take it out, and set it in the environment where you launch, such as AWS_SECRET_ACCESS_KEY"
        yield what, f"staging.options.{name}", do


def staging_stages_something(job: Job, data: Component, staging: Staging) -> Iterator[Finding]:
    path = data.options.get("path")
    remote = isinstance(path, str) and locations.is_remote(path)
    if job.kind != "trainer" and job.data_format is None and staging != Staging():
        yield f"staging is for our trainer, and job.kind is {job.kind!r}", "staging", "leave it out"
    elif staging.copy and not isinstance(path, str):
        yield "staging.copy is true, but these data have no path", "staging.copy", "leave it out"
    elif staging.options and not remote:
        what = "staging.options is given, but data.path is no address"
        yield what, "staging.options", "leave it out, or give an address such as s3://bucket/folder"
    elif staging.sums and not (remote or staging.copy):
        what = "staging.sums is given, but nothing is staged: data.path is no address, and staging.copy is false"
        yield what, "staging.sums", "add staging.copy=true, or leave it out"


def weights_are_there(job: Job, train: Train) -> Iterator[Finding]:
    said = train.start_from
    if job.kind != "trainer" or said is None:
        if train.trust_unverified:
            what = "train.trust_unverified is true, but there is nothing to trust: train.start_from is not given"
            yield what, "train.trust_unverified", "leave it out, or name the weights"
        return
    path = Path(said)
    try:
        there, is_file = path.exists(), path.is_file()
    except OSError:
        there, is_file = False, False
    if not there:
        what = f"train.start_from is {said!r}, and there is no such file or folder"
        yield what, "train.start_from", "give a path that this machine sees"
    elif is_file and path.suffix != ".safetensors":
        what = f"train.start_from is {said!r}, which is no .safetensors file"
        do = "give a .safetensors file, or a folder; pickled files can run code and are not read"
        yield what, "train.start_from", do
