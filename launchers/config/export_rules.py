"""The rules of data that are exported for a program which is not our trainer (`job.data_format`).

As in rules.py: a rule's parameters name the sections it looks at, and check.py finds it. The one named at_launch_
asks the exporter itself, in a process of its own that reads no rows, where the data can be seen from here.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from conf import locations
from conf.document import to_document
from conf.job_schema import Job
from conf.schema import Component, Site, Staging
from launchers.command import output_of
from launchers.config.options import kinds, preview
from launchers.errors import CommandError, NoAnswer
from launchers.folders import ROOT

Finding = tuple[str, str, str]
LOOK_S = 60
"""For packages to be imported from a slow disk, and files to be listed; the node says the rest."""
EXPORTED = "table, sql, sklearn, images, or huggingface with data.form=numbers"


def data_can_be_exported(job: Job, data: Component) -> Iterator[Finding]:
    if job.data_format is None:
        return
    said = f"job.data_format is {job.data_format!r}"
    if job.kind == "trainer":
        what = f"{said}, but job.kind is 'trainer', which reads the data itself"
        yield what, "job.data_format", "leave it out, or use job=command, job=script or job=module"
        return
    given = preview(data, ROOT) if data.kind in kinds("data", ROOT) else None
    if given is None or given.export is None:
        kind = data.options.get("_target_") if given is None else data.kind
        form = f" of form {data.options['form']}" if given is not None and "form" in data.options else ""
        what = f"{said}, but data {kind}{form} are neither rows with columns nor files of images"
        do = f"use {EXPORTED}; or leave it out and let the program read the files itself (container.binds)"
        yield what, "job.data_format", do
        return
    if given.export == "files" and job.data_format == "csv":
        what = f"{said}, but data.kind is {data.kind!r}, of which only JSON lines are written, as by Vertex AI"
        do = "use job.data_format=jsonl: each line says where an image is, and its class"
        yield what, "job.data_format", do
    yield from given.mistakes


def exported_files_stay_where_they_are(job: Job, data: Component, staging: Staging) -> Iterator[Finding]:
    """Another node would not find a copy on this one's disk, and when it may go nobody would know."""
    given = preview(data, ROOT) if job.data_format and data.kind in kinds("data", ROOT) else None
    if given is not None and given.export == "files" and staging.copy and job.kind != "trainer":
        what = f"staging.copy is true, but job.data_format={job.data_format} says of {data.kind} where they are"
        yield what, "staging.copy", "leave it out: the program reads them there"


def at_launch_exported_data_are_as_said(job: Job, data: Component, site: Site) -> Iterator[Finding]:
    """A column that is not there, or a package that the host's Python lacks. Data that only nodes see are theirs."""
    path = data.options.get("path")
    if job.data_format is None or job.kind == "trainer" or data.kind not in kinds("data", ROOT):
        return
    given = preview(data, ROOT)
    if given is None or given.export is None or given.mistakes or (given.export, job.data_format) == ("files", "csv"):
        return
    if isinstance(path, str) and (locations.is_remote(path) or not Path(path).exists()):
        return
    yield from _looked_at(site.python or sys.executable, json.dumps(to_document(data), sort_keys=True), job.data_format)


@functools.cache
def _looked_at(python: str, document: str, form: str) -> tuple[Finding, ...]:
    """Once for each data section, however many members share it."""
    argv = (python, "-m", "trainer.export_splits", "--look", document, form)
    try:
        said = output_of(argv, timeout_s=LOOK_S, cwd=ROOT)
    except NoAnswer:  # files are listed that are many; the node has the time
        return ()
    except CommandError as e:
        if python != sys.executable:  # the nodes' own Python may not be here
            return ()
        what = f"the data cannot be looked at with {python}: {(e.output.strip() or e.status).splitlines()[-1]}"
        return ((what, "data", "give the Python that launches what reads the data: pip install 'fairlead[train]'"),)
    return tuple(
        (f"{what} ({where})" if ":" in where else what, where.partition(":")[0], do)
        for what, where, do in json.loads(said)
    )
