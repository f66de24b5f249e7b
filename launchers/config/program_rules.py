"""The rules of what a job runs besides our trainer: that it is said, by the key of its kind, and that it is there.

As in rules.py: a rule's parameters name the sections it looks at, and check.py finds it. Those named at_launch_
look at files of where the command is given; a member of a search, which checks its point on a node, leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from conf.job_schema import Job
from conf.machine_schema import Container
from launchers.errors import SpecError
from launchers.folders import ROOT
from launchers.programs import requirements, source
from launchers.programs.words import OURS
from launchers.run_folder import snapshot

Finding = tuple[str, str, str]
SCRIPTS = ("train.py", "task.py", "main.py")
"""What a script that trains is mostly called."""
OWN = ("command", "script", "module")
KEYS = {
    **{"command": ("command",), "script": ("script",), "module": ("module",), "source": ("module",)},
    **{"requirements": OWN, "wheelhouse": OWN},
}
"""Key of the section job -> the kinds that it belongs to."""
MAX_WORD_BYTES = 128 * 1024 - 1
"""Linux starts no program with a longer argument (execve(2), MAX_ARG_STRLEN)."""


def program_is_said_by_its_kind(job: Job, container: Container) -> Iterator[Finding]:
    for key, kinds in KEYS.items():
        value = getattr(job, key)
        if value and job.kind not in kinds:
            said = " ".join(value) if isinstance(value, tuple) else value
            runs = {"trainer": "our own", "command": "job.command", "script": "job.script"}
            what = f"job.{key} is {said!r}, but job.kind is {job.kind!r}, which runs {runs.get(job.kind, 'a module')}"
            yield what, f"job.{key}", f"use {' or '.join(f'job={kind}' for kind in kinds)}, or leave job.{key} out"
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
    if job.kind in OWN and job.wheelhouse is not None and job.source is None and job.requirements is None:
        what = f"job.wheelhouse is {job.wheelhouse!r}, but there is no job.source and no job.requirements to install"
        yield what, "job.wheelhouse", f"add job.requirements={requirements.NAME} or job.source=FOLDER, or leave it out"
    if job.kind == "command" and not job.command and job.requirements is not None and container.runtime != "none":
        what = (
            f"job.requirements is {job.requirements!r}, but the image's own entry point runs, by whatever Python it has"
        )
        yield what, "job.requirements", "name the program: job.command=[python3,train.py]; or install it in the image"


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
        do = _as_script(Path(job.source)) or do
        yield f"job.source is {job.source!r}, {why}", "job.source", do


def _as_script(folder: Path) -> str:
    """How a folder is run that describes no package, but has a script and what it needs; empty where it has not."""
    here = folder.expanduser()
    if not (here / requirements.NAME).is_file():
        return ""
    scripts = sorted(path.name for path in here.glob("*.py"))
    name = next((name for name in SCRIPTS if name in scripts), scripts[0] if len(scripts) == 1 else SCRIPTS[0])
    words = f"job=script job.script={folder / name} job.requirements={folder / requirements.NAME}"
    return f"run a script of it, and install what stands in {requirements.NAME}: {words}"


def at_launch_requirements_can_be_installed(job: Job) -> Iterator[Finding]:
    if job.kind not in OWN:
        return
    try:
        requirements.of(job)
    except SpecError as e:
        yield from ((problem.what, "job.requirements", problem.do) for problem in e.problems)
    if job.wheelhouse is not None and not source.wheels(Path(job.wheelhouse).expanduser()):
        what = f"job.wheelhouse is {job.wheelhouse!r}, and there is no wheel or source distribution in it"
        given = f"-r {job.requirements}" if job.source is None else "SOURCE"
        yield what, "job.wheelhouse", f"fill it: pip download --dest DIR {given} setuptools wheel"
