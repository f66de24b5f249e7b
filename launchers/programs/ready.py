"""Is the program of a job there? Asked at launch, before anything is frozen; a source and requirements are installed
then.

What only a node can answer is left to it: where this host has no Apptainer, or another PATH than the nodes.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from conf import job_schema, machine_schema, schema
from launchers.apptainer.container import Mount
from launchers.apptainer.image import BuiltImage
from launchers.command import output_of
from launchers.errors import CommandError, Problem, SpecError
from launchers.folders import folder_of
from launchers.programs import requirements, source, start
from launchers.programs.interpreter import ASK_S, Interpreter, make_bench
from launchers.programs.layer import Wanted, ensure_installed
from launchers.programs.words import SCRIPTS, Installed
from launchers.run_folder import snapshot

NO_SHELL = '"sh": executable file not found'
"""What Apptainer says of an image that holds one program and nothing beside it."""
LOOK = {
    "word": 'command -v -- "$0" || true',
    "entry": 'test -x "$0" && ! grep -q "There is no runscript defined" "$0" && echo there || true',
}
INTERPRETER = re.compile(r"(.*/)?(python[0-9.]*|(ba|da|k|z)?sh|Rscript|julia|perl|torchrun)")
"""What takes the script that it runs as its first argument."""
ITSELF = re.compile(r"(.*/)?python[0-9.]*")
"""A command that begins with a Python."""
PYTHON = "python3"
"""Of the images that our recipes make."""
RUNSCRIPT = "/.singularity.d/runscript"
"""An image's entry point. Of an image that has none `apptainer run` says so, or starts a shell, and ends well."""


def made_ready(
    spec: schema.Spec, images: Sequence[BuiltImage | None], host_python: str, say: Callable[[str], None]
) -> tuple[Installed | None, ...]:
    """What was installed for each pool of a job, in its image; None where nothing was: its program is seen to be there.

    Raises SpecError where a program, its module or its Python is not there, SiteError where a source or requirements
    cannot be installed.
    """
    scripts_are_frozen(spec)
    looked, ready = list[tuple[job_schema.Job, machine_schema.Container]](), list[Installed | None]()
    for pool, image in zip(spec.pools, images, strict=True):
        job = pool.job or spec.job
        looked.append((job, pool.container))
        if (first := looked.index(looked[-1])) < len(ready):
            ready.append(ready[first])
            continue
        try:
            ready.append(_one_ready(dataclasses.replace(spec, pools=(pool,), job=job), image, host_python, say))
        except SpecError as e:
            where = f"pools.{pool.number}." if pool.number else ""
            raise SpecError([dataclasses.replace(p, where=where + p.where) for p in e.problems]) from None
    return tuple(ready)


def _one_ready(
    spec: schema.Spec, image: BuiltImage | None, host_python: str, say: Callable[[str], None]
) -> Installed | None:
    """As made_ready, of the only pool."""
    job, box = spec.job, spec.pools[0].container
    here = Interpreter(
        python=box.python if image else spec.site.python or host_python,
        image=image.path if image else None,
        apptainer=spec.site.apptainer,
    )
    if job.kind == "trainer":
        _look_for_torch(box, here)
        return None
    asked = image is None or shutil.which(here.apptainer) is not None
    problem = why_no_program(spec, image) if asked else None
    if problem is not None and not may_be_brought(job):
        raise SpecError([problem])
    if (job.kind == "module" and job.source is not None) or job.requirements is not None:
        ready = _installed(spec, _of_the_program(job, here), image.digest if image else "", say)
        if problem is not None and not Path(ready.folder, SCRIPTS, *job.command[:1]).is_file():
            raise SpecError([problem])
        return ready
    if job.kind == "command" or not asked:
        return None
    if image is not None or job.kind == "module":
        with tempfile.TemporaryDirectory(prefix="fairlead-asks-") as bench:
            here.about(Path(bench))
            if job.kind == "module":
                _look_for_module(str(job.module), here, Path(bench), [str(p) for p in snapshot.roots(Path.cwd())])
    return None


def _installed(spec: schema.Spec, here: Interpreter, image_digest: str, say: Callable[[str], None]) -> Installed:
    job, runs_dir = spec.job, folder_of(spec.site.runs_dir)
    house = folder_of(job.wheelhouse) if job.wheelhouse else None
    wanted = Wanted(
        source=source.path_of(job.source) if job.source is not None else None,
        requirements=requirements.of(job),
        wheelhouse=house,
        interpreter=here,
        image_digest=image_digest,
    )
    layer = ensure_installed(wanted, runs_dir, say)
    words: tuple[str, ...] = ()
    if job.kind == "module" and job.module is None:
        words = start.start_of(layer.modules, layer.own, f"job.source={job.source}")
    elif job.module is not None:
        words = ("-m", job.module) if job.source is not None else ()
        project = () if job.source is not None else snapshot.roots(Path.cwd())
        with tempfile.TemporaryDirectory(prefix="fairlead-asks-") as bench:
            _look_for_module(job.module, here, Path(bench), [str(p) for p in (*project, layer.modules)])
    return Installed(folder=str(layer.modules), digest=layer.digest, start=words, packages=layer.packages)


