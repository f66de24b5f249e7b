"""The rules of what a job runs besides our trainer: that it is said, by the key of its kind, and that it is there.

As in rules.py: a rule's parameters name the sections it looks at, and check.py finds it. Those named at_launch_
look at files of where the command is given; a member of a search, which checks its point on a node, leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from conf.job_schema import Job
from conf.machine_schema import Container
from launchers.folders import ROOT
from launchers.programs import source
from launchers.programs.words import OURS
from launchers.run_folder import snapshot

Finding = tuple[str, str, str]
KEYS = {"command": "command", "script": "script", "module": "module", "source": "module", "wheelhouse": "module"}
"""Key of the section job -> the kind that it belongs to."""
MAX_WORD_BYTES = 128 * 1024 - 1
"""Linux starts no program with a longer argument (execve(2), MAX_ARG_STRLEN)."""


def program_is_said_by_its_kind(job: Job, container: Container) -> Iterator[Finding]:
    for key, kind in KEYS.items():
        value = getattr(job, key)
        if value and kind != job.kind:
            said = " ".join(value) if isinstance(value, tuple) else value
            runs = {"trainer": "our own", "command": "job.command", "script": "job.script"}
            what = f"job.{key} is {said!r}, but job.kind is {job.kind!r}, which runs {runs.get(job.kind, 'a module')}"
            yield what, f"job.{key}", f"use job={kind}, or leave job.{key} out"
    if job.kind == "trainer" and job.arguments:
        what = f"job.arguments is {' '.join(job.arguments)!r}, but job.kind is 'trainer', which takes none of them"
        yield what, "job.arguments", "use job=command, job=script or job=module, or leave them out"
    yield from _left_out(job, container)


def _left_out(job: Job, container: Container) -> Iterator[Finding]:
    if job.kind == "command" and job.command and not job.command[0].strip():
        what = f"job.kind is 'command', but job.command is {list(job.command)!r}, which names no program"
        yield what, "job.command", "write the program and its arguments: job.command=[python3,train.py]"
    if job.kind == "command" and not job.command and container.runtime == "none":
        what = "job.command names no program, and without a container there is no image whose entry point could run"
        yield what, "job.command", "write job.command=[python3,train.py], or choose a container"
    if job.kind == "script" and not job.script:
        yield "job.kind is 'script', but job.script names no file", "job.script", "write job.script=train.py"
    if job.kind == "module" and not (job.module or job.source):
        what = "job.kind is 'module', but neither job.module nor job.source is given"
        yield what, "job.source", "write job.source=FOLDER, or job.module=my_package.task for one of your project"
    if job.kind == "module" and job.wheelhouse is not None and job.source is None:
        what = f"job.wheelhouse is {job.wheelhouse!r}, but there is no job.source to install"
        yield what, "job.wheelhouse", "add job.source=FOLDER, or leave it out"


def words_can_be_arguments(job: Job) -> Iterator[Finding]:
    for key in ("command", "arguments"):
        for i, word in enumerate(getattr(job, key)):
            length = len(word.encode())
            if length > MAX_WORD_BYTES:
                what = f"job.{key}.{i} has {length} bytes, and Linux starts no program with more than {MAX_WORD_BYTES}"
                yield what, f"job.{key}", "write it into a file of your project, and give the file's name"


def at_launch_script_is_frozen_with_the_job(job: Job) -> Iterator[Finding]:
    """It is in the snapshot that is taken here."""
    if job.kind != "script" or not job.script:
        return
    here, script = Path.cwd(), job.script
    if script.startswith(OURS):
        if not (ROOT / script.removeprefix(OURS)).is_file():
            yield f"job.script is {script!r}, which Fairlead does not have", "job.script", "see conf/experiment/*.py"
        return
    if Path(script).is_absolute():
        what = f"job.script is {script!r}, but a job runs the copy of your project that is made when you launch"
        yield what, "job.script", "launch in the project's folder, and write the path relative to it"
        return
    if missing := snapshot.why_not_frozen(script, here):
        yield f"job.script is {script!r}, which {missing[0]} in {here}", "job.script", missing[1]


def at_launch_source_can_be_installed(job: Job) -> Iterator[Finding]:
    if job.kind != "module":
        return
    if job.source is not None and (why := source.why_none(source.path_of(job.source))):
        do = "give a folder with pyproject.toml or setup.py, a wheel (.whl) or a source distribution (.tar.gz)"
        yield f"job.source is {job.source!r}, {why}", "job.source", do
    if job.wheelhouse is not None and not source.wheels(Path(job.wheelhouse).expanduser()):
        what = f"job.wheelhouse is {job.wheelhouse!r}, and there is no wheel or source distribution in it"
        yield what, "job.wheelhouse", "fill it: pip download --dest DIR SOURCE setuptools wheel"