def _of_the_program(job: job_schema.Job, here: Interpreter) -> Interpreter:
    """The Python that a command begins with, if it does: on a host that may be another than ours."""
    word = job.command[0] if job.kind == "command" and job.command else ""
    if not ITSELF.fullmatch(word):
        return here
    if here.image is None:
        word = str(Path(word).absolute()) if "/" in word else shutil.which(word) or word
    return dataclasses.replace(here, python=word)


def _look_for_module(module: str, here: Interpreter, bench: Path, folders: Sequence[str]) -> None:
    make_bench(bench)
    argv = here.argv(["-c", start.LOOK, module, *folders], bench, [Mount(source=f, target=f) for f in folders])
    said = json.loads(output_of(argv, timeout_s=ASK_S, env=here.environment({}), cwd=bench).splitlines()[-1])
    if said["missing"] is not None:
        raise start.missing(module, said["missing"], said["known"], f"job.module, looked for by {here.name}")


def scripts_are_frozen(spec: schema.Spec) -> None:
    """That the script which a command hands to an interpreter comes with the job. One that the image has is named by
    its whole path: a program is started in the project. Raises SpecError with all that do not."""
    commands = dict.fromkeys(job.command for pool in spec.pools if (job := pool.job or spec.job).kind == "command")
    scripts = (command[1] for command in commands if len(command) > 1 and INTERPRETER.fullmatch(command[0]))
    here, problems = Path.cwd(), []
    for script in scripts:
        if script.endswith(snapshot.SCRIPTS) and not script.startswith(("-", "/")):
            why, do = snapshot.why_not_frozen(script, here) or ("", "")
            what = f"the program's script is {script!r}, which {why} in {here}"
            problems += [Problem(what, "job.command", do)] if why else []
    if problems:
        raise SpecError(problems)


def _look_for_torch(box: machine_schema.Container, here: Interpreter) -> None:
    """In an image that is not of one of our recipes, or by another Python: what our trainer begins with."""
    if (
        here.image is None
        or shutil.which(here.apptainer) is None
        or (box.recipe and not box.image and box.python == PYTHON)
    ):
        return
    with tempfile.TemporaryDirectory(prefix="fairlead-asks-") as bench:
        have = here.about(Path(bench))["have"]
    if not any(name.lower().startswith("torch==") for name in have):
        what = f"{here.name} has no torch, which our trainer needs"
        do = "choose container=pytorch-cpu or pytorch-cuda; a program of your own is job=script, command or module"
        raise SpecError([Problem(what, f"container.image={here.image}", do)])


def may_be_brought(job: job_schema.Job) -> bool:
    """Whether its requirements may bring the program that is not there: no interpreter, and no entry point."""
    return job.requirements is not None and bool(job.command) and not ITSELF.fullmatch(job.command[0])


def why_no_program(spec: schema.Spec, image: BuiltImage | None) -> Problem | None:
    """What is wrong with a job's command, which is not there; what its requirements install is not looked at."""
    if spec.job.kind != "command":
        return None
    word = spec.job.command[0] if spec.job.command else ""
    if image is not None and missing_in(image.path, spec.site.apptainer, word):
        what = (
            f"the image has no program {word!r}" if word else "the image has no entry point, and job.command is empty"
        )
        do = "name a program that is in the image, or the path of one that stands in your project"
        return Problem(what, f"job.command, image {image.path.name}", do)
    if image is None and spec.launcher.kind == "local" and "/" not in word and shutil.which(word) is None:
        do = "install it, or write the path of one that stands in your project: job.command=[./program]"
        return Problem(f"there is no program {word!r} on this machine's PATH", "job.command", do)
    return None


def missing_in(image: Path, apptainer: str, word: str) -> bool:
    """Whether an image lacks a program, or with no `word` an entry point. What is named by its path may come with the
    project, and an image without a shell cannot be asked. Raises SiteError where it cannot be started."""
    if "/" in word:
        return False
    inside = [apptainer, "exec", "--contain", "--cleanenv", str(image), "sh", "-c"]
    try:
        asked = [*inside, LOOK["word"] if word else LOOK["entry"], word or RUNSCRIPT]
        return not output_of(asked, timeout_s=ASK_S, do="look at the image with: apptainer inspect").strip()
    except CommandError as e:
        if NO_SHELL not in str(e):
            raise
        return False
